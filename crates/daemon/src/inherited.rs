//! What a parent hands down to its workers: the memory of a life, the configuration, and
//! the sockets that must not close when a worker dies.
//!
//! The kernel closes the descriptors of a killed process late. While it does, a socket on
//! the same port would share it with the dead one, and the nftables table belongs to a
//! socket that nobody uses. So these belong to the parent, which only keeps them, and each
//! worker goes on with the same. What arrives in between waits in them.

use std::borrow::Cow;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use evenkeel_core::{Incarnation, Moment};
use evenkeel_guard::Claim;
use evenkeel_host::clock;
use evenkeel_host::sys::inherit;
use evenkeel_host::sys::udp::UdpPair;
use evenkeel_transport::pki::Credentials;
use rustix::fs::MemfdFlags;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::line::{ParentEnd, WorkerEnd};
use crate::prepare::Prepared;

/// Carries it from parent to worker, as numbers with blanks between: counter, nonce,
/// memory, file, lock, both sockets, claim, pipe, board, parent, start (nanoseconds of the
/// boot clock).
pub const WORKER: &str = "EVENKEEL_WORKER";
/// In the place of the claim where there is none.
const NONE: RawFd = -1;

/// The text of a configuration, and certificate and key, as workers get them.
pub struct Text(File);

/// What is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// The text of the configuration.
    pub config: String,
    /// Certificates and key.
    pub credentials: Credentials,
}

/// The same as it is written.
#[derive(Serialize, Deserialize)]
struct HandedForm<'a> {
    config: Cow<'a, str>,
    authority: Cow<'a, str>,
    certificate: Cow<'a, str>,
    key: Cow<'a, str>,
}

impl Text {
    /// One that processes started from here on can read.
    pub fn new(config: &str, credentials: &Credentials) -> std::io::Result<Self> {
        let form = HandedForm {
            config: config.into(),
            authority: (&*credentials.authority).into(),
            certificate: (&*credentials.certificate).into(),
            key: (&*credentials.key).into(),
        };
        let mut file = File::from(rustix::fs::memfd_create(
            "evenkeel-file",
            MemfdFlags::CLOEXEC,
        )?);
        rustix::fs::fchmod(&file, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        file.write_all(&serde_json::to_vec(&form)?)?;
        bequeath(&file)?;
        Ok(Self(file))
    }

    /// The text of what a parent has read.
    pub fn of(prepared: &Prepared) -> std::io::Result<Self> {
        Self::new(prepared.config.text(), &prepared.credentials)
    }

    /// Where other processes of this daemon can read it.
    pub fn path(&self) -> PathBuf {
        path_for_children(&self.0)
    }

    /// What one says. Opened anew, since a descriptor's position is shared with all who have it.
    pub fn read(path: &Path) -> anyhow::Result<Handed> {
        let bytes =
            std::fs::read(path).context("failed to read the configuration as the parent has it")?;
        let form: HandedForm<'_> = serde_json::from_slice(&bytes)
            .context("the configuration as the parent has it makes no sense")?;
        Ok(Handed {
            config: form.config.into_owned(),
            credentials: Credentials {
                authority: form.authority.into_owned(),
                certificate: form.certificate.into_owned(),
                key: form.key.into_owned(),
            },
        })
    }
}

/// The sockets that a parent keeps for its workers, of whatever life.
pub struct Kept {
    sockets: UdpPair,
    /// A witness needs none; without it, the worker says why it has no nftables.
    claim: Option<Claim>,
    /// The state directory's lock: free only when all who have it have ended.
    lock: OwnedFd,
    /// What parent and workers say to each other.
    pub line: ParentEnd,
}

impl Kept {
    /// Keeps them, and lets processes that are started from here on inherit them.
    pub fn new(
        sockets: UdpPair,
        claim: Option<Claim>,
        lock: OwnedFd,
        line: ParentEnd,
    ) -> std::io::Result<Self> {
        let kept = Self {
            sockets,
            claim,
            lock,
            line,
        };
        bequeath(&kept.lock)?;
        bequeath(&kept.sockets.control)?;
        bequeath(&kept.sockets.lease)?;
        for descriptor in kept.line.ends().descriptors() {
            bequeath(descriptor)?;
        }
        if let Some(claim) = &kept.claim {
            bequeath(claim)?;
        }
        Ok(kept)
    }

