//! `evenkeel doctor`: looks, prints what was found, and says by the exit code how fit the node is.

use std::process::ExitCode;

use evenkeel_console::api::v1::Fit;
use evenkeel_console::doctor;
use evenkeel_daemon::doctor::{Asked, MEASURE_MAX, MEASURE_MIN, examine};

use crate::cli::Doctor;

/// It works, but less well than it could.
const REDUCED: u8 = 1;
/// It does not work, or could not be looked at.
const UNFIT: u8 = 2;

/// Looks and prints. Never waits longer than the measurement and some seconds.
pub fn doctor(told: &Doctor) -> ExitCode {
    if !(MEASURE_MIN..=MEASURE_MAX).contains(&told.measure) {
        eprintln!(
            "evenkeel: --measure is from {} ms to {} s",
            MEASURE_MIN.as_millis(),
            MEASURE_MAX.as_secs()
        );
        return ExitCode::from(UNFIT);
    }
    let found = examine(&Asked {
        socket: told.client.socket.clone(),
        config: told.config.clone(),
        node: told.node.clone(),
        state: told.state.clone(),
        pki: told.pki.clone(),
        measure: told.measure,
    });
    if told.json {
        match serde_json::to_string_pretty(&found) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("evenkeel: what was found cannot be written as JSON: {error}");
                return ExitCode::from(UNFIT);
            }
        }
    } else {
        print!("{}", doctor::text(&found));
    }
    match found.verdict {
        Fit::Fit => ExitCode::SUCCESS,
        Fit::Reduced => ExitCode::from(REDUCED),
        Fit::Unfit => ExitCode::from(UNFIT),
    }
}
