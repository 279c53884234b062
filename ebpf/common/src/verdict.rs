//! What `from_pod` decides about a frame, before any pool is looked up.
//!
//! 1. A VLAN tag, beside the frame or in it: drop.
//! 2. ARP: the sender must be the pod ([`crate::arp`]).
//! 3. IPv4: the source must be the pod's ([`crate::ipv4`]).
//! 4. IPv6: the source must be the pod's, link-local, or `::` where a host may use that; neighbour discovery
//!    must speak for the pod alone ([`crate::ipv6`], [`crate::nd`]).
//! 5. Anything else: drop.
//!
//! Lengths stated by the headers (`total length`, `payload length`) are not compared with the frame: the
//! kernel does so on its own way in, and they are zero in aggregates above 64 KiB (BIG TCP).

use crate::arp::check_arp;
use crate::ipv4::check_ipv4;
use crate::ipv6::{bytes_of, check_ipv6};
use crate::layout::Endpoint;
use crate::{DropReason, Packet};

/// Length of the Ethernet header.
pub const ETHERNET_LEN: u32 = 14;

/// EtherTypes that mean something here (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A customer VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A service VLAN tag (802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// An outer tag as used before 802.1ad.
    pub const OLD_QINQ: u16 = 0x9100;
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Drop and count.
    Drop(DropReason),
    /// Let pass.
    Pass(Source),
}

/// Whom a frame that passes comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// No address of a pool: ARP, or IPv6 from `::` or a link-local address.
    Untagged,
    /// The pod's own IPv4 address.
    V4([u8; 4]),
    /// The pod's own IPv6 address.
    V6([u8; 16]),
}

/// Decides about a frame from a pod. `vlan_present` says that the kernel has taken a tag out of the frame.
#[inline(always)]
pub fn check_from_pod<P: Packet>(packet: &P, vlan_present: bool, endpoint: &Endpoint) -> Verdict {
    if vlan_present {
        return Verdict::Drop(DropReason::Vlan);
    }
    let Some(kind) = packet.ethertype() else {
        return Verdict::Drop(DropReason::Truncated);
    };
    match kind {
        ethertype::IPV4 => check_ipv4(packet, endpoint),
        ethertype::IPV6 => check_ipv6(packet, endpoint),
        ethertype::ARP => check_arp(packet, endpoint),
        ethertype::VLAN | ethertype::SERVICE_VLAN | ethertype::OLD_QINQ => Verdict::Drop(DropReason::Vlan),
        _ => Verdict::Drop(DropReason::Protocol),
    }
}

/// The source that an IP packet claims, where it is not the pod's own; decides nothing.
///
/// Asked only of a pod that may send from other sources, before [`check_from_pod`]: if the claimed one is among them, the
/// packet is checked as if it were the pod's own.
#[inline(always)]
pub fn claimed_source<P: Packet>(packet: &P, endpoint: &Endpoint) -> Source {
    match packet.ethertype() {
        Some(ethertype::IPV4) => match packet.load_words(ETHERNET_LEN + 12) {
            Some([word]) => {
                let address = word.to_ne_bytes();
                if endpoint.owns_v4(address) { Source::Untagged } else { Source::V4(address) }
            }
            None => Source::Untagged,
        },
        Some(ethertype::IPV6) => match packet.load_words(ETHERNET_LEN + 8) {
            Some(words) => {
                let address = bytes_of(words);
                if endpoint.owns_v6(address) { Source::Untagged } else { Source::V6(address) }
            }
            None => Source::Untagged,
        },
        _ => Source::Untagged,
    }
}

impl Endpoint {
    /// The same pod, as if this source were its own.
    #[inline(always)]
    #[must_use]
    pub fn speaking_from(self, source: Source) -> Self {
        match source {
            Source::Untagged => self,
            Source::V4(ipv4) => Self { ipv4, flags: self.flags | Self::HAS_V4, ..self },
            Source::V6(ipv6) => Self { ipv6, flags: self.flags | Self::HAS_V6, ..self },
        }
    }
}

/// Where a frame towards a pod goes: its destination address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// No address that a pool could hold.
    None,
    /// An IPv4 address.
    V4([u8; 4]),
    /// An IPv6 address.
    V6([u8; 16]),
}

