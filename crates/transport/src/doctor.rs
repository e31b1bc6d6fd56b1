//! What makes this node's certificate and keys unfit, found without changing anything.

use std::path::Path;
use std::time::SystemTime;

use evenkeel_core::NodeName;
use evenkeel_core::finding::Finding;

use crate::certificate::{Fingerprint, Validity};
use crate::pki;

/// Looks at the files of a node under `dir`, as `run` would.
pub fn examine(
    dir: &Path,
    cluster: &str,
    node: &NodeName,
    revoked: &[Fingerprint],
    now: SystemTime,
) -> Vec<Finding> {
    let place = dir.display().to_string();
    let mut findings = Vec::new();
    match pki::load(dir, cluster, node, revoked) {
        Err(error) => findings.push(Finding::unfit(&place, error.to_string())),
        Ok(identity) => {
            let (own, authority) = (identity.validity(), identity.authority_validity());
            let of = |file: String| dir.join(file).display().to_string();
            findings.push(dated(
                &of(format!("{node}.pem")),
                own,
                now,
                &format!(
                    "`evenkeel pki issue --node {node}` into a fresh directory, copy it here, then \
                     `evenkeel reload`"
                ),
            ));
            findings.push(dated(
                &of("ca.pem".to_owned()),
                authority,
                now,
                "nothing stops because of it; other programs that look at the date may",
            ));
        }
    }
    if dir.join("ca.key").exists() {
        findings.push(
            Finding::warning(
                &dir.join("ca.key").display().to_string(),
                "the authority's key lies on this node: whoever gets at it can make nodes",
            )
            .remedy("move it to a machine that is none of the cluster's"),
        );
    }
    findings
}

fn dated(place: &str, validity: Validity, now: SystemTime, remedy: &str) -> Finding {
    let left = validity.days_left(now);
    match validity.alarm(now) {
        None => Finding::fine(place, format!("valid for {left} days more")),
        Some(left) if left < 0 => {
            Finding::warning(place, format!("has ended {} days ago", -left)).remedy(remedy)
        }
        Some(left) => Finding::warning(place, format!("ends in {left} days")).remedy(remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::finding::{Severity, worst};
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn dates_keys_and_strange_files_are_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let (now, node) = (SystemTime::now(), NodeName::new("ams1").expect("a name"));
        pki::init(dir.path(), Some("shop"), now).expect("made");
        let out = dir.path().join("ams1");
        pki::issue(dir.path(), &node, &out, now).expect("issued");
        let look = |dir: &Path, cluster: &str, revoked: &[Fingerprint], now| {
            examine(dir, cluster, &node, revoked, now)
        };
        let well = look(&out, "shop", &[], now);
        assert_eq!(worst(&well), Severity::Fine, "{well:?}");
        let late = look(&out, "shop", &[], now + DAY * 350);
        assert_eq!(worst(&late), Severity::Warning, "{late:?}");
        assert!(late[0].what.starts_with("ends in "), "{late:?}");
        let ended = look(&out, "shop", &[], now + DAY * 400);
        assert!(ended[0].what.starts_with("has ended"), "{ended:?}");
        let other = look(&out, "mall", &[], now);
        assert_eq!(worst(&other), Severity::Unfit, "{other:?}");
        let own = pki::load(&out, "shop", &node, &[]).expect("good");
        let revoked = look(&out, "shop", &[own.fingerprint()], now);
        assert_eq!(worst(&revoked), Severity::Unfit, "{revoked:?}");
        let none = look(&dir.path().join("nowhere"), "shop", &[], now);
        assert_eq!(worst(&none), Severity::Unfit, "{none:?}");
        // Where the authority was made, its key lies.
        let exposed = look(dir.path(), "shop", &[], now);
        assert!(exposed.iter().any(|one| one.place.ends_with("ca.key")));
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(out.join("ams1.key"), open).expect("set");
        let open = look(&out, "shop", &[], now);
        assert!(open[0].what.contains("chmod 600"), "{open:?}");
    }
}
