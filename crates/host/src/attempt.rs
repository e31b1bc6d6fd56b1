//! Attempts to connect, seen as frames, and passed on to another machine: what the old
//! holder of an address does with those that come while it lets its clients go.
//!
//! A frame is copied as it came in (`sys::tap`), kept, and sent on under other hardware
//! addresses once somebody else has announced the address. The client notices nothing: it
//! is answered by the new holder.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::frame::Mac;

/// The longest frame of an attempt that is kept: a SYN carries options of 40 bytes at
/// most, and as much data as a TCP fast open cookie makes worth it; longer ones are not
/// held, and come again by themselves.
pub const ATTEMPT_LENGTH_MAX: usize = 1514;

const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Of FIN, SYN, RST and ACK, the flags that tell an attempt by SYN alone.
const FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;
/// In an IPv6 frame.
const HOP_LIMIT_AT: usize = ETHERNET + 7;
const TCP_CHECKSUM: usize = 16;
const TCP_LENGTH_MIN: usize = 20;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overheard {
    /// The first segment of a TCP connection.
    Attempt {
        /// The client.
        from: SocketAddr,
        /// What it wants to reach.
        to: SocketAddr,
    },
    /// Somebody says where an address is: gratuitous ARP in either form, or an
    /// unsolicited neighbour advertisement.
    Announcement {
        /// The address.
        ip: IpAddr,
        /// The hardware address at which it is.
        mac: Mac,
    },
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// Where the parts of an IP packet in an Ethernet frame are.
struct Packet {
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    /// Where what it carries begins and ends in the frame.
    payload: (usize, usize),
}

/// IPv6 with extension headers is none of ours: nobody opens connections with them.
fn packet(frame: &[u8]) -> Option<Packet> {
    let ip = frame.get(ETHERNET..)?;
    match short(frame, 12)? {
        ETHERTYPE_IPV4 => {
            let header = usize::from(ip.first()? & 0xf) * 4;
            let total = usize::from(short(ip, 2)?);
            let fragment = short(ip, 6)? & 0x3fff;
            let fits = header >= 20 && header <= total && total <= ip.len();
            (fits && fragment == 0).then_some(Packet {
                source: Ipv4Addr::from(array::<4>(ip, 12)?).into(),
                target: Ipv4Addr::from(array::<4>(ip, 16)?).into(),
                protocol: *ip.get(9)?,
                payload: (ETHERNET + header, ETHERNET + total),
            })
        }
        ETHERTYPE_IPV6 => {
            let total = 40 + usize::from(short(ip, 4)?);
            (total <= ip.len()).then_some(Packet {
                source: Ipv6Addr::from(array::<16>(ip, 8)?).into(),
                target: Ipv6Addr::from(array::<16>(ip, 24)?).into(),
                protocol: *ip.get(6)?,
                payload: (ETHERNET + 40, ETHERNET + total),
            })
        }
        _ => None,
    }
}

fn arp(frame: &[u8]) -> Option<Overheard> {
    // Ethernet, IPv4, lengths 6 and 4; sender and target are the same address.
    let head = array::<6>(frame, ETHERNET)? == [0, 1, 8, 0, 6, 4];
    let sender = array::<4>(frame, 28)?;
    let gratuitous = sender == array::<4>(frame, 38)?;
    (head && gratuitous).then_some(Overheard::Announcement {
        ip: Ipv4Addr::from(sender).into(),
        mac: array(frame, 22)?,
    })
}

/// RFC 4861 4.4: unsolicited, with the option that names the hardware address first.
fn advertisement(message: &[u8]) -> Option<Overheard> {
    const SOLICITED: u8 = 0x40;
    let is_one = *message.first()? == NEIGHBOUR_ADVERTISEMENT;
    let unsolicited = message.get(4)? & SOLICITED == 0;
    let names_mac = array::<2>(message, 24)? == [2, 1];
    (is_one && unsolicited && names_mac).then_some(Overheard::Announcement {
        ip: Ipv6Addr::from(array::<16>(message, 8)?).into(),
        mac: array(message, 26)?,
    })
}

/// What an Ethernet frame is about, if it is about any of this.
pub fn overheard(frame: &[u8]) -> Option<Overheard> {
    if short(frame, 12)? == ETHERTYPE_ARP {
        return arp(frame);
    }
    let packet = packet(frame)?;
    let payload = frame.get(packet.payload.0..packet.payload.1)?;
    match packet.protocol {
        TCP if payload.len() >= TCP_LENGTH_MIN && payload[13] & FLAGS == SYN => {
            Some(Overheard::Attempt {
                from: SocketAddr::new(packet.source, short(payload, 0)?),
                to: SocketAddr::new(packet.target, short(payload, 2)?),
            })
        }
        // From this link, as RFC 4861 7.1.2 wants it: no router has passed it on.
        ICMPV6 if frame.get(HOP_LIMIT_AT) == Some(&255) => advertisement(payload),
        _ => None,
    }
}

/// Why a frame cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not an attempt at all.
    #[error("this is no attempt to connect")]
    NoAttempt,
    /// It was damaged on its way here.
    #[error("its checksum is wrong")]
    Damaged,
}

