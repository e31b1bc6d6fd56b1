//! This machine: netlink, frames, sockets, processes, scheduling. `sys` is the only
//! unsafe code of the project: each block there says why it is sound.

pub mod address;
pub mod arping;
pub mod attempt;
pub mod clock;
pub mod doctor;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod lateness;
pub mod listener;
pub mod logind;
pub mod named;
pub mod netlink;
pub mod notify;
pub mod ping;
pub mod process;
pub mod reentry;
pub mod run;
pub mod sockets;
#[expect(
    unsafe_code,
    reason = "the kernel's interfaces that no safe crate covers"
)]
pub mod sys;
pub mod systemd;
pub mod tickle;
pub mod unit;
pub mod watching;
