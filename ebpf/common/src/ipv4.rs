//! IPv4 from a pod.

use crate::ipv4_header::Header;
use crate::layout::Endpoint;
use crate::verdict::{ETHERNET_LEN, Source, Verdict};
use crate::{DropReason, Packet};

/// The source must be the pod's. Every fragment has the whole header, so fragments need nothing special.
#[inline(always)]
pub(crate) fn check_ipv4<P: Packet>(packet: &P, endpoint: &Endpoint) -> Verdict {
    let Some(header) = Header::load(packet, ETHERNET_LEN) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    if !header.is_ipv4() {
        return Verdict::Drop(DropReason::Malformed);
    }
    if packet.len() < ETHERNET_LEN + header.header_len() {
        return Verdict::Drop(DropReason::Truncated);
    }
    let source = header.source();
    if endpoint.owns_v4(source) {
        Verdict::Pass(Source::V4(source))
    } else {
        Verdict::Drop(DropReason::Ipv4Source)
    }
}
