//! Endpoints on loopback: who gets in, who does not and why, what survives.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use evenkeel_core::topology::Timing;
use evenkeel_core::{Moment, NodeId, NodeName};
use evenkeel_host::sys::udp::pair;
use evenkeel_transport::pki::{self, Identity};
use evenkeel_transport::{
    Alarmed, Class, DownReason, Endpoint, Events, Fingerprint, Incoming, Keyring, LeaseKeys,
    Messages, PeerAddress, PeerEvent, RefusedBy, Requests, Settings, TransportError, Tuning,
};
use tempfile::TempDir;
use tokio::time::timeout;

const RAFT: Class = Class(1);
const REPORT: Class = Class(2);
/// Far longer than anything here takes, so that it fails only when something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(86_400);

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a name")
}

fn id(text: &str) -> NodeId {
    NodeId::of(&name(text))
}

/// As within one site, but patient: tests share the machine with others, and a link that
/// goes down because the machine is busy is not what they are about.
fn tuning() -> Tuning {
    let timing = Timing {
        lease: Duration::from_millis(120),
        heartbeat: Duration::from_millis(20),
    };
    let idle = Duration::from_secs(5);
    Tuning {
        idle,
        keep_alive: idle / 4,
        ..Tuning::of(&timing)
    }
}

/// The authority of one cluster.
struct Cluster(TempDir);

impl Cluster {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        pki::init(dir.path(), Some("shop"), SystemTime::now()).expect("an authority");
        Self(dir)
    }

    fn identity(&self, node: &str) -> Identity {
        self.identity_of(node, SystemTime::now())
    }

    fn identity_of(&self, node: &str, issued: SystemTime) -> Identity {
        let (dir, node) = (self.0.path(), name(node));
        if !dir.join(format!("{node}.pem")).exists() {
            pki::issue(dir, &node, dir, issued).expect("a certificate");
        }
        pki::load(dir, "shop", &node, &[]).expect("an identity")
    }
}

/// A bound socket, so that addresses are known before anybody starts.
fn socket(at: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(at).expect("a socket");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

fn peers(list: &[(&str, SocketAddr)]) -> Vec<PeerAddress> {
    list.iter()
        .map(|(node, address)| PeerAddress {
            name: name(node),
            address: *address,
        })
        .collect()
}

fn settings(node: &str, list: &[(&str, SocketAddr)]) -> Settings {
    Settings {
        tuning: tuning(),
        peers: peers(list),
        revoked: Vec::new(),
        hello: Bytes::from(format!("I am {node}")),
        admission: Arc::new(|_, _| Ok(())),
    }
}

struct Node {
    endpoint: Endpoint,
    events: Events,
    requests: Requests,
    messages: Messages,
}

impl Node {
    fn start(settings: Settings, socket: UdpSocket, identity: Identity) -> Self {
        socket.set_nonblocking(true).expect("nonblocking");
        let (endpoint, incoming) =
            Endpoint::start(settings, socket, identity).expect("an endpoint");
        let Incoming {
            events,
            requests,
            messages,
        } = incoming;
        Self {
            endpoint,
            events,
            requests,
            messages,
        }
    }

    async fn event(&mut self) -> PeerEvent {
        timeout(PATIENCE, self.events.next())
            .await
            .expect("an event in time")
            .expect("open")
    }

    /// The next event that `pick` takes; the others are passed over.
    async fn until<T>(&mut self, mut pick: impl FnMut(PeerEvent) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.event().await) {
                return picked;
            }
        }
    }

    async fn up(&mut self, whom: &str) -> LeaseKeys {
        let wanted = id(whom);
        self.until(|event| match event {
            PeerEvent::Up { peer, keys, .. } if peer == wanted => Some(keys),
            _ => None,
        })
        .await
    }

    async fn refused(&mut self, by: RefusedBy) -> String {
        self.until(|event| match event {
            PeerEvent::Refused {
                by: who, reason, ..
            } if who == by => Some(reason),
            PeerEvent::Up { .. } => panic!("let in"),
            _ => None,
        })
        .await
    }

    async fn ask(&self, whom: &str, body: &'static [u8]) -> Result<Bytes, TransportError> {
        self.endpoint
            .request(id(whom), RAFT, Bytes::from_static(body), PATIENCE)
            .await
    }
}

