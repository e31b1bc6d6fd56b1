//! The demo: one look at the main job, for a person who has never seen it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;

use crate::bench::settled;
use crate::bridge::Switch;
use crate::client::{Client, Outcome, PACE, Record};
use crate::cluster::{Cluster, Plan, Profile, SERVICE};
use crate::fault::{self, Fault};
use crate::figures::{self, Seen};
use crate::inside::Lab;
use crate::{cli, launch};

/// Options of the demo.
#[derive(Clone, Debug, Default)]
pub struct DemoOptions {
    /// The daemon's program; this one if `None`.
    pub evenkeel: Option<PathBuf>,
    /// No colours, even on a terminal.
    pub plain: bool,
}

/// Shows the demo: builds a lab, breaks it, and cleans up. Needs root or a kernel that
/// lets ordinary users make user namespaces.
///
/// # Errors
///
/// A program, a right or a kernel feature that is missing, in words for a person. A
/// demo that did not go well is no error but a failing exit code.
pub fn demo(options: &DemoOptions) -> Result<ExitCode> {
    launch::launch(&cli::demo_arguments(options))
}

/// Requests that one mark of the live line stands for: 50 ms.
const MARK: Duration = Duration::from_millis(50);

/// A mark is drawn so long after its last request began: an answer takes less, and
/// what has not come by then is an outage to a person.
const DRAWN_AFTER: Duration = Duration::from_millis(100);

/// Marks in a line.
const LINE: u32 = 60;

/// Watched before something is broken, and after.
const CALM: Duration = Duration::from_millis(2500);

/// The page of the terminal: colours if it is one.
struct Paper {
    coloured: bool,
    start: Instant,
}

impl Paper {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn step(&self, text: &str) {
        let at = format!("[{:5.1} s]", self.start.elapsed().as_secs_f64());
        println!("{} {}", self.paint("2", &at), text);
    }

    fn say(&self, text: &str) {
        println!("          {text}");
    }
}

/// The live line: one mark per [`MARK`].
struct Live<'a> {
    paper: &'a Paper,
    client: &'a Client,
    cursor: usize,
    waiting: Vec<Record>,
    next: Moment,
    column: u32,
}

impl<'a> Live<'a> {
    fn new(paper: &'a Paper, client: &'a Client) -> Self {
        Self {
            paper,
            client,
            cursor: 0,
            waiting: Vec::new(),
            next: now(),
            column: 0,
        }
    }

    /// Draws until `end`.
    fn run_until(&mut self, end: Moment) {
        while now() < end {
            std::thread::sleep(MARK / 5);
            self.catch_up();
        }
        self.catch_up();
    }

    /// Draws while `work` is done, then for `after` more.
    fn run_while<T: Send>(
        &mut self,
        after: Duration,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let done = std::thread::scope(|scope| {
            let working = scope.spawn(work);
            while !working.is_finished() {
                std::thread::sleep(MARK / 5);
                self.catch_up();
            }
            working
                .join()
                .map_err(|_| anyhow::anyhow!("a step of the demo panicked"))
        })??;
        self.run_until(now() + after);
        Ok(done)
    }

    fn catch_up(&mut self) {
        self.waiting.extend(self.client.since(&mut self.cursor));
        while self.next + MARK + DRAWN_AFTER <= now() {
            let end = self.next + MARK;
            let (these, later) = self
                .waiting
                .drain(..)
                .partition(|record| record.start < end);
            self.waiting = later;
            self.draw(&these, self.client.begun(self.next, end));
            self.next = end;
        }
        let _ = std::io::stdout().flush();
    }

