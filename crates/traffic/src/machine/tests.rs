//! The machine's table, walked with a kernel made of two maps.

use evenkeel_core::Epoch;
use evenkeel_host::address::{Address, Change, Lifetime, Link, Owner, Placement, single};

use super::*;
use crate::campaign::{DOUBT_SPACING, Forms, SCHEDULE_MS};

const WWW: GroupId = GroupId(1);
const DB: GroupId = GroupId(2);
const EPOCH: Epoch = Epoch { term: 1, index: 7 };
const OPEN: Want = Want::Open { epoch: EPOCH };
const ETH0: u32 = 2;
const ETH1: u32 = 3;
/// Nothing announced.
const QUIET: [IpAddr; 0] = [];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn site(text: &str, device: &str) -> Site {
    Site {
        ip: ip(text),
        device: device.to_owned(),
    }
}

fn link(index: u32, name: &str) -> Link {
    let mac = Some([2, 0, 0, 0, 0, index as u8]);
    Link {
        index,
        name: name.to_owned(),
        mac,
        up: true,
        carrier: true,
        kind: String::new(),
    }
}

fn address(device: u32, text: &str, prefix: u8, owner: Owner) -> Address {
    let ip = ip(text);
    Address {
        device,
        ip,
        network: ip,
        prefix,
        owner,
        lifetime: Lifetime::Seconds(30),
    }
}

/// A machine and its kernel: effects are carried out at once, and told as changes.
struct World {
    machine: Machine,
    now: Moment,
    addresses: BTreeMap<(u32, IpAddr), Owner>,
    /// Adding hangs: what is to be added waits here.
    slow: Option<Vec<Placement>>,
    /// Deleting hangs: what is to be deleted waits here.
    tardy: Option<Vec<Placement>>,
    /// Adding fails, as if the right were missing.
    refuses: bool,
    /// Ended sockets are not told.
    ender_hangs: bool,
    log: Vec<Effect>,
}

impl World {
    fn new(sites: &[(GroupId, Vec<Site>)]) -> Self {
        let mut world = Self {
            machine: Machine::new(Some(Duration::from_secs(10))),
            now: Moment::from_nanos(1_000_000_000),
            addresses: BTreeMap::new(),
            slow: None,
            tardy: None,
            refuses: false,
            ender_hangs: false,
            log: Vec::new(),
        };
        for (group, sites) in sites {
            world.step(Event::Assign(*group, sites.clone()));
        }
        world.step(Event::Change(Change::Link(link(ETH0, "eth0"))));
        world.step(Event::Change(Change::Link(link(ETH1, "eth1"))));
        world
    }

    /// One group, `www`, with an address of each family on eth0.
    fn www() -> Self {
        Self::new(&[(
            WWW,
            vec![site("192.0.2.1", "eth0"), site("2001:db8::1", "eth0")],
        )])
    }

    fn step(&mut self, event: Event) {
        self.machine.step(self.now, event);
    }

    fn want(&mut self, group: GroupId, want: Want) -> Vec<Effect> {
        self.step(Event::Want(group, want));
        self.settle()
    }

    fn wait(&mut self, span: Duration) -> Vec<Effect> {
        self.now += span;
        self.settle()
    }

    /// Somebody else configures an address.
    fn appears(&mut self, device: u32, text: &str, owner: Owner) {
        self.addresses.insert((device, ip(text)), owner);
        let prefix = if owner == Owner::Evenkeel {
            single(ip(text))
        } else {
            24
        };
        let address = address(device, text, prefix, owner);
        self.step(Event::Change(Change::Address(address)));
    }

    /// Somebody else deletes one.
    fn vanishes(&mut self, device: u32, text: &str) {
        let owner = self
            .addresses
            .remove(&(device, ip(text)))
            .expect("it was there");
        let prefix = if owner == Owner::Evenkeel {
            single(ip(text))
        } else {
            24
        };
        let address = address(device, text, prefix, owner);
        self.step(Event::Change(Change::AddressGone(address)));
    }

    fn place(&mut self, group: GroupId, places: &[Placement]) {
        if self.refuses {
            let no = "place it: no".to_owned();
            self.step(Event::Refused(group, Attempt::Place, no));
        } else if let Some(slow) = &mut self.slow {
            slow.extend(places);
            return;
        } else {
            self.place_now(places);
        }
        self.step(Event::Tried(group));
    }

    fn place_now(&mut self, places: &[Placement]) {
        for place in places {
            self.appears(place.device, &place.ip.to_string(), Owner::Evenkeel);
        }
    }

