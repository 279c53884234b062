//! The kernel's objects in our own terms: what is read, what is wanted, and what operations speak of.
//!
//! Only objects that are ours, or that ours depend on, have a type here. Nothing in this module does I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::{Cidr, Dscp, TagId};

/// A hardware address of six bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

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
    /// Whether it is one end of a veth pair.
    pub(crate) veth: bool,
    /// The number of the other end, in the other end's namespace (`IFLA_LINK`).
    pub(crate) peer_ifindex: Option<u32>,
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
            RouteTarget::Blackhole => write!(f, "{} to nowhere", self.destination)?,
            RouteTarget::Unreachable => write!(f, "{} unreachable", self.destination)?,
            RouteTarget::Other => write!(f, "{} of another kind", self.destination)?,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    /// The only IPv4 source it may use.
    pub(crate) ipv4: Option<Ipv4Addr>,
    /// The only IPv6 source it may use, besides link-local ones.
    pub(crate) ipv6: Option<Ipv6Addr>,
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
}

impl Sysctl {
    /// Its file.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::ForwardIpv4 => "/proc/sys/net/ipv4/ip_forward".into(),
            Self::ForwardIpv6 => "/proc/sys/net/ipv6/conf/all/forwarding".into(),
            Self::AcceptRa(ifname) => format!("/proc/sys/net/ipv6/conf/{ifname}/accept_ra"),
            Self::DisableIpv6(ifname) => format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6"),
        }
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}
