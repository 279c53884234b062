//! What the programs know of other nodes, where they run for these, and the tunnel device: pure.
//!
//! All of it is there while anything is encapsulated, and nothing of it otherwise: a node whose pools are routed has
//! nothing on its uplink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use model::{Cidr, Family, IPIP_OVERHEAD_BYTES};

use super::routing::{encapsulates, subnet_of};
use super::{Actual, Backend, Constants, Ground, Group};
use crate::desired::DesiredState;
use crate::object::{FoundUplink, RemoteRule, Sysctl, Tunnel, UplinkRule};
use crate::op::{Op, TunnelSpec};
use crate::wiring::TUNNEL_IFNAME;

/// What is to be done.
pub(super) struct Overlay {
    /// Before any route leads there.
    pub(super) before: Vec<Group>,
    /// After the last one is gone.
    pub(super) after: Vec<Group>,
}

/// What the programs shall know.
#[derive(Default)]
struct Wanted {
    ranges: BTreeMap<Cidr, RemoteRule>,
    peers: BTreeMap<Ipv4Addr, Option<Ipv4Addr>>,
    uplinks: BTreeMap<u32, UplinkRule>,
}

/// This node's underlay address if packets to or from other nodes may be encapsulated: a node that serves and reaches
/// nothing yet is sent packets all the same, and closed ranges are those of encapsulated pools. Not while it is alone.
fn overlay_address(desired: &DesiredState) -> Option<Ipv4Addr> {
    let ranged = desired.remote_ranges.iter().any(|range| range.ipip_mode.may_encapsulate());
    let closed = desired.closed_ranges.iter().any(|range| range.family() == Family::V4);
    desired.underlay_ipv4.filter(|_| !desired.peers.is_empty() && (ranged || closed))
}

impl Wanted {
    fn of(desired: &DesiredState, actual: &Actual, backend: Backend) -> Self {
        let Some(local) = overlay_address(desired) else { return Self::default() };
        let subnet = subnet_of(desired, &actual.ground);
        let ipv4 = desired.remote_ranges.iter().filter(|range| range.cidr.family() == Family::V4);
        let ranges = ipv4.filter_map(|range| {
            let peer = desired.peers.get(usize::try_from(range.peer).ok()?)?;
            // Where a device encapsulates, what comes to the program has its outer header already.
            let encapsulate = backend == Backend::Ebpf && encapsulates(range, peer, subnet);
            Some((range.cidr, RemoteRule { node: peer.ipv4?, encapsulate }))
        });
        // Nobody else is believed to send from this node's own blocks, but who was lent an address of them.
        let own = desired.own_blocks.iter().filter(|block| block.family() == Family::V4);
        let own = own.map(|block| (*block, RemoteRule { node: local, encapsulate: false }));
        let peers = desired.peers.iter().filter_map(|peer| Some((peer.ipv4?, peer.inner_ipv4)));
        let rule = UplinkRule { local, decapsulate: backend == Backend::Ebpf };
        Self {
            ranges: own.chain(ranges).collect(),
            peers: peers.collect(),
            uplinks: uplinks(desired, actual).into_iter().map(|ifindex| (ifindex, rule)).collect(),
        }
    }
}

/// Interfaces by which other nodes are reached: the uplink, and where else a way to one leads.
fn uplinks(desired: &DesiredState, actual: &Actual) -> BTreeSet<u32> {
    let ground = &actual.ground;
    let uplink = actual.uplink.as_ref().and_then(|ifname| ground.links.get(ifname)).map(|link| link.ifindex);
    let nodes = desired.peers.iter().filter_map(|peer| peer.ipv4);
    let hops = nodes.filter_map(|node| ground.hops.get(&IpAddr::V4(node))).map(|hop| hop.ifindex);
    let living: BTreeSet<u32> = ground.links.values().map(|link| link.ifindex).collect();
    uplink.into_iter().chain(hops).filter(|ifindex| living.contains(ifindex)).collect()
}

