//! The kernel's objects in our own terms: what is read, what is wanted, and what operations speak of.
//!
//! Only objects that are ours, or that ours depend on, have a type here. Nothing in this module does I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use model::Mac;
use model::{Cidr, Dscp, TagId};

/// An interface as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number in its namespace.
    pub(crate) ifindex: u32,
    /// Its name.
    pub(crate) ifname: String,
    /// `IFALIAS`; empty if it has none.
    pub(crate) alias: String,
    /// Hardware address, if it is an Ethernet-like device.
    pub(crate) mac: Option<Mac>,
    /// MTU in bytes.
    pub(crate) mtu_bytes: u32,
    /// Whether it is administratively up (`IFF_UP`).
    pub(crate) up: bool,
    /// Whether the kernel sends through it (`IF_OPER_UP`).
    pub(crate) operational: bool,
    /// Whether its driver says that there is somebody at the other end (`IFF_LOWER_UP`).
    pub(crate) carrier: bool,
    /// Whether it is one end of a veth pair.
    pub(crate) veth: bool,
    /// The number of the other end, in the other end's namespace (`IFLA_LINK`).
    pub(crate) peer_ifindex: Option<u32>,
    /// Number of the namespace that the other end is in (`IFLA_LINK_NETNSID`).
    pub(crate) peer_nsid: Option<u32>,
    /// What it is configured to if it is an ipip tunnel.
    pub(crate) tunnel: Option<Tunnel>,
}

impl Link {
    /// Whether the kernel accepts next hops on it: it takes none, and deletes those there are, without a carrier.
    pub(crate) fn carries(&self) -> bool {
        self.up && self.carrier
    }
}

/// What an ipip tunnel is configured to; its other fields as `tunnel_device` in `wiring` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    /// Where outer headers come from.
    pub(crate) local: Option<Ipv4Addr>,
    /// Whether it has one fixed far end, a TTL of its own or sets DF by itself: ours does none of it.
    pub(crate) special: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkAddress {
    /// The interface's number.
    pub(crate) ifindex: u32,
    /// The address with its prefix length: what is on the link.
    pub(crate) address: IpAddr,
    /// Length of the prefix that is on the link.
    pub(crate) prefix_len: u8,
    /// Whether it bears our label.
    pub(crate) ours: bool,
    /// Whether it may be told to others: neither temporary nor on trial nor on its way out.
    pub(crate) lasting: bool,
}

/// What a nexthop object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Nexthop {
    /// Whom packets are handed to.
    pub(crate) gateway: IpAddr,
    /// Out of which interface.
    pub(crate) ifindex: u32,
    /// Whether `gateway` is taken to be on the link whatever the routes say.
    pub(crate) onlink: bool,
}

impl fmt::Display for Nexthop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} out of interface {}", self.gateway, self.ifindex)
    }
}

/// A nexthop object as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundNexthop {
    /// Its number: one name space for all of the network namespace.
    pub(crate) id: u32,
    /// Who installed it.
    pub(crate) protocol: u8,
    /// What it says; `None`: something that we never install.
    pub(crate) says: Option<Nexthop>,
}

/// How the kernel reaches an address at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Out of which interface.
    pub(crate) ifindex: u32,
    /// Through whom; `None`: it is on the link.
    pub(crate) gateway: Option<IpAddr>,
}

/// Where a route of ours leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RouteTarget {
    /// Straight out of an interface (scope link), or through `gateway` there.
    Link {
        /// The interface's number.
        ifindex: u32,
        /// The next hop; `None`: the destination is on the link.
        gateway: Option<IpAddr>,
    },
    /// Where a nexthop object says.
    Nexthop {
        /// The object's number.
        id: u32,
    },
    /// Nowhere: packets are dropped silently.
    Blackhole,
    /// Nowhere, and the sender is told.
    Unreachable,
    /// Something that we never install; only ever read.
    Other,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Route {
    /// What it is for.
    pub(crate) destination: Cidr,
    /// Where it leads.
    pub(crate) target: RouteTarget,
    /// Its metric: among equal destinations the least wins.
    pub(crate) metric: u32,
    /// Its routing protocol number (`RTA_PROTOCOL`): who installed it.
    pub(crate) protocol: u8,
    /// Largest packet that may go by it, in bytes; 0: whatever the interface takes.
    pub(crate) mtu_bytes: u32,
    /// Source of what this node itself sends by it; `None`: the kernel chooses.
    pub(crate) source: Option<Ipv4Addr>,
}

