//! What must hold at any time, and what must hold when faults have ended and everything has had its time: the one
//! place to add to.
//!
//! Agents are asked as a runtime or an operator would; what they answer is held against the record, the kernels and the
//! store's own objects.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipam::check::{LiveHolder, Member, Snapshot, Strength};
use model::{Cidr, Handle};
use poolward_agent::node::Node;
use poolward_agent::node::admission::registry_of;
use rpc::{AddressUsage, ErrorCode, IpamReply, IpamShowRequest, NodeStatusReply, Reply, Request};
use store::Store;
use store::resource::{IpBlock, IpPool, IpPoolRegistry, IpReservation};
use tokio::time::sleep;

use crate::record::{Phase, PodRecord, Violation};
use crate::scenario::Scenario;
use crate::sim::{CONVERGENCE, Sim};
use crate::store::{FaultyStore, locked};

/// Pods that fill pools have numbers from here on.
const FILL_PODS_FROM: u32 = 1_000_000;

/// How often an ADD is repeated whose refusal says that it may be.
const TRIES_MAX: usize = 5;

/// Checks everything, and stops after the first part in which something is broken.
pub(crate) async fn at_rest(sim: &Arc<Sim>, scenario: &Scenario) {
    for machine in there(sim) {
        sim.gc(machine, Duration::ZERO).await;
    }
    forget_collected(sim);
    sleep(CONVERGENCE).await;
    in_order(sim, "after the faults").await;
    if is_broken(sim) {
        return;
    }
    promises(sim).await;
    snapshot(sim).await;
    if is_broken(sim) {
        return;
    }
    fill(sim).await;
    sleep(CONVERGENCE).await;
    in_order(sim, "with all pools full").await;
    if is_broken(sim) {
        return;
    }
    let up: Vec<u32> =
        (0..sim.machines.len()).flat_map(|machine| sim.record().pods_on(machine, &[Phase::Up])).collect();
    for pod in up {
        sim.del(pod).await;
    }
    sleep(CONVERGENCE).await;
    in_order(sim, "with all pods gone").await;
    nothing_is_left(sim, scenario).await;
}

/// What must hold between any two steps, looked at now and then.
pub(crate) async fn always(sim: &Arc<Sim>) {
    if !is_broken(sim) {
        invariants(sim, Strength::Always, "under way").await;
    }
}

/// Machines that are not off for good.
fn there(sim: &Sim) -> impl Iterator<Item = usize> + use<> {
    let there: Vec<usize> = sim
        .machines
        .iter()
        .enumerate()
        .filter(|(_, machine)| !machine.is_removed())
        .map(|(at, _)| at)
        .collect();
    there.into_iter()
}

/// Every invariant of allocation over all agents that serve, the store, and who was really given what.
async fn invariants(sim: &Arc<Sim>, strength: Strength, when: &str) {
    let broken = std::mem::take(&mut locked(&sim.cluster.tally).broken);
    for Violation { rule, what } in broken {
        sim.record().broken(rule, what);
    }
    let (blocks, nodes) = (sim.cluster.blocks().await, sim.cluster.nodes().await);
    let registries = sim.cluster.objects.list::<IpPoolRegistry>().await.map(|list| list.items);
    let registry = registry_of(registries.unwrap_or_default().first()).unwrap_or_default();
    let agents: Vec<(usize, Arc<Node<FaultyStore>>)> =
        sim.machines.iter().enumerate().filter_map(|(at, machine)| Some((at, machine.node()?))).collect();
    let views: Vec<_> = agents.iter().map(|(_, node)| (node.world.view(), node.now())).collect();
    let promised: Vec<(usize, Handle, IpAddr)> = {
        let record = sim.record();
        let up = record.pods.iter().filter(|(_, known)| known.phase == Phase::Up);
        up.filter_map(|(pod, known)| {
            let handle = Handle::new(&format!("c{pod}"), &format!("eth{pod}")).ok()?;
            Some(known.addresses.iter().map(move |address| (known.machine, handle.clone(), *address)))
        })
        .flatten()
        .collect()
    };
    let found = {
        let ledgers: Vec<_> = agents.iter().map(|(_, node)| node.ledger()).collect();
        let members =
            agents.iter().zip(&ledgers).zip(&views).map(|(((_, node), ledger), (view, now))| Member {
                name: &node.config.node_name,
                ipam: ledger.ipam(),
                keeper: Some(ledger.keeper()),
                view: Some((view.cluster(), *now)),
            });
        let live = promised.iter().filter_map(|(machine, handle, address)| {
            let (_, agent) = agents.iter().find(|(at, _)| at == machine)?;
            Some(LiveHolder { address: *address, handle, node: &agent.config.node_name })
        });
        let snapshot = Snapshot {
            blocks: blocks.iter().map(|block| (block.cidr, block)).collect(),
            registry: Some(&registry),
            pools: None,
            nodes: nodes.as_ref(),
            members: members.collect(),
            live: Some(live.collect()),
            unreadable: Vec::new(),
        };
        ipam::check::check(&snapshot, strength)
    };
    for violation in found {
        sim.record().broken(violation.rule(), format!("{when}: {}: {violation}", violation.word()));
    }
}

