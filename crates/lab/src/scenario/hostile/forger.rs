//! Frames that no host of the cluster sent, and what hosts sent, as it was on the wire.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use evenkeel_host::frame::{FrameSocket, Sent};
use evenkeel_host::sys::tap::Tap;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bridge::{self, FORGER, Ports, Switch, mac, wait_for_frames};
use crate::config_text::PORT;
use crate::host::Host;

/// The longest frame that is kept: what an Ethernet carries.
const FRAME_MAX: usize = 1514;
/// Frames that are kept of one capture: seconds of everything that three nodes say.
pub(super) const HEARD_MAX: usize = 8192;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// Where the payload of a datagram begins in a frame.
pub(super) const HEADERS: usize = ETHERNET + IPV4 + UDP;
/// The longest payload of a frame.
pub(super) const PAYLOAD_MAX: usize = FRAME_MAX - HEADERS;
const HOPS: u8 = 64;
const PROTOCOL_UDP: u8 = 17;

/// First byte of a lease datagram.
pub(super) const LEASE: u8 = 0x0e;
/// Set in the first byte of every packet of QUIC (RFC 9000 17).
pub(super) const QUIC: u8 = 0x40;

/// One end of a datagram: a host of the lab's network by its number, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) number: u8,
    pub(super) port: u16,
}

impl End {
    /// The daemon of the node at this address.
    pub(super) fn daemon(ip: IpAddr) -> Result<Self> {
        let IpAddr::V4(ip) = ip else {
            return Err(anyhow!("{ip}: the lab's daemons speak IPv4"));
        };
        Ok(Self {
            number: ip.octets()[3],
            port: PORT,
        })
    }

    fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number)
    }
}

/// A frame with one datagram, `from` where it pretends to come from.
pub(super) fn frame(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(PAYLOAD_MAX)];
    let length = (UDP + payload.len()) as u16;
    let mut frame = Vec::with_capacity(HEADERS + payload.len());
    frame.extend(mac(to.number));
    frame.extend(FORGER);
    frame.extend([0x08, 0x00]);
    let mut ip = [0; IPV4];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(IPV4 as u16 + length).to_be_bytes());
    ip[8] = HOPS;
    ip[9] = PROTOCOL_UDP;
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    for number in [from.port, to.port, length, 0] {
        // A checksum of nought is none (RFC 768): over IPv4 that is allowed.
        frame.extend(number.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// The Internet checksum (RFC 1071) of a header whose own is nought.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A datagram of a daemon, as it was on the wire.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// Who sent it.
    pub(super) from: End,
    /// To whom.
    pub(super) to: End,
    pub(super) payload: Vec<u8>,
}

impl Heard {
    pub(super) fn is_lease(&self) -> bool {
        self.payload.first() == Some(&LEASE)
    }

    /// The same once more, from the forger's machine.
    pub(super) fn again(&self) -> Vec<u8> {
        frame(self.from, self.to, &self.payload)
    }

    /// What a frame carries, if that is a datagram from or to a daemon's port.
    fn of(frame: &[u8]) -> Option<Self> {
        let udp = frame.get(12..15)? == [0x08, 0x00, 0x45] && frame.get(23)? == &PROTOCOL_UDP;
        let short = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        let (from, to) = (short(34)?, short(36)?);
        let length = usize::from(short(38)?).checked_sub(UDP)?;
        let payload = frame.get(HEADERS..HEADERS + length)?;
        (udp && (from == PORT || to == PORT)).then(|| Self {
            from: End {
                number: frame[29],
                port: from,
            },
            to: End {
                number: frame[33],
                port: to,
            },
            payload: payload.to_vec(),
        })
    }
}

/// Takes datagrams of daemons off the wire.
pub(super) struct Ear {
    tap: Tap,
    ports: Ports,
}

impl Ear {
    /// Hears everything from now on.
    pub(super) fn open(switch: &Switch) -> Result<Self> {
        Ok(Self {
            tap: bridge::tap()?,
            ports: switch.ports(),
        })
    }

    /// The next datagrams of hosts, waiting for some until `end`; none if there were none.
    pub(super) fn next(&self, end: Moment) -> Result<Vec<Heard>> {
        let mut heard = Vec::new();
        let mut buffer = [0; FRAME_MAX];
        while heard.is_empty() && now() < end {
            wait_for_frames(&self.tap)?;
            while let Some(seen) = self.tap.receive(&mut buffer).context("taking a frame")? {
                let ports = self
                    .ports
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                // The switch itself sees broadcasts once more.
                if ports.contains_key(&seen.device) {
                    heard.extend(Heard::of(&buffer[..seen.length]));
                }
                if heard.len() >= HEARD_MAX {
                    return Ok(heard);
                }
            }
        }
        Ok(heard)
    }

    /// All that is heard in a while, [`HEARD_MAX`] at most.
    pub(super) fn listen(&self, length: Duration) -> Result<Vec<Heard>> {
        let end = now() + length;
        let mut all = Vec::new();
        while now() < end && all.len() < HEARD_MAX {
            all.extend(self.next(end)?);
        }
        Ok(all)
    }
}

/// Sends forged frames from a host.
pub(super) struct Forger {
    socket: FrameSocket,
    device: u32,
}

impl Forger {
    /// On `host`, by its one interface.
    pub(super) fn on(host: &Host) -> Result<Self> {
        let network = host.network()?;
        // A socket stays in the network in which it was made, whoever uses it.
        let made = std::thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .context("entering the forger's network")?;
            FrameSocket::open().context("making the forger's socket")
        });
        let socket = made.join().map_err(|_| anyhow!("the forger panicked"))??;
        let told = host.run(&["ip", "-o", "link", "show", "dev", "eth0"], "")?;
        let device = told
            .split(':')
            .next()
            .and_then(|text| text.trim().parse().ok());
        let device = device.with_context(|| format!("no index in: {told}"))?;
        Ok(Self { socket, device })
    }

    /// Sends a frame if there is room; says whether there was.
    pub(super) fn send(&self, frame: &[u8]) -> Result<bool> {
        let sent = self.socket.send(self.device, frame);
        match sent.context("sending a forged frame")? {
            Sent::Out => Ok(true),
            Sent::Dropped | Sent::Full => Ok(false),
        }
    }

    /// Sends all of these; says how many found room.
    pub(super) fn send_all(&self, frames: impl IntoIterator<Item = Vec<u8>>) -> Result<u64> {
        let mut sent = 0;
        for frame in frames {
            sent += u64::from(self.send(&frame)?);
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_frame_is_read_as_what_it_pretends_to_be() {
        let (from, to) = (
            End {
                number: 12,
                port: PORT,
            },
            End {
                number: 11,
                port: PORT,
            },
        );
        for payload in [&b""[..], b"\x0elease", &[7; PAYLOAD_MAX + 9]] {
            let frame = frame(from, to, payload);
            let heard = Heard::of(&frame).expect("a datagram");
            assert_eq!((heard.from, heard.to), (from, to));
            assert_eq!(heard.payload, payload[..payload.len().min(PAYLOAD_MAX)]);
            assert_eq!(heard.again(), frame);
            // A receiver sums the header, checksum included, and gets all ones.
            assert_eq!(checksum(&frame[ETHERNET..ETHERNET + IPV4]), 0);
            assert!(frame.len() <= FRAME_MAX);
        }
        assert!(Heard::of(&frame(from, to, b"x")[..HEADERS - 1]).is_none());
        let elsewhere = End {
            number: 11,
            port: 80,
        };
        assert!(Heard::of(&frame(elsewhere, elsewhere, b"x")).is_none());
    }
}
