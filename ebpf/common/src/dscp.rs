//! Rewriting the DSCP (RFC 2474), ECN bits kept.
//!
//! ```text
//!   7 6 5 4 3 2   1 0          IPv4: byte 1 of the header, covered by the header checksum
//!  +-------------+-----+       IPv6: bits 4 to 11 of the first two bytes, no checksum
//!  |    DSCP     | ECN |
//!  +-------------+-----+
//! ```

/// How many bytes at the start of an IPv4 header [`rewrite_ipv4`] needs: up to and with the checksum.
pub const IPV4_REWRITE_LEN: usize = 12;

/// How many bytes at the start of an IPv6 header [`rewrite_ipv6`] needs.
pub const IPV6_REWRITE_LEN: usize = 2;

/// The head of an IPv4 header with another DSCP and a checksum that fits; `None` if it has that DSCP already.
#[inline(always)]
#[must_use]
pub fn rewrite_ipv4(head: [u8; IPV4_REWRITE_LEN], dscp: u8) -> Option<[u8; IPV4_REWRITE_LEN]> {
    rewrite_ipv4_tos(head, (dscp << 2) | (head[1] & 3))
}

/// The same for the whole byte, ECN bits and all.
#[inline(always)]
#[must_use]
pub fn rewrite_ipv4_tos(head: [u8; IPV4_REWRITE_LEN], tos: u8) -> Option<[u8; IPV4_REWRITE_LEN]> {
    if tos == head[1] {
        return None;
    }
    let checksum = u16::from_be_bytes([head[10], head[11]]);
    let old_word = u16::from_be_bytes([head[0], head[1]]);
    let new_word = u16::from_be_bytes([head[0], tos]);
    let [high, low] = updated_checksum(checksum, old_word, new_word).to_be_bytes();
    let mut new = head;
    new[1] = tos;
    new[10] = high;
    new[11] = low;
    Some(new)
}

/// The first two bytes of an IPv6 header with another DSCP; `None` if it has that DSCP already.
#[inline(always)]
#[must_use]
pub fn rewrite_ipv6(head: [u8; IPV6_REWRITE_LEN], dscp: u8) -> Option<[u8; IPV6_REWRITE_LEN]> {
    // Version (4 bits), traffic class (8), the upper 4 bits of the flow label.
    let old = u16::from_be_bytes(head);
    let new = (old & 0xf03f) | (u16::from(dscp & 0x3f) << 6);
    (new != old).then_some(new.to_be_bytes())
}

/// The checksum after one 16-bit word under it changed: RFC 1624, equation 3, `HC' = ~(~HC + ~m + m')`.
#[inline(always)]
#[must_use]
pub fn updated_checksum(checksum: u16, old_word: u16, new_word: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old_word) + u32::from(new_word);
    // Three 16-bit numbers carry at most twice.
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 over a whole header whose checksum field counts as zero.
    fn full_checksum(header: &[u8]) -> u16 {
        let mut sum = 0u32;
        for (at, word) in header.chunks_exact(2).enumerate() {
            if at != 5 {
                sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
            }
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn with_checksum(mut header: [u8; 20]) -> [u8; 20] {
        let sum = full_checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header
    }

    #[test]
    fn every_dscp_and_ecn_value_of_ipv6_lands_in_the_traffic_class() {
        for class in 0..=255u8 {
            for dscp in 0..64u8 {
                let head = (0x6000 | (u16::from(class) << 4) | 0xb).to_be_bytes();
                let expected = (0x6000 | (u16::from(dscp << 2 | class & 3) << 4) | 0xb).to_be_bytes();
                let unchanged = class >> 2 == dscp;
                assert_eq!(rewrite_ipv6(head, dscp), (!unchanged).then_some(expected));
            }
        }
    }

    #[test]
    fn every_checksum_is_updated_with_all_its_carries() {
        for (old, new) in [(0x4500, 0x45b8), (0x45ff, 0x4503), (0x4f00, 0x45fc), (0, 0xffff), (0xffff, 0)] {
            for checksum in 0..=u16::MAX {
                let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
                while sum > 0xffff {
                    sum = (sum & 0xffff) + (sum >> 16);
                }
                assert_eq!(u32::from(!updated_checksum(checksum, old, new)), sum, "{checksum:#x} {old:#x}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_rewritten_header_has_the_checksum_of_a_full_recomputation(
            mut header: [u8; 20], dscp in 0u8..64,
        ) {
            header[0] = 0x45;
            let header = with_checksum(header);
            let mut head = [0; IPV4_REWRITE_LEN];
            head.copy_from_slice(&header[..IPV4_REWRITE_LEN]);
            let Some(new_head) = rewrite_ipv4(head, dscp) else {
                prop_assert_eq!(header[1] >> 2, dscp);
                return Ok(());
            };
            let mut rewritten = header;
            rewritten[..IPV4_REWRITE_LEN].copy_from_slice(&new_head);
            prop_assert_eq!(rewritten[1] >> 2, dscp);
            prop_assert_eq!(rewritten[1] & 3, header[1] & 3);
            prop_assert_eq!(u16::from_be_bytes([rewritten[10], rewritten[11]]), full_checksum(&rewritten));
            // Nothing else moved.
            for at in (0..20).filter(|at| ![1, 10, 11].contains(at)) {
                prop_assert_eq!(rewritten[at], header[at]);
            }
        }

        #[test]
        fn a_word_changed_and_changed_back_leaves_the_checksum(checksum in 0u16..0xffff, a: u16, b: u16) {
            // 0xffff and 0 mean the same number in one's complement; a header never sums to 0xffff.
            let there = updated_checksum(checksum, a, b);
            prop_assert_eq!(updated_checksum(there, b, a) % 0xffff, checksum % 0xffff);
        }
    }
}
