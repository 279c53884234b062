//! A kernel in memory, for unit tests and simulation: it keeps what operations say and can be told to fail at any of
//! them.
//!
//! It proves in which order operations come, and that what is done is taken back. It cannot prove that the real
//! kernel accepts an operation, that what hangs on an interface goes with it as it does here, what travels together
//! and is carried out although an earlier part failed, or anything about time and packets. Each of its rules is
//! anchored once in the privileged tests of this crate (`tests/dataplane`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bpf::PoolCounters;
use model::TagId;
use tokio::sync::Notify;

use super::message::LOOPBACK_IFINDEX;
use super::{ErrorKind, Failure, Kernel, KernelError, Place, PodSide, RouteTable};
use crate::events::Events;
use crate::object::{
    FoundNexthop, FoundRoute, Hop, Link, LinkAddress, NatState, Neighbour, PathMtu, Programs, Route,
    RouteTarget, Sysctl, Tunnel,
};
use crate::op::{Op, Outcome, VethEnds};

/// What the fake holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) routes: BTreeSet<Route>,
    /// Those of them that something foreign comes before.
    pub(crate) shadowed: BTreeSet<Route>,
    pub(crate) nexthops: BTreeMap<u32, FoundNexthop>,
    pub(crate) addresses: BTreeSet<LinkAddress>,
    /// How nodes are reached; nothing here follows from routes and addresses.
    pub(crate) hops: BTreeMap<IpAddr, Hop>,
    pub(crate) path_mtus: BTreeMap<Ipv4Addr, PathMtu>,
    /// Stands still.
    pub(crate) uptime: Duration,
    pub(crate) neighbours: BTreeSet<Neighbour>,
    pub(crate) programs: Programs,
    pub(crate) nat: Option<crate::object::NatTable>,
    pub(crate) sysctls: BTreeMap<Sysctl, u8>,
    /// The pods' ends, by the inode of the namespace and their number there.
    pub(crate) pods: BTreeMap<(u64, u32), PodSide>,
}

/// Says of each operation whether it fails.
pub(crate) type Oracle = Box<dyn FnMut(&dyn fmt::Display) -> bool + Send>;

/// The number of the first interface that is made.
const FIRST_IFINDEX: u32 = 101;

/// How much greater the number of a pod's end is than that of its host's end: any two differ.
const POD_IFINDEX_OFFSET: u32 = 1_000_000;