fn is_broken(sim: &Sim) -> bool {
    !sim.record().violations().is_empty()
}

/// Pods that the runtime does not know any more went with the GC.
fn forget_collected(sim: &Sim) {
    for known in sim.record().pods.values_mut().filter(|known| known.forgotten) {
        known.phase = Phase::Gone;
    }
}

/// Every agent serves without errors, its kernel is as it should be, and both know just the pods that were promised.
async fn in_order(sim: &Arc<Sim>, when: &str) {
    for number in there(sim) {
        let name = &sim.machines[number].name;
        match sim.ask(number, Request::NodeStatus, None, None).await {
            Some(Reply::Node(status)) => {
                let NodeStatusReply { ready, not_ready_reasons, reconcile, .. } = *status;
                if !ready || reconcile.last_planned != 0 {
                    let what = format!(
                        "{name}, {when}: ready {ready} {not_ready_reasons:?}, {} operations planned",
                        reconcile.last_planned
                    );
                    sim.record().broken("a kernel at rest is as desired", what);
                }
            }
            other => {
                sim.record().broken("agents serve", format!("{name}, {when}: status: {other:?}"));
            }
        }
        if let Some(Reply::Error(error)) = sim.ask(number, Request::CniStatus, None, None).await
            && error.code != ErrorCode::NotReady
        {
            sim.record().broken("agents serve", format!("{name}, {when}: STATUS: {error}"));
        }
        kernel(sim, number, when);
        used(sim, number, when).await;
        match sim.ask(number, Request::IpamCheck, None, None).await {
            Some(Reply::IpamChecked(checked)) => {
                for violation in checked.violations {
                    let what = format!("{name}, {when}: {}: {}", violation.kind, violation.message);
                    sim.record().broken("ipam check finds nothing", what);
                }
            }
            other => {
                sim.record().broken("agents serve", format!("{name}, {when}: ipam check: {other:?}"));
            }
        }
    }
    invariants(sim, Strength::AtRest, when).await;
}

/// The kernel has an interface for each pod that is up, with its addresses, and no other.
fn kernel(sim: &Sim, machine: usize, when: &str) {
    let name = &sim.machines[machine].name;
    let mut found = BTreeSet::new();
    for interface in sim.machines[machine].kernel.interfaces() {
        match interface.identity {
            Ok(identity) => {
                let addresses: Vec<IpAddr> = identity.addresses().collect();
                found.insert((identity.handle.container_id().to_owned(), addresses));
            }
            Err(error) => {
                let what = format!("{name}, {when}: interface {}: {error}", interface.host_ifname);
                sim.record().broken("interfaces say whose they are", what);
            }
        }
    }
    let promised = promised(sim, machine);
    for (container, addresses) in promised.difference(&found) {
        let what = format!("{name}, {when}: {container} has no interface with {addresses:?}");
        sim.record().broken("no successful ADD is forgotten", what);
    }
    for (container, addresses) in found.difference(&promised) {
        let what = format!("{name}, {when}: an interface of {container} with {addresses:?}");
        sim.record().broken("no failed ADD and no DEL leaves anything", what);
    }
}

