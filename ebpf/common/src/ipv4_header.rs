//! The fixed part of an IPv4 header, by field.
//!
//! ```text
//!  0      1     2            4     6            8     9          10         12      16      20
//!  +------+-----+------------+-----+------------+-----+----------+----------+-------+-------+
//!  |ver,hl| tos | total len  | id  | flags, off | ttl | protocol | checksum | src   | dst   |
//!  +------+-----+------------+-----+------------+-----+----------+----------+-------+-------+
//! ```

use crate::Packet;

/// Length of a header without options.
pub(crate) const HEADER_LEN: u32 = 20;

/// Version 4, five words of header.
pub(crate) const PLAIN: u8 = 0x45;

/// Flag "do not fragment", of flags and offset.
pub(crate) const DONT_FRAGMENT: u32 = 0x4000;

/// Protocol numbers.
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const IPIP: u8 = 4;
}

/// Twenty bytes that claim to be an IPv4 header: five words, each as the machine reads it where it lies.
///
/// ```text
///  word 0           word 1           word 2             word 3     word 4
///  +----+-----+-----+----+-----------+----+------+------+----------+-------------+
///  |v,hl| tos | len | id | flags,off |ttl |proto | sum  | source   | destination |
///  +----+-----+-----+----+-----------+----+------+------+----------+-------------+
/// ```
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header([u32; 5]);

/// Of word 0, in network order.
const LEN_MASK: u32 = 0xffff;

impl Header {
    /// The header at a constant offset ([`Packet::load`]).
    #[inline(always)]
    pub(crate) fn load<P: Packet>(packet: &P, offset: u32) -> Option<Self> {
        packet.load_words(offset).map(Self)
    }

    /// A header from these bytes.
    #[inline(always)]
    pub(crate) fn from_bytes(bytes: [u8; HEADER_LEN as usize]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self([word(0), word(4), word(8), word(12), word(16)])
    }

