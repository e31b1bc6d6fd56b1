//! The machine alone: the holder's transition table, each rule of a voter, the bounds.
//! What only shows between several machines is in `crates/sim`.

use core::time::Duration;
use std::collections::BTreeSet;

use super::*;

const GROUP: GroupId = GroupId(7);
const ME: NodeId = NodeId(1);
const A: NodeId = NodeId(2);
const B: NodeId = NodeId(3);
const L: Duration = Duration::from_millis(100);

fn ms(n: u64) -> Moment {
    Moment::from_nanos((1000 + n) * 1_000_000)
}

fn epoch(index: u64) -> Epoch {
    Epoch { term: 1, index }
}

fn life(node: NodeId) -> Incarnation {
    Incarnation {
        counter: 1,
        nonce: node.0,
    }
}

fn to(node: NodeId, index: u64) -> Assignment {
    Assignment {
        group: GROUP,
        epoch: epoch(index),
        holder: node,
        incarnation: life(node),
    }
}

fn settings() -> Settings {
    Settings {
        me: ME,
        voters: vec![ME, A, B],
        membership: 5,
        lease: L,
        heartbeat: Duration::from_millis(20),
        lease_max: L,
        prepared: BTreeSet::new(),
        faults: Faults::default(),
    }
}

fn start(at: Moment, start: Start) -> Machine {
    Machine::new(
        at,
        settings(),
        Life {
            incarnation: life(ME),
            seq_base: 0,
        },
        start,
    )
}

fn fresh() -> Machine {
    start(ms(0), Start::Fresh)
}

fn drain(machine: &mut Machine) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll()).collect()
}

fn messages(outputs: &[Output]) -> Vec<(NodeId, Message)> {
    let sent = outputs.iter().filter_map(|output| match output {
        Output::Transmit { to, message } => Some((*to, *message)),
        Output::Mirror(_) | Output::Extend(_) | Output::Close { .. } | Output::Event(_) => None,
    });
    sent.collect()
}

fn last_renew(outputs: &[Output], index: u64) -> Renew {
    let sent = messages(outputs).into_iter().rev();
    let mut renews = sent.filter_map(|(_, message)| match message {
        Message::Renew(renew) if renew.epoch == epoch(index) => Some(renew),
        _ => None,
    });
    renews.next().expect("a Renew")
}

fn extended(outputs: &[Output]) -> Option<Moment> {
    let mut leases = outputs.iter().filter_map(|output| match output {
        Output::Extend(lease) => Some(lease.until()),
        _ => None,
    });
    leases.next_back()
}

fn closes(outputs: &[Output]) -> bool {
    outputs
        .iter()
        .any(|output| matches!(output, Output::Close { .. }))
}

fn promise(renew: &Renew, lower: Duration) -> Message {
    Message::Answer(Answer {
        group: GROUP,
        epoch: renew.epoch,
        seq: renew.seq,
        floor: renew.epoch,
        verdict: Verdict::Promised,
        lower: Some(lower),
    })
}

/// From a voter whose floor is not there yet.
fn promised_only(renew: &Renew) -> Message {
    let Message::Answer(answer) = promise(renew, Duration::ZERO) else {
        panic!("an answer")
    };
    Message::Answer(Answer {
        floor: Epoch::NONE,
        lower: None,
        ..answer
    })
}

fn refuse(index: u64, floor: u64) -> Message {
    refuse_for(Refusal::BelowFloor, index, floor)
}

fn refuse_for(refusal: Refusal, index: u64, floor: u64) -> Message {
    Message::Answer(Answer {
        group: GROUP,
        epoch: epoch(index),
        seq: 0,
        floor: epoch(floor),
        verdict: Verdict::Refused(refusal),
        lower: None,
    })
}

/// Assigned, committed, promised by one other voter: held from `at` on.
fn hold(machine: &mut Machine, at: Moment, index: u64) -> Moment {
    machine.floor_raised(at, &to(ME, index));
    machine.committed(at, GROUP, epoch(index));
    let renew = last_renew(&drain(machine), index);
    machine.receive(at, A, promise(&renew, Duration::ZERO));
    extended(&drain(machine)).expect("held")
}

fn phase(machine: &Machine) -> Phase {
    machine.status(GROUP).phase
}

/// The time at which the walk through the table goes on.
const THEN: u64 = 10;

/// A machine in this phase at `ms(THEN)`.
fn in_phase(wanted: Phase) -> Machine {
    let mut machine = fresh();
    match wanted {
        Phase::Idle => machine.floor_raised(ms(0), &to(A, 1)),
        Phase::Opening => machine.floor_raised(ms(0), &to(ME, 1)),
        Phase::Held => {
            hold(&mut machine, ms(0), 1);
        }
        Phase::Lapsed => {
            let mut early = start(Moment::ZERO, Start::Fresh);
            hold(&mut early, Moment::ZERO, 1);
            early.tick(ms(0));
            machine = early;
        }
        Phase::Spent => {
            hold(&mut machine, ms(0), 1);
            machine.release(ms(0), GROUP);
        }
    }
    machine.tick(ms(THEN));
    drain(&mut machine);
    assert_eq!(phase(&machine), wanted);
    machine
}

#[derive(Clone, Copy, Debug)]
enum What {
    Mine,
    Others,
    Conditions,
    LeaseOver,
    Release,
    /// For one round of renewals.
    OvertakenOnce,
    Overtaken,
    /// For as long, by an epoch of its own that has not come yet.
    OvertakenByItself,
    Truncated,
}

/// Lets `what` happen; whether the guard was closed.
fn happen(machine: &mut Machine, what: What) -> bool {
    let now = ms(THEN);
    match what {
        What::Mine => machine.floor_raised(now, &to(ME, 5)),
        What::Others => machine.floor_raised(now, &to(B, 5)),
        What::Conditions => {
            machine.committed(now, GROUP, epoch(1));
            machine.tick(ms(THEN + 30));
            let outputs = drain(machine);
            let newest = messages(&outputs)
                .into_iter()
                .rev()
                .find_map(|(_, m)| match m {
                    Message::Renew(renew) => Some(renew),
                    _ => None,
                });
            if let Some(renew) = newest {
                machine.receive(ms(THEN + 31), A, promise(&renew, Duration::ZERO));
            }
        }
        What::LeaseOver => machine.tick(ms(THEN) + L),
        What::Release => machine.release(now, GROUP),
        What::OvertakenOnce => {
            machine.receive(now, A, refuse(1, 9));
            machine.receive(now, B, refuse(1, 9));
        }
        What::Overtaken => {
            let later = ms(THEN + 40);
            machine.receive(later, A, refuse(1, 9));
            machine.receive(later, B, refuse(1, 9));
        }
        What::OvertakenByItself => {
            for (at, from) in [(0, A), (0, B), (40, A), (40, B)] {
                let refused = refuse_for(Refusal::BelowOwn, 1, 9);
                machine.receive(ms(THEN + at), from, refused);
            }
        }
        What::Truncated => machine.truncated(now, GROUP, epoch(1), None),
    }
    closes(&drain(machine))
}

