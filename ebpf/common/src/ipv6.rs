//! IPv6 from a pod: the source, and the way through the extension headers.

use crate::layout::Endpoint;
use crate::nd::{Message, check_message};
use crate::verdict::{ETHERNET_LEN, Source, Verdict};
use crate::{DropReason, Packet};

/// How many extension headers are looked through. Hosts send three at most; more is refused.
pub(crate) const MAX_EXTENSION_HEADERS: u32 = 8;

/// Length of the fixed header.
pub(crate) const HEADER_LEN: u32 = 40;

mod next_header {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
}

/// What kind of address a source is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceKind {
    Own,
    LinkLocal,
    Unspecified,
}

/// The bytes of an address that was read as words.
#[inline(always)]
pub(crate) fn bytes_of([a, b, c, d]: [u32; 4]) -> [u8; 16] {
    let high = |word: u32, at: u32| u128::from(u32::from_be(word)) << at;
    (high(a, 96) | high(b, 64) | high(c, 32) | high(d, 0)).to_be_bytes()
}

/// The source must be the pod's or link-local; `::` passes for duplicate address detection and multicast
/// listener reports. ICMPv6 goes on to [`check_message`].
///
/// A first fragment must hold the whole chain of headers (RFC 7112), so a later one can hide nothing: what it
/// belongs to has been judged, and overlapping fragments are dropped by receivers (RFC 5722).
#[inline(always)]
pub(crate) fn check_ipv6<P: Packet>(packet: &P, endpoint: &Endpoint) -> Verdict {
    let Some(fixed) = packet.load::<8>(ETHERNET_LEN) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    let Some(source) = packet.load_words(ETHERNET_LEN + 8) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    let source = bytes_of(source);
    if packet.len() < ETHERNET_LEN + HEADER_LEN {
        return Verdict::Drop(DropReason::Truncated);
    }
    if fixed[0] >> 4 != 6 {
        return Verdict::Drop(DropReason::Malformed);
    }
    let kind = if endpoint.owns_v6(source) {
        SourceKind::Own
    } else if is_link_local(source) {
        SourceKind::LinkLocal
    } else if u128::from_ne_bytes(source) == 0 {
        SourceKind::Unspecified
    } else {
        return Verdict::Drop(DropReason::Ipv6Source);
    };
    match upper_layer(packet, fixed[6]) {
        Upper::Refused(reason) => return Verdict::Drop(reason),
        Upper::Icmpv6 { offset, fragmented } => {
            let message = Message { offset, fragmented, source: kind, hop_limit: fixed[7] };
            if let Some(reason) = check_message(packet, endpoint, message) {
                return Verdict::Drop(reason);
            }
        }
        Upper::Other => {
            if kind == SourceKind::Unspecified {
                return Verdict::Drop(DropReason::Ipv6Source);
            }
        }
    }
    Verdict::Pass(if kind == SourceKind::Own { Source::V6(source) } else { Source::Untagged })
}

/// fe80::/10.
#[inline(always)]
pub(crate) fn is_link_local(address: [u8; 16]) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

enum Upper {
    /// The chain cannot be followed, or may not be sent.
    Refused(DropReason),
    /// An ICMPv6 header at `offset` from the start of the frame, behind a fragment header or not.
    Icmpv6 { offset: u32, fragmented: bool },
    /// Any other protocol, or a later fragment.
    Other,
}

#[inline(always)]
fn upper_layer<P: Packet>(packet: &P, first: u8) -> Upper {
    let mut next = first;
    let mut offset = ETHERNET_LEN + HEADER_LEN;
    let mut fragmented = false;
    // One more round than headers, for what follows the last.
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let known = matches!(
            next,
            next_header::HOP_BY_HOP
                | next_header::ROUTING
                | next_header::FRAGMENT
                | next_header::AUTHENTICATION
                | next_header::DESTINATION_OPTIONS
        );
        if !known {
            return if next == next_header::ICMPV6 {
                Upper::Icmpv6 { offset, fragmented }
            } else {
                Upper::Other
            };
        }
        // Every extension header is at least this long.
        let Some(head) = packet.load_far::<8>(offset) else {
            return Upper::Refused(DropReason::Truncated);
        };
        let header_len = match next {
            next_header::FRAGMENT => {
                if u16::from_be_bytes([head[2], head[3]]) & 0xfff8 != 0 {
                    return Upper::Other;
                }
                fragmented = true;
                8
            }
            next_header::AUTHENTICATION => (u32::from(head[1]) + 2) * 4,
            _ => (u32::from(head[1]) + 1) * 8,
        };
        if next == next_header::ROUTING && head[2] == 0 {
            return Upper::Refused(DropReason::ExtensionHeaders);
        }
        offset += header_len;
        if packet.len() < offset {
            return Upper::Refused(DropReason::Truncated);
        }
        next = head[0];
    }
    Upper::Refused(DropReason::ExtensionHeaders)
}