    fn clear(&mut self, group: Option<GroupId>, places: &[Placement]) {
        if let Some(tardy) = &mut self.tardy {
            tardy.extend(places);
        } else {
            self.delete_now(places);
            self.step(Event::Cleared(group));
        }
    }

    fn delete_now(&mut self, places: &[Placement]) {
        for place in places {
            self.vanishes(place.device, &place.ip.to_string());
        }
    }

    /// Plans and carries out until nothing is planned; gives what was carried out.
    fn settle(&mut self) -> Vec<Effect> {
        let mut all = Vec::new();
        for _ in 0..10 {
            let effects = self.machine.plan(self.now);
            if effects.is_empty() {
                self.log.extend(all.iter().cloned());
                return all;
            }
            for effect in &effects {
                match effect {
                    Effect::Add(group, places) => self.place(*group, places),
                    Effect::Remove(_, places) => self.delete_now(places),
                    Effect::Clear(group, places) => self.clear(*group, places),
                    Effect::RemoveStopgaps(places) => {
                        for place in places {
                            self.step(Event::Change(Change::StopgapGone(*place)));
                        }
                    }
                    Effect::RestoreRoutes(_, places) => {
                        for place in places {
                            self.step(Event::Change(Change::Route(*place)));
                        }
                    }
                    Effect::EndSockets(ticket, _) if !self.ender_hangs => {
                        self.step(Event::SocketsEnded(*ticket, Ok(3)));
                    }
                    Effect::EndSockets(..) | Effect::Refresh(_) | Effect::Report(_) => {}
                }
            }
            all.extend(effects);
        }
        panic!("it does not settle: {all:?}");
    }

    /// Announces all that is due now; gives the addresses, in the order of their first forms.
    fn announce(&mut self) -> Vec<IpAddr> {
        let mut announced = Vec::new();
        while let Some(volley) = self.machine.volley(self.now, 100) {
            if volley.forms != Forms::Second {
                announced.extend(volley.shots.iter().map(|(place, _)| place.ip));
            }
            let round = Round {
                sent: volley.shots.len(),
                dropped: 0,
            };
            self.step(Event::Sent(volley.group, round));
        }
        announced
    }

    fn ours(&self) -> Vec<(u32, IpAddr)> {
        let ours = self
            .addresses
            .iter()
            .filter(|(_, owner)| **owner == Owner::Evenkeel);
        ours.map(|(key, _)| *key).collect()
    }
}

fn reports(effects: &[Effect]) -> Vec<&Report> {
    let mut found = Vec::new();
    for effect in effects {
        if let Effect::Report(report) = effect {
            found.push(report);
        }
    }
    found
}

fn count(effects: &[Effect], is: impl Fn(&Effect) -> bool) -> usize {
    effects.iter().filter(|effect| is(effect)).count()
}

fn clears(effects: &[Effect]) -> usize {
    count(effects, |effect| matches!(effect, Effect::Clear(..)))
}

fn adds(effects: &[Effect]) -> usize {
    count(effects, |effect| matches!(effect, Effect::Add(..)))
}

#[test]
fn nothing_happens_before_anything_is_wanted() {
    let mut world = World::www();
    world.appears(ETH0, "192.0.2.1", Owner::Evenkeel);
    assert_eq!(world.settle(), []);
    assert_eq!(world.wait(Duration::from_secs(60)), []);
    assert_eq!(world.ours().len(), 1, "an earlier life's address stays");
    assert_eq!(
        world.machine.deadline(),
        Moment::MAX,
        "and nothing is waited for"
    );
}

#[test]
fn closed_places_all_in_one_batch_and_announces_nothing() {
    let mut world = World::www();
    let effects = world.want(WWW, Want::Closed);
    let batch = effects.iter().find_map(|effect| match effect {
        Effect::Add(WWW, places) => Some(places.len()),
        _ => None,
    });
    assert_eq!((adds(&effects), batch), (1, Some(2)));
    assert!(matches!(
        reports(&effects)[..],
        [Report::Placed {
            group: WWW,
            addresses: 2,
            adopted: 0,
            ..
        }]
    ));
    assert_eq!(world.announce(), QUIET);
    assert_eq!(world.machine.status()[&WWW].placed, 2);
}

