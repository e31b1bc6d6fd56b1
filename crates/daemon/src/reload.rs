//! What may change under a running daemon, and what may not: the judgement of a changed
//! file, all or nothing, before anything is touched.
//!
//! | changed                                  | by a reload                                    |
//! |------------------------------------------|------------------------------------------------|
//! | checks, rules, order of nodes, failback  | yes                                            |
//! | a group is new                           | yes; closed until it is assigned               |
//! | addresses of a group                     | yes; through the log, once all nodes agree     |
//! | a group is gone                          | yes; its holder closes it and gives it back    |
//! | this node may not hold its group any more| no: switch over first                          |
//! | certificates, `revoked`                  | yes                                            |
//! | where another node is                    | yes; that node itself needs a restart          |
//! | where this node is, whether it hosts     | no: a restart of this node                     |
//! | lease, heartbeat                         | no: restarts, the holder last                  |
//! | voters, name or authority of the cluster | no: never                                      |

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use evenkeel_checks::ResolveError;
use evenkeel_config::{Config, Place};
use evenkeel_core::lease::Record;
use evenkeel_core::{CheckName, GroupId, Incarnation, NodeId};
use evenkeel_host::run::{End, Leftovers, Limits, Program, run};
use evenkeel_services::doctor::Owner;
use serde::{Deserialize, Serialize};

use crate::inherited::{Text, path_for_children};
use crate::mirror;
use crate::options::Options;
use crate::prepare::Prepared;
use crate::worker::{at_address, own_groups};

/// How long a program may take to say what it understands.
const FORMS_PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer of a program that is taken seriously, in bytes.
const FORMS_MAX: usize = 4096;
/// Raised when what a parent hands to its workers or its successor changes its form.
/// 2: certificates and key with the text, and what is known of the state directory.
const HANDOVER: u32 = 2;

/// What runs, as far as it decides what a reload may change.
#[derive(Debug)]
pub struct Holding {
    /// Groups whose lease this node has, or waits for.
    pub held: BTreeSet<GroupId>,
    /// All that the lease machine knows.
    pub known: BTreeSet<GroupId>,
}

impl Holding {
    /// What the records of the mirror amount to.
    pub fn of(records: &[Record], me: NodeId, life: Incarnation) -> Self {
        let held = records.iter().filter(|one| holds(one, me, life));
        Self {
            held: held.map(|one| one.group).collect(),
            known: records.iter().map(|one| one.group).collect(),
        }
    }
}

/// Whether this life holds the group of a record, or waits to.
pub fn holds(record: &Record, me: NodeId, life: Incarnation) -> bool {
    let waits = record.floor.is_some_and(|floor| {
        floor.holder == me && floor.incarnation == life && floor.epoch > record.spent
    });
    record.held.is_some() || waits
}

/// Reads the file and judges it as `run` does, and what it needs of this machine. Changes
/// nothing.
pub fn read(options: &Options) -> anyhow::Result<Prepared> {
    let next = Prepared::load(options)?;
    fits(&next)?;
    Ok(next)
}

/// What shows only on this machine: interfaces, files of checks, services and hooks. All faults
/// of files at once, in the order of the configuration.
fn fits(next: &Prepared) -> anyhow::Result<()> {
    let mut faults = faults_of_checks(next);
    let groups = own_groups(next);
    for (group, _) in &groups {
        faults.extend(faults_of_hosted(next, *group));
    }
    if !faults.is_empty() {
        let order = |place: &Place| (place.line, place.column);
        faults.sort_by_key(|(place, _)| place.as_ref().map(order));
        let lines: Vec<String> = faults
            .into_iter()
            .map(|(place, fault)| at(place, &fault))
            .collect();
        bail!(lines.join("\n"));
    }
    if next.node.witness {
        return Ok(());
    }
    let all: Vec<_> = groups.iter().flat_map(|(_, one)| one.clone()).collect();
    evenkeel_traffic::fits(&all).map_err(|error| at_address(next, &groups, &error.to_string()))
}

/// Something that is wrong on this machine, and where the file speaks of it.
type Misfit = (Option<Place>, String);

