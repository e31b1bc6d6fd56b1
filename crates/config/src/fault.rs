//! What is wrong with a file: all of it at once, each with its place, the reason and
//! the remedy.

use std::fmt;
use std::sync::Arc;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};

use crate::source::{Place, Source, Span};

/// How many faults are kept of one file; a person corrects a few and runs again.
pub const FAULTS_MAX: usize = 100;

/// How wide a rendered line may be, in columns.
const RENDER_WIDTH: usize = 100;

/// Whether a file can be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Refused,
    /// The file is used; somebody should know.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whether the file is refused for it.
    pub severity: Severity,
    /// The file.
    pub file: Arc<str>,
    /// Where, unless it is about the file as a whole.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
    span: Option<Span>,
    also: Vec<(Span, String)>,
}

impl Fault {
    /// The bytes of the file that it points at.
    pub fn span(&self) -> Option<Span> {
        self.span.clone()
    }

    /// Points at a second place, with a word on it.
    pub(crate) fn also(&mut self, span: &Span, label: impl Into<String>) {
        self.also.push((span.clone(), label.into()));
    }
}

/// `file:line:column: message`, on one line.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: ")?,
            None => write!(f, "{}: ", self.file)?,
        }
        match self.severity {
            Severity::Refused => write!(f, "{}", self.message),
            Severity::Warning => write!(f, "warning: {}", self.message),
        }
    }
}

/// Everything that is wrong with one file, in the order of the file. Shown plainly it is
/// two lines each, the place with the message and then the remedy; [`Faults::render`]
/// shows the lines of the file too.
#[derive(Clone, Debug)]
pub struct Faults {
    source: Arc<Source>,
    faults: Vec<Fault>,
    left_out: usize,
}

impl Faults {
    /// About a file as a whole, when it could not be read at all.
    pub(crate) fn of_file(file: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        let fault = Fault {
            severity: Severity::Refused,
            file: file.into(),
            place: None,
            message: message.into(),
            help: help.into(),
            span: None,
            also: Vec::new(),
        };
        Self {
            source: Arc::new(Source::new(file, "")),
            faults: vec![fault],
            left_out: 0,
        }
    }

    /// The faults, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.faults.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// How many there are, those beyond [`FAULTS_MAX`] counted too.
    pub fn len(&self) -> usize {
        self.faults.len() + self.left_out
    }

    /// For people at a terminal: each fault with its lines of the file.
    pub fn render(&self, color: bool) -> String {
        let theme = if color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(RENDER_WIDTH)
            .with_context_lines(1)
            .with_links(false)
            .without_cause_chain();
        let mut text = String::new();
        for fault in &self.faults {
            if !text.is_empty() {
                text.push('\n');
            }
            let framed = Framed {
                fault,
                source: self.source.named(),
            };
            if handler.render_report(&mut text, &framed).is_err() {
                // Writing into memory cannot fail; should the renderer itself give up,
                // the plain words still say everything.
                text.push_str(&format!("{fault}\n  help: {}\n", fault.help));
            }
        }
        text.push_str(&self.rest());
        text
    }

    fn rest(&self) -> String {
        match self.left_out {
            0 => String::new(),
            more => format!("{}: and {more} more\n", self.source.name()),
        }
    }
}

impl<'f> IntoIterator for &'f Faults {
    type Item = &'f Fault;
    type IntoIter = std::slice::Iter<'f, Fault>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
            writeln!(f, "  help: {}", fault.help)?;
        }
        write!(f, "{}", self.rest())
    }
}

impl std::error::Error for Faults {}

impl Diagnostic for Faults {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source.named())
    }
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(
            self.faults.iter().map(|fault| fault as &dyn Diagnostic),
        ))
    }
}

impl std::error::Error for Fault {}