#[derive(Default)]
pub(crate) struct Fake {
    state: Mutex<State>,
    /// Interfaces made so far: as in the kernel, no number is given twice.
    made_count: AtomicU32,
    /// Decides about failures beside those of `failures`.
    oracle: Mutex<Option<Oracle>>,
    /// Told of every change.
    changed: Arc<Notify>,
    /// Every operation asked for, in order.
    #[cfg(test)]
    log: Mutex<Vec<Op>>,
    /// How many operations from now on succeed before one fails, for each failure to come.
    #[cfg(test)]
    failures: Mutex<BTreeSet<usize>>,
}

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// The operations so many places from now fail.
    #[cfg(test)]
    pub(crate) fn fail_at(&self, places: &[usize]) {
        *locked(&self.failures) = places.iter().copied().collect();
    }

    #[cfg(test)]
    pub(crate) fn take_log(&self) -> Vec<Op> {
        std::mem::take(&mut locked(&self.log))
    }

    /// From now on this decides which operations fail.
    #[cfg(feature = "fake")]
    pub(crate) fn set_oracle(&self, oracle: Option<Oracle>) {
        *locked(&self.oracle) = oracle;
    }

    /// Whoever listens looks.
    pub(crate) fn tell(&self) {
        self.changed.notify_one();
    }

    /// Whether an operation fails although nothing speaks against it.
    fn fails(&self, op: &Op) -> bool {
        #[cfg(test)]
        {
            locked(&self.log).push(op.clone());
            let mut failures = locked(&self.failures);
            let fails = failures.remove(&0);
            *failures = failures.iter().map(|place| place - 1).collect();
            if fails {
                return true;
            }
        }
        locked(&self.oracle).as_mut().is_some_and(|oracle| oracle(op))
    }

    fn exec_one(
        &self,
        place: Place<'_>,
        netns: Option<BorrowedFd<'_>>,
        op: &Op,
    ) -> Result<Outcome, KernelError> {
        if self.fails(op) {
            return Err(KernelError::other(op.to_string(), "told to fail"));
        }
        let mut state = self.state();
        if let Place::Pod(netns) = place {
            exec_in_pod(&mut state, inode_of(netns)?, op);
            return Ok(Outcome::Done);
        }
        let exists = || KernelError::other(op.to_string(), "it exists").with_kind(ErrorKind::Exists);
        match op {
            Op::CreateVeth(spec) => {
                let namespace = netns.map_or(Ok(0), inode_of)?;
                let in_pod = |(key, side): (&(u64, u32), &PodSide)| {
                    key.0 == namespace && side.link.as_ref().is_some_and(|l| l.ifname == spec.pod_ifname)
                };
                if state.links.values().any(|link| link.ifname == spec.host_ifname)
                    || state.pods.iter().any(in_pod)
                {
                    return Err(exists());
                }
                let ifindex = FIRST_IFINDEX + self.made_count.fetch_add(1, Ordering::Relaxed);
                let ends = VethEnds { host_ifindex: ifindex, pod_ifindex: ifindex + POD_IFINDEX_OFFSET };
                let peer = Link {
                    ifindex: ends.pod_ifindex,
                    ifname: spec.pod_ifname.clone(),
                    mac: Some(spec.pod_mac),
                    mtu_bytes: spec.mtu_bytes,
                    veth: true,
                    peer_ifindex: Some(ifindex),
                    ..Link::default()
                };
                let side = PodSide { link: Some(peer), ..PodSide::default() };
                state.pods.insert((namespace, ends.pod_ifindex), side);
                let link = Link {
                    ifindex,
                    ifname: spec.host_ifname.clone(),
                    alias: spec.alias.clone(),
                    mac: Some(spec.host_mac),
                    mtu_bytes: spec.mtu_bytes,
                    veth: true,
                    peer_ifindex: Some(ends.pod_ifindex),
                    ..Link::default()
                };
                state.links.insert(ifindex, link);
                return Ok(Outcome::Created(ends));
            }
            Op::DeleteLink { ifindex, .. } => state.remove_link(*ifindex),
            Op::SetLinkUp { ifindex, .. } => {
                if let Some(link) = state.links.get_mut(ifindex) {
                    link.up = true;
                }
            }
            Op::AwaitCarrier { ifindex, .. } => {
                if let Some(link) = state.links.get_mut(ifindex) {
                    link.operational = true;
                }
            }
            Op::AddRoute { route, exclusive } => {
                let same =
                    |other: &&Route| (other.destination, other.metric) == (route.destination, route.metric);
                if *exclusive && state.routes.iter().any(|other| same(&other)) {
                    return Err(exists());
                }
                state.check_route(route, op)?;
                state.routes.insert(*route);
            }
            Op::ReplaceRoute { old, new } => {
                state.check_route(new, op)?;
                state.routes.remove(old);
                state.routes.insert(*new);
            }
            Op::AddNexthop { id, nexthop, protocol } | Op::ReplaceNexthop { id, nexthop, protocol } => {
                if matches!(op, Op::AddNexthop { .. }) == state.nexthops.contains_key(id) {
                    return Err(exists());
                }
                if !state.links.get(&nexthop.ifindex).is_some_and(Link::carries) {
                    return Err(KernelError::other(op.to_string(), "no carrier"));
                }
                let found = FoundNexthop { id: *id, protocol: *protocol, says: Some(*nexthop) };
                state.nexthops.insert(*id, found);
            }
            Op::DeleteNexthop { id } => state.remove_nexthops(|found| found.id == *id),
            Op::AddOwnAddress(address) => {
                state.addresses.insert(own_address(*address));
            }
            Op::DeleteOwnAddress(address) => state.remove_address(&own_address(*address)),
            Op::SetTunnel { spec, .. } => {
                let found = state.links.values().find(|l| l.ifname == spec.ifname).map(|l| l.ifindex);
                let number = || FIRST_IFINDEX + self.made_count.fetch_add(1, Ordering::Relaxed);
                let ifindex = found.unwrap_or_else(number);
                let link = state.links.entry(ifindex).or_default();
                link.ifindex = ifindex;
                link.ifname.clone_from(&spec.ifname);
                link.mtu_bytes = spec.mtu_bytes;
                link.carrier = true;
                link.up |= found.is_none();
                link.tunnel = Some(Tunnel { local: Some(spec.local), special: false });
            }
            Op::SetRemoteRange { cidr, rule } => {
                state.programs.remote_ranges.insert(*cidr, *rule);
            }
            Op::RemoveRemoteRange { cidr } => {
                state.programs.remote_ranges.remove(cidr);
            }
            Op::SetPeer { address, inner } => {
                state.programs.peers.insert(*address, *inner);
            }
            Op::RemovePeer { address } => {
                state.programs.peers.remove(address);
            }
            Op::RemovePathMtu { node } => {
                state.path_mtus.remove(node);
            }
            Op::SetUplink { ifindex, rule } => {
                state.programs.uplinks.entry(*ifindex).or_default().rule = Some(*rule);
            }
            Op::AttachUplink { ifindex } => {
                state.programs.uplinks.entry(*ifindex).or_default().attached = true;
            }
            Op::DetachUplink { ifindex } => {
                state.programs.uplinks.remove(ifindex);
            }
            Op::DeleteRoute(route) => {
                state.routes.remove(route);
            }
            Op::SetNeighbour(neighbour) => {
                state.neighbours.insert(*neighbour);
            }
            Op::Attach { ifindex } => {
                state.programs.attached.insert(*ifindex);
                state.programs.pinned.insert(*ifindex);
            }
            Op::Settle { ifindex } => {
                state.programs.unsettled.remove(ifindex);
                state.programs.attached.insert(*ifindex);
            }
            Op::Detach { ifindex } => {
                state.programs.unsettled.remove(ifindex);
                state.programs.attached.remove(ifindex);
                state.programs.pinned.remove(ifindex);
            }
            Op::SetEndpoint { ifindex, endpoint } => {
                state.programs.endpoints.insert(*ifindex, endpoint.clone());
            }
            Op::RemoveEndpoint { ifindex } => {
                state.programs.endpoints.remove(ifindex);
            }
            Op::SetPool { cidr, entry } => {
                state.programs.pools.insert(*cidr, *entry);
                state.programs.counted.insert(entry.tag);
            }
            Op::RemovePool { cidr } => {
                state.programs.pools.remove(cidr);
            }
            Op::ForgetTag(tag) => {
                state.programs.counted.remove(tag);
            }
            Op::SetMarks(_) => state.programs.marks_ok = true,
            Op::ReplaceNat(table) => state.nat = Some(table.clone()),
            Op::RemoveNat => state.nat = None,
            Op::SetSysctl { sysctl, value } => {
                state.sysctls.insert(sysctl.clone(), *value);
            }
            Op::AddAddress { .. } => {
                return Err(KernelError::other(op.to_string(), "the node gets no addresses"));
            }
        }
        Ok(Outcome::Done)
    }
}

