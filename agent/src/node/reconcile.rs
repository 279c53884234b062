//! Keeping the kernel in step: when to compare, and what the comparison is told.
//!
//! The comparison itself is `dataplane`'s. A run is asked for by a changed view, by a change of links, addresses or
//! routes that somebody made, by a timer, and by whoever must know that a change has arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dataplane::{Dataplane, DesiredState, Event, Report, Uplink};
use model::{Cidr, Family, IpipMode};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::environment::KernelWork;
use super::ledger::Ledger;
use super::remote::{delegated_pool, remote_of};
use super::world::{View, World};

/// Changes that come together are answered together.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// The least time between runs that nobody waits for: a burst of ADDs, each of which changes links and routes, shall
/// not keep comparing and starting `nft`.
const MIN_INTERVAL: Duration = Duration::from_millis(250);

/// How soon what routers said is seen: senders repeat what was lost after a second or so.
const PATHS_INTERVAL: Duration = Duration::from_secs(1);

/// How soon a run that failed is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Nodes without a route that are named one by one: without an uplink it is all of them.
const UNROUTED_NAMED_MAX: usize = 4;

/// Runs comparisons, one at a time. One for each agent; clones are the same one.
#[derive(Clone, Debug)]
pub struct Reconciler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dataplane: Arc<Dataplane>,
    world: Arc<World>,
    ledger: Arc<Mutex<Ledger>>,
    wanted: Notify,
    kernel_work: KernelWork,
    reach: Reach,
    one_at_a_time: tokio::sync::Mutex<()>,
    summary: watch::Sender<Summary>,
    /// As the last run found it, so that an ADD need not look for it among all routes.
    uplink: watch::Sender<Option<Uplink>>,
    /// Whether what is not known may be removed: not after a rebuild that left questions open.
    sweep: bool,
}

/// How this node stands among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Whether there may be other nodes: they are where the store says.
    pub many_nodes: bool,
    /// The address by which they know this one; `None`: its Node object's.
    pub node_ip: Option<Ipv4Addr>,
    /// The ranges that are this node's own where there are no Node objects.
    pub pod_cidrs: Vec<Cidr>,
}

/// What the runs did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Runs since the agent started.
    pub run_count: u64,
    /// Operations that the first one planned.
    pub first_planned_count: usize,
    /// Operations that the last one planned.
    pub last_planned_count: usize,
    /// What failed in the last one.
    pub last_errors: Vec<String>,
    /// Nodes to whose ranges the last one found no way, and why.
    pub unrouted: Vec<String>,
}

