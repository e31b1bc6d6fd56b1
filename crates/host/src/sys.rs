//! The kernel's interfaces that no safe crate covers. Each function here is safe to
//! call; each unsafe block says why it is sound.

pub mod baton;
pub mod bpf;
pub mod bpffs;
pub mod fanotify;
pub mod icmp;
pub mod inherit;
pub mod netns;
pub mod packet;
pub mod pidfd;
pub mod sched;
pub mod shm;
pub mod signals;
pub mod spawn;
pub mod tap;
pub mod udp;
