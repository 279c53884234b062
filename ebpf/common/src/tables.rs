//! What the verdicts at the uplink ask the maps.

use crate::layout::{PeerEntry, RemoteEntry, UplinkEntry};

/// The maps, as seen from one packet at one uplink. Answers are copies: entries may change at any time.
pub trait Tables {
    /// The rule of the interface that the packet is at.
    fn uplink(&self) -> Option<UplinkEntry>;

    /// Who serves an address: the longest range that holds it.
    fn range_of(&self, address: [u8; 4]) -> Option<RemoteEntry>;

    /// Whose block an address lies in, whoever it is lent to: the longest range that holds it and is more than one
    /// address.
    fn block_of(&self, address: [u8; 4]) -> Option<RemoteEntry>;

    /// The node with this address on the underlay.
    fn peer(&self, address: [u8; 4]) -> Option<PeerEntry>;

    /// Whether an address lies in any pool.
    fn in_pool(&self, address: [u8; 4]) -> bool;

    /// Whether the pool whose tag is in the packet's mark wants its code point in the outer header.
    fn copies_dscp(&self) -> bool;

    /// An identification for an outer header: another one each time.
    fn new_id(&self) -> u16;
}

#[cfg(test)]
pub(crate) mod fake {
    //! Tables in memory: node B serves 10.2.0.0/24, node C has 10.2.0.9 of it on loan and serves 10.3.0.0/24 plainly;
    //! this node serves 10.1.0.0/24. The pool is 10.0.0.0/8.

    use super::*;

    pub(crate) const LOCAL: [u8; 4] = [192, 0, 2, 1];
    pub(crate) const NODE_B: [u8; 4] = [192, 0, 2, 2];
    pub(crate) const NODE_C: [u8; 4] = [192, 0, 2, 3];
    pub(crate) const INNER_B: [u8; 4] = [10, 8, 0, 1];
    pub(crate) const LENT: [u8; 4] = [10, 2, 0, 9];

    #[derive(Clone, Copy)]
    pub(crate) struct Fake {
        pub(crate) uplink: Option<UplinkEntry>,
        pub(crate) copies_dscp: bool,
        pub(crate) id: u16,
    }

    impl Fake {
        pub(crate) const DEFAULT: Self = Self {
            uplink: Some(UplinkEntry {
                ifindex: 1,
                local: LOCAL,
                flags: UplinkEntry::DECAPSULATE,
                reserved: 0,
            }),
            copies_dscp: false,
            id: 0x1234,
        };
    }

    impl Tables for Fake {
        fn uplink(&self) -> Option<UplinkEntry> {
            self.uplink
        }

        fn range_of(&self, address: [u8; 4]) -> Option<RemoteEntry> {
            if address == LENT {
                let flags = RemoteEntry::ENCAPSULATE | RemoteEntry::SINGLE;
                return Some(RemoteEntry { node: NODE_C, flags });
            }
            self.block_of(address)
        }

        fn block_of(&self, address: [u8; 4]) -> Option<RemoteEntry> {
            let (node, flags) = match address {
                [10, 1, 0, _] => (LOCAL, 0),
                [10, 2, 0, _] => (NODE_B, RemoteEntry::ENCAPSULATE),
                [10, 3, 0, _] => (NODE_C, 0),
                _ => return None,
            };
            Some(RemoteEntry { node, flags })
        }

        fn peer(&self, address: [u8; 4]) -> Option<PeerEntry> {
            match address {
                NODE_B => Some(PeerEntry { inner: INNER_B, flags: PeerEntry::HAS_INNER }),
                NODE_C => Some(PeerEntry { inner: [0; 4], flags: 0 }),
                _ => None,
            }
        }

        fn in_pool(&self, address: [u8; 4]) -> bool {
            address[0] == 10
        }

        fn copies_dscp(&self) -> bool {
            self.copies_dscp
        }

        fn new_id(&self) -> u16 {
            self.id
        }
    }

    /// A frame with an IPv4 packet of this source and destination, header checksum right.
    pub(crate) fn frame(
        protocol: u8,
        source: [u8; 4],
        destination: [u8; 4],
        rest: &[u8],
    ) -> std::vec::Vec<u8> {
        let [high, low] = ((20 + rest.len()) as u16).to_be_bytes();
        let mut header = [0x45, 0, high, low, 0, 7, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header[12..16].copy_from_slice(&source);
        header[16..].copy_from_slice(&destination);
        [&[2; 12][..], &[8, 0], &summed(header), rest].concat()
    }

    /// A header of twenty bytes with its checksum in its place, whatever was there.
    pub(crate) fn summed(mut header: [u8; 20]) -> [u8; 20] {
        header[10..12].fill(0);
        let sum = !crate::ipv4_header::folded(crate::ipv4_header::sum_of(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }
}
