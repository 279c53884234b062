//! Operations on the kernel, as data: what is to be done, said in a way that can be shown, compared and undone.
//!
//! How each is carried out is the kernel's business (`kernel`), in which order the plan's (`plan`, `wiring`).

use std::fmt;
use std::net::IpAddr;

use model::{Cidr, Handle, MarkLayout, TagId};

use crate::object::{Endpoint, Mac, NatTable, Neighbour, PoolEntry, Route, Sysctl};

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

/// One change to the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Create a veth pair. Answered with [`Outcome::Created`].
    CreateVeth(Box<VethSpec>),
    /// Delete an interface that is ours, with all that hangs on it in the kernel, the programs' pins included.
    DeleteLink { ifname: String, ifindex: u32 },
    /// Set an interface up.
    SetLinkUp { ifname: String, ifindex: u32 },
    /// Wait until the kernel has noticed that an interface has a carrier, and sends through it.
    AwaitCarrier { ifname: String, ifindex: u32 },
    /// Give an interface an address of its own: /32, or /128 without duplicate address detection.
    AddAddress { ifindex: u32, address: IpAddr },
    /// Add a route. `exclusive`: any other route with the same destination and metric is an error; otherwise
    /// an IPv4 route goes before it, which leaves it as it is.
    AddRoute { route: Route, exclusive: bool },
    /// Delete a route of ours.
    DeleteRoute(Route),
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

impl Op {
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
            Self::DeleteRoute(route) => write!(f, "delete route {route}"),
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
