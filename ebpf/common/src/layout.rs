//! Keys and values of the maps, byte for byte.
//!
//! All are `repr(C)` without padding (the sizes below are sums of the fields, checked at compile time);
//! integers are in the machine's byte order, addresses in network order. Keys of the two tries are the
//! kernel's `struct bpf_lpm_trie_key`: prefix length in bits (u32), then 4 or 16 bytes of address.

/// Key of the endpoint map: the host's end of a pod's veth pair.
///
/// ```text
///  0            4
///  +------------+
///  | ifindex    |
///  +------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// Interface index in the node's network namespace.
    pub ifindex: u32,
}

/// The addresses that a pod may send from.
///
/// ```text
///  0            4                        20           24
///  +------------+------------------------+------------+
///  | ipv4       | ipv6                   | flags      |
///  +------------+------------------------+------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Its IPv4 address; meaningful with [`Endpoint::HAS_V4`].
    pub ipv4: [u8; 4],
    /// Its IPv6 address; meaningful with [`Endpoint::HAS_V6`].
    pub ipv6: [u8; 16],
    /// `HAS_*` bits.
    pub flags: u32,
}

impl Endpoint {
    /// The pod has an IPv4 address.
    pub const HAS_V4: u32 = 1;
    /// The pod has an IPv6 address.
    pub const HAS_V6: u32 = 2;
    /// The pod may send from other sources as well: those that the map of sources has for its interface.
    pub const HAS_MORE_SOURCES: u32 = 4;

    /// Whether `address` is the pod's own.
    #[inline(always)]
    #[must_use]
    pub fn owns_v4(&self, address: [u8; 4]) -> bool {
        self.flags & Self::HAS_V4 != 0 && self.ipv4 == address
    }

    /// Whether `address` is the pod's own.
    #[inline(always)]
    #[must_use]
    pub fn owns_v6(&self, address: [u8; 16]) -> bool {
        // As two words: comparing bytes costs sixteen steps in the kernel.
        self.flags & Self::HAS_V6 != 0 && u128::from_ne_bytes(self.ipv6) == u128::from_ne_bytes(address)
    }
}

/// A source that a pod may send from besides its own addresses, as the data of a key in the trie of sources: behind the
/// prefix length, which counts the interface's 32 bits as well.
///
/// ```text
///  0            4                        20
///  +------------+------------------------+
///  | interface  | address                |
///  +------------+------------------------+
/// ```
/// Both in network order. The interface's first bit tells the family, so that no prefix of one holds an address of the
/// other; an IPv4 address is in the first four bytes of the sixteen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey {
    /// Interface index in the node's network namespace, in network order, since a prefix begins at its first bit; with
    /// [`SourceKey::V4_BIT`] for IPv4.
    pub interface: [u8; 4],
    /// The address.
    pub address: [u8; 16],
}

impl SourceKey {
    /// How many bits stand before the address.
    pub const BITS_BEFORE: u32 = 32;
    /// Tells IPv4; interface indices are positive as signed numbers.
    pub const V4_BIT: u32 = 1 << 31;

    /// The key of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub fn v4(ifindex: u32, [a, b, c, d]: [u8; 4]) -> Self {
        Self::v6(ifindex | Self::V4_BIT, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// The key of an IPv6 address.
    #[inline(always)]
    #[must_use]
    pub fn v6(ifindex: u32, address: [u8; 16]) -> Self {
        Self { interface: ifindex.to_be_bytes(), address }
    }
}

/// Most prefixes in the trie of sources, of all pods of a node. Only what is used takes memory.
pub const MAX_SOURCES: u32 = 16_384;

/// What a pool wants done to packets of its addresses.
///
/// ```text
///  0            4       5       6            8
///  +------------+-------+-------+------------+
///  | tag        | flags | dscp  | reserved   |
///  +------------+-------+-------+------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolEntry {
    /// Tag id of the pool; never 0.
    pub tag: u32,
    /// [`PoolEntry::NAT_OUTGOING`], [`PoolEntry::HAS_DSCP`].
    pub flags: u8,
    /// Code point, 0 to 63; meaningful with [`PoolEntry::HAS_DSCP`].
    pub dscp: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

impl PoolEntry {
    /// Set the NAT bit of the mark.
    pub const NAT_OUTGOING: u8 = 1;
    /// Rewrite the DSCP.
    pub const HAS_DSCP: u8 = 2;

