//! The machine, walked.
