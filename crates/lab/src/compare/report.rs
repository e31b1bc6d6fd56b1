//! What the runs came to: lines, tables for the terminal and in Markdown, a picture, and
//! where evenkeel is not ahead.

use std::fmt::Write;

use serde::Serialize;

use super::measure::Measured;
use super::peers::Name;
use super::row::Row;
use crate::plot::{Dot, Panel, Picture, Strip};

/// From one question of the client to the next: two outages that differ by less are equal.
const EQUAL_MS: f64 = 2.0;

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// With figures.
    Measured(Measured),
    /// It was not played, and why.
    Skipped(String),
    /// It went wrong: the lab, or a peer that did not settle before anything happened.
    Wrong(String),
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    /// Counted from 0.
    pub(crate) round: usize,
    /// Who.
    pub(crate) peer: Name,
    /// What.
    pub(crate) row: Row,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

/// A peer, as it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Told {
    /// Who.
    pub(crate) peer: Name,
    /// Its version.
    pub(crate) version: String,
    /// How it was set up.
    pub(crate) setup: String,
}

/// All there is to tell.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    /// What it was measured on.
    pub(crate) machine: String,
    /// A service that was not back by then counted as lost.
    pub(crate) lost_seconds: u64,
    /// How long the busy loops ran.
    pub(crate) load_seconds: u64,
    /// The peers.
    pub(crate) peers: Vec<Told>,
    /// Every run.
    pub(crate) runs: Vec<Entry>,
}

/// The middle and the greatest of some figures; `None` is greater than all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Range {
    p50: Option<f64>,
    max: Option<f64>,
}

