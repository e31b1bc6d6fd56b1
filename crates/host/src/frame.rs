//! Frames that tell neighbours where an address is: gratuitous ARP in both forms and
//! unsolicited neighbour advertisements, and the probe that asks whether somebody else
//! answers for it. Written by hand (42 and 86 bytes) and sent as they are, through the
//! interface's ordinary queue: never past it (`PACKET_QDISC_BYPASS`), because that is
//! where the guard stands.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use evenkeel_core::Moment;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys::packet::link_layer;

/// An Ethernet address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// Where ff02::1, all nodes of a link, lives (RFC 2464 section 7).
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Length of an ARP frame for IPv4 over Ethernet. Drivers pad it to the 60 bytes of the
/// shortest Ethernet frame.
pub const ARP_LENGTH: usize = 42;
/// Length of a neighbour advertisement with its one option.
pub const ADVERTISEMENT_LENGTH: usize = 86;

/// Whether this machine forwards packets of others: what the R flag of a neighbour
/// advertisement says (RFC 4861 4.4). A router that stops saying so loses its place as
/// somebody's default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwards {
    /// It is a router on that interface.
    Yes,
    /// It is a host.
    No,
}

/// `ip` is at `mac`, as a question that nobody answers (RFC 5227 section 3): everybody
/// who knows the address learns where it is now.
pub fn gratuitous_request(mac: Mac, ip: Ipv4Addr) -> [u8; ARP_LENGTH] {
    arp(1, mac, ip, [0; 6], ip)
}

/// `ip` is at `mac`, as an answer that nobody asked for; some devices heed only this
/// form. The target's hardware address equals the sender's, without which Linux does
/// not take it for gratuitous (`arp_is_garp` in `net/ipv4/arp.c`).
pub fn gratuitous_reply(mac: Mac, ip: Ipv4Addr) -> [u8; ARP_LENGTH] {
    arp(2, mac, ip, mac, ip)
}

/// Asks who has `ip` without claiming it (RFC 5227 section 2.1.1): the sender's protocol
/// address is zero, so that nobody's cache changes.
pub fn probe(mac: Mac, ip: Ipv4Addr) -> [u8; ARP_LENGTH] {
    arp(1, mac, Ipv4Addr::UNSPECIFIED, [0; 6], ip)
}

/// Who has an address, if that is what a frame answers: an ARP reply.
pub fn answer(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let part = |at: usize, length: usize| frame.get(at..at + length);
    let is_reply = part(12, 10)? == [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2];
    let mac = Mac::try_from(part(22, 6)?).ok()?;
    let ip = <[u8; 4]>::try_from(part(28, 4)?).ok()?;
    is_reply.then_some((Ipv4Addr::from(ip), mac))
}

