//! Ethernet frames: reads what a capture caught, and makes frames that no socket would send.
//!
//! As much of RFC 791, 8200, 768 and 1071 as the test tiers need. IPv6 extension headers are not followed: such a
//! packet has no ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IP protocol number of IPIP (RFC 2003).
pub const PROTOCOL_IPIP: u8 = 4;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const TTL: u8 = 64;

/// A captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The frame as captured, cut at [`crate::SNAP_BYTES`].
    pub frame: Vec<u8>,
    /// Hardware address it was sent from.
    pub source_mac: [u8; 6],
    /// Hardware address it was sent to.
    pub destination_mac: [u8; 6],
    /// What it carries.
    pub ethertype: u16,
    /// The outer header, where IPv4 is wrapped in IPv4.
    pub outer: Option<IpHeader>,
    /// The innermost IP header.
    pub ip: Option<IpHeader>,
    /// Source and destination port, for UDP and TCP and first fragments only.
    pub ports: Option<(u16, u16)>,
    /// What follows the UDP header; empty for everything else.
    pub payload: Vec<u8>,
}

/// What an IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The TOS or traffic class byte.
    pub tos: u8,
    /// Protocol or next header.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether the header's checksum holds; always for IPv6, which has none.
    pub checksum_holds: bool,
}

impl IpHeader {
    /// The upper six bits of the TOS byte.
    #[must_use]
    pub fn dscp(&self) -> u8 {
        self.tos >> 2
    }

    /// The lower two bits of the TOS byte.
    #[must_use]
    pub fn ecn(&self) -> u8 {
        self.tos & 3
    }
}

impl Packet {
    /// Reads a frame; `None` when it is shorter than an Ethernet header. Parts that are cut off are absent.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let destination_mac = frame.get(..6)?.try_into().ok()?;
        let source_mac = frame.get(6..12)?.try_into().ok()?;
        let ethertype = be16(frame, 12)?;
        let mut rest = frame.get(ETHERNET_BYTES..)?;
        let (mut outer, mut ip, mut ports, mut payload) = (None, None, None, Vec::new());
        let first = match ethertype {
            ETHERTYPE_IPV4 => parse_ipv4(rest),
            ETHERTYPE_IPV6 => parse_ipv6(rest),
            _ => None,
        };
        if let Some((header, mut length, mut first_fragment)) = first {
            ip = Some(header);
            rest = rest.get(length..).unwrap_or_default();
            if header.protocol == PROTOCOL_IPIP && ethertype == ETHERTYPE_IPV4 && first_fragment {
                outer = ip.take();
                if let Some(inner) = parse_ipv4(rest) {
                    ip = Some(inner.0);
                    (length, first_fragment) = (inner.1, inner.2);
                    rest = rest.get(length..).unwrap_or_default();
                }
            }
            let protocol = ip.map_or(0, |header| header.protocol);
            if first_fragment && matches!(protocol, PROTOCOL_UDP | PROTOCOL_TCP) {
                ports = be16(rest, 0).zip(be16(rest, 2));
                if protocol == PROTOCOL_UDP {
                    let end = be16(rest, 4).map_or(0, usize::from);
                    payload = rest.get(UDP_BYTES..end).unwrap_or_default().to_vec();
                }
            }
        }
        Some(Self {
            frame: frame.to_vec(),
            source_mac,
            destination_mac,
            ethertype,
            outer,
            ip,
            ports,
            payload,
        })
    }
}