/// Answers every request with its class, a colon and its body reversed.
fn echo(mut requests: Requests) {
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let mut body = request.body.to_vec();
            body.reverse();
            request
                .reply
                .send([&[request.class.0, b':'], &body[..]].concat().into());
        }
    });
}

/// Two connected nodes, `a` and `b`.
async fn two(at: &str) -> (Cluster, Node, Node) {
    let cluster = Cluster::new();
    let ((socket_a, at_a), (socket_b, at_b)) = (socket(at), socket(at));
    let mut a = Node::start(
        settings("a", &[("b", at_b)]),
        socket_a,
        cluster.identity("a"),
    );
    let mut b = Node::start(
        settings("b", &[("a", at_a)]),
        socket_b,
        cluster.identity("b"),
    );
    a.up("b").await;
    b.up("a").await;
    (cluster, a, b)
}

#[tokio::test]
async fn nodes_connect_ask_and_answer() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let (_cluster, a, b) = two(at).await;
        echo(b.requests);
        let answer = a
            .endpoint
            .request(id("b"), RAFT, Bytes::from_static(b"vote"), PATIENCE);
        assert_eq!(answer.await.expect("an answer"), &b"\x01:etov"[..]);
        assert_eq!(a.endpoint.up(), [id("b")]);
        assert!(
            a.endpoint
                .rtt(id("b"))
                .is_some_and(|rtt| rtt < Duration::from_millis(100))
        );
        assert_eq!(a.endpoint.rtt(id("c")), None);
    }
}

#[tokio::test]
async fn both_sides_get_the_same_hello_and_fitting_keys() {
    let cluster = Cluster::new();
    let ((socket_a, at_a), (socket_b, at_b)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut a = Node::start(
        settings("a", &[("b", at_b)]),
        socket_a,
        cluster.identity("a"),
    );
    let mut b = Node::start(
        settings("b", &[("a", at_a)]),
        socket_b,
        cluster.identity("b"),
    );
    let (mut ring_a, mut ring_b) = (Keyring::new(), Keyring::new());
    let now = Moment::from_nanos(1);
    let PeerEvent::Up { hello, keys, .. } = a.event().await else {
        panic!("not up")
    };
    assert_eq!(hello, "I am b");
    ring_a.install(now, keys);
    ring_b.install(now, b.up("a").await);
    // Both dialled at once, so there may be keys of a second connection; all may be used.
    let mut out = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        ring_a
            .seal(now, id("b"), b"renew", &mut out)
            .expect("sealed");
        if ring_b.open(&mut out) == Ok((id("a"), &b"renew"[..])) {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the keys never fitted"
        );
        tokio::select! {
            keys = a.up("b") => ring_a.install(now, keys),
            keys = b.up("a") => ring_b.install(now, keys),
        }
    }
}

#[tokio::test]
async fn long_bodies_pass_and_longer_ones_are_refused() {
    let (_cluster, a, b) = two("127.0.0.1:0").await;
    echo(b.requests);
    let body = Bytes::from(vec![3; evenkeel_transport::BODY_MAX - 2]);
    let answer = a
        .endpoint
        .request(id("b"), RAFT, body, PATIENCE)
        .await
        .expect("an answer");
    assert_eq!(answer.len(), evenkeel_transport::BODY_MAX);
    let body = Bytes::from(vec![3; evenkeel_transport::BODY_MAX + 1]);
    let refused = a
        .endpoint
        .request(id("b"), RAFT, body.clone(), PATIENCE)
        .await;
    assert!(matches!(refused, Err(TransportError::TooLong { .. })));
    assert!(matches!(
        a.endpoint.send(id("b"), RAFT, body),
        Err(TransportError::TooLong { .. })
    ));
}

#[tokio::test]
async fn requests_fail_with_the_reason() {
    let (_cluster, a, mut b) = two("127.0.0.1:0").await;
    assert_eq!(a.ask("c", b"x").await, Err(TransportError::NotConnected));
    // Dropped without an answer.
    let (answer, ()) = tokio::join!(a.ask("b", b"x"), async {
        drop(b.requests.next().await.expect("a request"));
    });
    assert_eq!(answer, Err(TransportError::Unanswered));
    // Held for ever.
    let short = Duration::from_millis(50);
    let (late, held) = tokio::join!(
        a.endpoint.request(id("b"), RAFT, Bytes::new(), short),
        b.requests.next()
    );
    assert_eq!(late, Err(TransportError::Deadline(short)));
    drop(held);
    // The other side stops in the middle.
    let (lost, ()) = tokio::join!(a.ask("b", b"x"), async {
        let held = b.requests.next().await;
        b.endpoint.close().await;
        drop(held);
    });
    assert!(
        matches!(lost, Err(TransportError::Lost(DownReason::ClosedByPeer(_)))),
        "{lost:?}"
    );
}