/// Makes an attempt's frame one from `from` to `to`. The network card of a sender on this
/// very machine would have completed the checksum: if only its beginning is there, that is
/// done here. A frame with a wrong checksum is not repaired.
pub fn readdress(frame: &mut [u8], to: Mac, from: Mac) -> Result<(), Unfit> {
    let packet = packet(frame).ok_or(Unfit::NoAttempt)?;
    if packet.protocol != TCP {
        return Err(Unfit::NoAttempt);
    }
    let (start, end) = packet.payload;
    let segment = frame.get_mut(start..end).ok_or(Unfit::NoAttempt)?;
    if segment.len() < TCP_LENGTH_MIN {
        return Err(Unfit::NoAttempt);
    }
    let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    let pseudo = pseudo_header(&packet, length);
    let whole = fold(pseudo + sum(segment));
    if whole != 0xffff {
        let begun = u16::from_be_bytes([segment[TCP_CHECKSUM], segment[TCP_CHECKSUM + 1]]);
        if begun != fold(pseudo) {
            return Err(Unfit::Damaged);
        }
        // The beginning is what the sum over all of it has to start from.
        let complete = !fold(sum(segment));
        segment[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&complete.to_be_bytes());
    }
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    Ok(())
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
    words.map(|pair| u64::from(word(pair))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo_header(packet: &Packet, length: u32) -> u64 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let addresses = sum(&octets(packet.source)) + sum(&octets(packet.target));
    addresses + sum(&length.to_be_bytes()) + u64::from(TCP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{
        Forwards, gratuitous_reply, gratuitous_request, probe, unsolicited_advertisement,
    };

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];
    const IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

    /// A SYN from port 40000 to port 80, with this checksum.
    fn syn(ipv6: bool, flags: u8, checksum: u16) -> Vec<u8> {
        let mut tcp = vec![0; 24];
        tcp[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        tcp[12] = 0x60;
        tcp[13] = flags;
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        tcp[20..].copy_from_slice(&[2, 4, 5, 0xb4]);
        let mut frame = vec![9; 12];
        if ipv6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, TCP, 64]);
            frame.extend("2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
            frame.extend("2001:db8::64".parse::<Ipv6Addr>().unwrap().octets());
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 44, 0, 1, 0x40, 0, 64, TCP, 0, 0]);
            frame.extend([192, 0, 2, 9]);
            frame.extend(IP.octets());
        }
        frame.extend(tcp);
        frame
    }

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn attempts_are_told_from_everything_else() {
        let attempt = |from, to| {
            Some(Overheard::Attempt {
                from: end(from),
                to: end(to),
            })
        };
        assert_eq!(
            overheard(&syn(false, SYN, 0)),
            attempt("192.0.2.9:40000", "192.0.2.100:80")
        );
        // With the flags that ask for congestion notification as well.
        assert_eq!(
            overheard(&syn(true, SYN | 0xc0, 0)),
            attempt("[2001:db8::9]:40000", "[2001:db8::64]:80")
        );
        for flags in [0x12, 0x10, 0x04, 0x03, 0] {
            assert_eq!(overheard(&syn(false, flags, 0)), None, "{flags:#x}");
        }
        let mut fragment = syn(false, SYN, 0);
        fragment[20] |= 0x20;
        assert_eq!(overheard(&fragment), None);
        let whole = syn(true, SYN, 0);
        for length in 0..whole.len() {
            assert_eq!(overheard(&whole[..length]), None, "cut off at {length}");
        }
    }

    #[test]
    fn announcements_name_their_address() {
        let ip6: Ipv6Addr = "2001:db8::64".parse().unwrap();
        let said = |ip: IpAddr| Some(Overheard::Announcement { ip, mac: A });
        assert_eq!(overheard(&gratuitous_request(A, IP)), said(IP.into()));
        assert_eq!(overheard(&gratuitous_reply(A, IP)), said(IP.into()));
        assert_eq!(overheard(&probe(A, IP)), None, "it claims nothing");
        let mut frame = unsolicited_advertisement(A, ip6, Forwards::No);
        assert_eq!(overheard(&frame), said(ip6.into()));
        frame[HOP_LIMIT_AT] = 254;
        assert_eq!(overheard(&frame), None, "from beyond a router");
    }

    /// A checksum of the whole, as a receiver computes it.
    fn holds(frame: &[u8]) -> bool {
        let packet = packet(frame).unwrap();
        let segment = &frame[packet.payload.0..packet.payload.1];
        fold(pseudo_header(&packet, segment.len() as u32) + sum(segment)) == 0xffff
    }

    #[test]
    fn a_partial_checksum_is_completed_and_a_wrong_one_is_not() {
        for ipv6 in [false, true] {
            let bare = syn(ipv6, SYN, 0);
            let begun = fold(pseudo_header(&packet(&bare).unwrap(), 24));
            let mut frame = syn(ipv6, SYN, begun);
            assert!(!holds(&frame));
            assert_eq!(readdress(&mut frame, B, A), Ok(()));
            assert!(holds(&frame));
            assert_eq!((&frame[..6], &frame[6..12]), (&B[..], &A[..]));
            let whole = frame.clone();
            assert_eq!(readdress(&mut frame, B, A), Ok(()));
            assert_eq!(frame, whole, "a whole one stays");
            frame[40 + 14] ^= 1;
            assert_eq!(readdress(&mut frame, B, A), Err(Unfit::Damaged));
        }
    }
}
