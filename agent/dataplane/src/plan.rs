//! Desired minus actual: pure.
//!
//! The order, so that no packet goes the wrong way:
//!
//! 1. how marks are laid out;
//! 2. forwarding, after the uplink has been told to keep its router;
//! 3. the nftables table, then new and changed pools: a pool asks for NAT only once there is a rule for it,
//!    and is exempt before anything is sent to it;
//! 4. blackholes of own blocks, and unreachable routes behind them;
//! 5. each pod: endpoint, program, interface up, neighbours, routes;
//! 6. the lasting way to run the program, for some of those that run it in the quick way and are idle;
//! 7. what is stale: routes, interfaces, endpoints, programs, pools, and the table if nobody needs it.
//!
//! Operations that depend on each other form a [`Group`]: after one has failed the rest of its group is left out,
//! other groups go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Cidr, Handle, Identity, IdentityError, MarkLayout, TagId};

use crate::desired::{DesiredState, Pool};
use crate::object::{
    Link, Mac, NatState, NatTable, Neighbour, PoolEntry, Programs, Route, RouteTarget, Sysctl,
};
use crate::op::Op;
use crate::wiring;

/// Programs attached in the lasting way by one run, at most: each holds up every ADD for some 20 ms.
const SETTLE_MAX: usize = 8;

/// What was read from the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Actual {
    /// All interfaces of the node, by name.
    pub(crate) links: BTreeMap<String, Link>,
    /// Routes of our protocol.
    pub(crate) routes: BTreeSet<Route>,
    /// Permanent neighbours.
    pub(crate) neighbours: BTreeMap<(u32, IpAddr), Mac>,
    /// The programs and their maps.
    pub(crate) programs: Programs,
    /// Our nftables table.
    pub(crate) nat: NatState,
    /// `net.ipv4.ip_forward`.
    pub(crate) forward_ipv4: Option<u8>,
    /// `net.ipv6.conf.all.forwarding`.
    pub(crate) forward_ipv6: Option<u8>,
    /// Interfaces that have not been worked on for a while.
    pub(crate) idle: BTreeSet<u32>,
    /// The uplink and its `accept_ra`.
    pub(crate) uplink_accept_ra: Option<(String, u8)>,
}

/// What both sides of the comparison take for granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constants {
    pub(crate) marks: MarkLayout,
    pub(crate) route_protocol: u8,
}

/// Operations that depend on each other, in order.
pub(crate) type Group = Vec<Op>;

/// What is to be done, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In order.
    pub(crate) groups: Vec<Group>,
    /// Pods without an interface of theirs: they cannot be wired without their namespace.
    pub(crate) missing: Vec<Handle>,
    /// What stands in the way and is not ours to move.
    pub(crate) conflicts: Vec<String>,
}

/// Compares. Interfaces in `busy` are left alone.
pub(crate) fn plan(
    desired: &DesiredState,
    actual: &Actual,
    busy: &BTreeSet<String>,
    constants: Constants,
) -> Plan {
    let mut plan = Plan::default();
    let busy_ifindexes: BTreeSet<u32> =
        busy.iter().filter_map(|ifname| actual.links.get(ifname)).map(|link| link.ifindex).collect();
    let protocol = constants.route_protocol;
    let blocks = desired.own_blocks.iter().map(|block| wiring::block_route(*block, protocol));
    let ranges = desired.closed_ranges.iter().map(|range| wiring::range_route(*range, protocol));
    let mut wanted_routes: BTreeSet<Route> = blocks.chain(ranges).collect();

    if !actual.programs.marks_ok {
        plan.groups.push(vec![Op::SetMarks(constants.marks)]);
    }
    plan.groups.push(plan_forwarding(desired, actual));
    plan.groups.push(plan_pools(desired, actual, constants.marks));
    let dead_ends = wanted_routes.difference(&actual.routes);
    plan.groups.extend(dead_ends.map(|route| vec![Op::AddRoute { route: *route, exclusive: false }]));

    let mut wanted_links = BTreeSet::new();
    for identity in &desired.pods {
        let ifname = identity.handle.host_ifname();
        if busy.contains(&ifname) {
            continue;
        }
        match actual.links.get(&ifname) {
            None => plan.missing.push(identity.handle.clone()),
            Some(link) => match Identity::parse_alias(&link.alias) {
                Ok(found) if found.handle == identity.handle => {
                    wanted_links.insert(link.ifindex);
                    plan.groups.push(plan_pod(
                        identity,
                        link,
                        actual,
                        constants.route_protocol,
                        &mut wanted_routes,
                    ));
                }
                _ => plan.conflicts.push(format!(
                    "interface {ifname} should be {}'s, but its alias is {:?}: not touched",
                    identity.handle, link.alias
                )),
            },
        }
    }
    let settle =
        wanted_links.iter().filter(|i| actual.idle.contains(i) && actual.programs.unsettled.contains(i));
    plan.groups.extend(settle.take(SETTLE_MAX).map(|ifindex| vec![Op::Settle { ifindex: *ifindex }]));
    plan_removals(desired, actual, &busy_ifindexes, &wanted_links, &wanted_routes, &mut plan.groups);
    plan.groups.retain(|group| !group.is_empty());
    plan
}