#[test]
fn the_whole_table_of_the_holder() {
    use Phase::{Held, Idle, Lapsed, Opening, Spent};
    use What::{
        Conditions, LeaseOver, Mine, Others, Overtaken, OvertakenByItself, OvertakenOnce, Release,
        Truncated,
    };
    let table = [
        (Idle, Mine, Opening, false),
        (Idle, Others, Idle, false),
        (Idle, Conditions, Idle, false),
        (Idle, LeaseOver, Idle, false),
        (Idle, Release, Idle, false),
        (Idle, Overtaken, Idle, false),
        (Idle, OvertakenByItself, Idle, false),
        (Idle, Truncated, Idle, false),
        (Opening, Mine, Opening, false),
        (Opening, Others, Idle, true),
        (Opening, Conditions, Held, false),
        (Opening, LeaseOver, Opening, false),
        (Opening, Release, Spent, true),
        (Opening, Overtaken, Spent, true),
        (Opening, OvertakenByItself, Opening, false),
        (Opening, Truncated, Idle, false),
        (Held, Mine, Held, false),
        (Held, Others, Idle, true),
        (Held, Conditions, Held, false),
        (Held, LeaseOver, Lapsed, true),
        (Held, Release, Spent, true),
        (Held, OvertakenOnce, Held, false),
        (Held, Overtaken, Spent, true),
        (Held, OvertakenByItself, Held, false),
        (Held, Truncated, Held, false),
        (Lapsed, Mine, Lapsed, false),
        (Lapsed, Others, Idle, true),
        (Lapsed, Conditions, Held, false),
        (Lapsed, LeaseOver, Lapsed, false),
        (Lapsed, Release, Spent, true),
        (Lapsed, Overtaken, Spent, true),
        (Lapsed, OvertakenByItself, Lapsed, false),
        (Lapsed, Truncated, Lapsed, false),
        (Spent, Mine, Opening, false),
        (Spent, Others, Idle, false),
        (Spent, Conditions, Spent, false),
        (Spent, LeaseOver, Spent, false),
        (Spent, Release, Spent, false),
        (Spent, Overtaken, Spent, false),
        (Spent, OvertakenByItself, Spent, false),
        (Spent, Truncated, Spent, false),
    ];
    for (from, what, then, close) in table {
        let mut machine = in_phase(from);
        let closed = happen(&mut machine, what);
        assert_eq!(
            (phase(&machine), closed),
            (then, close),
            "{from:?}, {what:?}"
        );
    }
}

// ---- leases ---------------------------------------------------------------------

#[test]
fn a_lease_is_counted_from_the_sending_and_gives_up_a_fifth() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(ME, 1));
    machine.committed(ms(0), GROUP, epoch(1));
    let renew = last_renew(&drain(&mut machine), 1);
    machine.receive(ms(30), A, promise(&renew, Duration::ZERO));
    assert_eq!(extended(&drain(&mut machine)), Some(ms(80)));
}

#[test]
fn an_answer_proves_nothing_unless_this_process_asked_and_a_voter_answers() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(ME, 1));
    machine.committed(ms(0), GROUP, epoch(1));
    let renew = last_renew(&drain(&mut machine), 1);
    machine.receive(ms(1), NodeId(99), promise(&renew, Duration::ZERO));
    machine.receive(
        ms(1),
        A,
        promise(
            &Renew {
                seq: renew.seq + 1,
                ..renew
            },
            Duration::ZERO,
        ),
    );
    assert_eq!(extended(&drain(&mut machine)), None);
}

#[test]
fn opening_waits_for_lower_promises_and_the_margin() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 1));
    let old = Renew {
        group: GROUP,
        epoch: epoch(1),
        incarnation: life(A),
        length: L,
        seq: 1,
        membership: 5,
        proven: 0,
        void: 0,
    };
    machine.receive(ms(0), A, Message::Renew(old));
    machine.floor_raised(ms(10), &to(ME, 2));
    machine.committed(ms(10), GROUP, epoch(2));
    let renew = last_renew(&drain(&mut machine), 2);
    machine.receive(ms(11), B, promise(&renew, Duration::from_millis(90)));
    // B's word: 90 ms from 11 ms on, and 20 ms of margin; this node's own promise to A
    // runs out earlier, on the same clock.
    for at in 12..121 {
        machine.tick(ms(at));
        let outputs = drain(&mut machine);
        assert_eq!(extended(&outputs), None, "at {at} ms");
        if let Some((_, Message::Renew(renew))) = messages(&outputs).last() {
            machine.receive(ms(at), B, promised_only(renew));
            assert_eq!(extended(&drain(&mut machine)), None, "at {at} ms");
        }
    }
    let mut early = machine.clone();
    machine.tick(ms(121));
    assert_eq!(
        phase(&machine),
        Phase::Held,
        "at once when the last condition is true"
    );
    assert!(extended(&drain(&mut machine)).is_some());
    // A word that nothing runs any more is better than a margin.
    early.receive(ms(120), B, promise(&renew, Duration::ZERO));
    assert_eq!(phase(&early), Phase::Held);
}

#[test]
fn without_a_commit_nothing_opens() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(ME, 2));
    let renew = last_renew(&drain(&mut machine), 2);
    machine.receive(ms(1), A, promise(&renew, Duration::ZERO));
    machine.committed(ms(1), GROUP, epoch(1));
    assert_eq!(phase(&machine), Phase::Opening);
    machine.committed(ms(2), GROUP, epoch(2));
    assert_eq!(phase(&machine), Phase::Held);
}

