//! "Fragmentation needed" about an outer packet, turned into the same about the inner one, in place.
//!
//! Somewhere on the way to a node the outer packet did not fit. What the router sends back quotes it:
//!
//! ```text
//!  14             34         42               62              82
//!  +--------------+----------+----------------+---------------+---------+
//!  | IPv4, router | ICMP 3/4 | outer header   | inner header  | 8 bytes |
//!  | to this node | MTU      | quoted         | quoted        | or more |
//!  +--------------+----------+----------------+---------------+---------+
//!                 becomes, after the first twenty bytes are taken away:
//!                 14               34         42              62
//!                 +----------------+----------+---------------+---------+
//!                 | IPv4, router   | ICMP 3/4 | inner header  | 8 bytes |
//!                 | to the sender  | MTU - 20 | quoted        | or more |
//!                 +----------------+----------+---------------+---------+
//! ```
//!
//! It stays the router's: with this node's own address as its source the kernel would drop it as a martian. It goes to
//! addresses of pools and to this node alone, so that nobody can have us send errors to strangers. A quote too short
//! to hold the inner header and eight bytes behind it leaves the MTU to be kept by node.

use crate::from_uplink::FromUplink;
use crate::ipv4_header::{Fields, HEADER_LEN, Header, PLAIN, folded, protocol, sum_of};
use crate::verdict::ETHERNET_LEN;
use crate::{Packet, Tables};

/// Length of the new IPv4 and ICMP headers.
pub const RELAYED_LEN: usize = HEADER_LEN as usize + ICMP_LEN as usize;

const ICMP_LEN: u32 = 8;
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;

const ICMP_OFFSET: u32 = ETHERNET_LEN + HEADER_LEN;
const QUOTED_OUTER_OFFSET: u32 = ICMP_OFFSET + ICMP_LEN;
const QUOTED_INNER_OFFSET: u32 = QUOTED_OUTER_OFFSET + HEADER_LEN;

/// What is needed behind the quoted inner header: ports, and a sequence number that only the sender knows.
const QUOTED_PAYLOAD_LEN: u32 = 8;

/// The least MTU of IPv4 (RFC 791), inside an outer packet. What states less (0, from before RFC 1191) says nothing.
const MIN_MTU_BYTES: u32 = 68 + HEADER_LEN;

/// Lives long enough to get from here into a pod.
const TTL: u8 = 64;

/// Decides about an ICMP packet to this node's own address.
#[inline(always)]
pub(crate) fn check_icmp<P: Packet, T: Tables>(packet: &P, header: &Header, tables: &T) -> FromUplink {
    let Some(icmp) = packet.load::<{ ICMP_LEN as usize }>(ICMP_OFFSET) else {
        return FromUplink::Leave;
    };
    if icmp[0] != UNREACHABLE || icmp[1] != FRAGMENTATION_NEEDED {
        return FromUplink::Leave;
    }
    if header.first_byte() != PLAIN
        || header.is_fragment()
        || header.total_len() > packet.len() - ETHERNET_LEN
    {
        return FromUplink::Leave;
    }
    let Some(quoted) = packet.load_far::<{ HEADER_LEN as usize }>(QUOTED_OUTER_OFFSET) else {
        return FromUplink::Leave;
    };
    let outer = Header::from_bytes(quoted);
    let node = outer.destination();
    let ours = outer.first_byte() == PLAIN
        && outer.protocol() == protocol::IPIP
        && outer.source() == header.destination()
        && tables.peer(node).is_some();
    let mtu_bytes = u32::from(u16::from_be_bytes([icmp[6], icmp[7]]));
    if !ours || mtu_bytes < MIN_MTU_BYTES {
        return FromUplink::Leave;
    }
    let kept = FromUplink::KeepPathMtu { node, mtu_bytes };
    let Some(inner) = packet.load_far::<{ HEADER_LEN as usize }>(QUOTED_INNER_OFFSET) else {
        return kept;
    };
    let inner = Header::from_bytes(inner);
    let quote_end = QUOTED_INNER_OFFSET - ETHERNET_LEN + inner.header_len() + QUOTED_PAYLOAD_LEN;
    if !inner.is_ipv4() || header.total_len() < quote_end {
        return kept;
    }
    let sender = inner.source();
    if sender != header.destination() && !tables.in_pool(sender) {
        return FromUplink::Leave;
    }
    FromUplink::RelayPathMtu(relayed(header, &icmp, &outer, sender, mtu_bytes))
}