impl Reconciler {
    /// A reconciler that has not run.
    #[must_use]
    pub fn new(
        dataplane: Arc<Dataplane>,
        world: Arc<World>,
        ledger: Arc<Mutex<Ledger>>,
        kernel_work: KernelWork,
        reach: Reach,
        sweep: bool,
    ) -> Self {
        let shared = Shared {
            dataplane,
            world,
            ledger,
            kernel_work,
            reach,
            wanted: Notify::new(),
            one_at_a_time: tokio::sync::Mutex::default(),
            summary: watch::channel(Summary::default()).0,
            uplink: watch::channel(None).0,
            sweep,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Asks for a run soon, and does not wait.
    pub fn want(&self) {
        self.shared.wanted.notify_one();
    }

    /// What the runs did so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.shared.summary.borrow().clone()
    }

    /// The uplink as the last run found it; `None` before the first one, or if it cannot be read.
    #[must_use]
    pub fn uplink(&self) -> Option<Uplink> {
        self.shared.uplink.borrow().clone()
    }

    /// Compares now and applies the difference; afterwards pools whose tags the kernel knows may serve. The errors
    /// of this run.
    pub async fn run(&self) -> Vec<String> {
        let _turn = self.shared.one_at_a_time.lock().await;
        let shared = self.shared.clone();
        let done = self.shared.kernel_work.run(move || shared.reconcile()).await;
        let report = match done {
            Ok(report) => report,
            Err(error) => return vec![format!("reconcile: {error}")],
        };
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        for planned in &report.planned {
            info!(operation = planned, "brought the kernel in step");
        }
        for error in &errors {
            warn!(error, "the kernel is not as it should be");
        }
        let unrouted = unrouted_texts(&report);
        for text in &unrouted {
            if !self.shared.summary.borrow().unrouted.contains(text) {
                warn!("{text}");
            }
        }
        debug!(planned = report.planned.len(), errors = errors.len(), "compared");
        self.shared.summary.send_modify(|summary| {
            if summary.run_count == 0 {
                summary.first_planned_count = report.planned.len();
            }
            summary.run_count += 1;
            summary.last_planned_count = report.planned.len();
            summary.last_errors.clone_from(&errors);
            summary.unrouted = unrouted;
        });
        if let Some(ready) = report.ready_pools {
            self.shared.world.set_tagged(ready.iter().map(|pool| (pool.cidr, pool.tag)).collect());
        }
        errors
    }

    /// Brings back the routes that the last run wanted, at once: what a run reads and starts besides would have packets
    /// wait.
    ///
    /// Routes that were merely taken away (to these ranges) come first: for them nothing has to be read.
    async fn repair(&self, gone: Vec<Cidr>) {
        let shared = self.shared.clone();
        let repair = move || {
            let restored = shared.dataplane.restore(&gone);
            (restored, shared.dataplane.repair())
        };
        let done = self.shared.kernel_work.run(repair).await;
        let (restored, report) = match done {
            Ok(done) => done,
            Err(error) => return warn!(%error, "routes are left to the next comparison"),
        };
        for planned in restored.iter().chain(&report.planned) {
            info!(operation = planned, "repaired the routes");
        }
        for error in &report.errors {
            warn!(%error, "the routes are not as they should be");
        }
    }

    /// Runs whenever there is a cause, until `stop` fires.
    pub async fn follow(self, resync: Duration, stop: CancellationToken) {
        let events = tokio::spawn(watch_kernel(self.clone(), stop.clone()));
        tokio::join!(self.clone().run_on_cause(resync, &stop), watch_paths(&self, &stop));
        let _ = events.await;
    }

    async fn run_on_cause(self, resync: Duration, stop: &CancellationToken) {
        let mut views = self.shared.world.changes();
        let mut last_run = Instant::now();
        while !stop.is_cancelled() {
            let failed = !self.summary().last_errors.is_empty();
            let pause = if failed { RETRY_DELAY } else { resync };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.shared.wanted.notified() => {}
                _ = views.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            tokio::time::sleep(DEBOUNCE.max(MIN_INTERVAL.saturating_sub(last_run.elapsed()))).await;
            views.mark_unchanged();
            self.run().await;
            last_run = Instant::now();
        }
    }
}

/// Lowers routes when a router has said that a way to a node carries less. The programs have nobody to tell, so what they
/// noted is looked at; it is next to nothing.
async fn watch_paths(reconciler: &Reconciler, stop: &CancellationToken) {
    if !reconciler.shared.reach.many_nodes {
        return;
    }
    let mut known = BTreeMap::new();
    while stop.run_until_cancelled(tokio::time::sleep(PATHS_INTERVAL)).await.is_some() {
        let dataplane = reconciler.shared.dataplane.clone();
        match reconciler.shared.kernel_work.run(move || dataplane.path_mtus()).await {
            Ok(Ok(said)) if said != known => {
                known = said;
                reconciler.repair(Vec::new()).await;
                reconciler.want();
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(%error, "what routers said is not seen"),
            Err(error) => debug!(%error, "what routers said is not seen"),
        }
    }
}

/// Asks for a run for every change that the kernel tells of. Our own changes cause one more run, which plans
/// nothing.
async fn watch_kernel(reconciler: Reconciler, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let mut events = match reconciler.shared.dataplane.events() {
            Ok(events) => events,
            Err(error) => {
                warn!(%error, "changes of the kernel are not seen; only the timer repairs");
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            }
        };
        // What happened before the subscription.
        reconciler.want();
        loop {
            match stop.run_until_cancelled(events.next()).await {
                None => return,
                Some(Ok(event)) => {
                    debug!(?event, "the kernel changed");
                    let gone = events.take_gone();
                    if event >= Event::Underlay {
                        reconciler.repair(gone).await;
                    }
                    reconciler.want();
                }
                Some(Err(error)) => {
                    warn!(%error, "subscribing to changes of the kernel anew");
                    break;
                }
            }
        }
    }
}

impl Shared {
    fn reconcile(&self) -> Report {
        // First of all: pods wired or unwired from here on are left alone.
        let since = self.dataplane.epoch();
        let view = self.world.view();
        let pools = view.desired_pools();
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are being wired as well: what is theirs must not be swept before their commit. That one of them
        // has no interface yet is no work for a reconciliation.
        let ours = ledger.pods().filter(|pod| !pod.foreign_interface);
        let pods = ours.map(|pod| pod.identity.clone()).collect();
        // A borrowed address is not a range of ours: its pod's own route, or nothing.
        let is_tenure = |block: &Cidr| ledger.keeper().tenure(block).is_some();
        // How addresses of another plugin's interfaces are reached here is that plugin's business.
        let foreign: Vec<_> = ledger.pods().filter(|pod| pod.foreign_interface).cloned().collect();
        let is_shared = |block: &Cidr| {
            foreign.iter().any(|pod| pod.identity.addresses().any(|address| block.contains(address)))
        };
        let mut own_blocks: BTreeSet<Cidr> =
            ledger.ipam().blocks().map(ipam::Block::cidr).filter(is_tenure).collect();
        let shared: Vec<Cidr> = own_blocks.iter().copied().filter(is_shared).collect();
        let inner_ipv4 = ledger.inner_ipv4();
        drop(ledger);
        let serves = |family| pools.iter().any(|pool| pool.cidr.family() == family);
        let (mut peers, mut remote_ranges, mut underlay_ipv4) = (Vec::new(), Vec::new(), self.reach.node_ip);
        let own_ranges = if self.reach.many_nodes {
            let nodes = self.world.nodes.kept().read();
            nodes.rows.get(&view.me.name).map(|row| row.pod_cidrs.clone()).unwrap_or_default()
        } else {
            self.reach.pod_cidrs.clone()
        };
        own_blocks.extend(own_ranges.into_iter().filter(|cidr| delegated_pool(cidr, &view.pools).is_some()));
        if self.reach.many_nodes {
            let nodes = self.world.nodes.kept().read();
            let ranges = self.world.blocks.kept().ranges();
            (peers, remote_ranges) = remote_of(&ranges, &nodes, &view.me.name, &own_blocks, &view.pools);
            let own = nodes.rows.get(&view.me.name).and_then(|row| row.ipv4);
            underlay_ipv4 = underlay_ipv4.or(own);
        }
        own_blocks.retain(|block| !shared.contains(block));
        let mut closed_ranges = closed_ranges(&view, self.reach.many_nodes);
        // A pool that is on a link of another plugin's as a part of it is reached by that link's route, which is wider.
        closed_ranges.retain(|range| is_closed_always(&view, range) || !is_shared(range));
        let desired = DesiredState {
            since,
            // Before the store was read once, what is not known here may be there all the same.
            sweep: self.sweep && self.world.is_complete(),
            forward_ipv4: serves(Family::V4),
            forward_ipv6: serves(Family::V6),
            own_blocks: own_blocks.into_iter().collect(),
            closed_ranges,
            peers,
            remote_ranges,
            underlay_ipv4,
            inner_ipv4,
            pods,
            pools,
        };
        match self.dataplane.uplink() {
            Ok(uplink) => drop(self.uplink.send_replace(Some(uplink))),
            Err(error) => warn!(%error, "the uplink cannot be read"),
        }
        self.dataplane.reconcile(&desired)
    }
}

/// What is said of ranges without a route: a line for each node, and of a great many one that counts the rest.
fn unrouted_texts(report: &Report) -> Vec<String> {
    let line = |unrouted: &dataplane::Unrouted| {
        let (count, node, reason) = (unrouted.ranges_count, &unrouted.node, &unrouted.reason);
        format!("no route to {count} ranges of node {node}: {reason}")
    };
    let mut texts: Vec<String> = report.unrouted.iter().take(UNROUTED_NAMED_MAX).map(line).collect();
    let more = report.unrouted.len().saturating_sub(UNROUTED_NAMED_MAX);
    if more > 0 {
        texts.push(format!("no route to ranges of {more} more nodes"));
    }
    texts
}

/// Ranges whose addresses are in a known block, or nowhere.
///
/// 1. Where there is but this node: those of all pools.
/// 2. Among other nodes: those of pools that may be encapsulated, and of pools that are not known; what is in none of
///    their blocks must not leave by the default route, bare. The underlay may know where the others are.
fn closed_ranges(view: &View, many_nodes: bool) -> Vec<Cidr> {
    let is_closed = |entry: &&ipam::RegistryEntry| {
        let pool = view.pools.by_name(&entry.name).filter(|pool| pool.uid == entry.uid);
        let mode = pool.map_or(IpipMode::Always, |pool| pool.ipip_mode);
        !many_nodes || entry.cidr.family() == Family::V4 && mode.may_encapsulate()
    };
    view.registry.entries().filter(is_closed).map(|entry| entry.cidr).collect()
}

/// Whether what is in no known block must not leave bare, whoever has addresses of the range.
fn is_closed_always(view: &View, range: &Cidr) -> bool {
    let pool = view.pools.by_address(range.network());
    range.family() == Family::V4 && pool.is_none_or(|pool| pool.ipip_mode.may_encapsulate())
}