#[test]
fn the_same_life_assigned_again_does_not_blink() {
    let mut machine = fresh();
    let until = hold(&mut machine, ms(0), 1);
    machine.floor_raised(ms(10), &to(ME, 2));
    let outputs = drain(&mut machine);
    assert!(!closes(&outputs));
    let renew = last_renew(&outputs, 2);
    machine.receive(ms(11), A, promise(&renew, Duration::ZERO));
    assert_eq!(
        machine.status(GROUP).held,
        Some(epoch(1)),
        "not committed yet"
    );
    machine.committed(ms(12), GROUP, epoch(2));
    assert_eq!(machine.status(GROUP).held, Some(epoch(2)));
    assert!(extended(&drain(&mut machine)).expect("seamless") > until);
}

#[test]
fn a_lapse_is_told_then_abandoned_then_resumed() {
    let mut machine = fresh();
    let until = hold(&mut machine, ms(0), 1);
    machine.tick(until);
    assert!(drain(&mut machine).contains(&Output::Event(Event::Lapsed {
        group: GROUP,
        epoch: epoch(1),
        at: until
    })));
    machine.tick(until + L * PATIENCE_LEASES);
    let outputs = drain(&mut machine);
    assert!(outputs.contains(&Output::Event(Event::Abandoned {
        group: GROUP,
        epoch: epoch(1)
    })));
    let renew = last_renew(&outputs, 1);
    machine.receive(
        until + L * PATIENCE_LEASES,
        A,
        promise(&renew, Duration::ZERO),
    );
    let outputs = drain(&mut machine);
    assert!(
        outputs
            .iter()
            .any(|o| matches!(o, Output::Event(Event::Resumed { .. })))
    );
}

// ---- declaring void -------------------------------------------------------------

/// Position of the first output of which this is true.
fn place(outputs: &[Output], is: impl Fn(&Output) -> bool) -> usize {
    outputs.iter().position(is).expect("an output")
}

/// Held at `ms(0)`, asked again at `ms(25)` and 20 ms later each time without an answer,
/// lapsed at the end of the lease; all Renews but the first, and what was done then.
fn lapse() -> (Machine, Vec<Renew>, Vec<Output>) {
    let mut machine = fresh();
    assert_eq!(hold(&mut machine, ms(0), 1), ms(80));
    let mut renews = Vec::new();
    for at in [25, 45, 65] {
        machine.tick(ms(at));
        renews.push(last_renew(&drain(&mut machine), 1));
    }
    machine.tick(ms(80));
    let outputs = drain(&mut machine);
    renews.push(last_renew(&outputs, 1));
    (machine, renews, outputs)
}

#[test]
fn a_lapsed_holder_shuts_then_asks_at_once_and_what_it_asked_before_is_void() {
    let (mut machine, renews, outputs) = lapse();
    let close = place(&outputs, |o| matches!(o, Output::Close { .. }));
    let asks = place(&outputs, |o| matches!(o, Output::Transmit { .. }));
    assert!(close < asks);
    let (last, before) = renews.split_last().expect("renews");
    assert!(before.iter().all(|renew| renew.void == 0));
    assert_eq!(last.void, last.seq);
    // Answers that would have opened it until 145 ms, the newest first.
    for renew in before.iter().rev() {
        machine.receive(ms(81), A, promise(renew, Duration::ZERO));
        machine.receive(ms(81), B, promise(renew, Duration::ZERO));
    }
    assert_eq!(extended(&drain(&mut machine)), None);
    machine.receive(ms(82), A, promise(last, Duration::ZERO));
    let outputs = drain(&mut machine);
    assert_eq!(extended(&outputs), Some(ms(160)));
    assert!(
        outputs
            .iter()
            .any(|o| matches!(o, Output::Event(Event::Resumed { .. })))
    );
    machine.tick(ms(100));
    assert_eq!(last_renew(&drain(&mut machine), 1).void, 0, "held again");
}

/// A vote that came for an ask before it became void is none, whoever answers later.
#[test]
fn a_vote_for_a_void_ask_is_forgotten() {
    let voters = vec![ME, A, B, NodeId(4), NodeId(5)];
    let five = Settings {
        voters,
        ..settings()
    };
    let life = Life {
        incarnation: life(ME),
        seq_base: 0,
    };
    let mut machine = Machine::new(ms(0), five, life, Start::Fresh);
    machine.floor_raised(ms(0), &to(ME, 1));
    machine.committed(ms(0), GROUP, epoch(1));
    let renew = last_renew(&drain(&mut machine), 1);
    machine.receive(ms(0), A, promise(&renew, Duration::ZERO));
    machine.receive(ms(0), B, promise(&renew, Duration::ZERO));
    assert_eq!(extended(&drain(&mut machine)), Some(ms(80)));
    machine.tick(ms(70));
    let early = last_renew(&drain(&mut machine), 1);
    machine.receive(ms(71), A, promise(&early, Duration::ZERO));
    machine.tick(ms(80));
    let anew = last_renew(&drain(&mut machine), 1);
    machine.receive(ms(81), B, promise(&anew, Duration::ZERO));
    assert_eq!(extended(&drain(&mut machine)), None, "A's promise is void");
    machine.receive(ms(82), A, promise(&anew, Duration::ZERO));
    assert_eq!(extended(&drain(&mut machine)), Some(ms(160)));
}

#[test]
fn asks_of_the_later_half_of_a_lapse_count() {
    let (mut machine, renews, _) = lapse();
    let mut asked = vec![(80, *renews.last().expect("one at the lapse"))];
    for at in [100, 120, 140, 160, 180] {
        machine.tick(ms(at));
        asked.push((at, last_renew(&drain(&mut machine), 1)));
    }
    let counted = |(_, renew): &(u64, Renew)| {
        let mut then = machine.clone();
        then.receive(ms(181), A, promise(renew, Duration::ZERO));
        extended(&drain(&mut then)).is_some()
    };
    let counts: Vec<u64> = asked
        .iter()
        .filter(|ask| counted(ask))
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(counts, [140, 160, 180]);
    let void: Vec<u64> = asked
        .iter()
        .map(|(_, renew)| {
            let below = asked.iter().find(|(_, other)| other.seq >= renew.void);
            below.expect("the newest is never void").0
        })
        .collect();
    assert_eq!(void, [80, 100, 100, 120, 120, 140]);
}

