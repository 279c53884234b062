//! Addresses that are kept back from automatic assignment.
//!
//! Reservations never take an address from its holder and do not stand against an explicit request; they only
//! say what automatic assignment leaves alone.

use std::net::IpAddr;

use model::{Cidr, Family};

use crate::ranges::{RangeSet, bounds, number};

/// All reservations of the cluster: the union of every `IPReservation`'s `spec.reservedCIDRs`.
///
/// Overlapping and nested prefixes count once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    merged: RangeSet,
    named: Vec<(String, Cidr)>,
}

impl Reservations {
    /// Merges reservations, each with the name of the object it is from.
    #[must_use]
    pub fn new(named: impl IntoIterator<Item = (String, Cidr)>) -> Self {
        let named: Vec<_> = named.into_iter().collect();
        let mut merged = RangeSet::default();
        for (_, cidr) in &named {
            merged.insert(cidr);
        }
        Self { merged, named }
    }

    /// Whether an address is reserved.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.merged.around(address).is_some()
    }

    /// Which reservation keeps an address back: the name and prefix of the first one given that does.
    /// Linear in the number of reservations; for people.
    #[must_use]
    pub fn kept_by(&self, address: IpAddr) -> Option<(&str, Cidr)> {
        self.named.iter().find(|(_, cidr)| cidr.contains(address)).map(|(name, cidr)| (name.as_str(), *cidr))
    }

    /// How many addresses of `cidr` are reserved, saturating at `u128::MAX`.
    #[must_use]
    pub fn count_in(&self, cidr: &Cidr) -> u128 {
        let (first, last) = bounds(cidr);
        self.merged.count(cidr.family(), first, last)
    }

    /// Whether every address of `cidr` is reserved.
    #[must_use]
    pub fn covers(&self, cidr: &Cidr) -> bool {
        let (first, last) = bounds(cidr);
        self.merged.covering(cidr.family(), first, last).is_some()
    }

    /// How far the reserved run around `address` reaches beyond it (0: it is the last of the run); `None` when
    /// the address is not reserved.
    pub(crate) fn run_after(&self, address: IpAddr) -> Option<u128> {
        self.merged.around(address).map(|(_, end)| end - number(address))
    }

    pub(crate) fn covering(&self, family: Family, first: u128, last: u128) -> Option<(u128, u128)> {
        self.merged.covering(family, first, last)
    }

    /// Reserved ranges inside `cidr`, as numbers.
    pub(crate) fn ranges_in(&self, cidr: &Cidr) -> impl Iterator<Item = (u128, u128)> + '_ {
        let (first, last) = bounds(cidr);
        self.merged.clipped(cidr.family(), first, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u1_overlapping_and_nested_reservations_count_once() {
        let check = |reserved: &[&str], cidr: &str, count: u128, covers: bool| {
            let reservations =
                Reservations::new(reserved.iter().map(|text| ((*text).to_owned(), text.parse().unwrap())));
            let cidr = cidr.parse().unwrap();
            assert_eq!(
                (reservations.count_in(&cidr), reservations.covers(&cidr)),
                (count, covers),
                "{reserved:?} in {cidr}"
            );
        };
        check(&[], "10.0.0.0/26", 0, false);
        check(&["10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/31"], "10.0.0.0/26", 4, false);
        check(&["10.0.0.0/8"], "10.0.0.0/26", 64, true);
        check(&["10.0.0.0/27", "10.0.0.32/27"], "10.0.0.0/26", 64, true);
        check(&["10.0.0.0/27", "10.0.0.33/32"], "10.0.0.0/26", 33, false);
        check(&["::/0"], "10.0.0.0/26", 0, false);
        check(&["fd00::/120"], "fd00::/122", 64, true);
    }

    #[test]
    fn a_reserved_address_is_traced_to_its_reservation() {
        let reservations = Reservations::new([
            ("gateways".to_owned(), "10.0.0.0/31".parse().unwrap()),
            ("lab".to_owned(), "10.0.0.0/28".parse().unwrap()),
        ]);
        let check = |address: &str, name: Option<&str>| {
            let address = address.parse().unwrap();
            assert_eq!(reservations.kept_by(address).map(|(name, _)| name), name, "{address}");
            assert_eq!(reservations.contains(address), name.is_some(), "{address}");
        };
        check("10.0.0.1", Some("gateways"));
        check("10.0.0.2", Some("lab"));
        check("10.0.0.16", None);
    }
}
