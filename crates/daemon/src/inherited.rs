//! What a parent hands down to its workers: the memory of a life, the configuration, and
//! the sockets that must not close when a worker dies.
//!
//! The kernel closes the descriptors of a killed process late. While it does, a socket on
//! the same port would share it with the dead one, and the nftables table belongs to a
//! socket that nobody uses. So these belong to the parent, which only keeps them, and each
//! worker goes on with the same. What arrives in between waits in them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use evenkeel_core::{Incarnation, Moment};
use evenkeel_guard::Claim;
use evenkeel_host::clock;
use evenkeel_host::sys::inherit;
use evenkeel_host::sys::udp::UdpPair;
use rustix::fs::MemfdFlags;
use rustix::process::Pid;

/// Carries it from parent to worker, as numbers with blanks between: counter, nonce,
/// memory, file, lock, both sockets, claim, parent, start (nanoseconds of the boot clock).
pub const WORKER: &str = "EVENKEEL_WORKER";
/// In the place of the claim where there is none.
const NONE: RawFd = -1;

/// The sockets that a parent keeps for its workers, of whatever life.
pub struct Kept {
    sockets: UdpPair,
    /// A witness needs none; without it, the worker says why it has no nftables.
    claim: Option<Claim>,
    /// The text of the configuration.
    file: File,
    /// The state directory's lock: free only when all who have it have ended.
    lock: OwnedFd,
}

impl Kept {
    /// Keeps them, and lets processes that are started from here on inherit them.
    pub fn new(
        sockets: UdpPair,
        claim: Option<Claim>,
        text: &str,
        lock: OwnedFd,
    ) -> std::io::Result<Self> {
        let mut file = File::from(rustix::fs::memfd_create(
            "evenkeel-file",
            MemfdFlags::CLOEXEC,
        )?);
        file.write_all(text.as_bytes())?;
        let kept = Self {
            sockets,
            claim,
            file,
            lock,
        };
        bequeath(&kept.file)?;
        bequeath(&kept.lock)?;
        bequeath(&kept.sockets.control)?;
        bequeath(&kept.sockets.lease)?;
        if let Some(claim) = &kept.claim {
            bequeath(claim)?;
        }
        Ok(kept)
    }

    /// What a worker of this life, with this memory, is told.
    pub fn told(&self, life: Incarnation, memory: &OwnedFd) -> String {
        let Incarnation { counter, nonce } = life;
        format!(
            "{counter} {nonce} {} {} {} {} {} {} {} {}",
            memory.as_raw_fd(),
            self.file.as_raw_fd(),
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
}

/// Leaves a descriptor open in the programs that this process starts.
fn bequeath(descriptor: impl AsFd) -> std::io::Result<()> {
    Ok(rustix::io::fcntl_setfd(
        descriptor,
        rustix::io::FdFlags::empty(),
    )?)
}

/// Where a descriptor of this process can be opened again.
pub fn path_of(descriptor: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{descriptor}"))
}

/// What a worker got.
pub struct Inherited {
    /// The life it belongs to.
    pub incarnation: Incarnation,
    /// The life's memory.
    pub memory: PathBuf,
    /// The text of the configuration.
    pub file: String,
    /// The sockets of the node's address.
    pub sockets: UdpPair,
    /// The guard's claim to its nftables table.
    pub claim: Option<Claim>,
    /// Who started it.
    pub parent: Pid,
    /// When.
    pub started: Moment,
    /// Keeps the memory open under its number.
    _memory: OwnedFd,
    /// Keeps the state directory locked as long as this process lives.
    _lock: OwnedFd,
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
        // Opened anew, since a descriptor's position is shared with all who have it.
        let file = std::fs::read_to_string(path_of(words.descriptor()?.as_raw_fd()))
            .context("failed to read the configuration as the parent has it")?;
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
            file,
            sockets,
            claim,
            parent: Pid::from_raw(words.number()?).with_context(|| words.odd())?,
            started: Moment::from_nanos(words.number()?),
            _memory: memory,
            _lock: lock,
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

    fn kept() -> (Kept, OwnedFd) {
        let address = "127.0.0.1:0".parse().expect("an address");
        let sockets = udp::pair(address).expect("two sockets");
        let memory = std::fs::File::open("/dev/null").expect("it is there");
        let memory = OwnedFd::from(memory);
        let lock = memory.try_clone().expect("a second one");
        let kept = Kept::new(sockets, None, "cluster = 1", lock).expect("kept");
        (kept, memory)
    }

    #[test]
    fn what_is_told_can_be_taken() {
        let life = Incarnation {
            counter: 7,
            nonce: u64::MAX,
        };
        let (kept, memory) = kept();
        let taken = Inherited::take(&kept.told(life, &memory)).expect("taken");
        assert_eq!(taken.incarnation, life);
        assert!(taken.claim.is_none());
        assert_eq!(taken.file, "cluster = 1");
        let again = Inherited::take(&kept.told(life, &memory)).expect("taken again");
        assert_eq!(again.file, taken.file);
        let bound = |socket: &UdpSocket| socket.local_addr().expect("bound");
        assert_eq!(bound(&taken.sockets.control), bound(&kept.sockets.control));
        assert_eq!(bound(&taken.sockets.lease), bound(&kept.sockets.lease));
        let parent = u32::try_from(taken.parent.as_raw_nonzero().get());
        assert_eq!(parent, Ok(std::process::id()));
    }

    #[test]
    fn what_no_parent_says_is_refused() {
        for told in ["", "1", "1 2 x", "1 2 999999 3 4 5 6 7 8 9"] {
            assert!(Inherited::take(told).is_err(), "{told:?}");
        }
    }
}
