//! A prober and what it tells; a real Apache with a directory of its own.

#![allow(dead_code, reason = "each test program uses its part")]
#![expect(
    unreachable_pub,
    reason = "shared by the test programs of this directory"
)]

pub mod apache;
pub mod netns;
pub mod server;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use evenkeel_checks::{Asker, Command, Http, Manner, Probe, Prober, Resolved, State, Tcp, Verdict};
use evenkeel_config::{Method, StatusSet};
use evenkeel_core::{CheckName, GroupId, NodeId};
use tokio::sync::mpsc;

/// Longer than anything here takes, also on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// The node that asks, and is judged unless said otherwise.
pub const ME: NodeId = NodeId(1);

/// Asks for `/` at `at` every 50 ms, as the judged node itself.
pub fn page(at: SocketAddr) -> Probe {
    Probe {
        group: GroupId(1),
        check: CheckName::new("web").expect("a name"),
        judged: ME,
        role: Asker::Node,
        question: Resolved::Http(Http {
            connect: at,
            method: Method::Get,
            tls: None,
            host: at.to_string(),
            path: "/".to_owned(),
            statuses: StatusSet::default(),
            body: None,
        }),
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(200),
        fall: 2,
        rise: 2,
        watch_listener: true,
        rests: false,
        service: None,
    }
}

/// The same page, changed.
pub fn page_with(at: SocketAddr, change: impl FnOnce(&mut Http)) -> Probe {
    let mut probe = page(at);
    if let Resolved::Http(http) = &mut probe.question {
        change(http);
    }
    probe
}

/// Connects to `at` every 50 ms, says `send` and looks for `expect`, as the judged node itself.
pub fn line(at: SocketAddr, send: Option<&str>, expect: Option<&str>) -> Probe {
    Probe {
        question: Resolved::Tcp(Tcp {
            connect: at,
            send: send.map(str::to_owned),
            expect: expect.map(str::to_owned),
        }),
        ..page(at)
    }
}

/// Asks `question` every 50 ms with plenty of time, as the judged node itself.
pub fn asking(question: Resolved) -> Probe {
    Probe {
        question,
        timeout: SOON,
        watch_listener: false,
        ..page(SocketAddr::from(([127, 0, 0, 1], 1)))
    }
}

/// Runs a program every 50 ms, with plenty of time.
pub fn program(manner: Manner, words: &[&str]) -> Probe {
    asking(Resolved::Command(Command {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        manner,
    }))
}

/// Fails and recovers at once.
pub fn quick(mut probe: Probe) -> Probe {
    (probe.fall, probe.rise) = (1, 1);
    probe
}

/// The first verdict that knows something.
pub async fn verdict_on(probe: Probe) -> Verdict {
    Told::start(vec![quick(probe)])
        .wait_for(|verdict| verdict.state != State::Unknown)
        .await
}

/// Asserts the first verdict that knows something.
pub async fn check(probe: Probe, state: State, detail: &str) {
    let verdict = verdict_on(probe).await;
    assert_eq!(verdict.state, state, "{}", verdict.detail);
    assert!(
        verdict.detail.starts_with(detail),
        "{:?} for {detail:?}",
        verdict.detail
    );
}

/// Asks `target` for an echo every 50 ms, as a peer.
pub fn ping(target: IpAddr) -> Probe {
    Probe {
        check: CheckName::new("ping").expect("a name"),
        role: Asker::Peer,
        question: Resolved::Ping {
            target,
            source: None,
        },
        watch_listener: false,
        ..page(SocketAddr::new(target, 80))
    }
}

/// What a prober tells.
pub struct Told {
    pub prober: Prober,
    pub verdicts: mpsc::Receiver<Verdict>,
}

impl Told {
    pub fn start(probes: Vec<Probe>) -> Self {
        let (send, verdicts) = mpsc::channel(16);
        Self {
            prober: Prober::start(probes, send),
            verdicts,
        }
    }

    /// The next verdict that fits.
    pub async fn wait_for(&mut self, fits: impl Fn(&Verdict) -> bool) -> Verdict {
        let mut last = None;
        let search = async {
            loop {
                let verdict = self.verdicts.recv().await.expect("the prober lives");
                if fits(&verdict) {
                    return verdict;
                }
                last = Some(verdict);
            }
        };
        match tokio::time::timeout(SOON, search).await {
            Ok(verdict) => verdict,
            Err(_) => panic!("no such verdict; the last was {last:?}"),
        }
    }

    pub async fn wait_for_state(&mut self, state: State) -> Verdict {
        self.wait_for(|verdict| verdict.state == state).await
    }

    /// Whether no verdict fits for a while.
    pub async fn stays(&mut self, span: Duration, fits: impl Fn(&Verdict) -> bool) {
        let other = self.wait_for(|verdict| !fits(verdict));
        if let Ok(other) = tokio::time::timeout(span, other).await {
            panic!("it did not stay so: {other:?}");
        }
    }
}