/// The new headers.
#[inline(always)]
fn relayed(
    header: &Header,
    icmp: &[u8; ICMP_LEN as usize],
    quoted_outer: &Header,
    sender: [u8; 4],
    mtu_bytes: u32,
) -> [u8; RELAYED_LEN] {
    let new = Header::of(&Fields {
        tos: header.tos(),
        total_len: header.total_len() - HEADER_LEN,
        id: header.id(),
        dont_fragment: header.dont_fragment(),
        ttl: TTL,
        protocol: header.protocol(),
        source: header.source(),
        destination: sender,
    });
    let new = new.to_bytes();

    let [mtu_high, mtu_low] = ((mtu_bytes - HEADER_LEN) as u16).to_be_bytes();
    let mut out = [0; RELAYED_LEN];
    let mut at = 0;
    while at < HEADER_LEN as usize {
        out[at] = new[at];
        at += 1;
    }
    // No length of the quote (RFC 4884): what comes behind it counts as quoted.
    let new_icmp = [UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0, mtu_high, mtu_low];
    let checksum = without(icmp, &quoted_outer.to_bytes(), &new_icmp).to_be_bytes();
    out[20] = UNREACHABLE;
    out[21] = FRAGMENTATION_NEEDED;
    out[22] = checksum[0];
    out[23] = checksum[1];
    out[26] = mtu_high;
    out[27] = mtu_low;
    out
}

/// The checksum of the message without the quoted outer header and with another header (whose checksum is 0), from the
/// checksum it has: wrong if that was wrong, so that what was damaged on its way is still found out.
#[inline(always)]
fn without(
    icmp: &[u8; ICMP_LEN as usize],
    quoted_outer: &[u8; HEADER_LEN as usize],
    new_icmp: &[u8; ICMP_LEN as usize],
) -> u16 {
    // The old header sums up with its own checksum in it, so that what is left is the complement of the rest.
    let gone = folded(sum_of(icmp) + sum_of(quoted_outer));
    let rest = !gone;
    !folded(u32::from(rest) + sum_of(new_icmp))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;
    use crate::SlicePacket;
    use crate::from_uplink::check_from_uplink;
    use crate::tables::fake::{Fake, LOCAL, NODE_B, frame};

    const ROUTER: [u8; 4] = [198, 51, 100, 1];
    const POD: [u8; 4] = [10, 1, 0, 5];

    /// RFC 1071, over any number of bytes.
    fn full_sum(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0)));
        let mut sum: u64 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn a_relayed_message_sums_up_and_holds_the_inner_quote(
            payload in prop::collection::vec(any::<u8>(), 8..200),
            mtu_bytes in MIN_MTU_BYTES as u16..=u16::MAX,
            rfc4884_len: u8, damaged_quote: bool,
        ) {
            let inner = frame(6, POD, [10, 2, 0, 5], &payload)[14..].to_vec();
            let mut quote = frame(4, LOCAL, NODE_B, &inner)[14..].to_vec();
            // Routers may have counted the TTL down without mending the checksum.
            quote[8] -= u8::from(damaged_quote);
            let [high, low] = mtu_bytes.to_be_bytes();
            let mut message = [&[3, 4, 0, 0, 0, rfc4884_len, high, low][..], &quote].concat();
            let sum = !full_sum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let whole: Vec<u8> = frame(1, ROUTER, LOCAL, &message);
            let FromUplink::RelayPathMtu(new) =
                check_from_uplink(&SlicePacket(&whole), false, &Fake::DEFAULT)
            else {
                return Err(TestCaseError::fail("not relayed"));
            };
            let relayed = [&new[..], &inner[..]].concat();
            prop_assert_eq!(full_sum(&relayed[..20]), 0xffff);
            prop_assert_eq!(full_sum(&relayed[20..]), 0xffff);
            prop_assert_eq!(usize::from(u16::from_be_bytes([relayed[2], relayed[3]])), relayed.len());
            prop_assert_eq!(&relayed[12..20], &[ROUTER, POD].concat()[..]);
            prop_assert_eq!(relayed[20..22].to_vec(), [3, 4]);
            prop_assert_eq!(relayed[24..26].to_vec(), [0, 0]);
            prop_assert_eq!(u16::from_be_bytes([relayed[26], relayed[27]]), mtu_bytes - 20);
        }
    }
}
