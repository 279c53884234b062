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

use crate::ipv4_header::{Fields, HEADER_LEN, Header, protocol};
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
    Encapsulate(Header),
}

/// Decides about a frame. `vlan_present` says that it carries a tag beside its bytes: it is another network's.
#[inline(always)]
pub fn check_to_uplink<P: Packet, T: Tables>(packet: &P, vlan_present: bool, tables: &T) -> ToUplink {
    if vlan_present || packet.ethertype() != Some(ethertype::IPV4) {
        return ToUplink::Leave;
    }
    let Some(inner) = Header::load(packet, ETHERNET_LEN) else {
        return ToUplink::Leave;
    };
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
fn outer_header(inner: &Header, local: [u8; 4], node: [u8; 4], copy_dscp: bool, id: u16) -> Header {
    const CONGESTED: u8 = 3;
    const ECT_0: u8 = 2;
    let ecn = if inner.ecn() == CONGESTED { ECT_0 } else { inner.ecn() };
    let dscp = if copy_dscp { inner.tos() & 0xfc } else { 0 };
    Header::of(&Fields {
        tos: dscp | ecn,
        total_len: inner.total_len() + OUTER_LEN,
        id,
        dont_fragment: inner.dont_fragment(),
        ttl: inner.ttl(),
        protocol: protocol::IPIP,
        source: local,
        destination: node,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::SlicePacket;
    use crate::tables::fake::{Fake, LENT, LOCAL, NODE_B, NODE_C, frame};

    const POD: [u8; 4] = [10, 1, 0, 5];
    const FAR: [u8; 4] = [10, 2, 0, 5];

    fn verdict(frame: &[u8], tables: Fake) -> ToUplink {
        check_to_uplink(&SlicePacket(frame), false, &tables)
    }

    #[test]
    fn an_aggregate_above_64_kib_is_dropped_whatever_its_header_says() {
        let mut whole = frame(6, POD, FAR, &[]);
        whole.resize(14 + 65_536, 0);
        // 0 as newer kernels write it, the lower 16 bits as older ones did, and a lie.
        for total_len in [0u16, 1, 20, 0xffff] {
            whole[16..18].copy_from_slice(&total_len.to_be_bytes());
            assert_eq!(verdict(&whole, Fake::DEFAULT), ToUplink::Drop(DropReason::TooLong), "{total_len}");
        }
    }

    #[test]
    fn the_longest_that_fits_is_encapsulated() {
        for (total_len, fits) in [(65_515usize, true), (65_516, false), (65_535, false)] {
            let whole = frame(17, POD, FAR, &vec![0; total_len - 20]);
            match verdict(&whole, Fake::DEFAULT) {
                ToUplink::Encapsulate(outer) => {
                    assert!(fits, "{total_len}");
                    assert_eq!(outer.to_bytes()[2..4], [0xff, 0xff]);
                }
                other => {
                    assert_eq!((other, fits), (ToUplink::Drop(DropReason::TooLong), false), "{total_len}");
                }
            }
        }
    }

    #[test]
    fn without_a_rule_nothing_that_must_be_encapsulated_leaves() {
        let none = Fake { uplink: None, ..Fake::DEFAULT };
        assert_eq!(verdict(&frame(6, POD, FAR, &[]), none), ToUplink::Drop(DropReason::NoUplink));
        assert_eq!(verdict(&frame(6, POD, [10, 3, 0, 5], &[]), none), ToUplink::Leave);
        assert_eq!(verdict(&frame(6, POD, [192, 0, 2, 9], &[]), none), ToUplink::Leave);
    }

    #[test]
    fn a_tag_beside_the_frame_is_another_network() {
        let whole = frame(6, POD, FAR, &[]);
        assert_eq!(check_to_uplink(&SlicePacket(&whole), true, &Fake::DEFAULT), ToUplink::Leave);
    }

    proptest! {
        #[test]
        fn every_outer_header_is_right_and_says_what_the_inner_one_says(
            tos: u8, flags in 0u8..4, ttl: u8, id: u16, copies_dscp: bool, lent: bool,
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let destination = if lent { LENT } else { FAR };
            let mut whole: Vec<u8> = frame(17, POD, destination, &rest);
            whole[15] = tos;
            whole[20] = flags << 5;
            whole[22] = ttl;
            let ToUplink::Encapsulate(outer) = verdict(&whole, Fake { copies_dscp, id, ..Fake::DEFAULT }) else {
                return Err(TestCaseError::fail("not encapsulated"));
            };
            prop_assert!(outer.sums_up());
            let outer = outer.to_bytes();
            prop_assert_eq!(outer[0], 0x45);
            prop_assert_eq!(outer[1] >> 2, if copies_dscp { tos >> 2 } else { 0 });
            prop_assert_eq!(outer[1] & 3, if tos & 3 == 3 { 2 } else { tos & 3 });
            prop_assert_eq!(usize::from(u16::from_be_bytes([outer[2], outer[3]])), 40 + rest.len());
            prop_assert_eq!(u16::from_be_bytes([outer[4], outer[5]]), id);
            prop_assert_eq!([outer[6], outer[7]], [flags << 5 & 0x40, 0]);
            prop_assert_eq!([outer[8], outer[9]], [ttl, 4]);
            prop_assert_eq!(&outer[12..16], &LOCAL[..]);
            prop_assert_eq!(&outer[16..], if lent { &NODE_C[..] } else { &NODE_B[..] });
        }

        #[test]
        fn whatever_the_bytes_nothing_to_an_encapsulated_range_leaves_plain(
            mut bytes in prop::collection::vec(any::<u8>(), 34..200), tunnel: bool,
        ) {
            bytes[12..14].copy_from_slice(&[8, 0]);
            bytes[30..34].copy_from_slice(&FAR);
            if tunnel {
                bytes[23] = 4;
            }
            prop_assert_ne!(verdict(&bytes, Fake::DEFAULT), ToUplink::Leave);
        }
    }
}
