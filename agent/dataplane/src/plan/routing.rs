//! Routes to what other nodes serve, and what these routes stand on: pure.
//!
//! One route for each range, by one nexthop object for each node, so that a node that changes its address is one
//! change. The order, so that no packet goes the wrong way:
//!
//! 1. this node's own address on `lo`: routes that name it as source are refused without it;
//! 2. nexthop objects, added or changed in place;
//! 3. routes, added or put in the place of ours that lead elsewhere;
//! 4. stale routes, then the objects they led by, then stale own addresses, which would take routes along.
//!
//! What cannot be routed now is told, and comes when what it lacks does: nothing is asked of the kernel that it would
//! refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use model::{Cidr, Family, IPIP_OVERHEAD_BYTES, IpipMode, NodeName};

use super::ids::{self, Kind};
use super::{Backend, Constants, Group};
use crate::desired::{DesiredState, Peer, RemoteRange};
use crate::object::{FoundNexthop, FoundRoute, Hop, Link, LinkAddress, Nexthop, PathMtu, Route, RouteTarget};
use crate::op::Op;
use crate::wiring::{self, TUNNEL_IFNAME};

/// What was read from the kernel of routes and what they stand on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ground {
    /// All interfaces of the node, by name.
    pub(crate) links: BTreeMap<String, Link>,
    /// Routes of our protocol.
    pub(crate) routes: BTreeSet<Route>,
    /// Those of them that another with the same destination and metric comes before.
    pub(crate) shadowed: BTreeSet<Route>,
    /// Nexthop objects of ours, by number; `None`: it says something that we never say.
    pub(crate) nexthops: BTreeMap<u32, Option<Nexthop>>,
    /// Numbers in our range that are somebody else's.
    pub(crate) taken_ids: BTreeSet<u32>,
    /// How the other nodes' addresses are reached.
    pub(crate) hops: BTreeMap<IpAddr, Hop>,
    /// All addresses of this node.
    pub(crate) addresses: Vec<LinkAddress>,
    /// What the ways to nodes carry, where a router said so.
    pub(crate) path_mtus: BTreeMap<Ipv4Addr, PathMtu>,
    /// How long ago the node was booted.
    pub(crate) uptime: Duration,
}

/// How long what a router said is believed (`net.ipv4.route.mtu_expires`): the way may have become wider.
const PATH_MTU_LIFETIME: Duration = Duration::from_secs(600);

/// Nobody's way is narrower (RFC 791): a router that says less is not believed.
const PATH_MTU_MIN_BYTES: u32 = 576;

impl Ground {
    /// Sorts out what is ours.
    pub(crate) fn new(
        links: Vec<Link>,
        routes: &[FoundRoute],
        nexthops: &[FoundNexthop],
        hops: BTreeMap<IpAddr, Hop>,
        addresses: Vec<LinkAddress>,
        protocol: u8,
    ) -> Self {
        let ours = |found: &&FoundNexthop| ids::is_ours(found.id) && found.protocol == protocol;
        let taken = |found: &&FoundNexthop| ids::is_ours(found.id) && found.protocol != protocol;
        Self {
            links: links.into_iter().map(|link| (link.ifname.clone(), link)).collect(),
            routes: routes.iter().map(|found| found.route).collect(),
            shadowed: routes.iter().filter(|found| found.shadowed).map(|found| found.route).collect(),
            nexthops: nexthops.iter().filter(ours).map(|found| (found.id, found.says)).collect(),
            taken_ids: nexthops.iter().filter(taken).map(|found| found.id).collect(),
            hops,
            addresses,
            path_mtus: BTreeMap::new(),
            uptime: Duration::ZERO,
        }
    }

    /// Whether what was said of a way is still believed.
    pub(super) fn believes(&self, said: &PathMtu) -> bool {
        self.uptime.saturating_sub(said.at) < PATH_MTU_LIFETIME
    }

    /// The greatest outer packet that the way to a node carries, if it is less than the interface's.
    fn path_mtu_bytes(&self, node: Option<Ipv4Addr>) -> Option<u32> {
        let said = self.path_mtus.get(&node?).filter(|said| self.believes(said))?;
        Some(said.mtu_bytes.max(PATH_MTU_MIN_BYTES))
    }
}

