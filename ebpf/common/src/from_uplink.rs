//! What `from_uplink` does with a frame that has just reached the node.
//!
//! Protocol 4 to the node's own address:
//! 1. The outer header must be whole, right, without options and no fragment, its source a known node: else drop.
//! 2. What is inside must be IPv4 and fit: else drop.
//! 3. The inner source must be that node's ([`Claim`]): else drop.
//! 4. Congestion experienced on the way reaches the inner header (RFC 6040), or drops what cannot say so.
//!
//! "Fragmentation needed" to the node's own address: [`crate::path_mtu`].
//!
//! Anything else passes. What is forwarded unencapsulated from a range that should be encapsulated is counted, and not
//! dropped: nodes learn at different times that a pool's mode has changed, and see "the same subnet" each with their
//! own prefix, so a drop would cut good traffic; and whoever can forge such a packet can forge an outer header too.

use crate::dscp::{IPV4_REWRITE_LEN, rewrite_ipv4_tos};
use crate::ipv4_header::{HEADER_LEN, Header, PLAIN, protocol};
use crate::layout::UplinkEntry;
use crate::path_mtu::{RELAYED_LEN, check_icmp};
use crate::verdict::{ETHERNET_LEN, ethertype};
use crate::{DropReason, Packet, Tables};

/// Where the inner header begins.
pub const INNER_OFFSET: u32 = ETHERNET_LEN + HEADER_LEN;

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromUplink {
    /// Let it pass as it is.
    Leave,
    /// Drop and count.
    Drop(DropReason),
    /// Let it pass as it is, and count.
    Count(DropReason),
    /// Take the outer header away.
    Decapsulate {
        /// The head of the inner header as it must be first, if it is not already.
        rewrite: Option<[u8; IPV4_REWRITE_LEN]>,
        /// What to count.
        count: Option<DropReason>,
    },
    /// Take the IPv4 header away, and put these bytes over what comes then: a new IPv4 and a new ICMP header.
    RelayPathMtu([u8; RELAYED_LEN]),
    /// Remember what the way to a node carries, and let the packet pass.
    KeepPathMtu {
        /// The node's address.
        node: [u8; 4],
        /// The greatest outer packet.
        mtu_bytes: u32,
    },
}

/// Decides about a frame. `vlan_present` says that it carries a tag beside its bytes: it is another network's.
#[inline(always)]
pub fn check_from_uplink<P: Packet, T: Tables>(packet: &P, vlan_present: bool, tables: &T) -> FromUplink {
    if vlan_present || packet.load::<2>(ETHERNET_LEN - 2) != Some(ethertype::IPV4.to_be_bytes()) {
        return FromUplink::Leave;
    }
    let Some(header) = packet.load::<{ HEADER_LEN as usize }>(ETHERNET_LEN) else {
        return FromUplink::Leave;
    };
    let outer = Header(header);
    let Some(uplink) = tables.uplink() else {
        return FromUplink::Leave;
    };
    if outer.destination() != uplink.local {
        return check_plain(&outer, tables);
    }
    match outer.protocol() {
        protocol::IPIP => check_outer(packet, &outer, uplink, tables),
        // Where a device of the kernel decapsulates, that device also learns path MTUs.
        protocol::ICMP if uplink.decapsulates() => check_icmp(packet, &outer, tables),
        _ => FromUplink::Leave,
    }
}

/// A packet that the node will forward.
#[inline(always)]
fn check_plain<T: Tables>(header: &Header, tables: &T) -> FromUplink {
    match tables.range_of(header.source()) {
        Some(range) if range.encapsulates() => FromUplink::Count(DropReason::NotEncapsulated),
        _ => FromUplink::Leave,
    }
}

#[inline(always)]
fn check_outer<P: Packet, T: Tables>(
    packet: &P,
    outer: &Header,
    uplink: UplinkEntry,
    tables: &T,
) -> FromUplink {
    // A fragment first: its source says more than its length.
    if outer.is_fragment() {
        return FromUplink::Drop(DropReason::OuterFragment);
    }
    let Some(inner) = packet.load::<{ HEADER_LEN as usize }>(INNER_OFFSET) else {
        return FromUplink::Drop(DropReason::Truncated);
    };
    let inner = Header(inner);
    // Frames may be padded, so the packet may be shorter than its frame; never longer.
    if outer.0[0] != PLAIN || outer.total_len() > packet.len() - ETHERNET_LEN || !outer.sums_up() {
        return FromUplink::Drop(DropReason::OuterHeader);
    }
    let Some(peer) = tables.peer(outer.source()) else {
        return FromUplink::Drop(DropReason::UnknownNode);
    };
    let fits = inner.total_len() >= inner.header_len() && inner.total_len() + HEADER_LEN <= outer.total_len();
    if !inner.is_ipv4() || !fits {
        return FromUplink::Drop(DropReason::InnerHeader);
    }
    let own_address = inner.source() == outer.source() || peer.has_inner(inner.source());
    let claim = if own_address {
        Claim::Own
    } else {
        claim_of(outer.source(), uplink.local, inner.source(), inner.destination(), tables)
    };
    let count = match claim {
        Claim::Own => None,
        Claim::OwnerRelay => Some(DropReason::OwnerRelay),
        Claim::Uncovered => Some(DropReason::UncoveredSource),
        Claim::None => return FromUplink::Drop(DropReason::InnerSource),
    };
    if !uplink.decapsulates() {
        return count.map_or(FromUplink::Leave, FromUplink::Count);
    }
    let Some(ecn) = ecn_inside(outer.ecn(), inner.ecn()) else {
        return FromUplink::Drop(DropReason::EcnNotEct);
    };
    let rewrite =
        if ecn == inner.ecn() { None } else { rewrite_ipv4_tos(inner.head(), (inner.tos() & 0xfc) | ecn) };
    FromUplink::Decapsulate { rewrite, count }
}

/// With what right a node sends from an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// The address lies in a range of the node.
    Own,
    /// The node owns the block around the address, though this one is lent to another as far as is known here: the
    /// loan may have ended. Or it owns the block around the destination: who does not know yet that this is lent to
    /// us sends to the owner, and the owner passes it on.
    OwnerRelay,
    /// The address lies in a pool, and nobody is known to have it: the block may just have been claimed.
    Uncovered,
    /// None at all.
    None,
}

#[inline(always)]
fn claim_of<T: Tables>(
    node: [u8; 4],
    local: [u8; 4],
    source: [u8; 4],
    destination: [u8; 4],
    tables: &T,
) -> Claim {
    let Some(range) = tables.range_of(source) else {
        return if tables.in_pool(source) { Claim::Uncovered } else { Claim::None };
    };
    if range.node == node {
        return Claim::Own;
    }
    // Nobody else sends from what is served here.
    if range.node == local {
        return Claim::None;
    }
    let owns = |address| tables.block_of(address).is_some_and(|block| block.node == node);
    if (range.is_single() && owns(source)) || owns(destination) { Claim::OwnerRelay } else { Claim::None }
}

/// The ECN bits to deliver (RFC 6040, figure 4); `None`: drop.
#[inline(always)]
fn ecn_inside(outer: u8, inner: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    match (outer, inner) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(CE),
        (ECT_1, ECT_0) => Some(ECT_1),
        _ => Some(inner),
    }
}