/// Compares what the programs know of other nodes.
pub(super) fn plan_overlay(desired: &DesiredState, actual: &Actual, constants: Constants) -> Overlay {
    let wanted = Wanted::of(desired, actual, constants.backend);
    let programs = &actual.programs;
    let mut before = Vec::new();
    let peers = wanted.peers.iter().filter(|(address, inner)| programs.peers.get(address) != Some(inner));
    let peers = peers.map(|(address, inner)| Op::SetPeer { address: *address, inner: *inner });
    before.push(Group::Each(peers.collect()));
    let ranges = wanted.ranges.iter().filter(|(cidr, rule)| programs.remote_ranges.get(cidr) != Some(rule));
    let ranges = ranges.map(|(cidr, rule)| Op::SetRemoteRange { cidr: *cidr, rule: *rule });
    before.push(Group::Each(ranges.collect()));
    for (ifindex, rule) in &wanted.uplinks {
        let found = programs.uplinks.get(ifindex).copied().unwrap_or(FoundUplink::default());
        let ifindex = *ifindex;
        let set = (found.rule != Some(*rule)).then_some(Op::SetUplink { ifindex, rule: *rule });
        let attach = (!found.attached).then_some(Op::AttachUplink { ifindex });
        before.push(Group::Chain(set.into_iter().chain(attach).collect()));
    }

    let mut after = Vec::new();
    let living: BTreeSet<u32> = actual.ground.links.values().map(|link| link.ifindex).collect();
    let stale = programs.uplinks.keys().filter(|ifindex| !wanted.uplinks.contains_key(ifindex));
    // While no uplink is known, as when its router is away, those that were are left to be the ones.
    let unknown = actual.uplink.is_none() && overlay_address(desired).is_some();
    let stale = stale.filter(|ifindex| desired.sweep && !unknown || !living.contains(ifindex));
    after.push(Group::Each(stale.map(|ifindex| Op::DetachUplink { ifindex: *ifindex }).collect()));
    if desired.sweep {
        let stale = programs.remote_ranges.keys().filter(|cidr| !wanted.ranges.contains_key(cidr));
        after.push(Group::Each(stale.map(|cidr| Op::RemoveRemoteRange { cidr: *cidr }).collect()));
        let stale = programs.peers.keys().filter(|address| !wanted.peers.contains_key(address));
        after.push(Group::Each(stale.map(|address| Op::RemovePeer { address: *address }).collect()));
        let stale = actual.ground.path_mtus.iter().filter(|(_, said)| !actual.ground.believes(said));
        after.push(Group::Each(stale.map(|(node, _)| Op::RemovePathMtu { node: *node }).collect()));
        // Its routes went with their nexthop objects.
        if let Some(tunnel) = stale_tunnel(desired, &actual.ground, constants.backend) {
            after.push(Group::Chain(vec![tunnel]));
        }
    }
    Overlay { before, after }
}

fn stale_tunnel(desired: &DesiredState, ground: &Ground, backend: Backend) -> Option<Op> {
    let link = ground.links.get(TUNNEL_IFNAME).filter(|link| link.tunnel.is_some())?;
    let wanted = backend == Backend::Device && overlay_address(desired).is_some();
    (!wanted).then(|| Op::DeleteLink { ifname: link.ifname.clone(), ifindex: link.ifindex })
}

/// The tunnel device, before anything is planned that leads through it: its number is not known before it is there.
/// Not while something foreign has its name.
pub(crate) fn plan_tunnel(
    desired: &DesiredState,
    ground: &Ground,
    uplink_mtu_bytes: u32,
    backend: Backend,
) -> Result<Vec<Op>, String> {
    let Some(local) = overlay_address(desired).filter(|_| backend == Backend::Device) else {
        return Ok(Vec::new());
    };
    let mtu_bytes = uplink_mtu_bytes.saturating_sub(IPIP_OVERHEAD_BYTES);
    let spec = TunnelSpec { ifname: TUNNEL_IFNAME.into(), local, mtu_bytes };
    let found = ground.links.get(TUNNEL_IFNAME);
    let mut ops = Vec::new();
    match found.map(|link| (link.tunnel, link.mtu_bytes)) {
        Some((None, _)) => {
            return Err(format!("interface {TUNNEL_IFNAME} is no ipip tunnel, and not ours: not touched"));
        }
        Some((Some(Tunnel { local: Some(found), special: false }), mtu))
            if found == local && mtu == mtu_bytes => {}
        Some(_) => ops.push(Op::SetTunnel { spec, exists: true }),
        None => ops.push(Op::SetTunnel { spec, exists: false }),
    }
    if found.is_none() {
        // What comes out of it has been checked by the program on the uplink, and may go back another way.
        ops.push(Op::SetSysctl { sysctl: Sysctl::RpFilter(TUNNEL_IFNAME.into()), value: 2 });
    }
    let down = found.filter(|link| !link.up);
    ops.extend(down.map(|link| Op::SetLinkUp { ifname: link.ifname.clone(), ifindex: link.ifindex }));
    Ok(ops)
}
