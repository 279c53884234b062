//! One run: machines, the store, and the events of a scenario, in one thread and one simulated time.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use crate::check;
use crate::machine::Machine;
use crate::record::{Record, Violation};
use crate::scenario::{Scenario, TROUBLE_MS, What};
use crate::store::{Cluster, Faults, locked};
use crate::trace::Trace;

/// How long after the last fault everything has to be in order: writes that are late still arrive, runtimes ask again,
/// agents read anew.
const SETTLE: Duration = Duration::from_secs(60);

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
        })
    })
}

impl Sim {
    fn new(scenario: &Scenario, dir: &Path, trace: Trace) -> anyhow::Result<Arc<Self>> {
        let cluster = Cluster::new(trace.clone());
        let mut machines = Vec::new();
        for number in 0..scenario.machine_count {
            let name = format!("node-{number}");
            let seed = scenario.seed.wrapping_mul(31).wrapping_add(number as u64 + 1);
            let machine = Machine::new(name.clone(), dir.join(&name), &cluster, &trace, seed);
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
        if !self.all_serve(SETTLE).await {
            return self.record().broken("agents serve again when faults have ended", "not all of them do");
        }
        sleep_until(began + Duration::from_millis(TROUBLE_MS) + SETTLE).await;
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
            while !self.machines.iter().all(|machine| machine.serves()) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(limit, all).await.is_ok()
    }

    fn end_trouble(&self) {
        self.cluster.set_down(false);
        for machine in &self.machines {
            *locked(&machine.faults) = CALM;
            machine.kernel.set_faults(None);
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
            What::Reboot { machine, down_ms } => {
                self.record().power_off(machine);
                self.machines[machine].reboot(ms(down_ms)).await;
            }
            What::SecondAgent { machine } => {
                if !self.machines[machine].refuses_second_agent() {
                    self.record().broken("one agent for each node", self.machines[machine].name.clone());
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
                machine.note_kernel_trouble();
                let mut rng = fastrand::Rng::with_seed(self.seed ^ u64::from(chance));
                let trace = (self.trace.clone(), machine.name.clone());
                machine.kernel.set_faults(Some(Box::new(move |operation| {
                    let fails = rng.u32(0..1000) < chance;
                    if fails {
                        trace.0.tell(&trace.1, format_args!("kernel: {operation} fails"));
                    }
                    fails
                })));
                sleep(ms(for_ms)).await;
                machine.kernel.set_faults(None);
            }
        }
    }
}