fn own_address(address: Ipv4Addr) -> LinkAddress {
    let address = IpAddr::V4(address);
    LinkAddress { ifindex: LOOPBACK_IFINDEX, address, prefix_len: 32, ours: true, lasting: true }
}

impl State {
    /// What a route names has to be there.
    fn check_route(&self, route: &Route, op: &Op) -> Result<(), KernelError> {
        let refused = |text: &str| Err(KernelError::other(op.to_string(), text));
        match route.target {
            RouteTarget::Nexthop { id } if !self.nexthops.contains_key(&id) => {
                return refused("no such nexthop");
            }
            _ => {}
        }
        match route.source.map(IpAddr::V4) {
            Some(source) if !self.addresses.iter().any(|found| found.address == source) => {
                refused("the source is no address of the node")
            }
            _ => Ok(()),
        }
    }

    /// Nexthop objects go, and silently the routes by them.
    pub(crate) fn remove_nexthops(&mut self, goes: impl Fn(&FoundNexthop) -> bool) {
        self.nexthops.retain(|_, found| !goes(found));
        let left = &self.nexthops;
        self.routes.retain(|r| !matches!(r.target, RouteTarget::Nexthop { id } if !left.contains_key(&id)));
    }

    /// An address goes, and silently the routes from it.
    pub(crate) fn remove_address(&mut self, address: &LinkAddress) {
        self.addresses.remove(address);
        self.routes.retain(|route| route.source.map(IpAddr::V4) != Some(address.address));
    }

