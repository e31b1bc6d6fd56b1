//! Clients that keep their connections, as proxies and applications do: a pool of them is
//! never idle as a whole, and the group moves as planned all the same. A client that finds
//! the connection closed that it was about to use, or loses it before any answer, asks once
//! more over a new one: so do browsers, proxies and most libraries for what may be repeated.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Ending;
use crate::apache;
use crate::client::{PATIENCE, SLOW};
use crate::cluster::{Cluster, SERVICE, SERVICE6};
use crate::figures::spread;
use crate::host::Host;

/// Connections of each pool; one pool per family and pause.
/// All together are fewer than the threads with which Apache begins.
const CONNECTIONS: usize = 12;
/// The longest pauses between an answer and the next question: those of a pool that is used
/// as fast as it answers, and of one with time to spare.
const PAUSES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(100)];
/// How long the pools are used before and after each move.
const CALM: Duration = Duration::from_millis(700);
/// A question that was lost sooner than that was one to a connection just closed; one that
/// was lost later was cut off.
const RACE: Duration = Duration::from_millis(30);
/// Failed requests shown.
const SHOWN: usize = 5;
/// The longest answer that is read.
const ANSWER_MAX: usize = 4_096;

/// One question.
struct Asked {
    begun: Moment,
    took: Duration,
    /// After how long the first try was lost.
    lost: Option<Duration>,
    failed: Option<String>,
}

/// Why there is no answer.
struct Failure {
    /// Nothing of an answer has come.
    silent: bool,
    reason: String,
}

fn failure(silent: bool, what: &str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure {
        silent,
        reason: format!("{what}: {error}"),
    }
}

/// One connection of a pool.
struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Connection {
    /// Asks over the connection that is there, or a new one.
    fn ask(&mut self, deadline: Moment) -> Result<(), Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let left = now().until(deadline).max(Duration::from_millis(1));
                TcpStream::connect_timeout(&self.address, left)
                    .map_err(failure(false, "connecting"))?
            }
        };
        let question = format!("GET {SLOW} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        stream
            .write_all(question.as_bytes())
            .map_err(failure(true, "asking"))?;
        read_answer(&mut stream, deadline)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Asks, and once more if a connection that was used before is lost without an answer.
    fn ask_twice(&mut self) -> Asked {
        let begun = now();
        let deadline = begun + PATIENCE;
        let reused = self.stream.is_some();
        let mut lost = None;
        let mut outcome = self.ask(deadline);
        if reused && matches!(&outcome, Err(failure) if failure.silent) {
            lost = Some(now().since(begun));
            outcome = self.ask(deadline);
        }
        let took = now().since(begun);
        let failed = outcome.err().map(|failure| failure.reason);
        Asked {
            begun,
            took,
            lost,
            failed: failed.or_else(|| (took > PATIENCE).then(|| "too late".to_owned())),
        }
    }
}

/// Reads a whole answer of status 200.
fn read_answer(stream: &mut TcpStream, deadline: Moment) -> Result<(), Failure> {
    let mut answer = Vec::new();
    let mut buffer = [0; 1_024];
    loop {
        let silent = answer.is_empty();
        let left = now().until(deadline).max(Duration::from_millis(1));
        stream
            .set_read_timeout(Some(left))
            .map_err(failure(silent, "waiting"))?;
        let length = stream
            .read(&mut buffer)
            .map_err(failure(silent, "the answer"))?;
        if length == 0 || answer.len() > ANSWER_MAX {
            let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(failure(silent, "the answer")(error));
        }
        answer.extend_from_slice(&buffer[..length]);
        match whole(&answer) {
            None => {}
            Some(true) => return Ok(()),
            Some(false) => {
                let text = String::from_utf8_lossy(&answer).into_owned();
                return Err(failure(false, "the answer")(std::io::Error::other(text)));
            }
        }
    }
}

/// Whether a whole answer is a good one; `None` while it is not whole.
fn whole(answer: &[u8]) -> Option<bool> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let length: usize = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    })?;
    (answer.len() >= end + 4 + length).then(|| head.split_whitespace().nth(1) == Some("200"))
}

