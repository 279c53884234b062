//! What happens in a run, decided before it begins: a list of events that follows from the seed.
//!
//! Events speak of pods and machines by number, so that a list from which some are taken out is still a scenario.

use std::time::Duration;

use fastrand::Rng;
use ipam::{AtBlockLimit, Graces, Settings};

use crate::store::Faults;

/// A run to be.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where everything follows from.
    pub seed: u64,
    /// How many machines there are.
    pub machine_count: usize,
    /// Whether there are Node objects, one for each machine.
    pub has_nodes: bool,
    /// How agents decide at first.
    pub settings: Settings,
    /// Pools that are there from the start.
    pub pools: Vec<PoolPlan>,
    /// In order of time.
    pub events: Vec<Event>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// Its name.
    pub name: String,
    /// Its range.
    pub cidr: String,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// Its cooldown. One range has the same in all pools of a run.
    pub cooldown_s: u64,
    /// Whether it hands out nothing new.
    pub disabled: bool,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub struct Event {
    /// When, in milliseconds after everything has started.
    pub at_ms: u64,
    /// What.
    pub what: What,
}

/// See each.
#[derive(Clone, Debug)]
pub enum What {
    /// The runtime adds a pod that is new.
    Add {
        /// Which.
        pod: u32,
        /// Where.
        machine: usize,
        /// From which pool, if it asks for one.
        pool: Option<String>,
        /// When the plugin is killed, if it is.
        hang_up_ms: Option<u64>,
    },
    /// The runtime adds it again, perhaps with another namespace.
    Again {
        /// Which.
        pod: u32,
        /// Whether its namespace is another one.
        other_netns: bool,
    },
    /// The runtime deletes a pod, until that has succeeded.
    Del {
        /// Which.
        pod: u32,
    },
    /// The runtime checks a pod.
    Check {
        /// Which.
        pod: u32,
    },
    /// The runtime forgets a pod without deleting it.
    Forget {
        /// Which.
        pod: u32,
    },
    /// A pod's namespace goes away by itself; the runtime deletes the pod a while later.
    LosePod {
        /// Which.
        pod: u32,
    },
    /// The runtime lists its pods, and asks for everything else to be removed a while later.
    Gc {
        /// Where.
        machine: usize,
        /// How long it takes from the list to the request.
        slow_ms: u64,
    },
    /// An operator frees what a pod holds.
    Release {
        /// Which.
        pod: u32,
        /// Its interface as well.
        force: bool,
    },
    /// An operator applies a pool.
    ApplyPool {
        /// By which agent.
        machine: usize,
        /// The pool.
        pool: PoolPlan,
    },
    /// An operator deletes a pool.
    DeletePool {
        /// By which agent.
        machine: usize,
        /// Its name.
        name: String,
    },
    /// An operator reserves a range.
    Reserve {
        /// By which agent.
        machine: usize,
        /// Name of the reservation.
        name: String,
        /// The range.
        cidr: String,
    },
    /// An operator ends a reservation.
    Unreserve {
        /// By which agent.
        machine: usize,
        /// Name of the reservation.
        name: String,
    },
    /// The agent dies and is started again.
    Crash {
        /// Where.
        machine: usize,
        /// In the middle of kernel work: after so many operations; otherwise at once.
        after_ops: Option<u64>,
        /// How long until it is started again.
        down_ms: u64,
    },
    /// The agent is stopped in good order and started again.
    Stop {
        /// Where.
        machine: usize,
        /// How long until it is started again.
        down_ms: u64,
    },
    /// The machine goes down and boots: its pods are gone.
    Reboot {
        /// Which.
        machine: usize,
        /// How long that takes.
        down_ms: u64,
    },
    /// The agent is stopped and started again with other settings.
    Reconfigure {
        /// Where.
        machine: usize,
        /// Which.
        settings: Settings,
        /// How long until it is started again.
        down_ms: u64,
    },
    /// The Node object is deleted, and made anew with another UID; the machine goes on in the same boot. One that has
    /// not written its blocks anew in time is fenced.
    Reregister {
        /// Whose.
        machine: usize,
        /// How long there is none.
        gap_ms: u64,
    },
    /// The Node object is deleted, and the machine goes down for good.
    Remove {
        /// Which.
        machine: usize,
        /// How long it runs on.
        late_ms: u64,
    },
    /// The machine goes down and its Node object is deleted; another machine of its name, with nothing of it and with
    /// another UID, boots in its place.
    Replace {
        /// Which.
        machine: usize,
        /// How long until the new one has booted.
        down_ms: u64,
        /// How long until it has a Node object.
        object_ms: u64,
    },
    /// Somebody starts a second agent under the same name, which waits for its turn.
    SecondAgent {
        /// Where.
        machine: usize,
        /// How long it waits.
        patience_ms: u64,
    },
    /// The way to the store has faults for a while.
    StoreFaults {
        /// Whose.
        machine: usize,
        /// Which.
        faults: Faults,
        /// How long.
        for_ms: u64,
    },
    /// Nobody reaches the store for a while.
    StoreDown {
        /// How long.
        for_ms: u64,
    },
    /// Kernel operations fail for a while.
    KernelFaults {
        /// Where.
        machine: usize,
        /// How many in a thousand.
        chance: u32,
        /// How long.
        for_ms: u64,
    },
}

