//! What the node's kernel shall look like, in the words of pools, blocks and pods.

use model::{Cidr, Dscp, Identity, TagId};

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
    /// Pods that have been wired and not unwired.
    pub pods: Vec<Identity>,
    /// Whether the node must forward IPv4. `false` leaves the switch as it is.
    pub forward_ipv4: bool,
    /// Whether the node must forward IPv6. `false` leaves the switch as it is.
    pub forward_ipv6: bool,
}
