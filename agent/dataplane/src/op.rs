//! Operations on the kernel, as data: what is to be done, said in a way that can be shown, compared and undone.
//!
//! How each is carried out is the kernel's business (`kernel`), in which order the plan's (`plan`, `wiring`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use model::{Cidr, Handle, MarkLayout, TagId};

use crate::object::{
    Endpoint, Mac, NatTable, Neighbour, Nexthop, PoolEntry, RemoteRule, Route, RouteTarget, Sysctl,
    UplinkRule,
};

/// A veth pair to be: the peer is born in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VethSpec {
    /// Whose it is.
    pub(crate) handle: Handle,
    /// The host's end.
    pub(crate) host_ifname: String,
    /// `IFALIAS` of the host's end.
    pub(crate) alias: String,
    /// Hardware address of the host's end. Set by us, so that nothing on the host replaces it later.
    pub(crate) host_mac: Mac,
    /// The pod's end.
    pub(crate) pod_ifname: String,
    /// Hardware address of the pod's end.
    pub(crate) pod_mac: Mac,
    /// MTU of both ends.
    pub(crate) mtu_bytes: u32,
    /// Whether the host's end gets a link-local IPv6 address.
    pub(crate) ipv6: bool,
}

/// An ipip tunnel to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelSpec {
    /// Its name.
    pub(crate) ifname: String,
    /// Where outer headers come from.
    pub(crate) local: Ipv4Addr,
    /// Its MTU.
    pub(crate) mtu_bytes: u32,
}

/// One change to the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Create a veth pair. Answered with [`Outcome::Created`].
    CreateVeth(Box<VethSpec>),
    /// Delete an interface that is ours, with all that hangs on it in the kernel, the programs' pins included.
    DeleteLink { ifname: String, ifindex: u32 },
    /// Set an interface up; number 0: the one that an operation before this one has made.
    SetLinkUp { ifname: String, ifindex: u32 },
    /// Wait until the kernel has noticed that an interface has a carrier, and sends through it.
    AwaitCarrier { ifname: String, ifindex: u32 },
    /// Give an interface an address of its own: /32, or /128 without duplicate address detection.
    AddAddress { ifindex: u32, address: IpAddr },
    /// Add a route. `exclusive`: any other route with the same destination and metric is an error; otherwise
    /// an IPv4 route goes before it, which leaves it as it is.
    AddRoute { route: Route, exclusive: bool },
    /// Put a route of ours in the place of one of ours that nothing comes before: no packet finds none.
    ReplaceRoute { old: Route, new: Route },
    /// Delete a route of ours.
    DeleteRoute(Route),
    /// Add a nexthop object.
    AddNexthop { id: u32, nexthop: Nexthop, protocol: u8 },
    /// Change a nexthop object of ours in place, and so all routes by it.
    ReplaceNexthop { id: u32, nexthop: Nexthop, protocol: u8 },
    /// Delete a nexthop object of ours; routes by it go with it.
    DeleteNexthop { id: u32 },
    /// Give `lo` an address with our label.
    AddOwnAddress(Ipv4Addr),
    /// Take an address with our label off `lo`; routes from it go with it.
    DeleteOwnAddress(Ipv4Addr),
    /// Create the tunnel device, or set one that exists to what it says.
    SetTunnel { spec: TunnelSpec, exists: bool },
    /// Set a permanent neighbour entry.
    SetNeighbour(Neighbour),
    /// Run the program on an interface.
    Attach { ifindex: u32 },
    /// Replace the quick way in which the program runs on an interface by the lasting one.
    Settle { ifindex: u32 },
    /// Take the program off an interface, and its pin; nothing to take off is not an error.
    Detach { ifindex: u32 },
    /// Tell the programs who is behind an interface.
    SetEndpoint { ifindex: u32, endpoint: Endpoint },
    /// Make the programs forget it.
    RemoveEndpoint { ifindex: u32 },
    /// Tell the programs of a pool.
    SetPool { cidr: Cidr, entry: PoolEntry },
    /// Make the programs forget a pool.
    RemovePool { cidr: Cidr },
    /// End the counting of a tag that no pool has any more.
    ForgetTag(TagId),
    /// Tell the programs how marks are laid out.
    SetMarks(MarkLayout),
    /// Tell the programs who serves a range.
    SetRemoteRange { cidr: Cidr, rule: RemoteRule },
    /// Make the programs forget who serves a range.
    RemoveRemoteRange { cidr: Cidr },
    /// Tell the programs of another node and its own address out of a pool.
    SetPeer { address: Ipv4Addr, inner: Option<Ipv4Addr> },
    /// Make the programs forget another node.
    RemovePeer { address: Ipv4Addr },
    /// Forget what a router said that the way to a node carries.
    RemovePathMtu { node: Ipv4Addr },
    /// Tell the programs what holds on an interface towards other nodes.
    SetUplink { ifindex: u32, rule: UplinkRule },
    /// Run the programs on an interface towards other nodes.
    AttachUplink { ifindex: u32 },
    /// Take the programs off an interface, and what they were told of it.
    DetachUplink { ifindex: u32 },
    /// Write our nftables table anew, in one transaction.
    ReplaceNat(NatTable),
    /// Delete our nftables table.
    RemoveNat,
    /// Write a switch.
    SetSysctl { sysctl: Sysctl, value: u8 },
}

