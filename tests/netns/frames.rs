//! ARP and neighbour discovery that no kernel would send for a pod.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An ARP request of RFC 826: who has `target`, tell `sender`.
pub(crate) fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, 0x0806);
    // Ethernet, IPv4, their lengths, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// Whether a frame is an ARP reply to this protocol address.
pub(crate) fn is_arp_reply_to(frame: &[u8], address: Ipv4Addr) -> bool {
    frame.get(12..14) == Some(&[8, 6])
        && frame.get(20..22) == Some(&[0, 2])
        && frame.get(38..42) == Some(&address.octets())
}

/// An unsolicited neighbour advertisement of RFC 4861 §4.4 with the override flag: `target` is at `mac`.
pub(crate) fn neighbour_advertisement(
    to_mac: [u8; 6],
    mac: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target.octets());
    // Option 2, one unit of eight bytes: target link-layer address.
    message.extend([2, 1]);
    message.extend(mac);
    let length = u16::try_from(message.len()).unwrap();
    let mut sum = 58 + u32::from(length);
    for bytes in [&source.octets()[..], &destination.octets()[..], &message[..]] {
        sum += bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = ethernet(to_mac, mac, 0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // ICMPv6, and the hop limit that receivers demand.
    frame.extend([58, 255]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame
}
