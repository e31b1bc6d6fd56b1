//! Hostile input: every reader of bytes from outside, given bytes that mean harm.
//!
//! A [`Target`] is one reader, or a few that belong together: what it reads, real values to begin
//! with, and a judge that gives it any bytes and asserts what must hold. "Does not panic" is the
//! least of that. Where a form is ours, what was read is written and read again; what was forged is
//! refused; what is kept is bounded. [`attend`] adds two bounds to each: the memory that may be
//! taken beside the input, and the processor time.
//!
//! ```text
//!   seeds of a target ──▶ tests/short.rs: each, and a number of mutants, the same each time (CI)
//!                     ──▶ main.rs, `evenkeel-fuzz run`: the same for as long as one likes
//!                     ──▶ fuzz/ (outside of the workspace): libFuzzer, led by coverage (make fuzz)
//! ```
//!
//! All three run the same judges, and none needs more than the stable compiler. The short run is
//! not led by coverage: it is there so that nobody breaks a judge or a bound unseen. What libFuzzer
//! finds becomes a named test beside the reader.
//!
//! Readers are reached through the doors of their rooms. Where a room has none, its module
//! `fuzzing` is one, hidden from the documentation, with the reason in it.

mod chance;
mod input;
mod mutation;
mod place;
mod targets;
mod values;

use std::time::Duration;

use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};

pub use chance::Chance;
pub use mutation::Mutator;
pub use targets::TARGETS;

#[global_allocator]
static MEMORY_IN_USE: PeakAlloc = PeakAlloc;

/// One kind of input.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: of its file, and on the command line.
    pub name: &'static str,
    /// What is read, and by whom.
    pub reads: &'static str,
    /// Real values, made and not pasted in.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Gives the reader some bytes and looks at what comes of it. Panics if that must not be.
    pub judge: fn(&[u8]),
    /// The longest input, in bytes.
    pub length_max: usize,
    /// Memory that may be taken beside the input, whatever that is, in bytes.
    pub memory: usize,
    /// Memory that may be taken beside that for each byte of the input.
    pub memory_per_byte: usize,
    /// Mutants of the short run: more where one costs little.
    pub mutants: u32,
}

/// What most readers may take beside the input: serde takes a MiB in advance for each list within
/// a list, whatever length it names, and some tables of libraries are made once.
pub const MEMORY: usize = 8 << 20;

/// Processor time that one input may take in an unoptimised build, where the longest inputs
/// take a tenth of it.
pub const TIME_MAX: Duration = Duration::from_secs(4);

/// Has `target` judge `input`, within its bounds.
///
/// # Panics
/// If anything does not hold.
pub fn attend(target: &Target, input: &[u8]) {
    let input = &input[..input.len().min(target.length_max)];
    MEMORY_IN_USE.reset_peak_usage();
    let before = MEMORY_IN_USE.current_usage();
    let begun = used();
    (target.judge)(input);
    let took = used().saturating_sub(begun);
    let most = MEMORY_IN_USE.peak_usage().saturating_sub(before);
    let bound = target.memory + target.memory_per_byte * input.len();
    assert!(
        most <= bound,
        "{}: {most} bytes of memory for {} of input, more than {bound}",
        target.name,
        input.len()
    );
    assert!(
        took <= TIME_MAX,
        "{}: {took:?} of processor time for {} bytes of input",
        target.name,
        input.len()
    );
}

/// The same, and an input that fails is kept in a file of the system's temporary directory, named in
/// what is printed: `evenkeel-fuzz one` judges it again.
///
/// # Panics
/// If anything does not hold.
pub fn attend_or_keep(target: &Target, input: &[u8]) {
    let kept = Kept { target, input };
    attend(target, input);
    std::mem::forget(kept);
}

/// Written down when it is dropped, which happens only if its judge panics.
struct Kept<'a> {
    target: &'a Target,
    input: &'a [u8],
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let name = self.target.name;
        let path = std::env::temp_dir().join(format!("evenkeel-fuzz-{name}"));
        match std::fs::write(&path, self.input) {
            Ok(()) => eprintln!(
                "to judge it again: cargo run -p evenkeel-fuzz -- one {name} {}",
                path.display()
            ),
            Err(error) => eprintln!("the input is lost: {error}; it was {:?}", self.input),
        }
    }
}

/// Processor time that this thread has used: what others do on the machine is no matter.
pub fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
