//! The whole world: what runs on every node of a cluster, wired as the daemon wires it, in virtual
//! time and on machines of our own.
//!
//! Real are the decision machine ([`evenkeel_core::node`]), the lease machine, the consensus engine
//! with its log thread, the generations and the right to vote, and every form that is sent or
//! stored ([`evenkeel_wire`]). Models are the network, disks, clocks, the kernel's guard, services,
//! checks, operators, and the thin wiring of the daemon between its threads, which this crate may
//! not import: each file here names the one of `crates/daemon` that it stands for.
//!
//! ```text
//!          world (true time, one queue, one seed)
//!    ┌───────────┬──────────────┬────────────────┐
//!   wires       host × 2..5    operator         chaos ──▶ what goes wrong
//!    │        ┌───┴──────────────────────────┐
//!    │        │ kernel: clock, guard, mirror │  outlives the daemon
//!    │        │ disk, state directory        │  outlives the machine
//!    │        │ lease thread ⇄ driver ⇄ engine│  one worker; a delay on every seam
//!    │        │ services and checks          │
//!    └────────┴──────────────────────────────┘
//!   check: one file for each property, asked after every event
//! ```
//!
//! A run has two phases. In the first things go wrong: which, how often and how badly is drawn
//! from the seed ([`recipe`]). In the second all is mended, and the cluster must come to rest: every
//! group served by exactly one node, all nodes of one opinion, nobody waiting.
//!
//! What is not here: more than one generation of the log (`recover`), two processes of one node at
//! once (a clone that runs beside its original; a restored directory is here), groups that change
//! their nodes, and databases and files (S3), which come with their rooms. The engine's own timers
//! run on true time: a frozen process neither sends nor hears, but its engine's elections go on in
//! it, which the others cannot tell from a slow network.

mod agreement;
pub mod chaos;
pub mod check;
mod disk;
mod driver;
pub mod faults;
mod gate;
mod host;
mod inbox;
mod kernel;
mod operator;
mod place;
pub mod recipe;
pub mod run;
mod service;
pub mod story;
mod thread;
mod wires;
pub mod world;
