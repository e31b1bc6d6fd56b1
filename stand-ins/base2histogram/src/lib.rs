//! Histograms that keep nothing but a count, in the place of those of the crate of this
//! name.
//!
//! The consensus engine keeps histograms of its own work, which can be looked at only
//! with a feature that evenkeel does not build. The real crate fills tables for all its
//! resolutions at the first use: 25 MiB, three quarters of the memory of a node at rest
//! (DESIGN 7 allows 30). What the engine calls is here, and no more; if a newer engine
//! calls something else, it does not build.

use std::fmt;
use std::marker::PhantomData;

/// Counts samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    samples: u64,
    kind: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// No samples yet.
    pub fn new() -> Self {
        Self {
            samples: 0,
            kind: PhantomData,
        }
    }

    /// One more sample.
    pub fn record(&mut self, _value: u64) {
        self.samples = self.samples.saturating_add(1);
    }

    /// So many more samples.
    pub fn record_n(&mut self, _value: u64, count: u64) {
        self.samples = self.samples.saturating_add(count);
    }

    /// How many samples.
    pub fn total(&self) -> u64 {
        self.samples
    }

    /// The count; the values were not kept.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.samples,
            ..PercentileStats::default()
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A distribution; of this one only the count is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]

pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[samples: {}]", self.samples)
    }
}

/// A drawing of histograms: there is nothing to draw.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty one.
    pub fn new() -> Self {
        Self
    }

    /// Another histogram.
    #[must_use]
    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> Self {
        self
    }

    /// The same with more detail.
    #[must_use]
    pub fn detailed(self) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not kept)")
    }
}