/// Reads the destination for counting; decides nothing.
#[inline(always)]
pub fn destination_of<P: Packet>(packet: &P) -> Destination {
    match packet.ethertype() {
        Some(ethertype::IPV4) => {
            let word = packet.load_words(ETHERNET_LEN + 16);
            word.map_or(Destination::None, |[address]| Destination::V4(address.to_ne_bytes()))
        }
        Some(ethertype::IPV6) => {
            let words = packet.load_words(ETHERNET_LEN + 24);
            words.map_or(Destination::None, |words| Destination::V6(bytes_of(words)))
        }
        _ => Destination::None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::format;
    use std::vec::Vec;

    use super::*;
    use crate::SlicePacket;

    const V4: [u8; 4] = [10, 1, 0, 5];
    const V6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const POD: Endpoint = Endpoint { ipv4: V4, ipv6: V6, flags: Endpoint::HAS_V4 | Endpoint::HAS_V6 };

    fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
        [&[0; 12], &kind.to_be_bytes()[..], rest].concat()
    }

    fn ipv4(source: [u8; 4]) -> Vec<u8> {
        let fixed = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0];
        ethernet(ethertype::IPV4, &[&fixed, &source[..], &[192, 0, 2, 1]].concat())
    }

    fn ipv6(source: [u8; 16], next: u8, rest: &[u8]) -> Vec<u8> {
        let to_all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let fixed = [0x60, 0, 0, 0, 0, 0, next, 255];
        ethernet(ethertype::IPV6, &[&fixed, &source[..], &to_all_nodes, rest].concat())
    }

    fn arp(operation: u8, sender: [u8; 4]) -> Vec<u8> {
        let fixed = [0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 1];
        ethernet(ethertype::ARP, &[&fixed, &sender[..], &[0; 10]].concat())
    }

    fn advertisement(target: [u8; 16]) -> Vec<u8> {
        [&[136, 0, 0, 0, 0, 0, 0, 0], &target[..]].concat()
    }

    fn verdict(frame: &[u8]) -> Verdict {
        check_from_pod(&SlicePacket(frame), false, &POD)
    }

    #[test]
    fn a_pod_sends_from_its_own_addresses_only() {
        let check = |what: &str, frame: &[u8], expected| assert_eq!(verdict(frame), expected, "{what}");
        let drop = Verdict::Drop;
        check("own IPv4", &ipv4(V4), Verdict::Pass(Source::V4(V4)));
        check("other IPv4", &ipv4([10, 1, 0, 6]), drop(DropReason::Ipv4Source));
        check("own IPv6", &ipv6(V6, 17, &[]), Verdict::Pass(Source::V6(V6)));
        check("link-local", &ipv6(LINK_LOCAL, 17, &[]), Verdict::Pass(Source::Untagged));
        check("other IPv6", &ipv6([0x20; 16], 17, &[]), drop(DropReason::Ipv6Source));
        check("unspecified", &ipv6([0; 16], 17, &[]), drop(DropReason::Ipv6Source));
        check("own ARP", &arp(1, V4), Verdict::Pass(Source::Untagged));
        check("ARP probe", &arp(1, [0; 4]), Verdict::Pass(Source::Untagged));
        check("ARP reply from nobody", &arp(2, [0; 4]), drop(DropReason::ArpSender));
        check("own advertisement", &ipv6(V6, 58, &advertisement(V6)), Verdict::Pass(Source::V6(V6)));
        check("other's advertisement", &ipv6(V6, 58, &advertisement([0x20; 16])), drop(DropReason::NdTarget));
        check("router advertisement", &ipv6(LINK_LOCAL, 58, &[134; 24]), drop(DropReason::NdRouter));
        check("in-band tag", &ethernet(ethertype::VLAN, &ipv4(V4)[12..]), drop(DropReason::Vlan));
        check("other protocol", &ethernet(0x88cc, &[0; 50]), drop(DropReason::Protocol));
    }

    #[test]
    fn a_tag_beside_the_frame_is_a_tag() {
        let frame = ipv4(V4);
        assert_eq!(check_from_pod(&SlicePacket(&frame), true, &POD), Verdict::Drop(DropReason::Vlan));
    }

    #[test]
    fn an_endpoint_without_a_family_owns_no_address_of_it() {
        let none = Endpoint { ipv4: [0; 4], ipv6: [0; 16], flags: 0 };
        for frame in [ipv4([0; 4]), ipv4(V4), ipv6([0; 16], 17, &[]), ipv6(V6, 17, &[]), arp(2, [0; 4])] {
            assert!(matches!(check_from_pod(&SlicePacket(&frame), false, &none), Verdict::Drop(_)));
        }
    }

    #[test]
    fn every_shorter_frame_is_dropped_as_cut_short() {
        for (frame, header_end) in
            [(ipv4(V4), 34), (ipv6(V6, 58, &advertisement(V6)), 54 + 24), (arp(1, V4), 42)]
        {
            for len in 0..header_end {
                assert_eq!(verdict(&frame[..len]), Verdict::Drop(DropReason::Truncated), "{len} bytes");
            }
            assert!(matches!(verdict(&frame[..header_end]), Verdict::Pass(_)));
        }
    }

    #[test]
    fn a_destination_is_read_where_it_stands() {
        let v4 = ipv4(V4);
        assert_eq!(destination_of(&SlicePacket(&v4)), Destination::V4([192, 0, 2, 1]));
        let v6 = ipv6(V6, 17, &[]);
        assert!(matches!(destination_of(&SlicePacket(&v6)), Destination::V6([0xff, 2, .., 1])));
        for none in [&arp(1, V4)[..], &v4[..33], &v6[..53], &[]] {
            assert_eq!(destination_of(&SlicePacket(none)), Destination::None);
        }
    }

    /// A frame whose first bytes make it past the first checks often enough.
    fn likely_frame() -> impl Strategy<Value = Vec<u8>> {
        let kinds =
            prop_oneof![Just(ethertype::IPV4), Just(ethertype::IPV6), Just(ethertype::ARP), any::<u16>(),];
        let first = prop_oneof![Just(0x45u8), Just(0x60u8), Just(0u8), any::<u8>()];
        let next = prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(58), Just(60), any::<u8>()];
        let source = prop_oneof![Just(V6), Just(LINK_LOCAL), Just([0; 16]), any::<[u8; 16]>()];
        (kinds, first, next, source, prop::collection::vec(any::<u8>(), 0..160)).prop_map(
            |(kind, first, next, source, mut rest)| {
                for (at, byte) in [(0, first), (6, next)] {
                    if let Some(slot) = rest.get_mut(at) {
                        *slot = byte;
                    }
                }
                if rest.len() >= 24 {
                    rest[8..24].copy_from_slice(&source);
                }
                ethernet(kind, &rest)
            },
        )
    }

    #[test]
    fn a_foreign_source_is_claimed_by_ip_packets_alone_and_passes_only_as_the_pods_own() {
        let claimed = |frame: &[u8]| claimed_source(&SlicePacket(frame), &POD);
        let other6 = [0x20; 16];
        assert_eq!(claimed(&ipv4(V4)), Source::Untagged);
        assert_eq!(claimed(&ipv4([10, 1, 0, 6])), Source::V4([10, 1, 0, 6]));
        assert_eq!(claimed(&ipv6(V6, 17, &[])), Source::Untagged);
        assert_eq!(claimed(&ipv6(other6, 17, &[])), Source::V6(other6));
        assert_eq!(claimed(&arp(1, [10, 1, 0, 6])), Source::Untagged);
        assert_eq!(claimed(&ipv4(V4)[..20]), Source::Untagged);
        let frame = ipv4([10, 1, 0, 6]);
        let speaking = POD.speaking_from(claimed(&frame));
        assert_eq!(
            check_from_pod(&SlicePacket(&frame), false, &speaking),
            Verdict::Pass(Source::V4([10, 1, 0, 6]))
        );
        assert_eq!(check_from_pod(&SlicePacket(&frame), false, &POD), Verdict::Drop(DropReason::Ipv4Source));
        let only_v6 = Endpoint { flags: Endpoint::HAS_V6, ..POD };
        assert!(only_v6.speaking_from(Source::V4(V4)).owns_v4(V4));
    }

    proptest! {
        #[test]
        fn what_passes_is_the_pods_own_whatever_the_bytes(frame in likely_frame()) {
            let kind = u16::from_be_bytes([frame[12], frame[13]]);
            match verdict(&frame) {
                Verdict::Pass(Source::V4(source)) => {
                    prop_assert_eq!(source, V4);
                    prop_assert_eq!(kind, ethertype::IPV4);
                    prop_assert_eq!(&frame[26..30], &V4[..]);
                }
                Verdict::Pass(Source::V6(source)) => {
                    prop_assert_eq!(source, V6);
                    prop_assert_eq!(kind, ethertype::IPV6);
                    prop_assert_eq!(&frame[22..38], &V6[..]);
                }
                Verdict::Pass(Source::Untagged) if kind == ethertype::ARP => {
                    prop_assert!(frame[28..32] == V4 || (frame[28..32] == [0; 4] && frame[21] == 1));
                }
                Verdict::Pass(Source::Untagged) => {
                    prop_assert_eq!(kind, ethertype::IPV6);
                    let link_local = frame[22] == 0xfe && frame[23] & 0xc0 == 0x80;
                    prop_assert!(link_local || frame[22..38] == [0; 16], "{}", format!("{frame:02x?}"));
                }
                Verdict::Drop(reason) => prop_assert!(reason.is_drop()),
            }
        }

        #[test]
        fn a_lie_is_found_behind_any_chain_of_options(lengths in prop::collection::vec(0u8..3, 0..8)) {
            let mut rest = Vec::new();
            for (at, units) in lengths.iter().enumerate() {
                let next = if at + 1 == lengths.len() { 58 } else { 60 };
                rest.extend([next, *units]);
                rest.extend(core::iter::repeat_n(0u8, 6 + usize::from(*units) * 8));
            }
            rest.extend(advertisement([0x20; 16]));
            let first = if lengths.is_empty() { 58 } else { 60 };
            prop_assert_eq!(verdict(&ipv6(V6, first, &rest)), Verdict::Drop(DropReason::NdTarget));
        }
    }
}
