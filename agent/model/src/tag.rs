//! Tags: what a pool's packets carry. A tag id is ours; a mark is `skb->mark`.

use std::fmt;

/// The number that stands for a pool in marks and kernel maps: 1 to the mark layout's greatest.
///
/// Zero means "no pool" and is never allotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagId(u16);

impl TagId {
    /// A tag id; `None` for zero.
    #[must_use]
    pub fn new(id: u16) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for TagId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A differentiated services code point, 0 to 63 (RFC 2474): the upper six bits of the TOS byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dscp(u8);

/// Why a number is not a [`Dscp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a DSCP: expected 0 to 63")]
pub struct DscpError(u32);

impl Dscp {
    /// Checks the range.
    ///
    /// # Errors
    /// Above 63.
    pub fn new(value: u32) -> Result<Self, DscpError> {
        match u8::try_from(value) {
            Ok(v) if v < 64 => Ok(Self(v)),
            _ => Err(DscpError(value)),
        }
    }

    /// The code point, 0 to 63.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value and the bits of `skb->mark` it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The bits under the mask.
    pub value: u32,
    /// Which bits are ours.
    pub mask: u32,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// How tag ids and the NAT bit lie in `skb->mark`.
///
/// ```text
///  bit 31        27 26              16 15             0
///     +------------+------------------+----------------+
///     | not ours   |N|     tag id     |    not ours    |   mask 0x0fff0000
///     +------------+------------------+----------------+
/// ```
/// The mask is one contiguous run of bits; its highest bit says "masquerade this" (N), the rest is the tag
/// id. Bits outside are never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkLayout {
    mask: u32,
}

/// Why a mask cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkLayoutError {
    /// Fewer than 2 or more than 17 bits, or not one contiguous run.
    #[error("mark mask {0:#x} must be one contiguous run of 2 to 17 bits, such as 0x0fff0000")]
    Shape(u32),
    /// Bits that kube-proxy (0x4000, 0x8000) or portmap (0x2000) use.
    #[error("mark mask {0:#x} uses bits of 0xe000, which belong to kube-proxy and portmap")]
    Taken(u32),
}

impl MarkLayout {
    /// The default mask: eleven bits of tag id and the NAT bit, clear of kube-proxy's and portmap's 0xe000.
    pub const DEFAULT: Self = Self { mask: 0x0fff_0000 };

    /// Bits that other programs on a Kubernetes node use.
    pub const FOREIGN_BITS: u32 = 0xe000;

    /// Checks a mask.
    ///
    /// # Errors
    /// Not contiguous, too narrow or wide, or using foreign bits.
    pub fn new(mask: u32) -> Result<Self, MarkLayoutError> {
        let width = mask.count_ones();
        let contiguous = mask != 0 && (mask >> mask.trailing_zeros()).trailing_ones() == width;
        if !contiguous || !(2..=17).contains(&width) {
            return Err(MarkLayoutError::Shape(mask));
        }
        if mask & Self::FOREIGN_BITS != 0 {
            return Err(MarkLayoutError::Taken(mask));
        }
        Ok(Self { mask })
    }

    /// All bits that are ours.
    #[must_use]
    pub fn mask(self) -> u32 {
        self.mask
    }

    /// The bit that asks for masquerading: the highest of the mask.
    #[must_use]
    pub fn nat_bit(self) -> u32 {
        1 << (31 - self.mask.leading_zeros())
    }

    /// How far left a tag id is shifted.
    #[must_use]
    pub fn shift(self) -> u32 {
        self.mask.trailing_zeros()
    }

    /// The greatest tag id that fits.
    #[must_use]
    pub fn max_tag_id(self) -> u16 {
        u16::try_from((self.mask ^ self.nat_bit()) >> self.shift()).unwrap_or(u16::MAX)
    }

    /// What packets of a pool carry.
    #[must_use]
    pub fn mark(self, tag: TagId, nat_outgoing: bool) -> Mark {
        let nat = if nat_outgoing { self.nat_bit() } else { 0 };
        Mark {
            value: (u32::from(tag.get()) << self.shift()) & (self.mask ^ self.nat_bit()) | nat,
            mask: self.mask,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_one_run_of_bits_clear_of_other_programs() {
        let check = |mask, ok: bool| assert_eq!(MarkLayout::new(mask).is_ok(), ok, "{mask:#x}");
        for mask in [0x0fff_0000, 0xffff_0000, 0x0000_1fff, 0x0003_0000] {
            check(mask, true);
        }
        for mask in [0, 0x0001_0000, 0x0f0f_0000, 0x0000_f000, 0x0001_e000, 0xffff_ffff, 0xffff_e000] {
            check(mask, false);
        }
    }

    #[test]
    fn the_default_layout_is_as_drawn() {
        let layout = MarkLayout::DEFAULT;
        assert_eq!(MarkLayout::new(layout.mask()), Ok(layout));
        assert_eq!((layout.nat_bit(), layout.shift(), layout.max_tag_id()), (0x0800_0000, 16, 2047));
        let tag = TagId::new(5).unwrap();
        assert_eq!(layout.mark(tag, false).to_string(), "0x50000/0xfff0000");
        assert_eq!(layout.mark(tag, true).value, 0x0805_0000);
    }
}
