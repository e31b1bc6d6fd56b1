//! The addresses of this machine: added, deleted, watched.