    /// An interface goes, and what hangs on it: by an operation, or with its pod's namespace.
    pub(crate) fn remove_link(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.routes.retain(|r| !matches!(r.target, RouteTarget::Link { ifindex: on, .. } if on == ifindex));
        self.remove_nexthops(|found| found.says.is_some_and(|nexthop| nexthop.ifindex == ifindex));
        self.neighbours.retain(|neighbour| neighbour.ifindex != ifindex);
        self.programs.unsettled.remove(&ifindex);
        self.programs.attached.remove(&ifindex);
        self.programs.pinned.remove(&ifindex);
        self.pods.retain(|(_, number), _| *number != ifindex + POD_IFINDEX_OFFSET);
    }
}

/// Switches inside pods are not kept.
fn exec_in_pod(state: &mut State, namespace: u64, op: &Op) {
    let side_of = |pods: &mut BTreeMap<(u64, u32), PodSide>, number: u32, change: &dyn Fn(&mut PodSide)| {
        if let Some(side) = pods.get_mut(&(namespace, number)) {
            change(side);
        }
    };
    match op {
        Op::AddAddress { ifindex, address } => side_of(&mut state.pods, *ifindex, &|side| {
            side.addresses.push((*address, if address.is_ipv4() { 32 } else { 128 }));
        }),
        Op::SetLinkUp { ifname, .. } => {
            let sides = state.pods.iter_mut().filter(|((at, _), _)| *at == namespace);
            for link in sides.filter_map(|(_, side)| side.link.as_mut()) {
                link.up |= link.ifname == *ifname;
            }
        }
        Op::SetNeighbour(neighbour) => {
            side_of(&mut state.pods, neighbour.ifindex, &|side| side.neighbours.push(*neighbour));
        }
        Op::AddRoute { route, .. } => {
            if let RouteTarget::Link { ifindex, .. } = route.target {
                side_of(&mut state.pods, ifindex, &|side| side.routes.push(*route));
            }
        }
        _ => {}
    }
}

fn inode_of(netns: BorrowedFd<'_>) -> Result<u64, KernelError> {
    let stat =
        rustix::fs::fstat(netns).map_err(|error| KernelError::io("look at a namespace", error.into()))?;
    Ok(stat.st_ino)
}

