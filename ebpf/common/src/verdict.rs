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
use crate::ipv6::check_ipv6;
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
    let Some(kind) = packet.load::<2>(ETHERNET_LEN - 2) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    match u16::from_be_bytes(kind) {
        ethertype::IPV4 => check_ipv4(packet, endpoint),
        ethertype::IPV6 => check_ipv6(packet, endpoint),
        ethertype::ARP => check_arp(packet, endpoint),
        ethertype::VLAN | ethertype::SERVICE_VLAN | ethertype::OLD_QINQ => Verdict::Drop(DropReason::Vlan),
        _ => Verdict::Drop(DropReason::Protocol),
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
    let Some(kind) = packet.load::<2>(ETHERNET_LEN - 2) else {
        return Destination::None;
    };
    match u16::from_be_bytes(kind) {
        ethertype::IPV4 => packet.load(ETHERNET_LEN + 16).map_or(Destination::None, Destination::V4),
        ethertype::IPV6 => packet.load(ETHERNET_LEN + 24).map_or(Destination::None, Destination::V6),
        _ => Destination::None,
    }
}
