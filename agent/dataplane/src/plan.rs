//! Desired minus actual: pure.
//!
//! The order, so that no packet goes the wrong way:
//!
//! 1. how marks are laid out;
//! 2. forwarding, after the uplink has been told to keep its router;
//! 3. the nftables table, then new and changed pools: a pool asks for NAT only once there is a rule for it,
//!    and is exempt before anything is sent to it;
//! 4. what the programs know of other nodes (`overlay`), before a route leads there;
//! 5. blackholes of own blocks, routes to what other nodes serve, and unreachable routes behind all of them
//!    (`routing`);
//! 6. each pod: endpoint, program, interface up, neighbours, routes (`pods`);
//! 7. the lasting way to run the program, for some of those that run it in the quick way and are idle;
//! 8. what is stale: routes and what they stood on, interfaces, endpoints, programs, what the programs know, and the
//!    table if nobody needs it.
//!
//! Operations that depend on each other form a [`Group::Chain`]: after one has failed the rest of its group is left
//! out, other groups go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{Handle, Identity, MarkLayout};

use crate::desired::DesiredState;
use crate::object::{Mac, NatState, Programs, Route, Sysctl};
use crate::op::Op;

mod ids;
mod overlay;
mod pods;
mod pools;
mod routing;

pub(crate) use overlay::plan_tunnel;
pub(crate) use pods::plan_unwire;
pub(crate) use pools::{aggregate, ready_pools};
pub use routing::Unrouted;
pub(crate) use routing::{Ground, plan_routing};

/// Programs attached in the lasting way by one run, at most: each holds up every ADD for some 20 ms.
const SETTLE_MAX: usize = 8;

/// What was read from the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Actual {
    /// Interfaces, routes and what these stand on.
    pub(crate) ground: Ground,
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
    /// The uplink, by name.
    pub(crate) uplink: Option<String>,
    /// The uplink's `accept_ra`.
    pub(crate) uplink_accept_ra: Option<u8>,
}

/// Who encapsulates and decapsulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The programs on the uplink.
    Ebpf,
    /// A tunnel device of ours.
    Device,
}

/// What both sides of the comparison take for granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constants {
    pub(crate) marks: MarkLayout,
    pub(crate) route_protocol: u8,
    pub(crate) backend: Backend,
}

/// Operations that are carried out one group after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// They depend on each other, in order.
    Chain(Vec<Op>),
    /// They do not, and travel together.
    Each(Vec<Op>),
}

impl Group {
    /// Its operations.
    pub(crate) fn ops(&self) -> &[Op] {
        match self {
            Self::Chain(ops) | Self::Each(ops) => ops,
        }
    }
}

/// What is to be done, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In order.
    pub(crate) groups: Vec<Group>,
    /// Pods without an interface of theirs: they cannot be wired without their namespace.
    pub(crate) missing: Vec<Handle>,
    /// What stands in the way and is not ours to move.
    pub(crate) conflicts: Vec<String>,
    /// Ranges of other nodes that cannot be routed now.
    pub(crate) unrouted: Vec<Unrouted>,
    /// Routes to other nodes, of own blocks and of closed ranges, as they shall be.
    pub(crate) wanted: BTreeSet<Route>,
}

impl Plan {
    /// All operations, in order.
    pub(crate) fn ops(&self) -> impl Iterator<Item = &Op> {
        self.groups.iter().flat_map(Group::ops)
    }
}

/// Compares. Interfaces in `busy` are left alone.
pub(crate) fn plan(
    desired: &DesiredState,
    actual: &Actual,
    busy: &BTreeSet<String>,
    constants: Constants,
) -> Plan {
    let mut plan = Plan::default();
    let links = &actual.ground.links;
    let busy_ifindexes: BTreeSet<u32> =
        busy.iter().filter_map(|ifname| links.get(ifname)).map(|link| link.ifindex).collect();
    if !actual.programs.marks_ok {
        plan.groups.push(Group::Chain(vec![Op::SetMarks(constants.marks)]));
    }
    plan.groups.push(Group::Chain(plan_forwarding(desired, actual)));
    plan.groups.push(Group::Chain(pools::plan_pools(desired, actual, constants.marks)));
    let overlay = overlay::plan_overlay(desired, actual, constants);
    plan.groups.extend(overlay.before);
    let routing = plan_routing(desired, &actual.ground, constants);
    plan.groups.extend(routing.before);
    plan.unrouted = routing.unrouted;
    let mut wanted_routes = routing.wanted.clone();
    plan.wanted = routing.wanted;

    let mut wanted_links = BTreeSet::new();
    for identity in &desired.pods {
        let ifname = identity.handle.host_ifname();
        if busy.contains(&ifname) {
            continue;
        }
        match links.get(&ifname) {
            None => plan.missing.push(identity.handle.clone()),
            Some(link) => match Identity::parse_alias(&link.alias) {
                Ok(found) if found.handle == identity.handle => {
                    wanted_links.insert(link.ifindex);
                    let protocol = constants.route_protocol;
                    let ops = pods::plan_pod(identity, link, actual, protocol, &mut wanted_routes);
                    plan.groups.push(Group::Chain(ops));
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
    let settle = settle.take(SETTLE_MAX).map(|ifindex| Op::Settle { ifindex: *ifindex });
    plan.groups.push(Group::Each(settle.collect()));
    plan.groups.extend(routing.after);
    pods::plan_stale(desired, actual, &busy_ifindexes, &wanted_links, &wanted_routes, &mut plan.groups);
    plan.groups.extend(overlay.after);
    if desired.sweep {
        plan.groups.extend(pools::plan_stale(desired, actual));
    }
    plan.groups.retain(|group| !group.ops().is_empty());
    plan
}

/// Forwarding is switched on where pods need it, and never off: others may rely on it.
fn plan_forwarding(desired: &DesiredState, actual: &Actual) -> Vec<Op> {
    let mut ops = Vec::new();
    if desired.forward_ipv4 && actual.forward_ipv4 == Some(0) {
        ops.push(Op::SetSysctl { sysctl: Sysctl::ForwardIpv4, value: 1 });
    }
    if desired.forward_ipv6 && actual.forward_ipv6 == Some(0) {
        // A forwarding host with accept_ra=1 drops the default route that it learned from its router.
        if let (Some(uplink), Some(1)) = (&actual.uplink, actual.uplink_accept_ra) {
            ops.push(Op::SetSysctl { sysctl: Sysctl::AcceptRa(uplink.clone()), value: 2 });
        }
        ops.push(Op::SetSysctl { sysctl: Sysctl::ForwardIpv6, value: 1 });
    }
    ops
}
