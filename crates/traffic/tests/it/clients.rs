//! Clients of a holder that died are reset by the next one, also those that only wait.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use evenkeel_core::Epoch;
use evenkeel_host::frame::Sent;
use evenkeel_host::tickle::{Tickle, TickleSocket};
use evenkeel_traffic::flows::{Changes, Flow, Heard, Standby, Tickled};
use evenkeel_traffic::{FlowReport, FlowWatch, Want};
use tokio::sync::mpsc;

use crate::net::{Host, Lan, OPEN, PATIENCE, WWW, wait_for};

const FIRST: Epoch = Epoch { term: 1, index: 1 };
const SECOND: Epoch = Epoch { term: 1, index: 2 };
const ADDRESSES: [&str; 2] = ["192.0.2.100/24", "2001:db8::100/64"];

fn ips() -> BTreeSet<IpAddr> {
    let ip = |text: &str| text.parse().expect("an address");
    BTreeSet::from([ip("192.0.2.100"), ip("2001:db8::100")])
}

/// A watch on a host.
fn watch(host: &Host) -> (FlowWatch, mpsc::Receiver<FlowReport>) {
    let (tell, reports) = mpsc::channel(64);
    let watch = host.inside(move || FlowWatch::start(tell).expect("it starts"));
    (watch, reports)
}