    /// Its bytes, as they are on the wire.
    #[inline(always)]
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN as usize] {
        let mut bytes = [0; HEADER_LEN as usize];
        let mut at = 0;
        while at < HEADER_LEN as usize {
            bytes[at] = self.0[at / 4].to_ne_bytes()[at % 4];
            at += 1;
        }
        bytes
    }

    /// A word of it as a number in network order: the first byte is the highest.
    #[inline(always)]
    fn word(&self, at: usize) -> u32 {
        u32::from_be(self.0[at])
    }

    /// Version and header length: [`PLAIN`] without options.
    #[inline(always)]
    pub(crate) fn first_byte(&self) -> u8 {
        (self.word(0) >> 24) as u8
    }

    /// Length with options, in bytes, as stated.
    #[inline(always)]
    pub(crate) fn header_len(&self) -> u32 {
        u32::from(self.first_byte() & 0xf) * 4
    }

    /// Whether it is of version 4 and as long as it must be at least.
    #[inline(always)]
    pub(crate) fn is_ipv4(&self) -> bool {
        self.first_byte() >> 4 == 4 && self.first_byte() & 0xf >= 5
    }

    /// Code point and ECN bits.
    #[inline(always)]
    pub(crate) fn tos(&self) -> u8 {
        (self.word(0) >> 16) as u8
    }

    /// The ECN bits (RFC 3168).
    #[inline(always)]
    pub(crate) fn ecn(&self) -> u8 {
        self.tos() & 3
    }

    /// Length of the packet, as stated.
    #[inline(always)]
    pub(crate) fn total_len(&self) -> u32 {
        self.word(0) & LEN_MASK
    }

    #[inline(always)]
    pub(crate) fn id(&self) -> u16 {
        (self.word(1) >> 16) as u16
    }

    /// Whether the packet is a part of a longer one.
    #[inline(always)]
    pub(crate) fn is_fragment(&self) -> bool {
        // "More fragments", or an offset.
        self.word(1) & 0x3fff != 0
    }

    /// [`DONT_FRAGMENT`], or 0.
    #[inline(always)]
    pub(crate) fn dont_fragment(&self) -> u32 {
        self.word(1) & DONT_FRAGMENT
    }

    #[inline(always)]
    pub(crate) fn ttl(&self) -> u8 {
        (self.word(2) >> 24) as u8
    }

    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        (self.word(2) >> 16) as u8
    }

    #[inline(always)]
    pub(crate) fn source(&self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }

    #[inline(always)]
    pub(crate) fn destination(&self) -> [u8; 4] {
        self.0[4].to_ne_bytes()
    }

    /// The head of it that a rewritten code point needs.
    #[inline(always)]
    pub(crate) fn head(&self) -> [u8; crate::dscp::IPV4_REWRITE_LEN] {
        let [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, ..] = self.to_bytes();
        [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11]
    }

    /// Whether the checksum of a header without options is right.
    #[inline(always)]
    pub(crate) fn sums_up(&self) -> bool {
        self.sum() == 0xffff
    }

    /// A header without options and with its checksum.
    #[inline(always)]
    pub(crate) fn of(fields: &Fields) -> Self {
        let word = |value: u32| value.to_be();
        let mut header = Self([
            word(u32::from(PLAIN) << 24 | u32::from(fields.tos) << 16 | (fields.total_len & LEN_MASK)),
            word(u32::from(fields.id) << 16 | fields.dont_fragment),
            word(u32::from(fields.ttl) << 24 | u32::from(fields.protocol) << 16),
            u32::from_ne_bytes(fields.source),
            u32::from_ne_bytes(fields.destination),
        ]);
        let [first, second] = (!header.sum()).to_ne_bytes();
        header.0[2] |= u32::from_ne_bytes([0, 0, first, second]);
        header
    }

    /// The sum of its 16-bit words as the machine reads them, carries added in: the order of bytes does not matter
    /// (RFC 1071, section 2).
    #[inline(always)]
    fn sum(&self) -> u16 {
        let [a, b, c, d, e] = self.0;
        let sum = u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d) + u64::from(e);
        // Five words of 32 bits carry at most 4, and then 1, into the upper half.
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }
}

/// What a new header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    pub(crate) tos: u8,
    /// At most 65,535.
    pub(crate) total_len: u32,
    pub(crate) id: u16,
    /// [`DONT_FRAGMENT`], or 0.
    pub(crate) dont_fragment: u32,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
}

/// The sum of the 16-bit words, carries still in the upper half. `N` is even and below 64 Ki.
#[inline(always)]
pub(crate) fn sum_of<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0;
    let mut at = 0;
    while at + 1 < N {
        sum += u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    sum
}

/// A sum with its carries added in (RFC 1071).
#[inline(always)]
pub(crate) fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_are_read_where_they_lie(bytes: [u8; 20]) {
            let header = Header::from_bytes(bytes);
            prop_assert_eq!(header.to_bytes(), bytes);
            prop_assert_eq!((header.first_byte(), header.tos(), header.ttl()), (bytes[0], bytes[1], bytes[8]));
            prop_assert_eq!(header.protocol(), bytes[9]);
            prop_assert_eq!(header.total_len(), u32::from(bytes[2]) << 8 | u32::from(bytes[3]));
            prop_assert_eq!(header.is_fragment(), bytes[6] & 0x3f != 0 || bytes[7] != 0);
            prop_assert_eq!(header.dont_fragment() != 0, bytes[6] & 0x40 != 0);
            prop_assert_eq!(&header.source()[..], &bytes[12..16]);
            prop_assert_eq!(&header.destination()[..], &bytes[16..]);
            prop_assert_eq!(&header.head()[..], &bytes[..12]);
            prop_assert_eq!(header.sums_up(), folded(sum_of(&bytes)) == 0xffff);
        }
    }
}
