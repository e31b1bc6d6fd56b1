//! Versioned forms of core types: peer messages, log entries, snapshots.
