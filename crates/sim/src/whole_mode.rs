//! `evenkeel-sim whole`: searches the whole world for a broken property.

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evenkeel_sim::whole::faults::{ALL, Faults};
use evenkeel_sim::whole::run::{Failure, once, replay, run};
use evenkeel_sim::whole::story::Telling;
use evenkeel_sim::whole::world::Seen;

/// Says which commit a failure is of, if it is not given as an argument.
const COMMIT: &str = "EVENKEEL_COMMIT";
/// Seeds that are searched if nothing is said.
const SEEDS: u64 = 100;
/// How often a long search says how far it is.
const PROGRESS: Duration = Duration::from_secs(60);

thread_local! {
    /// The seed that this thread runs, for a panic to tell.
    static RUNNING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What was asked for.
struct Ask {
    from: u64,
    to: u64,
    fault: Option<String>,
    tell: bool,
    /// Goes on after a failure, and names each.
    all: bool,
    replay: Option<(String, usize)>,
    commit: String,
    jobs: u64,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Ask, String> {
    let mut ask = Ask {
        from: 0,
        to: SEEDS,
        fault: None,
        tell: false,
        all: false,
        replay: None,
        commit: std::env::var(COMMIT).unwrap_or_else(|_| "unknown".to_owned()),
        jobs: 1,
    };
    while let Some(word) = words.next() {
        if word == "--tell" {
            ask.tell = true;
            continue;
        }
        if word == "--all" {
            ask.all = true;
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|error| format!("{word} {value}: {error}"))
        };
        match word.as_str() {
            "--seeds" => match value.split_once("..") {
                Some((from, to)) => (ask.from, ask.to) = (number(from)?, number(to)?),
                None => (ask.from, ask.to) = (0, number(&value)?),
            },
            "--seed" => {
                ask.from = number(&value)?;
                ask.to = ask.from.saturating_add(1);
            }
            "--replay" => ask.replay = Some((value, 0)),
            "--node" => {
                let node = usize::try_from(number(&value)?).map_err(|error| error.to_string())?;
                ask.replay = ask.replay.map(|(story, _)| (story, node));
            }
            "--jobs" => ask.jobs = number(&value)?.max(1),
            "--commit" => ask.commit = value,
            "--fault" => ask.fault = Some(value),
            _ => {
                return Err(format!(
                    "{word} is unknown; there are --seeds, --seed, --all, --tell, \
                     --replay, --node, --jobs, --commit, --fault"
                ));
            }
        }
    }
    Ok(ask)
}

fn fault(ask: &Ask) -> Result<Faults, String> {
    let Some(name) = &ask.fault else {
        return Ok(Faults::default());
    };
    Faults::named(name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        format!("no fault is named {name}; there are {}", names.join(", "))
    })
}

/// Where the search is.
struct Search {
    next: AtomicU64,
    over: AtomicBool,
    /// Seeds that failed, where the search goes on.
    failed: AtomicU64,
    sum: Mutex<(Seen, u64)>,
    failure: Mutex<Option<Box<Failure>>>,
}

/// Runs the mode.
pub fn main(words: impl Iterator<Item = String>) -> ExitCode {
    let asked = parse(words).and_then(|ask| fault(&ask).map(|faults| (ask, faults)));
    let (ask, faults) = match asked {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("evenkeel-sim whole: {why}");
            return ExitCode::FAILURE;
        }
    };
    tell_panics(ask.commit.clone());
    if let Some((story, node)) = &ask.replay {
        return feed(ask.from, story, *node);
    }
    if ask.tell {
        let ended = once(ask.from, faults, Telling::All);
        eprintln!("{:016x} {:?}", ended.digest, ended.outcome);
        return match ended.outcome {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    search(&ask, faults)
}

/// Feeds a story into the decision machine of one node again.
fn feed(seed: u64, story: &str, node: usize) -> ExitCode {
    let fed = std::fs::read_to_string(story)
        .map_err(|error| format!("{story}: {error}"))
        .and_then(|text| replay(seed, &text, node));
    match fed {
        Ok(replayed) => {
            println!("{replayed:?}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("evenkeel-sim whole: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A panic is a broken property too: it says how to repeat it.
fn tell_panics(commit: String) {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        if let Some(seed) = RUNNING.get() {
            eprintln!(
                "commit {commit}\nrepeat with: cargo run --release -p evenkeel-sim -- whole --seed {seed}"
            );
        }
    }));
}

fn search(ask: &Ask, faults: Faults) -> ExitCode {
    let state = Search {
        next: AtomicU64::new(ask.from),
        over: AtomicBool::new(false),
        failed: AtomicU64::new(0),
        sum: Mutex::default(),
        failure: Mutex::new(None),
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..ask.jobs {
            scope.spawn(|| work(ask, faults, &state));
        }
        let mut told = Instant::now();
        while !state.over.load(Ordering::Relaxed) && state.next.load(Ordering::Relaxed) < ask.to {
            std::thread::park_timeout(Duration::from_millis(100));
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let next = state.next.load(Ordering::Relaxed);
                eprintln!("{} of {} seeds", next - ask.from, ask.to - ask.from);
            }
        }
    });
    let took = began.elapsed();
    let failure = state.failure.into_inner().unwrap_or_default();
    if let Some(mut failure) = failure {
        failure.fault.clone_from(&ask.fault);
        println!("{failure}\ncommit {}", ask.commit);
        println!("after {} seeds", failure.seed - ask.from + 1);
        return ExitCode::FAILURE;
    }
    let (seen, simulated) = state.sum.into_inner().unwrap_or_default();
    let simulated = Duration::from_nanos(simulated).as_secs_f64();
    let failed = state.failed.into_inner();
    println!(
        "{} seeds without a broken property: {seen:?}\n{simulated:.0} simulated seconds in {:.1} s, \
         {:.0} a second",
        ask.to - ask.from - failed,
        took.as_secs_f64(),
        simulated / took.as_secs_f64()
    );
    if failed > 0 {
        println!("{failed} seeds with one");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn work(ask: &Ask, faults: Faults, state: &Search) {
    while !state.over.load(Ordering::Relaxed) {
        let seed = state.next.fetch_add(1, Ordering::Relaxed);
        if seed >= ask.to {
            return;
        }
        RUNNING.set(Some(seed));
        let ended = once(seed, faults, Telling::Verdict);
        match ended.outcome {
            Ok(seen) => {
                if let Ok(mut sum) = state.sum.lock() {
                    sum.0 += seen;
                    sum.1 += ended.simulated;
                }
            }
            Err(failure) if ask.all => {
                let Failure { violation, at, .. } = &*failure;
                let (property, seen) = (violation.property, &violation.seen);
                println!("seed {seed}: {property} is broken at {at} ns: {seen}");
                state.failed.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                state.over.store(true, Ordering::Relaxed);
                let told = run(seed, faults).err().unwrap_or(failure);
                if let Ok(mut known) = state.failure.lock()
                    && known.as_ref().is_none_or(|known| known.seed > seed)
                {
                    *known = Some(told);
                }
            }
        }
    }
}