/// How long events come.
pub const TROUBLE_MS: u64 = 60_000;

/// The greatest cooldown of a pool.
pub const MAX_COOLDOWN_S: u64 = 15;

/// The longest grace of an empty block, of a loan nobody uses, and of a node that is gone.
pub const MAX_RELEASE_S: u64 = 8;
/// See [`MAX_RELEASE_S`].
pub const MAX_RETURN_S: u64 = 4;
/// See [`MAX_RELEASE_S`].
pub const MAX_GONE_S: u64 = 20;

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let machine_count = [1, 2, 2, 3, 3, 4][rng.usize(0..6)];
        // In half of the runs there is not much more than one block for each machine, or less.
        let tight = rng.bool();
        let mut pools = vec![pool(&mut rng, "a", 1, tight)];
        if rng.u32(0..3) == 0 || !tight && rng.bool() {
            pools.push(pool(&mut rng, "b", 2, tight));
        }
        let settings = settings(&mut rng);
        let has_nodes = rng.u32(0..8) > 0;
        let (next_pod, events) = (0, Vec::new());
        let mut writer = Writer { rng, machine_count, pools: pools.clone(), settings, next_pod, events };
        writer.pods();
        writer.operators();
        writer.crashes();
        if has_nodes {
            writer.nodes();
        }
        writer.faults();
        let mut events = writer.events;
        events.sort_by_key(|event| event.at_ms);
        Self { seed, machine_count, has_nodes, settings, pools, events }
    }
}

fn pool(rng: &mut Rng, name: &str, net: u8, tight: bool) -> PoolPlan {
    let cidr_len = if tight { rng.u8(28..=29) } else { rng.u8(27..=29) };
    let block_size = if tight { cidr_len + rng.u8(0..=1) } else { rng.u8(29.max(cidr_len)..=30) };
    PoolPlan {
        name: name.to_owned(),
        cidr: format!("10.{net}.0.0/{cidr_len}"),
        block_size,
        cooldown_s: [0, 1, 5, MAX_COOLDOWN_S][rng.usize(0..4)],
        disabled: false,
    }
}

/// How the agents of a run decide. Graces are short, as everything here is.
fn settings(rng: &mut Rng) -> Settings {
    let graces = Graces {
        release_after: Duration::from_secs(rng.u64(2..=MAX_RELEASE_S)),
        return_after: Duration::from_secs(rng.u64(1..=MAX_RETURN_S)),
        gone_after: Duration::from_secs(rng.u64(15..=MAX_GONE_S)),
        avoid_for: Duration::from_secs(rng.u64(1..=5)),
    };
    let limited = rng.u32(0..4) == 0;
    Settings {
        strict_affinity: rng.u32(0..8) == 0,
        max_blocks_per_node: limited.then(|| rng.u32(1..=2)),
        at_block_limit: if rng.bool() { AtBlockLimit::Borrow } else { AtBlockLimit::Fail },
        graces,
        ..Settings::default()
    }
}

