//! What a look at so many connections costs: `flows [COUNT]`, 10,000 unless given. They are
//! on loopback, in this process, whose limit of open files must allow two per connection.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use evenkeel_core::Epoch;
use evenkeel_host::netlink::{Connection, Family};
use evenkeel_host::sockets::flows;
use evenkeel_traffic::flows::{Listing, PAUSE_MAX, PAUSE_MIN, changes, pause};

/// Looks measured.
const LOOKS: u32 = 50;
/// Connections to one address: fewer than it has ports for.
const PER_ADDRESS: usize = 5_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 10_000,
    };
    let service = |n: usize| IpAddr::from(Ipv4Addr::new(127, 7, 9, n as u8 + 1));
    let mut kept = Vec::new();
    let mut addresses = BTreeSet::from([service(0)]);
    for n in 0..count.div_ceil(PER_ADDRESS) {
        let listener = TcpListener::bind(SocketAddr::new(service(n), 0))?;
        addresses.insert(service(n));
        for _ in 0..PER_ADDRESS.min(count - n * PER_ADDRESS) {
            let client = TcpStream::connect(listener.local_addr()?)?;
            kept.push((client, listener.accept()?.0));
        }
    }
    let mut kernel = Connection::open(Family::Sockets)?;
    let began = Instant::now();
    for _ in 0..LOOKS {
        flows(&mut kernel, &addresses, 65_536)?;
    }
    let listed = began.elapsed() / LOOKS;
    let found = flows(&mut kernel, &addresses, 65_536)?;
    let mut listing = Listing::new(Epoch::NONE);
    let first = listing.look(1, &found).ok_or("the first look is told")?;
    let began = Instant::now();
    for look in 0..LOOKS {
        listing.look(2 + u64::from(look), &found);
    }
    let noted = began.elapsed() / LOOKS;
    let began = Instant::now();
    let all = changes(&[], &first.flows);
    let compared = began.elapsed();
    let took = listed + noted;
    println!(
        "{} connections: listed in {listed:?}, noted in {noted:?}, compared in {compared:?} ({} \
         to tell)",
        found.len(),
        all.added.len()
    );
    for changed in [false, true] {
        let pause = pause(took, changed);
        let share = took.as_secs_f64() / (took + pause).as_secs_f64() * 100.0;
        println!("changed {changed}: a look every {pause:?}, {share:.2} % of a processor");
    }
    println!("({PAUSE_MIN:?} to {PAUSE_MAX:?})");
    Ok(())
}