/// Header, its length in bytes, and whether the ports follow it.
fn parse_ipv4(bytes: &[u8]) -> Option<(IpHeader, usize, bool)> {
    let length = usize::from(bytes.first()? & 0x0f) * 4;
    if bytes[0] >> 4 != 4 || length < IPV4_BYTES || bytes.len() < length {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    let header = IpHeader {
        source: address(12)?.into(),
        destination: address(16)?.into(),
        tos: bytes[1],
        protocol: bytes[9],
        ttl: bytes[8],
        checksum_holds: fold(sum(&bytes[..length])) == 0xffff,
    };
    let fragment_offset = be16(bytes, 6)? & 0x1fff;
    Some((header, length, fragment_offset == 0))
}

fn parse_ipv6(bytes: &[u8]) -> Option<(IpHeader, usize, bool)> {
    if bytes.len() < IPV6_BYTES || bytes[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
    let header = IpHeader {
        source: address(8)?.into(),
        destination: address(24)?.into(),
        tos: bytes[0] << 4 | bytes[1] >> 4,
        protocol: bytes[6],
        ttl: bytes[7],
        checksum_holds: true,
    };
    Some((header, IPV6_BYTES, true))
}

/// A UDP datagram to be put into a frame.
#[derive(Clone, Debug)]
pub struct UdpFrame {
    /// Hardware address to send from.
    pub source_mac: [u8; 6],
    /// Hardware address to send to.
    pub destination_mac: [u8; 6],
    /// Claimed source; of the same family as the destination.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The TOS or traffic class byte.
    pub tos: u8,
    /// What it carries, at most 1,400 bytes; more is cut.
    pub payload: Vec<u8>,
}

impl UdpFrame {
    /// The frame, with right checksums; `None` when the two addresses are of different families.
    #[must_use]
    pub fn build(&self) -> Option<Vec<u8>> {
        let payload = &self.payload[..self.payload.len().min(1400)];
        let udp_bytes = u16::try_from(UDP_BYTES + payload.len()).ok()?;
        let mut udp = Vec::new();
        for number in [self.source_port, self.destination_port, udp_bytes, 0] {
            udp.extend_from_slice(&number.to_be_bytes());
        }
        udp.extend_from_slice(payload);
        let (ethertype, mut ip, pseudo) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let header = ipv4_header(source, destination, self.tos, PROTOCOL_UDP, udp_bytes);
                (ETHERTYPE_IPV4, header, sum(&source) + sum(&destination))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
                header.extend_from_slice(&udp_bytes.to_be_bytes());
                header.extend_from_slice(&[PROTOCOL_UDP, TTL]);
                header.extend_from_slice(&source);
                header.extend_from_slice(&destination);
                (ETHERTYPE_IPV6, header, sum(&source) + sum(&destination))
            }
            _ => return None,
        };
        let checksum = !fold(pseudo + u32::from(PROTOCOL_UDP) + u32::from(udp_bytes) + sum(&udp));
        // Zero would mean "no checksum" (RFC 768).
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = Vec::with_capacity(ETHERNET_BYTES + ip.len() + udp.len());
        frame.extend_from_slice(&self.destination_mac);
        frame.extend_from_slice(&self.source_mac);
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.append(&mut ip);
        frame.append(&mut udp);
        Some(frame)
    }
}

fn ipv4_header(source: [u8; 4], destination: [u8; 4], tos: u8, protocol: u8, payload_bytes: u16) -> Vec<u8> {
    let total = payload_bytes.saturating_add(20);
    let mut header = vec![0x45, tos];
    header.extend_from_slice(&total.to_be_bytes());
    header.extend_from_slice(&[0, 0, 0, 0, TTL, protocol, 0, 0]);
    header.extend_from_slice(&source);
    header.extend_from_slice(&destination);
    let checksum = !fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The sum of all 16-bit words (RFC 1071), not folded; an odd byte counts as the upper half of a word.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    // Two folds bring any sum of fewer than 2^16 words below 2^16.
    u16::try_from(twice & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(source: &str, destination: &str) -> UdpFrame {
        UdpFrame {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 1000,
            destination_port: 7,
            tos: 46 << 2 | 1,
            payload: b"hello".to_vec(),
        }
    }

    #[test]
    fn a_frame_that_was_made_is_read_back() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let made = udp(source, destination);
            let packet = Packet::parse(&made.build().unwrap()).unwrap();
            let ip = packet.ip.unwrap();
            assert_eq!((ip.source, ip.destination), (made.source, made.destination));
            assert_eq!((ip.dscp(), ip.ecn(), ip.protocol, ip.checksum_holds), (46, 1, PROTOCOL_UDP, true));
            assert_eq!((packet.ports, packet.payload.as_slice()), (Some((1000, 7)), &b"hello"[..]));
            assert_eq!((packet.source_mac, packet.destination_mac), (made.source_mac, made.destination_mac));
            assert_eq!(packet.outer, None);
        }
        assert_eq!(udp("10.0.0.1", "2001:db8::2").build(), None);
    }

    #[test]
    fn an_encapsulated_packet_shows_both_headers() {
        let inner = udp("10.0.0.1", "10.0.0.2").build().unwrap();
        let inner_ip = &inner[ETHERNET_BYTES..];
        let mut frame = inner[..ETHERNET_BYTES].to_vec();
        let length = u16::try_from(inner_ip.len()).unwrap();
        frame.extend(ipv4_header([192, 0, 2, 1], [192, 0, 2, 2], 0, PROTOCOL_IPIP, length));
        frame.extend_from_slice(inner_ip);
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!(packet.outer.unwrap().source, "192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!(packet.ip.unwrap().source, "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(packet.ports, Some((1000, 7)));
    }

    #[test]
    fn a_wrong_checksum_is_seen() {
        let mut frame = udp("10.0.0.1", "10.0.0.2").build().unwrap();
        frame[ETHERNET_BYTES + 1] ^= 4;
        assert!(!Packet::parse(&frame).unwrap().ip.unwrap().checksum_holds);
    }

    #[test]
    fn checksums_are_those_of_the_rfc() {
        // RFC 1071, section 3: the words 0001 f203 f4f5 f6f7 add up to ddf2.
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn every_cut_of_a_frame_is_read_without_harm() {
        for frame in
            [udp("10.0.0.1", "10.0.0.2"), udp("2001:db8::1", "2001:db8::2")].map(|f| f.build().unwrap())
        {
            for length in 0..frame.len() {
                assert_eq!(Packet::parse(&frame[..length]).is_some(), length >= ETHERNET_BYTES);
            }
        }
    }
}
