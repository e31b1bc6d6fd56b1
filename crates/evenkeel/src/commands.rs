//! What each command does, and its exit code.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use evenkeel_console::api::v1::{Answer, Request};
use evenkeel_console::{client, reload, view};
use evenkeel_core::NodeName;
use evenkeel_daemon::Options;
use evenkeel_transport::pki;

use crate::cli::{Cli, Client, Command, Config, Pki, Run};

/// How often `status --watch` looks again.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Runs one command.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Pki(pki) => certificates(pki),
        Command::Run(run) => daemon(run),
        Command::Config(Config::Check { file }) => check(&file),
        Command::Status {
            json,
            watch,
            client,
        } => status(json, watch, &client),
        Command::Switch {
            group,
            to,
            force,
            client,
        } => ask(&client, &Request::Switch { group, to, force }),
        Command::Drain(drain) => crate::drain::drain(&drain),
        Command::Undrain { node, client } => ask(&client, &Request::Undrain { node }),
        Command::Why {
            group,
            json,
            client,
        } => why(group, json, &client),
        Command::Plan {
            failure,
            json,
            client,
        } => crate::plan::plan(failure, json, &client),
        Command::Doctor(doctor) => return crate::doctor::doctor(&doctor),
        Command::Readmit { node, client } => ask(&client, &Request::Readmit { node }),
        Command::Recover(recover) => ask(
            &recover.client,
            &Request::Recover {
                stopped: recover.i_have_stopped,
            },
        ),
        Command::Reload {
            everywhere,
            force,
            client,
        } => change(
            &client,
            |client: &mut reload::Client<'_>| match everywhere {
                true => client.everywhere(force),
                false => client.reload(),
            },
        ),
        Command::Upgrade { client } => {
            change(&client, |client: &mut reload::Client<'_>| client.upgrade())
        }
        Command::Replay { file, tell } => {
            let replayed = evenkeel_daemon::replay(&file, tell, &mut std::io::stdout().lock());
            replayed.map(|()| ExitCode::SUCCESS)
        }
        Command::Forms { of } => {
            println!("{}", evenkeel_daemon::forms(of.as_deref()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo { plain } => demo(plain),
        Command::Lab { arguments } => return evenkeel_lab::main_lab(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("evenkeel: {error:#}");
        ExitCode::FAILURE
    })
}

fn node_name(text: &str) -> anyhow::Result<NodeName> {
    NodeName::new(text).map_err(|fault| anyhow::anyhow!("{text:?} is not a name: {fault}"))
}

fn certificates(pki: Pki) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now();
    match pki {
        Pki::Init { dir, cluster } => {
            pki::init(&dir, cluster.as_deref(), now)?;
            println!("made {}", dir.join("ca.pem").display());
            println!(
                "made {}: whoever has it can make nodes; keep it off the servers",
                dir.join("ca.key").display()
            );
        }
        Pki::Issue {
            dir,
            node,
            out,
            from,
        } => {
            let out = out.unwrap_or_else(|| dir.clone());
            let from = from.map_or(now, SystemTime::from);
            let fingerprint = pki::issue(&dir, &node_name(&node)?, &out, from)?;
            println!("made {node}.pem and {node}.key in {}", out.display());
            println!("fingerprint {fingerprint} (for `revoked` in the file, should it be lost)");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn daemon(run: Run) -> anyhow::Result<ExitCode> {
    let options = Options {
        config: run.config,
        node: node_name(&run.node)?,
        state: run.state,
        pki: run.pki,
        socket: run.socket,
    };
    Ok(evenkeel_daemon::run(&options))
}

fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let color = std::io::stderr().is_terminal();
    match evenkeel_config::load(file) {
        Ok(config) => {
            if !config.warnings.is_empty() {
                eprint!("{}", config.warnings.render(color));
            }
            println!(
                "{}: good: {} nodes, {} groups, digest {:016x}",
                file.display(),
                config.topology.nodes.len(),
                config.topology.groups.len(),
                config.digest
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => {
            eprint!("{}", faults.render(color));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn ask(client: &Client, request: &Request) -> anyhow::Result<ExitCode> {
    match client::ask(&client.socket, request)? {
        Answer::Done(text) => {
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Answer::Refused(reason) => {
            eprintln!("evenkeel: refused: {reason}");
            Ok(ExitCode::FAILURE)
        }
        Answer::Status(_)
        | Answer::Why(_)
        | Answer::Reload(_)
        | Answer::Plan(_)
        | Answer::Doctor(_) => {
            anyhow::bail!("the daemon answered something else")
        }
    }
}

/// A reload or an upgrade, and its exit code.
fn change(
    client: &Client,
    order: impl FnOnce(&mut reload::Client<'_>) -> Result<String, String>,
) -> anyhow::Result<ExitCode> {
    let mut ask = |request: &Request| client::ask(&client.socket, request);
    match order(&mut reload::Client::new(&mut ask)) {
        Ok(text) => {
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => {
            eprintln!("evenkeel: refused: {reason}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn status(json: bool, watch: bool, client: &Client) -> anyhow::Result<ExitCode> {
    let mut seen: Option<Instant> = None;
    loop {
        let status = match client::ask(&client.socket, &Request::Status) {
            Ok(Answer::Status(status)) => status,
            Ok(_) => anyhow::bail!("the daemon answered something else"),
            // It is being replaced, and who watches goes on watching.
            Err(error) if error.may_pass() && seen.is_some_and(lately) => {
                eprintln!("evenkeel: {error}");
                std::thread::sleep(WATCH_EVERY);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        seen = Some(Instant::now());
        let text = if json {
            serde_json::to_string_pretty(&status)? + "\n"
        } else {
            view::status(&status)
        };
        if !watch {
            print!("{text}");
            return Ok(ExitCode::SUCCESS);
        }
        if std::io::stdout().is_terminal() && !json {
            print!("\x1b[2J\x1b[H");
        }
        print!("{text}");
        std::io::Write::flush(&mut std::io::stdout()).context("cannot write the status")?;
        std::thread::sleep(WATCH_EVERY);
    }
}

fn lately(seen: Instant) -> bool {
    seen.elapsed() < client::AWAY_MAX
}

fn why(group: Option<String>, json: bool, client: &Client) -> anyhow::Result<ExitCode> {
    match client::ask(&client.socket, &Request::Why { group })? {
        Answer::Why(moves) if json => println!("{}", serde_json::to_string_pretty(&moves)?),
        Answer::Why(moves) => print!("{}", view::why(&moves)),
        Answer::Refused(reason) => {
            eprintln!("evenkeel: refused: {reason}");
            return Ok(ExitCode::FAILURE);
        }
        Answer::Status(_)
        | Answer::Done(_)
        | Answer::Reload(_)
        | Answer::Plan(_)
        | Answer::Doctor(_) => {
            anyhow::bail!("the daemon answered something else")
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn demo(plain: bool) -> anyhow::Result<ExitCode> {
    evenkeel_lab::demo(&evenkeel_lab::DemoOptions {
        evenkeel: None,
        plain,
    })
}