    fn draw(&mut self, records: &[Record], begun: usize) {
        if self.column == 0 {
            print!("          ");
        }
        let mut good = 0;
        let mut who = None;
        for record in records {
            if let Outcome::Good(host) = &record.outcome {
                good += 1;
                who = host.chars().next();
            }
        }
        // All but what the drawing itself delayed counts as all.
        let mark = match who {
            _ if begun == 0 => self.paper.paint("2", "-"),
            Some(letter) if good * 5 >= begun * 4 => self
                .paper
                .paint(if letter == 'a' { "32" } else { "36" }, &letter.to_string()),
            Some(_) => self.paper.paint("33", "!"),
            None => self.paper.paint("31", "x"),
        };
        print!("{mark}");
        self.column += 1;
        if self.column >= LINE {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        if self.column > 0 {
            println!();
        }
        self.column = 0;
    }
}

fn milliseconds(span: Duration) -> String {
    format!("{:.0} ms", span.as_secs_f64() * 1e3)
}

/// One act: calm, a deed, calm; what the client saw of it.
fn act<T: Send>(
    paper: &Paper,
    client: &Client,
    headline: &str,
    deed: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, Seen)> {
    let from = now();
    let mut live = Live::new(paper, client);
    live.run_until(now() + CALM);
    live.end_line();
    paper.step(headline);
    let done = live.run_while(CALM, deed)?;
    live.end_line();
    let to = now();
    let records = settled(client, from, to);
    Ok((done, figures::seen(&records, from, to)))
}

/// What the three acts came to.
struct Summary {
    cut: Seen,
    killed: Seen,
    planned: Seen,
    violations: Vec<String>,
}

fn build(paper: &Paper, lab: &Lab, switch: &Arc<Switch>, program: &Path) -> Result<Cluster> {
    paper
        .step("Building three machines on a switch: ams1 and fra1 with Apache, tie as the witness");
    let cluster = Cluster::start(lab, switch, &Plan::new(program, Profile::Balanced))?;
    Ok(cluster)
}

fn play(paper: &Paper, cluster: &mut Cluster) -> Result<Summary> {
    let mut holder = cluster.wait_whole()?;
    let mut standby = cluster.other(&holder)?;
    let client = cluster.client()?;
    let mut violations = Vec::new();
    paper.step(&format!(
        "{} is served by {}; a client asks every {} ms. One mark is {} ms:",
        paper.paint("1", &format!("http://{SERVICE}/")),
        paper.paint("1", &holder),
        PACE.as_millis(),
        MARK.as_millis()
    ));
    paper.say("a = ams1 answers, f = fra1 answers, ! = some requests got no answer, x = none did,");
    paper.say("- = the client itself was held up by this machine");

    cluster.observer.mark();
    let headline = format!(
        "{} of {holder}, with no warning",
        paper.paint("1;31", "POWER CUT")
    );
    let ((), cut) = act(paper, &client, &headline, || {
        fault::inject(cluster, Fault::PowerCut, &holder)
    })?;
    ensure!(
        cut.by_host.contains_key(&standby),
        "{standby} did not take over"
    );
    paper.step(&format!(
        "{} took over. Outage as the client saw it: {}",
        paper.paint("1", &standby),
        paper.paint("1;32", &milliseconds(cut.gap))
    ));
    paper.say(&format!(
        "{holder} gets its power back and joins as the standby"
    ));
    holder = cluster.heal()?;
    standby = cluster.other(&holder)?;
    violations.extend(cluster.verdict().violations);

    cluster.observer.mark();
    let headline = format!("{}: kill -9 of every Apache process on {holder}", {
        paper.paint("1;31", "SERVICE KILLED")
    });
    let ((), killed) = act(paper, &client, &headline, || {
        fault::inject(cluster, Fault::ServiceKilled, &holder)
    })?;
    ensure!(
        killed.by_host.contains_key(&standby),
        "{standby} did not take over"
    );
    paper.step(&format!(
        "{} took over. Outage as the client saw it: {}",
        paper.paint("1", &standby),
        paper.paint("1;32", &milliseconds(killed.gap))
    ));
    paper.say(&format!("Apache on {holder} is started again"));
    holder = cluster.heal()?;
    standby = cluster.other(&holder)?;
    violations.extend(cluster.verdict().violations);

    cluster.observer.mark();
    let headline = format!("{}: evenkeel switch www --to {standby}", {
        paper.paint("1;34", "PLANNED SWITCHOVER")
    });
    let ((), planned) = act(paper, &client, &headline, || {
        cluster.switch_over(&holder, &standby)
    })?;
    ensure!(
        planned.by_host.contains_key(&standby),
        "{standby} did not take over"
    );
    violations.extend(cluster.verdict().violations);
    drop(client);
    Ok(Summary {
        cut,
        killed,
        planned,
        violations,
    })
}

fn conclude(paper: &Paper, summary: &Summary) -> ExitCode {
    println!();
    let row = |name: &str, seen: &Seen| {
        println!(
            "  {name:<20} outage {:>7}   {:>3} of {} requests failed",
            milliseconds(seen.gap),
            seen.failed,
            seen.requests
        );
    };
    row("power cut", &summary.cut);
    row("service killed", &summary.killed);
    row("planned switchover", &summary.planned);
    let twice = if summary.violations.is_empty() {
        paper.paint("32", "never")
    } else {
        paper.paint("31", &summary.violations.join("; "))
    };
    println!("  two servers answering at once: {twice}");
    println!(
        "\n  All of it ran on this machine in namespaces of its own; the machines, the switch\n  \
         and their files are removed. To run it on real servers: `evenkeel --help`."
    );
    if summary.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The demo, inside the lab.
pub(crate) fn show(
    lab: &Lab,
    switch: &Arc<Switch>,
    program: &Path,
    plain: bool,
) -> Result<ExitCode> {
    let paper = Paper {
        coloured: !plain && std::io::stdout().is_terminal(),
        start: Instant::now(),
    };
    let mut cluster = build(&paper, lab, switch, program)?;
    let played = play(&paper, &mut cluster);
    if played.is_err() {
        for name in cluster.names() {
            eprintln!("--- log of {name}\n{}", cluster.log_tail(&name, 15));
        }
    }
    Ok(conclude(
        &paper,
        &played.context("the demo did not go as it should")?,
    ))
}
