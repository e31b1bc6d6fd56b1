//! How long a takeover of 2,000 IPv4 and 200 IPv6 addresses takes on this machine: to
//! place them, to announce them all once as a neighbour hears it, to put one back that
//! was deleted, and to take them away. Needs root and `ip`.
//!
//! cargo run --release -p evenkeel-traffic --example many_addresses [RUNS [REALTIME-PRIORITY]]

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use evenkeel_core::topology::ServiceAddress;
use evenkeel_core::{Epoch, GroupId};
use evenkeel_host::address::{Change, Changes, Placement, delete, links};
use evenkeel_host::netlink::{Connection, Family};
use evenkeel_traffic::{Mover, Report, Settings, Want};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

const IPV4: u32 = 2_000;
const IPV6: u32 = 200;
const GROUP: GroupId = GroupId(1);
const PATIENCE: Duration = Duration::from_secs(10);
const ETH_P_ALL: u16 = 3;

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "ip {arguments}"
    );
}

/// Moves the calling thread into a namespace.
fn enter(space: &str) {
    let file = std::fs::File::open(format!("/run/netns/{space}")).expect("the namespace is there");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
}

/// Two namespaces and a wire between them, gone when dropped.
struct Wire;

impl Wire {
    fn new() -> Self {
        ip("netns add ek-many-a");
        ip("netns add ek-many-b");
        ip("-n ek-many-a link add eth0 type veth peer name eth0 netns ek-many-b");
        for (space, last) in [("ek-many-a", 1), ("ek-many-b", 2)] {
            ip(&format!(
                "-n {space} address add 10.0.255.{last}/16 dev eth0"
            ));
            ip(&format!(
                "-n {space} address add 2001:db8::ffff:{last}/64 dev eth0 nodad"
            ));
            ip(&format!("-n {space} link set eth0 up"));
        }
        Self
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        ip("netns delete ek-many-a");
        ip("netns delete ek-many-b");
    }
}

fn addresses() -> Vec<ServiceAddress> {
    let ipv4 = (0..IPV4).map(|at| (IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + 256 + at)), 16));
    let base = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0));
    let ipv6 = (0..IPV6).map(|at| (IpAddr::V6((base + 256 + u128::from(at)).into()), 64));
    ipv4.chain(ipv6)
        .map(|(ip, prefix)| ServiceAddress {
            ip,
            prefix,
            device: None,
        })
        .collect()
}

/// The address that a frame announces, if it does; and the form for ARP.
fn announced(frame: &[u8]) -> Option<(IpAddr, u8)> {
    match frame.get(12..14)? {
        [0x08, 0x06] => {
            let sender: [u8; 4] = frame.get(28..32)?.try_into().ok()?;
            Some((IpAddr::from(sender), *frame.get(21)?))
        }
        [0x86, 0xdd] if frame.get(20) == Some(&58) && frame.get(54) == Some(&136) => {
            let target: [u8; 16] = frame.get(62..78)?.try_into().ok()?;
            Some((IpAddr::from(target), 0))
        }
        _ => None,
    }
}

/// Listens in the neighbour's namespace; says when everything was heard once.
fn neighbour(rounds: std_mpsc::Receiver<()>, heard: std_mpsc::Sender<Option<Instant>>) {
    enter("ek-many-b");
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("root");
    socket.set_recv_buffer_size(16 << 20).expect("a number");
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a socket");
    let expected = (2 * IPV4 + IPV6) as usize;
    let mut frame = [0; 2048];
    while rounds.recv().is_ok() {
        // What is left of the run before.
        socket.set_nonblocking(true).expect("a socket");
        while socket.read(&mut frame).is_ok() {}
        socket.set_nonblocking(false).expect("a socket");
        heard.send(None).expect("somebody waits");
        let mut seen = BTreeSet::new();
        let end = Instant::now() + PATIENCE;
        let mut when = None;
        while when.is_none() && Instant::now() < end {
            let Ok(length) = socket.read(&mut frame) else {
                continue;
            };
            seen.extend(announced(&frame[..length]));
            if seen.len() >= expected {
                when = Some(Instant::now());
            }
        }
        if heard.send(when).is_err() {
            return;
        }
    }
}

