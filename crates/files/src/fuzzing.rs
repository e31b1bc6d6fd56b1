//! Doors for `crates/fuzz`, and for nobody else.
//!
//! Not behind a feature: see the module of the same name in `evenkeel_transport`.

use evenkeel_core::fence::Seal;

use crate::io::gate;

/// The seal in a file, if it is one.
pub fn seal(text: &str) -> Option<Seal> {
    gate::parse(text)
}

/// How it is written.
pub fn sealed(seal: Seal) -> String {
    gate::text(seal)
}
