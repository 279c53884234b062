//! ARP from a pod: it may speak for its own address only.
//!
//! ```text
//!  0       2       4    5    6       8             14       18            24       28
//!  +-------+-------+----+----+-------+-------------+--------+-------------+--------+
//!  | htype | ptype |hlen|plen| oper  | sender hw   |sender p| target hw   |target p|
//!  +-------+-------+----+----+-------+-------------+--------+-------------+--------+
//! ```

use crate::layout::Endpoint;
use crate::verdict::{ETHERNET_LEN, Source, Verdict};
use crate::{DropReason, Packet};

/// Ethernet, IPv4, six and four bytes of address.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// The sender protocol address must be the pod's; a request may have 0.0.0.0, which is a probe (RFC 5227).
#[inline(always)]
pub(crate) fn check_arp<P: Packet>(packet: &P, endpoint: &Endpoint) -> Verdict {
    let Some([h0, h1, p0, p1, hlen, plen, o0, o1]) = packet.load::<8>(ETHERNET_LEN) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    let Some(sender) = packet.load::<4>(ETHERNET_LEN + 14) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    if packet.len() < ETHERNET_LEN + 28 {
        return Verdict::Drop(DropReason::Truncated);
    }
    let operation = [o0, o1];
    if [h0, h1, p0, p1, hlen, plen] != FIXED || (operation != REQUEST && operation != REPLY) {
        return Verdict::Drop(DropReason::ArpType);
    }
    let probe = operation == REQUEST && sender == [0; 4];
    if probe || endpoint.owns_v4(sender) {
        Verdict::Pass(Source::Untagged)
    } else {
        Verdict::Drop(DropReason::ArpSender)
    }
}
