//! The lab tests itself, without the daemon: an address is moved by hand, rightly and
//! wrongly, and the client and the observer must notice.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;

use crate::bridge::{Cable, Switch, Wire};
use crate::client::{Client, PACE, PATIENCE, QUICK};
use crate::cluster::{SERVICE, SERVICE6};
use crate::compare::overlap::{overlap, spells};
use crate::compare::stage::{ASKED, boot_neighbour, join_neighbour};
use crate::figures::{Seen, seen};
use crate::heartbeat::calendar;
use crate::host::{Host, Place};
use crate::inside::Lab;
use crate::observer::{Kind, Observer};
use crate::{apache, wait};

/// Time for something to be seen.
const SOON: Duration = Duration::from_secs(5);

/// How long a state is watched.
const WATCH: Duration = Duration::from_millis(300);

struct Test {
    lab: Lab,
    switch: Arc<Switch>,
    a: Host,
    b: Host,
    asking: Host,
    client: Client,
    observer: Observer,
}

fn add_address(host: &Host) -> Result<()> {
    host.run(
        &["ip", "addr", "add", &format!("{SERVICE}/24"), "dev", "eth0"],
        "",
    )?;
    host.run(
        &[
            "ip",
            "addr",
            "add",
            &format!("{SERVICE6}/64"),
            "dev",
            "eth0",
            "nodad",
        ],
        "",
    )?;
    announce(host)
}

fn delete_address(host: &Host) -> Result<()> {
    host.run(
        &["ip", "addr", "del", &format!("{SERVICE}/24"), "dev", "eth0"],
        "",
    )?;
    host.run(
        &[
            "ip",
            "addr",
            "del",
            &format!("{SERVICE6}/64"),
            "dev",
            "eth0",
        ],
        "",
    )
    .map(drop)
}

/// Makes the kernel tell the client where the address is: by an ARP request of its own,
/// and for IPv6 by an advertisement when the client asks.
fn announce(host: &Host) -> Result<()> {
    host.run(&["ip", "neigh", "flush", "dev", "eth0"], "")?;
    let client = Place::new("client", 50);
    for (service, client) in [(SERVICE, client.ip()), (SERVICE6, client.ip6())] {
        let (service, client) = (service.to_string(), client.to_string());
        host.output(&["ping", "-c1", "-W1", "-I", &service, &client])?;
    }
    Ok(())
}

impl Test {
    fn new(lab: &Lab, switch: &Arc<Switch>) -> Result<Self> {
        let mut a = Host::boot(lab, switch, &Place::new("a", 11))?;
        let mut b = Host::boot(lab, switch, &Place::new("b", 12))?;
        let asking = Host::boot(lab, switch, &Place::new("client", 50))?;
        apache::start(&mut a)?;
        apache::start(&mut b)?;
        let observer = Observer::start(switch, &[SERVICE, SERVICE6])?;
        add_address(&a)?;
        let client = Client::start(&asking, SocketAddr::new(SERVICE, 80), QUICK, PACE)?;
        Ok(Self {
            lab: lab.clone(),
            switch: Arc::clone(switch),
            a,
            b,
            asking,
            client,
            observer,
        })
    }

    /// Waits until the client has a good answer of `host` that is younger than `since`.
    fn wait_answer(&self, host: &str, since: Moment) -> Result<()> {
        wait::until(&format!("an answer of {host}"), SOON, || {
            let last = self.client.last_good();
            Ok(last
                .filter(|(at, who)| *at >= since && **who == *host)
                .map(drop))
        })
    }

    /// What the client saw of the requests of the next while.
    fn watch(&self) -> Seen {
        let from = now();
        std::thread::sleep(WATCH);
        let to = now();
        std::thread::sleep(PATIENCE + PATIENCE / 10);
        seen(&self.client.records(), from, to)
    }

    fn quiet_client_is_served(&self) -> Result<()> {
        self.wait_answer("a", now())?;
        let seen = self.watch();
        ensure!(
            seen.failed + seen.unasked == 0,
            "failed requests without a fault: {seen:?}"
        );
        ensure!(seen.requests > 100, "the client keeps its pace: {seen:?}");
        ensure!(
            self.a.run(&["hostname"], "")?.trim() == "a",
            "hosts have names of their own"
        );
        Ok(())
    }