/// The files that checks need here: programs, and authorities.
fn faults_of_checks(next: &Prepared) -> Vec<Misfit> {
    let (config, me) = (&next.config, next.node.id);
    let told = |group: GroupId, check: &CheckName, fault: String| {
        let name = next.topology().group_name(group);
        let place = config.place_of_check(group, check);
        (place, format!("group {name}: {fault}"))
    };
    let mut faults = Vec::new();
    for error in evenkeel_checks::faults_of(&config.topology, &config.checks, me) {
        let ResolveError::Authorities { group, check, .. } = &error;
        faults.push(told(*group, check, format!("failed to {error}")));
    }
    for group in config.topology.groups.values() {
        let checks = config.checks.get(&group.id).map_or(&[][..], Vec::as_slice);
        for (check, fault) in evenkeel_checks::doctor::unusable(group, checks, me) {
            faults.push(told(group.id, check, format!("check {check}: {fault}")));
        }
    }
    faults
}

/// The files that services and hooks of a group need here.
fn faults_of_hosted(next: &Prepared, group: GroupId) -> Vec<Misfit> {
    let config = &next.config;
    let hosted = config.hosted.get(&group);
    let faults = hosted.map(evenkeel_services::doctor::unusable);
    let name = next.topology().group_name(group);
    let told = |(owner, fault): (Owner, String)| {
        let place = match &owner {
            Owner::Service(service) => config.place_of_service(group, service),
            Owner::Hook(hook) => config.place_of_hook(group, hook),
        };
        (place, format!("group {name}: {owner}: {fault}"))
    };
    faults.unwrap_or_default().into_iter().map(told).collect()
}

/// Says whether `next` may take the place of `running` without a restart.
///
/// # Errors
/// The first reason why not, with its place in the file and what to do instead.
pub fn may_replace(running: &Prepared, next: &Prepared, holding: &Holding) -> Result<(), String> {
    let (old, new) = (&running.config.topology, &next.config.topology);
    if old.cluster != new.cluster || running.authority != next.authority {
        return Err(format!(
            "the file and its authority are those of the cluster {}, and this daemon belongs to {}: \
             a node never changes its cluster; make another one of it with an empty state directory",
            new.cluster, old.cluster
        ));
    }
    voters(running, next)?;
    let place = next.config.place_of_node(&next.node.name);
    if running.node.address != next.node.address {
        return Err(at(
            place,
            &format!(
                "the address of this node changes from {} to {}: its sockets are bound for as long \
                 as the daemon runs. Give all nodes the file, restart this node, and reload the others",
                running.node.address, next.node.address
            ),
        ));
    }
    if running.node.witness != next.node.witness {
        return Err(at(
            place,
            "whether this node is a witness changes: that needs a restart of this node",
        ));
    }
    if old.timing != new.timing {
        return Err(format!(
            "lease or heartbeat change from {:?} / {:?} to {:?} / {:?}: promises are counted by \
             them, and a voter refuses a longer lease than it knows. Give all nodes the file and \
             restart them one at a time, a node that holds a group last",
            old.timing.lease, old.timing.heartbeat, new.timing.lease, new.timing.heartbeat
        ));
    }
    groups(running, next, holding)
}

fn voters(running: &Prepared, next: &Prepared) -> Result<(), String> {
    let (old, new) = (&running.config.topology, &next.config.topology);
    if let Some(added) = new
        .nodes
        .values()
        .find(|node| !old.nodes.contains_key(&node.id))
    {
        return Err(at(
            next.config.place_of_node(&added.name),
            &format!(
                "the node {} is new: voters are fixed when a cluster is made, so nodes can be \
                 neither added nor renamed. A dead one is replaced under its own name (readmit)",
                added.name
            ),
        ));
    }
    if let Some(gone) = old
        .nodes
        .values()
        .find(|node| !new.nodes.contains_key(&node.id))
    {
        return Err(format!(
            "the node {} is missing from the file: voters are fixed when a cluster is made. Put it \
             back; a dead one is replaced under its own name (readmit)",
            gone.name
        ));
    }
    if old.membership() != new.membership() {
        return Err("the voters change: they are fixed when a cluster is made".to_owned());
    }
    Ok(())
}