#[test]
fn open_announces_and_repeats_for_a_minute() {
    let mut world = World::www();
    world.want(WWW, Want::Closed);
    world.wait(Duration::from_millis(40));
    let effects = world.want(WWW, OPEN);
    assert_eq!(effects, [], "all is placed already");
    let start = world.now;
    let all = [ip("192.0.2.1"), ip("2001:db8::1")];
    // The first two rounds are one: of first and second forms.
    for offset in &SCHEDULE_MS[1..] {
        world.now = start + Duration::from_millis(*offset);
        assert_eq!(world.announce(), all, "at {offset} ms");
        assert_eq!(world.announce(), QUIET, "once at {offset} ms");
        world.settle();
    }
    world.now = start + Duration::from_secs(600);
    assert_eq!(world.announce(), QUIET);
    let announced: Vec<_> = reports(&world.log)
        .into_iter()
        .filter(|report| matches!(report, Report::Announced { .. }))
        .collect();
    assert!(
        matches!(
            announced[..],
            [Report::Announced {
                epoch: EPOCH,
                addresses: 2,
                dropped: 0,
                why: Why::Opened,
                ..
            }]
        ),
        "told once: {announced:?}"
    );
}

/// A group with two addresses that are slow to be placed.
fn slow() -> World {
    let mut world = World::www();
    world.slow = Some(Vec::new());
    world.want(WWW, Want::Closed);
    world
}

#[test]
fn an_open_group_announces_what_is_placed_and_does_not_wait_for_the_rest() {
    let mut world = slow();
    let waiting = world.slow.take().expect("it is slow");
    assert_eq!(waiting.len(), 2);
    assert_eq!(world.want(WWW, OPEN), [], "not added twice");
    assert_eq!(world.announce(), QUIET, "nothing is placed");
    world.place_now(&waiting[..1]);
    assert_eq!(world.settle(), [], "not added twice");
    assert_eq!(world.announce(), [ip("192.0.2.1")]);
    assert_eq!(world.settle(), [], "not all were announced");
    world.place_now(&waiting[1..]);
    world.step(Event::Tried(WWW));
    let placed = world.settle();
    assert!(
        matches!(reports(&placed)[..], [Report::Placed { addresses: 2, .. }]),
        "{placed:?}"
    );
    assert_eq!(world.announce(), [ip("2001:db8::1")]);
    let announced = world.settle();
    let whole = matches!(
        reports(&announced)[..],
        [Report::Announced { addresses: 2, .. }]
    );
    assert!(whole, "{announced:?}");
    assert_eq!(world.announce(), QUIET);
}

#[test]
fn what_was_not_placed_in_the_end_is_tried_again() {
    let mut world = slow();
    let waiting = world.slow.take().expect("it is slow");
    world.place_now(&waiting[..1]);
    assert_eq!(adds(&world.settle()), 0);
    world.step(Event::Tried(WWW));
    assert_eq!(adds(&world.wait(TRY_SPACING_MIN)), 1);
    assert_eq!(world.machine.status()[&WWW].placed, 2);
}

#[test]
fn a_group_that_leaves_or_changes_while_it_is_placed_is_not_placed_any_more() {
    let mut world = slow();
    assert!(world.machine.places(WWW));
    world.want(WWW, Want::Absent);
    assert!(!world.machine.places(WWW));
    // The rest is dropped, and the group comes back.
    world.slow = None;
    world.step(Event::Tried(WWW));
    assert_eq!(adds(&world.want(WWW, Want::Closed)), 1);

    let mut world = slow();
    world.slow = None;
    let sites = vec![site("192.0.2.1", "eth0"), site("192.0.2.2", "eth0")];
    world.step(Event::Assign(WWW, sites));
    assert_eq!(adds(&world.wait(TRY_SPACING_MIN)), 1, "of the new ones");
    assert_eq!(
        world.ours(),
        [(ETH0, ip("192.0.2.1")), (ETH0, ip("192.0.2.2"))]
    );
}

#[test]
fn a_newer_epoch_is_announced_anew_and_the_same_word_changes_nothing() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    assert_eq!(world.announce().len(), 2);
    world.settle();
    world.now += Duration::from_millis(1);
    assert_eq!(world.want(WWW, OPEN), []);
    assert_eq!(world.announce(), QUIET);
    world.want(
        WWW,
        Want::Open {
            epoch: Epoch { term: 2, index: 9 },
        },
    );
    assert_eq!(world.announce().len(), 2);
}

#[test]
fn an_address_deleted_by_somebody_is_back_at_once() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.announce();
    world.wait(Duration::from_secs(5));
    world.announce();
    world.vanishes(ETH0, "192.0.2.1");
    let effects = world.settle();
    assert_eq!(adds(&effects), 1);
    assert!(matches!(
        reports(&effects)[..],
        [Report::Repaired {
            what: Repair::Address,
            count: 1,
            ..
        }]
    ));
    assert_eq!(world.ours().len(), 2);
    assert_eq!(world.announce().len(), 2, "and announced anew");
}

