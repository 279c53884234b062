//! Numbers of nexthop objects: pure.
//!
//! A number follows from the node's name, so that whoever plans next finds the node's object again without having kept
//! anything, and an address that changes is one change of one object. Numbers are one name space for all of a network
//! namespace, so ours lie in a range of their own; one that somebody else has is passed over and never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use model::NodeName;

/// The first of our numbers. Above what the kernel hands out itself (from 1) and what FRR begins its ranges with.
const FIRST: u32 = 0x5000_0000;

/// How many numbers are ours.
const COUNT: u32 = 0x1000_0000;

/// Which of a node's nexthop objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Towards its IPv4 address, by the underlay.
    DirectIpv4,
    /// Towards its IPv4 address, by the tunnel device.
    TunnelledIpv4,
    /// Towards its IPv6 address, by the underlay.
    DirectIpv6,
}

/// Whether a number is one of ours.
pub(super) fn is_ours(id: u32) -> bool {
    (FIRST..FIRST + COUNT).contains(&id)
}

/// A number for each; none of them `taken`, no two the same. The same question has the same answer.
pub(super) fn assign<'a>(
    wanted: &BTreeSet<(&'a NodeName, Kind)>,
    taken: &BTreeSet<u32>,
) -> BTreeMap<(&'a NodeName, Kind), u32> {
    let mut used = BTreeSet::new();
    let mut assigned = BTreeMap::new();
    for (node, kind) in wanted {
        let mut offset = hash(node, *kind) % COUNT;
        // Ends: nobody has that many nodes, and a namespace not that many objects.
        while taken.contains(&(FIRST + offset)) || !used.insert(FIRST + offset) {
            offset = (offset + 1) % COUNT;
        }
        assigned.insert((*node, *kind), FIRST + offset);
    }
    assigned
}

/// FNV-1a: the same on every machine and in every version, which `DefaultHasher` does not promise.
struct Fnv(u32);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0.into()
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

fn hash(node: &NodeName, kind: Kind) -> u32 {
    let mut hasher = Fnv(0x811c_9dc5);
    hasher.write(node.as_str().as_bytes());
    hasher.write(&[match kind {
        Kind::DirectIpv4 => 1,
        Kind::TunnelledIpv4 => 2,
        Kind::DirectIpv6 => 3,
    }]);
    hasher.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> NodeName {
        format!("node-{number}").parse().unwrap()
    }

    #[test]
    fn numbers_are_ours_differ_and_stay() {
        let names: Vec<NodeName> = (0..20_000).map(name).collect();
        let wanted: BTreeSet<_> = names
            .iter()
            .flat_map(|name| {
                [(name, Kind::DirectIpv4), (name, Kind::TunnelledIpv4), (name, Kind::DirectIpv6)]
            })
            .collect();
        let all = assign(&wanted, &BTreeSet::new());
        let distinct: BTreeSet<u32> = all.values().copied().collect();
        assert_eq!(distinct.len(), 60_000);
        assert!(distinct.iter().all(|id| is_ours(*id)));
        let one = BTreeSet::from([(&names[77], Kind::DirectIpv4)]);
        // Another's place at most when two fall together, which is rare.
        let stayed = names.iter().filter(|name| {
            let key = (*name, Kind::DirectIpv4);
            assign(&BTreeSet::from([key]), &BTreeSet::new())[&key] == all[&key]
        });
        assert!(stayed.count() > 19_900);
        let id = assign(&one, &BTreeSet::new())[&(&names[77], Kind::DirectIpv4)];
        let elsewhere = assign(&one, &BTreeSet::from([id, id + 1]))[&(&names[77], Kind::DirectIpv4)];
        assert_eq!(elsewhere, id + 2, "a number that somebody has is passed over");
        assert!(!is_ours(0x4fff_ffff) && !is_ours(0x6000_0000));
    }
}
