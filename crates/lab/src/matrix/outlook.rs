//! Whom the troubles of a case befall, and what has to be seen while they last: an oracle of
//! the matrix's own, which knows votes and nothing of the daemon.

use std::collections::BTreeMap;

use super::design::{Case, Gap};
use super::trouble::{Takes, Trouble, Whom};
use crate::chance::Chance;
use crate::cluster::WITNESS;

/// Whom each trouble of a case befalls, in order.
pub(crate) type Struck = Vec<(Trouble, String)>;

/// Chooses whom: the first trouble of a holder befalls `holder`; a second one it or `next`, as
/// drawn, and `next` if nothing is left of the holder that it could befall.
pub(crate) fn choose(case: &Case, holder: &str, next: &str) -> Struck {
    let mut chance = Chance(case.seed);
    let first = whom(case.first, holder, next);
    let mut struck = vec![(case.first, first)];
    if let Some(second) = case.second {
        let on_holder = second.whom() == Whom::Holder;
        let taken = case.first.whom() == Whom::Holder;
        let twice = case.first == second;
        // The old copy is of the holder's state; a link has two ends anyway; and only a holder
        // can be relieved.
        let tied = matches!(
            second,
            Trouble::OldState | Trouble::LinkIn | Trouble::LinkOut | Trouble::Switchover
        );
        let elsewhere = case.first.leaves_nobody()
            || second == Trouble::DiskFrozen
            || case.first == Trouble::DiskFrozen;
        let name = if on_holder && taken && !tied && (twice || elsewhere || chance.coin()) {
            next.to_owned()
        } else {
            whom(second, holder, next)
        };
        struck.push((second, name));
    }
    struck
}

fn whom(trouble: Trouble, holder: &str, next: &str) -> String {
    match trouble.whom() {
        Whom::Holder => holder,
        Whom::Next => next,
        Whom::Witness => WITNESS,
        // Nobody in particular.
        Whom::All => "",
    }
    .to_owned()
}

/// What has to be seen while the troubles last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// A majority and a fit server are left: clients are served again.
    Served,
    /// No majority is left: nobody answers once the last lease is over.
    Mute,
    /// Either may be right.
    Either,
}

/// What is left of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    takes: BTreeMap<String, Takes>,
    servers: Vec<String>,
    fog: bool,
    /// Whether two of them do not hear each other.
    link: bool,
}

impl Left {
    /// Of a cluster with these nodes, of which `servers` serve.
    pub(crate) fn of(case: &Case, names: &[String], servers: &[String], struck: &Struck) -> Self {
        let mut takes: BTreeMap<String, Takes> = names
            .iter()
            .map(|name| (name.clone(), Takes::Nothing))
            .collect();
        for (trouble, name) in struck {
            if let Some(known) = takes.get_mut(name) {
                *known = trouble.takes().max(*known);
            }
        }
        let link = |one: Trouble| matches!(one, Trouble::LinkIn | Trouble::LinkOut);
        let links = case.troubles().filter(|one| link(*one)).count();
        let cut_off = links > 0 && names.len() == 2;
        if cut_off && let Some((_, name)) = struck.iter().find(|(one, _)| link(*one)) {
            // Two that do not hear each other are each alone.
            takes.insert(name.clone(), Takes::All);
        }
        // One link that is cut moves nothing; with another trouble it may be the link that
        // mattered. What is restarted has forgotten what befell it.
        let fog = case.troubles().any(Trouble::is_foggy)
            || links > 0 && case.second.is_some()
            || case.second.is_some()
                && case.has(Trouble::DiskFrozen)
                && case.shape.gap == Gap::Within;
        Self {
            takes,
            servers: servers.to_vec(),
            fog,
            link: links > 0,
        }
    }

    fn count(&self, is: impl Fn(Takes) -> bool) -> usize {
        self.takes.values().filter(|takes| is(**takes)).count()
    }

    /// What has to be seen.
    pub(crate) fn outlook(&self, restarted: bool) -> Outlook {
        let majority = self.takes.len() / 2 + 1;
        let may_vote = self.count(|takes| takes != Takes::All);
        let do_vote = self.count(|takes| takes <= Takes::Service);
        let fit = |name: &String| self.takes.get(name) == Some(&Takes::Nothing);
        if restarted {
            Outlook::Either
        } else if may_vote < majority {
            Outlook::Mute
        } else if !self.fog && do_vote >= majority && self.servers.iter().any(fit) {
            Outlook::Served
        } else {
            Outlook::Either
        }
    }

