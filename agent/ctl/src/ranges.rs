//! The fewest CIDRs that hold exactly the addresses of given ones.
//!
//! Pure. Which ranges belong together is the caller's matter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::{Cidr, Family};

/// The fewest CIDRs that cover exactly the same addresses, in order; the families stay apart.
///
/// 1. Each range becomes its first and last address as numbers; all are sorted by the first.
/// 2. Neighbours that overlap or touch become one interval.
/// 3. Each interval is cut from its lower end into the largest CIDRs that begin there and fit.
pub(crate) fn aggregate(ranges: &[Cidr], family: Family) -> Vec<Cidr> {
    let mut intervals: Vec<(u128, u128)> = ranges
        .iter()
        .filter(|range| range.family() == family)
        .map(|range| (number(range.network()), number(range.last())))
        .collect();
    intervals.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(intervals.len());
    for (first, last) in intervals {
        match merged.last_mut() {
            // The highest address touches nothing above it.
            Some((_, end)) if *end == u128::MAX || first <= *end + 1 => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged.into_iter().flat_map(|(first, last)| cut(first, last, family)).collect()
}

/// One interval as CIDRs, the largest that fits first. At most two for every bit of an address.
fn cut(first: u128, last: u128, family: Family) -> Vec<Cidr> {
    let bits = u32::from(family.address_bits());
    let mut cidrs = Vec::new();
    let mut at = first;
    loop {
        // Limited by how `at` is aligned, and by how much is left.
        let aligned = if at == 0 { bits } else { at.trailing_zeros() };
        // `None`: the interval is the whole of 128 bits, one more than can be counted.
        let fitting = (last - at).checked_add(1).map_or(bits, u128::ilog2);
        let host_bits = aligned.min(fitting).min(bits);
        let prefix_len = u8::try_from(bits - host_bits).unwrap_or(u8::MAX);
        let Some(cidr) = address(at, family).and_then(|address| Cidr::containing(address, prefix_len)) else {
            return cidrs;
        };
        cidrs.push(cidr);
        let end = number(cidr.last());
        if end >= last {
            return cidrs;
        }
        at = end + 1;
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(number: u128, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(number).ok().map(|number| IpAddr::V4(Ipv4Addr::from(number))),
        Family::V6 => Some(IpAddr::V6(Ipv6Addr::from(number))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(cidrs: &[&str]) -> Vec<Cidr> {
        cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_that_touch_become_one_and_others_stay() {
        let check = |given: &[&str], v4: &[&str], v6: &[&str]| {
            let given = parse(given);
            assert_eq!(aggregate(&given, Family::V4), parse(v4), "{given:?}");
            assert_eq!(aggregate(&given, Family::V6), parse(v6), "{given:?}");
        };
        check(&[], &[], &[]);
        check(&["10.0.0.0/26"], &["10.0.0.0/26"], &[]);
        check(&["10.0.0.64/26", "10.0.0.0/26"], &["10.0.0.0/25"], &[]);
        // They touch, but no single prefix holds both.
        check(&["10.0.0.64/26", "10.0.0.128/26"], &["10.0.0.64/26", "10.0.0.128/26"], &[]);
        check(&["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/25"], &["10.0.0.0/24"], &[]);
        check(&["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26"], &["10.0.0.0/25", "10.0.0.128/26"], &[]);
        check(&["10.0.0.0/24", "10.0.0.64/26", "10.0.0.0/24"], &["10.0.0.0/24"], &[]);
        check(&["10.0.0.0/26", "10.0.0.128/26"], &["10.0.0.0/26", "10.0.0.128/26"], &[]);
        check(&["10.0.0.0/32", "10.0.0.1/32", "10.0.0.2/32"], &["10.0.0.0/31", "10.0.0.2/32"], &[]);
        check(&["fd00::/122", "10.0.0.0/26", "fd00::40/122"], &["10.0.0.0/26"], &["fd00::/121"]);
    }

    #[test]
    fn the_ends_of_the_address_space_are_ordinary_addresses() {
        let check = |given: &[&str], family, expected: &[&str]| {
            assert_eq!(aggregate(&parse(given), family), parse(expected), "{given:?}");
        };
        check(&["0.0.0.0/0"], Family::V4, &["0.0.0.0/0"]);
        check(&["0.0.0.0/1", "128.0.0.0/1"], Family::V4, &["0.0.0.0/0"]);
        check(&["255.255.255.254/32", "255.255.255.255/32"], Family::V4, &["255.255.255.254/31"]);
        check(&["::/0"], Family::V6, &["::/0"]);
        check(&["8000::/1", "::/1"], Family::V6, &["::/0"]);
        check(
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "::/128"],
            Family::V6,
            &["::/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"],
        );
    }

    /// Ranges within 1,024 addresses (at the start, inside, and at the very end of the address space), so that
    /// every address can be looked at.
    fn small_world() -> impl Strategy<Value = (u128, Family, Vec<Cidr>)> {
        let bases = prop_oneof![
            Just((0u128, Family::V4)),
            Just((0x0a00_0000, Family::V4)),
            Just((0xffff_fc00, Family::V4)),
            Just((0, Family::V6)),
            Just((0xfd00 << 112, Family::V6)),
            Just((u128::MAX - 1023, Family::V6)),
        ];
        (bases, prop::collection::vec((0u128..1024, 0u8..=9), 0..24)).prop_map(|((base, family), picks)| {
            let ranges = picks
                .into_iter()
                .map(|(offset, host_bits)| {
                    Cidr::containing(
                        address(base + offset, family).unwrap(),
                        family.address_bits() - host_bits,
                    )
                    .unwrap()
                })
                .collect();
            (base, family, ranges)
        })
    }

    proptest! {
        #[test]
        fn exactly_the_same_addresses_are_covered((base, family, ranges) in small_world()) {
            let result = aggregate(&ranges, family);
            for offset in 0..1024 {
                let at = address(base + offset, family).unwrap();
                let before = ranges.iter().any(|range| range.contains(at));
                let after = result.iter().filter(|range| range.contains(at)).count();
                prop_assert_eq!(after, usize::from(before), "{}", at);
            }
            // Nothing outside the world either: the sizes add up to what was counted inside.
            let inside = (0..1024)
                .filter(|offset| ranges.iter().any(|range| range.contains(address(base + offset, family).unwrap())))
                .count();
            prop_assert_eq!(result.iter().map(Cidr::size).sum::<u128>(), inside as u128);
        }

        #[test]
        fn no_two_results_are_halves_of_one((_, family, ranges) in small_world()) {
            let result = aggregate(&ranges, family);
            for pair in result.windows(2) {
                prop_assert!(pair[0] < pair[1]);
                let parent = Cidr::containing(pair[0].network(), pair[0].prefix_len().saturating_sub(1)).unwrap();
                let siblings = pair[0].prefix_len() == pair[1].prefix_len() && parent.contains(pair[1].network());
                prop_assert!(!siblings, "{} and {}", pair[0], pair[1]);
            }
            prop_assert_eq!(aggregate(&result, family), result);
        }
    }
}