#[test]
fn the_own_promise_is_void_only_after_the_guard_has_shut() {
    let mut machine = fresh();
    hold(&mut machine, ms(0), 1);
    machine.tick(ms(25));
    drain(&mut machine);
    let number = |machine: &Machine| {
        let record = machine.record(GROUP).expect("a record");
        record.promises[0].expect("a promise").seq
    };
    let before = number(&machine);
    machine.tick(ms(80));
    // What was due besides the lapse is said before it.
    let due = number(&machine);
    assert!(due >= before);
    while !matches!(machine.poll(), Some(Output::Close { .. })) {
        assert_eq!(number(&machine), due);
    }
    assert_eq!(number(&machine), due);
    let anew = last_renew(&drain(&mut machine), 1);
    assert_eq!(number(&machine), anew.seq);
    assert!(anew.seq > due);
}

#[test]
fn a_worker_restarted_after_a_lapse_counts_nothing_older() {
    let (machine, renews, _) = lapse();
    let mut next = start(ms(85), Start::Mirrored(machine.mirror()));
    let outputs = drain(&mut next);
    assert!(closes(&outputs), "its lease is over: it shuts again");
    for renew in &renews {
        next.receive(ms(86), A, promise(renew, Duration::ZERO));
        next.receive(ms(86), B, promise(renew, Duration::ZERO));
    }
    assert_eq!(extended(&drain(&mut next)), None);
    next.receive(ms(87), A, promise(&last_renew(&outputs, 1), Duration::ZERO));
    assert_eq!(extended(&drain(&mut next)), Some(ms(165)));
}

// ---- giving back ----------------------------------------------------------------

#[test]
fn a_release_closes_before_it_speaks_and_the_epoch_is_spent() {
    let mut machine = fresh();
    hold(&mut machine, ms(0), 1);
    machine.tick(ms(25));
    let renew = last_renew(&drain(&mut machine), 1);
    machine.release(ms(26), GROUP);
    let outputs = drain(&mut machine);
    let closed = outputs
        .iter()
        .position(|o| matches!(o, Output::Close { .. }));
    let spoke = outputs
        .iter()
        .position(|o| matches!(o, Output::Transmit { .. }));
    assert!(closed.expect("closes") < spoke.expect("speaks"));
    machine.receive(ms(27), A, promise(&renew, Duration::ZERO));
    machine.floor_raised(ms(28), &to(ME, 1));
    machine.committed(ms(28), GROUP, epoch(1));
    machine.tick(ms(60));
    assert_eq!(extended(&drain(&mut machine)), None);
    assert_eq!(phase(&machine), Phase::Spent);
}

/// Found by the random search: a worker that died between freeing its own promise and
/// closing let its next process help another node while the guard was open.
#[test]
fn the_own_promise_is_free_only_after_the_guard_has_shut() {
    let mut machine = fresh();
    hold(&mut machine, ms(0), 1);
    machine.floor_raised(ms(5), &to(A, 2));
    let promised = |machine: &Machine| {
        machine
            .record(GROUP)
            .expect("a record")
            .promises
            .iter()
            .flatten()
            .count()
    };
    loop {
        assert_eq!(promised(&machine), 1);
        match machine.poll().expect("a Close") {
            Output::Close { .. } => break,
            Output::Transmit { .. } => panic!("spoke before it closed"),
            Output::Mirror(_) | Output::Extend(_) | Output::Event(_) => {}
        }
    }
    assert_eq!(promised(&machine), 1);
    let outputs = drain(&mut machine);
    assert_eq!(promised(&machine), 0);
    let standing = messages(&outputs)
        .into_iter()
        .find_map(|(to, message)| match message {
            Message::Standing(standing) => Some((to, standing.lower)),
            _ => None,
        });
    assert_eq!(standing, Some((A, Duration::ZERO)));
}

#[test]
fn replaced_voters_end_everything_held() {
    let mut machine = fresh();
    hold(&mut machine, ms(0), 1);
    machine.set_voters(ms(1), vec![ME], 6);
    assert!(closes(&drain(&mut machine)));
    assert_eq!(phase(&machine), Phase::Spent);
    machine.floor_raised(ms(2), &to(ME, 2));
    machine.committed(ms(2), GROUP, epoch(2));
    assert_eq!(
        phase(&machine),
        Phase::Held,
        "alone, its own vote is the majority"
    );
}

// ---- the voter ------------------------------------------------------------------

fn ask(from: NodeId, index: u64) -> Renew {
    Renew {
        group: GROUP,
        epoch: epoch(index),
        incarnation: life(from),
        length: L,
        seq: 1,
        membership: 5,
        proven: 0,
        void: 0,
    }
}

fn answer_to(machine: &mut Machine, at: Moment, from: NodeId, renew: Renew) -> Option<Answer> {
    machine.receive(at, from, Message::Renew(renew));
    messages(&drain(machine))
        .into_iter()
        .find_map(|(_, message)| match message {
            Message::Answer(answer) => Some(answer),
            _ => None,
        })
}

fn verdict(machine: &mut Machine, from: NodeId, renew: Renew) -> Verdict {
    answer_to(machine, ms(50), from, renew)
        .expect("an answer")
        .verdict
}

#[test]
fn each_refusal_has_its_reason() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    let refused = Verdict::Refused;
    let check = |machine: &mut Machine, from, renew, expected| {
        assert_eq!(verdict(machine, from, renew), expected, "{renew:?}");
    };
    check(&mut machine, A, ask(A, 5), Verdict::Promised);
    check(&mut machine, A, ask(A, 4), refused(Refusal::BelowOwn));
    check(&mut machine, B, ask(B, 4), refused(Refusal::BelowFloor));
    check(&mut machine, B, ask(B, 5), refused(Refusal::OtherHolder));
    let next = Incarnation {
        counter: 2,
        nonce: 1,
    };
    check(
        &mut machine,
        A,
        Renew {
            incarnation: next,
            ..ask(A, 5)
        },
        refused(Refusal::OtherHolder),
    );
    check(
        &mut machine,
        A,
        Renew {
            membership: 6,
            ..ask(A, 5)
        },
        refused(Refusal::OtherMembership),
    );
    check(
        &mut machine,
        A,
        Renew {
            length: L * 2,
            ..ask(A, 5)
        },
        refused(Refusal::TooLong),
    );
    check(
        &mut machine,
        A,
        Renew {
            length: Duration::ZERO,
            ..ask(A, 5)
        },
        refused(Refusal::TooLong),
    );
    // Above the floor the first to renew binds the epoch.
    check(&mut machine, B, ask(B, 6), Verdict::Promised);
    check(&mut machine, A, ask(A, 6), refused(Refusal::OtherHolder));
    check(&mut machine, A, ask(A, 7), Verdict::Promised);
    check(&mut machine, A, ask(A, 8), Verdict::Promised);
    check(&mut machine, A, ask(A, 9), refused(Refusal::Full));
    machine.set_excluded(A, true);
    check(&mut machine, A, ask(A, 5), refused(Refusal::Excluded));
    machine.set_excluded(A, false);
    let released = Released {
        group: GROUP,
        epoch: epoch(5),
        incarnation: life(A),
    };
    machine.receive(ms(51), A, Message::Released(released));
    check(&mut machine, A, ask(A, 5), refused(Refusal::Released));
}