#[test]
fn a_quarrel_about_an_address_costs_a_try_every_ten_milliseconds() {
    let mut world = World::www();
    world.want(WWW, Want::Closed);
    let mut tries = 0;
    for _ in 0..1_000 {
        if world.addresses.contains_key(&(ETH0, ip("192.0.2.1"))) {
            world.vanishes(ETH0, "192.0.2.1");
        }
        tries += adds(&world.wait(Duration::from_millis(1)));
    }
    assert!((50..=100).contains(&tries), "{tries} tries in a second");
}

#[test]
fn what_the_kernel_refuses_is_told_once_and_tried_ever_more_seldom() {
    let mut world = World::www();
    world.refuses = true;
    let mut effects = world.want(WWW, Want::Closed);
    for _ in 0..10_000 {
        effects.extend(world.wait(Duration::from_millis(1)));
    }
    assert!(matches!(
        reports(&effects)[..],
        [Report::Failed {
            what: Attempt::Place,
            ..
        }]
    ));
    let tries = adds(&effects);
    assert!((14..=18).contains(&tries), "{tries} tries in ten seconds");
    world.refuses = false;
    let effects = world.wait(TRY_SPACING_MAX);
    assert!(
        matches!(reports(&effects)[..], [Report::Placed { .. }]),
        "{effects:?}"
    );
}

#[test]
fn absent_ends_sockets_then_removes_then_tells() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.announce();
    world.settle();
    let effects = world.want(WWW, Want::Absent);
    let kinds: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::EndSockets(_, ips) => format!("end {}", ips.len()),
            Effect::Report(Report::Reset { sockets, .. }) => format!("reset {sockets}"),
            Effect::Clear(Some(WWW), places) => format!("remove {}", places.len()),
            Effect::Report(Report::Gone { .. }) => "gone".to_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["end 2", "reset 3", "remove 2", "gone"]);
    assert_eq!(world.ours(), []);
    assert_eq!(world.wait(Duration::from_secs(60)), []);
    assert_eq!(world.announce(), QUIET, "the campaign is over");
    assert_eq!(world.want(WWW, Want::Absent), [], "said again");
}

#[test]
fn sockets_are_ended_even_where_no_address_is_left() {
    let mut world = World::www();
    let effects = world.want(WWW, Want::Absent);
    assert!(matches!(effects[0], Effect::EndSockets(..)), "{effects:?}");
    assert!(matches!(
        reports(&effects)[..],
        [Report::Reset { .. }, Report::Gone { .. }]
    ));
}

#[test]
fn addresses_go_even_if_their_sockets_do_not_end() {
    let mut world = World::www();
    world.want(WWW, Want::Closed);
    world.ender_hangs = true;
    assert_eq!(reports(&world.want(WWW, Want::Absent)).len(), 0);
    assert_eq!(world.wait(END_SOCKETS_MAX / 2), []);
    assert_eq!(world.machine.deadline(), world.now + END_SOCKETS_MAX / 2);
    let effects = world.wait(END_SOCKETS_MAX / 2);
    assert!(matches!(
        reports(&effects)[..],
        [
            Report::Failed {
                what: Attempt::EndSockets,
                ..
            },
            Report::Gone { .. }
        ]
    ));
}

#[test]
fn the_newest_word_counts() {
    let mut world = World::www();
    world.ender_hangs = true;
    world.want(WWW, Want::Closed);
    world.want(WWW, Want::Absent);
    world.want(WWW, OPEN);
    assert_eq!(
        world.wait(END_SOCKETS_MAX * 2).len(),
        0,
        "the removal is forgotten"
    );
    assert_eq!(world.ours().len(), 2);
}

#[test]
fn leftovers_are_adopted_and_their_lifetimes_renewed_at_once() {
    let mut world = World::www();
    world.wait(Duration::from_secs(1));
    world.appears(ETH0, "192.0.2.1", Owner::Evenkeel);
    world.appears(ETH0, "2001:db8::1", Owner::Evenkeel);
    let effects = world.want(WWW, OPEN);
    assert_eq!(adds(&effects), 0);
    assert!(matches!(
        reports(&effects)[..],
        [Report::Placed { adopted: 2, .. }]
    ));
    assert_eq!(
        count(&effects, |effect| matches!(effect, Effect::Refresh(_))),
        1
    );
    assert_eq!(world.announce().len(), 2);
}