/// What an operation brought to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done, nothing to tell.
    Done,
    /// The two ends of a new pair.
    Created(VethEnds),
}

/// The numbers of a veth pair, each in its own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VethEnds {
    /// The host's end.
    pub(crate) host_ifindex: u32,
    /// The pod's end.
    pub(crate) pod_ifindex: u32,
}

/// What one operation makes and another relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    /// A nexthop object.
    Nexthop(u32),
    /// What the programs know of a range: there while a route leads to it, and so a range's last route as well.
    Range(Cidr),
    /// Our address on `lo`.
    Own(Ipv4Addr),
    /// The programs on the uplinks.
    Uplinks,
}

impl Op {
    /// The route of ours that makes room.
    pub(crate) fn replaced(&self) -> Option<Route> {
        match self {
            Self::DeleteRoute(route) | Self::ReplaceRoute { old: route, .. } => Some(*route),
            _ => None,
        }
    }

    /// What others have to do without if this fails.
    pub(crate) fn makes(&self) -> Option<Thing> {
        match self {
            Self::AddNexthop { id, .. } | Self::ReplaceNexthop { id, .. } => Some(Thing::Nexthop(*id)),
            Self::SetRemoteRange { cidr, .. } => Some(Thing::Range(*cidr)),
            // While the route is there, so must be what the programs know of its range.
            Self::DeleteRoute(route) => Some(Thing::Range(route.destination)),
            Self::AddOwnAddress(address) => Some(Thing::Own(*address)),
            Self::SetUplink { .. } | Self::AttachUplink { .. } => Some(Thing::Uplinks),
            _ => None,
        }
    }

    /// What must not have failed before this.
    pub(crate) fn needs(&self) -> impl Iterator<Item = Thing> {
        let needs = match self {
            Self::AddRoute { route, .. } | Self::ReplaceRoute { new: route, .. } => match route.target {
                RouteTarget::Nexthop { id } => [
                    Some(Thing::Nexthop(id)),
                    Some(Thing::Range(route.destination)),
                    route.source.map(Thing::Own),
                    // Only what is encapsulated is made smaller.
                    (route.mtu_bytes != 0).then_some(Thing::Uplinks),
                ],
                _ => [None; 4],
            },
            Self::RemoveRemoteRange { cidr } => [Some(Thing::Range(*cidr)), None, None, None],
            _ => [None; 4],
        };
        needs.into_iter().flatten()
    }