/// Container ids and addresses of the pods that are up.
fn promised(sim: &Sim, machine: usize) -> BTreeSet<(String, Vec<IpAddr>)> {
    let record = sim.record();
    let up = |(_, known): &(&u32, &PodRecord)| known.machine == machine && known.phase == Phase::Up;
    record.pods.iter().filter(up).map(|(pod, known)| (format!("c{pod}"), known.addresses.clone())).collect()
}

/// The agent counts each address once, and as used just those that were promised.
async fn used(sim: &Arc<Sim>, machine: usize, when: &str) {
    let name = sim.machines[machine].name.clone();
    let reply = sim.ask(machine, Request::IpamShow(IpamShowRequest::default()), None, None).await;
    let Some(Reply::Ipam(IpamReply { pools, blocks, addresses })) = reply else {
        return sim.record().broken("agents serve", format!("{name}, {when}: ipam show: {reply:?}"));
    };
    let usages = pools.iter().map(|pool| (&pool.cidr, pool.usage));
    for (cidr, usage) in usages.chain(blocks.iter().map(|block| (&block.cidr, block.usage))) {
        if usage.used + usage.free + usage.cooling + usage.reserved != usage.size {
            let what = format!("{name}, {when}: {cidr}: {usage:?}");
            sim.record().broken("used + free + cooling + reserved = size", what);
        }
    }
    let of_handle = |usage: &AddressUsage| {
        let container = usage.handle.split('/').next().unwrap_or_default();
        (container.to_owned(), usage.address)
    };
    let told: BTreeSet<(String, IpAddr)> = addresses.iter().map(of_handle).collect();
    let promised: BTreeSet<(String, IpAddr)> = promised(sim, machine)
        .into_iter()
        .flat_map(|(container, own)| own.into_iter().map(move |address| (container.clone(), address)))
        .collect();
    for (container, address) in promised.difference(&told) {
        let what = format!("{name}, {when}: {address} of {container} is not used");
        sim.record().broken("no successful ADD is forgotten", what);
    }
    for (container, address) in told.difference(&promised) {
        let what = format!("{name}, {when}: {address} is held for {container}");
        sim.record().broken("no failed ADD and no DEL leaves anything", what);
    }
}

/// A repeated ADD of every pod gives what it gave before, and CHECK finds it as it was.
async fn promises(sim: &Arc<Sim>) {
    for machine in there(sim) {
        let up = sim.record().pods_on(machine, &[Phase::Up]);
        for pod in up {
            match sim.send_add(pod, None).await {
                Some(Ok(_)) => {}
                other => {
                    sim.record()
                        .broken("a repeated ADD gives the same addresses", format!("c{pod}: {other:?}"));
                }
            }
            sim.check(pod).await;
        }
    }
}

/// What must hold of the store's objects by themselves.
async fn snapshot(sim: &Arc<Sim>) {
    let (Ok(blocks), Ok(pools)) =
        (sim.cluster.objects.list::<IpBlock>().await, sim.cluster.objects.list::<IpPool>().await)
    else {
        return sim.record().broken("the store can be read", "");
    };
    let ranges: Vec<Cidr> =
        blocks.items.iter().filter_map(|block| block.value.spec.cidr.parse().ok()).collect();
    for (at, range) in ranges.iter().enumerate() {
        if let Some(other) = ranges.iter().skip(at + 1).find(|other| other.overlaps(range)) {
            sim.record().broken("blocks do not overlap", format!("{range} and {other}"));
        }
    }
    for block in &blocks.items {
        let spec = &block.value.spec;
        if !pools.items.iter().any(|pool| pool.value.metadata.name == spec.pool) {
            let what = format!("block {} of pool {}, node {}", spec.cidr, spec.pool, spec.node);
            sim.record().broken("every block is of a pool", what);
        }
    }
}

