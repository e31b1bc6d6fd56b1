//! The demo: one look at the main job, for a person who has never seen it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
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

/// A client that stood still for longer says more of this machine than of the servers.
const BUSY: Duration = Duration::from_millis(25);

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

/// What is done in an act, to the holder (first name) or in favour of the standby.
type Deed = fn(&mut Cluster, &str, &str) -> Result<()>;

/// What an act came to.
struct Played {
    name: &'static str,
    /// Who held the group before.
    holder: String,
    /// Who answered last.
    last: Option<String>,
    seen: Seen,
    violations: Vec<String>,
}

/// One act: calm, a deed, calm; what the client saw of it.
fn act(
    paper: &Paper,
    cluster: &mut Cluster,
    client: &Client,
    (name, colour, what): (&'static str, &str, &str),
    deed: Deed,
) -> Result<Played> {
    cluster.observer.mark();
    let mut live = Live::new(paper, client);
    live.run_until(now() + CALM);
    live.end_line();
    // Asked only now: on a machine that is too busy the group may have moved.
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let what = what.replace("HOLDER", &holder).replace("STANDBY", &standby);
    paper.step(&format!(
        "{}{what}",
        paper.paint(colour, &name.to_uppercase())
    ));
    let from = now();
    let mut live = Live::new(paper, client);
    live.run_while(CALM, || deed(cluster, &holder, &standby))?;
    live.end_line();
    let to = now();
    let seen = figures::seen(&settled(client, from, to), from, to);
    let last = client.last_good().map(|(_, host)| host.to_string());
    let violations = cluster.verdict().violations;
    let played = Played {
        name,
        holder,
        last,
        seen,
        violations,
    };
    tell(paper, &played);
    Ok(played)
}

fn tell(paper: &Paper, played: &Played) {
    let outage = paper.paint("1;32", &milliseconds(played.seen.gap));
    paper.step(&match &played.last {
        Some(last) if *last != played.holder => {
            format!(
                "{} took over. Outage as the client saw it: {outage}",
                paper.paint("1", last)
            )
        }
        Some(last) => format!("{last} serves again. Outage as the client saw it: {outage}"),
        None => paper.paint("31", "nobody serves any more"),
    });
}

fn build(paper: &Paper, lab: &Lab, switch: &Arc<Switch>, program: &Path) -> Result<Cluster> {
    paper
        .step("Building three machines on a switch: ams1 and fra1 with Apache, tie as the witness");
    Cluster::start(lab, switch, &Plan::new(program, Profile::Balanced))
}

fn play(paper: &Paper, cluster: &mut Cluster) -> Result<Vec<Played>> {
    let holder = cluster.wait_whole()?;
    let client = cluster.client()?;
    paper.step(&format!(
        "{} is served by {}; a client asks every {} ms. One mark is {} ms:",
        paper.paint("1", &format!("http://{SERVICE}/")),
        paper.paint("1", &holder),
        PACE.as_millis(),
        MARK.as_millis()
    ));
    paper.say("a = ams1 answers, f = fra1 answers, ! = some requests got no answer, x = none did,");
    paper.say("- = the client itself was held up by this machine");

    let what = ("power cut", "1;31", " of HOLDER, with no warning");
    let cut = act(paper, cluster, &client, what, |cluster, holder, _| {
        fault::inject(cluster, Fault::PowerCut, holder)
    })?;
    paper.say(&format!(
        "{} gets its power back and joins as the standby",
        cut.holder
    ));
    cluster.heal()?;

    let what = (
        "service killed",
        "1;31",
        ": kill -9 of every Apache process on HOLDER",
    );
    let killed = act(paper, cluster, &client, what, |cluster, holder, _| {
        fault::inject(cluster, Fault::ServiceKilled, holder)
    })?;
    paper.say(&format!("Apache on {} is started again", killed.holder));
    cluster.heal()?;

    let what = (
        "planned switchover",
        "1;34",
        ": evenkeel switch www --to STANDBY",
    );
    let planned = act(paper, cluster, &client, what, |cluster, holder, standby| {
        cluster.switch_over(holder, standby)
    })?;
    Ok(vec![cut, killed, planned])
}

fn conclude(paper: &Paper, acts: &[Played]) -> ExitCode {
    println!();
    for act in acts {
        println!(
            "  {:<20} outage {:>7}   {:>3} of {} requests failed",
            act.name,
            milliseconds(act.seen.gap),
            act.seen.failed,
            act.seen.requests
        );
    }
    let paused = acts
        .iter()
        .map(|act| act.seen.pause)
        .max()
        .unwrap_or_default();
    if paused > BUSY {
        println!(
            "  (this machine is busy: the client itself stood still for up to {}, and so did all)",
            milliseconds(paused)
        );
    }
    let violations: Vec<&str> = acts
        .iter()
        .flat_map(|act| &act.violations)
        .map(String::as_str)
        .collect();
    let twice = if violations.is_empty() {
        paper.paint("32", "never")
    } else {
        paper.paint("31", &violations.join("; "))
    };
    println!("  two servers answering at once: {twice}");
    println!(
        "\n  All of it ran on this machine in namespaces of its own; the machines, the switch\n  \
         and their files are removed. To run it on real servers: `evenkeel --help`."
    );
    let well = violations.is_empty() && acts.iter().all(|act| act.last.is_some());
    if well {
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