    /// Whether packets of the pool are to be masqueraded when they leave all pools.
    #[inline(always)]
    #[must_use]
    pub fn nat_outgoing(&self) -> bool {
        self.flags & Self::NAT_OUTGOING != 0
    }

    /// The code point that packets of the pool shall carry, if the pool has one.
    #[inline(always)]
    #[must_use]
    pub fn wanted_dscp(&self) -> Option<u8> {
        (self.flags & Self::HAS_DSCP != 0).then_some(self.dscp)
    }
}

/// Key of the counters: a tag id.
///
/// ```text
///  0            4
///  +------------+
///  | tag        |
///  +------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagKey {
    /// Tag id of the pool.
    pub tag: u32,
}

/// What one CPU has seen of one pool. "Transmitted" is seen from the pod.
///
/// ```text
///  0            8            16           24           32
///  +------------+------------+------------+------------+
///  | tx_packets | tx_bytes   | rx_packets | rx_bytes   |
///  +------------+------------+------------+------------+
/// ```
/// Packets are those on the wire: a GSO aggregate counts as its segments. Bytes are the length of the frame
/// as the stack holds it, Ethernet header included, which is what `ip -s link` counts too: an aggregate has
/// its headers once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PoolCounters {
    /// Packets sent by pods of the pool and let pass.
    pub tx_packets: u64,
    /// Bytes of these.
    pub tx_bytes: u64,
    /// Packets delivered towards pods of the pool.
    pub rx_packets: u64,
    /// Bytes of these.
    pub rx_bytes: u64,
}

/// How tag ids and the NAT bit lie in `skb->mark`: the one entry of the settings map, read for each packet, so
/// that it can change without loading programs again.
///
/// ```text
///  0            4            8            12           16
///  +------------+------------+------------+------------+
///  | mark_mask  | mark_shift | nat_bit    | reserved   |
///  +------------+------------+------------+------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The bits that are ours; no other bit is ever written.
    pub mark_mask: u32,
    /// How far left a tag id is shifted, 0 to 31.
    pub mark_shift: u32,
    /// The bit that asks for masquerading; inside the mask.
    pub nat_bit: u32,
    /// Zero.
    pub reserved: u32,
}

/// What is done at an uplink, an interface that leads to the other nodes: an element of the uplink array, which is looked
/// through for the interface. Nodes have one, seldom two, and the first element is found without a call.
///
/// ```text
///  0            4            8            12           16
///  +------------+------------+------------+------------+
///  | ifindex    | local      | flags      | reserved   |
///  +------------+------------+------------+------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UplinkEntry {
    /// Interface index in the node's network namespace; 0: the element is free. Written last.
    pub ifindex: u32,
    /// Where outer headers come from, and the only address that they are accepted for.
    pub local: [u8; 4],
    /// [`UplinkEntry::DECAPSULATE`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// How many uplinks there can be.
pub const MAX_UPLINKS: u32 = 16;

impl UplinkEntry {
    /// Take outer headers away; without it they are only checked.
    pub const DECAPSULATE: u32 = 1;

    /// Whether outer headers are taken away here, rather than by a device of the kernel.
    #[inline(always)]
    #[must_use]
    pub fn decapsulates(&self) -> bool {
        self.flags & Self::DECAPSULATE != 0
    }
}

/// Which node serves a range.
///
/// ```text
///  0            4            8
///  +------------+------------+
///  | node       | flags      |
///  +------------+------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RemoteEntry {
    /// The node's address on the underlay.
    pub node: [u8; 4],
    /// [`RemoteEntry::ENCAPSULATE`], [`RemoteEntry::SINGLE`].
    pub flags: u32,
}

