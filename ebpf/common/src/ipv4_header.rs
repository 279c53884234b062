//! The fixed part of an IPv4 header, by field.
//!
//! ```text
//!  0      1     2            4     6            8     9          10         12      16      20
//!  +------+-----+------------+-----+------------+-----+----------+----------+-------+-------+
//!  |ver,hl| tos | total len  | id  | flags, off | ttl | protocol | checksum | src   | dst   |
//!  +------+-----+------------+-----+------------+-----+----------+----------+-------+-------+
//! ```

/// Length of a header without options.
pub(crate) const HEADER_LEN: u32 = 20;

/// Version 4, five words of header.
pub(crate) const PLAIN: u8 = 0x45;

/// Flag "do not fragment", in the upper byte of flags and offset.
pub(crate) const DONT_FRAGMENT: u8 = 0x40;

/// Protocol numbers.
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const IPIP: u8 = 4;
}

/// Twenty bytes that claim to be an IPv4 header.
#[derive(Clone, Copy)]
pub(crate) struct Header(pub(crate) [u8; HEADER_LEN as usize]);

impl Header {
    /// Length with options, in bytes, as stated.
    #[inline(always)]
    pub(crate) fn header_len(&self) -> u32 {
        u32::from(self.0[0] & 0xf) * 4
    }

    /// Whether it is of version 4 and as long as it must be at least.
    #[inline(always)]
    pub(crate) fn is_ipv4(&self) -> bool {
        self.0[0] >> 4 == 4 && self.0[0] & 0xf >= 5
    }

    /// Code point and ECN bits.
    #[inline(always)]
    pub(crate) fn tos(&self) -> u8 {
        self.0[1]
    }

    /// The ECN bits (RFC 3168).
    #[inline(always)]
    pub(crate) fn ecn(&self) -> u8 {
        self.0[1] & 3
    }

    /// Length of the packet, as stated.
    #[inline(always)]
    pub(crate) fn total_len(&self) -> u32 {
        u32::from(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    /// Whether the packet is a part of a longer one.
    #[inline(always)]
    pub(crate) fn is_fragment(&self) -> bool {
        // "More fragments", or an offset.
        self.0[6] & 0x3f != 0 || self.0[7] != 0
    }

    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        self.0[9]
    }

    #[inline(always)]
    pub(crate) fn source(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    #[inline(always)]
    pub(crate) fn destination(&self) -> [u8; 4] {
        [self.0[16], self.0[17], self.0[18], self.0[19]]
    }

    /// The head of it that a rewritten code point needs.
    #[inline(always)]
    pub(crate) fn head(&self) -> [u8; crate::dscp::IPV4_REWRITE_LEN] {
        let [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, ..] = self.0;
        [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11]
    }

    /// Whether the checksum of a header without options is right.
    #[inline(always)]
    pub(crate) fn sums_up(&self) -> bool {
        folded(sum_of(&self.0)) == 0xffff
    }

    /// With the checksum of a header without options in its place, whatever was there.
    #[inline(always)]
    pub(crate) fn summed(mut self) -> [u8; HEADER_LEN as usize] {
        self.0[10] = 0;
        self.0[11] = 0;
        let [high, low] = (!folded(sum_of(&self.0))).to_be_bytes();
        self.0[10] = high;
        self.0[11] = low;
        self.0
    }
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