    fn move_is_seen_and_clean(&self) -> Result<()> {
        self.observer.mark();
        let start = now();
        self.wait_answer("a", start)?;
        delete_address(&self.a)?;
        add_address(&self.b)?;
        self.wait_answer("b", start)?;
        let report = self.observer.report();
        ensure!(
            report.returns.is_empty(),
            "a clean move: {:?}",
            report.returns
        );
        ensure!(
            report.missed == 0,
            "the observer missed {} frames",
            report.missed
        );
        let row = &report.stretches[&SERVICE];
        let hosts: Vec<&str> = row.iter().map(|stretch| stretch.host.as_str()).collect();
        ensure!(hosts == ["a", "b"], "the observer saw {hosts:?}");
        ensure!(
            row[1].kinds.contains_key(&Kind::Arp),
            "b's ARP was seen: {row:?}"
        );
        let gap = seen(&self.client.records(), start, now()).gap;
        ensure!(gap > Duration::from_millis(3), "a gap of {gap:?} cannot be");
        Ok(())
    }

    fn two_holders_are_seen(&self) -> Result<()> {
        self.observer.mark();
        announce(&self.b)?;
        self.wait_answer("b", now())?;
        add_address(&self.a)?;
        self.wait_answer("a", now())?;
        announce(&self.b)?;
        wait::until(
            "the observer reports two holders of both addresses",
            SOON,
            || {
                let told = self.observer.report().returns;
                let both = [SERVICE, SERVICE6]
                    .iter()
                    .all(|address| told.iter().any(|case| case.address == *address));
                Ok(both.then_some(()))
            },
        )?;
        delete_address(&self.b)?;
        announce(&self.a)?;
        self.wait_answer("a", now())
    }

    fn cuts_are_cuts(&self) -> Result<()> {
        for (cable, heard) in [
            (Cable::CUT, true),
            (Cable::MUTE, true),
            (Cable::DEAF, false),
        ] {
            self.switch.set_cable("a", cable)?;
            std::thread::sleep(WATCH / 10);
            self.observer.mark();
            let seen = self.watch();
            ensure!(
                seen.by_host.is_empty(),
                "answers through {cable:?}: {seen:?}"
            );
            ensure!(seen.failed == seen.requests, "{cable:?}: {seen:?}");
            // A mute host hears requests; what it answers is seen before it is lost.
            let sent = self.observer.report().last_of("a").is_some();
            ensure!(
                !heard || cable != Cable::MUTE || sent,
                "{cable:?}: the answers are seen"
            );
            let carrier = self.a.run(&["cat", "/sys/class/net/eth0/carrier"], "");
            ensure!(
                carrier.map_or(true, |text| text.trim() == "1"),
                "{cable:?}: the carrier"
            );
            self.switch.set_cable("a", Cable::WHOLE)?;
            self.wait_answer("a", now())?;
        }
        let lossy = Cable {
            from_host: Wire::Lossy(50),
            to_host: Wire::Whole,
        };
        self.switch.set_cable("a", lossy)?;
        let seen = self.watch();
        self.switch.set_cable("a", Cable::WHOLE)?;
        ensure!(
            seen.failed > 0 && seen.failed < seen.requests,
            "half of the frames lost: {seen:?}"
        );
        self.wait_answer("a", now())?;
        // One trouble does not mend another.
        self.switch.worsen_cable("a", Cable::DEAF)?;
        self.switch.worsen_cable("a", lossy)?;
        self.switch.pull_cable("a", true)?;
        self.switch.pull_cable("a", false)?;
        let seen = self.watch();
        ensure!(seen.by_host.is_empty(), "deaf, lossy and pulled: {seen:?}");
        self.switch.set_cable("a", Cable::WHOLE)?;
        self.wait_answer("a", now())
    }

