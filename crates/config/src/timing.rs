//! `profile` and `[timing]`: lease and heartbeat.

use std::ops::RangeInclusive;
use std::time::Duration;

use evenkeel_core::rule::nearest;
use evenkeel_core::topology::Timing;

use crate::duration::{self, show};
use crate::fault::{Report, shown};
use crate::section::{Keys, Section};
use crate::source::Span;

/// A lease is at least so many heartbeats: one lost renewal must not end it.
pub const HEARTBEATS_PER_LEASE: u32 = 3;

/// Shorter leases would end by ordinary scheduling jitter. The longest: a restarted voter
/// stays silent for a whole lease, and an outage lasts at least one.
const LEASE_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_secs(60);

/// The shortest is what timers keep; the longest follows from the longest lease.
const HEARTBEAT_BOUNDS: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(20);

const KEYS: Keys = Keys {
    known: &["lease", "heartbeat"],
    later: &[],
};

/// The profiles, with lease and heartbeat in milliseconds.
const PROFILES: [(&str, u64, u64); 3] =
    [("fast", 40, 8), ("balanced", 120, 20), ("wan", 1_500, 250)];

/// The profile of a file that names none.
const PROFILE_DEFAULT: &str = "balanced";

/// Lease and heartbeat of a profile, if there is one of that name.
pub fn profile(name: &str) -> Option<Timing> {
    let (_, lease, heartbeat) = PROFILES.iter().find(|(known, ..)| *known == name)?;
    Some(Timing {
        lease: Duration::from_millis(*lease),
        heartbeat: Duration::from_millis(*heartbeat),
    })
}

/// A time and where it comes from: its place in the file, or the profile.
struct Given {
    time: Duration,
    span: Option<Span>,
}

/// Reads the profile and what `[timing]` changes of it.
pub(crate) fn read(top: &Section<'_>, report: &mut Report) -> Option<Timing> {
    let (name, base) = read_profile(top, report)?;
    let Some(section) = top.section("timing", "write [timing] and its keys below it", report)
    else {
        return (!top.has("timing")).then_some(base);
    };
    section.only(&KEYS, report);
    let lease = given(&section, "lease", base.lease, LEASE_BOUNDS, report);
    let heartbeat = given(
        &section,
        "heartbeat",
        base.heartbeat,
        HEARTBEAT_BOUNDS,
        report,
    );
    let (lease, heartbeat) = (lease?, heartbeat?);
    if lease.time < heartbeat.time * HEARTBEATS_PER_LEASE {
        refuse_short(name, &lease, &heartbeat, report);
        return None;
    }
    Some(Timing {
        lease: lease.time,
        heartbeat: heartbeat.time,
    })
}

fn read_profile<'t>(top: &Section<'t>, report: &mut Report) -> Option<(&'t str, Timing)> {
    let names = PROFILES.map(|(name, ..)| name);
    let help = format!("the profiles are {}", names.join(", "));
    let name = match top.value("profile") {
        None => PROFILE_DEFAULT,
        Some(_) => {
            let text = top.text_with("profile", &help, report)?;
            if profile(text.value).is_none() {
                let help = match nearest(text.value, names) {
                    Some(meant) => format!("did you mean {meant:?}? {help}"),
                    None => help,
                };
                let what = format!("there is no profile {}", shown(text.value));
                report.refuse(&text.span, what, help);
                return None;
            }
            text.value
        }
    };
    Some((name, profile(name)?))
}

/// The time under `key`, or else the profile's; nothing if what stands there is wrong.
fn given(
    section: &Section<'_>,
    key: &str,
    otherwise: Duration,
    bounds: RangeInclusive<Duration>,
    report: &mut Report,
) -> Option<Given> {
    if !section.has(key) {
        return Some(Given {
            time: otherwise,
            span: None,
        });
    }
    let (time, span) = duration::read(section, key, bounds, report)?;
    Some(Given {
        time,
        span: Some(span),
    })
}

fn refuse_short(profile: &str, lease: &Given, heartbeat: &Given, report: &mut Report) {
    let from = |given: &Given| match given.span {
        Some(_) => String::new(),
        None => format!(" (of profile {profile:?})"),
    };
    let what = format!(
        "lease = {}{} is too short for heartbeat = {}{}",
        show(lease.time),
        from(lease),
        show(heartbeat.time),
        from(heartbeat),
    );
    let least = heartbeat.time * HEARTBEATS_PER_LEASE;
    // Rounded down to what reads well; a lease is never so short that this gives zero.
    let most = lease.time / HEARTBEATS_PER_LEASE;
    let most = Duration::from_millis(most.as_millis().try_into().unwrap_or(u64::MAX));
    let help = format!(
        "a lease is at least {HEARTBEATS_PER_LEASE} heartbeats: write lease = \"{}\" or heartbeat = \"{}\"",
        show(least),
        show(most),
    );
    let place = lease
        .span
        .as_ref()
        .or(heartbeat.span.as_ref())
        .cloned()
        .unwrap_or(0..0);
    let fault = report.refuse(&place, what, help);
    if let (Some(_), Some(other)) = (&lease.span, &heartbeat.span) {
        fault.also(other, "the heartbeat");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_keeps_the_bounds_of_the_file() {
        for (name, ..) in PROFILES {
            let timing = profile(name).expect("a profile");
            assert!(
                timing.lease >= timing.heartbeat * HEARTBEATS_PER_LEASE,
                "{name}"
            );
            assert!(LEASE_BOUNDS.contains(&timing.lease), "{name}");
            assert!(HEARTBEAT_BOUNDS.contains(&timing.heartbeat), "{name}");
        }
        assert!(profile(PROFILE_DEFAULT).is_some());
        assert_eq!(profile("slow"), None);
    }
}