#[test]
fn only_ones_own_promises_can_be_given_back() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    assert_eq!(verdict(&mut machine, A, ask(A, 5)), Verdict::Promised);
    for (from, incarnation) in [(B, life(B)), (B, life(A)), (A, life(B))] {
        let released = Released {
            group: GROUP,
            epoch: epoch(5),
            incarnation,
        };
        machine.receive(ms(51), from, Message::Released(released));
    }
    machine.floor_raised(ms(60), &to(B, 6));
    let lower = answer_to(&mut machine, ms(60), B, ask(B, 6)).and_then(|answer| answer.lower);
    assert_eq!(lower, Some(Duration::from_millis(90)));
}

/// How long the voter's promises below epoch 9, B's, still run.
fn lower(machine: &Machine, at: Moment) -> Duration {
    let mut then = machine.clone();
    then.floor_raised(at, &to(B, 9));
    drain(&mut then);
    let answer = answer_to(&mut then, at, B, ask(B, 9));
    answer.and_then(|answer| answer.lower).expect("a word")
}

fn numbered(seq: u64, void: u64) -> Renew {
    Renew {
        seq,
        void,
        ..ask(A, 5)
    }
}

#[test]
fn only_promises_for_older_asks_of_the_same_life_are_void() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    machine.receive(ms(0), A, Message::Renew(numbered(10, 0)));
    let all = Duration::from_millis(90);
    assert_eq!(lower(&machine, ms(10)), all);
    let strangers = [
        (B, numbered(20, 20)),
        (
            A,
            Renew {
                incarnation: life(B),
                ..numbered(20, 20)
            },
        ),
        (
            B,
            Renew {
                incarnation: life(B),
                ..numbered(20, 20)
            },
        ),
        (
            A,
            Renew {
                epoch: epoch(4),
                ..numbered(20, 20)
            },
        ),
        // Made for this very ask, or for a newer one.
        (
            A,
            Renew {
                membership: 6,
                ..numbered(20, 10)
            },
        ),
        (
            A,
            Renew {
                membership: 6,
                ..numbered(20, 3)
            },
        ),
    ];
    for (from, renew) in strangers {
        machine.receive(ms(10), from, Message::Renew(renew));
        assert_eq!(lower(&machine, ms(10)), all, "{from:?} {renew:?}");
    }
    // Whatever becomes of the Renew itself.
    let refused = Renew {
        membership: 6,
        ..numbered(20, 11)
    };
    machine.receive(ms(10), A, Message::Renew(refused));
    assert_eq!(lower(&machine, ms(10)), Duration::ZERO);
}

#[test]
fn a_late_renew_does_not_make_a_promise_older() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    machine.receive(ms(0), A, Message::Renew(numbered(10, 0)));
    machine.receive(ms(5), A, Message::Renew(numbered(7, 0)));
    machine.receive(ms(5), A, Message::Renew(numbered(8, 8)));
    assert_eq!(lower(&machine, ms(5)), L);
}

#[test]
fn a_void_promise_is_told_at_once_to_the_next_holder() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    machine.receive(ms(0), A, Message::Renew(numbered(10, 0)));
    machine.floor_raised(ms(10), &to(B, 6));
    drain(&mut machine);
    machine.receive(ms(20), A, Message::Renew(numbered(20, 20)));
    let outputs = drain(&mut machine);
    let mirror = place(&outputs, |o| matches!(o, Output::Mirror(_)));
    let spoke = place(&outputs, |o| matches!(o, Output::Transmit { .. }));
    assert!(mirror < spoke, "remembered before it is relied on");
    let said = messages(&outputs);
    let [
        (B, Message::Standing(standing)),
        (A, Message::Answer(answer)),
    ] = said[..]
    else {
        panic!("{said:?}")
    };
    assert_eq!((standing.epoch, standing.lower), (epoch(6), Duration::ZERO));
    assert_eq!(answer.verdict, Verdict::Refused(Refusal::BelowFloor));
}

#[test]
fn the_floor_never_sinks() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    machine.truncated(ms(1), GROUP, epoch(5), Some(&to(B, 4)));
    machine.floor_raised(ms(1), &to(B, 4));
    assert_eq!(machine.status(GROUP).floor, Some(to(A, 5)));
    assert_eq!(
        verdict(&mut machine, B, ask(B, 4)),
        Verdict::Refused(Refusal::BelowFloor)
    );
}

#[test]
#[should_panic(expected = "one epoch, two assignments")]
fn one_epoch_with_two_holders_stops_everything() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    machine.floor_raised(ms(0), &to(B, 5));
}

#[test]
fn a_voter_without_memory_is_silent_for_the_longest_lease() {
    let mut machine = start(ms(0), Start::Amnesiac { quiet_for: L });
    machine.floor_raised(ms(0), &to(A, 5));
    assert_eq!(messages(&drain(&mut machine)), []);
    assert_eq!(answer_to(&mut machine, ms(99), A, ask(A, 5)), None);
    assert_eq!(machine.next_deadline(), Some(ms(100)));
    machine.tick(ms(100));
    let spoke = messages(&drain(&mut machine));
    assert!(
        matches!(spoke[..], [(A, Message::Standing(_))]),
        "it says at once how it stands"
    );
    assert!(answer_to(&mut machine, ms(100), A, ask(A, 5)).is_some());
    // A crash during the silence does not end it.
    let silent = start(ms(0), Start::Amnesiac { quiet_for: L });
    let mut next = start(ms(10), Start::Mirrored(silent.mirror()));
    assert_eq!(answer_to(&mut next, ms(50), A, ask(A, 5)), None);
}