/// Forwarding is switched on where pods need it, and never off: others may rely on it.
fn plan_forwarding(desired: &DesiredState, actual: &Actual) -> Group {
    let mut ops = Vec::new();
    if desired.forward_ipv4 && actual.forward_ipv4 == Some(0) {
        ops.push(Op::SetSysctl { sysctl: Sysctl::ForwardIpv4, value: 1 });
    }
    if desired.forward_ipv6 && actual.forward_ipv6 == Some(0) {
        // A forwarding host with accept_ra=1 drops the default route that it learned from its router.
        if let Some((uplink, 1)) = &actual.uplink_accept_ra {
            ops.push(Op::SetSysctl { sysctl: Sysctl::AcceptRa(uplink.clone()), value: 2 });
        }
        ops.push(Op::SetSysctl { sysctl: Sysctl::ForwardIpv6, value: 1 });
    }
    ops
}

/// The table and the pools that are new or changed.
fn plan_pools(desired: &DesiredState, actual: &Actual, marks: MarkLayout) -> Group {
    let mut ops = Vec::new();
    if desired.pools.iter().any(|pool| pool.nat_outgoing) {
        let ranges: Vec<Cidr> = if desired.sweep {
            desired.pools.iter().map(|pool| pool.cidr).collect()
        } else {
            desired.pools.iter().map(|pool| pool.cidr).chain(actual.programs.pools.keys().copied()).collect()
        };
        let table = NatTable { nat_bit: marks.nat_bit(), no_nat: aggregate(&ranges) };
        if actual.nat != NatState::Intact(table.clone()) {
            ops.push(Op::ReplaceNat(table));
        }
    }
    for pool in &desired.pools {
        let entry = PoolEntry { tag: pool.tag, nat_outgoing: pool.nat_outgoing, dscp: pool.dscp };
        if actual.programs.pools.get(&pool.cidr) != Some(&entry) {
            ops.push(Op::SetPool { cidr: pool.cidr, entry });
        }
    }
    ops
}

/// Ranges without overlap, neighbours joined, in order: the form in which sets are compared.
pub(crate) fn aggregate(ranges: &[Cidr]) -> Vec<Cidr> {
    let nets: Vec<IpNet> = ranges.iter().map(Cidr::as_ipnet).collect();
    let mut joined: Vec<Cidr> = IpNet::aggregate(&nets).into_iter().map(Cidr::from).collect();
    joined.sort();
    joined
}

fn plan_pod(
    identity: &Identity,
    link: &Link,
    actual: &Actual,
    protocol: u8,
    wanted_routes: &mut BTreeSet<Route>,
) -> Group {
    let ifindex = link.ifindex;
    let mut ops = Vec::new();
    let endpoint = wiring::endpoint(identity);
    if actual.programs.endpoints.get(&ifindex) != Some(&endpoint) {
        ops.push(Op::SetEndpoint { ifindex, endpoint });
    }
    let programs = &actual.programs;
    if !programs.attached.contains(&ifindex) {
        // What runs there in the lasting way, but in another version or not any more, is replaced where it is: a new
        // one beside it would have both run.
        let lasting = programs.pinned.contains(&ifindex) && !programs.unsettled.contains(&ifindex);
        ops.push(if lasting { Op::Settle { ifindex } } else { Op::Attach { ifindex } });
    }
    if !link.up {
        ops.push(Op::SetLinkUp { ifname: link.ifname.clone(), ifindex });
    }
    for neighbour in wiring::host_neighbours(identity, ifindex) {
        let Neighbour { ifindex, address, mac } = neighbour;
        if actual.neighbours.get(&(ifindex, address)) != Some(&mac) {
            ops.push(Op::SetNeighbour(neighbour));
        }
    }
    for route in wiring::host_routes(identity, ifindex, protocol) {
        wanted_routes.insert(route);
        if actual.routes.contains(&route) {
            continue;
        }
        // One of ours that leads elsewhere has to go first: two with one key cannot both be told apart.
        let wrong =
            actual.routes.iter().filter(|r| r.destination == route.destination && r.metric == route.metric);
        ops.extend(wrong.map(|r| Op::DeleteRoute(*r)));
        ops.push(Op::AddRoute { route, exclusive: false });
    }
    ops
}