fn range(mut all: Vec<Option<f64>>) -> Range {
    all.sort_by(|a, b| match (a, b) {
        (Some(a), Some(b)) => a.total_cmp(b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    let middle = all.len().saturating_sub(1) / 2;
    Range {
        p50: all.get(middle).copied().flatten(),
        max: all.last().copied().flatten(),
    }
}

/// All runs of one peer in one row.
#[derive(Clone, Debug)]
struct Line {
    row: Row,
    peer: Name,
    measured: Vec<Measured>,
    skipped: Option<String>,
    wrong: Vec<String>,
}

impl Line {
    /// The client's outage; `None` where it was not served at the end.
    fn outages(&self) -> Vec<Option<f64>> {
        let all = self.measured.iter();
        all.map(|run| run.served.then_some(run.outage_ms)).collect()
    }

    fn lost(&self) -> usize {
        self.measured.iter().filter(|run| !run.served).count()
    }

    fn failed(&self) -> (u64, u64) {
        let mut all: Vec<u64> = self.measured.iter().map(|run| run.failed).collect();
        all.sort_unstable();
        let middle = all.get(all.len().saturating_sub(1) / 2);
        (
            middle.copied().unwrap_or_default(),
            all.last().copied().unwrap_or_default(),
        )
    }

    fn takeovers(&self) -> usize {
        self.measured.iter().map(|run| run.takeovers).sum()
    }

    /// Runs in which two hosts answered.
    fn double(&self) -> usize {
        let double = self.measured.iter().filter(|run| run.two_cases > 0);
        double.count()
    }

    /// For how long two answered, in words; while the fault lasted and afterwards.
    fn two(&self) -> String {
        if self.double() == 0 {
            return "never".to_owned();
        }
        let figures = |of: fn(&Measured) -> f64| {
            let all = self.measured.iter().map(|run| Some(of(run)));
            let range = range(all.collect());
            span(range.p50.unwrap_or_default(), range.max.unwrap_or_default())
        };
        let mut text = figures(|run| run.two_ms);
        let lasting = self.measured.iter().filter(|run| run.two_to_the_end);
        match lasting.count() {
            0 => {}
            all if all == self.measured.len() => text += ", until it was put right",
            some => {
                let _ = write!(text, ", in {some} until it was put right");
            }
        }
        if self.measured.iter().any(|run| run.two_later_ms > 0.0) {
            let _ = write!(text, "; then {} more", figures(|run| run.two_later_ms));
        }
        text
    }

    fn healed(&self) -> String {
        let well = self.measured.iter().filter(|run| run.unhealed.is_none());
        match (well.count(), self.measured.len()) {
            (well, all) if well == all => "yes".to_owned(),
            (0, _) => "no".to_owned(),
            (well, all) => format!("{well} of {all}"),
        }
    }

    /// What is worth saying besides.
    fn notes(&self) -> String {
        let mut notes = Vec::new();
        let stayed = self.measured.iter().filter(|run| run.served && !run.back);
        match stayed.count() {
            0 => {}
            count => notes.push(format!("{count} \u{d7} did not move")),
        }
        if self.row == Row::Load {
            notes.push(format!("{} takeovers", self.takeovers()));
        }
        if !self.wrong.is_empty() {
            notes.push(format!("{} runs went wrong", self.wrong.len()));
        }
        let missed: u64 = self.measured.iter().map(|run| run.frames_missed).sum();
        if missed > 0 {
            notes.push(format!("the observer missed {missed} frames"));
        }
        notes.join("; ")
    }
}

/// Milliseconds as people read them.
fn told(ms: f64) -> String {
    if ms >= 10_000.0 {
        format!("{:.1} s", ms / 1e3)
    } else if ms >= 1000.0 {
        format!("{:.2} s", ms / 1e3)
    } else {
        format!("{ms:.0} ms")
    }
}

fn span(p50: f64, max: f64) -> String {
    let (middle, worst) = (told(p50), told(max));
    if middle == worst {
        middle
    } else {
        format!("{middle}, worst {worst}")
    }
}

/// How evenkeel stands beside a peer in a row, if it is not ahead or level: in words.
fn behind(ours: &Line, theirs: &Line) -> Option<String> {
    if ours.measured.is_empty() || theirs.measured.is_empty() {
        return None;
    }
    // First what may never happen, then whether clients are served, then how fast.
    let faults = |line: &Line| (line.double(), line.lost());
    match faults(ours).cmp(&faults(theirs)) {
        std::cmp::Ordering::Less => return None,
        std::cmp::Ordering::Greater => {
            return Some(format!(
                "two answered in {} runs and the client was lost in {}, against {} and {}",
                ours.double(),
                ours.lost(),
                theirs.double(),
                theirs.lost()
            ));
        }
        std::cmp::Ordering::Equal => {}
    }
    if ours.row == Row::Load {
        let (mine, other) = (ours.takeovers(), theirs.takeovers());
        return (mine > other).then(|| format!("{mine} takeovers against {other}"));
    }
    if ours.row.counts_failures() {
        let ((_, mine), (_, other)) = (ours.failed(), theirs.failed());
        return (mine > other).then(|| format!("{mine} failed requests against {other}"));
    }
    let (mine, other) = (range(ours.outages()).p50?, range(theirs.outages()).p50?);
    (mine > other + EQUAL_MS).then(|| format!("{} against {}", told(mine), told(other)))
}

impl Results {
    fn lines(&self, row: Row) -> Vec<Line> {
        let line = |peer: Name| {
            let mut line = Line {
                row,
                peer,
                measured: Vec::new(),
                skipped: None,
                wrong: Vec::new(),
            };
            let of = |entry: &&Entry| entry.peer == peer && entry.row == row;
            let mut any = false;
            for entry in self.runs.iter().filter(of) {
                any = true;
                match &entry.outcome {
                    Outcome::Measured(measured) => line.measured.push(measured.clone()),
                    Outcome::Skipped(why) => line.skipped = Some(why.clone()),
                    Outcome::Wrong(why) => line.wrong.push(why.clone()),
                }
            }
            any.then_some(line)
        };
        self.peers
            .iter()
            .filter_map(|told| line(told.peer))
            .collect()
    }

    fn rows(&self) -> Vec<Row> {
        let played = |row: &Row| self.runs.iter().any(|entry| entry.row == *row);
        super::row::ROWS.into_iter().filter(played).collect()
    }

    /// Where evenkeel is not ahead of a peer or level with it, in words.
    pub(crate) fn behind(&self) -> Vec<String> {
        let mut all = Vec::new();
        for row in self.rows() {
            let lines = self.lines(row);
            let (ours, theirs): (Vec<_>, Vec<_>) =
                lines.iter().partition(|line| line.peer.is_ours());
            for (mine, other) in ours
                .iter()
                .flat_map(|mine| theirs.iter().map(move |other| (mine, other)))
            {
                if let Some(how) = behind(mine, other) {
                    all.push(format!(
                        "{}: {} is behind {}: {how}",
                        row.name(),
                        mine.peer.text(),
                        other.peer.text()
                    ));
                }
            }
        }
        all
    }

    /// The outage of a client as a cell.
    fn outage(&self, line: &Line) -> [String; 2] {
        let range = range(line.outages());
        let cell = |figure: Option<f64>| match figure {
            Some(ms) => told(ms),
            None => format!("not within {} s", self.lost_seconds),
        };
        [cell(range.p50), cell(range.max)]
    }

    /// The cells of a line's figures: outage, worst, failed, two answered, healed, notes.
    fn cells(&self, line: &Line) -> [String; 6] {
        if line.measured.is_empty() {
            let why = match (&line.skipped, line.wrong.first()) {
                (Some(why), _) => format!("skipped: {why}"),
                (None, Some(why)) => format!("went wrong: {why}"),
                (None, None) => String::new(),
            };
            let none = || "-".to_owned();
            return [none(), none(), none(), none(), none(), why];
        }
        let [p50, max] = self.outage(line);
        let (middle, worst) = line.failed();
        let failed = if middle == worst {
            middle.to_string()
        } else {
            format!("{middle}, worst {worst}")
        };
        [p50, max, failed, line.two(), line.healed(), line.notes()]
    }

    /// The table for a terminal.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for row in self.rows() {
            let _ = writeln!(
                text,
                "\n{:<30} {:>15} {:>15} {:>17}  {:<7} two answered",
                row.name(),
                "outage p50",
                "worst",
                "failed",
                "healed"
            );
            for line in self.lines(row) {
                let [p50, max, failed, two, healed, notes] = self.cells(&line);
                let _ = writeln!(
                    text,
                    "  {:<28} {p50:>15} {max:>15} {failed:>17}  {healed:<7} {two}{}{notes}",
                    line.peer.text(),
                    if notes.is_empty() { "" } else { "  | " }
                );
            }
        }
        text
    }

    /// The tables for a page.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "Measured on {}. A client asks every 2 ms; a service that is not back within {} s \
             counts as lost; busy loops ran for {} s.\n\n",
            self.machine, self.lost_seconds, self.load_seconds
        );
        text += "| peer | version | set up as |\n| --- | --- | --- |\n";
        for told in &self.peers {
            let _ = writeln!(
                text,
                "| {} | {} | {} |",
                told.peer.text(),
                told.version,
                told.setup
            );
        }
        for row in self.rows() {
            let _ = write!(
                text,
                "\n### {}\n\n{}.\n\n| peer | runs | outage p50 | worst | failed requests | two \
                 hosts answered | right again by itself | |\n| --- | --: | --: | --: | --: | --- \
                 | --- | --- |\n",
                capital(row.name()),
                capital(row.told())
            );
            for line in self.lines(row) {
                let [p50, max, failed, two, healed, notes] = self.cells(&line);
                let _ = writeln!(
                    text,
                    "| {} | {} | {p50} | {max} | {failed} | {two} | {healed} | {} |",
                    line.peer.text(),
                    line.measured.len(),
                    notes.replace('|', "\\|").replace('\n', " ")
                );
            }
        }
        text += "\n### Where evenkeel is not ahead\n\n";
        let behind = self.behind();
        if behind.is_empty() {
            text += "Nowhere in this run.\n";
        }
        for line in behind {
            let _ = writeln!(text, "- {line}");
        }
        text
    }

    /// The picture of the outages.
    pub(crate) fn picture(&self) -> Picture {
        let strip = |line: &Line| {
            let cells = self.cells(line);
            let note = if line.measured.is_empty() {
                if line.skipped.is_some() {
                    "skipped".to_owned()
                } else {
                    "went wrong".to_owned()
                }
            } else if line.double() > 0 {
                format!("two answered: {}", cells[3])
            } else {
                format!("{} (worst {})", cells[0], cells[1])
            };
            Strip {
                label: line.peer.text().to_owned(),
                ours: line.peer.is_ours(),
                bad: line.double() > 0 || line.lost() > 0,
                note,
                dots: line
                    .outages()
                    .into_iter()
                    .map(|ms| ms.map_or(Dot::Never, Dot::At))
                    .collect(),
            }
        };
        let panels = self.rows().into_iter().map(|row| Panel {
            title: row.name().to_owned(),
            strips: self.lines(row).iter().map(strip).collect(),
        });
        Picture {
            title: "How long a client was not served; red: two hosts answered, or it stayed so"
                .to_owned(),
            // From 1 ms to 100 s.
            decades: (0, 5),
            panels: panels.collect(),
        }
    }
}

