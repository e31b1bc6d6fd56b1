//! What `doctor` finds: one word for all rooms.

/// How bad it is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It was looked at, and is as it should be.
    Fine,
    /// It works, but less well than it could.
    Warning,
    /// It does not work.
    Unfit,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a file, an interface, an address, a node; empty if the text says so.
    pub place: String,
    /// What was found.
    pub what: String,
    /// What to do about it; empty if nothing, or if the text says so.
    pub remedy: String,
}

impl Finding {
    fn new(severity: Severity, place: &str, what: String) -> Self {
        Self {
            severity,
            place: place.to_owned(),
            what,
            remedy: String::new(),
        }
    }

    /// All is well there.
    pub fn fine(place: &str, what: impl Into<String>) -> Self {
        Self::new(Severity::Fine, place, what.into())
    }

    /// It works, but less well than it could.
    pub fn warning(place: &str, what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, place, what.into())
    }

    /// It does not work.
    pub fn unfit(place: &str, what: impl Into<String>) -> Self {
        Self::new(Severity::Unfit, place, what.into())
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// The worst of them; fine if there are none.
pub fn worst<'f>(findings: impl IntoIterator<Item = &'f Finding>) -> Severity {
    let all = findings.into_iter().map(|one| one.severity);
    all.max().unwrap_or(Severity::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts() {
        let fine = Finding::fine("x", "is well");
        let warning = Finding::warning("x", "is slow").remedy("make it quick");
        let unfit = Finding::unfit("x", "is broken");
        assert_eq!(worst(&[]), Severity::Fine);
        assert_eq!(worst(std::slice::from_ref(&fine)), Severity::Fine);
        assert_eq!(worst(&[fine.clone(), warning.clone()]), Severity::Warning);
        assert_eq!(worst(&[unfit, fine, warning]), Severity::Unfit);
    }
}