impl Route {
    /// A route that says nothing of sizes and sources.
    pub(crate) fn new(destination: Cidr, target: RouteTarget, metric: u32, protocol: u8) -> Self {
        Self { destination, target, metric, protocol, mtu_bytes: 0, source: None }
    }

    /// What the kernel tells routes apart by: of two with one key the first counts.
    pub(crate) fn key(&self) -> (Cidr, u32) {
        (self.destination, self.metric)
    }
}

/// A route of ours as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundRoute {
    /// The route.
    pub(crate) route: Route,
    /// Whether another route with the same destination and metric comes before it, so that this one does not count.
    pub(crate) shadowed: bool,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            RouteTarget::Link { ifindex, gateway: None } => {
                write!(f, "{} out of interface {ifindex}", self.destination)?;
            }
            RouteTarget::Link { ifindex, gateway: Some(via) } => {
                write!(f, "{} via {via} out of interface {ifindex}", self.destination)?;
            }
            RouteTarget::Nexthop { id } => write!(f, "{} by nexthop {id}", self.destination)?,
            RouteTarget::Blackhole => write!(f, "{} to nowhere", self.destination)?,
            RouteTarget::Unreachable => write!(f, "{} unreachable", self.destination)?,
            RouteTarget::Other => write!(f, "{} of another kind", self.destination)?,
        }
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        if self.mtu_bytes != 0 {
            write!(f, " mtu {}", self.mtu_bytes)?;
        }
        write!(f, " (metric {}, protocol {})", self.metric, self.protocol)
    }
}

/// A permanent neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Neighbour {
    /// The interface it is behind.
    pub(crate) ifindex: u32,
    /// Its address.
    pub(crate) address: IpAddr,
    /// Its hardware address.
    pub(crate) mac: Mac,
}

/// What the programs know of the pod behind one host-side interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    /// Its own IPv4 source.
    pub(crate) ipv4: Option<Ipv4Addr>,
    /// Its own IPv6 source, besides link-local ones.
    pub(crate) ipv6: Option<Ipv6Addr>,
    /// Sources that it may use besides, where they lie in no pool.
    pub(crate) sources: BTreeSet<Cidr>,
}

/// What the programs know of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolEntry {
    /// The pool's tag id.
    pub(crate) tag: TagId,
    /// Whether what leaves all pools is masqueraded.
    pub(crate) nat_outgoing: bool,
    /// The code point to write, if any.
    pub(crate) dscp: Option<Dscp>,
}

/// What the programs know of a range that another node serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RemoteRule {
    /// The node's address on the underlay.
    pub(crate) node: Ipv4Addr,
    /// Whether packets to it are encapsulated.
    pub(crate) encapsulate: bool,
}

/// What the programs know of an interface towards other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UplinkRule {
    /// Where outer headers come from, and the only address that they may be sent to here.
    pub(crate) local: Ipv4Addr,
    /// Whether the program takes outer headers off; if not, a tunnel device does and the program only checks.
    pub(crate) decapsulate: bool,
}

/// What a router said that the way to a node carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathMtu {
    /// The greatest packet, outer header and all.
    pub(crate) mtu_bytes: u32,
    /// When it was said, since the boot.
    pub(crate) at: Duration,
}