#[test]
fn lifetimes_are_renewed_in_time() {
    let mut world = World::www();
    world.want(WWW, Want::Closed);
    let mut renewed = 0;
    for _ in 0..100 {
        let effects = world.wait(Duration::from_secs(1));
        renewed += count(
            &effects,
            |effect| matches!(effect, Effect::Refresh(places) if places.len() == 2),
        );
    }
    assert_eq!(renewed, 10);
}

#[test]
fn a_leftover_on_another_interface_goes_before_the_address_is_placed() {
    let mut world = World::www();
    world.appears(ETH1, "192.0.2.1", Owner::Evenkeel);
    let effects = world.want(WWW, Want::Closed);
    assert!(matches!(effects[0], Effect::Remove(..)) && matches!(effects[1], Effect::Add(..)));
    assert_eq!(
        world.ours(),
        [(ETH0, ip("192.0.2.1")), (ETH0, ip("2001:db8::1"))]
    );
}

#[test]
fn an_interface_that_was_down_gets_its_addresses_back() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.announce();
    world.wait(Duration::from_secs(5));
    world.announce();
    world.step(Event::Change(Change::Link(Link {
        up: false,
        carrier: false,
        ..link(ETH0, "eth0")
    })));
    world.vanishes(ETH0, "2001:db8::1");
    let effects = world.settle();
    assert_eq!(adds(&effects), 0, "not while it is down");
    let Report::Failed { error, .. } = reports(&effects)[0] else {
        panic!("{effects:?}")
    };
    assert!(error.contains("ip link set eth0 up"), "{error}");
    assert_eq!(
        reports(&world.wait(Duration::from_secs(30))).len(),
        0,
        "told once"
    );
    assert_eq!(world.announce(), QUIET, "no frame into a dead interface");
    world.step(Event::Change(Change::Link(link(ETH0, "eth0"))));
    let effects = world.settle();
    assert_eq!(adds(&effects), 1);
    assert!(matches!(
        reports(&effects)[..],
        [Report::Repaired {
            what: Repair::Interface,
            ..
        }]
    ));
    assert_eq!(world.announce().len(), 2);
}

#[test]
fn a_device_made_again_gets_its_addresses_under_its_new_number() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.announce();
    world.wait(Duration::from_secs(5));
    world.announce();
    world.step(Event::Change(Change::LinkGone(ETH0)));
    world.addresses.clear();
    let effects = world.settle();
    let Report::Failed { error, .. } = reports(&effects)[0] else {
        panic!("{effects:?}")
    };
    assert!(error.contains("eth0 is gone"), "{error}");
    world.step(Event::Change(Change::Link(link(9, "eth0"))));
    world.settle();
    assert_eq!(world.ours(), [(9, ip("192.0.2.1")), (9, ip("2001:db8::1"))]);
    assert_eq!(world.announce().len(), 2);
}

#[test]
fn a_carrier_that_returns_and_a_new_hardware_address_are_announced() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.announce();
    world.wait(Duration::from_secs(15));
    world.announce();
    world.step(Event::Change(Change::Link(Link {
        carrier: false,
        ..link(ETH0, "eth0")
    })));
    world.wait(Duration::from_secs(2));
    assert_eq!(world.announce(), QUIET);
    world.step(Event::Change(Change::Link(link(ETH0, "eth0"))));
    assert_eq!(world.announce().len(), 2);
    world.wait(Duration::from_secs(3));
    world.announce();
    let other = Link {
        mac: Some([2, 0, 0, 0, 0, 99]),
        ..link(ETH0, "eth0")
    };
    world.step(Event::Change(Change::Link(other)));
    let volley = world.machine.volley(world.now, 100).expect("due at once");
    assert_eq!(volley.shots[0].1, [2, 0, 0, 0, 0, 99]);
}

#[test]
fn doubt_announces_anew_but_not_faster_than_every_second() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.wait(Duration::from_secs(30));
    world.announce();
    let mut announced = 0;
    for _ in 0..100 {
        world.step(Event::Doubt(WWW));
        world.wait(Duration::from_millis(10));
        announced += world.announce().len();
    }
    // Rounds at 0, 50, 200, 500 ms and perhaps the restart at 1 s.
    assert!((8..=12).contains(&announced), "{announced}");
    world.wait(DOUBT_SPACING);
    assert_eq!(world.announce().len(), 2, "the last doubt is not lost");
}