    /// What takes it back, if it can be taken back by itself. What hangs on a link goes with the link.
    pub(crate) fn inverse(&self, outcome: Outcome) -> Option<Self> {
        match (self, outcome) {
            (Self::CreateVeth(spec), Outcome::Created(ends)) => {
                Some(Self::DeleteLink { ifname: spec.host_ifname.clone(), ifindex: ends.host_ifindex })
            }
            (Self::Attach { ifindex }, _) => Some(Self::Detach { ifindex: *ifindex }),
            (Self::SetEndpoint { ifindex, .. }, _) => Some(Self::RemoveEndpoint { ifindex: *ifindex }),
            (Self::SetPool { cidr, .. }, _) => Some(Self::RemovePool { cidr: *cidr }),
            (Self::AddRoute { route, .. }, _) => Some(Self::DeleteRoute(*route)),
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateVeth(spec) => {
                write!(
                    f,
                    "create veth {} with {} in the pod, for {}",
                    spec.host_ifname, spec.pod_ifname, spec.handle
                )
            }
            Self::DeleteLink { ifname, ifindex } => write!(f, "delete interface {ifname} ({ifindex})"),
            Self::SetLinkUp { ifname, ifindex } => write!(f, "set interface {ifname} ({ifindex}) up"),
            Self::AwaitCarrier { ifname, ifindex } => {
                write!(f, "wait for the carrier of {ifname} ({ifindex})")
            }
            Self::AddAddress { ifindex, address } => {
                write!(f, "add address {address} to interface {ifindex}")
            }
            Self::AddRoute { route, .. } => write!(f, "add route {route}"),
            Self::ReplaceRoute { old, new } => write!(f, "replace route {old} by {new}"),
            Self::DeleteRoute(route) => write!(f, "delete route {route}"),
            Self::AddNexthop { id, nexthop, .. } => write!(f, "add nexthop {id}: {nexthop}"),
            Self::ReplaceNexthop { id, nexthop, .. } => write!(f, "change nexthop {id} to {nexthop}"),
            Self::DeleteNexthop { id } => write!(f, "delete nexthop {id}"),
            Self::AddOwnAddress(address) => write!(f, "add the node's own address {address} to lo"),
            Self::DeleteOwnAddress(address) => write!(f, "delete the node's own address {address} from lo"),
            Self::SetTunnel { spec, exists } => {
                let verb = if *exists { "change" } else { "create" };
                let TunnelSpec { ifname, local, mtu_bytes } = spec;
                write!(f, "{verb} tunnel {ifname}: from {local}, MTU {mtu_bytes}")
            }
            Self::SetRemoteRange { cidr, rule: RemoteRule { node, encapsulate: true } } => {
                write!(f, "set range {cidr} to node {node}, encapsulated")
            }
            Self::SetRemoteRange { cidr, rule } => write!(f, "set range {cidr} to node {}", rule.node),
            Self::RemoveRemoteRange { cidr } => write!(f, "remove range {cidr}"),
            Self::SetPeer { address, inner } => {
                write!(f, "set node {address}")?;
                inner.map_or(Ok(()), |inner| write!(f, " with its own address {inner}"))
            }
            Self::RemovePeer { address } => write!(f, "remove node {address}"),
            Self::RemovePathMtu { node } => write!(f, "forget what the way to node {node} carries"),
            Self::SetUplink { ifindex, rule } => {
                let taker = if rule.decapsulate { "the program" } else { "the tunnel" };
                write!(f, "set uplink {ifindex} to local address {}, decapsulation by {taker}", rule.local)
            }
            Self::AttachUplink { ifindex } => write!(f, "attach the programs to uplink {ifindex}"),
            Self::DetachUplink { ifindex } => write!(f, "detach the programs from uplink {ifindex}"),
            Self::SetNeighbour(n) => {
                write!(f, "set neighbour {} {} on interface {}", n.address, n.mac, n.ifindex)
            }
            Self::Attach { ifindex } => write!(f, "attach the program to interface {ifindex}"),
            Self::Settle { ifindex } => {
                write!(f, "attach the program to interface {ifindex} in the lasting way")
            }
            Self::Detach { ifindex } => write!(f, "detach the program from interface {ifindex}"),
            Self::SetEndpoint { ifindex, endpoint } => {
                write!(f, "set endpoint of interface {ifindex} to")?;
                let addresses = [endpoint.ipv4.map(IpAddr::V4), endpoint.ipv6.map(IpAddr::V6)];
                addresses.into_iter().flatten().try_for_each(|address| write!(f, " {address}"))
            }
            Self::RemoveEndpoint { ifindex } => write!(f, "remove endpoint of interface {ifindex}"),
            Self::SetPool { cidr, entry } => {
                write!(f, "set pool {cidr} to tag {}, NAT {}", entry.tag, entry.nat_outgoing)?;
                entry.dscp.map_or(Ok(()), |dscp| write!(f, ", DSCP {dscp}"))
            }
            Self::RemovePool { cidr } => write!(f, "remove pool {cidr}"),
            Self::ForgetTag(tag) => write!(f, "forget the counters of tag {tag}"),
            Self::SetMarks(layout) => write!(f, "set mark mask {:#x}", layout.mask()),
            Self::ReplaceNat(table) => {
                write!(f, "write the nftables table for {} ranges", table.no_nat.len())
            }
            Self::RemoveNat => f.write_str("delete the nftables table"),
            Self::SetSysctl { sysctl, value } => write!(f, "write {value} to {sysctl}"),
        }
    }
}