/// Ranges of one node that have no route at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrouted {
    /// Whose they are.
    pub node: NodeName,
    /// How many.
    pub ranges_count: usize,
    /// What is missing.
    pub reason: String,
}

/// What is to be done about routes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routing {
    /// What makes the way.
    pub(crate) before: Vec<Group>,
    /// What takes away what nothing is sent by any more.
    pub(crate) after: Vec<Group>,
    /// What has no way.
    pub(crate) unrouted: Vec<Unrouted>,
    /// The routes that shall be there.
    pub(crate) wanted: BTreeSet<Route>,
}

/// Plans the routes of ranges, whosever: this node's blocks and closed ranges as well.
pub(crate) fn plan_routing(desired: &DesiredState, ground: &Ground, constants: Constants) -> Routing {
    let Ways { nexthops, mut routes, unrouted } = Ways::find(desired, ground, constants);
    let protocol = constants.route_protocol;
    routes.extend(desired.own_blocks.iter().map(|block| wiring::block_route(*block, protocol)));
    routes.extend(desired.closed_ranges.iter().map(|range| wiring::range_route(*range, protocol)));

    let mut before = Vec::new();
    let is_there =
        |inner: &Ipv4Addr| ground.addresses.iter().any(|found| found.address == IpAddr::V4(*inner));
    before.extend(
        desired.inner_ipv4.filter(|inner| !is_there(inner)).map(|i| Group::Each(vec![Op::AddOwnAddress(i)])),
    );
    let changes = nexthops.iter().filter_map(|(id, nexthop)| {
        let (id, nexthop) = (*id, *nexthop);
        match ground.nexthops.get(&id) {
            None => Some(Op::AddNexthop { id, nexthop, protocol }),
            Some(found) if *found == Some(nexthop) => None,
            Some(_) => Some(Op::ReplaceNexthop { id, nexthop, protocol }),
        }
    });
    before.push(Group::Each(changes.collect()));
    let (additions, replaced) = plan_routes(&routes, ground);
    before.extend(additions);

    let mut after = Vec::new();
    if desired.sweep {
        let by_object = |route: &&Route| matches!(route.target, RouteTarget::Nexthop { .. });
        let stale = ground.routes.difference(&routes).filter(by_object).filter(|r| !replaced.contains(r));
        after.push(Group::Each(stale.map(|route| Op::DeleteRoute(*route)).collect()));
        let stale = ground.nexthops.keys().filter(|id| !nexthops.contains_key(id));
        after.push(Group::Each(stale.map(|id| Op::DeleteNexthop { id: *id }).collect()));
        let stale =
            ground.addresses.iter().filter(|found| found.ours).filter_map(|found| match found.address {
                IpAddr::V4(address) if Some(address) != desired.inner_ipv4 => {
                    Some(Op::DeleteOwnAddress(address))
                }
                _ => None,
            });
        after.push(Group::Each(stale.collect()));
    }
    before.retain(|group| !group.ops().is_empty());
    after.retain(|group| !group.ops().is_empty());
    Routing { before, after, unrouted, wanted: routes }
}

