//! Doors for `crates/fuzz`, and for nobody else: the notes in /run, as texts.
//!
//! Not behind a feature: see the module of the same name in `evenkeel_transport`.

use std::time::Duration;

use evenkeel_config::Command;

use crate::v1::{self, Held};

/// What is written of what was read of a note of something that is held.
pub fn held(text: &str) -> Option<String> {
    Held::read(text).map(|held| held.write())
}

/// The note of something that is held, and whether it is read back as it was.
pub fn held_back(stop: Command, stop_timeout: Duration) -> (String, bool) {
    let held = Held::Scripts { stop, stop_timeout };
    let text = held.write();
    let same = Held::read(&text).as_ref() == Some(&held);
    (text, same)
}

/// The two numbers of any other note.
pub fn numbers(text: &str) -> Option<(u64, u64)> {
    v1::two(text)
}
