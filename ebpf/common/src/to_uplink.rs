//! What `to_uplink` does with a frame that is about to leave the node.
//!
//! 1. Not IPv4, or the destination lies in no range that is encapsulated: leave it alone.
//! 2. Protocol 4 towards a known node: somebody has encapsulated it before; leave it alone.
//! 3. No rule for this interface, a header that contradicts itself, or too long for an outer header: drop. It must
//!    not leave as it is.
//! 4. Else the outer header: from this node to the one that serves the destination.
//!
//! What the outer header says is what the kernel's own ipip device says: TTL and DF of the inner one, an
//! identification even with DF, code point 0 unless the pool asks for its own, and of the ECN bits the inner ones, but
//! "congestion experienced" becomes ECT(0).

use crate::ipv4_header::{DONT_FRAGMENT, HEADER_LEN, Header, PLAIN, protocol};
use crate::verdict::{ETHERNET_LEN, ethertype};
use crate::{DropReason, Packet, Tables};

/// Length of the header that is put in front.
pub const OUTER_LEN: u32 = HEADER_LEN;

/// The longest packet that IPv4 can tell the length of.
const MAX_TOTAL_LEN: u32 = 0xffff;

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToUplink {
    /// Let it pass as it is.
    Leave,
    /// Drop and count.
    Drop(DropReason),
    /// Put this header in front.
    Encapsulate([u8; OUTER_LEN as usize]),
}

/// Decides about a frame. `vlan_present` says that it carries a tag beside its bytes: it is another network's.
#[inline(always)]
pub fn check_to_uplink<P: Packet, T: Tables>(packet: &P, vlan_present: bool, tables: &T) -> ToUplink {
    if vlan_present || packet.load::<2>(ETHERNET_LEN - 2) != Some(ethertype::IPV4.to_be_bytes()) {
        return ToUplink::Leave;
    }
    let Some(header) = packet.load::<{ HEADER_LEN as usize }>(ETHERNET_LEN) else {
        return ToUplink::Leave;
    };
    let inner = Header(header);
    let range = match tables.range_of(inner.destination()) {
        Some(range) if range.encapsulates() => range,
        _ => return ToUplink::Leave,
    };
    if inner.protocol() == protocol::IPIP && tables.peer(inner.destination()).is_some() {
        return ToUplink::Leave;
    }
    let Some(uplink) = tables.uplink() else {
        return ToUplink::Drop(DropReason::NoUplink);
    };
    // The frame's own length too: above 64 KiB the kernel writes 0 into the header, or the lower bits.
    let packet_len = packet.len() - ETHERNET_LEN;
    if packet_len > MAX_TOTAL_LEN || inner.total_len() > MAX_TOTAL_LEN - OUTER_LEN {
        return ToUplink::Drop(DropReason::TooLong);
    }
    if !inner.is_ipv4() || inner.total_len() < inner.header_len() || inner.total_len() > packet_len {
        return ToUplink::Drop(DropReason::Malformed);
    }
    // Asked only where it makes a difference.
    let copy_dscp = inner.tos() >> 2 != 0 && tables.copies_dscp();
    ToUplink::Encapsulate(outer_header(&inner, uplink.local, range.node, copy_dscp, tables.new_id()))
}

/// The header in front of `inner`.
#[inline(always)]
fn outer_header(
    inner: &Header,
    local: [u8; 4],
    node: [u8; 4],
    copy_dscp: bool,
    id: u16,
) -> [u8; OUTER_LEN as usize] {
    const CONGESTED: u8 = 3;
    const ECT_0: u8 = 2;
    let ecn = if inner.ecn() == CONGESTED { ECT_0 } else { inner.ecn() };
    let dscp = if copy_dscp { inner.tos() & 0xfc } else { 0 };
    let [len_high, len_low] = ((inner.total_len() + OUTER_LEN) as u16).to_be_bytes();
    let [id_high, id_low] = id.to_be_bytes();
    let dont_fragment = inner.0[6] & DONT_FRAGMENT;
    let ttl = inner.0[8];
    let [s0, s1, s2, s3] = local;
    let [d0, d1, d2, d3] = node;
    Header([
        PLAIN,
        dscp | ecn,
        len_high,
        len_low,
        id_high,
        id_low,
        dont_fragment,
        0,
        ttl,
        protocol::IPIP,
        0,
        0,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ])
    .summed()
}
