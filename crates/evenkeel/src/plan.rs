//! `evenkeel plan`: asks the leader what would happen if.

use std::process::ExitCode;

use evenkeel_console::api::v1::{Answer, Request};
use evenkeel_console::{client, plan};

use crate::cli::Client;

/// Asks, and prints the forecast.
pub fn plan(failure: String, json: bool, client: &Client) -> anyhow::Result<ExitCode> {
    match client::ask(&client.socket, &Request::Plan { failure })? {
        Answer::Plan(plan) if json => println!("{}", serde_json::to_string_pretty(&plan)?),
        Answer::Plan(plan) => print!("{}", plan::text(&plan)),
        Answer::Refused(reason) => {
            eprintln!("evenkeel: refused: {reason}");
            return Ok(ExitCode::FAILURE);
        }
        Answer::Status(_)
        | Answer::Why(_)
        | Answer::Done(_)
        | Answer::Reload(_)
        | Answer::Doctor(_) => anyhow::bail!("the daemon answered something else"),
    }
    Ok(ExitCode::SUCCESS)
}
