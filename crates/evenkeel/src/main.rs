//! The command line: parses, calls the room that does it, and maps outcomes to exit
//! codes. 0: done. 1: refused, with the reason and the remedy. 2: the command line is off, or
//! (`drain`) groups are left.

mod cli;
mod commands;
mod doctor;
mod drain;
mod plan;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // The lab starts this program again in other roles.
    if let Some(code) = evenkeel_lab::entry(&arguments) {
        return code;
    }
    commands::run(cli::Cli::parse())
}