#[test]
fn a_deleted_local_route_is_put_back() {
    let mut world = World::www();
    world.want(WWW, Want::Closed);
    world.wait(Duration::from_secs(1));
    let place = Placement {
        device: ETH0,
        ip: ip("192.0.2.1"),
    };
    world.step(Event::Change(Change::RouteGone(place)));
    let effects = world.settle();
    assert_eq!(effects[0], Effect::RestoreRoutes(WWW, vec![place]));
    assert!(matches!(
        reports(&effects)[..],
        [Report::Repaired {
            what: Repair::Route,
            ..
        }]
    ));
}

#[test]
fn what_somebody_else_configures_is_told_and_left_alone() {
    let mut world = World::www();
    world.appears(ETH1, "192.0.2.1", Owner::Others);
    let told = world.settle();
    assert!(matches!(
        reports(&told)[..],
        [Report::Foreign { group: WWW, device, .. }] if device == "eth1"
    ));
    world.want(WWW, Want::Closed);
    world.want(WWW, Want::Absent);
    assert_eq!(world.addresses.len(), 1, "still theirs");
}

#[test]
fn changes_that_were_missed_are_made_up_for() {
    let mut world = World::www();
    world.want(WWW, Want::Closed);
    world.wait(Duration::from_secs(1));
    world.addresses.remove(&(ETH0, ip("192.0.2.1")));
    let there: Vec<_> = world
        .ours()
        .iter()
        .map(|(device, ip)| address(*device, &ip.to_string(), 128, Owner::Evenkeel))
        .collect();
    world.step(Event::Resync(Everything {
        links: vec![link(ETH0, "eth0")],
        addresses: there,
        stopgaps: Vec::new(),
    }));
    let effects = world.settle();
    assert_eq!(adds(&effects), 1);
    assert_eq!(world.ours().len(), 2);
}

#[test]
fn an_address_that_leaves_its_group_is_taken_away() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.announce();
    world.wait(Duration::from_secs(1));
    world.step(Event::Assign(
        WWW,
        vec![site("192.0.2.1", "eth0"), site("192.0.2.9", "eth0")],
    ));
    world.settle();
    assert_eq!(
        world.ours(),
        [(ETH0, ip("192.0.2.1")), (ETH0, ip("192.0.2.9"))]
    );
    assert_eq!(world.announce(), [ip("192.0.2.1"), ip("192.0.2.9")]);
}

#[test]
fn what_is_being_deleted_is_not_asked_for_again() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.tardy = Some(Vec::new());
    let effects = world.want(WWW, Want::Absent);
    assert_eq!(clears(&effects), 1);
    let (first, rest) = {
        let mut all = world.tardy.take().expect("they wait");
        (all.remove(0), all)
    };
    world.tardy = Some(Vec::new());
    world.delete_now(&[first]);
    let effects = world.wait(Duration::from_secs(1));
    assert_eq!(clears(&effects), 0, "{effects:?}");
    world.delete_now(&rest);
    world.step(Event::Cleared(Some(WWW)));
    let effects = world.settle();
    assert!(
        matches!(reports(&effects)[..], [Report::Gone { .. }]),
        "{effects:?}"
    );
    assert_eq!(world.machine.deadline(), Moment::MAX);
}

#[test]
fn what_comes_back_while_it_is_being_deleted_is_kept_and_the_rest_comes_again() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.tardy = Some(Vec::new());
    world.want(WWW, Want::Absent);
    let all = world.tardy.take().expect("they wait");
    assert!(all.iter().all(|place| world.machine.clears(*place)));
    world.delete_now(&all[..1]);
    assert_eq!(adds(&world.want(WWW, OPEN)), 1);
    assert!(!all.iter().any(|place| world.machine.clears(*place)));
    world.step(Event::Cleared(Some(WWW)));
    assert_eq!(adds(&world.settle()), 0);
    assert_eq!(world.ours().len(), 2);
    // And it can leave again.
    assert_eq!(clears(&world.want(WWW, Want::Absent)), 1);
    assert_eq!(world.ours(), []);
}

/// It is told of an absent group's addresses only when that gets it: the list may be an old one.
#[test]
fn an_absent_group_leaves_alone_what_another_one_has_of_its_addresses() {
    let mut world = World::www();
    world.want(WWW, Want::Absent);
    world.step(Event::Assign(DB, vec![site("192.0.2.1", "eth0")]));
    world.want(DB, Want::Closed);
    world.step(Event::Change(Change::Stopgap(at_eth0("192.0.2.1"))));
    world.settle();
    world.step(Event::Change(Change::Link(link(ETH0, "eth0"))));
    let effects = world.wait(Duration::from_secs(5));
    assert_eq!(clears(&effects), 0, "{effects:?}");
    assert_eq!(world.ours().len(), 1);
    world.want(WWW, Want::Closed);
    let effects = world.want(WWW, Want::Absent);
    let gone = |report: &&Report| matches!(report, Report::Gone { group: WWW, .. });
    assert_eq!(reports(&effects).into_iter().filter(gone).count(), 1);
}

