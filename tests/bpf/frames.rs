//! Frames built by hand, so that nothing under test takes part in building them.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 5);
pub(crate) const OTHER_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 6);
pub(crate) const FAR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 5);
pub(crate) const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 6);
pub(crate) const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x42);
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
pub(crate) const UNSPECIFIED: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// The shortest frame that can be sent: the kernel wants one byte behind the Ethernet header.
pub(crate) const SHORTEST: usize = 15;

/// An Ethernet header and what follows.
pub(crate) fn ethernet(ethertype: u16, rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(rest);
    frame
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

/// An IPv4 packet in the making.
#[derive(Clone)]
pub(crate) struct V4 {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) tos: u8,
    /// Flags and fragment offset.
    pub(crate) fragment: u16,
    /// Padded to words by the caller.
    pub(crate) options: Vec<u8>,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
}

impl V4 {
    pub(crate) fn from(source: Ipv4Addr) -> Self {
        Self {
            source,
            destination: FAR_V4,
            tos: 0,
            fragment: 0x4000,
            options: Vec::new(),
            protocol: 17,
            payload: udp(),
        }
    }

    /// The frame, header checksum right.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total_len = u16::try_from(header_len + self.payload.len()).unwrap();
        let mut header = vec![0x40 | u8::try_from(header_len / 4).unwrap(), self.tos];
        header.extend(total_len.to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header.extend(&self.payload);
        ethernet(0x0800, &header)
    }
}

/// An IPv6 packet in the making.
#[derive(Clone)]
pub(crate) struct V6 {
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) class: u8,
    pub(crate) hop_limit: u8,
    /// Extension headers: their number, and their bytes without the "next header" byte in front.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
}

impl V6 {
    pub(crate) fn from(source: Ipv6Addr) -> Self {
        Self {
            source,
            destination: FAR_V6,
            class: 0,
            hop_limit: 64,
            extensions: Vec::new(),
            protocol: 17,
            payload: udp(),
        }
    }

    /// ICMPv6 as neighbour discovery has it: hop limit 255.
    pub(crate) fn icmp(source: Ipv6Addr, destination: Ipv6Addr, message: Vec<u8>) -> Self {
        Self { destination, hop_limit: 255, protocol: 58, payload: message, ..Self::from(source) }
    }

    pub(crate) fn with(mut self, kind: u8, rest: &[u8]) -> Self {
        self.extensions.push((kind, rest.to_vec()));
        self
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut chain = Vec::new();
        for (at, (_, rest)) in self.extensions.iter().enumerate() {
            chain.push(self.extensions.get(at + 1).map_or(self.protocol, |(next, _)| *next));
            chain.extend(rest);
        }
        let first = self.extensions.first().map_or(self.protocol, |(kind, _)| *kind);
        let word = 0x6000_0000 | u32::from(self.class) << 20 | 0xb_cdef;
        let mut packet = word.to_be_bytes().to_vec();
        packet.extend(u16::try_from(chain.len() + self.payload.len()).unwrap().to_be_bytes());
        packet.extend([first, self.hop_limit]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(chain);
        packet.extend(&self.payload);
        ethernet(0x86dd, &packet)
    }
}

/// Bodies of extension headers, without their "next header" byte.
pub(crate) mod extension {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const AUTHENTICATION: u8 = 51;
    pub(crate) const DESTINATION: u8 = 60;

    /// Eight bytes of options: padding.
    pub(crate) const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
    /// Router alert, as listener reports have it (RFC 2711).
    pub(crate) const ROUTER_ALERT: [u8; 7] = [0, 5, 2, 0, 0, 1, 0];
    /// Sixteen bytes of padding.
    pub(crate) const LONG_PADDING: [u8; 15] = [1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    /// Routing type 0, no segments left.
    pub(crate) const ROUTING_0: [u8; 7] = [0, 0, 0, 0, 0, 0, 0];
    /// Routing type 4 (segment routing), no segments left.
    pub(crate) const ROUTING_4: [u8; 7] = [0, 4, 0, 0, 0, 0, 0];
    /// An authentication header of 16 bytes.
    pub(crate) const AUTHENTICATION_16: [u8; 15] = [2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];

    /// A fragment header.
    pub(crate) fn fragment(offset_words: u16, more: bool) -> [u8; 7] {
        let [high, low] = (offset_words << 3 | u16::from(more)).to_be_bytes();
        [0, high, low, 0, 0, 0, 7]
    }
}

/// Some UDP.
pub(crate) fn udp() -> Vec<u8> {
    vec![0x30, 0x39, 0, 53, 0, 12, 0, 0, b'p', b'o', b'n', b'd']
}

/// A neighbour solicitation or advertisement.
pub(crate) fn nd(kind: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message
}

pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;

/// An ICMPv6 message of which only the type matters.
pub(crate) fn icmp(kind: u8) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend([0; 39]);
    message
}

/// ff02::1:ffXX:XXXX of an address.
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c))
}

/// An ARP packet in the making.
#[derive(Clone)]
pub(crate) struct Arp {
    pub(crate) hardware: u16,
    pub(crate) protocol: u16,
    pub(crate) lengths: [u8; 2],
    pub(crate) operation: u16,
    pub(crate) sender: Ipv4Addr,
    pub(crate) target: Ipv4Addr,
}

impl Arp {
    pub(crate) fn request(sender: Ipv4Addr) -> Self {
        Self { hardware: 1, protocol: 0x0800, lengths: [6, 4], operation: 1, sender, target: FAR_V4 }
    }

    pub(crate) fn reply(sender: Ipv4Addr) -> Self {
        Self { operation: 2, ..Self::request(sender) }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut packet = self.hardware.to_be_bytes().to_vec();
        packet.extend(self.protocol.to_be_bytes());
        packet.extend(self.lengths);
        packet.extend(self.operation.to_be_bytes());
        packet.extend([2, 0, 0, 0, 0, 2]);
        packet.extend(self.sender.octets());
        packet.extend([0; 6]);
        packet.extend(self.target.octets());
        ethernet(0x0806, &packet)
    }
}
