//! What a configuration consists of, and how it is made ready for checking.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ipam::protocol::NodeId;
use ipam::{Candidate, ForeignBlocks, Graces, Pool, PoolSpec, PoolTable, Reservations, Settings};
use model::{BlockSize, BootTime, Cidr, Handle, Labels, NodeName, PoolName};

use crate::state::{Objects, Pools};

/// One tick of the model's time: every grace and cooldown is one of these.
pub const TICK: Duration = Duration::from_secs(1);

/// How often each kind of event may still happen. What is not bounded here is bounded by there being so many pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Time passes.
    pub ticks: u8,
    /// The answer to a write, or the write itself, is lost or late.
    pub lost: u8,
    /// A lost write lands more than once.
    pub twice: u8,
    /// An agent crashes.
    pub crashes: u8,
    /// A start finds the store unreachable.
    pub away: u8,
    /// A list is read anew.
    pub relists: u8,
    /// A machine is switched off.
    pub offs: u8,
    /// A machine is switched on.
    pub ons: u8,
    /// A Node object is deleted.
    pub node_deletes: u8,
    /// A Node object is made.
    pub node_creates: u8,
    /// A runtime gives up on an ADD.
    pub give_ups: u8,
    /// A runtime deletes a pod.
    pub dels: u8,
    /// A pod ends and nobody tells.
    pub vanishes: u8,
    /// A runtime calls GC.
    pub gcs: u8,
    /// A person looks an address up to release it.
    pub releases: u8,
    /// A pool is made.
    pub pool_adds: u8,
    /// A pool is deleted.
    pub pool_deletes: u8,
    /// A pool is disabled, or enabled again.
    pub pool_switches: u8,
    /// The namespace gets another label.
    pub relabels: u8,
    /// A wall clock is set forward.
    pub clocks: u8,
    /// A second agent is started on a machine.
    pub seconds: u8,
}

impl fmt::Display for Budget {
    /// What may happen at all, and how often.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("ticks", self.ticks),
            ("lost", self.lost),
            ("twice", self.twice),
            ("crashes", self.crashes),
            ("away", self.away),
            ("relists", self.relists),
            ("offs", self.offs),
            ("ons", self.ons),
            ("node deletes", self.node_deletes),
            ("node creates", self.node_creates),
            ("give ups", self.give_ups),
            ("dels", self.dels),
            ("vanishes", self.vanishes),
            ("gcs", self.gcs),
            ("releases", self.releases),
            ("pool adds", self.pool_adds),
            ("pool deletes", self.pool_deletes),
            ("pool switches", self.pool_switches),
            ("relabels", self.relabels),
            ("clocks", self.clocks),
            ("seconds", self.seconds),
        ];
        let told: Vec<String> = counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        f.write_str(if told.is_empty() { "nothing goes wrong" } else { "" })?;
        f.write_str(&told.join(", "))
    }
}

/// How agents see the store, when they do not read it live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copying {
    /// As it is.
    Fresh,
    /// As it was at some moment, all kinds together.
    Stale,
    /// As it was, each kind by itself.
    StaleByKind,
}

/// A pool of a configuration.
#[derive(Clone, Copy, Debug)]
pub struct PoolDef {
    /// Its name.
    pub name: &'static str,
    /// Its range.
    pub cidr: &'static str,
    /// Length of its blocks' prefixes.
    pub block_len: u8,
    /// The label of the namespaces it serves; `None`: all.
    pub team: Option<u8>,
    /// Whether it is there and admitted from the start.
    pub from_start: bool,
}