#[test]
fn what_was_in_turn_when_the_kernel_was_lost_is_asked_for_again() {
    let mut world = World::www();
    world.slow = Some(Vec::new());
    assert_eq!(adds(&world.want(WWW, OPEN)), 1);
    world.slow = None;
    world.step(Event::Broken);
    assert_eq!(adds(&world.wait(TRY_SPACING_MAX)), 1);
    assert_eq!(world.ours().len(), 2);
    world.tardy = Some(Vec::new());
    world.step(Event::Assign(WWW, vec![site("192.0.2.1", "eth0")]));
    assert_eq!(clears(&world.want(WWW, Want::Absent)), 2);
    world.tardy = None;
    world.step(Event::Broken);
    assert_eq!(clears(&world.wait(TRY_SPACING_MAX)), 2);
    assert_eq!(world.ours(), []);
}

#[test]
fn what_leaves_its_group_is_deleted_once_and_kept_if_another_one_wants_it() {
    let mut world = World::www();
    world.want(WWW, Want::Closed);
    world.tardy = Some(Vec::new());
    world.step(Event::Assign(WWW, vec![site("192.0.2.1", "eth0")]));
    assert_eq!(clears(&world.settle()), 1);
    assert_eq!(clears(&world.wait(Duration::from_secs(1))), 0);
    let left = at_eth0("2001:db8::1");
    assert!(world.machine.clears(left));
    let elsewhere = Placement {
        device: ETH1,
        ..left
    };
    assert!(!world.machine.clears(elsewhere), "it is not there");
    world.step(Event::Assign(DB, vec![site("2001:db8::1", "eth0")]));
    world.want(DB, Want::Closed);
    assert!(!world.machine.clears(left));
    world.step(Event::Cleared(None));
    assert_eq!(clears(&world.wait(Duration::from_secs(1))), 0);
    assert_eq!(world.ours().len(), 2);
}

#[test]
fn the_same_addresses_assigned_again_change_nothing() {
    let mut world = World::www();
    world.want(WWW, OPEN);
    world.announce();
    world.settle();
    world.wait(Duration::from_millis(1));
    let same = vec![site("192.0.2.1", "eth0"), site("2001:db8::1", "eth0")];
    world.step(Event::Assign(WWW, same));
    assert_eq!(world.settle(), []);
    assert_eq!(world.announce(), QUIET);
}

#[test]
fn an_address_that_moves_to_another_group_here_stays() {
    let mut world = World::www();
    world.want(WWW, Want::Closed);
    world.wait(Duration::from_secs(1));
    world.step(Event::Assign(WWW, vec![site("192.0.2.1", "eth0")]));
    world.step(Event::Assign(DB, vec![site("2001:db8::1", "eth0")]));
    let effects = world.want(DB, Want::Closed);
    assert_eq!(clears(&effects), 0, "{effects:?}");
    assert_eq!(world.ours().len(), 2);
}

#[test]
fn groups_take_turns_at_announcing() {
    let many = |prefix: &str| {
        (1..=100)
            .map(|at| site(&format!("{prefix}.{at}"), "eth0"))
            .collect()
    };
    let mut world = World::new(&[(WWW, many("192.0.2")), (DB, many("198.51.100"))]);
    world.want(WWW, OPEN);
    world.want(DB, OPEN);
    let mut turns = Vec::new();
    while let Some(volley) = world.machine.volley(world.now, 1_000) {
        assert!(volley.shots.len() <= TURN);
        if volley.forms == Forms::First {
            turns.push(volley.group);
        }
        world.step(Event::Sent(
            volley.group,
            Round {
                sent: volley.shots.len(),
                dropped: 0,
            },
        ));
    }
    assert_eq!(turns, [WWW, DB, WWW, DB, WWW, DB, WWW, DB]);
}

fn at_eth0(text: &str) -> Placement {
    Placement {
        device: ETH0,
        ip: ip(text),
    }
}

fn stopgaps_removed(effects: &[Effect]) -> Vec<Placement> {
    let mut found = Vec::new();
    for effect in effects {
        if let Effect::RemoveStopgaps(places) = effect {
            found.extend(places);
        }
    }
    found
}