fn groups(running: &Prepared, next: &Prepared, holding: &Holding) -> Result<(), String> {
    let (old, new) = (&running.config.topology, &next.config.topology);
    let me = next.node.id;
    for group in new.groups.values() {
        let may = group.nodes.contains(&me);
        let might = old
            .groups
            .get(&group.id)
            .is_some_and(|old| old.nodes.contains(&me));
        if !may && might && holding.held.contains(&group.id) {
            return Err(at(
                next.config.place_of_group(group.id),
                &format!(
                    "the group {0} may not be on this node any more, and is: move it away first \
                     with `evenkeel switch {0} --to` and one of its other nodes",
                    group.name
                ),
            ));
        }
    }
    // Floors are never forgotten, so neither are the groups they belong to.
    let new_ids: BTreeSet<GroupId> = new.groups.keys().copied().collect();
    let all = holding.known.union(&new_ids).count();
    if all > evenkeel_config::GROUPS_MAX {
        return Err(format!(
            "with the groups that this cluster has had before there would be {all}, more than {}: \
             give new groups the names of former ones",
            evenkeel_config::GROUPS_MAX
        ));
    }
    Ok(())
}

fn at(place: Option<Place>, text: &str) -> String {
    match place {
        Some(place) => format!("{place}: {text}"),
        None => text.to_owned(),
    }
}

/// What a program understands of what another one leaves to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forms {
    /// Its version, for people.
    pub version: String,
    /// The layout of the mirror.
    pub mirror: u64,
    /// What a parent hands down.
    pub handover: u32,
    /// What it makes of the configuration that runs, if it was asked for that.
    #[serde(default)]
    pub made: Option<Result<Made, String>>,
}

/// What a program makes of a configuration, as far as it must be the same as before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// What nodes compare.
    pub digest: u64,
    /// What promises are counted by.
    pub lease_ns: u64,
    /// How often they are asked for.
    pub heartbeat_ns: u64,
    /// Who votes, as every Renew names it.
    pub membership: u64,
}

impl Made {
    /// What this program makes of it.
    pub fn of(config: &Config) -> Self {
        let timing = &config.topology.timing;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            digest: config.digest,
            lease_ns: nanos(timing.lease),
            heartbeat_ns: nanos(timing.heartbeat),
            membership: config.topology.membership(),
        }
    }
}