/// Text with a capital letter in front.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(outage_ms: f64) -> Measured {
        Measured {
            outage_ms,
            back: true,
            served: true,
            requests: 100,
            failed: 0,
            two_ms: 0.0,
            two_cases: 0,
            two_to_the_end: false,
            two_later_ms: 0.0,
            takeovers: 1,
            watched_ms: 1000.0,
            unhealed: None,
            client_pause_ms: 2.0,
            frames_missed: 0,
        }
    }

    fn entry(peer: Name, row: Row, outcome: Outcome) -> Entry {
        Entry {
            round: 0,
            peer,
            row,
            outcome,
        }
    }

    fn results(runs: Vec<Entry>) -> Results {
        let told = |peer| Told {
            peer,
            version: "1".to_owned(),
            setup: "as ever".to_owned(),
        };
        Results {
            machine: "a machine".to_owned(),
            lost_seconds: 30,
            load_seconds: 60,
            peers: [Name::Evenkeel, Name::Keepalived, Name::Ucarp]
                .map(told)
                .to_vec(),
            runs,
        }
    }

    fn of(peer: Name, measured: Measured) -> Entry {
        entry(peer, Row::PowerCut, Outcome::Measured(measured))
    }

    #[test]
    fn lost_runs_are_greater_than_all_others() {
        let range = range(vec![None, Some(3.0), Some(1.0)]);
        assert_eq!((range.p50, range.max), (Some(3.0), None));
    }

    #[test]
    fn who_is_slower_is_behind_unless_two_answered() {
        let fast = results(vec![
            of(Name::Evenkeel, measured(110.0)),
            of(Name::Keepalived, measured(50.0)),
            of(Name::Ucarp, measured(111.0)),
        ]);
        assert_eq!(
            fast.behind(),
            [
                "power cut of the active: evenkeel, balanced is behind keepalived, 1 s: 110 ms \
              against 50 ms"
            ]
        );
        let double = Measured {
            two_cases: 1,
            two_ms: 9000.0,
            ..measured(50.0)
        };
        let unsafe_one = results(vec![
            of(Name::Evenkeel, measured(110.0)),
            of(Name::Keepalived, double.clone()),
        ]);
        assert!(unsafe_one.behind().is_empty());
        let ours = results(vec![
            of(Name::Evenkeel, double),
            of(Name::Keepalived, measured(5000.0)),
        ]);
        assert_eq!(ours.behind().len(), 1, "two may never answer");
    }

    #[test]
    fn what_was_skipped_is_in_the_tables_with_its_reason() {
        let skipped = results(vec![
            of(Name::Evenkeel, measured(110.0)),
            entry(
                Name::Keepalived,
                Row::PowerCut,
                Outcome::Skipped("no such thing".to_owned()),
            ),
        ]);
        assert!(skipped.markdown().contains("skipped: no such thing"));
        assert!(skipped.table().contains("skipped: no such thing"));
        assert!(!skipped.markdown().contains("| ucarp | 0 |"));
    }

    #[test]
    fn a_service_that_stays_away_and_two_that_answer_are_said() {
        let lost = Measured {
            served: false,
            back: false,
            outage_ms: 30_000.0,
            unhealed: Some("no server has the address".to_owned()),
            ..measured(0.0)
        };
        let double = Measured {
            two_cases: 1,
            two_ms: 4200.0,
            two_to_the_end: true,
            ..measured(3000.0)
        };
        let text = results(vec![
            of(Name::Evenkeel, measured(110.0)),
            of(Name::Keepalived, double),
            of(Name::Ucarp, lost),
        ])
        .markdown();
        assert!(
            text.contains("| 4.20 s, until it was put right | yes |"),
            "{text}"
        );
        assert!(text.contains("not within 30 s"), "{text}");
        assert!(text.contains("| never | no |"), "{text}");
    }

    #[test]
    fn the_picture_has_a_strip_for_each_line() {
        let picture = results(vec![
            of(Name::Evenkeel, measured(110.0)),
            of(Name::Ucarp, measured(3000.0)),
        ])
        .picture();
        assert_eq!(picture.panels.len(), 1);
        assert_eq!(picture.panels[0].strips.len(), 2);
        assert!(picture.panels[0].strips[0].ours);
    }
}
