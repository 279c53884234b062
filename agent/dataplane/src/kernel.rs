//! The kernel as the rest of this crate sees it: operations go in, objects come out.
//!
//! [`Linux`] is the real one. The fake that unit tests use stands beside it and says what it cannot prove. Nothing
//! here decides anything: order, desire and comparison are the plan's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use bpf::PoolCounters;
use model::TagId;
use rustix::io::Errno;

use crate::events::Events;
use crate::object::{
    FoundNexthop, FoundRoute, Hop, Link, LinkAddress, NatState, Neighbour, PathMtu, Programs, Route, Sysctl,
};
use crate::op::{Op, Outcome};

mod exec;
#[cfg(any(test, feature = "fake"))]
pub(crate) mod fake;
mod linux;
pub(crate) mod message;
pub(crate) mod netlink;
pub(crate) mod nexthop;
mod nft;
mod nsid;
mod programs;

pub(crate) use linux::Linux;
pub(crate) use programs::ProgramStore;

/// The kernel would not do, or could not say, something.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}{}{text}", if text.is_empty() { "" } else { ": " })]
pub struct KernelError {
    /// The operation and its object.
    operation: String,
    /// What the kernel or a tool added in words; may be empty.
    text: String,
    /// The cause.
    source: Box<dyn std::error::Error + Send + Sync>,
    /// The cause in kinds that a caller acts on.
    kind: ErrorKind,
}

/// Causes that somebody acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// It exists already.
    Exists,
    /// It does not exist, or not any more.
    Missing,
    /// The descriptor is not one of a network namespace.
    NotANamespace,
    /// Anything else.
    Other,
}

impl KernelError {
    /// An operation that broke off with an `errno`.
    pub(crate) fn io(operation: impl Into<String>, cause: io::Error) -> Self {
        let kind = match cause.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::EXIST) => ErrorKind::Exists,
            Some(Errno::NODEV | Errno::NOENT | Errno::SRCH | Errno::ADDRNOTAVAIL) => ErrorKind::Missing,
            _ => ErrorKind::Other,
        };
        Self { operation: operation.into(), text: String::new(), source: Box::new(cause), kind }
    }

    /// An operation that broke off for another reason.
    pub(crate) fn other(
        operation: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            operation: operation.into(),
            text: String::new(),
            source: cause.into(),
            kind: ErrorKind::Other,
        }
    }

    /// With a remedy or the kernel's own words.
    pub(crate) fn with_text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// As a kind that the error's number alone does not tell.
    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Where an operation takes place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// The node's own namespace: that of the calling thread.
    Node,
    /// A pod's.
    Pod(BorrowedFd<'a>),
}

/// The part of operations that was carried out before one failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Outcomes of the operations before the one that failed, in order.
    pub(crate) done: Vec<Outcome>,
    /// Why the next one failed.
    pub(crate) error: KernelError,
}

/// What a pod's namespace shows of its interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodSide {
    /// The interface, if there is one of that name.
    pub(crate) link: Option<Link>,
    /// Its addresses with their prefix lengths, link-local IPv6 ones left out.
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    /// Routes of the main table out of it.
    pub(crate) routes: Vec<Route>,
    /// Permanent neighbours on it.
    pub(crate) neighbours: Vec<Neighbour>,
}

/// The main table, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteTable {
    /// Routes of our protocol.
    pub(crate) ours: Vec<FoundRoute>,
    /// Default routes, whosever.
    pub(crate) defaults: Vec<Route>,
}

/// Operations and questions. Every call is synchronous and bounded.
///
/// The node's namespace is that of the calling thread, so every call has to come from a thread of that
/// namespace.
pub(crate) trait Kernel: Send + Sync {
    /// Carries out operations in order and stops at the first that fails. Some after that one may have been
    /// carried out nevertheless, where several travel together. Taking away what is not there is no failure.
    ///
    /// `netns` is the namespace into which [`Op::CreateVeth`] puts the peer.
    fn exec(
        &self,
        place: Place<'_>,
        netns: Option<BorrowedFd<'_>>,
        ops: &[Op],
    ) -> Result<Vec<Outcome>, Failure>;

