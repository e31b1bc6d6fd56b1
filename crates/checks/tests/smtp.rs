//! `smtp` checks: a real OpenSMTPD, and servers that do everything wrong.

mod support;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_checks::{Probe, Resolved, Smtp, State, TlsExpect, Trust};
use rustls_pki_types::PrivateKeyDer;
use support::server::{Server, hold};
use support::{SOON, Told, apache, asking, check};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

fn ask(connect: SocketAddr, starttls: Option<TlsExpect>) -> Probe {
    asking(Resolved::Smtp(Smtp { connect, starttls }))
}

fn expecting(trust: Trust, name: &str) -> Option<TlsExpect> {
    let name = name.to_owned();
    Some(TlsExpect { trust, name })
}

/// An OpenSMTPD. It keeps its socket in /run, so that it gets one of its own. It has no
/// certificate: that of Debian 12 breaks off every handshake (its keys are in another process,
/// in a way that OpenSSL 3 no longer takes).
struct Mailer {
    child: Child,
    _place: TempDir,
    at: SocketAddr,
}

impl Drop for Mailer {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Mailer {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name).display().to_string();
        let port = apache::free_port();
        let text = format!(
            "listen on 127.0.0.1 port {port} hostname mail.example.net\n\
             action \"local\" mbox\nmatch for local action \"local\"\n"
        );
        std::fs::write(path("conf"), text).expect("our directory");
        let script = "mount -t tmpfs none /run && exec smtpd -d -f \"$1\"";
        let child = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(path("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("unshare starts");
        Self {
            child,
            _place: place,
            at: SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }
}

#[tokio::test]
async fn a_real_server_is_asked() {
    let test = "a_real_server_is_asked";
    if !std::path::Path::new("/usr/sbin/smtpd").exists() || !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED: {test} needs root and smtpd (Debian: opensmtpd)");
        return;
    }
    let mailer = Mailer::start();
    // It takes a moment to listen.
    let well = Told::start(vec![ask(mailer.at, None)])
        .wait_for_state(State::Ok)
        .await;
    assert!(well.detail.starts_with("greets in "), "{}", well.detail);
}

/// Takes mail in TLS, with a certificate for `mail.example.net`.
async fn sealing() -> (Server, Trust) {
    let made = rcgen::generate_simple_self_signed(["mail.example.net".to_owned()]);
    let made = made.expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("its own key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::start(move |mut stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut line = [0; 512];
            for text in ["220 x\r\n", "250-y\r\n250 STARTTLS\r\n", "220 go\r\n"] {
                let _ = stream.write_all(text.as_bytes()).await;
                if text != "220 go\r\n" {
                    let _ = stream.read(&mut line).await;
                }
            }
            let Ok(mut sealed) = acceptor.accept(stream).await else {
                return;
            };
            for text in ["250 y\r\n", "221 bye\r\n"] {
                let _ = sealed.read(&mut line).await;
                let _ = sealed.write_all(text.as_bytes()).await;
                let _ = sealed.flush().await;
            }
        }
    })
    .await;
    let trust = Trust::Authorities(vec![made.cert.der().clone()].into());
    (server, trust)
}

#[tokio::test]
async fn the_certificate_of_a_server_is_judged() {
    let (server, own) = sealing().await;
    let sealed = |trust, name| ask(server.at, expecting(trust, name));
    let verdict = support::verdict_on(sealed(own.clone(), "mail.example.net")).await;
    assert_eq!(verdict.state, State::Ok, "{}", verdict.detail);
    assert!(verdict.phases.tls.is_some());
    let anybody = sealed(Trust::Anybody, "other.example.net");
    check(anybody, State::Ok, "greets in ").await;
    let other = sealed(own, "other.example.net");
    check(other, State::Failing, "certificate refused: ").await;
    let stranger = sealed(Trust::WebRoots, "mail.example.net");
    check(stranger, State::Failing, "certificate refused: ").await;
}