#[test]
fn a_voter_without_floors_is_silent_until_it_knows_them_again() {
    const FOR_EVER: Duration = Duration::MAX;
    let lost = || {
        let mut machine = start(
            ms(0),
            Start::Amnesiac {
                quiet_for: FOR_EVER,
            },
        );
        machine.floor_raised(ms(0), &to(A, 5));
        assert_eq!(answer_to(&mut machine, ms(1000), A, ask(A, 5)), None);
        assert_eq!(messages(&drain(&mut machine)), []);
        machine
    };
    // Later than what it may have promised: at once.
    let mut machine = lost();
    machine.recall(ms(1000), ms(100));
    let spoke = messages(&drain(&mut machine));
    assert!(matches!(spoke[..], [(A, Message::Standing(_))]));
    assert!(answer_to(&mut machine, ms(1000), A, ask(A, 5)).is_some());
    // Earlier: like any voter without memory.
    let mut machine = lost();
    machine.recall(ms(1000), ms(1100));
    assert_eq!(messages(&drain(&mut machine)), []);
    assert_eq!(answer_to(&mut machine, ms(1099), A, ask(A, 5)), None);
    // Said again, it neither shortens nor lengthens the silence.
    machine.recall(ms(1099), ms(2000));
    machine.tick(ms(1100));
    let spoke = messages(&drain(&mut machine));
    assert!(matches!(spoke[..], [(A, Message::Standing(_))]));
    // A crash does not end it, and the next process can.
    let mut next = start(ms(1000), Start::Mirrored(lost().mirror()));
    assert_eq!(answer_to(&mut next, ms(5000), A, ask(A, 5)), None);
    next.recall(ms(5000), ms(5000));
    assert!(answer_to(&mut next, ms(5000), A, ask(A, 5)).is_some());
}

#[test]
fn a_restarted_worker_goes_on_and_a_new_life_gives_back() {
    let mut machine = fresh();
    let until = hold(&mut machine, ms(0), 1);
    let mirror = machine.mirror();
    let mut next = start(ms(5), Start::Mirrored(mirror.clone()));
    let outputs = drain(&mut next);
    assert!(!closes(&outputs));
    assert_eq!(
        (phase(&next), next.status(GROUP).until),
        (Phase::Held, until)
    );
    let renew = last_renew(&outputs, 1);
    next.receive(ms(6), A, promise(&renew, Duration::ZERO));
    assert!(extended(&drain(&mut next)).expect("extends") > until);

    let incarnation = Incarnation {
        counter: 2,
        nonce: 9,
    };
    let life = Life {
        incarnation,
        seq_base: 0,
    };
    let mut other = Machine::new(ms(5), settings(), life, Start::Mirrored(mirror));
    let outputs = drain(&mut other);
    assert!(closes(&outputs));
    assert_eq!(phase(&other), Phase::Idle);
    let released = messages(&outputs);
    assert!(
        released
            .iter()
            .all(|(_, m)| matches!(m, Message::Released(r) if r.epoch == epoch(1)))
    );
    assert_eq!(released.len(), 2);
}

#[test]
fn a_guard_left_open_by_a_dead_worker_is_shut() {
    let mut machine = fresh();
    hold(&mut machine, ms(0), 1);
    machine.release(ms(5), GROUP);
    let died_before_the_close = machine.mirror();
    let mut next = start(ms(6), Start::Mirrored(died_before_the_close));
    assert!(closes(&drain(&mut next)));
    assert_eq!(phase(&next), Phase::Spent);
}

#[test]
fn suspicion_has_what_it_needs() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    machine.receive(
        ms(10),
        A,
        Message::Renew(Renew {
            proven: 1,
            ..ask(A, 5)
        }),
    );
    machine.receive(
        ms(30),
        A,
        Message::Renew(Renew {
            proven: 1,
            ..ask(A, 5)
        }),
    );
    let (group, seen) = machine.observations(ms(40)).next().expect("one group");
    assert_eq!(group, GROUP);
    let (renewed, advanced) = (Duration::from_millis(10), Some(Duration::from_millis(30)));
    assert_eq!(
        seen,
        Observation {
            epoch: epoch(5),
            renewed,
            advanced
        }
    );
}

/// Somebody showed a newer epoch as opened and was not heard again, while the holder that this voter
/// knows goes on: it must still be missed when it dies.
#[test]
fn an_epoch_that_nobody_renews_does_not_hide_the_holder() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    machine.receive(ms(10), A, Message::Renew(ask(A, 5)));
    let opened = Renew {
        proven: 1,
        ..ask(B, 6)
    };
    machine.receive(ms(12), B, Message::Renew(opened));
    let seen = |machine: &Machine, at| {
        let (_, seen) = machine.observations(ms(at)).next().expect("one group");
        (seen.epoch, seen.renewed)
    };
    let (length, since) = (ask(A, 5).length, |at: u64| Duration::from_millis(at));
    let over = 12 + u64::try_from(length.as_millis()).expect("short");
    machine.receive(ms(over - 1), A, Message::Renew(ask(A, 5)));
    assert_eq!(
        seen(&machine, over - 1),
        (epoch(6), length - since(1)),
        "it may come yet"
    );
    machine.receive(ms(over), A, Message::Renew(ask(A, 5)));
    assert_eq!(seen(&machine, over + 30), (epoch(5), since(30)));
}

/// It has no deadline yet that could advance. (Taken for deaf, it lost the group again
/// while it waited for the promises to the holder before it.)
#[test]
fn a_holder_that_waits_to_open_is_not_deaf() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    let seen = |machine: &Machine, at| {
        let (_, seen) = machine.observations(ms(at)).next().expect("one group");
        seen.advanced
    };
    for at in (0..200).step_by(20) {
        machine.receive(ms(at), A, Message::Renew(ask(A, 5)));
        assert_eq!(seen(&machine, at), None, "at {at} ms");
    }
    let long = Duration::from_millis(200);
    assert_eq!(seen(&machine, 200), Some(long), "it never opens");
    let opened = Renew {
        proven: 1,
        ..ask(A, 5)
    };
    machine.receive(ms(210), A, Message::Renew(opened));
    assert_eq!(seen(&machine, 215), Some(Duration::from_millis(5)));
}

