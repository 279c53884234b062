//! What the other nodes serve, as the kernel shall know it: pure, from rows of blocks and nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv6Addr;

use dataplane::{Peer, RemoteRange};
use ipam::protocol::NodeId;
use ipam::{Pool, PoolTable};
use model::{Cidr, Family, IpipMode, NodeName, PoolName};

use super::blocks::Ranges;
use super::nodes::Known;

/// The other nodes, and who of them serves which range.
///
/// 1. Every node but this one is a peer, whether or not it serves anything.
/// 2. A block is its owner's, a granted loan its borrower's; what is this node's own by its journal is nobody else's,
///    and what is lent to this node is left to its pod's own route.
/// 3. The pool says when packets are encapsulated. Of one that is not known, always: better none at all arrives than
///    one that shows a pod's address where it must not be seen.
/// 4. Ranges of nodes without a Node object have no route.
/// 5. A node's IPv6 address is its Node object's, or else the one that it says itself at its blocks.
/// 6. A range that the cluster gave a node is that node's, where a pool covers it that hands out nothing itself.
#[must_use]
pub fn remote_of(
    ranges: &Ranges,
    nodes: &Known,
    me: &NodeName,
    own_blocks: &BTreeSet<Cidr>,
    pools: &PoolTable,
) -> (Vec<Peer>, Vec<RemoteRange>) {
    let mut peers = Vec::with_capacity(nodes.rows.len());
    let mut by_name: HashMap<&NodeName, u32> = HashMap::with_capacity(nodes.rows.len());
    let told: BTreeMap<&NodeId, Ipv6Addr> = ranges
        .ipv6
        .iter()
        .filter_map(|(place, ipv6)| Some((ranges.nodes.get(usize::try_from(*place).ok()?)?, *ipv6)))
        .collect();
    for (name, row) in nodes.rows.iter().filter(|(name, _)| *name != me) {
        by_name.insert(name, u32::try_from(peers.len()).unwrap_or(u32::MAX));
        let told = || told.get(&NodeId { name: name.clone(), uid: row.uid.clone() }).copied();
        let ipv6 = row.ipv6.or_else(told);
        peers.push(Peer { name: name.clone(), ipv4: row.ipv4, ipv6, inner_ipv4: None });
    }
    let peer_of: Vec<Option<u32>> =
        ranges.nodes.iter().map(|node| by_name.get(&node.name).copied()).collect();
    let mode_of =
        |(name, _): &(PoolName, String)| pools.by_name(name).map_or(IpipMode::Always, |pool| pool.ipip_mode);
    let modes: Vec<IpipMode> = ranges.pools.iter().map(mode_of).collect();
    let at = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
    let mut served: Vec<(Cidr, Option<RemoteRange>)> = Vec::with_capacity(ranges.served.len());
    for range in &ranges.served {
        let cidr = range.cidr;
        let mode = match cidr.family() {
            Family::V4 => modes.get(at(range.pool)).copied().unwrap_or(IpipMode::Always),
            Family::V6 => IpipMode::Never,
        };
        let peer = peer_of.get(at(range.node)).copied().flatten();
        let remote = peer.map(|peer| RemoteRange { cidr, peer, ipip_mode: mode });
        // A loan of a block of one address comes right after it, and is what counts.
        match served.last_mut().filter(|(last, _)| *last == cidr) {
            Some(last) => last.1 = remote,
            None => served.push((cidr, remote)),
        }
    }
    let told: BTreeSet<Cidr> = served.iter().map(|(cidr, _)| *cidr).collect();
    let remote = served.into_iter().filter(|(cidr, _)| !own_blocks.contains(cidr));
    let mut remote: Vec<RemoteRange> = remote.filter_map(|(_, remote)| remote).collect();
    for (name, row) in &nodes.rows {
        let Some(peer) = by_name.get(name).copied() else { continue };
        let delegated =
            row.pod_cidrs.iter().filter(|cidr| !told.contains(cidr) && !own_blocks.contains(cidr));
        remote.extend(delegated.filter_map(|cidr| {
            let mode = delegated_pool(cidr, pools)?.ipip_mode;
            let ipip_mode = if cidr.family() == Family::V4 { mode } else { IpipMode::Never };
            Some(RemoteRange { cidr: *cidr, peer, ipip_mode })
        }));
    }
    (peers, remote)
}