/// One configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Machines, by name.
    pub machines: &'static [&'static str],
    /// Those of them that are on from the start, with a Node and an agent.
    pub started: usize,
    /// Pools.
    pub pools: &'static [PoolDef],
    /// The machine of each pod that may come.
    pub pods: &'static [u8],
    /// `strictAffinity`.
    pub strict: bool,
    /// `maxBlocksPerNode`, with borrowing at the limit.
    pub max_blocks: Option<u32>,
    /// What may happen.
    pub budget: Budget,
    /// How agents see the store.
    pub copying: Copying,
    /// Other things may happen between the reading of a block and the decision.
    pub split_read: bool,
    /// Other things may happen between the landing of a write and its answer.
    pub split_answer: bool,
    /// Other things may happen between the journalling of an address and the answer to its ADD.
    pub split_add: bool,
    /// A look at a block is one step, from reading to the answer; no write conflicts.
    pub look_at_once: bool,
    /// Agents look at blocks without a reason, too.
    pub look_anywhere: bool,
    /// Whether a node that is gone for the grace is off or fenced.
    pub gone_is_off: bool,
    /// Whether metadata of pods is modelled.
    pub metadata: bool,
    /// In how many steps everything must be settled once the faults stop; 0: not looked at.
    pub settle_steps: u16,
}

/// A configuration made ready: names, and what is computed once.
#[derive(Debug)]
pub struct Net {
    /// The configuration.
    pub config: Config,
    /// How agents decide.
    pub settings: Settings,
    /// Names of machines.
    pub names: Vec<NodeName>,
    /// Names of pools.
    pub pool_names: Vec<PoolName>,
    /// All blocks there can be.
    pub blocks: Vec<Cidr>,
    /// Handles of pods.
    pub handles: Vec<Handle>,
    /// Labels of the namespace, by team.
    pub labels: [Labels; 2],
    no_labels: Labels,
    reservations: Reservations,
    tables: RwLock<HashMap<Pools, Arc<PoolTable>>>,
    /// What is known of states that settle: the steps it takes from there.
    pub settled: Mutex<HashMap<u64, u16>>,
    /// When the search is cut short.
    pub deadline: Instant,
    /// Whether it was.
    pub cut_short: AtomicBool,
    /// Whether the search is over.
    pub searched: AtomicBool,
}

/// What an agent's decisions know.
#[derive(Debug)]
pub struct View {
    /// Pools.
    pub pools: Arc<PoolTable>,
    /// Other nodes' blocks.
    pub foreign: ForeignBlocks,
    /// The machine.
    pub machine: u8,
}

/// The greatest tag id.
pub const MAX_TAG_ID: u16 = 15;

impl Net {
    /// Makes a configuration ready.
    ///
    /// # Panics
    /// A name or range of the configuration does not read: a mistake of the model.
    #[must_use]
    #[expect(clippy::unwrap_used, reason = "constants of this program")]
    pub fn new(config: Config, limit: Duration) -> Self {
        let settings = Settings {
            strict_affinity: config.strict,
            max_blocks_per_node: config.max_blocks,
            at_block_limit: ipam::AtBlockLimit::Borrow,
            graces: Graces { release_after: TICK, return_after: TICK, gone_after: TICK, avoid_for: TICK },
            ..Settings::default()
        };
        let mut blocks = Vec::new();
        for pool in config.pools {
            let cidr: Cidr = pool.cidr.parse().unwrap();
            let count = 1u128 << (pool.block_len - cidr.prefix_len());
            let size = cidr.size() / count;
            blocks.extend(
                (0..count).filter_map(|n| Cidr::containing(cidr.nth(n * size).unwrap(), pool.block_len)),
            );
        }
        let label = |team: &str| [("team".to_owned(), team.to_owned())].into_iter().collect::<Labels>();
        Self {
            settings,
            names: config.machines.iter().map(|name| name.parse().unwrap()).collect(),
            pool_names: config.pools.iter().map(|pool| pool.name.parse().unwrap()).collect(),
            blocks,
            handles: (0..config.pods.len())
                .map(|pod| Handle::new(&format!("p{pod}"), "eth0").unwrap())
                .collect(),
            labels: [label("a"), label("b")],
            no_labels: Labels::new(),
            reservations: Reservations::default(),
            tables: RwLock::default(),
            settled: Mutex::default(),
            deadline: Instant::now() + limit,
            cut_short: AtomicBool::new(false),
            searched: AtomicBool::new(false),
            config,
        }
    }

    /// A life of a machine's Node. Two machines may have one name, one after the other; the UID tells them apart.
    #[must_use]
    pub fn id(&self, machine: u8, uid: u8) -> NodeId {
        NodeId { name: self.names[usize::from(machine)].clone(), uid: format!("{machine}.{uid}") }
    }