    /// Carries out operations of the node that do not depend on each other: each fails or succeeds by itself. One
    /// result each, in order.
    fn exec_each(&self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let exec = |op| self.exec(Place::Node, None, std::slice::from_ref(op)).map(drop).map_err(|f| f.error);
        ops.iter().map(exec).collect()
    }

    /// All interfaces of the node.
    fn fetch_links(&self) -> Result<Vec<Link>, KernelError>;

    /// One interface of the node by name.
    fn fetch_link(&self, ifname: &str) -> Result<Option<Link>, KernelError>;

    /// Routes of the node's main table, by protocol and interface.
    fn fetch_routes(&self, protocol: u8, ifindex: u32) -> Result<Vec<Route>, KernelError>;

    /// What the node's main table holds of ours, and how the rest is reached.
    fn fetch_table(&self, protocol: u8) -> Result<RouteTable, KernelError>;

    /// All nexthop objects of the node.
    fn fetch_nexthops(&self) -> Result<Vec<FoundNexthop>, KernelError>;

    /// How the node reaches addresses; those it cannot reach, and its own, are left out.
    fn fetch_hops(&self, addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, Hop>, KernelError>;

    /// All addresses of the node.
    fn fetch_addresses(&self) -> Result<Vec<LinkAddress>, KernelError>;

    /// Permanent neighbours of the node, on one interface or all.
    fn fetch_neighbours(&self, ifindex: Option<u32>) -> Result<Vec<Neighbour>, KernelError>;

    /// What the programs' maps hold, and where the programs run.
    fn fetch_programs(&self) -> Result<Programs, KernelError>;

    /// Our nftables table.
    fn fetch_nat(&self) -> Result<NatState, KernelError>;

    /// A switch; `None` if the kernel has none of that name.
    fn fetch_sysctl(&self, sysctl: &Sysctl) -> Result<Option<u8>, KernelError>;

    /// The pod's side of a pair.
    fn fetch_pod_side(&self, netns: BorrowedFd<'_>, ifname: &str) -> Result<PodSide, KernelError>;

    /// Whether a descriptor is of the node's own namespace.
    fn is_own_namespace(&self, netns: BorrowedFd<'_>) -> Result<bool, KernelError>;

    /// The number by which the node's namespace knows another, which is given one if it has none; `None` where
    /// namespaces have no numbers.
    fn name_namespace(&self, netns: BorrowedFd<'_>) -> Result<Option<u32>, KernelError>;

    /// Numbers of all namespaces that the node's knows.
    fn fetch_namespaces(&self) -> Result<BTreeSet<u32>, KernelError>;

    /// Packets dropped, by reason, since the maps were made.
    fn fetch_drops(&self) -> Result<BTreeMap<&'static str, u64>, KernelError>;

    /// Packets and bytes by tag.
    fn fetch_pool_counters(&self) -> Result<BTreeMap<TagId, PoolCounters>, KernelError>;

    /// Whether programs are attached by TCX links rather than clsact filters.
    fn uses_tcx(&self) -> bool;

    /// Whether interfaces of type ipip can be made. Where the kernel can tell only by making one, this does.
    fn has_tunnels(&self) -> Result<bool, KernelError>;

    /// Whether the programs take outer headers off as the kernel's helpers meant it (since Linux 6.3).
    fn decapsulates_well(&self) -> bool;

    /// What routers said that the ways to nodes carry, where it could not be passed on to the sender.
    fn fetch_path_mtus(&self) -> Result<BTreeMap<Ipv4Addr, PathMtu>, KernelError>;

    /// How long ago the node was booted.
    fn fetch_uptime(&self) -> Duration;

    /// Subscribes to changes of interfaces, addresses, routes and nexthop objects.
    fn open_events(&self) -> Result<Events, KernelError>;

    /// Takes off every program, map and pin of ours.
    fn remove_programs(&self) -> Result<(), KernelError>;
}