/// A server that says each text in turn, the first at once, the others after a line each;
/// then it holds the connection.
async fn script(texts: &'static [&'static str]) -> Server {
    Server::start(move |mut stream| async move {
        for (at, text) in texts.iter().enumerate() {
            let mut line = [0; 512];
            if at > 0 && !matches!(stream.read(&mut line).await, Ok(1..)) {
                return;
            }
            // In pieces as small as can be.
            for byte in text.as_bytes() {
                let _ = stream.write_all(&[*byte]).await;
            }
        }
        hold(stream).await;
    })
    .await
}

#[tokio::test]
async fn whole_conversations_in_small_pieces_are_good() {
    let whole = [
        "220-mail\r\n220 ready\r\n",
        "250-mail\r\n250-SIZE\r\n250 HELP\r\n",
        "221 bye\r\n",
    ];
    let texts: &'static [&'static str] = Box::leak(Box::new(whole));
    check(ask(script(texts).await.at, None), State::Ok, "greets in ").await;
    let server = script(texts).await;
    check(ask(server.at, None), State::Ok, "greets in ").await;
    // Whoever never says good-bye has greeted all the same.
    let rude = script(&["220 x\n", "250 y\n"]).await;
    let probe = Probe {
        timeout: Duration::from_millis(500),
        ..ask(rude.at, None)
    };
    check(probe, State::Ok, "greets in ").await;
}

#[tokio::test]
async fn wrong_answers_are_told() {
    for (texts, detail) in [
        (&["421 too busy\r\n"][..], "it greets with 421 too busy"),
        (&["554-no\r\n554 go away\r\n"], "it greets with 554 go away"),
        (
            &["HTTP/1.1 200 OK\r\n"],
            "the answer is not SMTP: \"HTTP/1.1 200 OK\"",
        ),
        (
            &["220 x\r\n", "502 what?\r\n"],
            "it answers EHLO with 502 what?",
        ),
        (&["\0\x01\x02\n"], "the answer is not SMTP: "),
    ] {
        let server = script(texts).await;
        check(ask(server.at, None), State::Failing, detail).await;
    }
    let texts: &[&str] = &["220 x\r\n", "250 y\r\n", "454 not today\r\n"];
    let server = script(texts).await;
    let sealed = ask(server.at, expecting(Trust::Anybody, "mail.example.net"));
    check(
        sealed,
        State::Failing,
        "it answers STARTTLS with 454 not today",
    )
    .await;
    let texts: &[&str] = &["220 x\r\n", "250 y\r\n", "220 go\r\n250 slipped in\r\n"];
    let server = script(texts).await;
    let sealed = ask(server.at, expecting(Trust::Anybody, "mail.example.net"));
    let verdict = support::verdict_on(Probe {
        timeout: SOON,
        ..sealed
    })
    .await;
    // In one piece or in two: never a handshake.
    assert_eq!(verdict.state, State::Failing, "{}", verdict.detail);
    let half = Server::saying_once("220 x").await;
    check(
        ask(half.at, None),
        State::Failing,
        "connection closed after \"220 x\"",
    )
    .await;
    let at = half.at;
    drop(half);
    check(ask(at, None), State::Failing, "connection refused").await;
}

#[tokio::test]
async fn silence_and_endless_answers_are_bounded() {
    let short = |server: &Server| Probe {
        timeout: Duration::from_millis(300),
        ..ask(server.at, None)
    };
    let mute = script(&[]).await;
    check(short(&mute), State::Failing, "no greeting within 300 ms").await;
    let tired = script(&["220 x\r\n"]).await;
    check(
        short(&tired),
        State::Failing,
        "no answer to EHLO within 300 ms",
    )
    .await;
    let half = script(&["220-x\r\n220"]).await;
    check(short(&half), State::Failing, "no greeting within 300 ms").await;
    let lines = Server::saying_for_ever_at_once("220-and more\r\n").await;
    check(
        ask(lines.at, None),
        State::Failing,
        "a reply is longer than",
    )
    .await;
    let line = Server::saying_for_ever_at_once("220 and more").await;
    check(ask(line.at, None), State::Failing, "a line is longer than").await;
}
