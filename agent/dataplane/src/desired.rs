//! What the node's kernel shall look like, in the words of pools, blocks and pods.

use std::net::{Ipv4Addr, Ipv6Addr};

use model::{Cidr, Dscp, Identity, IpipMode, NodeName, TagId};

use crate::activity::Epoch;

/// A pool as the dataplane sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its range. Ranges of different pools do not overlap.
    pub cidr: Cidr,
    /// Its tag id.
    pub tag: TagId,
    /// Whether what its pods send out of all pools leaves with the node's address.
    pub nat_outgoing: bool,
    /// The code point that packets of its pods leave with; `None`: as the pod wrote it.
    pub dscp: Option<Dscp>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    /// Its IPv4 address on the underlay; without one its IPv4 ranges have no route.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address on the underlay; without one its IPv6 ranges have no route.
    pub ipv6: Option<Ipv6Addr>,
    /// Its own address out of a pool: an inner source that is its own although the range may be another's.
    pub inner_ipv4: Option<Ipv4Addr>,
}

/// A range that another node serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteRange {
    /// A block, or a single address lent to the node (/32 or /128).
    pub cidr: Cidr,
    /// Which node: an index into [`DesiredState::peers`].
    pub peer: u32,
    /// When packets to it are encapsulated; IPv6 ranges never are.
    pub ipip_mode: IpipMode,
}

/// Everything that [`Dataplane::reconcile`](crate::Dataplane::reconcile) brings about.
#[derive(Clone, Debug)]
pub struct DesiredState {
    /// Taken by [`Dataplane::epoch`](crate::Dataplane::epoch) *before* the rest was computed: pods that were
    /// wired or unwired since then are left alone in this run, for the rest may not know of them.
    pub since: Epoch,
    /// Whether the rest is complete. Until the first complete snapshot nothing is removed.
    pub sweep: bool,
    /// All pools of the cluster, disabled and terminating ones as well.
    pub pools: Vec<Pool>,
    /// Blocks of this node: what of them belongs to no pod is dropped here instead of leaving by the default
    /// route.
    pub own_blocks: Vec<Cidr>,
    /// Ranges that no other node serves: what of them is in no block is answered as unreachable.
    pub closed_ranges: Vec<Cidr>,
    /// The other nodes, whether or not they serve anything.
    pub peers: Vec<Peer>,
    /// What the other nodes serve: their blocks, and the addresses lent to them. A longer range wins over a shorter one
    /// it lies in.
    pub remote_ranges: Vec<RemoteRange>,
    /// The address by which the other nodes know this one; where outer headers come from.
    pub underlay_ipv4: Option<Ipv4Addr>,
    /// This node's own address out of a pool, for what the node itself sends to pods of encapsulated pools. Not among
    /// `pods`.
    pub inner_ipv4: Option<Ipv4Addr>,
    /// Pods that have been wired and not unwired.
    pub pods: Vec<Identity>,
    /// Whether the node must forward IPv4. `false` leaves the switch as it is.
    pub forward_ipv4: bool,
    /// Whether the node must forward IPv6. `false` leaves the switch as it is.
    pub forward_ipv6: bool,
}
