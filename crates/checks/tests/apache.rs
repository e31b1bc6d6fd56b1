//! A real Apache: killed, hung, restarted, ill, and with certificates.

mod support;

use std::fs;
use std::time::Duration;

use evenkeel_checks::{Probe, State, TlsExpect, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::Signal;
use rustls_pki_types::CertificateDer;
use support::apache::{self, Apache, Mpm, free_port};
use support::{SOON, Told, page, page_with};

/// A probe whose own questions cannot be what notices a death.
fn patient(mut probe: Probe) -> Probe {
    probe.interval = Duration::from_secs(3600);
    probe.fall = 1000;
    probe.rise = 1;
    probe
}

#[tokio::test]
async fn a_killed_apache_fails_without_a_question() {
    if !apache::is_here("a_killed_apache_fails_without_a_question") {
        return;
    }
    for mpm in [Mpm::Prefork, Mpm::Event] {
        let apache = Apache::start(mpm);
        let mut told = Told::start(vec![patient(page(apache.at))]);
        let well = told.wait_for_state(State::Ok).await;
        assert!(well.detail.starts_with("HTTP 200 in "), "{}", well.detail);
        assert!(well.phases.connect.is_some() && well.phases.first_byte.is_some());

        // A second later its processes have been found.
        told.wait_for(|verdict| verdict.sequence > well.sequence)
            .await;
        apache.signal(Signal::KILL);
        let ill = told.wait_for_state(State::Failing).await;
        // The parent, or a child if the parent is still about to die.
        let expected = format!(
            "nobody listens on {} since the death of apache2 (pid ",
            apache.at
        );
        assert!(ill.detail.starts_with(&expected), "{mpm:?}: {}", ill.detail);
    }
}

#[tokio::test]
async fn a_death_before_the_processes_are_found_is_noticed_too() {
    if !apache::is_here("a_death_before_the_processes_are_found_is_noticed_too") {
        return;
    }
    let apache = Apache::start(Mpm::Prefork);
    let mut told = Told::start(vec![patient(page(apache.at))]);
    told.wait_for_state(State::Ok).await;
    apache.signal(Signal::KILL);
    told.wait_for_state(State::Failing).await;
}

#[tokio::test]
async fn an_apache_without_its_parent_serves_and_is_well() {
    if !apache::is_here("an_apache_without_its_parent_serves_and_is_well") {
        return;
    }
    let apache = Apache::start(Mpm::Prefork);
    let mut told = Told::start(vec![Probe {
        timeout: SOON,
        ..page(apache.at)
    }]);
    told.wait_for_state(State::Ok).await;
    apache.kill_parent();
    told.stays(Duration::from_millis(500), |verdict| {
        verdict.state == State::Ok
    })
    .await;
    apache.signal(Signal::KILL);
    let ill = told.wait_for_state(State::Failing).await;
    assert!(ill.detail.contains("nobody listens on "), "{}", ill.detail);
}

#[tokio::test]
async fn a_hung_apache_fails_by_its_deadlines_and_recovers() {
    if !apache::is_here("a_hung_apache_fails_by_its_deadlines_and_recovers") {
        return;
    }
    let apache = Apache::start(Mpm::Event);
    let mut told = Told::start(vec![page(apache.at)]);
    told.wait_for_state(State::Ok).await;
    apache.signal(Signal::STOP);
    let ill = told.wait_for_state(State::Failing).await;
    assert!(
        ill.detail.starts_with("no answer within 200 ms (connect "),
        "{}",
        ill.detail
    );
    apache.signal(Signal::CONT);
    told.wait_for_state(State::Ok).await;
}

#[tokio::test]
async fn a_restarted_apache_is_watched_again() {
    if !apache::is_here("a_restarted_apache_is_watched_again") {
        return;
    }
    let port = free_port();
    let first = Apache::start_with(Mpm::Event, port, |_| String::new());
    let mut told = Told::start(vec![page(first.at)]);
    told.wait_for_state(State::Ok).await;
    drop(first);
    told.wait_for_state(State::Failing).await;

    let second = Apache::start_with(Mpm::Event, port, |_| String::new());
    told.wait_for_state(State::Ok).await;
    second.signal(Signal::KILL);
    told.wait_for(|verdict| {
        verdict.state == State::Failing && verdict.detail.contains("nobody listens on ")
    })
    .await;
}

#[tokio::test]
async fn statuses_and_bodies_are_judged() {
    if !apache::is_here("statuses_and_bodies_are_judged") {
        return;
    }
    let more = |_: &std::path::Path| "Redirect 503 /down\nRedirect 301 /moved /\n".to_owned();
    let apache = Apache::start_with(Mpm::Event, free_port(), more);
    let check = async |path: &str, body: Option<&str>, state: State, detail: &str| {
        let probe = page_with(apache.at, |http| {
            http.path = path.to_owned();
            http.body = body.map(str::to_owned);
        });
        let mut told = Told::start(vec![probe]);
        let verdict = told.wait_for_state(state).await;
        assert!(
            verdict.detail.starts_with(detail),
            "{path}: {}",
            verdict.detail
        );
    };
    check("/", None, State::Ok, "HTTP 200 in ").await;
    check("/", Some("hands well"), State::Ok, "HTTP 200 in ").await;
    check(
        "/",
        Some("man overboard"),
        State::Failing,
        "HTTP 200 without \"man overboard\" in 15 ",
    )
    .await;
    check("/down", None, State::Failing, "HTTP 503 in ").await;
    check("/none", None, State::Failing, "HTTP 404 in ").await;
    check("/moved", None, State::Ok, "HTTP 301 in ").await;
}

/// An authority and a certificate of its own making for `name`.
struct Pki {
    authority: CertificateDer<'static>,
    certificate: String,
    key: String,
}

impl Pki {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        Self {
            authority: authority.der().clone(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

#[tokio::test]
async fn certificates_are_judged() {
    if !apache::is_here("certificates_are_judged") {
        return;
    }
    let (pki, other) = (Pki::new("www.example.com"), Pki::new("www.example.com"));
    let apache = Apache::start_with(Mpm::Event, free_port(), |place| {
        fs::write(place.join("site.pem"), &pki.certificate).expect("our directory");
        fs::write(place.join("site.key"), &pki.key).expect("our directory");
        "LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so\n\
         SSLEngine on\nSSLSessionCache none\n\
         SSLCertificateFile site.pem\nSSLCertificateKeyFile site.key\n"
            .to_owned()
    });
    let check = async |trust: Trust, name: &str, state: State, detail: &str| {
        let mut probe = page_with(apache.at, |http| {
            http.tls = Some(TlsExpect {
                trust,
                name: name.to_owned(),
            });
        });
        // What is judged here is the certificate, not the speed.
        probe.timeout = SOON;
        let mut told = Told::start(vec![probe]);
        let verdict = told.wait_for_state(state).await;
        assert!(
            verdict.detail.starts_with(detail),
            "{name}: {}",
            verdict.detail
        );
        assert_eq!(verdict.phases.tls.is_some(), state == State::Ok);
    };
    let by = |pki: &Pki| Trust::Authorities(vec![pki.authority.clone()].into());
    check(by(&pki), "www.example.com", State::Ok, "HTTP 200 in ").await;
    check(Trust::Anybody, "127.0.0.1", State::Ok, "HTTP 200 in ").await;
    let refused = "certificate refused: ";
    check(by(&pki), "www.example.org", State::Failing, refused).await;
    check(by(&other), "www.example.com", State::Failing, refused).await;
    check(Trust::WebRoots, "www.example.com", State::Failing, refused).await;
    check(
        Trust::Anybody,
        "not a name",
        State::Unknown,
        "could not ask: ",
    )
    .await;
}
