//! IPv4 packets built by hand, so that nothing under test takes part in building them.

use std::net::Ipv4Addr;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub(crate) const HEADER: usize = 20;
/// "Do not fragment" among the flags.
pub(crate) const DF: u16 = 0x4000;

/// An IPv4 packet in the making.
#[derive(Clone, Debug)]
pub(crate) struct Ipv4 {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) tos: u8,
    /// Its identification, by which it is found again.
    pub(crate) id: u16,
    /// Flags and fragment offset.
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
}

impl Ipv4 {
    /// A UDP datagram of so many bytes in all, without a checksum of its own (RFC 768 allows that).
    pub(crate) fn udp(source: Ipv4Addr, destination: Ipv4Addr, id: u16, len: usize) -> Self {
        let udp_len = u16::try_from(len - HEADER).unwrap();
        let mut payload = Vec::new();
        for number in [40_000_u16, 9, udp_len, 0] {
            payload.extend(number.to_be_bytes());
        }
        payload.extend((payload.len()..len - HEADER).map(|at| (at * 7) as u8));
        Self { source, destination, tos: 0, id, fragment: 0, ttl: 64, protocol: 17, payload }
    }

    /// This packet inside an outer header.
    pub(crate) fn inside(&self, source: Ipv4Addr, destination: Ipv4Addr, outer_tos: u8) -> Self {
        Self {
            source,
            destination,
            tos: outer_tos,
            id: self.id ^ 0x5a5a,
            fragment: self.fragment & DF,
            ttl: 64,
            protocol: 4,
            payload: self.bytes(),
        }
    }

    /// The packet, its header's checksum right.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let len = u16::try_from(HEADER + self.payload.len()).unwrap();
        let mut bytes = vec![0x45, self.tos];
        bytes.extend(len.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        let sum = checksum(&bytes).to_be_bytes();
        bytes[10..12].copy_from_slice(&sum);
        bytes.extend(&self.payload);
        bytes
    }

    /// A frame with the packet in it.
    pub(crate) fn frame(&self, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
        [&to[..], &from, &[0x08, 0x00], &self.bytes()].concat()
    }
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Two bytes as a number.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Bytes for people to compare.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}