/// Adds what is missing, and gives back the routes of ours that were in its place.
///
/// Among routes with one key the first counts. One of ours that comes first is replaced in place; one that something
/// foreign comes before is taken away and added anew, which puts it in front of the foreign one and leaves that as it
/// is. IPv6 adds behind instead, so there nothing can be done about it.
fn plan_routes(wanted: &BTreeSet<Route>, ground: &Ground) -> (Vec<Group>, BTreeSet<Route>) {
    let missing: Vec<&Route> = wanted.difference(&ground.routes).collect();
    let keys: BTreeSet<(Cidr, u32)> = missing.iter().map(|route| route.key()).collect();
    let mut wrong: BTreeMap<(Cidr, u32), Vec<Route>> = BTreeMap::new();
    if !keys.is_empty() {
        let extra = ground.routes.difference(wanted).filter(|route| keys.contains(&route.key()));
        extra.for_each(|route| wrong.entry(route.key()).or_default().push(*route));
    }
    let mut replaced = BTreeSet::new();
    let mut additions = Vec::with_capacity(missing.len());
    let mut groups = Vec::new();
    for route in missing {
        let olds = wrong.remove(&route.key()).unwrap_or_default();
        match olds.iter().find(|old| !ground.shadowed.contains(old)) {
            Some(old) => {
                replaced.insert(*old);
                additions.push(Op::ReplaceRoute { old: *old, new: *route });
            }
            None if olds.is_empty() => additions.push(Op::AddRoute { route: *route, exclusive: false }),
            None => {
                replaced.extend(olds.iter().copied());
                let mut ops: Vec<Op> = olds.into_iter().map(Op::DeleteRoute).collect();
                ops.push(Op::AddRoute { route: *route, exclusive: false });
                groups.push(Group::Chain(ops));
            }
        }
    }
    let hidden = ground.shadowed.intersection(wanted).filter(|r| r.destination.family() == Family::V4);
    groups.extend(hidden.map(|route| {
        Group::Chain(vec![Op::DeleteRoute(*route), Op::AddRoute { route: *route, exclusive: false }])
    }));
    groups.insert(0, Group::Each(additions));
    (groups, replaced)
}

/// Why a range has no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack<'a> {
    Address(Family),
    Hop(IpAddr),
    Link(u32),
    Carrier(&'a str),
    OwnAddress,
    Tunnel,
}

impl Lack<'_> {
    fn text(self) -> String {
        match self {
            Self::Address(family) => format!("the node has no {family} address"),
            Self::Hop(address) => format!("this node knows no way to {address}"),
            Self::Link(ifindex) => format!("the way leads out of interface {ifindex}, which is not there"),
            Self::Carrier(ifname) => format!("{ifname} is down or has no carrier"),
            Self::OwnAddress => "this node's own IPv4 address on the underlay is not known".into(),
            Self::Tunnel => format!("the tunnel {TUNNEL_IFNAME} is not there yet"),
        }
    }
}

/// How what is sent to a node's ranges leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    nexthop: Nexthop,
    /// The underlay interface's.
    mtu_bytes: u32,
}

/// Where everything shall lead.
struct Ways {
    nexthops: BTreeMap<u32, Nexthop>,
    routes: BTreeSet<Route>,
    unrouted: Vec<Unrouted>,
}

