//! What claims an address without being traffic of it: ARP and neighbour discovery,
//! from the kernel and from programs that write whole frames.

use super::*;
use evenkeel_host::frame::{
    Forwards, FrameSocket, Mac, gratuitous_reply, gratuitous_request, probe,
    unsolicited_advertisement,
};
use evenkeel_host::sys::packet::link_layer;
use evenkeel_host::sys::tap::Tap;

const MAC: Mac = [2, 0, 0, 0, 0, 9];
const NEXT_HEADER: usize = 20;
const IPV6_SOURCE: std::ops::Range<usize> = 22..38;

fn v4(text: &str) -> std::net::Ipv4Addr {
    text.parse().expect("an address")
}

fn v6(text: &str) -> std::net::Ipv6Addr {
    text.parse().expect("an address")
}

/// Number of a device in a network namespace.
fn index(namespace: &str, device: &str) -> u32 {
    let output = run(&format!("ip -n {namespace} -o link show {device}"));
    let text = String::from_utf8(output.stdout).expect("text");
    text.split(':')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

/// Whether `frame`, sent by the node, reaches the client. Frames on one
/// device stay in order, so a second one that always passes says when to stop waiting.
fn passes(world: &World, frame: &[u8]) -> bool {
    passes_as(world, frame, frame)
}

/// The same for a frame that arrives as `arriving`.
fn passes_as(world: &World, frame: &[u8], arriving: &[u8]) -> bool {
    let tap = within(&world.client, || Tap::open().expect("a tap"));
    let socket = FrameSocket::open().expect("a socket");
    let marker = gratuitous_request(MAC, v4("10.77.0.1"));
    let device = index(&world.node, "veth0");
    for frame in [frame, &marker] {
        // An error means that it was dropped.
        let _ = socket.send(device, frame);
    }
    arrives_before(&tap, arriving, &marker)
}

fn arrives_before(tap: &Tap, frame: &[u8], marker: &[u8]) -> bool {
    let mut found = false;
    let mut buffer = [0; 256];
    until("the marker arrives", || {
        while let Some(seen) = tap.receive(&mut buffer).expect("to receive") {
            found |= &buffer[..seen.length] == frame;
            if &buffer[..seen.length] == marker {
                return true;
            }
        }
        false
    });
    found
}

/// Frames that claim the guarded addresses in ways that both mechanisms know.
fn claims() -> Vec<(&'static str, Vec<u8>)> {
    let advertisement = unsolicited_advertisement(MAC, v6(V6), Forwards::No);
    let mut other_source = advertisement.to_vec();
    other_source[IPV6_SOURCE].copy_from_slice(&v6("fe80::1").octets());
    let mut behind_options = other_source.clone();
    // A hop-by-hop header of eight bytes: next is ICMPv6, then one option that pads.
    behind_options.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
    behind_options[NEXT_HEADER] = 0;
    behind_options[19] += 8;
    vec![
        (
            "gratuitous request",
            gratuitous_request(MAC, v4(V4)).to_vec(),
        ),
        ("gratuitous reply", gratuitous_reply(MAC, v4(V4)).to_vec()),
        ("advertisement", advertisement.to_vec()),
        ("advertisement from another source", other_source),
        ("advertisement behind options", behind_options),
    ]
}

#[test]
fn frames_that_claim_a_closed_address_stay_here() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, _keeper) = world.guard(backends);
        for (what, frame) in claims() {
            assert!(!passes(&world, &frame), "{backends:?}: {what}");
        }
        hold(&mut guard, PATIENCE);
        for (what, frame) in claims() {
            assert!(passes(&world, &frame), "{backends:?}, held: {what}");
        }
    }
}

