//! Deliberate faults, to show that the checkers can see: rules of the lease protocol taken away
//! ([`evenkeel_core::lease::Faults`]), and mistakes in the use of the machines, made here in the
//! wiring. Values, never build switches; a product has none of them.

use evenkeel_core::lease;

/// What is done wrong in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Within the lease machine.
    pub lease: lease::Faults,
    /// The lease thread hears of an assignment when it is agreed, not when it is on disk.
    pub floor_at_commit: bool,
    /// A group opens when its assignment is on this node's disk, agreed on or not.
    pub opens_at_append: bool,
    /// A daemon without memory answers at once.
    pub no_silence: bool,
    /// The guard is told for how long, by a clock read before the thread stood still.
    pub guard_relative: bool,
    /// What must outlive the worker is written after what relies on it was sent.
    pub mirror_late: bool,
    /// The guard's addresses are those of the file.
    pub addresses_from_file: bool,
    /// The guard shuts after it was said that it has.
    pub released_early: bool,
    /// Failures are forgotten as soon as they are agreed on.
    pub hold_down_ignored: bool,
    /// Assignments do not say why.
    pub evidence_dropped: bool,
    /// Disks acknowledge what they have not written.
    pub disk_lies: bool,
    /// A voter that has lost its log votes at once.
    pub votes_after_amnesia: bool,
    /// Assignments are proposed in whatever term, and tried again.
    pub stale_term: bool,
    /// Anybody is let in who says that he is a node.
    pub gate_open: bool,
    /// What was missed of the lease thread's news is never told again.
    pub news_lost: bool,
    /// What became of a proposal is never told.
    pub answers_lost: bool,
    /// An operator's command counts as done before it is agreed on.
    pub acknowledged_early: bool,
}

/// Makes one mistake.
pub type Set = fn(&mut Faults);

/// Every fault with its name.
pub const ALL: &[(&str, Set)] = &[
    ("no-restart-rule", |f| f.lease.no_restart_rule = true),
    ("no-wait", |f| f.lease.no_wait = true),
    ("spent-reusable", |f| f.lease.spent_reusable = true),
    ("no-margin", |f| f.lease.no_margin = true),
    ("void-counts", |f| f.lease.void_counts = true),
    ("void-before-shut", |f| f.lease.void_before_shut = true),
    ("void-unnumbered", |f| f.lease.void_unnumbered = true),
    ("any-incarnation", |f| f.lease.any_incarnation = true),
    ("floor-at-commit", |f| f.floor_at_commit = true),
    ("opens-at-append", |f| f.opens_at_append = true),
    ("no-silence", |f| f.no_silence = true),
    ("guard-relative", |f| f.guard_relative = true),
    ("mirror-late", |f| f.mirror_late = true),
    ("addresses-from-file", |f| f.addresses_from_file = true),
    ("released-early", |f| f.released_early = true),
    ("hold-down-ignored", |f| f.hold_down_ignored = true),
    ("evidence-dropped", |f| f.evidence_dropped = true),
    ("disk-lies", |f| f.disk_lies = true),
    ("votes-after-amnesia", |f| f.votes_after_amnesia = true),
    ("stale-term", |f| f.stale_term = true),
    ("gate-open", |f| f.gate_open = true),
    ("news-lost", |f| f.news_lost = true),
    ("answers-lost", |f| f.answers_lost = true),
    ("acknowledged-early", |f| f.acknowledged_early = true),
];

impl Faults {
    /// The fault of this name.
    pub fn named(name: &str) -> Option<Self> {
        let (_, set) = ALL.iter().find(|(known, _)| *known == name)?;
        let mut faults = Self::default();
        set(&mut faults);
        Some(faults)
    }

    /// Whether anything is done wrong.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}