    /// What a worker of this life, with this memory and this configuration, is told.
    pub fn told(&self, life: Incarnation, memory: &OwnedFd, text: &Text) -> String {
        let Incarnation { counter, nonce } = life;
        let (pipe, board) = self.line.ends().numbers();
        format!(
            "{counter} {nonce} {} {} {} {} {} {} {pipe} {board} {} {}",
            memory.as_raw_fd(),
            text.0.as_raw_fd(),
            self.lock.as_raw_fd(),
            self.sockets.control.as_raw_fd(),
            self.sockets.lease.as_raw_fd(),
            self.claim
                .as_ref()
                .map_or(NONE, |claim| claim.as_fd().as_raw_fd()),
            std::process::id(),
            clock::now().as_nanos()
        )
    }

    /// What the program that takes this one's place is told: the same, and the reading end
    /// of the pipe, left open for it.
    pub fn told_successor(
        &self,
        life: Incarnation,
        memory: &OwnedFd,
        text: &Text,
    ) -> std::io::Result<String> {
        let read = self.line.read_end();
        bequeath(read)?;
        let told = self.told(life, memory, text);
        Ok(format!("{told} {}", read.as_raw_fd()))
    }
}

/// What a parent got that goes on in the place of another program.
pub struct Succession {
    /// The life that goes on.
    pub incarnation: Incarnation,
    /// Its memory.
    pub memory: OwnedFd,
    /// Configuration, certificates and key.
    pub handed: Handed,
    /// The state directory's lock.
    pub lock: OwnedFd,
    /// The sockets.
    pub kept: Kept,
}

impl Succession {
    /// Takes what the program before this one said. Within a runtime.
    pub fn take(told: &str) -> anyhow::Result<Self> {
        let inherited = Inherited::take(told)?;
        let read = told.rsplit(' ').next().and_then(|word| word.parse().ok());
        let read = inherit::descriptor(read.context("no reading end is named")?)
            .context("failed to take the reading end of the pipe")?;
        let memory = inherited.own_memory;
        bequeath(&memory)?;
        let lock = inherited.lock.try_clone()?;
        let line = ParentEnd::of(read, inherited.line)?;
        Ok(Self {
            incarnation: inherited.incarnation,
            memory,
            handed: inherited.handed,
            lock: inherited.lock,
            kept: Kept::new(inherited.sockets, inherited.claim, lock, line)?,
        })
    }
}

/// Leaves a descriptor open in the programs that this process starts.
pub fn bequeath(descriptor: impl AsFd) -> std::io::Result<()> {
    Ok(rustix::io::fcntl_setfd(
        descriptor,
        rustix::io::FdFlags::empty(),
    )?)
}

/// Where a descriptor of this process can be opened again.
pub fn path_of(descriptor: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{descriptor}"))
}

/// The same for processes that this one starts, whether or not they inherit it.
pub fn path_for_children(descriptor: impl AsFd) -> PathBuf {
    let number = descriptor.as_fd().as_raw_fd();
    PathBuf::from(format!("/proc/{}/fd/{number}", std::process::id()))
}

/// What a worker got.
pub struct Inherited {
    /// The life it belongs to.
    pub incarnation: Incarnation,
    /// The life's memory.
    pub memory: PathBuf,
    /// Configuration, certificates and key.
    pub handed: Handed,
    /// The sockets of the node's address.
    pub sockets: UdpPair,
    /// The guard's claim to its nftables table.
    pub claim: Option<Claim>,
    /// Who started it.
    pub parent: Pid,
    /// When.
    pub started: Moment,
    /// The way to the parent.
    pub line: WorkerEnd,
    /// Keeps the memory open under its number.
    own_memory: OwnedFd,
    /// Keeps the state directory locked as long as this process lives.
    lock: OwnedFd,
}

impl Inherited {
    /// Takes what a parent's words describe.
    pub fn take(told: &str) -> anyhow::Result<Self> {
        let mut words = Words(told.split(' '), told);
        let incarnation = Incarnation {
            counter: words.number()?,
            nonce: words.number()?,
        };
        let memory = words.descriptor()?;
        let handed = Text::read(&path_of(words.descriptor()?.as_raw_fd()))?;
        let lock = words.descriptor()?;
        let sockets = UdpPair {
            control: words.descriptor()?.into(),
            lease: words.descriptor()?.into(),
        };
        let claim = match words.number()? {
            NONE => None,
            claim => {
                let socket = inherit::descriptor(claim).context("failed to take the claim")?;
                Some(Claim::inherited(socket).context("failed to take the claim")?)
            }
        };
        Ok(Self {
            incarnation,
            memory: path_of(memory.as_raw_fd()),
            handed,
            sockets,
            claim,
            line: WorkerEnd::of(words.descriptor()?, words.descriptor()?)?,
            parent: Pid::from_raw(words.number()?).with_context(|| words.odd())?,
            started: Moment::from_nanos(words.number()?),
            own_memory: memory,
            lock,
        })
    }
}

/// What the parent said, word by word.
struct Words<'a>(std::str::Split<'a, char>, &'a str);

impl Words<'_> {
    fn odd(&self) -> String {
        format!("{WORKER} is not what a parent says: {:?}", self.1)
    }

