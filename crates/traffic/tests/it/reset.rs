//! Clients learn of a planned move at once, also the idle ones.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use evenkeel_traffic::Report;

use crate::net::{Host, Lan, OPEN, PATIENCE, WWW};

/// A server on `listen` and an idle client connected to `ip`.
fn idle(
    server: &Host,
    client: &Host,
    listen: &str,
    ip: &str,
) -> (TcpListener, TcpStream, TcpStream) {
    let listen = listen.to_owned();
    let listener = server.inside(move || TcpListener::bind(listen).expect("it is here"));
    let port = listener.local_addr().expect("bound").port();
    let target = if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    };
    let idle = client.inside(move || TcpStream::connect(target).expect("it answers"));
    idle.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let (accepted, _) = listener.accept().expect("connected");
    (listener, idle, accepted)
}

fn is_reset(mut client: &TcpStream) -> Duration {
    let asked = Instant::now();
    let error = client.read(&mut [0; 1]).expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    asked.elapsed()
}

#[test]
fn idle_clients_are_reset_when_a_group_is_released() {
    let Some(lan) = Lan::new(2) else { return };
    let (one, client) = (lan.host(1), lan.host(2));
    let mut mover = one.mover(&["192.0.2.100/24", "2001:db8::100/64"]);
    mover.mover.want(WWW, OPEN);
    mover.announced();
    let plain = idle(&one, &client, "192.0.2.100:0", "192.0.2.100");
    let ipv6 = idle(&one, &client, "[2001:db8::100]:0", "2001:db8::100");
    // An IPv6 socket that serves IPv4: the address is inside of an IPv6 one.
    let mapped = idle(&one, &client, "[::]:0", "192.0.2.100");
    // On the host's own address: none of our business.
    let own = idle(&one, &client, "192.0.2.1:0", "192.0.2.1");

    mover.mover.release(WWW);
    let sockets = mover.report(|report| match report {
        Report::Reset { sockets, .. } => Some(*sockets),
        _ => None,
    });
    assert_eq!(sockets, 3);
    mover.gone();
    for (_, client, accepted) in [&plain, &ipv6, &mapped] {
        is_reset(client);
        let error = (&*accepted)
            .read(&mut [0; 1])
            .expect_err("the server is told as well");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    }
    let (_, client, mut accepted) = own;
    accepted.write_all(b"x").expect("still connected");
    (&client).read_exact(&mut [0; 1]).expect("still connected");
    // What listens stays: it serves again when the address returns.
    mover.mover.want(WWW, OPEN);
    mover.announced();
    let target = plain.0.local_addr().expect("it listens still");
    client_connects(&lan.host(2), &target.to_string());
}

fn client_connects(client: &Host, target: &str) {
    let target = target.to_owned();
    client.inside(move || {
        TcpStream::connect(target)
            .map(drop)
            .expect("it listens still")
    });
}

#[test]
fn a_reset_leaves_the_addresses_and_unconnected_udp_sockets() {
    let Some(lan) = Lan::new(2) else { return };
    let (one, client) = (lan.host(1), lan.host(2));
    let mut mover = one.mover(&["192.0.2.100/24"]);
    mover.mover.want(WWW, OPEN);
    mover.announced();
    let (_listener, idle, _accepted) = idle(&one, &client, "192.0.2.100:0", "192.0.2.100");
    let udp = one.inside(|| UdpSocket::bind("192.0.2.100:0").expect("it is here"));
    udp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    mover.mover.reset(WWW);
    let sockets = mover.report(|report| match report {
        Report::Reset { sockets, .. } => Some(*sockets),
        _ => None,
    });
    assert_eq!(sockets, 1);
    is_reset(&idle);
    assert!(one.has("192.0.2.100"));
    let target = udp.local_addr().expect("still bound");
    client.inside(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.send_to(b"x", target).expect("it is on the link");
    });
    assert_eq!(udp.recv(&mut [0; 8]).expect("still served"), 1);
}
