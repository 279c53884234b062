//! Which allocations are leaked: by a runtime's list of its attachments, or by what the kernel still has of them.
//!
//! How lists and looks are got, and removing what leaked, is not done here.

use std::time::Duration;

use model::BootTime;

use crate::mutant::{self, Mutant};

/// Whether an allocation that was last confirmed at `since` is leaked: the runtime does not list it, and it is older
/// than the call that brought the list. A pod that is being added while the list is made is in no list yet and is
/// alive all the same.
///
/// `called_at` is when the runtime began to make its list, or later by no more than the call took to arrive.
#[must_use]
pub fn is_leaked(since: BootTime, listed: bool, called_at: BootTime) -> bool {
    !listed && (since < called_at || mutant::on(Mutant::GcFreesUnlisted))
}

/// What one look shows of an attachment's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceSeen {
    /// It is there, or may be.
    MayBeThere,
    /// It is gone for good.
    Gone,
}

/// What one look of an agent shows of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its interface is in the kernel.
    pub interface: bool,
    /// Its network namespace.
    pub namespace: NamespaceSeen,
}

/// What is remembered of an attachment that was not there when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    /// When its addresses were last confirmed: another time is another attachment.
    pub since: BootTime,
    /// When it was first not there, and at every look since.
    pub from: BootTime,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakStep {
    /// It lives, or may live: forget that it was ever absent.
    Keep,
    /// It is not there: remember this.
    Watch(Absence),
    /// It has not been there for the whole grace: leaked. To be looked at once more under its turn.
    Leaked(Absence),
}

/// Decides by what the kernel has of an attachment whose addresses were last confirmed at `since`.
///
/// 1. While its interface or its namespace is there, or may be, it lives: a pod is not asked after at the API, for one
///    that is evicted, or whose status lags, still has its sandbox.
/// 2. What is not there is leaked once it was not there at two looks that are the grace apart, and is older than it.
#[must_use]
pub fn decide_leak(
    seen: Seen,
    since: BootTime,
    before: Option<Absence>,
    now: BootTime,
    grace: Duration,
) -> LeakStep {
    if seen.interface || seen.namespace == NamespaceSeen::MayBeThere {
        return LeakStep::Keep;
    }
    let from = before.filter(|absence| absence.since == since).map_or(now, |absence| absence.from);
    let absence = Absence { since, from };
    if from < now && from.after(grace) <= now && since.after(grace) <= now {
        LeakStep::Leaked(absence)
    } else {
        LeakStep::Watch(absence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_older_than_the_call_and_not_listed_is_leaked() {
        let check = |since_ms: u64, listed: bool, expected: bool| {
            let leaked = is_leaked(BootTime::from_millis(since_ms), listed, BootTime::from_millis(10));
            assert_eq!(leaked, expected, "{since_ms} {listed}");
        };
        check(9, false, true);
        check(9, true, false);
        check(10, false, false);
        check(11, false, false);
    }

    #[test]
    fn what_is_gone_from_the_kernel_at_two_looks_a_grace_apart_is_leaked() {
        let ms = BootTime::from_millis;
        let absence = |since, from| Absence { since: ms(since), from: ms(from) };
        let check = |seen: (bool, NamespaceSeen), since, before: Option<Absence>, now, expected: LeakStep| {
            let seen = Seen { interface: seen.0, namespace: seen.1 };
            let found = decide_leak(seen, ms(since), before, ms(now), Duration::from_millis(100));
            assert_eq!(found, expected, "{seen:?} {since} {before:?} {now}");
        };
        let gone = (false, NamespaceSeen::Gone);
        check(gone, 0, None, 500, LeakStep::Watch(absence(0, 500)));
        check(gone, 0, Some(absence(0, 500)), 599, LeakStep::Watch(absence(0, 500)));
        check(gone, 0, Some(absence(0, 500)), 600, LeakStep::Leaked(absence(0, 500)));
        // Either of the two keeps it, and the next absence is counted from its own beginning.
        check((true, NamespaceSeen::Gone), 0, Some(absence(0, 500)), 600, LeakStep::Keep);
        check((false, NamespaceSeen::MayBeThere), 0, Some(absence(0, 500)), 600, LeakStep::Keep);
        check((true, NamespaceSeen::MayBeThere), 0, None, 600, LeakStep::Keep);
        // Added anew since: another attachment, whose absence begins now.
        check(gone, 550, Some(absence(0, 500)), 600, LeakStep::Watch(absence(550, 600)));
        // Younger than the grace, whatever was seen.
        check(gone, 550, Some(absence(550, 500)), 600, LeakStep::Watch(absence(550, 500)));
    }

    #[test]
    fn one_look_is_never_enough() {
        let now = BootTime::from_millis(9);
        let seen = Seen { interface: false, namespace: NamespaceSeen::Gone };
        let step = decide_leak(seen, BootTime::from_millis(0), None, now, Duration::ZERO);
        assert!(matches!(step, LeakStep::Watch(_)), "{step:?}");
    }
}
