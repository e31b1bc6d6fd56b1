//! `dns` checks: a real dnsmasq, and servers that do everything wrong.

mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use evenkeel_checks::{Dns, Probe, Resolved, State};
use evenkeel_config::RecordType;
use support::{apache, asking, check};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

fn ask(server: SocketAddr, name: &str, record: RecordType, expect: Option<&str>) -> Probe {
    asking(Resolved::Dns(Dns {
        server,
        name: name.to_owned(),
        record,
        expect: expect.map(str::to_owned),
    }))
}

/// A dnsmasq that knows `example.net` alone.
struct Dnsmasq {
    child: Child,
    at: SocketAddr,
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dnsmasq {
    fn start() -> Self {
        let port = apache::free_port();
        let many = (1..=60).map(|last| format!("--host-record=many.example.net,192.0.2.{last}"));
        let child = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--no-hosts",
                "--no-resolv",
                "--conf-file=/dev/null",
            ])
            .args([
                "--pid-file=",
                "--user=root",
                "--bind-interfaces",
                "--listen-address=127.0.0.1",
            ])
            .arg(format!("--port={port}"))
            .args([
                "--local=/example.net/",
                "--host-record=www.example.net,192.0.2.80,2001:db8::80",
            ])
            .args(["--cname=alias.example.net,www.example.net"])
            .args(["--mx-host=example.net,mail.example.net,10"])
            .args(["--txt-record=example.net,v=spf1 -all", "--max-ttl=1"])
            .args(many)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq starts");
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        Self { child, at }
    }
}

#[tokio::test]
async fn a_real_server_is_asked() {
    let here = Command::new("dnsmasq").arg("--version").output().is_ok();
    if !here {
        eprintln!("NOT TESTED: a_real_server_is_asked needs dnsmasq (Debian: dnsmasq-base)");
        return;
    }
    use RecordType::{A, Aaaa, Cname, Mx, Txt};
    let server = Dnsmasq::start();
    // It takes a moment to listen.
    support::Told::start(vec![ask(server.at, "www.example.net", A, None)])
        .wait_for_state(State::Ok)
        .await;
    let asks = |name, record, expect| ask(server.at, name, record, expect);
    let well = |name, record, expect| check(asks(name, record, expect), State::Ok, "");
    well("www.example.net", A, Some("192.0.2.80")).await;
    well("www.example.net", Aaaa, Some("2001:db8::80")).await;
    well("alias.example.net", A, Some("192.0.2.80")).await;
    well("alias.example.net", Cname, Some("www.example.net")).await;
    well("example.net", Mx, Some("10 mail.example.net")).await;
    well("example.net", Txt, Some("v=spf1 -all")).await;
    // Sixty addresses do not fit into a datagram: asked again by TCP.
    well("many.example.net", A, Some("192.0.2.60")).await;
    let bad =
        |name, record, expect, detail| check(asks(name, record, expect), State::Failing, detail);
    bad(
        "none.example.net",
        A,
        None,
        "NXDOMAIN for A of none.example.net",
    )
    .await;
    bad(
        "www.example.net",
        Mx,
        None,
        "no MX record of www.example.net",
    )
    .await;
    let other = "A of www.example.net is 192.0.2.80, not 192.0.2.81";
    bad("www.example.net", A, Some("192.0.2.81"), other).await;
    bad(
        "www.example.org",
        A,
        None,
        "REFUSED for A of www.example.org",
    )
    .await;
    let at = server.at;
    drop(server);
    let gone = ask(at, "www.example.net", A, None);
    check(gone, State::Failing, "connection refused").await;
}

/// A name server that answers each question with what `answer` makes of it.
struct Liar {
    at: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Liar {
    async fn start(
        answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
        stream: Option<&'static [u8]>,
    ) -> Self {
        // The same port for both.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let at = listener.local_addr().expect("bound");
        let socket = UdpSocket::bind(at).await.expect("a port free for both");
        let by_udp = tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut query).await else {
                    continue;
                };
                for datagram in answer(&query[..length]) {
                    let _ = socket.send_to(&datagram, from).await;
                }
            }
        });
        let by_tcp = tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut query = [0; 512];
                let _ = connection.read(&mut query).await;
                if let Some(text) = stream {
                    let _ = connection.write_all(text).await;
                } else {
                    tokio::spawn(support::server::hold(connection));
                }
            }
        });
        let tasks = [by_udp, by_tcp];
        Self { at, tasks }
    }
}

/// The question turned into an answer without records.
fn empty(query: &[u8], flags: [u8; 2]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(&flags);
    answer
}

#[tokio::test]
async fn lies_and_half_answers_are_told_and_foreign_ones_ignored() {
    let asks = |liar: &Liar| ask(liar.at, "www.example.net", RecordType::A, None);
    let short = |probe: Probe| Probe {
        timeout: Duration::from_millis(300),
        ..probe
    };
    let cut = Liar::start(
        |query| {
            vec![{
                let mut answer = empty(query, [0x84, 0]);
                answer[7] = 9;
                answer
            }]
        },
        None,
    )
    .await;
    let detail = "the answer cannot be used: a record is cut or malformed";
    check(asks(&cut), State::Failing, detail).await;
    let ill = Liar::start(|query| vec![empty(query, [0x84, 2])], None).await;
    check(asks(&ill), State::Failing, "SERVFAIL for A of").await;

    let mute = Liar::start(|_| vec![], None).await;
    check(
        short(asks(&mute)),
        State::Failing,
        "no answer within 300 ms",
    )
    .await;
    let foreign = Liar::start(
        |query| {
            let mut other = empty(query, [0x84, 0]);
            other[0] ^= 1;
            vec![
                other,
                b"x".to_vec(),
                vec![],
                vec![0xff; 600],
                query.to_vec(),
            ]
        },
        None,
    )
    .await;
    check(
        short(asks(&foreign)),
        State::Failing,
        "no answer within 300 ms",
    )
    .await;

    // Cut, and then by TCP: nothing, too little, something else, closed.
    let truncated = |query: &[u8]| vec![empty(query, [0x86, 0])];
    let silent = Liar::start(truncated, None).await;
    check(
        short(asks(&silent)),
        State::Failing,
        "no answer within 300 ms",
    )
    .await;
    for (said, detail) in [
        (&b""[..], "no answer: "),
        (b"\xff\xffand no more", "no answer: "),
        (
            b"\0\x04else",
            "the answer cannot be used: to another question",
        ),
    ] {
        let liar = Liar::start(truncated, Some(said)).await;
        check(asks(&liar), State::Failing, detail).await;
    }
}
