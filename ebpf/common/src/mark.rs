//! The mark of a packet, read-modify-write under the mask.

use crate::layout::{PoolEntry, Settings};

/// `old` with our bits replaced by the pool's tag and NAT bit. Bits outside the mask stay as they were; a tag
/// too wide for the layout is cut to it.
#[inline(always)]
#[must_use]
pub fn new_mark(old: u32, settings: &Settings, pool: &PoolEntry) -> u32 {
    let nat = if pool.nat_outgoing() { settings.nat_bit } else { 0 };
    let tag = pool.tag.wrapping_shl(settings.mark_shift) & !settings.nat_bit;
    cleared(old, settings) | ((tag | nat) & settings.mark_mask)
}

/// `old` with our bits cleared: what a packet without a pool carries.
#[inline(always)]
#[must_use]
pub fn cleared(old: u32, settings: &Settings) -> u32 {
    old & !settings.mark_mask
}

/// The tag in a mark; 0 if it has none.
#[inline(always)]
#[must_use]
pub fn tag_of(mark: u32, settings: &Settings) -> u32 {
    (mark & settings.mark_mask & !settings.nat_bit).wrapping_shr(settings.mark_shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: Settings =
        Settings { mark_mask: 0x0fff_0000, mark_shift: 16, nat_bit: 0x0800_0000, reserved: 0 };

    fn pool(tag: u32, nat: bool) -> PoolEntry {
        let flags = if nat { PoolEntry::NAT_OUTGOING } else { 0 };
        PoolEntry { tag, flags, dscp: 0, reserved: [0; 2] }
    }

    #[test]
    fn our_bits_are_replaced_and_foreign_bits_stay() {
        let check = |old, tag, nat, expected| {
            assert_eq!(new_mark(old, &DEFAULT, &pool(tag, nat)), expected, "{old:#x} {tag} {nat}");
        };
        check(0, 5, false, 0x0005_0000);
        check(0, 5, true, 0x0805_0000);
        check(0x0000_4000, 5, true, 0x0805_4000);
        check(0xf0ff_ffff, 1, false, 0xf001_ffff);
        check(0x0fff_0000, 2, false, 0x0002_0000);
        check(0, 0x7ff, false, 0x07ff_0000);
        // One bit too many would be the NAT bit.
        check(0, 0x800, false, 0);
        assert_eq!(cleared(0xffff_ffff, &DEFAULT), 0xf000_ffff);
    }

    proptest! {
        #[test]
        fn bits_outside_the_mask_never_change(
            old: u32, mark_mask: u32, mark_shift: u32, nat_bit: u32, tag: u32, nat: bool,
        ) {
            let settings = Settings { mark_mask, mark_shift, nat_bit, reserved: 0 };
            let new = new_mark(old, &settings, &pool(tag, nat));
            prop_assert_eq!(new & !mark_mask, old & !mark_mask);
            prop_assert_eq!(cleared(new, &settings), cleared(old, &settings));
        }

        #[test]
        fn the_nat_bit_and_the_tag_can_be_read_back(old: u32, tag in 1u32..=2047, nat: bool) {
            let new = new_mark(old, &DEFAULT, &pool(tag, nat));
            prop_assert_eq!((new & 0x07ff_0000) >> 16, tag);
            prop_assert_eq!(tag_of(new, &DEFAULT), tag);
            prop_assert_eq!(tag_of(cleared(new, &DEFAULT), &DEFAULT), 0);
            prop_assert_eq!(new & DEFAULT.nat_bit != 0, nat);
        }
    }
}
