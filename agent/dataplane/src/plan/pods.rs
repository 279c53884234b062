//! Pods: their interfaces, and what hangs on these: pure.

use std::collections::BTreeSet;

use model::{Identity, IdentityError};

use super::{Actual, Group};
use crate::desired::DesiredState;
use crate::object::{Link, Neighbour, Route, RouteTarget};
use crate::op::Op;
use crate::wiring;

/// What one pod lacks.
pub(super) fn plan_pod(
    identity: &Identity,
    link: &Link,
    actual: &Actual,
    protocol: u8,
    wanted_routes: &mut BTreeSet<Route>,
) -> Vec<Op> {
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
        if actual.ground.routes.contains(&route) {
            continue;
        }
        // One of ours that leads elsewhere has to go first: two with one key cannot both be told apart.
        let wrong = actual.ground.routes.iter().filter(|other| other.key() == route.key());
        ops.extend(wrong.map(|r| Op::DeleteRoute(*r)));
        ops.push(Op::AddRoute { route, exclusive: false });
    }
    ops
}

/// What is stale of pods and of routes that are not by nexthop objects.
pub(super) fn plan_stale(
    desired: &DesiredState,
    actual: &Actual,
    busy: &BTreeSet<u32>,
    wanted_links: &BTreeSet<u32>,
    wanted_routes: &BTreeSet<Route>,
    groups: &mut Vec<Group>,
) {
    let living: BTreeSet<u32> = actual.ground.links.values().map(|link| link.ifindex).collect();
    let mut leaving = BTreeSet::new();
    if desired.sweep {
        for link in actual.ground.links.values() {
            let ours = !matches!(Identity::parse_alias(&link.alias), Err(IdentityError::Foreign));
            if ours && !busy.contains(&link.ifindex) && !wanted_links.contains(&link.ifindex) {
                leaving.insert(link.ifindex);
                groups.push(Group::Chain(plan_unwire(link.ifindex, &link.ifname)));
            }
        }
        let replaced: BTreeSet<Route> = groups.iter().flat_map(Group::ops).filter_map(Op::replaced).collect();
        let stale: Vec<Op> = actual
            .ground
            .routes
            .difference(wanted_routes)
            .filter(|route| match route.target {
                RouteTarget::Link { ifindex, .. } => !busy.contains(&ifindex) && !leaving.contains(&ifindex),
                // Those are stale when their objects are.
                RouteTarget::Nexthop { .. } => false,
                RouteTarget::Blackhole | RouteTarget::Unreachable | RouteTarget::Other => true,
            })
            .filter(|route| !replaced.contains(route))
            .map(|route| Op::DeleteRoute(*route))
            .collect();
        groups.push(Group::Each(stale));
    }
    // What speaks of an interface that does not exist is stale whatever the desired state; the interfaces were
    // read after the maps, so none of them is merely too young.
    let dead = |ifindex: &&u32| !living.contains(*ifindex);
    for ifindex in actual.programs.endpoints.keys().filter(dead) {
        groups.push(Group::Chain(vec![Op::RemoveEndpoint { ifindex: *ifindex }]));
    }
    for ifindex in actual.programs.pinned.iter().filter(dead) {
        groups.push(Group::Chain(vec![Op::Detach { ifindex: *ifindex }]));
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
            groups.push(Group::Chain(vec![Op::Detach { ifindex: *ifindex }]));
        }
        for ifindex in actual.programs.endpoints.keys().filter(foreign) {
            groups.push(Group::Chain(vec![Op::RemoveEndpoint { ifindex: *ifindex }]));
        }
    }
}

/// Takes a pod off. The endpoint goes first: without it the program lets nothing pass, so the address may be
/// handed on as soon as this has run, whatever the kernel still holds of the interface.
pub(crate) fn plan_unwire(ifindex: u32, ifname: &str) -> Vec<Op> {
    vec![Op::RemoveEndpoint { ifindex }, Op::DeleteLink { ifname: ifname.to_owned(), ifindex }]
}
