//! The lab by itself, for work on it: `evenkeel lab` without the rest of `evenkeel`.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = evenkeel_lab::entry(&arguments) {
        return code;
    }
    evenkeel_lab::main_lab(&arguments[1..])
}
