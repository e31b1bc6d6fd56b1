//! What the doctor found, for people.

use std::fmt::Write;

use crate::api::v1::{Doctor, Fit, Found};

/// The findings as text: the verdict first, then each area, the worst of it first.
pub fn text(doctor: &Doctor) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", verdict(doctor));
    let mut areas: Vec<&str> = Vec::new();
    for one in &doctor.findings {
        if !areas.contains(&one.area.as_str()) {
            areas.push(&one.area);
        }
    }
    for area in areas {
        let _ = writeln!(text, "\n{area}");
        let within = doctor.findings.iter().filter(|one| one.area == area);
        let mut within: Vec<&Found> = within.collect();
        within.sort_by_key(|one| std::cmp::Reverse(one.severity));
        for one in within {
            lines(&mut text, one);
        }
    }
    text
}

fn verdict(doctor: &Doctor) -> String {
    let count = |fit| {
        let found = doctor.findings.iter();
        found.filter(|one| one.severity == fit).count()
    };
    let (unfit, reduced) = (count(Fit::Unfit), count(Fit::Reduced));
    let looked = doctor.findings.len();
    let whose = format!("{} ({})", doctor.node, doctor.cluster);
    let counted = match (unfit, reduced) {
        (0, 0) => format!("{looked} things looked at, nothing to do"),
        (0, reduced) => format!("{reduced} of {looked} things could be better"),
        (unfit, 0) => format!("{unfit} of {looked} things are wrong"),
        (unfit, reduced) => {
            format!("{unfit} of {looked} things are wrong, {reduced} could be better")
        }
    };
    match doctor.verdict {
        Fit::Fit => format!("{whose} is fit: {counted}."),
        Fit::Reduced => format!("{whose} is fit, but REDUCED: {counted}."),
        Fit::Unfit => format!("{whose} is UNFIT: {counted}."),
    }
}

fn lines(text: &mut String, one: &Found) {
    let mark = match one.severity {
        Fit::Fit => "ok   ",
        Fit::Reduced => "WARN ",
        Fit::Unfit => "FAIL ",
    };
    let place = match one.place.is_empty() {
        true => String::new(),
        false => format!("{}: ", one.place),
    };
    let _ = writeln!(text, "  {mark} {place}{}", one.what);
    if !one.remedy.is_empty() {
        let _ = writeln!(text, "         -> {}", one.remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(area: &str, severity: Fit, what: &str, remedy: &str) -> Found {
        Found {
            area: area.into(),
            severity,
            place: "eth0".into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    fn doctor(findings: Vec<Found>) -> Doctor {
        Doctor {
            node: "ams1".into(),
            cluster: "shop".into(),
            verdict: findings
                .iter()
                .map(|one| one.severity)
                .max()
                .unwrap_or(Fit::Fit),
            daemon: false,
            findings,
            runs: None,
        }
    }

    #[test]
    fn the_verdict_comes_first_and_the_worst_first_in_each_area() {
        let well = doctor(vec![found("kernel", Fit::Fit, "Linux", "")]);
        let said = text(&well);
        assert!(
            said.starts_with("ams1 (shop) is fit: 1 things looked at"),
            "{said}"
        );
        let all = doctor(vec![
            found("kernel", Fit::Fit, "Linux", ""),
            found("network", Fit::Fit, "is up", ""),
            found("kernel", Fit::Reduced, "is old", "newer"),
            found("network", Fit::Unfit, "is gone", "plug it in"),
        ]);
        let said = text(&all);
        let place = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what}: {said}"));
        assert!(said.starts_with("ams1 (shop) is UNFIT: 1 of 4 things are wrong, 1 could"));
        assert!(place("WARN  eth0: is old") < place("ok    eth0: Linux"));
        assert!(place("ok    eth0: Linux") < place("FAIL  eth0: is gone"));
        assert!(place("-> plug it in") < place("is up"));
    }
}