/// The pool by which a node's own range is tagged and routed: it covers the range and hands out nothing itself. Two who
/// give from one range would give one address twice.
#[must_use]
pub fn delegated_pool<'a>(cidr: &Cidr, pools: &'a PoolTable) -> Option<&'a Pool> {
    pools.by_address(cidr.network()).filter(|pool| pool.disabled && pool.cidr.covers(cidr))
}

#[cfg(test)]
mod tests {
    use ipam::PoolSpec;

    use super::super::blocks::Served;
    use super::super::nodes::NodeRow;
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn known(names: &[(&str, &str)]) -> Known {
        let row = |(node, ipv4): &(&str, &str)| {
            (
                name(node),
                NodeRow { uid: format!("uid-{node}"), ipv4: ipv4.parse().ok(), ..NodeRow::default() },
            )
        };
        Known { rows: names.iter().map(row).collect(), ..Known::default() }
    }

    fn pool(text: &str, cidr: &str, mode: IpipMode) -> Pool {
        let spec = PoolSpec::new(text.parse().unwrap(), cidr.parse().unwrap());
        Pool::new(PoolSpec { ipip_mode: mode, ..spec }).unwrap()
    }

    #[test]
    fn a_nodes_own_range_is_its_own_where_a_pool_covers_it_that_serves_nothing() {
        let spec = |text: &str, cidr: &str| PoolSpec::new(text.parse().unwrap(), cidr.parse().unwrap());
        let pools = PoolTable::new([
            Pool::new(PoolSpec { disabled: true, ipip_mode: IpipMode::Always, ..spec("d", "10.244.0.0/16") })
                .unwrap(),
            Pool::new(spec("serves", "10.245.0.0/16")).unwrap(),
        ]);
        let mut nodes = known(&[("a", "192.0.2.1"), ("me", "192.0.2.9")]);
        let cidrs = ["10.244.1.0/24", "10.245.1.0/24", "10.246.1.0/24", "10.244.0.0/15"];
        for row in nodes.rows.values_mut() {
            row.pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        }
        let (peers, remote) = remote_of(&Ranges::default(), &nodes, &name("me"), &BTreeSet::new(), &pools);
        assert_eq!(peers.len(), 1);
        let told: Vec<(String, u32, IpipMode)> =
            remote.iter().map(|range| (range.cidr.to_string(), range.peer, range.ipip_mode)).collect();
        assert_eq!(told, [("10.244.1.0/24".to_owned(), 0, IpipMode::Always)]);
    }

    #[test]
    fn a_nodes_ipv6_address_is_its_objects_or_what_it_says_itself() {
        let check = |of_object: Option<&str>, uid: &str, expected: Option<&str>| {
            let parse = |text: Option<&str>| text.map(|text| text.parse().unwrap());
            let mut nodes = known(&[("a", "192.0.2.1"), ("me", "192.0.2.9")]);
            nodes.rows.get_mut(&name("a")).unwrap().ipv6 = parse(of_object);
            let ranges = Ranges {
                nodes: vec![NodeId { name: name("a"), uid: uid.to_owned() }],
                ipv6: BTreeMap::from([(0, "fd00::7".parse().unwrap())]),
                ..Ranges::default()
            };
            let pools = PoolTable::new([]);
            let (peers, _) = remote_of(&ranges, &nodes, &name("me"), &BTreeSet::new(), &pools);
            assert_eq!(peers[0].ipv6, parse(expected));
        };
        check(None, "uid-a", Some("fd00::7"));
        check(Some("fd00::1"), "uid-a", Some("fd00::1"));
        // Of another node of that name.
        check(None, "uid-before", None);
    }

