//! The engine as a whole: clusters in one process, on files and in memory, in real and virtual
//! time.

mod amnesia;
mod cluster;
mod disks;
mod generation;
mod harness;
mod slow;
mod suite;
mod virtual_time;
