//! A group moves and no client notices: real sockets, and a filter that drops attempts as
//! the guard does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evenkeel_core::{Epoch, Moment};
use evenkeel_host::clock::now;
use evenkeel_traffic::{Report, Want};

use crate::net::{Host, Lan, OPEN, PATIENCE, Running, WWW, run, wait_for};

const V4: &str = "192.0.2.100";
const V6: &str = "2001:db8::100";
const BOTH: [&str; 2] = ["192.0.2.100/24", "2001:db8::100/64"];
const EPOCH: Epoch = Epoch { term: 1, index: 1 };
/// DESIGN 7: a request without a whole answer after a second has failed. A client sends a
/// lost attempt again after just that time.
const FAILED: Duration = Duration::from_millis(990);

fn draining(drain: Duration) -> Want {
    Want::Draining {
        epoch: EPOCH,
        drain,
    }
}

/// Serves each connection on a thread of its own: `q` at once, `s` after 100 ms, `l`
/// after a minute. Answers with `name`, until the client goes.
fn serve(host: &Host, name: u8) {
    let listener = host.inside(|| TcpListener::bind("[::]:8080").expect("a socket"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut question = [0; 1];
                while stream.read_exact(&mut question).is_ok() {
                    std::thread::sleep(match question[0] {
                        b's' => Duration::from_millis(100),
                        b'l' => Duration::from_secs(60),
                        _ => Duration::ZERO,
                    });
                    if stream.write_all(&[name]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn address(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 8080)
}

fn ask(stream: &mut TcpStream, question: u8) -> Result<u8, String> {
    let mut answer = [0; 1];
    stream
        .write_all(&[question])
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(|error| error.to_string())?;
    Ok(answer[0])
}

fn connect(host: &Host, ip: &str) -> TcpStream {
    let address = address(ip);
    let stream = host.inside(move || TcpStream::connect(address).expect("it listens"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// One request over a connection of its own.
fn request(address: SocketAddr) -> Result<u8, String> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let answer = ask(&mut stream, b'q').map_err(|error| format!("ask: {error}"))?;
    if begun.elapsed() > FAILED {
        return Err(format!("took {:?}", begun.elapsed()));
    }
    Ok(answer)
}

/// Asks again and again until it is stopped.
struct Client {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Result<u8, String>>>,
}

impl Client {
    fn start(host: &Host, ip: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (own, host, address) = (Arc::clone(&stop), host.clone(), address(ip));
        let thread = std::thread::spawn(move || {
            host.inside(move || {
                let mut answers = Vec::new();
                while !own.load(Ordering::Relaxed) {
                    answers.push(request(address));
                }
                answers
            })
        });
        Self { stop, thread }
    }

    fn answers(self) -> Vec<Result<u8, String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends well")
    }
}

/// Drops attempts as the guard does, and says when it began to.
fn hold(host: &Host) -> (Moment, Moment) {
    host.inside(|| {
        let rules = format!(
            "table netdev hold {{ chain in {{ type filter hook ingress device eth0 priority 0; \
             ip daddr {V4} tcp flags & (fin|syn|rst|ack) == syn counter drop; \
             ip6 daddr {V6} tcp flags & (fin|syn|rst|ack) == syn counter drop; }}; }}"
        );
        let began = now();
        nft(&rules);
        (began, now())
    })
}

fn nft(rules: &str) {
    let output = std::process::Command::new("nft").arg(rules).output();
    let output = output.expect("nft: install the package nftables");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {rules}: {errors}");
}

/// How many attempts [`hold`] has dropped.
fn dropped(host: &Host) -> u64 {
    let rules = host.inside(|| run("nft list table netdev hold"));
    let mut words = rules.split_whitespace();
    let mut sum = 0;
    while let Some(word) = words.next() {
        if word == "packets" {
            sum += words.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        }
    }
    sum
}

fn holding(mover: &mut Running) {
    mover.report(|report| matches!(report, Report::Holding { .. }).then_some(()));
}

/// How many were busy and held.
fn drained(mover: &mut Running) -> (usize, usize) {
    mover.report(|report| match report {
        Report::Drained { busy, held, .. } => Some((*busy, *held)),
        _ => None,
    })
}

fn passed_on(mover: &mut Running) -> (usize, usize) {
    mover.report(|report| match report {
        Report::PassedOn {
            attempts, dropped, ..
        } => Some((*attempts, *dropped)),
        _ => None,
    })
}

/// Two servers, a client, and a group that the first one has.
fn world() -> Option<(Lan, [Host; 3], Running, Running)> {
    let lan = Lan::new(3)?;
    let hosts = [lan.host(1), lan.host(2), lan.host(3)];
    let (mut first, second) = (hosts[0].mover(&BOTH), hosts[1].mover(&BOTH));
    first.mover.want(WWW, OPEN);
    first.announced();
    serve(&hosts[0], b'A');
    serve(&hosts[1], b'B');
    Some((lan, hosts, first, second))
}

#[test]
fn no_request_is_lost_while_a_group_moves() {
    let Some((_lan, [one, _, client], mut first, mut second)) = world() else {
        return;
    };
    let clients: Vec<Client> = [V4, V6, V4, V6]
        .iter()
        .map(|ip| Client::start(&client, ip))
        .collect();
    // Answered, and silent since then: nobody waits for it.
    let mut idle = connect(&client, V4);
    assert_eq!(ask(&mut idle, b'q'), Ok(b'A'));
    let mut slow = connect(&client, V6);
    slow.write_all(b"s").expect("connected");

    first.mover.want(WWW, draining(Duration::from_secs(5)));
    holding(&mut first);
    let transaction = hold(&one);
    first.mover.held(WWW, Some(transaction));
    let (busy, held) = drained(&mut first);
    assert_eq!(busy, 0);
    let mut answer = [0; 1];
    slow.read_exact(&mut answer).expect("it was in flight");
    assert_eq!(&answer, b"A");

    first.mover.want(WWW, Want::Absent);
    first.gone();
    second.mover.want(WWW, OPEN);
    second.announced();
    let (attempts, dropped) = passed_on(&mut first);
    assert!(attempts >= held.max(1), "{attempts} of {held} passed on");
    assert_eq!(dropped, 0);
    for client in clients {
        let answers = client.answers();
        let failed: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
        assert!(failed.is_empty(), "{failed:?} of {}", answers.len());
        assert_eq!(answers.first(), Some(&Ok(b'A')));
        assert_eq!(answers.last(), Some(&Ok(b'B')));
    }
}

#[test]
fn a_request_longer_than_the_time_to_drain_ends_it() {
    let Some((_lan, [one, _, client], mut first, _second)) = world() else {
        return;
    };
    let mut long = connect(&client, V4);
    long.write_all(b"l").expect("connected");
    first.mover.want(WWW, draining(Duration::from_millis(300)));
    holding(&mut first);
    first.mover.held(WWW, Some(hold(&one)));
    assert_eq!(drained(&mut first), (1, 0));
    // Nobody takes over.
    first.mover.want(WWW, Want::Absent);
    assert_eq!(passed_on(&mut first), (0, 0));
}

/// While others are waited for, who waits for nothing is let go.
#[test]
fn an_idle_connection_is_ended_while_attempts_are_held() {
    let Some((_lan, [one, _, client], mut first, _second)) = world() else {
        return;
    };
    let mut idle = [connect(&client, V4), connect(&client, V6)];
    for one in &mut idle {
        assert_eq!(ask(one, b'q'), Ok(b'A'));
    }
    let mut long = connect(&client, V4);
    long.write_all(b"l").expect("connected");
    first.mover.want(WWW, draining(Duration::from_millis(600)));
    holding(&mut first);
    first.mover.held(WWW, Some(hold(&one)));
    for mut one in idle {
        let error = one.read(&mut [0; 1]).expect_err("it is ended");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(drained(&mut first), (1, 0), "the other is still busy");
}

/// A move that is called off after clients were held: they are served here, and do not wait
/// until they try again. Sources are checked strictly.
#[test]
fn who_was_held_is_served_here_if_the_group_stays() {
    let Some((_lan, [one, _, client], mut first, _second)) = world() else {
        return;
    };
    one.inside(|| {
        for device in ["all", "eth0", "lo"] {
            let path = format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
            std::fs::write(path, "1").expect("root");
        }
    });
    first.mover.want(WWW, draining(Duration::from_secs(5)));
    holding(&mut first);
    first.mover.held(WWW, Some(hold(&one)));
    assert_eq!(drained(&mut first), (0, 0));
    let waiting = [V4, V6].map(|ip| {
        let (client, address) = (client.clone(), address(ip));
        std::thread::spawn(move || client.inside(move || request(address)))
    });
    wait_for("both attempts were dropped", || dropped(&one) >= 2);
    first.mover.want(WWW, OPEN);
    one.inside(|| nft("delete table netdev hold"));
    first.mover.freed(WWW);
    let back = first.report(|report| match report {
        Report::PutBack {
            attempts, dropped, ..
        } => Some((*attempts, *dropped)),
        _ => None,
    });
    assert_eq!(back, (2, 0));
    for one in waiting {
        assert_eq!(one.join().expect("it ends well"), Ok(b'A'));
    }
}

#[test]
fn a_guard_that_cannot_hold_stops_no_draining() {
    let Some((_lan, _hosts, mut first, _second)) = world() else {
        return;
    };
    first.mover.want(WWW, draining(Duration::from_secs(5)));
    holding(&mut first);
    first.mover.held(WWW, None);
    assert_eq!(drained(&mut first), (0, 0));
}