impl Ways {
    fn find(desired: &DesiredState, ground: &Ground, constants: Constants) -> Self {
        let underlay = Underlay::of(ground, constants.backend);
        let subnet = subnet_of(desired, ground);
        let mut ways: BTreeMap<(u32, Kind), Result<Way, Lack<'_>>> = BTreeMap::new();
        let mut lacks: BTreeMap<(u32, Lack<'_>), usize> = BTreeMap::new();
        let mut routed: BTreeMap<Cidr, (&RemoteRange, Kind, bool, Way)> = BTreeMap::new();
        for range in &desired.remote_ranges {
            let Some(peer) = usize::try_from(range.peer).ok().and_then(|at| desired.peers.get(at)) else {
                continue;
            };
            let encapsulated = encapsulates(range, peer, subnet);
            let kind = match range.cidr.family() {
                Family::V6 => Kind::DirectIpv6,
                Family::V4 if encapsulated && constants.backend == Backend::Device => Kind::TunnelledIpv4,
                Family::V4 => Kind::DirectIpv4,
            };
            let way = *ways.entry((range.peer, kind)).or_insert_with(|| underlay.way(peer, kind));
            let way =
                if encapsulated && desired.underlay_ipv4.is_none() { Err(Lack::OwnAddress) } else { way };
            match way {
                Ok(way) => {
                    routed.entry(range.cidr).or_insert((range, kind, encapsulated, way));
                }
                Err(lack) => *lacks.entry((range.peer, lack)).or_default() += 1,
            }
        }
        let name =
            |peer: u32| usize::try_from(peer).ok().and_then(|at| desired.peers.get(at)).map(|p| &p.name);
        let wanted = routed.values().filter_map(|(range, kind, ..)| Some((name(range.peer)?, *kind)));
        let assigned = ids::assign(&wanted.collect(), &ground.taken_ids);
        let mut nexthops = BTreeMap::new();
        let mut routes = BTreeSet::new();
        for (range, kind, encapsulated, way) in routed.into_values() {
            let Some(id) = name(range.peer).and_then(|name| assigned.get(&(name, kind))) else { continue };
            nexthops.insert(*id, way.nexthop);
            let peer = usize::try_from(range.peer).ok().and_then(|at| desired.peers.get(at));
            let path = peer.and_then(|peer| ground.path_mtu_bytes(peer.ipv4)).unwrap_or(u32::MAX);
            let mtu_bytes =
                if encapsulated { way.mtu_bytes.min(path).saturating_sub(IPIP_OVERHEAD_BYTES) } else { 0 };
            let from_inner = range.cidr.family() == Family::V4 && range.ipip_mode.may_encapsulate();
            routes.insert(Route {
                mtu_bytes,
                source: desired.inner_ipv4.filter(|_| from_inner),
                ..wiring::remote_route(range.cidr, *id, constants.route_protocol)
            });
        }
        let unrouted = lacks.into_iter().filter_map(|((peer, lack), ranges_count)| {
            Some(Unrouted { node: name(peer)?.clone(), ranges_count, reason: lack.text() })
        });
        Self { nexthops, routes, unrouted: unrouted.collect() }
    }
}

/// What is on the link where this node's underlay address is.
pub(super) fn subnet_of(desired: &DesiredState, ground: &Ground) -> Option<Cidr> {
    let local = IpAddr::V4(desired.underlay_ipv4?);
    let found = ground.addresses.iter().find(|found| found.address == local)?;
    Cidr::containing(found.address, found.prefix_len)
}

/// Whether packets to a range are encapsulated. A node of which it is not known that it is on the link is not.
pub(super) fn encapsulates(range: &RemoteRange, peer: &Peer, subnet: Option<Cidr>) -> bool {
    match range.ipip_mode {
        _ if range.cidr.family() == Family::V6 => false,
        IpipMode::Never => false,
        IpipMode::Always => true,
        IpipMode::CrossSubnet => match (peer.ipv4, subnet) {
            (Some(node), Some(subnet)) => !subnet.contains(IpAddr::V4(node)),
            _ => true,
        },
    }
}

/// This node's side of the underlay.
struct Underlay<'a> {
    links: BTreeMap<u32, &'a Link>,
    hops: &'a BTreeMap<IpAddr, Hop>,
    tunnel: Option<&'a Link>,
}

impl<'a> Underlay<'a> {
    fn of(ground: &'a Ground, backend: Backend) -> Self {
        Self {
            links: ground.links.values().map(|link| (link.ifindex, link)).collect(),
            hops: &ground.hops,
            tunnel: ground.links.get(TUNNEL_IFNAME).filter(|_| backend == Backend::Device),
        }
    }

    fn way(&self, peer: &Peer, kind: Kind) -> Result<Way, Lack<'a>> {
        let node = match kind {
            Kind::DirectIpv6 => peer.ipv6.map(IpAddr::V6).ok_or(Lack::Address(Family::V6))?,
            _ => peer.ipv4.map(IpAddr::V4).ok_or(Lack::Address(Family::V4))?,
        };
        let hop = self.hops.get(&node).ok_or(Lack::Hop(node))?;
        let link = self.carrying(hop.ifindex)?;
        let direct = Nexthop { gateway: hop.gateway.unwrap_or(node), ifindex: hop.ifindex, onlink: true };
        let nexthop = match kind {
            Kind::DirectIpv4 | Kind::DirectIpv6 => direct,
            Kind::TunnelledIpv4 => {
                let tunnel = self.tunnel.ok_or(Lack::Tunnel)?;
                Nexthop { gateway: node, ifindex: self.carrying(tunnel.ifindex)?.ifindex, onlink: true }
            }
        };
        Ok(Way { nexthop, mtu_bytes: link.mtu_bytes })
    }

    fn carrying(&self, ifindex: u32) -> Result<&'a Link, Lack<'a>> {
        let link = self.links.get(&ifindex).ok_or(Lack::Link(ifindex))?;
        if link.carries() { Ok(link) } else { Err(Lack::Carrier(&link.ifname)) }
    }
}