impl Diagnostic for Fault {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Refused => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.help))
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let main = LabeledSpan::new_primary_with_span(None, self.span.clone()?);
        let others = self.also.iter();
        let others = others
            .map(|(span, label)| LabeledSpan::new_with_span(Some(label.clone()), span.clone()));
        Some(Box::new(std::iter::once(main).chain(others)))
    }
}

/// A fault together with its file, as the renderer wants it.
struct Framed<'f> {
    fault: &'f Fault,
    source: &'f miette::NamedSource<Arc<str>>,
}

impl fmt::Display for Framed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The frame shows the place.
        match &self.fault.place {
            Some(_) => write!(f, "{}", self.fault.message),
            None => write!(f, "{}: {}", self.fault.file, self.fault.message),
        }
    }
}

impl fmt::Debug for Framed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

impl std::error::Error for Framed<'_> {}

impl Diagnostic for Framed<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Diagnostic::severity(self.fault)
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.fault.help()
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.fault
            .span
            .as_ref()
            .map(|_| self.source as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.fault.labels()
    }
}

/// Where the readers of elements report what they find.
pub(crate) struct Report {
    source: Arc<Source>,
    refused: Vec<Fault>,
    warnings: Vec<Fault>,
    left_out: usize,
    /// Takes what no longer fits.
    spare: Fault,
}

impl Report {
    pub(crate) fn new(source: Arc<Source>) -> Self {
        let spare = fault_at(
            &source,
            Severity::Refused,
            &(0..0),
            String::new(),
            String::new(),
        );
        Self {
            source,
            refused: Vec::new(),
            warnings: Vec::new(),
            left_out: 0,
            spare,
        }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Another one of the same file, for a look ahead at what is read and judged later.
    pub(crate) fn aside(&self) -> Self {
        Self::new(self.source.clone())
    }

    /// The file is refused because of what stands at `span`.
    pub(crate) fn refuse(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> &mut Fault {
        self.add(Severity::Refused, span, message.into(), help.into())
    }

    /// The file is used, but somebody should know.
    pub(crate) fn warn(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> &mut Fault {
        self.add(Severity::Warning, span, message.into(), help.into())
    }

    fn add(
        &mut self,
        severity: Severity,
        span: &Span,
        message: String,
        help: String,
    ) -> &mut Fault {
        let fault = fault_at(&self.source, severity, span, message, help);
        let list = match severity {
            Severity::Refused => &mut self.refused,
            Severity::Warning => &mut self.warnings,
        };
        if list.len() == FAULTS_MAX {
            self.left_out += usize::from(severity == Severity::Refused);
            self.spare = fault;
            return &mut self.spare;
        }
        list.push(fault);
        list.last_mut().expect("it has just been pushed")
    }

    /// The warnings if nothing was refused, else what was.
    pub(crate) fn finish(self) -> Result<Faults, Faults> {
        let in_order = |mut faults: Vec<Fault>, left_out| {
            faults.sort_by_key(|fault| fault.span.as_ref().map_or(0, |span| span.start));
            Faults {
                source: self.source.clone(),
                faults,
                left_out,
            }
        };
        match self.refused.is_empty() {
            true => Ok(in_order(self.warnings, 0)),
            false => Err(in_order(self.refused, self.left_out)),
        }
    }
}

/// A text as a message quotes it.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
        None => format!("{text:?}"),
    }
}

fn fault_at(
    source: &Source,
    severity: Severity,
    span: &Span,
    message: String,
    help: String,
) -> Fault {
    Fault {
        severity,
        file: source.name().clone(),
        place: Some(source.place(span.start)),
        message,
        help,
        span: Some(span.clone()),
        also: Vec::new(),
    }
}

/// One fault at a place of a file that was read before, found later: by the daemon, when
/// the file meets the machine.
pub(crate) fn late(source: &Arc<Source>, span: &Span, message: String, help: String) -> Faults {
    let fault = fault_at(source, Severity::Refused, span, message, help);
    Faults {
        source: source.clone(),
        faults: vec![fault],
        left_out: 0,
    }
}