#[tokio::test]
async fn a_full_queue_answers_busy() {
    let (_cluster, a, mut b) = two("127.0.0.1:0").await;
    // Nobody takes requests at b: those given up by a keep their places in the queue.
    let short = Duration::from_millis(20);
    let mut sent = 0;
    loop {
        let mut batch = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let endpoint = a.endpoint.clone();
            batch.spawn(async move { endpoint.request(id("b"), RAFT, Bytes::new(), short).await });
        }
        sent += batch.len();
        let answers = batch.join_all().await;
        if answers.contains(&Err(TransportError::Busy)) {
            break;
        }
        assert!(sent < 5000, "the queue has no bound");
    }
    assert!(
        b.requests
            .next()
            .await
            .expect("a request")
            .reply
            .is_given_up()
    );
    echo(b.requests);
    assert!(a.ask("b", b"x").await.is_ok(), "busy for ever");
}

#[tokio::test]
async fn of_one_way_messages_the_newest_arrives() {
    let (_cluster, a, mut b) = two("127.0.0.1:0").await;
    let last = 1000u32;
    for number in 0..=last {
        a.endpoint
            .send(id("b"), REPORT, number.to_le_bytes().to_vec().into())
            .expect("sent");
    }
    let mut newest = None;
    let arrival = async {
        while newest != Some(last) {
            let message = b.messages.next().await.expect("a message");
            assert_eq!((message.from, message.class), (id("a"), REPORT));
            let number = u32::from_le_bytes(message.body[..].try_into().expect("four bytes"));
            assert!(
                newest.is_none_or(|newest| newest < number),
                "an older one came later"
            );
            newest = Some(number);
        }
    };
    timeout(PATIENCE, arrival).await.expect("the last message");
    let nobody = a.endpoint.send(id("c"), REPORT, Bytes::new());
    assert_eq!(nobody, Err(TransportError::NotConnected));
}

