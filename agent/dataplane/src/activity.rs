//! Which pods were wired or unwired lately, so that a reconciliation that began with older knowledge leaves them
//! alone.
//!
//! A lock would make ADDs wait for a reconciliation, which takes tens of milliseconds. Instead each wiring and
//! unwiring leaves a trace, and a reconciliation skips every interface with a trace younger than the
//! [`Epoch`] at which its desired state began to be computed. What was skipped is seen by the next run.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A moment, in the order of wirings and unwirings.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    sequence: u64,
    taken: Instant,
}

impl Epoch {
    /// How old an epoch may be when it is used: traces are kept this long.
    pub const MAX_AGE: Duration = Duration::from_secs(600);
}

#[derive(Debug, Default)]
struct Traces {
    /// Counts beginnings and endings.
    sequence: u64,
    /// By name of the host-side interface.
    by_ifname: HashMap<String, Trace>,
}

#[derive(Debug)]
struct Trace {
    /// Calls under way.
    active_count: usize,
    /// The last beginning or ending.
    sequence: u64,
    at: Instant,
}

/// How long an interface must not have been worked on before the program on it is attached in the lasting way.
const IDLE_AFTER: Duration = Duration::from_secs(5);

/// The same for interfaces of which nothing is known, from the start on: an agent that comes back changes nothing in
/// a hurry.
const IDLE_AFTER_START: Duration = Duration::from_secs(60);

/// The traces of one dataplane; lives as long as it.
#[derive(Debug)]
pub(crate) struct Activity {
    traces: Mutex<Traces>,
    started: Instant,
}

impl Default for Activity {
    fn default() -> Self {
        Self { traces: Mutex::default(), started: Instant::now() }
    }
}

/// While it lives, its interface is being worked on.
#[derive(Debug)]
pub(crate) struct Active<'a> {
    activity: &'a Activity,
    ifname: String,
}

impl Activity {
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch { sequence: self.traces().sequence, taken: Instant::now() }
    }

    pub(crate) fn begin(&self, ifname: &str) -> Active<'_> {
        self.touch(ifname, |count| count + 1);
        Active { activity: self, ifname: ifname.to_owned() }
    }

    /// Interfaces that are being worked on or were since `epoch`; `None` if that is too long ago to know.
    pub(crate) fn since(&self, epoch: Epoch) -> Option<BTreeSet<String>> {
        if epoch.taken.elapsed() >= Epoch::MAX_AGE {
            return None;
        }
        let traces = self.traces();
        let recent =
            traces.by_ifname.iter().filter(|(_, t)| t.active_count > 0 || t.sequence > epoch.sequence);
        Some(recent.map(|(ifname, _)| ifname.clone()).collect())
    }

    /// Whether an interface has not been worked on for a while, as of `now`.
    pub(crate) fn is_idle(&self, ifname: &str, now: Instant) -> bool {
        match self.traces().by_ifname.get(ifname) {
            Some(trace) => trace.active_count == 0 && now.duration_since(trace.at) >= IDLE_AFTER,
            None => now.duration_since(self.started) >= IDLE_AFTER_START,
        }
    }

    fn touch(&self, ifname: &str, count: impl FnOnce(usize) -> usize) {
        let mut traces = self.traces();
        traces.sequence += 1;
        let (sequence, at) = (traces.sequence, Instant::now());
        // Amortised: the map is looked through once for every doubling of what it may hold.
        if traces.by_ifname.len() == traces.by_ifname.capacity() {
            let keep = Epoch::MAX_AGE * 2;
            traces.by_ifname.retain(|_, trace| trace.active_count > 0 || trace.at.elapsed() < keep);
        }
        let trace =
            traces.by_ifname.entry(ifname.to_owned()).or_insert(Trace { active_count: 0, sequence, at });
        trace.active_count = count(trace.active_count);
        trace.sequence = sequence;
        trace.at = at;
    }

    fn traces(&self) -> MutexGuard<'_, Traces> {
        // Nothing under the lock panics half-way through a change.
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.activity.touch(&self.ifname, |count| count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_or_ended_since_an_epoch_is_known() {
        let activity = Activity::default();
        let names = |epoch| activity.since(epoch).unwrap().into_iter().collect::<Vec<_>>();
        drop(activity.begin("old"));
        let running = activity.begin("running");
        let epoch = activity.epoch();
        assert_eq!(names(epoch), ["running"]);
        drop(activity.begin("new"));
        assert_eq!(names(epoch), ["new", "running"]);
        drop(running);
        assert_eq!(names(epoch), ["new", "running"], "it ended after the epoch");
        assert_eq!(names(activity.epoch()), [""; 0]);
    }

    #[test]
    fn an_interface_is_idle_some_time_after_its_last_work() {
        let activity = Activity::default();
        let check = |ifname: &str, delay: Duration, expected: bool| {
            assert_eq!(activity.is_idle(ifname, Instant::now() + delay), expected, "{ifname} {delay:?}");
        };
        check("unknown", IDLE_AFTER, false);
        check("unknown", IDLE_AFTER_START, true);
        let active = activity.begin("known");
        check("known", IDLE_AFTER_START, false);
        drop(active);
        check("known", Duration::ZERO, false);
        check("known", IDLE_AFTER, true);
    }

    #[test]
    fn an_epoch_that_is_too_old_is_refused() {
        let activity = Activity::default();
        let Some(taken) = Instant::now().checked_sub(Epoch::MAX_AGE) else { return };
        assert!(activity.since(Epoch { sequence: 0, taken }).is_none());
    }
}