impl Forms {
    /// Of this program; of the configuration at `of` as well, as a parent hands it down.
    pub fn own(of: Option<&Path>) -> Self {
        let made = of.map(|path| {
            let handed = Text::read(path).map_err(|error| format!("{error:#}"))?;
            let config = evenkeel_config::parse(&handed.config, "the configuration that runs");
            config
                .map(|config| Made::of(&config))
                .map_err(|faults| faults.to_string())
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mirror: mirror::MAGIC,
            handover: HANDOVER,
            made,
        }
    }
}

/// Another program, opened once: what is judged is what is executed, whatever becomes of its
/// path meanwhile.
#[derive(Debug)]
pub struct Successor {
    /// The program itself.
    pub file: File,
    /// What it says.
    pub forms: Forms,
}

impl Successor {
    /// Where it can be executed by this process and by those that it starts.
    pub fn path(&self) -> PathBuf {
        path_for_children(&self.file)
    }
}

/// Asks the program at `path` what it understands, and says whether it can go on where this
/// one is, which makes `now` of the configuration in `text`. Waits for it, some seconds at most.
pub fn may_succeed(path: &Path, text: &Path, now: &Made) -> anyhow::Result<Successor> {
    let shown = path.display();
    // Not waited for, should it be a FIFO.
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .with_context(|| format!("cannot open {shown}"))?;
    let about = file
        .metadata()
        .with_context(|| format!("cannot look at {shown}"))?;
    if !about.is_file() {
        bail!("{shown} is not a regular file: put the new program there");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&about.permissions());
    if mode & 0o111 == 0 {
        bail!("{shown} is not executable: chmod 755");
    }
    if mode & 0o022 != 0 {
        bail!(
            "{shown} can be written by others than its owner: chmod 755, and make sure that it is the right one"
        );
    }
    let forms = ask_forms(path, &file, text)?;
    understands(&shown.to_string(), &forms, now)?;
    Ok(Successor { file, forms })
}

fn understands(shown: &str, forms: &Forms, now: &Made) -> anyhow::Result<()> {
    let own = Forms::own(None);
    if (forms.mirror, forms.handover) != (own.mirror, own.handover) {
        bail!(
            "{shown} (version {}) does not understand what this one ({}) would leave to it, its \
             leases above all: move the groups away with `evenkeel switch`, then restart this node",
            forms.version,
            own.version
        );
    }
    let made = match &forms.made {
        Some(Ok(made)) => made,
        Some(Err(fault)) => bail!(
            "{shown} (version {}) refuses the configuration that runs: {fault}",
            forms.version
        ),
        None => bail!("{shown} does not say what it makes of the configuration that runs"),
    };
    let timing = |made: &Made| (made.lease_ns, made.heartbeat_ns);
    if timing(made) != timing(now) {
        let time = Duration::from_nanos;
        bail!(
            "{shown} (version {}) makes another lease or heartbeat of the same file, {:?} / {:?} and \
             not {:?} / {:?}: promises are counted by them, and a voter refuses a longer lease than \
             it knows. Write the ones that run into [timing] and reload, or install it everywhere \
             and restart the nodes one at a time, a node that holds a group last",
            forms.version,
            time(made.lease_ns),
            time(made.heartbeat_ns),
            time(now.lease_ns),
            time(now.heartbeat_ns)
        );
    }
    if made.membership != now.membership {
        bail!(
            "{shown} (version {}) counts the voters of the same file differently: its leases would \
             not be understood by the others",
            forms.version
        );
    }
    Ok(())
}

/// In a session of its own, without a descriptor or the environment of this process: it is not
/// trusted with anything yet.
fn ask_forms(path: &Path, file: &File, text: &Path) -> anyhow::Result<Forms> {
    let shown = path.display();
    let arguments: [&OsStr; 3] = ["forms".as_ref(), "--of".as_ref(), text.as_ref()];
    let program = Program::new(path_for_children(file), arguments);
    let limits = Limits {
        time: FORMS_PATIENCE,
        output: FORMS_MAX,
        leftovers: Leftovers::Kill,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let finished = runtime
        .block_on(run(&program, &limits))
        .map_err(|error| anyhow::anyhow!("cannot run {shown}: failed to {error}"))?;
    let said = finished.end.is_success() && !finished.cut;
    let forms = said.then(|| serde_json::from_slice(&finished.output).ok());
    match (finished.end, forms.flatten()) {
        (_, Some(forms)) => Ok(forms),
        (End::Killed, None) => {
            bail!("{shown} does not say what it understands within {FORMS_PATIENCE:?}")
        }
        (end, None) => bail!(
            "{shown} is no evenkeel that can take another one's place (it {end}): an older version \
             needs a restart"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::SystemTime;

    use evenkeel_core::lease::{Assignment, Held, PROMISES_MAX};
    use evenkeel_core::{Epoch, Moment, NodeName};
    use evenkeel_transport::pki;

    const FILE: &str = r#"cluster = "shop"
[node.ams1]
address = "192.0.2.11:7946"
[node.fra1]
address = "192.0.2.12:7946"
[node.tie]
address = "192.0.2.13:7946"
witness = true
[group.www]
nodes = ["ams1", "fra1"]
addresses = ["192.0.2.100/24"]
[group.www.check.ping]
ping = "{node}"
"#;

    struct World {
        dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let name = NodeName::new("ams1").expect("a name");
            let now = SystemTime::now();
            pki::init(dir.path(), Some("shop"), now).expect("an authority");
            pki::issue(dir.path(), &name, &dir.path().join("pki"), now).expect("a certificate");
            Self { dir }
        }

        fn options(&self) -> Options {
            Options {
                config: self.dir.path().join("evenkeel.toml"),
                node: NodeName::new("ams1").expect("a name"),
                state: PathBuf::new(),
                pki: self.dir.path().join("pki"),
                socket: PathBuf::new(),
            }
        }

        fn prepared(&self, text: &str) -> anyhow::Result<Prepared> {
            std::fs::write(self.options().config, text).expect("written");
            Prepared::load(&self.options())
        }

        /// What is said to `text` taking the place of [`FILE`].
        fn said(&self, text: &str, holding: &Holding) -> Result<(), String> {
            let running = self.prepared(FILE).expect("good");
            may_replace(&running, &self.prepared(text).expect("good"), holding)
        }
    }

    fn nothing() -> Holding {
        Holding {
            held: BTreeSet::new(),
            known: BTreeSet::new(),
        }
    }

    fn id(name: &str) -> GroupId {
        GroupId::of(&evenkeel_core::GroupName::new(name).expect("a name"))
    }

    fn changed(from: &str, to: &str) -> String {
        assert!(FILE.contains(from), "{from}");
        FILE.replace(from, to)
    }

    #[test]
    fn what_policy_alone_needs_may_change() {
        let world = World::new();
        let more_checks = format!(
            "{FILE}interval = \"70ms\"\n[group.www.check.web]\nhttp = \"http://{{node}}/\"\n"
        );
        let another = format!(
            "{FILE}[group.mail]\nnodes = [\"fra1\", \"ams1\"]\naddresses = [\"192.0.2.101/24\"]\n"
        );
        let elsewhere = changed("192.0.2.12:7946", "192.0.2.22:7946");
        let order = changed("[\"ams1\", \"fra1\"]", "[\"fra1\", \"ams1\"]");
        let addresses = changed("192.0.2.100/24", "192.0.2.102/24");
        for text in [FILE, &more_checks, &another, &elsewhere, &order, &addresses] {
            assert_eq!(world.said(text, &nothing()), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_safety_rests_on_is_refused_with_the_place_and_the_remedy() {
        let world = World::new();
        let added = format!("{FILE}[node.new]\naddress = \"192.0.2.14:7946\"\n");
        let gone = changed(
            "[node.tie]\naddress = \"192.0.2.13:7946\"\nwitness = true\n",
            "",
        );
        let cases = [
            (added, "evenkeel.toml:14:", "voters are fixed"),
            (gone, "the node tie is missing", "Put it back"),
            (
                changed("192.0.2.11:7946", "192.0.2.11:7947"),
                "evenkeel.toml:2:",
                "restart this node",
            ),
            (
                changed(
                    "cluster = \"shop\"",
                    "cluster = \"shop\"\nprofile = \"wan\"",
                ),
                "lease or heartbeat change",
                "restart them one at a time",
            ),
        ];
        for (text, what, remedy) in cases {
            let said = world.said(&text, &nothing()).expect_err("refused");
            assert!(said.contains(what) && said.contains(remedy), "{said}");
        }
    }

    #[test]
    fn another_cluster_or_a_faulty_file_is_refused_before_that() {
        let world = World::new();
        for (from, to, what) in [
            ("cluster = \"shop\"", "cluster = \"other\"", "other"),
            ("[\"ams1\", \"fra1\"]", "[\"ams1\", \"fra2\"]", ":10:"),
            ("[node.ams1]", "[node.ams2]", "ams"),
            ("cluster = \"shop\"", "cluster = \"sh", ":1:"),
        ] {
            let error = world.prepared(&changed(from, to)).err().expect("refused");
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn a_hook_that_others_can_write_is_refused_with_its_place() {
        let world = World::new();
        let hook = world.dir.path().join("hook");
        std::fs::write(&hook, "#!/bin/sh\n").expect("written");
        let text = format!(
            "{FILE}[group.www.hook]\nbefore_open = \"{}\"\n",
            hook.display()
        );
        std::fs::write(world.options().config, text).expect("written");
        for (mode, fault) in [(0o777, "chmod"), (0o644, "chmod")] {
            std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(mode)).expect("set");
            let said = read(&world.options()).err().expect("refused").to_string();
            let place = said.contains("evenkeel.toml:15:15: group www: hook before_open");
            assert!(place && said.contains(fault), "{said}");
        }
    }

    #[test]
    fn all_that_does_not_fit_this_machine_is_told_each_with_its_place() {
        let world = World::new();
        let hook = world.dir.path().join("hook");
        std::fs::write(&hook, "#!/bin/sh\n").expect("written");
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o777)).expect("set");
        let (hook, none) = (hook.display(), "/nonexistent/x");
        let text = format!(
            "{FILE}[group.www.check.web]\nhttp = \"https://{{node}}/\"\nhost = \"x.example\"\n\
             tls = {{ ca = \"{none}\" }}\n[group.www.check.disk]\nexec = \"{none}\"\n\
             [group.www.service.app]\nstart = [\"{none}\"]\n\
             [group.www.hook]\nafter_close = \"{hook}\"\nkeepalived = \"{none}\"\n"
        );
        std::fs::write(world.options().config, text).expect("written");
        let said = read(&world.options()).err().expect("refused").to_string();
        let lines: Vec<&str> = said.lines().collect();
        let expected = [
            (
                "14:18",
                "group www: failed to read the authorities of check web",
                "No such file",
            ),
            ("18:18", "group www: check disk", "No such file"),
            ("20:20", "group www: service app", "No such file"),
            ("23:15", "group www: hook after_close", "chmod go-w"),
            ("24:14", "group www: hook keepalived", "No such file"),
        ];
        assert_eq!(lines.len(), expected.len(), "{said}");
        for (line, (place, what, why)) in lines.iter().zip(expected) {
            let whole = format!("evenkeel.toml:{place}: {what}");
            assert!(line.contains(&whole) && line.contains(why), "{line}");
        }
    }

    #[test]
    fn what_is_no_readable_file_is_refused_at_once() {
        let world = World::new();
        let options = world.options();
        let refused = || read(&options).err().expect("refused").to_string();
        assert!(refused().contains("cannot be read"), "absent");
        rustix::fs::mkfifoat(rustix::fs::CWD, &options.config, rustix::fs::Mode::RUSR)
            .expect("a FIFO");
        assert!(refused().contains("not a regular file"));
        std::fs::remove_file(&options.config).expect("removed");
        let long = usize::try_from(evenkeel_config::FILE_SIZE_MAX).expect("small") + 1;
        std::fs::write(&options.config, "#".repeat(long)).expect("written");
        assert!(refused().contains("larger than"));
        // Half a file, as an editor may leave it for a moment.
        std::fs::write(&options.config, &FILE[..FILE.len() / 2]).expect("written");
        assert!(refused().contains("evenkeel.toml:"));
    }

    #[test]
    fn a_group_that_this_node_holds_is_moved_away_before_the_node_leaves_it() {
        let world = World::new();
        let without = changed("[\"ams1\", \"fra1\"]", "[\"fra1\"]");
        assert_eq!(
            world.said(&without, &nothing()),
            Ok(()),
            "a standby may leave"
        );
        let holding = Holding {
            held: [id("www")].into(),
            known: [id("www")].into(),
        };
        let said = world.said(&without, &holding).expect_err("refused");
        assert!(said.contains("evenkeel switch www --to"), "{said}");
        // The group as a whole may go: its holder closes it.
        let gone = FILE.split("[group.www]").next().expect("the nodes");
        let gone =
            format!("{gone}[group.mail]\nnodes = [\"ams1\"]\naddresses = [\"192.0.2.100/24\"]\n");
        assert_eq!(world.said(&gone, &holding), Ok(()));
    }

    #[test]
    fn groups_that_were_ever_known_are_counted() {
        let world = World::new();
        let known: BTreeSet<GroupId> = (0..evenkeel_config::GROUPS_MAX as u64)
            .map(GroupId)
            .collect();
        let holding = Holding {
            held: BTreeSet::new(),
            known,
        };
        let said = world.said(FILE, &holding).expect_err("refused");
        assert!(said.contains("names of former ones"), "{said}");
    }

    #[test]
    fn a_group_is_held_when_it_is_open_or_waited_for() {
        let (me, life) = (
            NodeId(1),
            Incarnation {
                counter: 2,
                nonce: 3,
            },
        );
        let epoch = Epoch { term: 1, index: 5 };
        let mut record = Record {
            group: GroupId(9),
            floor: Some(Assignment {
                group: GroupId(9),
                epoch,
                holder: me,
                incarnation: life,
            }),
            committed: epoch,
            released: Epoch::NONE,
            promises: [None; PROMISES_MAX],
            spent: Epoch::NONE,
            guard: Moment::ZERO,
            held: None,
        };
        assert!(holds(&record, me, life), "waited for");
        assert!(!holds(&record, NodeId(2), life), "another's");
        record.spent = epoch;
        assert!(!holds(&record, me, life), "given back");
        record.held = Some(Held {
            epoch,
            until: Moment::MAX,
        });
        assert!(holds(&record, me, life), "open");
        let holding = Holding::of(&[record], me, life);
        assert_eq!((holding.held.len(), holding.known.len()), (1, 1));
    }

    #[test]
    fn a_program_that_makes_another_lease_of_the_same_text_is_refused() {
        let config = evenkeel_config::parse(FILE, "f").unwrap_or_else(|faults| panic!("{faults}"));
        let now = Made::of(&config);
        let said = |made: Option<Result<Made, String>>| {
            let forms = Forms {
                made,
                ..Forms::own(None)
            };
            understands("/new", &forms, &now).map_err(|error| error.to_string())
        };
        assert_eq!(said(Some(Ok(now.clone()))), Ok(()));
        let longer = Made {
            lease_ns: 1_500_000_000,
            ..now.clone()
        };
        let error = said(Some(Ok(longer))).expect_err("refused");
        assert!(
            error.contains("1.5s") && error.contains("[timing]"),
            "{error}"
        );
        let often = Made {
            heartbeat_ns: 1,
            ..now.clone()
        };
        assert!(said(Some(Ok(often))).is_err());
        let others = Made {
            membership: 1,
            ..now.clone()
        };
        assert!(
            said(Some(Ok(others)))
                .expect_err("refused")
                .contains("voters")
        );
        assert!(
            said(Some(Err("f:1:1: no".to_owned())))
                .expect_err("refused")
                .contains("f:1:1")
        );
        assert!(said(None).is_err());
        // Only what it tells nodes apart by: they say so until all are upgraded.
        let digest = Made {
            digest: 1,
            ..now.clone()
        };
        assert_eq!(said(Some(Ok(digest))), Ok(()));
    }

    #[test]
    fn a_program_says_what_it_makes_of_the_text_that_runs() {
        let world = World::new();
        let running = world.prepared(FILE).expect("good");
        let text = Text::of(&running).expect("a text");
        let made = Forms::own(Some(&text.path())).made;
        assert_eq!(made, Some(Ok(Made::of(&running.config))));
        let faulty = Text::new("cluster = 1", &running.credentials).expect("a text");
        let made = Forms::own(Some(&faulty.path())).made;
        assert!(matches!(made, Some(Err(_))), "{made:?}");
        let made = Forms::own(Some(Path::new("/nonexistent"))).made;
        assert!(matches!(made, Some(Err(_))), "{made:?}");
    }

    #[test]
    fn a_worker_needs_no_certificate_on_the_disk() {
        let world = World::new();
        let running = world.prepared(FILE).expect("good");
        let text = Text::of(&running).expect("a text");
        std::fs::remove_dir_all(world.options().pki).expect("removed");
        std::fs::remove_file(world.options().config).expect("removed");
        let handed = Text::read(&text.path()).expect("read");
        let again = Prepared::again(&world.options(), handed).expect("good");
        let of = |one: &Prepared| one.identity.fingerprint();
        assert_eq!(of(&again), of(&running));
        assert_eq!(again.config.digest, running.config.digest);
    }

    #[test]
    fn a_program_that_cannot_go_on_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("program");
        let say = |forms: &Forms| {
            let json = serde_json::to_string(forms).expect("written");
            format!("#!/bin/sh\nprintf '%s' '{json}'\n")
        };
        let config = evenkeel_config::parse(FILE, "f").unwrap_or_else(|faults| panic!("{faults}"));
        let now = Made::of(&config);
        let none = Path::new("/nonexistent");
        let own = Forms {
            made: Some(Ok(now.clone())),
            ..Forms::own(None)
        };
        let other = Forms {
            mirror: own.mirror + 1,
            ..own.clone()
        };
        // It would end with 3 if it found anything of ours.
        let leaks = "#!/bin/sh\nenv | grep -q EVENKEEL_ && exit 3\nexit 0\n";
        let refused = |mode: u32, text: &str| {
            std::fs::write(&path, text).expect("written");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).expect("set");
            may_succeed(&path, none, &now)
                .err()
                .map(|error| error.to_string())
        };
        let expected = [
            (0o644, say(&own), "not executable"),
            (0o777, say(&own), "written by others"),
            (0o775, say(&own), "written by others"),
            (0o755, say(&other), "evenkeel switch"),
            (0o755, "#!/bin/sh\nexit 2\n".to_owned(), "older version"),
            (0o755, leaks.to_owned(), "ended with status 0"),
            (0o755, "#!/bin/sh\necho 1\n".to_owned(), "older version"),
        ];
        for (mode, text, what) in expected {
            let said = refused(mode, &text).expect("refused");
            assert!(said.contains(what), "{said}");
        }
        assert_eq!(refused(0o755, &say(&own)), None);
        // What was judged is what is executed, whatever lies there since.
        let judged = may_succeed(&path, none, &now).expect("good");
        let beside = dir.path().join("beside");
        std::fs::write(&beside, "#!/bin/sh\nexit 9\n").expect("written");
        std::fs::rename(&beside, &path).expect("replaced");
        let output = std::process::Command::new(judged.path()).output();
        assert!(output.expect("it runs").status.success());
        assert!(may_succeed(dir.path(), none, &now).is_err(), "a directory");
        assert!(may_succeed(&dir.path().join("none"), none, &now).is_err());
    }
}