struct Writer {
    rng: Rng,
    machine_count: usize,
    pools: Vec<PoolPlan>,
    settings: Settings,
    next_pod: u32,
    events: Vec<Event>,
}

impl Writer {
    fn push(&mut self, at_ms: u64, what: What) {
        self.events.push(Event { at_ms: at_ms.min(TROUBLE_MS), what });
    }

    fn any_time(&mut self) -> u64 {
        self.rng.u64(0..TROUBLE_MS)
    }

    fn any_machine(&mut self) -> usize {
        self.rng.usize(0..self.machine_count)
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.rng.u32(0..count) == 0
    }

    fn pods(&mut self) {
        for _ in 0..self.rng.usize(15..90) {
            let at = self.any_time();
            let machine = self.any_machine();
            self.pod_life(at, machine);
        }
        for _ in 0..self.rng.usize(0..5) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let slow_ms = self.rng.u64(0..3000);
            self.push(at, What::Gc { machine, slow_ms });
        }
    }

    fn pod_life(&mut self, at: u64, machine: usize) {
        let pod = self.next_pod;
        self.next_pod += 1;
        let named = self.one_in(4);
        let pool = named.then(|| self.pools[self.rng.usize(0..self.pools.len())].name.clone());
        let hang_up_ms = self.one_in(10).then(|| self.rng.u64(0..200));
        self.push(at, What::Add { pod, machine, pool, hang_up_ms });
        if self.one_in(8) {
            // At once, while the first is under way.
            let soon = at + self.rng.u64(0..100);
            self.push(soon, What::Again { pod, other_netns: false });
        }
        for _ in 0..self.rng.u32(0..3) {
            let later = at + self.rng.u64(0..20_000);
            let other_netns = self.one_in(6);
            let what = if self.rng.bool() { What::Check { pod } } else { What::Again { pod, other_netns } };
            self.push(later, what);
        }
        let span = [150, 2_000, 8_000, 20_000, 120_000][self.rng.usize(0..5)];
        let end = at + self.rng.u64(0..span);
        if end >= TROUBLE_MS {
            return;
        }
        let what = match self.rng.u32(0..12) {
            0 => What::Forget { pod },
            1 => What::LosePod { pod },
            2 => What::Release { pod, force: true },
            3 => What::Release { pod, force: false },
            _ => What::Del { pod },
        };
        self.push(end, what);
        // A pod that is restarted: a new sandbox at about the same time.
        if self.rng.bool() {
            let next = end + self.rng.u64(0..500);
            self.pod_life(next, machine);
        }
    }

    fn operators(&mut self) {
        for _ in 0..self.rng.usize(0..9) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let mut pool = self.pools[self.rng.usize(0..self.pools.len())].clone();
            match self.rng.u32(0..8) {
                0 => {
                    pool.disabled = true;
                    self.push(at, What::ApplyPool { machine, pool: pool.clone() });
                    pool.disabled = false;
                    let back = at + self.rng.u64(0..20_000);
                    self.push(back, What::ApplyPool { machine, pool });
                }
                1..=4 => {
                    self.push(at, What::DeletePool { machine, name: pool.name.clone() });
                    let back = at + self.rng.u64(0..40_000);
                    let machine = self.any_machine();
                    self.push(back, What::ApplyPool { machine, pool });
                }
                5 => {
                    // In the way of the other, and perhaps in its place.
                    pool.name = format!("{}x", pool.name);
                    self.push(at, What::ApplyPool { machine, pool });
                }
                _ => {
                    let net = if pool.name == "a" { 1 } else { 2 };
                    let (name, first) = (format!("r{net}"), self.rng.u8(0..2) * 4);
                    let len = self.rng.u8(30..=32);
                    let cidr = format!("10.{net}.0.{first}/{len}");
                    self.push(at, What::Reserve { machine, name: name.clone(), cidr });
                    if self.rng.bool() {
                        let end = at + self.rng.u64(0..30_000);
                        self.push(end, What::Unreserve { machine, name });
                    }
                }
            }
        }
    }

    fn crashes(&mut self) {
        for _ in 0..self.rng.usize(0..6) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let down_ms = self.rng.u64(0..3000);
            let after_ops = self.rng.bool().then(|| self.rng.u64(1..30));
            self.push(at, What::Crash { machine, after_ops, down_ms });
        }
        if self.one_in(3) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let down_ms = self.rng.u64(2000..10_000);
            self.push(at, What::Reboot { machine, down_ms });
        }
        if self.one_in(3) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let down_ms = self.rng.u64(0..5000);
            self.push(at, What::Stop { machine, down_ms });
        }
        if self.one_in(3) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let patience_ms = self.rng.u64(0..30_000);
            self.push(at, What::SecondAgent { machine, patience_ms });
        }
        if self.one_in(4) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let mut settings = self.settings;
            match self.rng.u32(0..4) {
                0 => settings.auto_allocate_blocks = false,
                1 => settings.strict_affinity = !settings.strict_affinity,
                2 => settings.max_blocks_per_node = Some(1),
                _ => settings.max_blocks_per_node = None,
            }
            let down_ms = self.rng.u64(0..2000);
            self.push(at, What::Reconfigure { machine, settings, down_ms });
            if self.rng.bool() {
                let (back, settings) = (at + self.rng.u64(0..20_000), self.settings);
                self.push(back, What::Reconfigure { machine, settings, down_ms });
            }
        }
    }

    fn nodes(&mut self) {
        let gone_ms = u64::try_from(self.settings.graces.gone_after.as_millis()).unwrap_or(u64::MAX);
        for _ in 0..2 {
            if self.one_in(3) {
                let (at, machine) = (self.any_time(), self.any_machine());
                let gap_ms = self.rng.u64(0..gone_ms / 3);
                self.push(at, What::Reregister { machine, gap_ms });
            }
        }
        if self.one_in(3) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let (down_ms, object_ms) = (self.rng.u64(500..8_000), self.rng.u64(0..4_000));
            self.push(at, What::Replace { machine, down_ms, object_ms });
        }
        if self.machine_count > 1 && self.one_in(3) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let late_ms = self.rng.u64(0..gone_ms / 2);
            self.push(at, What::Remove { machine, late_ms });
        }
    }

    fn faults(&mut self) {
        for _ in 0..self.rng.usize(0..12) {
            // The beginning is when most blocks are claimed.
            let at = if self.one_in(3) { 0 } else { self.any_time() };
            let machine = self.any_machine();
            let for_ms = self.rng.u64(1000..30_000);
            let rng = &mut self.rng;
            let much = |rng: &mut Rng| [0, 0, 100, 400, 800][rng.usize(0..5)];
            let faults = Faults {
                delay_ms: [5, 50, 300][rng.usize(0..3)],
                request_lost: much(rng) / 4,
                reply_lost: much(rng) / 2,
                late: much(rng),
                late_ms: [100, 3_000, 20_000, 20_000][rng.usize(0..4)],
                doubled: much(rng),
                lag_ms: [20, 300, 3000][rng.usize(0..3)],
                expired: much(rng),
                cut_off: rng.u32(0..8) == 0,
            };
            self.push(at, What::StoreFaults { machine, faults, for_ms });
        }
        if self.one_in(5) {
            let at = self.any_time();
            let for_ms = self.rng.u64(500..10_000);
            self.push(at, What::StoreDown { for_ms });
        }
        if self.one_in(2) {
            let (at, machine) = (self.any_time(), self.any_machine());
            let (chance, for_ms) = (self.rng.u32(5..150), self.rng.u64(1000..15_000));
            self.push(at, What::KernelFaults { machine, chance, for_ms });
        }
    }
}
