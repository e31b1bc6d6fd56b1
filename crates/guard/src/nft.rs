//! The wide mechanism: one nftables table of family `netdev`.
//!
//! ```text
//! chain in-N, out-N          hook of device number N; goes to the chain below
//! chain ingress, egress      find the address, go to the chain of its group
//! map guarded4, guarded6     address -> that chain (or drop, if it is in no group)
//! chain group-ID             drop, unless the group is held
//! set held                   one element per open group, with a time-out
//! set attempts4, attempts6   addresses to which no connection may be begun for now
//! ```
//!
//! The table is `owner | persist` where the kernel knows that (6.9 or newer): other
//! programs can then neither flush nor delete it, and it outlives its process. Never
//! `owner` alone, with which it would vanish with the process and open everything.
//! What belongs to an owned table can only be changed through one socket, so the hot
//! handle and the keeper share it: the hot one only sends, the keeper alone reads.

mod hold;
mod relay;
mod rules;
mod table;
mod words;

pub(crate) use hold::Hold;
pub(crate) use relay::Relay;
pub(crate) use rules::Tag;
pub(crate) use table::{
    CLOSED, Condition, Content, Guarded, Ownership, Table, delete, groups_of, hook_device,
    read_guarded, write_list,
};