    fn number<N: FromStr>(&mut self) -> anyhow::Result<N> {
        let word = self.0.next().and_then(|word| word.parse().ok());
        word.with_context(|| self.odd())
    }

    fn descriptor(&mut self) -> anyhow::Result<OwnedFd> {
        let number = self.number()?;
        inherit::descriptor(number)
            .with_context(|| format!("failed to take descriptor {number} of the parent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    use evenkeel_host::sys::udp;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    }

    fn text(config: &str) -> Text {
        let credentials = Credentials {
            authority: "authority".to_owned(),
            certificate: "certificate".to_owned(),
            key: "key".to_owned(),
        };
        Text::new(config, &credentials).expect("a text")
    }

    fn kept() -> (Kept, OwnedFd) {
        let address = "127.0.0.1:0".parse().expect("an address");
        let sockets = udp::pair(address).expect("two sockets");
        let memory = std::fs::File::open("/dev/null").expect("it is there");
        let memory = OwnedFd::from(memory);
        let lock = memory.try_clone().expect("a second one");
        let kept = Kept::new(sockets, None, lock, ParentEnd::new().expect("a line")).expect("kept");
        (kept, memory)
    }

    #[test]
    fn what_is_told_can_be_taken() {
        let life = Incarnation {
            counter: 7,
            nonce: u64::MAX,
        };
        let runtime = runtime();
        let _inside = runtime.enter();
        let (kept, memory) = kept();
        let text = text("cluster = 1");
        let taken = Inherited::take(&kept.told(life, &memory, &text)).expect("taken");
        assert_eq!(taken.incarnation, life);
        assert!(taken.claim.is_none());
        assert_eq!(taken.handed.config, "cluster = 1");
        assert_eq!(taken.handed.credentials.key, "key");
        let again = Inherited::take(&kept.told(life, &memory, &text)).expect("taken again");
        assert_eq!(again.handed, taken.handed);
        assert_eq!(Text::read(&text.path()).expect("read"), taken.handed);
        let bound = |socket: &UdpSocket| socket.local_addr().expect("bound");
        assert_eq!(bound(&taken.sockets.control), bound(&kept.sockets.control));
        assert_eq!(bound(&taken.sockets.lease), bound(&kept.sockets.lease));
        let parent = u32::try_from(taken.parent.as_raw_nonzero().get());
        assert_eq!(parent, Ok(std::process::id()));
    }

    #[test]
    fn what_a_successor_is_told_can_be_taken_and_handed_down_again() {
        let life = Incarnation {
            counter: 8,
            nonce: 1,
        };
        let runtime = runtime();
        let _inside = runtime.enter();
        let (kept, memory) = kept();
        let text = text("cluster = 2");
        let told = kept.told_successor(life, &memory, &text).expect("told");
        let next = Succession::take(&told).expect("taken");
        assert_eq!(
            (next.incarnation, next.handed.config.as_str()),
            (life, "cluster = 2")
        );
        let told = next.kept.told(life, &next.memory, &text);
        let worker = Inherited::take(&told).expect("taken by a worker");
        let bound = |socket: &UdpSocket| socket.local_addr().expect("bound");
        assert_eq!(bound(&worker.sockets.lease), bound(&kept.sockets.lease));
    }

    #[test]
    fn what_no_parent_says_is_refused() {
        for told in ["", "1", "1 2 x", "1 2 999999 3 4 5 6 7 8 9 10 11"] {
            assert!(Inherited::take(told).is_err(), "{told:?}");
        }
    }
}
