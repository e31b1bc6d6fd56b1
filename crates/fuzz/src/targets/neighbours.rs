//! What neighbours say on the wire: answers and announcements of ARP, neighbour advertisements, and
//! frames that are passed on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use evenkeel_host::attempt::{Overheard, overheard, readdress};
use evenkeel_host::frame::{self, Forwards};

use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "neighbours",
    reads: "frames: ARP, neighbour advertisements, attempts to connect (mover, courier, doctor)",
    seeds,
    judge,
    length_max: 2048,
    memory: MEMORY,
    memory_per_byte: 16,
    mutants: 50_000,
};

const MAC: frame::Mac = [2, 0, 0, 0, 0, 7];
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

/// An attempt to connect with a checksum that holds, as a client's card completes it.
fn attempt() -> Vec<u8> {
    use evenkeel_host::sockets::Flow;
    use evenkeel_host::tickle::Tickle;
    let flow = Flow {
        service: SocketAddr::new(IpAddr::V4(V4), 80),
        client: "198.51.100.7:40000".parse().expect("an address"),
    };
    let tickle = Tickle::new(&flow, 7).expect("one family");
    let mut packet = tickle.bytes().to_vec();
    // From ACK to SYN: the sum of the header goes with it.
    let flags = 20 + 13;
    packet[flags] = 0x02;
    let sum = u16::from_be_bytes([packet[36], packet[37]]);
    let sum = sum.wrapping_add(0x10 - 0x02);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    [&MAC[..], &MAC, &[0x08, 0x00], &packet].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x64);
    vec![
        frame::gratuitous_reply(MAC, V4).to_vec(),
        frame::gratuitous_request(MAC, V4).to_vec(),
        frame::probe(MAC, V4).to_vec(),
        frame::unsolicited_advertisement(MAC, v6, Forwards::Yes).to_vec(),
        attempt(),
    ]
}

fn judge(input: &[u8]) {
    if let Some((ip, mac)) = frame::answer(input) {
        // It says so itself, with these very bytes.
        assert_eq!(&input[22..28], mac);
        assert_eq!(&input[28..32], ip.octets());
    }
    let heard = overheard(input);
    if let Some(Overheard::Announcement { ip, mac }) = heard {
        assert!(input.windows(6).any(|window| window == mac));
        let octets = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        assert!(input.windows(octets.len()).any(|window| window == octets));
    }
    let mut passed = input.to_vec();
    if readdress(&mut passed, MAC, [9; 6]).is_err() {
        return;
    }
    assert_eq!(passed.len(), input.len());
    assert_eq!((&passed[..6], &passed[6..12]), (&MAC[..], &[9; 6][..]));
    // Whoever gets it finds its checksum good, and the same in it.
    let mut again = passed.clone();
    assert_eq!(readdress(&mut again, MAC, [9; 6]), Ok(()));
    assert_eq!(again, passed);
    if matches!(heard, Some(Overheard::Attempt { .. })) {
        assert_eq!(overheard(&passed), heard);
    }
}
