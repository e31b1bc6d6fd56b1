//! Who answers for addresses on the wire, asked without claiming them (RFC 5227, probes).

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::clock;
use crate::frame::{self, FrameSocket, Mac, Sent};
use crate::sys::tap::Tap;

/// How often each address is asked for: a frame may be lost.
const ROUNDS: u32 = 3;
/// How many addresses are asked for at once: a burst of so many small frames overruns nothing.
pub const ADDRESSES_MAX: usize = 64;
/// Enough of a frame for an ARP answer.
const FRAME_LENGTH: usize = 64;

/// Asks on the interface numbered `device`, whose hardware address is `mac`, who has each of
/// `addresses` (the first [`ADDRESSES_MAX`] of them), and waits for `within` in all. Those that
/// nobody answers for are not in the result. Needs `CAP_NET_RAW`.
///
/// # Errors
///
/// What the kernel says.
pub fn ask(
    device: u32,
    mac: Mac,
    addresses: &[Ipv4Addr],
    within: Duration,
) -> io::Result<BTreeMap<Ipv4Addr, Mac>> {
    let tap = Tap::open()?;
    tap.keep_attempts()?;
    let socket = FrameSocket::open()?;
    let mut answers = BTreeMap::new();
    for _ in 0..ROUNDS {
        for ip in addresses.iter().take(ADDRESSES_MAX) {
            if answers.contains_key(ip) {
                continue;
            }
            // One that was not sent is sent with the next round.
            let (Sent::Out | Sent::Dropped | Sent::Full) =
                socket.send(device, &frame::probe(mac, *ip))?;
        }
        listen(&tap, device, within / ROUNDS, &mut |ip, from| {
            if addresses.contains(&ip) && from != mac {
                answers.insert(ip, from);
            }
        })?;
    }
    Ok(answers)
}

fn listen(
    tap: &Tap,
    device: u32,
    within: Duration,
    hear: &mut dyn FnMut(Ipv4Addr, Mac),
) -> io::Result<()> {
    let until = clock::now() + within;
    let mut buffer = [0; FRAME_LENGTH];
    loop {
        while let Some(seen) = tap.receive(&mut buffer)? {
            if seen.device == device
                && let Some((ip, mac)) = frame::answer(&buffer[..seen.length])
            {
                hear(ip, mac);
            }
            // A storm of frames is no reason to listen for ever.
            if clock::now() >= until {
                return Ok(());
            }
        }
        let left = clock::now().until(until);
        if left.is_zero() {
            return Ok(());
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(tap, PollFlags::IN)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
