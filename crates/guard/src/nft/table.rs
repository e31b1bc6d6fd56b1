//! The table itself: made, claimed again, verified, made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::GroupId;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use super::hold::{self, Hold, add_held};
use super::rules::{
    self, ATTEMPTS4, ATTEMPTS6, EGRESS, EGRESS_RULES, FIXED_OBJECTS, GUARDED4, GUARDED6, INGRESS,
    INGRESS_RULES, Verdict,
};
use super::words::{
    Batch, ENTRY, GROUP_NFTABLES, HEAD, TABLE, VALUE, Verb, chain, element, request, table,
};
use crate::GuardError;
use crate::device::Device;
use crate::netlink::{Message, Port, Read, Writer, attributes, find, flag, read_number, read_text};

/// `NFT_TABLE_F_PERSIST`: what is left of [`OWNED`] when the owner has died. Until the
/// next process claims the table, others can take it away; eBPF enforces meanwhile.
const ORPHANED: u32 = 4;
/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`.
const OWNED: u32 = 2 | ORPHANED;

/// Before whatever else hooks there.
const PRIORITY: i32 = -500;

/// How many addresses are changed in one step: as many as fit into one attribute of
/// 64 KiB, with room.
const ADDRESSES_PER_BATCH: usize = 500;

/// The requests of the keeper; above them are those of the hot handle.
const SEQUENCE_MAX: u32 = 0x7fff_ffff;

/// Whether the table belongs to its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// Owned and persistent; without owner where the kernel does not know that.
    IfPossible,
    /// Never: for tests of what older kernels leave to us.
    #[cfg_attr(not(test), expect(dead_code, reason = "what only tests ask for"))]
    Never,
}

/// A guarded address and its group; [`CLOSED`] if it belongs to none.
pub(crate) type Guarded = BTreeMap<IpAddr, GroupId>;

/// The group that is never held.
pub(crate) const CLOSED: GroupId = GroupId(0);

/// What the table should contain when it is made anew.
pub(crate) struct Content<'a> {
    /// The guarded addresses.
    pub(crate) guarded: &'a Guarded,
    /// The groups that are held, and for how long yet.
    pub(crate) held: &'a [(GroupId, Duration)],
    /// The devices.
    pub(crate) devices: &'a [Device],
}

/// What a verification found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// All there; so many devices were covered newly.
    Whole(usize),
    /// The table, or a part that is not a device's chain, is missing or changed.
    Broken,
}

/// The table of one guard.
pub(crate) struct Table {
    name: String,
    flags: u32,
    /// Owns the table. The hot handle sends through it, too; only we read.
    port: Arc<Port>,
    /// Asks: dumps would mix with the answers to the hot handle.
    questions: Port,
    /// Hears what others do to a table that is not owned.
    news: Option<Port>,
    sequence: u32,
    broken: bool,
    hooked: BTreeSet<String>,
    /// The groups that have a chain. It stays until the table is made anew: groups are
    /// few, and come back.
    groups: BTreeSet<GroupId>,
}

/// A device chain as the kernel has it.
struct FoundChain {
    device: Option<String>,
    uses: u32,
}

impl Table {
    /// Claims the table `name` that an earlier process left, with the addresses in it,
    /// or makes it new and empty.
    pub(crate) fn open(
        name: &str,
        ownership: Ownership,
        port: Arc<Port>,
    ) -> Result<(Self, Guarded), GuardError> {
        let failed = |error| GuardError::kernel("open a netfilter socket", error);
        let mut new = Self {
            name: name.to_owned(),
            flags: OWNED,
            port,
            questions: Port::open(NETLINK_NETFILTER, 0).map_err(failed)?,
            news: None,
            sequence: 0,
            broken: false,
            hooked: BTreeSet::new(),
            groups: BTreeSet::new(),
        };
        // Answers to a process before this one: they are not ours.
        let _ = new.port.drain(|_| Read::More);
        let found = new.look()?;
        if let Some(found) = &found {
            new.refuse_foreign(found)?;
        }
        let adopted = match (found, ownership) {
            (None, _) => false,
            (Some(found), Ownership::Never) => {
                new.flags = 0;
                new.adopt(&found)?
            }
            (Some(found), Ownership::IfPossible) => {
                // A table that was never owned was made by a kernel that knows no
                // better, the same that runs now.
                new.flags = if found.flags == 0 { 0 } else { OWNED };
                new.adopt(&found)?
            }
        };
        if !adopted {
            new.make_empty(ownership)?;
        }
        if new.flags != OWNED {
            new.news = Some(Port::open(NETLINK_NETFILTER, GROUP_NFTABLES).map_err(failed)?);
        }
        let chains = new.chains().map_err(|error| new.failed("read", error))?;
        new.groups = chains
            .keys()
            .filter_map(|name| rules::group_of(name))
            .collect();
        let guarded = new.guarded()?;
        Ok((new, guarded))
    }

    /// Two processes that both think the table theirs would be a fault of the daemon.
    fn refuse_foreign(&self, found: &Found) -> Result<(), GuardError> {
        match found.owner {
            Some(owner) if owner != self.port.number() => Err(GuardError::InUse {
                table: self.name.clone(),
                owner,
            }),
            _ => Ok(()),
        }
    }

    /// Takes the table over as it is, if this version made it; false if it must be made
    /// anew.
    fn adopt(&mut self, found: &Found) -> Result<bool, GuardError> {
        let expected = match (self.flags, found.owner) {
            // The process before this one had the same socket.
            (OWNED, Some(_)) => OWNED,
            (OWNED, None) => ORPHANED,
            (flags, _) => flags,
        };
        if found.flags != expected || found.fingerprint != Some(self.fingerprint()) {
            return Ok(false);
        }
        let mut batch = Batch::new(self.next());
        self.add_table(&mut batch);
        match self.transact(batch) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                Ok(false)
            }
            Err(error) => Err(self.failed("claim", error)),
        }
    }

    fn make_empty(&mut self, ownership: Ownership) -> Result<(), GuardError> {
        let empty = Content {
            guarded: &Guarded::new(),
            held: &[],
            devices: &[],
        };
        self.flags = match ownership {
            Ownership::IfPossible => OWNED,
            Ownership::Never => 0,
        };
        match self.make(&empty) {
            Err(error)
                if self.flags == OWNED
                    && error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) =>
            {
                self.flags = 0;
                self.make(&empty)
            }
            answer => answer,
        }
        .map_err(|error| self.failed("make", error))
    }

    fn failed(&self, what: &str, error: io::Error) -> GuardError {
        GuardError::kernel(format!("{what} the nftables table {}", self.name), error)
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence % SEQUENCE_MAX + 1;
        self.sequence
    }

    /// The hot handle's part.
    pub(crate) fn hold(&self) -> Hold {
        Hold::new(Arc::clone(&self.port), &self.name)
    }

    /// Sockets that are readable when a verification is due.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Port> {
        std::iter::once(&*self.port).chain(self.news.as_ref())
    }

    fn add_table(&self, batch: &mut Batch) {
        batch.add(Verb::NewTable, |writer| {
            writer.text(table::NAME, &self.name);
            writer.number(table::FLAGS, self.flags);
            writer.attribute(table::USERDATA, &self.fingerprint());
        });
    }

    /// Tells tables of other versions from ours: a digest of all rules.
    fn fingerprint(&self) -> [u8; 8] {
        let mut batch = Batch::new(0);
        rules::add_all(&mut batch, "");
        crate::settings::digest(&batch.finish()).to_be_bytes()
    }

    /// Carries out a batch; the kernel has answered when `send` returns.
    fn transact(&mut self, batch: Batch) -> io::Result<()> {
        let sequence = batch.sequence();
        self.port.send(&batch.finish())?;
        let mut failure = None;
        self.read_answers(|message| {
            if message.sequence == sequence {
                failure = failure.or(message.verdict().filter(|code| *code != 0));
            }
        });
        failure.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(-code)))
    }

    /// Reads all answers on the common socket. A refresh of the hot handle that failed
    /// means that part of the table is missing; so may answers that were lost.
    fn read_answers(&mut self, mut each: impl FnMut(&Message<'_>)) {
        let mut broken = false;
        let answer = self.port.drain(|message| {
            broken |= message.sequence == hold::REFRESH && message.verdict() != Some(0);
            each(&message);
            Read::More
        });
        self.broken |= broken || answer.is_err();
    }

    /// Makes the table anew, in one step, without whatever was there.
    pub(crate) fn make(&mut self, content: &Content<'_>) -> io::Result<()> {
        if let Some(found) = self.look().map_err(io::Error::other)? {
            let mut batch = Batch::new(self.next());
            // What an earlier process owned has to be claimed before it can be deleted.
            add_claim_and_delete(&mut batch, &self.name, &found);
            self.write(&mut batch, content);
            self.transact(batch)?;
        } else {
            let mut batch = Batch::new(self.next());
            self.write(&mut batch, content);
            self.transact(batch)?;
        }
        self.broken = false;
        self.groups.clear();
        self.hooked = content.devices.iter().flat_map(device_chains).collect();
        let all: Vec<_> = content
            .guarded
            .iter()
            .map(|(address, group)| (*address, None, Some(*group)))
            .collect();
        self.change(&all)
    }

    fn write(&self, batch: &mut Batch, content: &Content<'_>) {
        self.add_table(batch);
        rules::add_all(batch, &self.name);
        for (group, span) in content.held {
            add_held(batch, &self.name, *group, *span);
        }
        for device in content.devices {
            self.add_hooks(batch, device);
        }
    }

    fn add_hooks(&self, batch: &mut Batch, device: &Device) {
        const NF_NETDEV_INGRESS: u32 = 0;
        const NF_NETDEV_EGRESS: u32 = 1;
        const NF_ACCEPT: u32 = 1;
        let [ingress, egress] = device_chains(device);
        for (name, target, hook) in [
            (ingress, INGRESS, NF_NETDEV_INGRESS),
            (egress, EGRESS, NF_NETDEV_EGRESS),
        ] {
            batch.add(Verb::NewChain, |writer| {
                writer.text(TABLE, &self.name);
                writer.text(chain::NAME, &name);
                writer.nest(chain::HOOK, |writer| {
                    writer.number(chain::HOOK_NUMBER, hook);
                    writer.attribute(chain::HOOK_PRIORITY, &PRIORITY.to_be_bytes());
                    writer.text(chain::HOOK_DEVICE, &device.name);
                });
                writer.number(chain::POLICY, NF_ACCEPT);
                writer.text(chain::TYPE, "filter");
            });
            rules::add_jump(batch, &self.name, &name, target);
        }
    }

    /// Changes the group of addresses: from the first (if it was guarded) to the second
    /// (if it is to be guarded).
    pub(crate) fn change(
        &mut self,
        changes: &[(IpAddr, Option<GroupId>, Option<GroupId>)],
    ) -> io::Result<()> {
        for some in changes.chunks(ADDRESSES_PER_BATCH) {
            let mut batch = Batch::new(self.next());
            let new: BTreeSet<GroupId> = some
                .iter()
                .filter_map(|(.., group)| *group)
                .filter(|group| *group != CLOSED && !self.groups.contains(group))
                .collect();
            for group in &new {
                rules::add_group(&mut batch, &self.name, *group);
            }
            for map in [GUARDED4, GUARDED6] {
                let of_map = || some.iter().filter(|(address, ..)| map_of(*address) == map);
                let old = of_map().filter_map(|(a, old, _)| old.map(|_| (*a, None)));
                self.add_elements(&mut batch, Verb::DelElement, map, old);
                let new = of_map().filter_map(|(a, _, new)| new.map(|group| (*a, Some(group))));
                self.add_elements(&mut batch, Verb::NewElement, map, new);
            }
            self.transact(batch)?;
            self.groups.extend(new);
        }
        Ok(())
    }

    fn add_elements(
        &self,
        batch: &mut Batch,
        verb: Verb,
        map: &str,
        elements: impl Iterator<Item = (IpAddr, Option<GroupId>)>,
    ) {
        let mut elements = elements.peekable();
        if elements.peek().is_none() {
            return;
        }
        batch.add(verb, |writer| {
            writer.text(TABLE, &self.name);
            writer.text(element::SET, map);
            writer.nest(element::LIST, |writer| {
                for (address, group) in elements {
                    writer.nest(ENTRY, |writer| write_guarded(writer, address, group));
                }
            });
        });
    }

    /// Attempts to connect to `addresses` are dropped for `span` from now on; with `None`
    /// no longer.
    pub(crate) fn hold_attempts(
        &mut self,
        addresses: &[IpAddr],
        span: Option<Duration>,
    ) -> io::Result<()> {
        for some in addresses.chunks(ADDRESSES_PER_BATCH) {
            let mut batch = Batch::new(self.next());
            for set in [ATTEMPTS4, ATTEMPTS6] {
                let of_set: Vec<IpAddr> = some
                    .iter()
                    .copied()
                    .filter(|address| address.is_ipv4() == (set == ATTEMPTS4))
                    .collect();
                if of_set.is_empty() {
                    continue;
                }
                // Made, deleted, made again: one that is there keeps its time on some
                // kernels, and one that is not there cannot be deleted.
                let time = Some(span.unwrap_or(hold::TIMEOUT_MIN));
                self.add_attempts(&mut batch, Verb::NewElement, set, &of_set, time);
                self.add_attempts(&mut batch, Verb::DelElement, set, &of_set, None);
                if span.is_some() {
                    self.add_attempts(&mut batch, Verb::NewElement, set, &of_set, span);
                }
            }
            self.transact(batch)?;
        }
        Ok(())
    }

    /// No attempt is dropped any more, whoever began to.
    pub(crate) fn flush_attempts(&mut self) -> io::Result<()> {
        let mut batch = Batch::new(self.next());
        for set in [ATTEMPTS4, ATTEMPTS6] {
            // Without elements it means all of them.
            batch.add(Verb::DelElement, |writer| {
                writer.text(TABLE, &self.name);
                writer.text(element::SET, set);
            });
        }
        self.transact(batch).map(drop)
    }

    fn add_attempts(
        &self,
        batch: &mut Batch,
        verb: Verb,
        set: &str,
        addresses: &[IpAddr],
        span: Option<Duration>,
    ) {
        batch.add(verb, |writer| {
            writer.text(TABLE, &self.name);
            writer.text(element::SET, set);
            writer.nest(element::LIST, |writer| {
                for address in addresses {
                    writer.nest(ENTRY, |writer| {
                        write_key(writer, *address);
                        if let Some(span) = span {
                            // Zero would be for ever.
                            let span = span.max(hold::TIMEOUT_MIN);
                            let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 2);
                            writer.attribute(element::TIMEOUT, &millis.to_be_bytes());
                        }
                    });
                }
            });
        });
    }

    /// The table as the kernel has it.
    fn look(&self) -> Result<Option<Found>, GuardError> {
        look(&self.questions, &self.name)
    }

    /// The addresses in the table.
    fn guarded(&self) -> Result<Guarded, GuardError> {
        let mut found = Guarded::new();
        for map in [GUARDED4, GUARDED6] {
            let ask = request(Verb::GetElement, flag::DUMP, |writer| {
                writer.text(TABLE, &self.name);
                writer.text(element::SET, map);
            });
            self.questions
                .dump(&ask, |message| found.extend(read_guarded(message.body)))
                .map_err(|error| self.failed("read", error))?;
        }
        Ok(found)
    }

    /// All chains of the table.
    fn chains(&self) -> io::Result<BTreeMap<String, FoundChain>> {
        chains(&self.questions, &self.name)
    }

    /// Looks whether all is there, and covers new devices.
    pub(crate) fn verify(&mut self, devices: &[Device]) -> io::Result<Condition> {
        self.read_answers(|_| {});
        self.read_news();
        let Some(found) = self.look().map_err(io::Error::other)? else {
            return Ok(Condition::Broken);
        };
        let chains = self.chains()?;
        let hooks = chains.keys().filter(|name| is_device_chain(name)).count() as u32;
        // Each of the common chains is used by its rules and by one jump from each of the
        // device's chains.
        let whole = |name: &str, rules: u32| {
            chains
                .get(name)
                .is_some_and(|found| found.uses == rules + hooks / 2)
        };
        let owner = (self.flags == OWNED).then_some(self.port.number());
        if self.broken
            || found.flags != self.flags
            || found.owner != owner
            || found.uses != FIXED_OBJECTS + hooks + self.groups.len() as u32
            || !whole(INGRESS, INGRESS_RULES)
            || !whole(EGRESS, EGRESS_RULES)
        {
            return Ok(Condition::Broken);
        }
        self.cover(devices, &chains)
    }

    /// Makes the chains of new devices, and removes those of devices that are gone or
    /// were renamed.
    fn cover(
        &mut self,
        devices: &[Device],
        chains: &BTreeMap<String, FoundChain>,
    ) -> io::Result<Condition> {
        let covered = |device: &Device| {
            device_chains(device).iter().all(|name| {
                chains.get(name).is_some_and(|found| {
                    found.uses == 1 && found.device.as_deref() == Some(device.name.as_str())
                })
            })
        };
        let mut count = 0;
        for device in devices.iter().filter(|device| !covered(device)) {
            let lost = device_chains(device)
                .iter()
                .any(|name| self.hooked.contains(name));
            let mut batch = Batch::new(self.next());
            for name in device_chains(device)
                .iter()
                .filter(|name| chains.contains_key(*name))
            {
                self.add_delete_chain(&mut batch, name);
            }
            self.add_hooks(&mut batch, device);
            match self.transact(batch) {
                Ok(()) => count += usize::from(!lost),
                // It has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
        }
        self.hooked = devices.iter().flat_map(device_chains).collect();
        let stale = |name: &&String| is_device_chain(name) && !self.hooked.contains(*name);
        for name in chains.keys().filter(stale).cloned().collect::<Vec<_>>() {
            let mut batch = Batch::new(self.next());
            self.add_delete_chain(&mut batch, &name);
            // The kernel may have been faster.
            let _ = self.transact(batch);
        }
        Ok(Condition::Whole(count))
    }

    fn add_delete_chain(&self, batch: &mut Batch, name: &str) {
        batch.add(Verb::DelChain, |writer| {
            writer.text(TABLE, &self.name);
            writer.text(chain::NAME, name);
        });
    }

    /// The next verification makes the table anew.
    pub(crate) fn distrust(&mut self) {
        self.broken = true;
    }

    /// Others changed our table: only possible where it is not owned.
    fn read_news(&mut self) {
        let (name, own) = (self.name.clone(), self.port.number());
        let mut changed = false;
        let Some(news) = &self.news else { return };
        let answer = news.drain(|message| {
            let body = message.body.get(HEAD.len()..).unwrap_or_default();
            let ours = read_text(body, TABLE) == Some(name.as_str());
            // The kernel itself (port 0) removes chains of devices that are gone.
            changed |= ours && message.port != own && message.port != 0;
            Read::More
        });
        // Too many news to hear them all: ours may have been among them.
        self.broken |= changed || answer.is_err();
    }

    /// Holds no longer what was held too long by [`Table::make`].
    pub(crate) fn drop_held(&mut self, group: GroupId) {
        self.hold().delete(group);
    }

    /// Takes the table away.
    pub(crate) fn uninstall(mut self) -> Result<(), GuardError> {
        let Some(found) = self.look()? else {
            return Ok(());
        };
        let mut batch = Batch::new(self.next());
        add_claim_and_delete(&mut batch, &self.name, &found);
        self.transact(batch)
            .map_err(|error| self.failed("delete", error))
    }
}

fn chains(port: &Port, table: &str) -> io::Result<BTreeMap<String, FoundChain>> {
    let mut found = BTreeMap::new();
    let ask = request(Verb::GetChain, flag::DUMP, |_| {});
    port.dump(&ask, |message| {
        let body = message.body.get(HEAD.len()..).unwrap_or_default();
        if read_text(body, TABLE) == Some(table)
            && let Some(name) = read_text(body, chain::NAME)
        {
            let uses = read_number(body, chain::USE).unwrap_or(0);
            found.insert(
                name.to_owned(),
                FoundChain {
                    device: hook_device(body),
                    uses,
                },
            );
        }
    })?;
    Ok(found)
}

/// Takes away the table `name` that an earlier process left, if there is one.
pub(crate) fn delete(name: &str) -> Result<(), GuardError> {
    let failed =
        |error: io::Error| GuardError::kernel(format!("delete the nftables table {name}"), error);
    let port = Port::open(NETLINK_NETFILTER, 0).map_err(failed)?;
    let Some(found) = look(&port, name)? else {
        return Ok(());
    };
    let mut batch = Batch::new(1);
    add_claim_and_delete(&mut batch, name, &found);
    port.dump(&batch.finish(), |_| {}).map_err(failed)
}

fn add_claim_and_delete(batch: &mut Batch, name: &str, found: &Found) {
    batch.add(Verb::NewTable, |writer| {
        writer.text(table::NAME, name);
        writer.number(table::FLAGS, found.flags);
    });
    batch.add(Verb::DelTable, |writer| writer.text(table::NAME, name));
}

/// The groups that have a chain in the table `name`, if `port` owns it or nobody can own
/// tables here; none if there is no such table, or it is another's.
pub(crate) fn groups_of(name: &str, port: &Port) -> Result<Option<Vec<GroupId>>, GuardError> {
    let failed = |error| GuardError::kernel(format!("read the nftables table {name}"), error);
    let questions = Port::open(NETLINK_NETFILTER, 0).map_err(failed)?;
    match look(&questions, name)? {
        Some(found) if found.owner.is_none_or(|owner| owner == port.number()) => {}
        Some(_) | None => return Ok(None),
    }
    let chains = chains(&questions, name).map_err(failed)?;
    Ok(Some(
        chains
            .keys()
            .filter_map(|name| rules::group_of(name))
            .collect(),
    ))
}

/// A table as the kernel has it.
struct Found {
    flags: u32,
    uses: u32,
    owner: Option<u32>,
    fingerprint: Option<[u8; 8]>,
}

fn look(port: &Port, name: &str) -> Result<Option<Found>, GuardError> {
    let ask = request(Verb::GetTable, flag::ACK, |writer| {
        writer.text(table::NAME, name)
    });
    let mut found = None;
    let answer = port.dump(&ask, |message| {
        if message.kind != Verb::NewTable.kind() {
            return;
        }
        let body = message.body.get(HEAD.len()..).unwrap_or_default();
        found = Some(Found {
            flags: read_number(body, table::FLAGS).unwrap_or(0),
            uses: read_number(body, table::USE).unwrap_or(0),
            owner: read_number(body, table::OWNER),
            fingerprint: find(body, table::USERDATA).and_then(|bytes| bytes.try_into().ok()),
        });
    });
    match answer {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(GuardError::kernel(
            format!("look for the nftables table {name}"),
            error,
        )),
        Ok(()) => Ok(found),
    }
}

fn map_of(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => GUARDED4,
        IpAddr::V6(_) => GUARDED6,
    }
}

fn write_key(writer: &mut Writer, address: IpAddr) {
    writer.nest(element::KEY, |writer| match address {
        IpAddr::V4(address) => writer.attribute(VALUE, &address.octets()),
        IpAddr::V6(address) => writer.attribute(VALUE, &address.octets()),
    });
}

fn write_guarded(writer: &mut Writer, address: IpAddr, group: Option<GroupId>) {
    write_key(writer, address);
    let verdict = match group {
        None => return,
        Some(CLOSED) => Verdict::Drop,
        Some(group) => Verdict::Jump(rules::group_chain(group)),
    };
    writer.nest(element::DATA, |writer| verdict.write(writer));
}

/// A message that lists which groups judge which addresses, as the kernel makes it of what was
/// written. For `crate::fuzzing`.
pub(crate) fn write_list(writer: &mut Writer, kind: u16, all: &[(IpAddr, GroupId)]) {
    writer.message(kind, 0, 1, &HEAD, |writer| {
        writer.nest(element::LIST, |writer| {
            for (address, group) in all {
                writer.nest(ENTRY, |writer| {
                    write_guarded(writer, *address, Some(*group))
                });
            }
        });
    });
}

pub(crate) fn read_guarded(body: &[u8]) -> Vec<(IpAddr, GroupId)> {
    let body = body.get(HEAD.len()..).unwrap_or_default();
    let entries = find(body, element::LIST).unwrap_or_default();
    let read = |entry: &[u8]| {
        let key = find(find(entry, element::KEY)?, VALUE)?;
        let address = match <[u8; 4]>::try_from(key) {
            Ok(octets) => IpAddr::from(octets),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(key).ok()?),
        };
        let chain = find(entry, element::DATA).and_then(Verdict::read_chain);
        Some((address, chain.and_then(rules::group_of).unwrap_or(CLOSED)))
    };
    attributes(entries)
        .filter_map(|(_, entry)| read(entry))
        .collect()
}

pub(crate) fn hook_device(body: &[u8]) -> Option<String> {
    let hook = find(body, chain::HOOK)?;
    if let Some(name) = read_text(hook, chain::HOOK_DEVICE) {
        return Some(name.to_owned());
    }
    let devices = find(hook, chain::HOOK_DEVICES)?;
    let (_, first) = attributes(devices).next()?;
    Some(
        std::str::from_utf8(first.split(|byte| *byte == 0).next()?)
            .ok()?
            .to_owned(),
    )
}

fn device_chains(device: &Device) -> [String; 2] {
    [
        format!("in-{}", device.index),
        format!("out-{}", device.index),
    ]
}

fn is_device_chain(name: &str) -> bool {
    name.starts_with("in-") || name.starts_with("out-")
}
