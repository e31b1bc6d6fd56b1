//! Whether this kernel enforces leases: tried for real, in a network of its own.

use std::path::Path;

use evenkeel_core::finding::Finding;
use evenkeel_host::sys::{bpffs, netns};

use crate::{BackendState, Backends, Claim, Guard, GuardError, GuardState, Settings};

/// The name of the cluster whose guard is tried: no file can have it, because of the blank.
const CLUSTER: &str = "the doctor";

/// Makes a whole guard over a loopback device in a new network namespace, looks which mechanisms
/// work, and takes it away again. `mount` is where the daemon has its bpffs.
pub fn examine(mount: &Path) -> Vec<Finding> {
    // What the trial makes is unmounted again by it, if nothing is pinned there.
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let made: Vec<&Path> = mount.ancestors().take_while(missing).collect();
    let mut findings = vec![place_of_pins(mount)];
    let tried = netns::in_new(|| try_guard(mount));
    for directory in made {
        // Somebody else uses it by now: then it stays.
        let _ = std::fs::remove_dir(directory);
    }
    findings.extend(match tried {
        Ok(Ok(state)) => judge(&state),
        Ok(Err(error)) => vec![Finding::unfit("guard", error.to_string())],
        Err(error) => vec![
            Finding::warning(
                "guard",
                format!("it could not be tried, for want of a network namespace: {error}"),
            )
            .remedy("ask as root"),
        ],
    });
    findings
}

fn place_of_pins(mount: &Path) -> Finding {
    let place = mount.display().to_string();
    match bpffs::is_bpffs(mount) {
        Ok(true) => Finding::fine(&place, "a bpffs is mounted there"),
        Ok(false) | Err(_) => Finding::fine(
            &place,
            "no bpffs is mounted yet: the daemon mounts one of its own there",
        ),
    }
}

fn try_guard(mount: &Path) -> Result<GuardState, GuardError> {
    let settings = Settings {
        cluster: CLUSTER.to_owned(),
        node: std::process::id().to_string(),
        bpffs: mount.to_owned(),
        backends: Backends::Both,
    };
    let failed = |error| GuardError::kernel("open a netfilter socket", error);
    let claim = Claim::open().map_err(failed)?;
    let (hot, mut keeper) = Guard::open(&settings, &claim)?;
    let verified = keeper.verify_and_repair();
    let state = keeper.state();
    drop(hot);
    keeper.uninstall()?;
    verified.map(|_| state)
}

fn judge(state: &GuardState) -> Vec<Finding> {
    let bpf = match &state.bpf {
        BackendState::Active => Finding::fine("eBPF", "enforces at tcx, in both directions"),
        BackendState::Absent(why) => Finding::warning(
            "eBPF",
            format!("is absent, so the guard is reduced to nftables: {why}"),
        )
        .remedy(
            "Linux 6.6 or newer with CONFIG_BPF_SYSCALL and CONFIG_NET_XGRESS; CAP_BPF, \
             CAP_PERFMON and CAP_NET_ADMIN",
        ),
    };
    let nft = match &state.nft {
        BackendState::Active => Finding::fine("nftables", "enforces at netdev, in both directions"),
        BackendState::Absent(why) => Finding::warning(
            "nftables",
            format!(
                "is absent, so that there is no second belt, and planned moves cannot hold new \
                 connections: {why}"
            ),
        )
        .remedy("Linux 5.16 or newer with CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_EGRESS"),
    };
    vec![bpf, nft]
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::finding::Severity;

    #[test]
    fn a_missing_mechanism_is_a_warning_that_says_why() {
        let absent = || BackendState::Absent("not supported".into());
        let whole = GuardState {
            bpf: BackendState::Active,
            nft: BackendState::Active,
        };
        let severities = |state: &GuardState| {
            judge(state)
                .iter()
                .map(|one| one.severity)
                .collect::<Vec<_>>()
        };
        assert_eq!(severities(&whole), [Severity::Fine, Severity::Fine]);
        let reduced = GuardState {
            bpf: absent(),
            nft: BackendState::Active,
        };
        assert_eq!(severities(&reduced), [Severity::Warning, Severity::Fine]);
        assert!(judge(&reduced)[0].what.contains("not supported"));
        let alone = GuardState {
            bpf: BackendState::Active,
            nft: absent(),
        };
        assert_eq!(severities(&alone), [Severity::Fine, Severity::Warning]);
    }

    /// The real thing, and that nothing of it is left.
    #[test]
    fn the_guard_of_this_kernel_is_tried_and_taken_away() {
        let mount = Path::new("/sys/fs/bpf");
        let found = examine(mount);
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT TESTED: not root");
            return;
        }
        let tried = found.iter().any(|one| one.place == "eBPF");
        let refused = found.iter().any(|one| one.place == "guard");
        assert!(tried || refused, "{found:?}");
        let key = format!("evenkeel-the_doctor-{}", std::process::id());
        let pins = std::fs::read_dir(mount).map_or(0, |entries| {
            let names = entries.flatten().map(|entry| entry.file_name());
            names
                .filter(|name| name.to_string_lossy().starts_with(&key))
                .count()
        });
        assert_eq!(pins, 0, "pins are left");
    }
}