    #[test]
    fn every_range_goes_to_whoever_serves_it() {
        use IpipMode::{Always, CrossSubnet, Never};
        let pools = PoolTable::new([
            pool("plain", "10.0.0.0/24", Never),
            pool("wrapped", "10.1.0.0/24", CrossSubnet),
        ]);
        let check = |served: &[(&str, &str, &str)], own: &[&str], expected: &[(&str, &str, IpipMode)]| {
            let nodes = known(&[("a", "192.0.2.1"), ("b", "192.0.2.2"), ("me", "192.0.2.9")]);
            let all = ["a", "b", "me", "gone"];
            let all_pools = ["plain", "wrapped", "unknown"];
            let place = |list: &[&str], of: &str| {
                u32::try_from(list.iter().position(|other| *other == of).unwrap()).unwrap()
            };
            let ranges = Ranges {
                served: served
                    .iter()
                    .map(|(cidr, node, pool)| Served {
                        cidr: cidr.parse().unwrap(),
                        node: place(&all, node),
                        pool: place(&all_pools, pool),
                    })
                    .collect(),
                nodes: all.iter().map(|node| NodeId { name: name(node), uid: String::new() }).collect(),
                pools: all_pools.iter().map(|pool| (pool.parse().unwrap(), String::new())).collect(),
                ..Ranges::default()
            };
            let own = own.iter().map(|cidr| cidr.parse().unwrap()).collect();
            let (peers, remote) = remote_of(&ranges, &nodes, &name("me"), &own, &pools);
            assert_eq!(peers.len(), 2);
            let told: Vec<(String, &str, IpipMode)> = remote
                .iter()
                .map(|range| {
                    (range.cidr.to_string(), peers[range.peer as usize].name.as_str(), range.ipip_mode)
                })
                .collect();
            let expected: Vec<(String, &str, IpipMode)> =
                expected.iter().map(|(cidr, node, mode)| ((*cidr).to_owned(), *node, *mode)).collect();
            assert_eq!(told, expected);
        };
        check(
            &[("10.0.0.0/26", "a", "plain"), ("10.1.0.0/26", "b", "wrapped")],
            &[],
            &[("10.0.0.0/26", "a", Never), ("10.1.0.0/26", "b", CrossSubnet)],
        );
        // A loan out of another's block, one out of an own one, and one to this node.
        check(
            &[
                ("10.0.0.0/26", "a", "plain"),
                ("10.0.0.7/32", "b", "plain"),
                ("10.0.0.64/26", "me", "plain"),
                ("10.0.0.65/32", "b", "plain"),
                ("10.0.0.128/26", "b", "plain"),
                ("10.0.0.129/32", "me", "plain"),
            ],
            &["10.0.0.64/26"],
            &[
                ("10.0.0.0/26", "a", Never),
                ("10.0.0.7/32", "b", Never),
                ("10.0.0.65/32", "b", Never),
                ("10.0.0.128/26", "b", Never),
            ],
        );
        // A block of one address that is lent.
        check(
            &[("10.0.0.1/32", "a", "plain"), ("10.0.0.1/32", "b", "plain")],
            &[],
            &[("10.0.0.1/32", "b", Never)],
        );
        check(&[("10.0.0.1/32", "a", "plain"), ("10.0.0.1/32", "me", "plain")], &[], &[]);
        // Ours by the journal, whatever the copy still says; nodes that are gone; pools that are not known.
        check(&[("10.0.0.0/26", "a", "plain")], &["10.0.0.0/26"], &[]);
        check(&[("10.0.0.0/26", "gone", "plain")], &[], &[]);
        check(&[("10.2.0.0/26", "a", "unknown")], &[], &[("10.2.0.0/26", "a", Always)]);
        check(&[("fd00::/122", "a", "wrapped")], &[], &[("fd00::/122", "a", Never)]);
    }
}