fn plan_removals(
    desired: &DesiredState,
    actual: &Actual,
    busy: &BTreeSet<u32>,
    wanted_links: &BTreeSet<u32>,
    wanted_routes: &BTreeSet<Route>,
    groups: &mut Vec<Group>,
) {
    let living: BTreeSet<u32> = actual.links.values().map(|link| link.ifindex).collect();
    let mut leaving = BTreeSet::new();
    if desired.sweep {
        for link in actual.links.values() {
            let ours = !matches!(Identity::parse_alias(&link.alias), Err(IdentityError::Foreign));
            if ours && !busy.contains(&link.ifindex) && !wanted_links.contains(&link.ifindex) {
                leaving.insert(link.ifindex);
                groups.push(plan_unwire(link.ifindex, &link.ifname));
            }
        }
        let replaced = |route: &Route| {
            groups.iter().flatten().any(|op| matches!(op, Op::DeleteRoute(deleted) if deleted == route))
        };
        let stale: Vec<Group> = actual
            .routes
            .difference(wanted_routes)
            .filter(|route| match route.target {
                RouteTarget::Link { ifindex, .. } => !busy.contains(&ifindex) && !leaving.contains(&ifindex),
                RouteTarget::Blackhole | RouteTarget::Unreachable | RouteTarget::Other => true,
            })
            .filter(|route| !replaced(route))
            .map(|route| vec![Op::DeleteRoute(*route)])
            .collect();
        groups.extend(stale);
    }
    // What speaks of an interface that does not exist is stale whatever the desired state; the interfaces were
    // read after the maps, so none of them is merely too young.
    let dead = |ifindex: &&u32| !living.contains(*ifindex);
    for ifindex in actual.programs.endpoints.keys().filter(dead) {
        groups.push(vec![Op::RemoveEndpoint { ifindex: *ifindex }]);
    }
    for ifindex in actual.programs.pinned.iter().filter(dead) {
        groups.push(vec![Op::Detach { ifindex: *ifindex }]);
    }
    if desired.sweep {
        // Programs and endpoints on interfaces that live but are no pod's: left by a pod whose alias was taken off.
        let foreign = |ifindex: &&u32| {
            living.contains(*ifindex)
                && !busy.contains(*ifindex)
                && !wanted_links.contains(*ifindex)
                && !leaving.contains(*ifindex)
        };
        for ifindex in actual.programs.pinned.iter().filter(foreign) {
            groups.push(vec![Op::Detach { ifindex: *ifindex }]);
        }
        for ifindex in actual.programs.endpoints.keys().filter(foreign) {
            groups.push(vec![Op::RemoveEndpoint { ifindex: *ifindex }]);
        }
        let wanted_pools: BTreeSet<Cidr> = desired.pools.iter().map(|pool| pool.cidr).collect();
        let stale = actual.programs.pools.keys().filter(|cidr| !wanted_pools.contains(cidr));
        groups.extend(stale.map(|cidr| vec![Op::RemovePool { cidr: *cidr }]));
        let wanted_tags: BTreeSet<TagId> = desired.pools.iter().map(|pool| pool.tag).collect();
        groups.extend(actual.programs.counted.difference(&wanted_tags).map(|tag| vec![Op::ForgetTag(*tag)]));
        if actual.nat != NatState::Absent && !desired.pools.iter().any(|pool| pool.nat_outgoing) {
            groups.push(vec![Op::RemoveNat]);
        }
    }
}

/// The pools that a plan which is still to be carried out leaves as they are: their packets are treated as desired
/// already.
pub(crate) fn ready_pools(pools: &[Pool], left: &Plan) -> Vec<Pool> {
    let ops = || left.groups.iter().flatten();
    if ops().any(|op| matches!(op, Op::SetMarks(_))) {
        return Vec::new();
    }
    let nat_is_left = ops().any(|op| matches!(op, Op::ReplaceNat(_)));
    let is_left = |pool: &Pool| ops().any(|op| matches!(op, Op::SetPool { cidr, .. } if *cidr == pool.cidr));
    pools.iter().copied().filter(|pool| !(is_left(pool) || pool.nat_outgoing && nat_is_left)).collect()
}

/// Takes a pod off. The endpoint goes first: without it the program lets nothing pass, so the address may be
/// handed on as soon as this has run, whatever the kernel still holds of the interface.
pub(crate) fn plan_unwire(ifindex: u32, ifname: &str) -> Group {
    vec![Op::RemoveEndpoint { ifindex }, Op::DeleteLink { ifname: ifname.to_owned(), ifindex }]
}
