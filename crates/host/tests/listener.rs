//! The listener of a port: seen, lost, found again, with one process and with several.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use evenkeel_host::listener::{Listeners, Presence, Watch};

/// Processes that share a listening socket: each got it as its standard input.
struct Server {
    processes: Vec<Child>,
    at: SocketAddr,
}

impl Server {
    fn start(port: u16, processes: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("loopback");
        let at = listener.local_addr().expect("bound");
        let processes = (0..processes).map(|_| {
            let socket = OwnedFd::from(listener.try_clone().expect("a copy"));
            let mut sleep = Command::new("sleep");
            sleep
                .arg("600")
                .stdin(Stdio::from(socket))
                .spawn()
                .expect("sleep starts")
        });
        Self {
            processes: processes.collect(),
            at,
        }
    }

    fn kill(&mut self, processes: usize) {
        for mut process in self.processes.drain(..processes) {
            process.kill().expect("ours");
            process.wait().expect("ours");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill(self.processes.len());
    }
}

async fn wait_for(watch: &mut Watch, fits: impl Fn(&Presence) -> bool) -> Presence {
    let search = async {
        loop {
            let presence = watch.changed().await;
            if fits(&presence) {
                return presence;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), search)
        .await
        .expect("it comes to that")
}

fn is_held(presence: &Presence) -> bool {
    matches!(presence, Presence::Listening { by: Some(_), .. })
}

fn is_gone(presence: &Presence) -> bool {
    matches!(presence, Presence::Gone { .. })
}

#[tokio::test]
async fn a_killed_server_is_gone_and_named_and_found_again() {
    let mut server = Server::start(0, 1);
    let listeners = Listeners::start();
    let mut watch = listeners.watch(server.at);
    let Presence::Listening {
        by: Some(holder),
        processes,
    } = wait_for(&mut watch, is_held).await
    else {
        panic!("held");
    };
    assert_eq!((holder.pid, processes), (server.processes[0].id(), 1));
    assert!(holder.name.starts_with("sleep"), "{}", holder.name);

    server.kill(1);
    let Presence::Gone { death_of, .. } = wait_for(&mut watch, is_gone).await else {
        panic!("gone");
    };
    assert_eq!(death_of, Some(holder));

    let again = Server::start(server.at.port(), 2);
    let Presence::Listening {
        by: Some(holder),
        processes,
    } = wait_for(&mut watch, is_held).await
    else {
        panic!("held");
    };
    assert!(
        again
            .processes
            .iter()
            .any(|process| process.id() == holder.pid)
    );
    assert_eq!(processes, 2);
}

#[tokio::test]
async fn children_that_still_listen_are_enough() {
    let mut server = Server::start(0, 4);
    let listeners = Listeners::start();
    let mut watch = listeners.watch(server.at);
    let held = wait_for(&mut watch, is_held).await;
    assert!(
        matches!(held, Presence::Listening { processes: 4, .. }),
        "{held:?}"
    );

    server.kill(1);
    let gone = wait_for(&mut watch, is_gone);
    let gone = tokio::time::timeout(Duration::from_millis(200), gone).await;
    assert!(gone.is_err(), "the children listen");
    server.kill(3);
    wait_for(&mut watch, is_gone).await;
}

#[tokio::test]
async fn a_server_that_closes_its_socket_is_gone_without_a_death() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let listeners = Listeners::start();
    let mut watch = listeners.watch(listener.local_addr().expect("bound"));
    wait_for(&mut watch, is_held).await;
    drop(listener);
    let Presence::Gone { death_of, .. } = wait_for(&mut watch, is_gone).await else {
        panic!("gone");
    };
    assert_eq!(death_of, None);
}

#[tokio::test]
async fn what_never_listened_is_not_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let at = listener.local_addr().expect("bound");
    drop(listener);
    let mut watch = Listeners::start().watch(at);
    assert_eq!(watch.changed().await, Presence::Unseen);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), watch.changed())
            .await
            .is_err()
    );
}