/// It could not open before, however long that took. (Without a majority for two seconds a leader
/// took the group from the node to which it had just gone, as deaf: case
/// `2/balanced/4/cut-to/601190` of the lab's matrix.)
#[test]
fn a_holder_whose_assignment_took_long_to_be_agreed_on_is_not_deaf() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    let seen = |machine: &Machine, at| {
        let (_, seen) = machine.observations(ms(at)).next().expect("one group");
        seen.advanced
    };
    machine.receive(ms(2000), A, Message::Renew(ask(A, 5)));
    machine.committed(ms(2000), GROUP, epoch(5));
    assert_eq!(seen(&machine, 2000), None);
    assert_eq!(seen(&machine, 2199), None);
    // From then on it has as long as any other, however often it is told.
    machine.committed(ms(2150), GROUP, epoch(5));
    let long = Duration::from_millis(200);
    assert_eq!(seen(&machine, 2200), Some(long), "it never opens");
}

/// For as long as nobody heard it, nothing could be known of what it hears. (A voter had an assignment
/// for 18 s before its holder could be reached, and took the first word of it for that of one who has
/// been deaf for 18 s: seed 22 of the whole simulated world.)
#[test]
fn a_holder_that_is_heard_again_is_not_deaf_for_the_time_before() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    machine.committed(ms(0), GROUP, epoch(5));
    let seen = |machine: &Machine, at| {
        let (_, seen) = machine.observations(ms(at)).next().expect("one group");
        seen.advanced
    };
    let proven = |proven| {
        Message::Renew(Renew {
            proven,
            ..ask(A, 5)
        })
    };
    machine.receive(ms(2000), A, proven(0));
    assert_eq!(seen(&machine, 2000), None, "it may be about to open");
    machine.receive(ms(2010), A, proven(1));
    machine.receive(ms(4000), A, proven(1));
    assert_eq!(seen(&machine, 4000), Some(Duration::ZERO));
    // Heard all the time, it gets no second chance.
    for at in [4050, 4100, 4150] {
        machine.receive(ms(at), A, proven(1));
    }
    assert_eq!(seen(&machine, 4150), Some(Duration::from_millis(150)));
}

/// It may have been told of an assignment that was never agreed on, and wait for it for ever. (Found by
/// a review: the holder's renewals were not looked at any more, so that its reports alone kept it from
/// being taken for silent.)
#[test]
fn who_waits_for_an_epoch_in_vain_does_not_hide_the_holder() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(A, 5));
    machine.committed(ms(0), GROUP, epoch(5));
    let seen = |machine: &Machine, at| {
        let (_, seen) = machine.observations(ms(at)).next().expect("one group");
        (seen.epoch, seen.renewed)
    };
    let renew = |from, number, proven| {
        Message::Renew(Renew {
            proven,
            ..ask(from, number)
        })
    };
    for at in [10, 60, 110] {
        machine.receive(ms(at), A, renew(A, 5, at));
        machine.receive(ms(at + 5), B, renew(B, 6, 0));
    }
    assert_eq!(seen(&machine, 115), (epoch(5), Duration::from_millis(5)));
    machine.receive(ms(120), B, renew(B, 6, 1));
    assert_eq!(
        seen(&machine, 120),
        (epoch(6), Duration::ZERO),
        "opened: this voter is behind"
    );
}

/// What it was refused for first was cut off, or is older than what is on its way here.
#[test]
fn a_newer_epoch_of_its_own_takes_an_older_one_of_somebody_else_back() {
    let mut machine = fresh();
    hold(&mut machine, ms(0), 1);
    for (at, refusal, floor) in [
        (1, Refusal::BelowFloor, 7),
        (2, Refusal::BelowOwn, 9),
        (60, Refusal::BelowOwn, 9),
    ] {
        machine.receive(ms(at), A, refuse_for(refusal, 1, floor));
        machine.receive(ms(at), B, refuse_for(refusal, 1, floor));
    }
    assert!(!closes(&drain(&mut machine)), "it is waited for");
    machine.receive(ms(70), A, refuse_for(Refusal::BelowFloor, 1, 11));
    machine.receive(ms(70), B, refuse_for(Refusal::BelowFloor, 1, 11));
    assert!(closes(&drain(&mut machine)), "that is of somebody else");
}

#[test]
fn what_was_proven_for_an_earlier_epoch_is_not_shown_for_the_next() {
    let mut machine = fresh();
    let until = hold(&mut machine, ms(0), 1);
    machine.tick(ms(25));
    let renew = last_renew(&drain(&mut machine), 1);
    assert_eq!(renew.proven, until.as_nanos());
    machine.floor_raised(ms(30), &to(ME, 2));
    let renew = last_renew(&drain(&mut machine), 2);
    assert_eq!(renew.proven, 0, "epoch 2 waits to open");
}

#[test]
fn the_table_of_groups_is_bounded() {
    let mut machine = fresh();
    for n in 0..=GROUPS_MAX as u64 {
        machine.floor_raised(
            ms(0),
            &Assignment {
                group: GroupId(n),
                ..to(A, 1)
            },
        );
    }
    let full = Event::NoRoom {
        group: GroupId(GROUPS_MAX as u64),
    };
    assert!(drain(&mut machine).contains(&Output::Event(full)));
    let renew = Renew {
        group: GroupId(GROUPS_MAX as u64),
        ..ask(A, 1)
    };
    assert_eq!(
        verdict(&mut machine, A, renew),
        Verdict::Refused(Refusal::Full)
    );
}

#[test]
fn nonsense_about_unknown_groups_takes_no_room() {
    let mut machine = fresh();
    let nonsense = |n: u64| Renew {
        group: GroupId(n),
        ..ask(A, 1)
    };
    for n in 0..2 * GROUPS_MAX as u64 {
        let refused = verdict(
            &mut machine,
            A,
            Renew {
                membership: 0,
                ..nonsense(n)
            },
        );
        assert_eq!(refused, Verdict::Refused(Refusal::OtherMembership));
    }
    // Promises do, until they have run out.
    let promised = (0..2 * GROUPS_MAX as u64)
        .filter(|n| verdict(&mut machine, A, nonsense(*n)) == Verdict::Promised)
        .count();
    assert_eq!(promised, GROUPS_MAX);
    machine.tick(ms(50) + L);
    assert!(machine.mirror().records.is_empty());
}