impl RemoteEntry {
    /// Packets to the range are encapsulated.
    pub const ENCAPSULATE: u32 = 1;
    /// The range is one address: lent, as a rule, out of a block of another node.
    pub const SINGLE: u32 = 2;

    /// Whether packets to the range are encapsulated.
    #[inline(always)]
    #[must_use]
    pub fn encapsulates(&self) -> bool {
        self.flags & Self::ENCAPSULATE != 0
    }

    /// Whether the range is one address.
    #[inline(always)]
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.flags & Self::SINGLE != 0
    }
}

/// Key of the maps of nodes.
///
/// ```text
///  0            4
///  +------------+
///  | address    |
///  +------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// The node's address on the underlay.
    pub address: [u8; 4],
}

/// Another node.
///
/// ```text
///  0            4            8
///  +------------+------------+
///  | inner      | flags      |
///  +------------+------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerEntry {
    /// Its own address out of a pool; meaningful with [`PeerEntry::HAS_INNER`].
    pub inner: [u8; 4],
    /// [`PeerEntry::HAS_INNER`].
    pub flags: u32,
}

impl PeerEntry {
    /// The node has an address of its own out of a pool.
    pub const HAS_INNER: u32 = 1;

    /// Whether `address` is the node's own, out of a pool.
    #[inline(always)]
    #[must_use]
    pub fn has_inner(&self, address: [u8; 4]) -> bool {
        self.flags & Self::HAS_INNER != 0 && self.inner == address
    }
}

/// What the way to a node was last said to carry, when nobody else could be told.
///
/// ```text
///  0            4            8            16
///  +------------+------------+------------+
///  | mtu_bytes  | reserved   | at_boot_ns |
///  +------------+------------+------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathMtu {
    /// The greatest outer packet.
    pub mtu_bytes: u32,
    /// Zero.
    pub reserved: u32,
    /// When that was said, by `CLOCK_BOOTTIME`.
    pub at_boot_ns: u64,
}

/// What the outer header of a packet with a tag is like.
///
/// ```text
///  0            4
///  +------------+
///  | flags      |
///  +------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TagEntry {
    /// [`TagEntry::COPY_DSCP`].
    pub flags: u32,
}

impl TagEntry {
    /// The outer header carries the inner code point, rather than 0.
    pub const COPY_DSCP: u32 = 1;

    /// Whether the outer header carries the inner code point.
    #[inline(always)]
    #[must_use]
    pub fn copies_dscp(&self) -> bool {
        self.flags & Self::COPY_DSCP != 0
    }
}

const _: () = {
    assert!(size_of::<PeerKey>() == 4 && size_of::<TagEntry>() == 4);
    assert!(size_of::<UplinkEntry>() == 4 * 4 && size_of::<PeerEntry>() == 4 + 4);
    assert!(size_of::<RemoteEntry>() == 4 + 4 && align_of::<RemoteEntry>() == 4);
    assert!(size_of::<PathMtu>() == 4 + 4 + 8 && align_of::<PathMtu>() == 8);
    assert!(size_of::<EndpointKey>() == 4);
    // The value behind it is of four bytes.
    assert!(size_of::<SourceKey>() == 4 + 16 && align_of::<SourceKey>() == 1);
    assert!(size_of::<Endpoint>() == 4 + 16 + 4 && align_of::<Endpoint>() == 4);
    // The value of a trie lies right behind the address: 4 and 16 bytes must be multiples of its alignment.
    assert!(size_of::<PoolEntry>() == 4 + 1 + 1 + 2 && align_of::<PoolEntry>() == 4);
    assert!(size_of::<TagKey>() == 4);
    assert!(size_of::<PoolCounters>() == 4 * 8 && align_of::<PoolCounters>() == 8);
    assert!(size_of::<Settings>() == 4 * 4);
};