/// Everything that is free can be had: every machine in turn takes from each pool what it gets. Then nothing is free in
/// any block that there is; and where nobody is kept from claiming, nothing is free at all.
async fn fill(sim: &Arc<Sim>) {
    let mut next = FILL_PODS_FROM;
    let claims = |machine: usize| {
        let settings = sim.machines[machine].settings();
        settings.auto_allocate_blocks && settings.max_blocks_per_node.is_none()
    };
    let all_claim = there(sim).all(claims);
    for (name, cidr) in open_pools(sim).await {
        let mut free = free_addresses(sim, cidr).await;
        for machine in there(sim) {
            while let Some(given) = fill_one(sim, next, machine, &name).await {
                next += 1;
                for address in given {
                    if !free.remove(&address) {
                        let what = format!("{address} of pool {name} was not free, or is reserved");
                        sim.record().broken("automatic assignment gives free addresses", what);
                    }
                }
            }
            next += 1;
        }
        let blocks = sim.cluster.blocks().await;
        free.retain(|address| all_claim || blocks.iter().any(|block| block.cidr.contains(*address)));
        if !free.is_empty() {
            let what = format!("pool {name}: nobody gets {free:?}");
            sim.record().broken("everything free is assignable", what);
        }
    }
}

/// One more pod of that pool; nothing when the machine's agent has none left.
async fn fill_one(sim: &Arc<Sim>, pod: u32, machine: usize, pool: &str) -> Option<Vec<IpAddr>> {
    let record = PodRecord {
        machine,
        phase: Phase::Adding,
        addresses: Vec::new(),
        netns: pod as usize,
        add_count: 0,
        forgotten: false,
        pool: Some(pool.to_owned()),
    };
    sim.record().pods.insert(pod, record);
    let mut last = None;
    for _ in 0..TRIES_MAX {
        match sim.send_add(pod, None).await {
            Some(Ok(added)) => return Some(added.addresses.iter().map(|own| own.address).collect()),
            Some(Err(error)) if error.code == ErrorCode::Exhausted => return None,
            other => last = other,
        }
        sleep(Duration::from_secs(1)).await;
    }
    sim.record().broken("an ADD is served or refused", format!("c{pod} on machine {machine}: {last:?}"));
    None
}

/// Pools that must give what they have: admitted, enabled, and not being deleted.
async fn open_pools(sim: &Sim) -> Vec<(String, Cidr)> {
    let objects = &sim.cluster.objects;
    let (Ok(pools), Ok(registries)) =
        (objects.list::<IpPool>().await, objects.list::<IpPoolRegistry>().await)
    else {
        return Vec::new();
    };
    let entries: Vec<_> = registries.items.iter().flat_map(|registry| &registry.value.spec.entries).collect();
    let open = pools.items.iter().filter(|pool| {
        let name = &pool.value.metadata.name;
        let entry = entries.iter().find(|entry| entry.name == *name && entry.uid == pool.uid);
        !pool.value.spec.disabled && entry.is_some_and(|entry| !entry.terminating)
    });
    open.filter_map(|pool| Some((pool.value.metadata.name.clone(), pool.value.spec.cidr.parse().ok()?)))
        .collect()
}

/// Addresses of a range that no pod has and no reservation keeps.
async fn free_addresses(sim: &Sim, cidr: Cidr) -> BTreeSet<IpAddr> {
    let reservations =
        sim.cluster.objects.list::<IpReservation>().await.map(|list| list.items).unwrap_or_default();
    let reserved: Vec<Cidr> = reservations
        .iter()
        .flat_map(|reservation| &reservation.value.spec.reserved_cidrs)
        .filter_map(|range| range.parse().ok())
        .collect();
    let record = sim.record();
    let held: BTreeSet<IpAddr> =
        record.pods.values().flat_map(|known| known.addresses.iter().copied()).collect();
    let all = (0..cidr.size()).filter_map(|at| cidr.nth(at));
    all.filter(|address| !held.contains(address) && !reserved.iter().any(|range| range.contains(*address)))
        .collect()
}

/// Without pods, what was being deleted is gone.
async fn nothing_is_left(sim: &Arc<Sim>, scenario: &Scenario) {
    let Ok(registries) = sim.cluster.objects.list::<IpPoolRegistry>().await else { return };
    for entry in registries.items.iter().flat_map(|registry| &registry.value.spec.entries) {
        if entry.terminating {
            let what = format!("pool {} of {} machines", entry.name, scenario.machine_count);
            sim.record().broken("a pool that is deleted goes with its last pod", what);
        }
    }
    snapshot(sim).await;
}