fn tickled(reports: &mut mpsc::Receiver<FlowReport>) -> Tickled {
    let mut found = None;
    wait_for("clients are tickled", || {
        match reports.try_recv() {
            Ok(FlowReport::Tickled(tickled)) => found = Some(tickled),
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
        found.is_some()
    });
    found.expect("waited for")
}

/// A server that accepts on `listen`, which has to be here, and clients of it.
struct Served {
    listener: TcpListener,
    clients: Vec<TcpStream>,
    accepted: Vec<TcpStream>,
}

fn serve(server: &Host, listen: &str) -> Served {
    let listen = listen.to_owned();
    Served {
        listener: server.inside(move || TcpListener::bind(listen).expect("it is here")),
        clients: Vec::new(),
        accepted: Vec::new(),
    }
}

impl Served {
    fn connect(&mut self, client: &Host, ip: &str) -> SocketAddr {
        let port = self.listener.local_addr().expect("bound").port();
        let target = SocketAddr::new(ip.parse().expect("an address"), port);
        let stream = client.inside(move || TcpStream::connect(target).expect("it answers"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let from = stream.local_addr().expect("connected");
        self.clients.push(stream);
        self.accepted
            .push(self.listener.accept().expect("connected").0);
        from
    }
}

fn is_reset(mut client: &TcpStream) {
    let error = client.read(&mut [0; 1]).expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// The snapshot of a watch, once it has as many connections.
fn listed(watch: &FlowWatch, count: usize) -> Vec<Flow> {
    let snapshots = watch.snapshots();
    let mut flows = Vec::new();
    wait_for("the connections are listed", || {
        if let Some(snapshot) = snapshots.borrow().get(&WWW) {
            assert_eq!(snapshot.epoch, FIRST);
            flows = snapshot.flows.to_vec();
        }
        flows.len() == count
    });
    flows
}

/// A client's address on another network, with the client's host as the way to it.
fn live_elsewhere(client: &Host, servers: &[&Host]) {
    client.ip("address add 198.51.100.7/32 dev lo");
    client.ip("address add 2001:db8:1::7/128 dev lo nodad");
    client.ip("route change 192.0.2.0/24 dev eth0 src 198.51.100.7");
    client.ip("-6 route add 2001:db8::100/128 dev eth0 src 2001:db8:1::7");
    for server in servers {
        server.ip("route add 198.51.100.0/24 via 192.0.2.3");
        server.ip("-6 route add 2001:db8:1::/64 via 2001:db8::3");
    }
}

/// Two idle clients on the link, two beyond a router, one of each family; a dual-stack
/// server for one more.
fn clients_of_a_dead_holder_are_reset(elsewhere: bool) {
    let Some(lan) = Lan::new(3) else { return };
    let (one, two, client) = (lan.host(1), lan.host(2), lan.host(3));
    if elsewhere {
        live_elsewhere(&client, &[&one, &two]);
    }
    let mut old = one.mover(&ADDRESSES);
    old.mover.want(WWW, OPEN);
    old.announced();
    let (holder, _quiet) = watch(&one);
    holder.open(WWW, FIRST, ips());
    let mut ipv4 = serve(&one, "192.0.2.100:0");
    let from = ipv4.connect(&client, "192.0.2.100");
    assert_eq!(from.ip().to_string() == "198.51.100.7", elsewhere);
    let mut ipv6 = serve(&one, "[2001:db8::100]:0");
    let from = ipv6.connect(&client, "2001:db8::100");
    assert_eq!(from.ip().to_string() == "2001:db8:1::7", elsewhere);
    let mut dual = serve(&one, "[::]:0");
    dual.connect(&client, "192.0.2.100");

    let flows = listed(&holder, 3);
    let mut standby = Standby::new([WWW]);
    let heard = Heard {
        epoch: FIRST,
        base: 0,
        sequence: 1,
        changes: Changes {
            added: flows,
            gone: Vec::new(),
        },
    };
    assert_eq!(standby.hear(WWW, &heard), 1);
    one.ip("link set eth0 down");

    let mut new = two.mover(&ADDRESSES);
    let (heir, mut reports) = watch(&two);
    new.mover.want(WWW, Want::Open { epoch: SECOND });
    heir.open(WWW, SECOND, ips());
    new.announced();
    heir.tickle(WWW, SECOND, standby.opened(WWW, SECOND));
    let told = tickled(&mut reports);
    assert_eq!((told.clients, told.living, told.dropped), (3, 0, 0));
    for served in [&ipv4, &ipv6, &dual] {
        is_reset(&served.clients[0]);
    }
}

#[test]
fn clients_on_the_link_are_reset() {
    clients_of_a_dead_holder_are_reset(false);
}

#[test]
fn clients_beyond_a_router_are_reset() {
    clients_of_a_dead_holder_are_reset(true);
}

/// A client that came back from the same port has a connection that lives here: it is not
/// tickled, and would not be harmed by it.
#[test]
fn a_living_connection_is_left_alone() {
    let Some(lan) = Lan::new(2) else { return };
    let (one, client) = (lan.host(1), lan.host(2));
    let mut mover = one.mover(&ADDRESSES);
    mover.mover.want(WWW, Want::Open { epoch: SECOND });
    mover.announced();
    let (watch, mut reports) = watch(&one);
    watch.open(WWW, SECOND, ips());
    let mut ipv4 = serve(&one, "192.0.2.100:0");
    ipv4.connect(&client, "192.0.2.100");
    let mut ipv6 = serve(&one, "[2001:db8::100]:0");
    ipv6.connect(&client, "2001:db8::100");
    let flows: Vec<Flow> = [&ipv4, &ipv6]
        .map(|served| Flow {
            service: served.accepted[0].local_addr().expect("connected"),
            client: served.accepted[0].peer_addr().expect("connected"),
        })
        .to_vec();
    watch.tickle(WWW, SECOND, flows.clone());
    assert_eq!(tickled(&mut reports).living, 2);
    one.inside(move || {
        for flow in flows {
            let socket = TickleSocket::open(flow.service.ip()).expect("it is here");
            let tickle = Tickle::new(&flow, 0).expect("one family");
            let sent = socket.send(flow.client.ip(), &tickle).expect("it leaves");
            assert_eq!(sent, Sent::Out);
        }
    });
    for served in [&mut ipv4, &mut ipv6] {
        for byte in *b"ab" {
            served.accepted[0].write_all(&[byte]).expect("connected");
            let mut got = [0; 1];
            served.clients[0].read_exact(&mut got).expect("connected");
            assert_eq!(got, [byte]);
            served.clients[0].write_all(&got).expect("connected");
            served.accepted[0].read_exact(&mut got).expect("connected");
        }
    }
}

/// What a closed group had is listed no more, and nobody is tickled for it.
#[test]
fn a_closed_group_is_let_go() {
    let Some(lan) = Lan::new(2) else { return };
    let (one, client) = (lan.host(1), lan.host(2));
    let mut mover = one.mover(&ADDRESSES);
    mover.mover.want(WWW, OPEN);
    mover.announced();
    let (watch, _reports) = watch(&one);
    watch.open(WWW, FIRST, ips());
    let mut served = serve(&one, "192.0.2.100:0");
    served.connect(&client, "192.0.2.100");
    listed(&watch, 1);
    watch.close(WWW);
    watch.open(WWW, FIRST, BTreeSet::new());
    listed(&watch, 0);
}