/// What the programs' maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Programs {
    /// Whether they were told the mark layout that is configured.
    pub(crate) marks_ok: bool,
    /// Pools by range.
    pub(crate) pools: BTreeMap<Cidr, PoolEntry>,
    /// Tags that are counted.
    pub(crate) counted: BTreeSet<TagId>,
    /// Pods by the number of the host-side interface.
    pub(crate) endpoints: BTreeMap<u32, Endpoint>,
    /// Interfaces on which the current program runs, by our own pin.
    pub(crate) attached: BTreeSet<u32>,
    /// Interfaces for which something of ours is pinned, running or not. They need not exist any more.
    pub(crate) pinned: BTreeSet<u32>,
    /// Interfaces on which it runs in another way than the one it shall last in: a new pod's quick guard, or what an
    /// agent left that was configured otherwise.
    pub(crate) unsettled: BTreeSet<u32>,
    /// What other nodes serve, by range.
    pub(crate) remote_ranges: BTreeMap<Cidr, RemoteRule>,
    /// Other nodes by their address on the underlay, with their own address out of a pool.
    pub(crate) peers: BTreeMap<Ipv4Addr, Option<Ipv4Addr>>,
    /// Interfaces towards other nodes, by number. They need not exist any more.
    pub(crate) uplinks: BTreeMap<u32, FoundUplink>,
}

/// What there is of the programs on an interface towards other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundUplink {
    /// What the programs were told.
    pub(crate) rule: Option<UplinkRule>,
    /// Whether the current programs run there.
    pub(crate) attached: bool,
}

/// The state of our nftables table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NatState {
    /// There is no table of that name.
    Absent,
    /// Exactly as we write it, for these destinations.
    Intact(NatTable),
    /// There, but not as we write it; the text says what was found.
    Tampered(String),
}

/// What our nftables table says: packets with the NAT bit leave with the node's address, unless they go to one
/// of these ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NatTable {
    /// The bit of the mark that asks for masquerading.
    pub(crate) nat_bit: u32,
    /// Ranges of all pools, aggregated, in order.
    pub(crate) no_nat: Vec<Cidr>,
    /// What this node itself sends to other nodes' pods; `None`: as it is.
    pub(crate) inner: Option<InnerSource>,
}

/// With which source this node's own packets reach pods of encapsulated pools, so that replies come back encapsulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InnerSource {
    /// The node's own address out of a pool.
    pub(crate) address: Ipv4Addr,
    /// Ranges of encapsulated pools, aggregated, in order.
    pub(crate) ranges: Vec<Cidr>,
}

/// Switches under `/proc/sys/net` that we look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Sysctl {
    /// `net.ipv4.ip_forward`.
    ForwardIpv4,
    /// `net.ipv6.conf.all.forwarding`.
    ForwardIpv6,
    /// `net.ipv6.conf.IFNAME.accept_ra`: 0 never, 1 unless forwarding, 2 even when forwarding.
    AcceptRa(String),
    /// `net.ipv6.conf.IFNAME.disable_ipv6`.
    DisableIpv6(String),
    /// `net.ipv4.conf.IFNAME.rp_filter`: 0 never, 1 by the interface of the way back, 2 if there is any way back.
    RpFilter(String),
}

impl Sysctl {
    /// Its file, below `/proc/sys/net` or wherever that is mounted.
    pub(crate) fn path(&self, sysctl_dir: &Path) -> PathBuf {
        sysctl_dir.join(self.to_string())
    }
}

impl fmt::Display for Sysctl {
    /// Its path below `/proc/sys/net`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForwardIpv4 => f.write_str("ipv4/ip_forward"),
            Self::ForwardIpv6 => f.write_str("ipv6/conf/all/forwarding"),
            Self::AcceptRa(ifname) => write!(f, "ipv6/conf/{ifname}/accept_ra"),
            Self::RpFilter(ifname) => write!(f, "ipv4/conf/{ifname}/rp_filter"),
            Self::DisableIpv6(ifname) => write!(f, "ipv6/conf/{ifname}/disable_ipv6"),
        }
    }
}
