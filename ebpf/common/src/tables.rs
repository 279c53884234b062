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
