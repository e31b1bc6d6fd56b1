//! Asking whether things are well.