    /// Whether there may have been no majority for a time: what the group does once there is
    /// one again is no false takeover. Of two that do not hear each other only one counts.
    pub(crate) fn majority_is_doubtful(&self) -> bool {
        let votes = self.count(|takes| takes <= Takes::Service);
        votes.saturating_sub(usize::from(self.link)) < self.takes.len() / 2 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(name: &str) -> (Outlook, Struck) {
        let case: Case = name.parse().expect("a case");
        let count = case.shape.nodes.servers();
        let servers: Vec<String> = crate::cluster::SERVERS[..count]
            .iter()
            .map(|name| (*name).to_owned())
            .collect();
        let mut names = servers.clone();
        names.extend(case.shape.nodes.witness().then(|| WITNESS.to_owned()));
        let struck = choose(&case, "ams1", "fra1");
        let left = Left::of(&case, &names, &servers, &struck);
        (left.outlook(case.has(Trouble::AllRestart)), struck)
    }

    #[test]
    fn two_alone_outlive_nothing_that_takes_a_vote() {
        assert_eq!(outlook("2/fast/4/power-cut/1").0, Outlook::Mute);
        assert_eq!(outlook("2/fast/4/standby-death/1").0, Outlook::Mute);
        assert_eq!(outlook("2/fast/4/link-out/1").0, Outlook::Mute);
        assert_eq!(outlook("2/fast/4/service-killed/1").0, Outlook::Served);
        assert_eq!(outlook("2/fast/4/worker-killed/1").0, Outlook::Served);
    }

    #[test]
    fn a_witness_pays_for_one_failure_and_four_servers_for_two() {
        assert_eq!(outlook("3/fast/4/cut-to/1").0, Outlook::Served);
        assert_eq!(outlook("3/fast/4/link-in/1").0, Outlook::Served);
        assert_eq!(
            outlook("3/fast/4/witness-death+power-cut/after/1").0,
            Outlook::Mute
        );
        assert_eq!(
            outlook("5/fast/4/witness-death+power-cut/after/1").0,
            Outlook::Served
        );
        assert_eq!(
            outlook("3/fast/4/power-cut+standby-death/within/1").0,
            Outlook::Mute
        );
        assert_eq!(
            outlook("5/fast/4/power-cut+standby-death/within/1").0,
            Outlook::Served
        );
        assert_eq!(outlook("3/fast/4/loss/1").0, Outlook::Either);
        assert_eq!(
            outlook("3/fast/4/service-killed+service-killed/after/1").0,
            Outlook::Either
        );
    }

    #[test]
    fn a_link_that_is_cut_takes_a_vote_where_another_is_missing() {
        let doubtful = |name: &str| {
            let case: Case = name.parse().expect("a case");
            let names = ["ams1", "fra1", WITNESS].map(str::to_owned);
            let struck = choose(&case, "ams1", "fra1");
            Left::of(&case, &names, &names[..2], &struck).majority_is_doubtful()
        };
        assert!(!doubtful("3/fast/4/link-in/1"));
        assert!(!doubtful("3/fast/4/witness-death/1"));
        assert!(doubtful("3/fast/4/link-in+witness-death/after/1"));
    }

    #[test]
    fn a_second_trouble_befalls_somebody_who_is_there() {
        for seed in 0..20 {
            let (_, struck) = outlook(&format!("5/fast/4/power-cut+worker-killed/within/{seed}"));
            assert_eq!(struck[1], (Trouble::WorkerKilled, "fra1".to_owned()));
            let (_, struck) = outlook(&format!("5/fast/4/standby-death+loss/after/{seed}"));
            assert_eq!(struck[1], (Trouble::Loss, "ams1".to_owned()));
            let (_, struck) = outlook(&format!("5/fast/4/disk-frozen+power-cut/after/{seed}"));
            assert_eq!(struck[1], (Trouble::PowerCut, "fra1".to_owned()));
        }
        let drawn = |seed: u64| {
            let name = format!("3/fast/4/cut-from+worker-killed/after/{seed}");
            outlook(&name).1[1].1.clone()
        };
        let both: std::collections::BTreeSet<String> = (0..20).map(drawn).collect();
        assert_eq!(both.len(), 2, "the same and the other one");
    }
}
