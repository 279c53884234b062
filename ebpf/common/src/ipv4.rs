//! IPv4 from a pod.

use crate::layout::Endpoint;
use crate::verdict::{ETHERNET_LEN, Source, Verdict};
use crate::{DropReason, Packet};

/// The source must be the pod's. Every fragment has the whole header, so fragments need nothing special.
#[inline(always)]
pub(crate) fn check_ipv4<P: Packet>(packet: &P, endpoint: &Endpoint) -> Verdict {
    let Some(header) = packet.load::<20>(ETHERNET_LEN) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    let header_len = u32::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Verdict::Drop(DropReason::Malformed);
    }
    if packet.len() < ETHERNET_LEN + header_len {
        return Verdict::Drop(DropReason::Truncated);
    }
    let source = [header[12], header[13], header[14], header[15]];
    if endpoint.owns_v4(source) {
        Verdict::Pass(Source::V4(source))
    } else {
        Verdict::Drop(DropReason::Ipv4Source)
    }
}