/// Nothing under these locks panics half-way through a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel for Fake {
    fn exec(
        &self,
        place: Place<'_>,
        netns: Option<BorrowedFd<'_>>,
        ops: &[Op],
    ) -> Result<Vec<Outcome>, Failure> {
        let mut done = Vec::new();
        for op in ops {
            match self.exec_one(place, netns, op) {
                Ok(outcome) => done.push(outcome),
                Err(error) => return Err(Failure { done, error }),
            }
        }
        self.tell();
        Ok(done)
    }

    fn fetch_links(&self) -> Result<Vec<Link>, KernelError> {
        Ok(self.state().links.values().cloned().collect())
    }

    fn fetch_link(&self, ifname: &str) -> Result<Option<Link>, KernelError> {
        Ok(self.state().links.values().find(|link| link.ifname == ifname).cloned())
    }

    fn fetch_routes(&self, protocol: u8, _ifindex: u32) -> Result<Vec<Route>, KernelError> {
        Ok(self.state().routes.iter().filter(|route| route.protocol == protocol).copied().collect())
    }

    fn fetch_table(&self, protocol: u8) -> Result<RouteTable, KernelError> {
        let state = self.state();
        let found = |route: &Route| FoundRoute { route: *route, shadowed: state.shadowed.contains(route) };
        let ours = state.routes.iter().filter(|route| route.protocol == protocol).map(found);
        let defaults = state.routes.iter().filter(|route| route.destination.prefix_len() == 0).copied();
        Ok(RouteTable { ours: ours.collect(), defaults: defaults.collect() })
    }

    fn fetch_nexthops(&self) -> Result<Vec<FoundNexthop>, KernelError> {
        Ok(self.state().nexthops.values().copied().collect())
    }

    fn fetch_hops(&self, addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, Hop>, KernelError> {
        let hops = &self.state().hops;
        Ok(addresses.iter().filter_map(|address| Some((*address, *hops.get(address)?))).collect())
    }

    fn fetch_addresses(&self) -> Result<Vec<LinkAddress>, KernelError> {
        Ok(self.state().addresses.iter().copied().collect())
    }

    fn fetch_neighbours(&self, _ifindex: Option<u32>) -> Result<Vec<Neighbour>, KernelError> {
        Ok(self.state().neighbours.iter().copied().collect())
    }

    fn fetch_programs(&self) -> Result<Programs, KernelError> {
        Ok(self.state().programs.clone())
    }

    fn fetch_nat(&self) -> Result<NatState, KernelError> {
        Ok(self.state().nat.clone().map_or(NatState::Absent, NatState::Intact))
    }

    fn fetch_sysctl(&self, sysctl: &Sysctl) -> Result<Option<u8>, KernelError> {
        Ok(Some(self.state().sysctls.get(sysctl).copied().unwrap_or(0)))
    }

    fn fetch_pod_side(&self, netns: BorrowedFd<'_>, ifname: &str) -> Result<PodSide, KernelError> {
        let namespace = inode_of(netns)?;
        let state = self.state();
        let named = |side: &&PodSide| side.link.as_ref().is_some_and(|link| link.ifname == ifname);
        let mut sides = state.pods.iter().filter(|((at, _), _)| *at == namespace).map(|(_, side)| side);
        Ok(sides.find(named).cloned().unwrap_or_default())
    }

    fn is_own_namespace(&self, _netns: BorrowedFd<'_>) -> Result<bool, KernelError> {
        Ok(false)
    }

    /// Nothing here has a namespace.
    fn name_namespace(&self, _netns: BorrowedFd<'_>) -> Result<Option<u32>, KernelError> {
        Ok(None)
    }

    fn fetch_namespaces(&self) -> Result<BTreeSet<u32>, KernelError> {
        Ok(BTreeSet::new())
    }

    fn fetch_drops(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        Ok(BTreeMap::new())
    }

    fn fetch_pool_counters(&self) -> Result<BTreeMap<TagId, PoolCounters>, KernelError> {
        Ok(BTreeMap::new())
    }

    fn uses_tcx(&self) -> bool {
        true
    }

    fn has_tunnels(&self) -> Result<bool, KernelError> {
        Ok(true)
    }

    fn decapsulates_well(&self) -> bool {
        true
    }

    fn fetch_path_mtus(&self) -> Result<BTreeMap<Ipv4Addr, PathMtu>, KernelError> {
        Ok(self.state().path_mtus.clone())
    }

    fn fetch_uptime(&self) -> Duration {
        self.state().uptime
    }

    fn open_events(&self) -> Result<Events, KernelError> {
        Ok(Events::of_fake(self.changed.clone()))
    }

    fn remove_programs(&self) -> Result<(), KernelError> {
        self.state().programs = Programs::default();
        Ok(())
    }
}