fn arp(
    operation: u16,
    sender_mac: Mac,
    sender: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
) -> [u8; ARP_LENGTH] {
    let mut frame = [0; ARP_LENGTH];
    frame[0..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&sender_mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    // Ethernet, IPv4, lengths of their addresses (RFC 826).
    frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame[20..22].copy_from_slice(&operation.to_be_bytes());
    frame[22..28].copy_from_slice(&sender_mac);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[32..38].copy_from_slice(&target_mac);
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// `ip` is at `mac`, to all nodes of the link (RFC 4861 7.2.6): override, not solicited,
/// with the target's link-layer address, hop limit 255.
pub fn unsolicited_advertisement(
    mac: Mac,
    ip: Ipv6Addr,
    forwards: Forwards,
) -> [u8; ADVERTISEMENT_LENGTH] {
    let mut frame = [0; ADVERTISEMENT_LENGTH];
    frame[0..6].copy_from_slice(&ALL_NODES_MAC);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&32_u16.to_be_bytes());
    frame[20] = ICMPV6;
    frame[21] = 255;
    frame[22..38].copy_from_slice(&ip.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    frame[54] = NEIGHBOUR_ADVERTISEMENT;
    frame[58] = match forwards {
        Forwards::Yes => 0xa0,
        Forwards::No => 0x20,
    };
    frame[62..78].copy_from_slice(&ip.octets());
    // Option "target link-layer address", one unit of eight bytes.
    frame[78..80].copy_from_slice(&[2, 1]);
    frame[80..86].copy_from_slice(&mac);
    let checksum = icmpv6_checksum(ip, ALL_NODES, &frame[54..]);
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// RFC 4443 2.3: over a pseudo header and the message, whose own checksum is zero.
fn icmpv6_checksum(source: Ipv6Addr, target: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    checksum(&[
        &source.octets(),
        &target.octets(),
        &length,
        &[0, 0, 0, ICMPV6],
        message,
    ])
}

/// The Internet checksum of `parts` one after the other (RFC 1071); each but the last is of
/// even length.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// All frames that announce `ip` at `mac`: one for IPv6, both forms for IPv4.
pub fn announcement(mac: Mac, ip: IpAddr, forwards: Forwards) -> Announcement {
    match ip {
        IpAddr::V4(ip) => {
            Announcement::Arp([gratuitous_request(mac, ip), gratuitous_reply(mac, ip)])
        }
        IpAddr::V6(ip) => Announcement::Neighbour(unsolicited_advertisement(mac, ip, forwards)),
    }
}

/// The frames of one announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// Request and reply form.
    Arp([[u8; ARP_LENGTH]; 2]),
    /// Neighbour advertisement.
    Neighbour([u8; ADVERTISEMENT_LENGTH]),
}

impl Announcement {
    /// The frames, in the order in which they are sent.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let (arp, neighbour) = match self {
            Self::Arp(frames) => (&frames[..], None),
            Self::Neighbour(frame) => (&[][..], Some(&frame[..])),
        };
        arp.iter().map(|frame| &frame[..]).chain(neighbour)
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The interface took it.
    Out,
    /// The queue or the guard dropped it (`ENOBUFS`).
    Dropped,
    /// The socket holds too many unsent frames (`EAGAIN`): try again later.
    Full,
}

/// Sends frames. Receives nothing.
#[derive(Debug)]
pub struct FrameSocket {
    socket: Socket,
}

impl FrameSocket {
    /// Opens it in the network namespace of the calling thread. Needs `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        // Protocol 0: the kernel hands this socket no received frame.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Sends `frame`, Ethernet header included, on the interface numbered `device`.
    /// Never waits. `ENETDOWN` if the interface is down, `ENXIO` if it is gone.
    pub fn send(&self, device: u32, frame: &[u8]) -> io::Result<Sent> {
        let ethertype = match frame.get(12..14) {
            Some(bytes) => u16::from_be_bytes([bytes[0], bytes[1]]),
            None => return Err(io::ErrorKind::InvalidInput.into()),
        };
        match self.socket.send_to(frame, &link_layer(device, ethertype)) {
            Ok(_) => Ok(Sent::Out),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Sent::Dropped),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Full),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Says how many frames may leave now, so that two thousand announcements neither
/// overrun a switch nor each other. Pure: time is an argument.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    per_ms: u32,
    burst: u32,
    /// Frames granted and not used, in millionths (frames per ms times nanoseconds).
    credit: u64,
    at: Moment,
}

impl Pacer {
    /// At most `per_ms` frames per millisecond in the long run, and at most `burst` at
    /// once after a pause. A whole burst may leave at `now`.
    pub fn new(now: Moment, per_ms: u32, burst: u32) -> Self {
        let credit = u64::from(burst) * 1_000_000;
        Self {
            per_ms,
            burst,
            credit,
            at: now,
        }
    }

    /// How many frames may leave at `now`.
    pub fn allowed(&mut self, now: Moment) -> u32 {
        let nanos = u64::try_from(now.since(self.at).as_nanos()).unwrap_or(u64::MAX);
        let earned = nanos.saturating_mul(u64::from(self.per_ms));
        self.credit = self
            .credit
            .saturating_add(earned)
            .min(u64::from(self.burst) * 1_000_000);
        self.at = self.at.max(now);
        u32::try_from(self.credit / 1_000_000).unwrap_or(self.burst)
    }

    /// Counts `frames` that left.
    pub fn used(&mut self, frames: u32) {
        self.credit = self.credit.saturating_sub(u64::from(frames) * 1_000_000);
    }

    /// How long until `frames` may leave.
    pub fn wait(&self, frames: u32) -> Duration {
        let needed = (u64::from(frames.min(self.burst)) * 1_000_000).saturating_sub(self.credit);
        Duration::from_nanos(needed.div_ceil(u64::from(self.per_ms.max(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x02, 0, 0, 0xaa, 0xbb, 0xcc];
    const IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    #[test]
    fn an_answer_is_told_from_a_question() {
        let told = answer(&gratuitous_reply(MAC, IP));
        assert_eq!(told, Some((IP, MAC)));
        assert_eq!(answer(&gratuitous_request(MAC, IP)), None);
        assert_eq!(answer(&probe(MAC, IP)), None);
        let whole = gratuitous_reply(MAC, IP);
        for length in 0..32 {
            assert_eq!(answer(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_gratuitous_request_names_the_address_twice() {
        let expected = "ffffffffffff 02 00 00 aa bb cc 0806 0001 0800 06 04 0001
            02 00 00 aa bb cc c0000264 000000000000 c0000264";
        assert_eq!(gratuitous_request(MAC, IP).to_vec(), hex(expected));
    }

    #[test]
    fn a_gratuitous_reply_names_the_sender_as_its_target() {
        let expected = "ffffffffffff 02 00 00 aa bb cc 0806 0001 0800 06 04 0002
            02 00 00 aa bb cc c0000264 02 00 00 aa bb cc c0000264";
        assert_eq!(gratuitous_reply(MAC, IP).to_vec(), hex(expected));
    }

    #[test]
    fn a_probe_claims_nothing() {
        let expected = "ffffffffffff 02 00 00 aa bb cc 0806 0001 0800 06 04 0001
            02 00 00 aa bb cc 00000000 000000000000 c0000264";
        assert_eq!(probe(MAC, IP).to_vec(), hex(expected));
    }

    #[test]
    fn an_advertisement_is_whole_and_its_checksum_holds() {
        let ip: Ipv6Addr = "2001:db8::64".parse().unwrap();
        let frame = unsolicited_advertisement(MAC, ip, Forwards::No);
        assert_eq!(frame[..14], hex("333300000001 02 00 00 aa bb cc 86dd"));
        assert_eq!(frame[14..22], hex("60000000 0020 3a ff"));
        assert_eq!(frame[22..38], ip.octets());
        assert_eq!(
            frame[38..54],
            hex("ff02 0000 0000 0000 0000 0000 0000 0001")
        );
        assert_eq!(frame[54..56], hex("88 00"));
        assert_eq!(frame[58..62], hex("20 00 00 00"));
        assert_eq!(frame[62..78], ip.octets());
        assert_eq!(frame[78..86], hex("02 01 02 00 00 aa bb cc"));
        // A receiver sums everything, checksum included, and gets all ones.
        assert_eq!(icmpv6_checksum(ip, ALL_NODES, &frame[54..]), 0);
        assert_eq!(unsolicited_advertisement(MAC, ip, Forwards::Yes)[58], 0xa0);
    }

    #[test]
    fn an_announcement_has_both_forms_for_ipv4_and_one_for_ipv6() {
        let kinds = |ip: &str| {
            let announcement = announcement(MAC, ip.parse().unwrap(), Forwards::No);
            announcement.frames().map(<[u8]>::len).collect::<Vec<_>>()
        };
        assert_eq!(kinds("192.0.2.1"), [ARP_LENGTH, ARP_LENGTH]);
        assert_eq!(kinds("2001:db8::1"), [ADVERTISEMENT_LENGTH]);
    }

    #[test]
    fn the_pacer_grants_a_burst_and_then_its_rate() {
        let at = |micros: u64| Moment::from_nanos(micros * 1_000);
        let mut pacer = Pacer::new(at(0), 100, 300);
        assert_eq!(pacer.allowed(at(0)), 300);
        pacer.used(300);
        assert_eq!(pacer.allowed(at(0)), 0);
        assert_eq!(pacer.wait(1), Duration::from_micros(10));
        assert_eq!(pacer.wait(50), Duration::from_micros(500));
        assert_eq!(pacer.allowed(at(500)), 50);
        pacer.used(50);
        assert_eq!(pacer.allowed(at(400)), 0, "time does not run backwards");
        assert_eq!(
            pacer.allowed(at(1_000_000)),
            300,
            "a pause earns one burst, not more"
        );
    }

    #[test]
    fn over_a_long_time_the_pacer_keeps_its_rate() {
        let mut pacer = Pacer::new(Moment::ZERO, 128, 256);
        let mut sent = 0;
        for tick in 0..=1_000_u64 {
            let now = Moment::from_nanos(tick * 137_000);
            let allowed = pacer.allowed(now);
            pacer.used(allowed);
            sent += u64::from(allowed);
        }
        assert!((137 * 128..=137 * 128 + 256).contains(&sent), "{sent}");
    }
}
