//! What the runtime was promised: kept apart from everything the agents say of themselves, and judged as it comes.
//!
//! An address belongs to a pod from the reply to its ADD until the first moment at which the agent is entitled to take
//! it back: its DEL is sent, a GC that does not list it is sent, an operator frees it, it is added with another
//! namespace, or its machine goes down.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use model::Cidr;
use tokio::time::Instant;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// How far a pod is, as its runtime knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// An ADD was sent, and none has succeeded.
    Adding,
    /// An ADD has succeeded.
    Up,
    /// No ADD is under way and none has succeeded.
    Failed,
    /// Whatever there is of it may be taken off.
    Ending,
    /// It is off.
    Gone,
}

/// A pod, as its runtime knows it.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// Where it runs.
    pub machine: usize,
    /// How far it is.
    pub phase: Phase,
    /// What it was given.
    pub addresses: Vec<IpAddr>,
    /// Which of the runtime's namespaces it has.
    pub netns: usize,
    /// ADDs under way.
    pub add_count: u32,
    /// The runtime does not know it any more.
    pub forgotten: bool,
    /// From which pool it wants to be.
    pub pool: Option<String>,
}

/// All promises. One for each run.
#[derive(Debug, Default)]
pub struct Record {
    /// By number.
    pub pods: BTreeMap<u32, PodRecord>,
    holders: BTreeMap<IpAddr, u32>,
    /// When the agent was first entitled to take an address back, and on which machine that was.
    released: BTreeMap<IpAddr, (Instant, usize)>,
    /// Ranges and their cooldowns.
    cooldowns: Vec<(Cidr, Duration)>,
    violations: Vec<Violation>,
    /// ADDs that succeeded.
    pub added_count: u64,
}

impl Record {
    /// Nothing promised yet.
    #[must_use]
    pub fn new(cooldowns: Vec<(Cidr, Duration)>) -> Self {
        Self { cooldowns, ..Self::default() }
    }

    /// What was broken so far.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Notes a rule that was broken.
    pub fn broken(&mut self, rule: &'static str, what: impl Into<String>) {
        self.violations.push(Violation { rule, what: what.into() });
    }

    /// An ADD of the pod succeeded with these addresses, while the pod was wanted.
    pub fn hold(&mut self, pod: u32, addresses: Vec<IpAddr>) {
        let now = Instant::now();
        self.added_count += 1;
        let Some(before) = self.pods.get(&pod).cloned() else { return };
        if addresses.is_empty() {
            self.broken("an ADD that succeeds gives an address", format!("c{pod} has none"));
        }
        if before.phase == Phase::Up {
            if before.addresses != addresses {
                let what = format!("c{pod} had {:?} and was given {addresses:?}", before.addresses);
                self.broken("a repeated ADD gives the same addresses", what);
            }
            return;
        }
        for address in &addresses {
            if let Some(other) = self.holders.insert(*address, pod).filter(|other| *other != pod) {
                let what = format!("{address} was given to c{pod} while c{other} had it");
                self.broken("an address has at most one holder", what);
            }
            let Some((_, cooldown)) = self.cooldowns.iter().find(|(range, _)| range.contains(*address))
            else {
                self.broken("an address is of a pool", format!("{address} of c{pod} is of none"));
                continue;
            };
            if let Some((released, _)) = self.released.get(address)
                && now < *released + *cooldown
            {
                let after = now.duration_since(*released).as_millis();
                let what = format!(
                    "{address} was given to c{pod} {after} ms after it was freed, cooldown {} s",
                    cooldown.as_secs()
                );
                self.broken("an address in cooldown is not handed out", what);
            }
        }
        if let Some(record) = self.pods.get_mut(&pod) {
            record.phase = Phase::Up;
            record.addresses = addresses;
        }
    }

    /// From now on the agent may take back what the pod has.
    pub fn release(&mut self, pod: u32, phase: Phase) {
        let now = Instant::now();
        let Some(record) = self.pods.get_mut(&pod) else { return };
        for address in std::mem::take(&mut record.addresses) {
            if self.holders.get(&address) == Some(&pod) {
                self.holders.remove(&address);
                self.released.insert(address, (now, record.machine));
            }
        }
        record.phase = phase;
    }

    /// A machine goes down: its pods are gone, and what a boot forgets is forgotten.
    pub fn power_off(&mut self, machine: usize) {
        for (pod, record) in &mut self.pods {
            if record.machine != machine {
                continue;
            }
            for address in std::mem::take(&mut record.addresses) {
                if self.holders.get(&address) == Some(pod) {
                    self.holders.remove(&address);
                }
            }
            record.phase = Phase::Gone;
        }
        // Cooldowns lie on the tmpfs of the machine where the pod was, until they are over: a borrowed address is not
        // given back before, nor a block let go.
        self.released.retain(|_, (_, of)| *of != machine);
    }

    /// Pods of a machine in some phases.
    #[must_use]
    pub fn pods_on(&self, machine: usize, phases: &[Phase]) -> Vec<u32> {
        let wanted = |record: &PodRecord| record.machine == machine && phases.contains(&record.phase);
        self.pods.iter().filter(|(_, record)| wanted(record)).map(|(pod, _)| *pod).collect()
    }
}