#[test]
fn the_pace_is_quick_while_opening_and_even_while_holding() {
    let mut machine = fresh();
    machine.floor_raised(ms(0), &to(ME, 1));
    assert_eq!(machine.next_deadline(), Some(ms(5)));
    hold(&mut machine, ms(5), 1);
    machine.tick(ms(10));
    drain(&mut machine);
    assert_eq!(machine.next_deadline(), Some(ms(30)));
}

fn preparing() -> Machine {
    let settings = Settings {
        prepared: BTreeSet::from([GROUP]),
        ..settings()
    };
    let life = Life {
        incarnation: life(ME),
        seq_base: 0,
    };
    Machine::new(ms(0), settings, life, Start::Fresh)
}

/// A group whose services are not started yet does not open, shows its voters that
/// nothing else is missing, and opens at once when they are.
#[test]
fn a_group_waits_for_its_services() {
    let mut machine = preparing();
    machine.floor_raised(ms(0), &to(ME, 1));
    machine.committed(ms(0), GROUP, epoch(1));
    let renew = last_renew(&drain(&mut machine), 1);
    assert_eq!(renew.proven, 0, "nobody has promised yet");
    machine.receive(ms(1), A, promise(&renew, Duration::ZERO));
    assert_eq!(extended(&drain(&mut machine)), None);
    machine.tick(ms(25));
    let renew = last_renew(&drain(&mut machine), 1);
    assert!(renew.proven > 0, "it hears a majority");
    machine.receive(ms(26), A, promise(&renew, Duration::ZERO));
    machine.ready(ms(27), GROUP, epoch(1));
    assert!(extended(&drain(&mut machine)).is_some());
    assert_eq!(phase(&machine), Phase::Held);
}

/// Being ready for one epoch says nothing of the next, and makes up for nothing else.
#[test]
fn readiness_is_for_one_epoch_and_opens_nothing_by_itself() {
    let mut machine = preparing();
    machine.floor_raised(ms(0), &to(ME, 1));
    machine.ready(ms(0), GROUP, epoch(1));
    let renew = last_renew(&drain(&mut machine), 1);
    machine.receive(ms(1), A, promise(&renew, Duration::ZERO));
    assert_eq!(extended(&drain(&mut machine)), None, "not committed");
    machine.committed(ms(2), GROUP, epoch(1));
    assert!(extended(&drain(&mut machine)).is_some());
    machine.floor_raised(ms(3), &to(ME, 2));
    machine.committed(ms(3), GROUP, epoch(2));
    let renew = last_renew(&drain(&mut machine), 2);
    machine.receive(ms(4), A, promise(&renew, Duration::ZERO));
    drain(&mut machine);
    assert_eq!(machine.status(GROUP).held, Some(epoch(1)), "until it is");
}

/// What ran with it was stopped meanwhile: an old promise that comes late opens nothing.
#[test]
fn an_abandoned_epoch_that_had_to_be_made_ready_is_given_back() {
    let mut machine = preparing();
    machine.floor_raised(ms(0), &to(ME, 1));
    machine.ready(ms(0), GROUP, epoch(1));
    let until = hold(&mut machine, ms(0), 1);
    let late = until + L * PATIENCE_LEASES;
    machine.tick(late);
    let renew = last_renew(&drain(&mut machine), 1);
    machine.abandon(late, GROUP, epoch(1));
    let outputs = drain(&mut machine);
    assert!(closes(&outputs));
    assert!(outputs.contains(&Output::Event(Event::Released {
        group: GROUP,
        epoch: epoch(1)
    })));
    machine.receive(late, A, promise(&renew, Duration::ZERO));
    assert_eq!(extended(&drain(&mut machine)), None);
    assert_eq!(phase(&machine), Phase::Spent);
    // The next one is opened when it is ready.
    machine.floor_raised(late, &to(ME, 2));
    machine.committed(late, GROUP, epoch(2));
    let renew = last_renew(&drain(&mut machine), 2);
    machine.receive(late, A, promise(&renew, Duration::ZERO));
    assert_eq!(extended(&drain(&mut machine)), None);
    machine.ready(late, GROUP, epoch(2));
    assert!(extended(&drain(&mut machine)).is_some());
}

#[test]
fn an_abandoned_epoch_with_nothing_to_make_ready_resumes() {
    let mut machine = fresh();
    let until = hold(&mut machine, ms(0), 1);
    let late = until + L * PATIENCE_LEASES;
    machine.tick(late);
    let renew = last_renew(&drain(&mut machine), 1);
    machine.abandon(late, GROUP, epoch(1));
    machine.receive(late, A, promise(&renew, Duration::ZERO));
    assert!(extended(&drain(&mut machine)).is_some());
}

/// The word about the older epoch was on its way when the newer one came.
#[test]
fn nothing_is_given_back_of_an_epoch_that_follows_an_abandoned_one() {
    let mut machine = preparing();
    machine.floor_raised(ms(0), &to(ME, 1));
    machine.ready(ms(0), GROUP, epoch(1));
    let until = hold(&mut machine, ms(0), 1);
    machine.tick(until);
    machine.floor_raised(until, &to(ME, 2));
    machine.committed(until, GROUP, epoch(2));
    let renew = last_renew(&drain(&mut machine), 2);
    machine.abandon(until, GROUP, epoch(1));
    machine.receive(until, A, promise(&renew, Duration::ZERO));
    machine.ready(until, GROUP, epoch(2));
    assert!(extended(&drain(&mut machine)).is_some());
    assert_eq!(machine.status(GROUP).held, Some(epoch(2)));
    machine.abandon(until, GROUP, epoch(1));
    assert_eq!(phase(&machine), Phase::Held);
}

/// With older promises still running a holder is not said to be waiting for its services.
#[test]
fn a_wait_for_older_promises_is_no_wait_for_services() {
    let mut machine = preparing();
    machine.floor_raised(ms(0), &to(ME, 1));
    machine.committed(ms(0), GROUP, epoch(1));
    let renew = last_renew(&drain(&mut machine), 1);
    machine.receive(ms(1), A, promise(&renew, L));
    machine.receive(ms(1), B, promise(&renew, L));
    machine.tick(ms(25));
    assert_eq!(last_renew(&drain(&mut machine), 1).proven, 0);
}
