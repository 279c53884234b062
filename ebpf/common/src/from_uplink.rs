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
use crate::layout::{RemoteEntry, UplinkEntry};
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
    if vlan_present || packet.ethertype() != Some(ethertype::IPV4) {
        return FromUplink::Leave;
    }
    let Some(outer) = Header::load(packet, ETHERNET_LEN) else {
        return FromUplink::Leave;
    };
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
    let Some(inner) = Header::load(packet, INNER_OFFSET) else {
        return FromUplink::Drop(DropReason::Truncated);
    };
    // Frames may be padded, so the packet may be shorter than its frame; never longer.
    if outer.first_byte() != PLAIN || outer.total_len() > packet.len() - ETHERNET_LEN || !outer.sums_up() {
        return FromUplink::Drop(DropReason::OuterHeader);
    }
    let fits = inner.total_len() >= inner.header_len() && inner.total_len() + HEADER_LEN <= outer.total_len();
    if !inner.is_ipv4() || !fits {
        return FromUplink::Drop(DropReason::InnerHeader);
    }
    let range = tables.range_of(inner.source());
    let node = outer.source();
    // Ranges are of known nodes, and of this one, so that in the usual case the node need not be looked up.
    let claim = if node != uplink.local && range.is_some_and(|range| range.node == node) {
        Claim::Own
    } else {
        let Some(peer) = tables.peer(node) else {
            return FromUplink::Drop(DropReason::UnknownNode);
        };
        // Not the node's address on the underlay: a pod's answer to that would leave as it is, outside protocol 4.
        if peer.has_inner(inner.source()) {
            Claim::Own
        } else {
            claim_of(node, uplink.local, range, &inner, tables)
        }
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
    range: Option<RemoteEntry>,
    inner: &Header,
    tables: &T,
) -> Claim {
    let Some(range) = range else {
        return if tables.in_pool(inner.source()) { Claim::Uncovered } else { Claim::None };
    };
    // Nobody else sends from what is served here.
    if range.node == local {
        return Claim::None;
    }
    let owns = |address| tables.block_of(address).is_some_and(|block| block.node == node);
    if (range.is_single() && owns(inner.source())) || owns(inner.destination()) {
        Claim::OwnerRelay
    } else {
        Claim::None
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::SlicePacket;
    use crate::tables::fake::{Fake, INNER_B, LENT, LOCAL, NODE_B, NODE_C, frame};

    const POD: [u8; 4] = [10, 1, 0, 5];
    const FAR: [u8; 4] = [10, 2, 0, 5];

    fn verdict(frame: &[u8]) -> FromUplink {
        check_from_uplink(&SlicePacket(frame), false, &Fake::DEFAULT)
    }

    #[test]
    fn who_may_send_from_what() {
        let check = |node, source, destination, expected| {
            let inner = frame(17, source, destination, &[])[14..].to_vec();
            let counted = |reason| FromUplink::Decapsulate { rewrite: None, count: Some(reason) };
            let expected = match expected {
                Claim::Own => FromUplink::Decapsulate { rewrite: None, count: None },
                Claim::OwnerRelay => counted(DropReason::OwnerRelay),
                Claim::Uncovered => counted(DropReason::UncoveredSource),
                Claim::None => FromUplink::Drop(DropReason::InnerSource),
            };
            let verdict = verdict(&frame(4, node, LOCAL, &inner));
            assert_eq!(verdict, expected, "{node:?} from {source:?} to {destination:?}");
        };
        check(NODE_B, FAR, POD, Claim::Own);
        check(NODE_C, LENT, POD, Claim::Own);
        check(NODE_B, LENT, POD, Claim::OwnerRelay);
        check(NODE_B, [10, 3, 0, 1], LENT, Claim::OwnerRelay);
        check(NODE_C, FAR, LENT, Claim::None);
        check(NODE_C, FAR, POD, Claim::None);
        check(NODE_B, POD, LENT, Claim::None);
        check(NODE_B, [10, 9, 0, 1], POD, Claim::Uncovered);
        check(NODE_B, [203, 0, 113, 1], POD, Claim::None);
    }

    #[test]
    fn a_node_without_an_address_of_its_own_has_not_that_of_nobody() {
        let inner = frame(17, [0; 4], POD, &[])[14..].to_vec();
        let whole = frame(4, NODE_C, LOCAL, &inner);
        assert_eq!(verdict(&whole), FromUplink::Drop(DropReason::InnerSource));
        let inner = frame(17, INNER_B, POD, &[])[14..].to_vec();
        let plain = FromUplink::Decapsulate { rewrite: None, count: None };
        assert_eq!(verdict(&frame(4, NODE_B, LOCAL, &inner)), plain);
    }

    proptest! {
        #[test]
        fn what_is_decapsulated_is_whole_whatever_the_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            plain_header: bool, inner_len in 0u8..60, padding in 0usize..9, source in 0usize..4, fragment: bool,
        ) {
            let mut inner = bytes;
            if inner.len() >= 20 {
                if plain_header {
                    inner[0] = 0x45;
                }
                inner[2] = 0;
                inner[3] = inner_len;
                inner[12..16].copy_from_slice(&[FAR, POD, LENT, [9; 4]][source]);
            }
            let mut whole = frame(4, NODE_B, LOCAL, &inner);
            if fragment {
                whole[20] = 0x20;
            }
            whole.extend(core::iter::repeat_n(0, padding));
            match verdict(&whole) {
                FromUplink::Decapsulate { count, .. } => {
                    let header_len = usize::from(inner[0] & 0xf) * 4;
                    prop_assert!(!fragment && inner[0] >> 4 == 4 && header_len >= 20);
                    prop_assert!(header_len <= usize::from(inner_len) && usize::from(inner_len) <= inner.len());
                    prop_assert!(source == 0 && count.is_none() || count == Some(DropReason::OwnerRelay));
                }
                FromUplink::Drop(reason) => prop_assert!(reason.is_drop()),
                other => return Err(TestCaseError::fail(std::format!("{other:?}"))),
            }
        }

        #[test]
        fn a_rewritten_inner_header_still_sums_up(tos: u8, outer_ecn in 0u8..4) {
            let mut inner = frame(17, FAR, POD, &[1, 2, 3]);
            inner[15] = tos;
            let mut header = [0; 20];
            header.copy_from_slice(&inner[14..34]);
            let header = crate::tables::fake::summed(header);
            inner[14..34].copy_from_slice(&header);
            let mut whole = frame(4, NODE_B, LOCAL, &inner[14..]);
            let mut outer = [0; 20];
            outer.copy_from_slice(&whole[14..34]);
            outer[1] = outer_ecn;
            whole[14..34].copy_from_slice(&crate::tables::fake::summed(outer));
            match verdict(&whole) {
                FromUplink::Decapsulate { rewrite, .. } => {
                    let mut after = header;
                    if let Some(head) = rewrite {
                        after[..12].copy_from_slice(&head);
                    }
                    prop_assert!(Header::from_bytes(after).sums_up());
                    prop_assert_eq!(after[1] >> 2, tos >> 2);
                    prop_assert_eq!(Some(after[1] & 3), ecn_inside(outer_ecn, tos & 3));
                }
                other => prop_assert_eq!(
                    (other, outer_ecn, tos & 3), (FromUplink::Drop(DropReason::EcnNotEct), 3, 0)
                ),
            }
        }
    }
}
