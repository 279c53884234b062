//! One run: machines, the store, and the events of a scenario, in one thread and one simulated time.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use ipam::protocol::{BlockObject, NodeId};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::check;
use crate::machine::Machine;
use crate::record::{Record, Violation};
use crate::scenario::{Scenario, TROUBLE_MS, What};
use crate::store::{Cluster, Faults, locked};
use crate::tally::Counts;
use crate::trace::Trace;

/// The bound of convergence: so long after the last fault, and so long after runtimes have asked for the last thing,
/// everything is in order and nothing is half-way. It is made of what agents wait for one after the other: late writes
/// (20 s), the grace of gone nodes (20 s), or a borrowed address (cooldown 15 s, grace 4 s, and the owner's cooldown of
/// 15 s again); then the grace of empty blocks (8 s); and between any two of them an interval of upkeep (5 s).
pub const CONVERGENCE: Duration = Duration::from_secs(75);

/// How often what must always hold is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// How long agents may take to start where nothing is wrong.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How patient operators are whose pool is refused.
const APPLY_TRIES_MAX: usize = 15;
const APPLY_AGAIN: Duration = Duration::from_secs(2);

/// What a store is like on a good day.
const CALM: Faults = Faults {
    delay_ms: 4,
    request_lost: 0,
    reply_lost: 0,
    late: 0,
    late_ms: 0,
    doubled: 0,
    lag_ms: 15,
    expired: 0,
    cut_off: false,
};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was broken, in the order in which it was seen.
    pub violations: Vec<Violation>,
    /// What happened.
    pub trace: Vec<String>,
    /// The same for two runs that went the same way.
    pub fingerprint: u64,
    /// ADDs that succeeded.
    pub added_count: u64,
    /// What became of blocks and loans.
    pub counts: Counts,
}

/// The parts of a run, shared by its tasks.
#[derive(Debug)]
pub struct Sim {
    /// The machines.
    pub machines: Vec<Arc<Machine>>,
    /// The store.
    pub cluster: Arc<Cluster>,
    /// What happens.
    pub trace: Trace,
    record: Mutex<Record>,
    seed: u64,
}

/// Runs a scenario to its end. `loud`: what happens is printed as it does.
///
/// # Errors
/// The run itself could not be made.
pub fn run(scenario: &Scenario, scratch: &Path, loud: bool) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("a runtime")?;
    let dir = tempfile::tempdir_in(scratch).context("a directory for journals")?;
    runtime.block_on(async {
        let trace = Trace::new(loud);
        let sim = Sim::new(scenario, dir.path(), trace.clone())?;
        sim.go(scenario).await;
        let record = sim.record();
        Ok(Outcome {
            violations: record.violations().to_vec(),
            trace: trace.lines(),
            fingerprint: trace.fingerprint(),
            added_count: record.added_count,
            counts: locked(&sim.cluster.tally).counts,
        })
    })
}

impl Sim {
    fn new(scenario: &Scenario, dir: &Path, trace: Trace) -> anyhow::Result<Arc<Self>> {
        let cluster = Cluster::new(trace.clone(), scenario.settings.graces.gone_after);
        let mut machines = Vec::new();
        for number in 0..scenario.machine_count {
            let name = format!("node-{number}");
            let seed = scenario.seed.wrapping_mul(31).wrapping_add(number as u64 + 1);
            let journal = dir.join(&name);
            let machine = Machine::new(name, journal, &cluster, &trace, seed, scenario.settings);
            *locked(&machine.faults) = CALM;
            machines.push(machine);
        }
        let mut cooldowns = Vec::new();
        for pool in &scenario.pools {
            cooldowns.push((pool.cidr.parse()?, Duration::from_secs(pool.cooldown_s)));
        }
        let record = Mutex::new(Record::new(cooldowns));
        Ok(Arc::new(Self { machines, cluster, trace, record, seed: scenario.seed }))
    }