/// Pools at work.
struct Pools {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Asked>>>>,
}

impl Pools {
    fn start(host: &Host) -> Result<Self> {
        let done = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for service in [SERVICE, SERVICE6] {
            for pause in PAUSES {
                for number in 0..CONNECTIONS {
                    threads.push(start_one(host, service, pause, number, &done)?);
                }
            }
        }
        Ok(Self { done, threads })
    }

    fn end(self) -> Result<Vec<Asked>> {
        self.done.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            let asked = thread.join();
            all.extend(asked.map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(all)
    }
}

fn start_one(
    host: &Host,
    service: IpAddr,
    pause: Duration,
    number: usize,
    done: &Arc<AtomicBool>,
) -> Result<JoinHandle<Result<Vec<Asked>>>> {
    let network = host.network()?;
    let done = Arc::clone(done);
    std::thread::Builder::new()
        .name("pool".into())
        .spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), kind)
                .context("entering the clients' network")?;
            drop(network);
            let mut connection = Connection {
                address: apache::page(service),
                stream: None,
            };
            let mut asked = Vec::new();
            while !done.load(Ordering::Relaxed) {
                asked.push(connection.ask_twice());
                std::thread::sleep(share(pause, number + asked.len() * CONNECTIONS));
            }
            Ok(asked)
        })
        .context("starting a client")
}

/// Some part of `pause`, another for each number: what matters is that they differ.
fn share(pause: Duration, number: usize) -> Duration {
    let parts = number.wrapping_mul(37) % 101;
    pause * u32::try_from(parts).unwrap_or(0) / 100
}

pub(super) fn play(cluster: &mut Cluster, runs: usize) -> Result<Ending> {
    let mut slowest = Vec::new();
    let (mut asked, mut raced, mut cut) = (0, 0, 0);
    for run in 0..runs {
        let holder = cluster.wait_whole()?;
        let standby = cluster.other(&holder)?;
        cluster.observer.mark();
        let pools = Pools::start(cluster.client_host())?;
        std::thread::sleep(CALM);
        let ordered = now();
        cluster.switch_over(&holder, &standby)?;
        std::thread::sleep(CALM);
        let all = pools.end()?;
        let failed: Vec<&Asked> = all.iter().filter(|one| one.failed.is_some()).collect();
        let told = failed.iter().take(SHOWN).map(|one| {
            let since = one.begun.since(ordered).as_millis();
            let (took, lost) = (one.took, one.lost);
            let why = one.failed.as_deref().unwrap_or_default();
            format!(
                "{since} ms after the order, {why} after {took:?}, first try lost after {lost:?}"
            )
        });
        let told: Vec<String> = told.collect();
        ensure!(
            failed.is_empty(),
            "run {run}: {} of {} requests failed: {}",
            failed.len(),
            all.len(),
            told.join("; ")
        );
        let lost = || all.iter().filter_map(|one| one.lost);
        raced += lost().filter(|after| *after < RACE).count();
        cut += lost().filter(|after| *after >= RACE).count();
        asked += all.len();
        slowest.extend(all.iter().map(|one| one.took).max());
        cluster.verdict().check()?;
    }
    let slowest = spread(&slowest);
    Ok(Ending::Held(format!(
        "{runs} planned moves under {} kept connections, {asked} requests, 0 failed; {raced} \
         found their connection closed and {cut} were cut off, all asked once more; the slowest \
         of a move took p50 {:.0}, max {:.0} ms",
        CONNECTIONS * PAUSES.len() * 2,
        slowest.p50,
        slowest.max
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nams1";
        for length in 0..answer.len() {
            assert_eq!(whole(&answer[..length]), None, "{length}");
        }
        assert_eq!(whole(answer), Some(true));
        let other = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(whole(other), Some(false));
    }

    #[test]
    fn pauses_differ_and_keep_their_bound() {
        let pause = Duration::from_millis(100);
        let all: std::collections::BTreeSet<Duration> =
            (0..50).map(|number| share(pause, number)).collect();
        assert!(all.len() > 20 && all.iter().all(|one| *one <= pause));
        assert_eq!(share(Duration::ZERO, 7), Duration::ZERO);
    }
}
