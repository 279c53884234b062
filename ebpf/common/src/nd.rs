//! ICMPv6 from a pod: neighbour discovery (RFC 4861) and multicast listener reports (RFC 2710, RFC 3810).
//!
//! ```text
//!  0      1      2            4            8                        24
//!  +------+------+------------+------------+------------------------+
//!  | type | code | checksum   | flags      | target (NS, NA)        |
//!  +------+------+------------+------------+------------------------+
//! ```

use crate::ipv6::{SourceKind, is_link_local};
use crate::layout::Endpoint;
use crate::verdict::ETHERNET_LEN;
use crate::{DropReason, Packet};

mod message_type {
    pub(super) const MLD_REPORT: u8 = 131;
    pub(super) const MLD_DONE: u8 = 132;
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
    pub(super) const MLD_V2_REPORT: u8 = 143;
}

/// Where an ICMPv6 message lies and how it came.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    pub(crate) offset: u32,
    pub(crate) fragmented: bool,
    pub(crate) source: SourceKind,
    pub(crate) hop_limit: u8,
}

/// Why the message may not be sent, if so.
///
/// * A pod is no router: advertisements and redirects are dropped.
/// * Neighbour discovery never comes in fragments.
/// * An advertisement speaks for the pod's own or a link-local address, and not from `::`.
/// * From `::` a host sends two things: a solicitation for an address it is about to take (hop limit 255, to
///   that address's solicited-node group), which must be its own or link-local; and listener reports (hop
///   limit 1, to a group). Router solicitations from `::` are not among them: Linux sends none.
#[inline(always)]
pub(crate) fn check_message<P: Packet>(
    packet: &P,
    endpoint: &Endpoint,
    message: Message,
) -> Option<DropReason> {
    let Some([kind]) = packet.load_far::<1>(message.offset) else {
        return Some(DropReason::Truncated);
    };
    let unspecified = message.source == SourceKind::Unspecified;
    match kind {
        message_type::ROUTER_ADVERTISEMENT | message_type::REDIRECT => Some(DropReason::NdRouter),
        message_type::ROUTER_SOLICITATION
        | message_type::NEIGHBOUR_SOLICITATION
        | message_type::NEIGHBOUR_ADVERTISEMENT
            if message.fragmented =>
        {
            Some(DropReason::NdFragment)
        }
        message_type::NEIGHBOUR_SOLICITATION | message_type::NEIGHBOUR_ADVERTISEMENT => {
            let Some(target) = packet.load_far::<16>(message.offset + 8) else {
                return Some(DropReason::Truncated);
            };
            let solicitation = kind == message_type::NEIGHBOUR_SOLICITATION;
            if unspecified && !(solicitation && message.hop_limit == 255 && to_solicited_node(packet)) {
                return Some(DropReason::Ipv6Source);
            }
            // Who asks from an address of its own may ask for anybody.
            let asks = solicitation && !unspecified;
            if asks || endpoint.owns_v6(target) || is_link_local(target) {
                None
            } else {
                Some(DropReason::NdTarget)
            }
        }
        message_type::MLD_REPORT | message_type::MLD_DONE | message_type::MLD_V2_REPORT
            if unspecified && message.hop_limit == 1 && to_multicast(packet) =>
        {
            None
        }
        _ if unspecified => Some(DropReason::Ipv6Source),
        _ => None,
    }
}

/// Whether the packet goes to ff02::1:ff00:0/104.
#[inline(always)]
fn to_solicited_node<P: Packet>(packet: &P) -> bool {
    let group = packet.load::<8>(ETHERNET_LEN + 24);
    let tail = packet.load::<5>(ETHERNET_LEN + 32);
    group == Some([0xff, 2, 0, 0, 0, 0, 0, 0]) && tail == Some([0, 0, 0, 1, 0xff])
}

/// Whether the packet goes to ff00::/8.
#[inline(always)]
fn to_multicast<P: Packet>(packet: &P) -> bool {
    packet.load::<1>(ETHERNET_LEN + 24) == Some([0xff])
}