#[tokio::test]
async fn a_stopped_node_is_missed_and_welcomed_back() {
    let (cluster, mut a, b) = two("127.0.0.1:0").await;
    let at_a = a.endpoint.local_address().expect("bound");
    let at_b = b.endpoint.local_address().expect("bound");
    b.endpoint.close().await;
    drop(b);
    let why = a.until(|event| match event {
        PeerEvent::Down { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(
        why.await,
        DownReason::ClosedByPeer("the node is stopping".into())
    );
    assert_eq!(a.ask("b", b"x").await, Err(TransportError::NotConnected));
    let socket = rebind(at_b).await;
    let mut b = Node::start(settings("b", &[("a", at_a)]), socket, cluster.identity("b"));
    b.up("a").await;
    a.up("b").await;
    echo(b.requests);
    assert!(a.ask("b", b"x").await.is_ok());
}

/// The old endpoint's driver lets go of its socket a moment after the endpoint is dropped.
async fn rebind(at: SocketAddr) -> UdpSocket {
    let bound = async {
        loop {
            match UdpSocket::bind(at) {
                Ok(socket) => return socket,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(PATIENCE, bound).await.expect("the port comes free")
}

/// A process killed without a word: its sockets are gone, its peers have not noticed.
#[tokio::test]
async fn a_restarted_node_replaces_its_old_connection() {
    let (cluster, mut a, b) = two("127.0.0.1:0").await;
    let at_a = a.endpoint.local_address().expect("bound");
    // Another endpoint with b's name, from another port: a sees a new life of b.
    let (socket_b2, _) = socket("127.0.0.1:0");
    let started = std::time::Instant::now();
    let mut b2 = Node::start(
        settings("b", &[("a", at_a)]),
        socket_b2,
        cluster.identity("b"),
    );
    b2.up("a").await;
    a.until(|event| match event {
        PeerEvent::Up { .. } => Some(()),
        PeerEvent::Down { reason, .. } => panic!("down before the new one was up: {reason}"),
        _ => None,
    })
    .await;
    assert!(
        started.elapsed() < tuning().idle,
        "it waited for the old connection to die"
    );
    echo(b2.requests);
    assert!(a.ask("b", b"x").await.is_ok());
    drop(b);
}

#[tokio::test]
async fn both_dialling_at_once_leaves_one_link_that_works_both_ways() {
    for _ in 0..4 {
        let (_cluster, a, b) = two("127.0.0.1:0").await;
        let (endpoint_a, endpoint_b) = (a.endpoint.clone(), b.endpoint.clone());
        echo(a.requests);
        echo(b.requests);
        // Over the time in which a duplicate is found and retired no request may fail.
        let until = tokio::time::Instant::now() + Duration::from_millis(700);
        while tokio::time::Instant::now() < until {
            let there = endpoint_a.request(id("b"), RAFT, Bytes::from_static(b"1"), PATIENCE);
            let back = endpoint_b.request(id("a"), RAFT, Bytes::from_static(b"2"), PATIENCE);
            let (there, back) = tokio::join!(there, back);
            assert!(there.is_ok() && back.is_ok(), "{there:?} {back:?}");
        }
    }
}

#[tokio::test]
async fn a_foreign_authority_is_refused_by_both() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let ((socket_a, at_a), (socket_b, at_b)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut a = Node::start(settings("a", &[("b", at_b)]), socket_a, ours.identity("a"));
    let mut b = Node::start(
        settings("b", &[("a", at_a)]),
        socket_b,
        theirs.identity("b"),
    );
    let here = a.refused(RefusedBy::Us).await;
    assert!(
        here.contains("certificate of b was issued by another authority"),
        "{here}"
    );
    let told = b.refused(RefusedBy::Them).await;
    assert!(
        told.starts_with("the certificate of b was issued by another authority"),
        "{told}"
    );
}

#[tokio::test]
async fn a_node_that_the_file_does_not_know_is_refused() {
    let cluster = Cluster::new();
    let ((socket_a, at_a), (socket_c, _)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut a = Node::start(settings("a", &[]), socket_a, cluster.identity("a"));
    let mut c = Node::start(
        settings("c", &[("a", at_a)]),
        socket_c,
        cluster.identity("c"),
    );
    let here = a.refused(RefusedBy::Us).await;
    assert_eq!(
        here,
        "the certificate is of c, which is no node of this cluster's file"
    );
    assert_eq!(c.refused(RefusedBy::Them).await, here);
}

#[tokio::test]
async fn whoever_answers_must_be_the_one_who_was_called() {
    let cluster = Cluster::new();
    let ((socket_a, at_a), (socket_c, at_c)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    // a's file says that b is where c listens; c knows only of a.
    let list = [("b", at_c)];
    let mut a = Node::start(settings("a", &list), socket_a, cluster.identity("a"));
    let _c = Node::start(
        settings("c", &[("b", at_a)]),
        socket_c,
        cluster.identity("c"),
    );
    assert_eq!(
        a.refused(RefusedBy::Us).await,
        "the certificate is of c, not of b"
    );
}

#[tokio::test]
async fn whoever_calls_itself_by_mistake_is_told() {
    let cluster = Cluster::new();
    let ((socket_a, at_a), (socket_x, _)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut a = Node::start(settings("a", &[]), socket_a, cluster.identity("a"));
    // A second process with a's identity, whose file has a's address under b's name.
    let mut x = Node::start(
        settings("a", &[("b", at_a)]),
        socket_x,
        cluster.identity("a"),
    );
    let here = x.refused(RefusedBy::Us).await;
    assert_eq!(here, "the certificate is of a, not of b");
    assert_eq!(a.refused(RefusedBy::Them).await, here);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_a_link_of_it_cut() {
    let (cluster, mut a, mut b) = two("127.0.0.1:0").await;
    let at_b = b.endpoint.local_address().expect("bound");
    let revoked: Fingerprint = cluster.identity("b").fingerprint();
    a.endpoint.set_peers(peers(&[("b", at_b)]), vec![revoked]);
    let why = a.until(|event| match event {
        PeerEvent::Down { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(
        why.await,
        DownReason::ClosedHere("the certificate has been revoked".into())
    );
    let told = b.until(|event| match event {
        PeerEvent::Down { reason, .. } => Some(reason),
        _ => None,
    });
    let told = told.await;
    assert_eq!(
        told,
        DownReason::ClosedByPeer("the certificate has been revoked".into())
    );
    let here = a.refused(RefusedBy::Us).await;
    assert!(
        here.starts_with("the certificate of b is revoked (fingerprint "),
        "{here}"
    );
    assert!(
        b.refused(RefusedBy::Them)
            .await
            .starts_with("the certificate of b is revoked")
    );
}

#[tokio::test]
async fn an_expired_certificate_counts_and_raises_an_alarm() {
    let cluster = Cluster::new();
    let long_ago = SystemTime::now() - 700 * DAY - DAY / 2;
    let ((socket_a, at_a), (socket_b, at_b)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let expired = cluster.identity_of("b", long_ago);
    let mut a = Node::start(
        settings("a", &[("b", at_b)]),
        socket_a,
        cluster.identity("a"),
    );
    let mut b = Node::start(settings("b", &[("a", at_a)]), socket_b, expired);
    let alarm = |event| match event {
        PeerEvent::CertificateAlarm { whose, days_left } => Some((whose, days_left)),
        _ => None,
    };
    // It ended 335 days and a half ago.
    assert_eq!(a.until(alarm).await, (Alarmed::Node(id("b")), -336));
    assert_eq!(b.until(alarm).await, (Alarmed::Node(id("b")), -336));
    echo(b.requests);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while a.ask("b", b"x").await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "never connected");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_daemon_may_refuse_and_the_other_side_hears_why() {
    let cluster = Cluster::new();
    let ((socket_a, at_a), (socket_b, at_b)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut strict = settings("a", &[("b", at_b)]);
    strict.admission = Arc::new(|peer, hello| {
        assert_eq!((peer, hello), (id("b"), &b"I am b"[..]));
        Err("a clone of b: readmit it".into())
    });
    let mut a = Node::start(strict, socket_a, cluster.identity("a"));
    let mut b = Node::start(
        settings("b", &[("a", at_a)]),
        socket_b,
        cluster.identity("b"),
    );
    assert_eq!(a.refused(RefusedBy::Us).await, "a clone of b: readmit it");
    assert_eq!(b.refused(RefusedBy::Them).await, "a clone of b: readmit it");
    assert!(a.endpoint.up().is_empty() && b.endpoint.up().is_empty());
}

#[tokio::test]
async fn a_renewed_certificate_is_used_from_the_next_connection_on() {
    let (cluster, a, b) = two("127.0.0.1:0").await;
    let at_a = a.endpoint.local_address().expect("bound");
    let old = cluster.identity("a");
    let renewed_dir = tempfile::tempdir().expect("a directory");
    pki::issue(
        cluster.0.path(),
        &name("a"),
        renewed_dir.path(),
        SystemTime::now(),
    )
    .expect("a certificate");
    let renewed = pki::load(renewed_dir.path(), "shop", &name("a"), &[]).expect("an identity");
    assert_ne!(renewed.fingerprint(), old.fingerprint());
    assert!(
        a.endpoint.set_identity(cluster.identity("b")).is_err(),
        "another node's"
    );
    a.endpoint.set_identity(renewed).expect("of the same node");
    // A node that holds the old one for revoked lets a in all the same.
    let (socket_c, at_c) = socket("127.0.0.1:0");
    let mut strict = settings("c", &[("a", at_a)]);
    strict.revoked = vec![old.fingerprint()];
    let mut c = Node::start(strict, socket_c, cluster.identity("c"));
    let at_b = b.endpoint.local_address().expect("bound");
    a.endpoint
        .set_peers(peers(&[("b", at_b), ("c", at_c)]), Vec::new());
    // c may have called before a knew it, and been told so; what counts is that it is in.
    c.up("a").await;
}

#[tokio::test]
async fn a_removed_node_is_cut_and_a_new_one_dialled() {
    let (cluster, mut a, b) = two("127.0.0.1:0").await;
    let at_a = a.endpoint.local_address().expect("bound");
    let (socket_c, at_c) = socket("127.0.0.1:0");
    let mut c = Node::start(
        settings("c", &[("a", at_a)]),
        socket_c,
        cluster.identity("c"),
    );
    a.endpoint.set_peers(peers(&[("c", at_c)]), Vec::new());
    let (mut b_is_down, mut c_is_up) = (false, false);
    while !(b_is_down && c_is_up) {
        match a.event().await {
            PeerEvent::Down { peer, .. } if peer == id("b") => b_is_down = true,
            PeerEvent::Up { peer, .. } if peer == id("c") => c_is_up = true,
            _ => {}
        }
    }
    c.up("a").await;
    assert_eq!(a.endpoint.up(), [id("c")]);
    drop(b);
}

#[tokio::test]
async fn everything_ends_when_the_endpoint_is_dropped() {
    let (_cluster, a, mut b) = two("127.0.0.1:0").await;
    let Node {
        endpoint,
        mut events,
        mut messages,
        ..
    } = a;
    drop(endpoint);
    let end = async {
        while events.next().await.is_some() {}
        while messages.next().await.is_some() {}
    };
    timeout(PATIENCE, end).await.expect("the streams end");
    b.until(|event| matches!(event, PeerEvent::Down { .. }).then_some(()))
        .await;
}

/// Random bytes of a stranger, the first of them as he likes.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn datagram(&mut self) -> Vec<u8> {
        let length = 1 + (self.next() % 1300) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| self.next() as u8).collect();
        match self.next() % 4 {
            // Begins like a lease datagram.
            0 => bytes[0] = evenkeel_transport::seal::FIRST_BYTE,
            // Begins like a connection of QUIC version 1.
            1 if length > 5 => bytes[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]),
            2 => bytes[0] |= 0x40,
            _ => {}
        }
        bytes
    }
}

/// What the lease socket holds: messages that opened, and how many did not.
fn open_all(lease: &UdpSocket, ring: &mut Keyring) -> (Vec<Vec<u8>>, usize) {
    let (mut opened, mut refused) = (Vec::new(), 0);
    let mut buffer = [0; 2048];
    while let Ok(length) = lease.recv(&mut buffer) {
        match ring.open(&mut buffer[..length]) {
            Ok((_, message)) => opened.push(message.to_vec()),
            Err(_) => refused += 1,
        }
    }
    (opened, refused)
}

#[tokio::test]
async fn random_bytes_on_the_port_disturb_neither_quic_nor_leases() {
    let cluster = Cluster::new();
    let any = "127.0.0.1:0".parse().expect("an address");
    let (port_a, port_b) = (pair(any).expect("a port"), pair(any).expect("a port"));
    let at_a = port_a.lease.local_addr().expect("bound");
    let at_b = port_b.lease.local_addr().expect("bound");
    let settings_a = settings("a", &[("b", at_b)]);
    let mut a = Node::start(settings_a, port_a.control, cluster.identity("a"));
    let settings_b = settings("b", &[("a", at_a)]);
    let mut b = Node::start(settings_b, port_b.control, cluster.identity("b"));
    a.up("b").await;
    b.up("a").await;
    echo(b.requests);
    let (mut ring_a, mut ring_b) = (Keyring::new(), Keyring::new());
    let keys = |peer| LeaseKeys {
        peer,
        id: 1,
        seal: [1; 32],
        open: [1; 32],
        proof: Fingerprint::of(b"a certificate"),
    };
    ring_a.install(Moment::ZERO, keys(id("b")));
    ring_b.install(Moment::ZERO, keys(id("a")));
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let (mut out, mut forged) = (Vec::new(), 0);
    for round in 0..20u64 {
        for _ in 0..250 {
            let _ = stranger.send_to(&noise.datagram(), at_b);
        }
        let message = round.to_le_bytes();
        ring_a
            .seal(Moment::from_nanos(round), id("b"), &message, &mut out)
            .expect("sealed");
        port_a.lease.send_to(&out, at_b).expect("sent");
        // Loopback delivers before it returns: the renewal is there, behind the noise.
        let (opened, refused) = open_all(&port_b.lease, &mut ring_b);
        assert_eq!(opened, [message.to_vec()]);
        forged += refused;
        let answer = a.ask("b", b"still there?").await;
        assert!(answer.is_ok(), "round {round}: {answer:?}");
    }
    assert!(forged > 500, "the noise never came as far as the seals");
    assert_eq!(a.endpoint.up(), [id("b")]);
    let mut down = |event| match event {
        PeerEvent::Down { reason, .. } => Some(reason),
        _ => None,
    };
    let waited = timeout(Duration::ZERO, a.until(&mut down)).await;
    assert!(waited.is_err(), "the link went down: {waited:?}");
}