    /// A host that is cut off goes on answering its neighbour, and so it is known for how
    /// long it answers beside another one.
    fn neighbours_tell_who_answers(&self) -> Result<()> {
        let mut asking = Vec::new();
        for (host, number) in [(&self.a, 11), (&self.b, 12)] {
            let place = Place::new(host.name(), number);
            let neighbour = boot_neighbour(&self.lab, &self.switch, &place)?;
            join_neighbour(&self.switch, host, &place)?;
            let page = apache::page(SERVICE);
            let client = Client::start(&neighbour, page, QUICK, ASKED)?;
            asking.push((client, neighbour));
        }
        self.switch.set_cable("a", Cable::CUT)?;
        self.observer.mark();
        std::thread::sleep(WATCH);
        let both = || overlap(&spells(&self.observer.report().stretches[&SERVICE]));
        ensure!(both().spells.is_empty(), "a alone: {:?}", both());
        add_address(&self.b)?;
        wait::until("b answers", SOON, || {
            Ok((both().total() >= WATCH).then_some(()))
        })?;
        ensure!(both().lasts_at(calendar()), "both answer: {:?}", both());
        delete_address(&self.b)?;
        std::thread::sleep(WATCH);
        ensure!(!both().lasts_at(calendar()), "a alone again: {:?}", both());
        ensure!(
            both().spells.len() == 1,
            "they answered at one time: {:?}",
            both()
        );
        drop(asking);
        for host in ["a", "b"] {
            self.switch.set_neighbour(host, None)?;
        }
        self.switch.set_cable("a", Cable::WHOLE)?;
        announce(&self.a)?;
        self.wait_answer("a", now())
    }

    fn a_hung_service_is_silent(&mut self) -> Result<()> {
        apache::hang(&self.a)?;
        let seen = self.watch();
        ensure!(
            seen.by_host.is_empty() && seen.broken == 0,
            "a hung service: {seen:?}"
        );
        apache::heal(&mut self.a)?;
        self.wait_answer("a", now())
    }

    fn a_killed_service_refuses(&mut self) -> Result<()> {
        apache::kill(&self.a)?;
        let seen = self.watch();
        ensure!(
            seen.by_host.is_empty() && seen.broken == seen.requests,
            "killed: {seen:?}"
        );
        apache::heal(&mut self.a)?;
        self.wait_answer("a", now())
    }

    fn a_power_cut_is_silent(self) -> Result<()> {
        let Self {
            lab,
            switch,
            a,
            b,
            asking,
            client,
            observer,
        } = self;
        let from = now();
        a.power_cut()?;
        let cut = now();
        std::thread::sleep(WATCH);
        let to = now();
        std::thread::sleep(PATIENCE + PATIENCE / 10);
        let after = seen(&client.records(), cut, to);
        ensure!(after.by_host.is_empty(), "answers without power: {after:?}");
        ensure!(after.broken == 0, "refusals without power: {after:?}");
        let mut a = Host::boot(&lab, &switch, &Place::new("a", 11))?;
        apache::start(&mut a)?;
        add_address(&a)?;
        wait::until("an answer after the boot", SOON, || {
            Ok(client.last_good().filter(|(at, _)| *at > to).map(drop))
        })?;
        let whole = seen(&client.stop()?, from, now());
        ensure!(whole.unasked == 0, "the client could always ask: {whole:?}");
        drop((observer, b, asking));
        Ok(())
    }
}

/// Runs the self-test and prints a line per part.
pub(crate) fn run(lab: &Lab, switch: &Arc<Switch>) -> Result<ExitCode> {
    let step = |name: &str, done: Result<()>| {
        done.with_context(|| format!("self-test: {name}"))?;
        println!("ok  {name}");
        Ok::<(), anyhow::Error>(())
    };
    let mut test = Test::new(lab, switch)?;
    step(
        "a client without faults sees none",
        test.quiet_client_is_served(),
    )?;
    step(
        "a move by hand is seen, and clean",
        test.move_is_seen_and_clean(),
    )?;
    step("two holders at once are seen", test.two_holders_are_seen())?;
    step(
        "a cable is cut in both and in each direction, and lossy",
        test.cuts_are_cuts(),
    )?;
    step(
        "neighbours tell who answers, through a cut",
        test.neighbours_tell_who_answers(),
    )?;
    step("a hung service is silent", test.a_hung_service_is_silent())?;
    step("a killed service refuses", test.a_killed_service_refuses())?;
    step(
        "a power cut is silent, and a boot brings the host back",
        test.a_power_cut_is_silent(),
    )?;
    println!("8 passed, 0 failed");
    Ok(ExitCode::SUCCESS)
}