    /// What was promised.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        locked(&self.record)
    }

    async fn go(self: &Arc<Self>, scenario: &Scenario) {
        for machine in &self.machines {
            if scenario.has_nodes {
                machine.register().await;
            }
            tokio::spawn(machine.clone().supervise());
        }
        if !self.all_serve(START_LIMIT).await {
            return self.record().broken("agents start", "not all of them serve");
        }
        for pool in &scenario.pools {
            if !self.apply_pool(0, pool).await {
                return self.record().broken("a pool can be applied", pool.name.clone());
            }
        }
        let sim = self.clone();
        let _watching = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                sleep(WATCH_INTERVAL).await;
                check::always(&sim).await;
            }
        }));
        let began = Instant::now();
        let tasks = TaskTracker::new();
        for event in &scenario.events {
            sleep_until(began + Duration::from_millis(event.at_ms)).await;
            if !self.record().violations().is_empty() {
                return;
            }
            self.trace.tell("event", format_args!("{:?}", event.what));
            let (sim, what) = (self.clone(), event.what.clone());
            tasks.spawn(async move { sim.happen(what).await });
        }
        sleep_until(began + Duration::from_millis(TROUBLE_MS)).await;
        self.end_trouble();
        self.trace.tell("event", format_args!("no more faults"));
        tasks.close();
        if !self.all_serve(CONVERGENCE).await {
            return self.record().broken("agents serve again when faults have ended", "not all of them do");
        }
        sleep_until(began + Duration::from_millis(TROUBLE_MS) + CONVERGENCE).await;
        if timeout(Duration::from_secs(1), tasks.wait()).await.is_err() {
            let what = format!("{} under way", tasks.len());
            self.record().broken("what runtimes ask for succeeds when faults have ended", what);
        }
        let problems: Vec<String> = self.machines.iter().flat_map(|machine| machine.problems()).collect();
        for problem in problems {
            self.record().broken("nothing of an agent outlives it", problem);
        }
        if self.record().violations().is_empty() {
            check::at_rest(self, scenario).await;
        }
    }

    async fn all_serve(&self, limit: Duration) -> bool {
        let all = async {
            while !self.machines.iter().all(|machine| machine.serves() || machine.is_removed()) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(limit, all).await.is_ok()
    }

    fn end_trouble(&self) {
        self.cluster.set_down(false);
        for machine in &self.machines {
            *locked(&machine.faults) = CALM;
            machine.set_kernel_faults(None);
        }
    }

    async fn happen(self: &Arc<Self>, what: What) {
        let ms = Duration::from_millis;
        match what {
            What::Add { pod, machine, pool, hang_up_ms } => {
                self.add(pod, machine, pool, hang_up_ms.map(ms)).await;
            }
            What::Again { pod, other_netns } => self.again(pod, other_netns).await,
            What::Del { pod } => self.del(pod).await,
            What::Check { pod } => self.check(pod).await,
            What::Forget { pod } => self.forget(pod),
            What::LosePod { pod } => self.lose(pod).await,
            What::Gc { machine, slow_ms } => self.gc(machine, ms(slow_ms)).await,
            What::Release { pod, force } => self.release(pod, force).await,
            What::ApplyPool { machine, pool } => {
                // An earlier pool of that name may have to go first.
                for _ in 0..APPLY_TRIES_MAX {
                    if self.apply_pool(machine, &pool).await {
                        return;
                    }
                    sleep(APPLY_AGAIN).await;
                }
            }
            What::DeletePool { machine, name } => self.delete(machine, "ippool", &name).await,
            What::Reserve { machine, name, cidr } => drop(self.reserve(machine, &name, &cidr).await),
            What::Unreserve { machine, name } => self.delete(machine, "ipreservation", &name).await,
            What::Crash { machine, after_ops, down_ms } => {
                self.machines[machine].crash(after_ops, ms(down_ms)).await;
            }
            What::Stop { machine, down_ms } => self.machines[machine].stop(ms(down_ms)),
            What::Reboot { machine, .. } if self.machines[machine].is_removed() => {}
            What::Reboot { machine, down_ms } => {
                self.record().power_off(machine);
                self.machines[machine].reboot(ms(down_ms)).await;
            }
            What::SecondAgent { machine, patience_ms } => {
                // It may live for the rest of the run; nobody waits for that.
                let machine = self.machines[machine].clone();
                tokio::spawn(async move { machine.second_agent(ms(patience_ms)).await });
            }
            What::Reconfigure { machine, settings, down_ms } => {
                self.machines[machine].reconfigure(settings, ms(down_ms));
            }
            What::Reregister { machine, gap_ms } => self.reregister(machine, ms(gap_ms)).await,
            What::Remove { machine, late_ms } => {
                let removed = &self.machines[machine];
                if !removed.is_removed() {
                    self.cluster.remove_node(&removed.name).await;
                    sleep(ms(late_ms)).await;
                    self.record().power_off(machine);
                    removed.remove().await;
                    // It may have been registered anew meanwhile.
                    self.cluster.remove_node(&removed.name).await;
                }
            }
            What::Replace { machine, down_ms, object_ms } => {
                let replaced = &self.machines[machine];
                if !replaced.is_removed() {
                    self.record().power_off(machine);
                    replaced.replace(ms(down_ms)).await;
                    self.cluster.remove_node(&replaced.name).await;
                    sleep(ms(object_ms)).await;
                    if !replaced.is_removed() {
                        replaced.register().await;
                    }
                }
            }
            What::StoreFaults { machine, faults, for_ms } => {
                let way = &self.machines[machine].faults;
                *locked(way) = faults;
                sleep(ms(for_ms)).await;
                *locked(way) = CALM;
            }
            What::StoreDown { for_ms } => {
                self.cluster.set_down(true);
                sleep(ms(for_ms)).await;
                self.cluster.set_down(false);
            }
            What::KernelFaults { machine, chance, for_ms } => {
                let machine = &self.machines[machine];
                let mut rng = fastrand::Rng::with_seed(self.seed ^ u64::from(chance));
                let trace = (self.trace.clone(), machine.name.clone());
                machine.set_kernel_faults(Some(Box::new(move |operation| {
                    let fails = rng.u32(0..1000) < chance;
                    if fails {
                        trace.0.tell(&trace.1, format_args!("kernel: {operation} fails"));
                    }
                    fails
                })));
                sleep(ms(for_ms)).await;
                machine.set_kernel_faults(None);
            }
        }
    }

    /// The Node object of a machine goes, and comes back with another UID. What the design assumes of nodes that are
    /// gone is kept: a machine that has not written its blocks and loans anew before the grace of its old UID is over
    /// is fenced.
    async fn reregister(&self, number: usize, gap: Duration) {
        let machine = &self.machines[number];
        if self.cluster.remove_node(&machine.name).await.is_none() {
            return;
        }
        let fence_at = Instant::now() + machine.settings().graces.gone_after * 3 / 4;
        sleep(gap).await;
        if machine.is_removed() {
            return;
        }
        machine.register().await;
        while !self.is_rehomed(machine).await {
            if machine.is_removed() {
                return;
            }
            if Instant::now() >= fence_at {
                self.trace.tell(&machine.name, format_args!("fenced"));
                self.record().power_off(number);
                machine.reboot(Duration::from_secs(1)).await;
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether an agent knows its new UID, and nothing in the store is of an earlier one.
    async fn is_rehomed(&self, machine: &Machine) -> bool {
        let blocks = self.cluster.blocks().await;
        let nodes = self.cluster.nodes().await.unwrap_or_default();
        let knows = machine.node().is_some_and(|node| nodes.contains(node.ledger().keeper().me()));
        let is_old = |node: &NodeId| node.name.as_str() == machine.name && !nodes.contains(node);
        let of_old = |block: &BlockObject| {
            is_old(&block.owner) || block.loans.iter().any(|loan| is_old(&loan.borrower))
        };
        knows && !blocks.iter().any(of_old)
    }
}