    /// The machine of a node, and which of its lives it is.
    #[must_use]
    pub fn life(&self, id: &NodeId) -> (u8, u8) {
        let (machine, uid) = id.uid.split_once('.').unwrap_or_default();
        (machine.parse().unwrap_or(u8::MAX), uid.parse().unwrap_or(0))
    }

    /// Whether another machine has the Node of this one's name.
    #[must_use]
    pub fn is_name_taken(&self, nodes: &[Option<u8>], machine: u8) -> bool {
        let name = &self.names[usize::from(machine)];
        (0u8..).zip(nodes).any(|(other, node)| {
            other != machine && node.is_some() && self.names[usize::from(other)] == *name
        })
    }

    /// Time by a clock that shows so many ticks.
    #[must_use]
    pub fn time(ticks: u8) -> BootTime {
        BootTime::from_millis(1).after(TICK * u32::from(ticks))
    }

    /// A pool's candidate for the registry.
    #[must_use]
    pub fn candidate(&self, pool: usize, uid: u8) -> Option<Candidate> {
        let spec = self.spec(pool)?;
        Some(Candidate { name: spec.name, uid: pool_uid(uid), cidr: spec.cidr, block_size: spec.block_size })
    }

    fn spec(&self, pool: usize) -> Option<PoolSpec> {
        let def = &self.config.pools[pool];
        let cidr: Cidr = def.cidr.parse().ok()?;
        let mut spec = PoolSpec::new(self.pool_names[pool].clone(), cidr);
        spec.block_size = BlockSize::new(cidr.family(), u32::from(def.block_len)).ok()?;
        spec.cooldown = TICK;
        if let Some(team) = def.team {
            let selector = if team == 0 { "team == 'a'" } else { "team == 'b'" };
            spec.namespace_selector = selector.parse().ok()?;
        }
        Some(spec)
    }

    /// Pools as an agent with these copies sees them: what `agent/src/node/world.rs` makes of them.
    #[must_use]
    pub fn table(&self, pools: &Pools) -> Arc<PoolTable> {
        if let Some(table) = self.tables.read().unwrap_or_else(PoisonError::into_inner).get(pools) {
            return table.clone();
        }
        let built = pools.objects.iter().enumerate().filter(|(_, object)| object.exists).filter_map(
            |(index, object)| {
                let mut spec = self.spec(index)?;
                spec.uid = pool_uid(object.uid);
                spec.disabled = object.disabled;
                match pools.registry.entry(&spec.name).filter(|entry| entry.uid == spec.uid) {
                    Some(entry) => (spec.terminating, spec.tag) = (entry.terminating, Some(entry.tag)),
                    None => {
                        let refusal = pools.registry.admit(&self.candidate(index, object.uid)?, MAX_TAG_ID);
                        spec.not_admitted = refusal.err().map(|refusal| refusal.to_string());
                    }
                }
                Pool::new(spec).ok()
            },
        );
        let table = Arc::new(PoolTable::new(built));
        self.tables.write().unwrap_or_else(PoisonError::into_inner).insert(pools.clone(), table.clone());
        table
    }

    /// What an agent of this machine decides by, with these copies.
    #[must_use]
    pub fn view(&self, machine: u8, objects: &Objects, pools: &Pools) -> View {
        let me = &self.names[usize::from(machine)];
        let mut foreign = ForeignBlocks::default();
        for (block, seen) in objects.iter().filter(|(_, seen)| seen.object.owner.name != *me) {
            foreign.insert(*block, seen.object.owner.name.clone());
        }
        View { pools: self.table(pools), foreign, machine }
    }

    /// The same, as the decisions want it.
    #[must_use]
    pub fn cluster<'a>(&'a self, view: &'a View) -> ipam::ClusterView<'a> {
        ipam::ClusterView {
            pools: &view.pools,
            reservations: &self.reservations,
            foreign: &view.foreign,
            node: &self.names[usize::from(view.machine)],
            node_labels: &self.no_labels,
            settings: &self.settings,
        }
    }
}

/// A pool's UID by its number.
#[must_use]
pub fn pool_uid(uid: u8) -> String {
    format!("u{uid}")
}