#[test]
fn a_stopgap_is_announced_and_goes_once_its_address_is_there() {
    let mut world = World::www();
    world.slow = Some(Vec::new());
    let effects = world.want(WWW, OPEN);
    assert_eq!(adds(&effects), 1);
    let place = at_eth0("192.0.2.1");
    world.step(Event::Change(Change::Stopgap(place)));
    assert_eq!(stopgaps_removed(&world.settle()), []);
    assert_eq!(world.announce(), [ip("192.0.2.1")]);
    assert_eq!(world.machine.status()[&WWW].placed, 0, "it only answers");
    let all = world.slow.take().expect("they wait");
    world.place_now(&all);
    assert_eq!(stopgaps_removed(&world.settle()), [], "not in between");
    world.step(Event::Tried(WWW));
    assert_eq!(stopgaps_removed(&world.settle()), [place]);
    assert_eq!(stopgaps_removed(&world.wait(STOPGAP_MAX)), [], "once");
}

#[test]
fn a_stopgap_on_the_wrong_interface_goes_and_a_refused_address_keeps_its_own() {
    let mut world = World::www();
    world.refuses = true;
    world.want(WWW, Want::Closed);
    let (wrong, right) = (
        Placement {
            device: ETH1,
            ..at_eth0("192.0.2.1")
        },
        at_eth0("192.0.2.1"),
    );
    world.step(Event::Change(Change::Stopgap(wrong)));
    world.step(Event::Change(Change::Stopgap(right)));
    assert_eq!(stopgaps_removed(&world.settle()), [wrong]);
    assert_eq!(stopgaps_removed(&world.wait(STOPGAP_MAX)), []);
    world.refuses = false;
    assert_eq!(stopgaps_removed(&world.wait(TRY_SPACING_MAX)), [right]);
}

#[test]
fn stopgaps_leave_with_their_group_and_it_is_gone_only_without_them() {
    let mut world = World::www();
    world.slow = Some(Vec::new());
    world.want(WWW, Want::Closed);
    let place = at_eth0("192.0.2.1");
    world.step(Event::Change(Change::Stopgap(place)));
    world.step(Event::Tried(WWW));
    world.ender_hangs = true;
    let effects = world.want(WWW, Want::Absent);
    assert_eq!(stopgaps_removed(&effects), [], "its sockets end first");
    let effects = world.wait(END_SOCKETS_MAX);
    assert_eq!(stopgaps_removed(&effects), [place]);
    let gone = |report: &&Report| matches!(report, Report::Gone { .. });
    assert_eq!(reports(&effects).into_iter().filter(gone).count(), 1);
    assert_eq!(clears(&effects), 0);
}

#[test]
fn the_stopgaps_of_an_address_that_left_its_group_go() {
    let mut world = World::www();
    world.slow = Some(Vec::new());
    world.want(WWW, Want::Closed);
    let place = at_eth0("192.0.2.1");
    world.step(Event::Change(Change::Stopgap(place)));
    world.step(Event::Assign(WWW, vec![site("2001:db8::1", "eth0")]));
    assert_eq!(stopgaps_removed(&world.settle()), [place]);
}

#[test]
fn stopgaps_of_an_earlier_life_wait_a_while_for_a_word() {
    let mut world = World::www();
    let (ours, nobodys) = (at_eth0("192.0.2.1"), at_eth0("192.0.2.77"));
    let left = || Everything {
        links: vec![link(ETH0, "eth0")],
        addresses: Vec::new(),
        stopgaps: vec![ours, nobodys],
    };
    world.step(Event::Resync(left()));
    assert_eq!(world.settle(), []);
    assert_eq!(world.machine.deadline(), world.now + STOPGAP_MAX);
    assert_eq!(stopgaps_removed(&world.wait(STOPGAP_MAX)), [ours, nobodys]);
    assert_eq!(world.wait(STOPGAP_MAX), []);
    assert_eq!(world.machine.deadline(), Moment::MAX, "nothing is left");

    world.step(Event::Resync(left()));
    world.settle();
    assert_eq!(stopgaps_removed(&world.want(WWW, Want::Absent)), [ours]);
    assert_eq!(stopgaps_removed(&world.wait(STOPGAP_MAX)), [nobodys]);
}

#[test]
fn stopgaps_go_with_their_interface() {
    let mut world = World::www();
    world.step(Event::Change(Change::Stopgap(at_eth0("192.0.2.1"))));
    world.step(Event::Change(Change::LinkGone(ETH0)));
    assert_eq!(world.wait(STOPGAP_MAX), []);
    assert_eq!(world.wait(STOPGAP_MAX), []);
}