/// Deletes one address as a stranger would and says how long it was away.
fn delete_and_wait() -> Duration {
    let stranger = std::thread::spawn(|| {
        enter("ek-many-a");
        let ip = IpAddr::from([10, 0, 1, 0]);
        let mut changes = Changes::open().expect("a socket");
        let mut route = Connection::open(Family::Route).expect("a socket");
        let links = links(&mut route).expect("listed");
        let device = links
            .iter()
            .find(|link| link.name == "eth0")
            .expect("it is there")
            .index;
        let outcomes = delete(&mut route, &[Placement { device, ip }]).expect("asked");
        let deleted = Instant::now();
        assert!(outcomes.iter().all(Result::is_ok), "it was there");
        let mut back = false;
        while !back {
            let end = deleted + PATIENCE;
            assert!(Instant::now() < end, "it never came back");
            let told = |change| {
                if let Change::Address(address) = change {
                    back |= address.ip == ip;
                }
            };
            changes.hear(told).expect("heard");
        }
        deleted.elapsed()
    });
    stranger.join().expect("it ran")
}

fn next<T>(
    reports: &mut mpsc::Receiver<Report>,
    mut wanted: impl FnMut(&Report) -> Option<T>,
) -> T {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match reports.try_recv() {
            Ok(report) => {
                if let Some(value) = wanted(&report) {
                    return value;
                }
            }
            Err(_) => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    panic!("no such report within {PATIENCE:?}");
}

fn show(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what:46} min {:7.2?}  p50 {:7.2?}  p90 {:7.2?}  max {:7.2?}",
        at(0),
        at(50),
        at(90),
        at(100)
    );
}

fn main() {
    let runs: u64 = std::env::args()
        .nth(1)
        .map_or(10, |runs| runs.parse().expect("a number"));
    let realtime = std::env::args()
        .nth(2)
        .map(|priority| priority.parse().expect("a number"));
    let _wire = Wire::new();
    let (go, rounds) = std_mpsc::channel();
    let (heard, hears) = std_mpsc::channel();
    let listening = std::thread::spawn(move || neighbour(rounds, heard));
    let (sender, mut reports) = mpsc::channel(1_024);
    let mover = std::thread::spawn(move || {
        enter("ek-many-a");
        let settings = Settings {
            realtime,
            ..Settings::new(vec![(GROUP, addresses())])
        };
        Mover::start(settings, sender)
    });
    let mover = mover.join().expect("it ran").expect("it starts");
    let mut times: [Vec<Duration>; 5] = Default::default();
    for run in 0..runs {
        mover.want(GROUP, Want::Closed);
        let placed = |report: &Report| match report {
            Report::Placed { took, .. } => Some(*took),
            _ => None,
        };
        times[0].push(next(&mut reports, placed));
        go.send(()).expect("it listens");
        hears.recv().expect("it is ready");
        let opened = Instant::now();
        mover.want(
            GROUP,
            Want::Open {
                epoch: Epoch {
                    term: 1,
                    index: run + 1,
                },
            },
        );
        times[1].push(next(&mut reports, |report| match report {
            Report::Announced {
                took, dropped: 0, ..
            } => Some(*took),
            Report::Announced { dropped, .. } => panic!("{dropped} dropped"),
            _ => None,
        }));
        let heard = hears
            .recv()
            .expect("it listens")
            .expect("everything is heard");
        times[2].push(heard.duration_since(opened));
        // Past the next two rounds, so that nothing else is going on.
        std::thread::sleep(Duration::from_millis(300));
        times[3].push(delete_and_wait());
        next(&mut reports, |report| {
            matches!(report, Report::Repaired { .. }).then_some(())
        });
        mover.want(GROUP, Want::Absent);
        times[4].push(next(&mut reports, |report| match report {
            Report::Gone { took, .. } => Some(*took),
            _ => None,
        }));
    }
    println!("{IPV4} IPv4 and {IPV6} IPv6 addresses, {runs} runs");
    let [placed, sent, heard, repaired, gone] = &mut times;
    show("placed (wanted to configured)", placed);
    show("announced (wanted to last frame sent)", sent);
    show("heard by a neighbour (wanted to last frame)", heard);
    show("one deleted address is back (deleted to told)", repaired);
    show("taken away (sockets ended, all removed)", gone);
    drop(go);
    listening.join().expect("it ran");
}
