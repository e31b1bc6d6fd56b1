//! Pictures of the matrix: each trouble's outages on a logarithmic scale, and every pair of
//! troubles in a map.
//!
//! SVG by hand: a few kinds of shapes, and colours by class, so that a style sheet inside the
//! file can have others where the reader's screen is dark. What a colour says a shape says too.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::report::{Record, Report};
use super::trouble::{self, Trouble};
use crate::cluster::Profile;

/// Classes and colours: for paper, and for dark screens.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}\
.title{font-size:17px;font-weight:600}.small{font-size:11px}.faint{fill:#59636e}\
.right{text-anchor:end}.middle{text-anchor:middle}\
.paper{fill:#fff}.band{fill:#f6f8fa}.grid{stroke:#d1d9e0}.fine{stroke:#eaeef2}\
.lease{stroke:#818b98;stroke-dasharray:4 4}\
.balanced{fill:#0969da;fill-opacity:.65}.fast{fill:#bc4c00;fill-opacity:.65}\
.balanced-line{stroke:#0969da;stroke-width:2.5}.fast-line{stroke:#bc4c00;stroke-width:2.5}\
.cell{stroke:#fff;stroke-width:2}.c0{fill:#d3f0d8}.c1{fill:#8fd19e}.c2{fill:#e0b84c}\
.c3{fill:#d9793a}.mute{fill:#c8d1da}.none{fill:#f0f3f6}.cross{stroke:#cf222e;stroke-width:3}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.faint{fill:#9198a1}\
.paper{fill:#0d1117}.band{fill:#151b23}.grid{stroke:#3d444d}.fine{stroke:#262c36}\
.lease{stroke:#9198a1}\
.balanced{fill:#58a6ff}.fast{fill:#ffa657}.balanced-line{stroke:#58a6ff}\
.fast-line{stroke:#ffa657}.cell{stroke:#0d1117}.c0{fill:#1b4429}.c1{fill:#2f7a45}\
.c2{fill:#8c6d1f}.c3{fill:#a8501f}.mute{fill:#3d444d}.none{fill:#1b2129}.cross{stroke:#ff7b72}}";

/// A picture under way.
struct Picture {
    body: String,
    width: f64,
    height: f64,
}

/// `text` as it may stand in the file.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

impl Picture {
    fn new(width: f64, height: f64) -> Self {
        Self {
            body: String::new(),
            width,
            height,
        }
    }

    fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64), title: &str) {
        let at = format!("x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"");
        let _ = writeln!(
            self.body,
            "<rect class=\"{class}\" {at}>{}</rect>",
            titled(title)
        );
    }

    fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let at = format!("x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"");
        let _ = writeln!(self.body, "<line class=\"{class}\" {at}/>");
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let text = escaped(text);
        let at = format!("x=\"{x:.1}\" y=\"{y:.1}\"");
        let _ = writeln!(self.body, "<text class=\"{class}\" {at}>{text}</text>");
    }

    /// Text that rises to the right.
    fn slanted(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let at = format!("transform=\"translate({x:.1} {y:.1}) rotate(-50)\"");
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" {at}>{}</text>",
            escaped(text)
        );
    }

    /// A dot of the profile: a disc, or a square on its corner.
    fn dot(&mut self, profile: Profile, (x, y): (f64, f64), title: &str) {
        let (class, title) = (profile.name(), titled(title));
        let _ = match profile {
            Profile::Balanced => writeln!(
                self.body,
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.6\">{title}</circle>"
            ),
            Profile::Fast => writeln!(
                self.body,
                "<path class=\"{class}\" d=\"M{x:.1} {:.1}l4.4 4.4l-4.4 4.4l-4.4 -4.4z\">{title}</path>",
                y - 4.4
            ),
        };
    }

    fn finish(self, what: &str) -> String {
        let (width, height) = (self.width, self.height);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{}\">\n\
             <style>{STYLE}</style>\n\
             <rect class=\"paper\" x=\"0\" y=\"0\" width=\"{width:.0}\" height=\"{height:.0}\"/>\n\
             {}</svg>\n",
            escaped(what),
            self.body
        )
    }
}

/// What is shown where a pointer rests.
fn titled(title: &str) -> String {
    match title.is_empty() {
        true => String::new(),
        false => format!("<title>{}</title>", escaped(title)),
    }
}

/// A logarithmic axis of times.
#[derive(Clone, Copy, Debug)]
struct Axis {
    /// Powers of ten, in ms, at both ends.
    from: f64,
    to: f64,
    left: f64,
    width: f64,
}

/// Nothing shorter is drawn: clients ask every 2 ms.
const SHORTEST: f64 = 1.0;

/// The longest that an axis goes: a minute's freeze is within.
const LONGEST: f64 = 100_000.0;

impl Axis {
    /// One that has all of `values`.
    fn over(values: impl Iterator<Item = f64>, left: f64, width: f64) -> Self {
        let clamped = values.map(|ms| ms.clamp(SHORTEST, LONGEST));
        let (least, most) = clamped.fold((LONGEST, SHORTEST), |(least, most), ms| {
            (least.min(ms), most.max(ms))
        });
        let from = least.min(most).log10().floor();
        let to = most.max(least.min(most)).log10().ceil().max(from + 1.0);
        Self {
            from,
            to,
            left,
            width,
        }
    }

    fn place(&self, ms: f64) -> f64 {
        let power = ms.clamp(SHORTEST, LONGEST).log10();
        self.left + (power - self.from) / (self.to - self.from) * self.width
    }

    /// Its marks: the time, and whether it is a power of ten.
    fn marks(&self) -> Vec<(f64, bool)> {
        let mut marks = Vec::new();
        let mut power = self.from;
        while power < self.to {
            let whole = 10_f64.powf(power);
            marks.extend((1..10).map(|times| (whole * f64::from(times), times == 1)));
            power += 1.0;
        }
        marks.push((10_f64.powf(self.to), true));
        marks
    }
}

/// A time as people write it.
fn time(ms: f64) -> String {
    if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.0} s", ms / 1000.0)
    }
}

/// Outages of single troubles: per trouble and profile.
type Outages<'a> = BTreeMap<(usize, Profile), Vec<&'a Record>>;

const WIDTH: f64 = 980.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 92.0;
const ROW: f64 = 32.0;
const BOTTOM: f64 = 46.0;

/// Single troubles on clusters of so many nodes; none if none was played.
fn outages(report: &Report, nodes: usize) -> Option<String> {
    let mut all = Outages::new();
    let alone = report
        .records
        .iter()
        .filter(|one| one.troubles.len() == 1 && one.nodes == nodes);
    for record in alone.filter(|one| one.played.is_some()) {
        let place = trouble::ALL
            .iter()
            .position(|one| *one == record.troubles[0])?;
        all.entry((place, record.profile)).or_default().push(record);
    }
    let mut rows: Vec<usize> = all.keys().map(|(place, _)| *place).collect();
    rows.dedup();
    if rows.is_empty() {
        return None;
    }
    let bottom = TOP + ROW * rows.len() as f64;
    let mut picture = Picture::new(WIDTH, bottom + BOTTOM);
    let values = all.values().flatten().filter_map(|record| record.outage());
    let axis = Axis::over(values, LEFT, WIDTH - LEFT - RIGHT);
    for (index, place) in rows.iter().enumerate() {
        let y = TOP + ROW * index as f64;
        if index % 2 == 0 {
            picture.rect("band", (0.0, y), (WIDTH, ROW), "");
        }
        picture.text(
            "right",
            (LEFT - 14.0, y + ROW / 2.0 + 4.5),
            trouble::ALL[*place].name(),
        );
    }
    put_axis(&mut picture, axis, bottom);
    for (index, place) in rows.iter().enumerate() {
        let y = TOP + ROW * index as f64;
        for (profile, lane) in [(Profile::Balanced, 0.3), (Profile::Fast, 0.7)] {
            let runs = all.get(&(*place, profile)).map_or(&[][..], Vec::as_slice);
            put_lane(&mut picture, axis, y + ROW * lane, profile, runs);
        }
    }
    let title = format!("Outage that clients saw, {nodes} nodes, each trouble alone");
    picture.text("title", (18.0, 30.0), &title);
    put_legend(&mut picture);
    Some(picture.finish(&title))
}

fn put_axis(picture: &mut Picture, axis: Axis, bottom: f64) {
    for (ms, whole) in axis.marks() {
        let x = axis.place(ms);
        picture.line(if whole { "grid" } else { "fine" }, (x, TOP), (x, bottom));
        if whole {
            picture.text("middle", (x, bottom + 18.0), &time(ms));
        }
    }
    for profile in [Profile::Balanced, Profile::Fast] {
        let lease = profile.lease().as_secs_f64() * 1e3;
        let x = axis.place(lease);
        if lease.log10() >= axis.from && lease.log10() <= axis.to {
            picture.line("lease", (x, TOP - 6.0), (x, bottom));
            let text = format!("lease {}", profile.name());
            picture.text("small faint middle", (x, TOP - 10.0), &text);
        }
    }
    let middle = axis.left + axis.width / 2.0;
    let text = "longest time without a good answer (logarithmic scale)";
    picture.text("faint middle", (middle, bottom + 38.0), text);
}

/// One profile's runs of one trouble: a dot each, and a line at the middle one.
fn put_lane(picture: &mut Picture, axis: Axis, y: f64, profile: Profile, runs: &[&Record]) {
    let mut seen: Vec<(f64, &Record)> = runs
        .iter()
        .filter_map(|record| Some((record.outage()?, *record)))
        .collect();
    seen.sort_by(|one, other| one.0.total_cmp(&other.0));
    if !seen.is_empty() {
        let middle = axis.place(seen[(seen.len() - 1) / 2].0);
        let class = format!("{}-line", profile.name());
        picture.line(&class, (middle, y - 6.5), (middle, y + 6.5));
    }
    for (index, (ms, record)) in seen.iter().enumerate() {
        // Equal ones side by side, not one upon the other.
        let aside = (index * 3 % 5) as f64 - 2.0;
        let title = format!("{}: {ms:.1} ms", record.name);
        picture.dot(profile, (axis.place(*ms), y + aside), &title);
    }
    let mute = runs.len() - seen.len();
    if mute > 0 {
        let text = format!("{}: {mute} dark", profile.name());
        picture.text("small faint", (WIDTH - RIGHT + 10.0, y + 4.0), &text);
    }
}

fn put_legend(picture: &mut Picture) {
    let texts = [(Profile::Balanced, "balanced"), (Profile::Fast, "fast")];
    for (index, (profile, text)) in texts.into_iter().enumerate() {
        let x = 24.0 + 100.0 * index as f64;
        picture.dot(profile, (x, 52.0), "");
        picture.text("", (x + 10.0, 56.5), text);
    }
    let text =
        "a dot: one run · a stroke: the middle one · dark: nobody answered until it was put right";
    picture.text("faint", (200.0, 56.5), text);
}

/// A cell of the map.
const CELL: f64 = 25.0;

/// Outages from so many ms on look worse, and what the legend says of each.
const STEPS: [(f64, &str, &str); 4] = [
    (0.0, "c0", "under 100 ms"),
    (100.0, "c1", "100 to 300 ms"),
    (300.0, "c2", "300 ms to 1 s"),
    (1000.0, "c3", "1 s and more"),
];

fn class_of(ms: f64) -> &'static str {
    STEPS
        .iter()
        .rev()
        .find(|step| ms >= step.0)
        .map_or("c0", |step| step.1)
}

/// Every pair of troubles; none if none was played.
fn pairs(report: &Report) -> Option<String> {
    let mut met: BTreeMap<(usize, usize), Vec<&Record>> = BTreeMap::new();
    let place = |one: Trouble| trouble::ALL.iter().position(|other| *other == one);
    let both = report.records.iter().filter(|one| one.troubles.len() == 2);
    for record in both.filter(|one| one.played.is_some()) {
        let (one, other) = (place(record.troubles[0])?, place(record.troubles[1])?);
        met.entry((one.max(other), one.min(other)))
            .or_default()
            .push(record);
    }
    if met.is_empty() {
        return None;
    }
    let meet = trouble::ALL
        .iter()
        .enumerate()
        .filter(|(_, one)| !one.is_alone());
    let meet: Vec<(usize, Trouble)> = meet.map(|(index, one)| (index, *one)).collect();
    let side = CELL * meet.len() as f64;
    let mut picture = Picture::new(LEFT + side + 190.0, TOP + side + 20.0);
    for (row, (down, one)) in meet.iter().enumerate() {
        let y = TOP + CELL * row as f64;
        picture.text("right", (LEFT - 10.0, y + CELL * 0.7), one.name());
        for (column, (across, _)) in meet.iter().take(row + 1).enumerate() {
            let at = (LEFT + CELL * column as f64, y);
            put_cell(
                &mut picture,
                at,
                met.get(&(*down, *across)).map_or(&[][..], Vec::as_slice),
            );
        }
        let x = LEFT + CELL * (row as f64 + 1.0);
        picture.slanted("small", (x + 6.0, y + CELL - 8.0), one.name());
    }
    let title = "Pairs of troubles: the worst outage that clients saw";
    picture.text("title", (18.0, 30.0), title);
    put_steps(&mut picture);
    Some(picture.finish(title))
}

fn put_cell(picture: &mut Picture, (x, y): (f64, f64), records: &[&Record]) {
    let worst = records
        .iter()
        .filter_map(|record| record.outage())
        .fold(None, |worst, ms| {
            Some(worst.map_or(ms, |known: f64| known.max(ms)))
        });
    let class = match (records.is_empty(), worst) {
        (true, _) => "none",
        (false, None) => "mute",
        (false, Some(ms)) => class_of(ms),
    };
    let told: Vec<String> = records
        .iter()
        .map(|one| match one.outage() {
            Some(ms) => format!("{}: {ms:.0} ms", one.name),
            None => format!("{}: dark until it was put right", one.name),
        })
        .collect();
    picture.rect(
        &format!("cell {class}"),
        (x, y),
        (CELL, CELL),
        &told.join("\n"),
    );
    if records.iter().any(|record| !record.is_well()) {
        let (near, far) = (CELL * 0.28, CELL * 0.72);
        picture.line("cross", (x + near, y + near), (x + far, y + far));
        picture.line("cross", (x + near, y + far), (x + far, y + near));
    }
}

fn put_steps(picture: &mut Picture) {
    let steps = STEPS.iter().map(|step| (step.1, step.2));
    let others = [("mute", "dark until put right"), ("none", "not played")];
    let mut x = 24.0;
    for (class, text) in steps.chain(others) {
        picture.rect(class, (x, 44.0), (14.0, 14.0), "");
        picture.text("small", (x + 19.0, 55.0), text);
        x += 34.0 + 6.2 * text.len() as f64;
    }
    picture.line("cross", (x + 2.0, 46.0), (x + 12.0, 56.0));
    picture.line("cross", (x + 2.0, 56.0), (x + 12.0, 46.0));
    picture.text("small", (x + 19.0, 55.0), "not as it has to be");
}

/// All pictures that there is something for, with the names of their files.
pub(crate) fn all(report: &Report) -> Vec<(String, String)> {
    let of = |nodes: usize| Some((format!("outage-{nodes}.svg"), outages(report, nodes)?));
    let map = pairs(report).map(|text| ("pairs.svg".to_owned(), text));
    [2, 3, 5].into_iter().filter_map(of).chain(map).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report;
    use super::*;

    /// Reads a document as far as a writer of tags can go wrong: tags that do not close,
    /// attributes without quotes, bare characters that have to be written otherwise.
    fn check_well_formed(text: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            check_text(&rest[..start]);
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closed in order");
                continue;
            }
            let name = tag.split([' ', '/']).next().expect("a name");
            check_attributes(tag.trim_end_matches('/')[name.len()..].trim());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
        assert!(rest.trim().is_empty());
    }

    fn check_text(text: &str) {
        assert!(!text.contains('>'), "{text}");
        for (at, _) in text.match_indices('&') {
            let known = ["&amp;", "&lt;", "&gt;", "&quot;"];
            assert!(
                known.iter().any(|one| text[at..].starts_with(one)),
                "{text}"
            );
        }
    }

    fn check_attributes(mut text: &str) {
        let mut seen = std::collections::BTreeSet::new();
        while let Some((name, more)) = text.split_once("=\"") {
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-:".contains(c)),
                "{name}"
            );
            assert!(seen.insert(name.to_owned()), "{name} twice");
            let (value, after) = more.split_once('"').expect("a value ends");
            assert!(!value.contains('<'), "{value}");
            assert!(!value.contains("NaN") && !value.contains("inf"), "{value}");
            text = after.trim_start();
        }
        assert!(text.is_empty(), "{text}");
    }

    #[test]
    fn the_checker_sees_what_is_not_well_formed() {
        for bad in [
            "<a><b></a></b>",
            "<a x=1/>",
            "<a>1 > 0</a>",
            "<a>R&D</a>",
            "<a>",
        ] {
            assert!(
                std::panic::catch_unwind(|| check_well_formed(bad)).is_err(),
                "{bad}"
            );
        }
        check_well_formed("<a x=\"1\"><b/>R&amp;D</a>\n");
    }

    #[test]
    fn pictures_are_well_formed_whatever_was_seen() {
        let report = report::tests::of(&[
            ("3/fast/4/power-cut/1", Some(40.0)),
            ("3/balanced/6/power-cut/1", Some(112.0)),
            ("3/balanced/6/power-cut/2", Some(0.0)),
            ("3/balanced/4/machine-frozen/1", Some(59_000.0)),
            ("2/balanced/4/power-cut/1", None),
            ("5/fast/6/power-cut+loss/within/3", Some(250.0)),
            ("3/fast/6/loss+power-cut/after/3", None),
        ]);
        let pictures = all(&report);
        let names: Vec<&str> = pictures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["outage-2.svg", "outage-3.svg", "pairs.svg"]);
        for (_, text) in &pictures {
            check_well_formed(text);
        }
        let (_, three) = &pictures[1];
        assert_eq!(
            three.matches("<circle class=\"balanced\"").count(),
            3 + 1,
            "and a legend"
        );
        assert_eq!(three.matches("<path class=\"fast\"").count(), 1 + 1);
        assert!(pictures[0].1.contains("balanced: 1 dark"));
        // Both orders of a pair are one cell; the worst outage counts.
        assert_eq!(pictures[2].1.matches("class=\"cell c1\"").count(), 1);
        assert!(all(&report::tests::of(&[])).is_empty());
    }

    #[test]
    fn the_axis_is_logarithmic() {
        let axis = Axis::over([3.0, 450.0].into_iter(), 100.0, 300.0);
        assert_eq!((axis.from, axis.to), (0.0, 3.0));
        let near = |one: f64, other: f64| (one - other).abs() < 1e-6;
        assert!(near(axis.place(1.0), 100.0) && near(axis.place(10.0), 200.0));
        assert!(near(axis.place(1000.0), 400.0));
        let whole = axis
            .marks()
            .into_iter()
            .filter(|mark| mark.1)
            .map(|mark| mark.0);
        assert_eq!(
            whole.map(time).collect::<Vec<_>>(),
            ["1 ms", "10 ms", "100 ms", "1 s"]
        );
    }

    #[test]
    fn text_is_escaped() {
        let mut picture = Picture::new(10.0, 10.0);
        picture.text("x", (0.0, 0.0), "a < b & \"c\"");
        check_well_formed(&picture.finish("R&D"));
    }
}