/// Frames with VLAN tags inside, and frames whose sender told its own kernel another
/// protocol: eBPF reads the frame itself.
#[test]
fn disguised_claims_stay_here() {
    let world = World::new();
    let (mut guard, _keeper) = world.guard(Backends::BpfOnly);
    let plain = gratuitous_request(MAC, v4(V4));
    let mut tagged = plain.to_vec();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut twice = tagged.clone();
    twice.splice(12..12, [0x88, 0xa8, 0, 6]);
    let send_as = |protocol: u16| {
        let tap = within(&world.client, || Tap::open().expect("a tap"));
        let kinds = (
            socket2::Domain::PACKET,
            socket2::Type::RAW,
            socket2::Protocol::from(0),
        );
        let socket = socket2::Socket::new(kinds.0, kinds.1, Some(kinds.2)).expect("a socket");
        let to = link_layer(index(&world.node, "veth0"), protocol);
        let marker = gratuitous_request(MAC, v4("10.77.0.1"));
        let _ = socket.send_to(&plain, &to);
        socket.send_to(&marker, &to).expect("the marker is sent");
        arrives_before(&tap, &plain, &marker)
    };
    for held in [false, true] {
        // The client's kernel takes the outer tag off before anybody sees the frame.
        assert_eq!(passes_as(&world, &twice, &tagged), held, "two tags");
        assert_eq!(passes_as(&world, &tagged, &plain), held, "a tag");
        for protocol in [0x1234, 0x86dd, 0x0800] {
            assert_eq!(send_as(protocol), held, "as {protocol:#x}");
        }
        hold(&mut guard, PATIENCE);
    }
}

/// What a standby may say of an address that it does not hold.
#[test]
fn questions_about_a_closed_address_pass() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (_guard, _keeper) = world.guard(backends);
        assert!(passes(&world, &probe(MAC, v4(V4))), "{backends:?}: a probe");
    }
}

/// The kernel's own answers: asks by whole frames and listens for the answer.
#[test]
fn arp_requests_for_a_closed_address_are_not_answered() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, _keeper) = world.guard(backends);
        assert!(!arp_answered(&world), "{backends:?}: closed");
        hold(&mut guard, PATIENCE);
        assert!(arp_answered(&world), "{backends:?}: held");
    }
}

/// Asks for the guarded address, then for one that always answers.
fn arp_answered(world: &World) -> bool {
    within(&world.client, || {
        let tap = Tap::open().expect("a tap");
        let socket = FrameSocket::open().expect("a socket");
        let device = index(&world.client, "veth0");
        for address in [V4, "10.77.0.1"] {
            // A probe asks without telling who asks; the answer comes to this MAC.
            socket
                .send(device, &probe(MAC, v4(address)))
                .expect("the question is sent");
        }
        let mut guarded = false;
        let mut buffer = [0; 256];
        until("the other address answers", || {
            while let Some(seen) = tap.receive(&mut buffer).expect("to receive") {
                let frame = &buffer[..seen.length];
                if frame.get(12..14) != Some(&[8, 6]) || frame.get(20..22) != Some(&[0, 2]) {
                    continue;
                }
                guarded |= frame[28..32] == v4(V4).octets();
                if frame[28..32] == v4("10.77.0.1").octets() {
                    return true;
                }
            }
            false
        });
        guarded
    })
}

/// A standby's own table of neighbours must follow the holder.
#[test]
fn a_standby_learns_from_the_holders_announcement() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (_guard, mut keeper) = world.guard(backends);
        let elsewhere = "10.77.0.3";
        keeper
            .set_addresses(OTHER, Epoch::NONE, &[ip(elsewhere)])
            .expect("it is taken");
        let node = &world.node;
        run(&format!(
            "ip -n {node} neigh replace {elsewhere} lladdr 02:00:00:00:00:01 dev veth0 nud stale"
        ));
        within(&world.client, || {
            let socket = FrameSocket::open().expect("a socket");
            let device = index(&world.client, "veth0");
            socket
                .send(device, &gratuitous_reply(MAC, v4(elsewhere)))
                .expect("it is sent");
        });
        until(
            &format!("the neighbour is learnt through {backends:?}"),
            || {
                let known = run(&format!("ip -n {node} neigh show {elsewhere}")).stdout;
                String::from_utf8_lossy(&known).contains("02:00:00:00:00:09")
            },
        );
    }
}
