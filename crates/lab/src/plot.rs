//! A picture of distributions, as SVG: a panel per subject, a strip per competitor in it,
//! a dot per run on a logarithmic axis of time. Pure: figures in, text out.

use std::fmt::Write;

/// Width of the picture, and of its columns at the left and at the right.
const WIDTH: f64 = 1000.0;
const LABELS: f64 = 230.0;
const NOTES: f64 = 250.0;

/// Heights: of a strip, of what is above the first one of a panel, and of what is around all.
const STRIP: f64 = 19.0;
const HEAD: f64 = 44.0;
const MARGIN: f64 = 14.0;

/// How far beyond the end of the axis a dot is drawn that is off it.
const BEYOND: f64 = 14.0;

/// One run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Dot {
    /// It took so many milliseconds.
    At(f64),
    /// It did not end in time.
    Never,
}

/// All runs of one competitor.
#[derive(Clone, Debug)]
pub(crate) struct Strip {
    /// Who.
    pub(crate) label: String,
    /// It is the one that the others are compared with.
    pub(crate) ours: bool,
    /// Something is wrong with what it did, whatever time it took.
    pub(crate) bad: bool,
    /// Said at the right.
    pub(crate) note: String,
    /// Its runs.
    pub(crate) dots: Vec<Dot>,
}

/// One subject.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// What it is about.
    pub(crate) title: String,
    /// The competitors.
    pub(crate) strips: Vec<Strip>,
}

/// A picture.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    /// At the top.
    pub(crate) title: String,
    /// Powers of ten in milliseconds between which the axis runs.
    pub(crate) decades: (i32, i32),
    /// From top to bottom.
    pub(crate) panels: Vec<Panel>,
}

/// Text with what means something to SVG made harmless.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            other => safe.push(other),
        }
    }
    safe
}

/// A power of ten in milliseconds, as people say it.
fn tick(power: i32) -> String {
    if power >= 3 {
        format!("{} s", 10_f64.powi(power - 3))
    } else {
        format!("{} ms", 10_f64.powi(power))
    }
}

impl Picture {
    /// Where a time is on the axis; what is off it is put at its ends.
    fn x(&self, ms: f64) -> f64 {
        let (low, high) = (f64::from(self.decades.0), f64::from(self.decades.1));
        let share = (ms.max(f64::MIN_POSITIVE).log10() - low) / (high - low);
        LABELS + share.clamp(0.0, 1.0) * (WIDTH - LABELS - NOTES)
    }

    /// The picture as a file.
    pub(crate) fn svg(&self) -> String {
        let strips: usize = self.panels.iter().map(|panel| panel.strips.len()).sum();
        let (panels, strips) = (f64_of(self.panels.len()), f64_of(strips));
        let height = MARGIN * 2.0 + 24.0 + panels * HEAD + strips * STRIP;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{MARGIN}\" y=\"{y}\" font-size=\"15\">{title}</text>\n",
            y = MARGIN + 12.0,
            title = escaped(&self.title),
        );
        let mut top = MARGIN + 24.0;
        for panel in &self.panels {
            self.panel(&mut text, panel, top);
            top += HEAD + f64_of(panel.strips.len()) * STRIP;
        }
        text += "</svg>\n";
        text
    }

    fn panel(&self, text: &mut String, panel: &Panel, top: f64) {
        let bottom = top + HEAD + f64_of(panel.strips.len()) * STRIP - 10.0;
        let _ = writeln!(
            text,
            "<text x=\"{MARGIN}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
            top + 26.0,
            escaped(&panel.title)
        );
        for power in self.decades.0..=self.decades.1 {
            let x = self.x(10_f64.powi(power));
            let _ = writeln!(
                text,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" \
                 stroke=\"#dddddd\"/>\n<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"#777777\" \
                 font-size=\"10\" text-anchor=\"middle\">{}</text>",
                top + 30.0,
                top + 26.0,
                tick(power)
            );
        }
        for (index, strip) in panel.strips.iter().enumerate() {
            self.strip(text, strip, top + HEAD + f64_of(index) * STRIP);
        }
    }

    fn strip(&self, text: &mut String, strip: &Strip, y: f64) {
        let weight = if strip.ours { "bold" } else { "normal" };
        let colour = match (strip.bad, strip.ours) {
            (true, _) => "#c0392b",
            (false, true) => "#1b6ca8",
            (false, false) => "#666666",
        };
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-weight=\"{weight}\">{}</text>",
            LABELS - 12.0,
            y + 4.0,
            escaped(&strip.label)
        );
        for dot in &strip.dots {
            let _ = match dot {
                Dot::At(ms) => writeln!(
                    text,
                    "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\" \
                     fill-opacity=\"0.6\"/>",
                    self.x(*ms)
                ),
                Dot::Never => writeln!(
                    text,
                    "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" \
                     text-anchor=\"middle\">\u{d7}</text>",
                    WIDTH - NOTES + BEYOND,
                    y + 4.0
                ),
            };
        }
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" font-size=\"11\">{}</text>",
            WIDTH - NOTES + 2.0 * BEYOND,
            y + 4.0,
            escaped(&strip.note)
        );
    }
}

/// A count as a length: there are far fewer than a float can tell apart.
fn f64_of(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        let strip = |label: &str, dots: &[Dot]| Strip {
            label: label.to_owned(),
            ours: false,
            bad: false,
            note: "a & b".to_owned(),
            dots: dots.to_vec(),
        };
        Picture {
            title: "times".to_owned(),
            decades: (0, 4),
            panels: vec![Panel {
                title: "cut".to_owned(),
                strips: vec![
                    strip("one", &[Dot::At(10.0), Dot::At(20.0), Dot::Never]),
                    strip("<two>", &[Dot::At(1e9)]),
                ],
            }],
        }
    }

    #[test]
    fn every_run_is_drawn() {
        let svg = picture().svg();
        assert_eq!(svg.matches("<circle").count(), 3);
        assert_eq!(svg.matches('\u{d7}').count(), 1);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn names_do_not_break_it() {
        let svg = picture().svg();
        assert!(svg.contains("&lt;two&gt;") && svg.contains("a &amp; b"));
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }

    #[test]
    fn the_axis_is_logarithmic_and_has_ends() {
        let picture = picture();
        let whole = picture.x(10_000.0) - picture.x(1.0);
        let half = picture.x(100.0) - picture.x(1.0);
        assert!((whole / half - 2.0).abs() < 1e-9);
        assert!(picture.x(0.0) >= LABELS && picture.x(1e12) <= WIDTH - NOTES);
    }
}
