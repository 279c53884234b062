//! Pools: what the programs know of them, and the nftables table: pure.

use std::collections::BTreeSet;

use ipnet::IpNet;
use model::{Cidr, Family, MarkLayout, TagId};

use super::{Actual, Group, Plan};
use crate::desired::{DesiredState, Pool};
use crate::object::{InnerSource, NatState, NatTable, PoolEntry};
use crate::op::Op;

/// The table and the pools that are new or changed.
pub(super) fn plan_pools(desired: &DesiredState, actual: &Actual, marks: MarkLayout) -> Vec<Op> {
    let mut ops = Vec::new();
    let inner = inner_source(desired);
    if desired.pools.iter().any(|pool| pool.nat_outgoing) || inner.is_some() {
        let ranges: Vec<Cidr> = if desired.sweep {
            desired.pools.iter().map(|pool| pool.cidr).collect()
        } else {
            desired.pools.iter().map(|pool| pool.cidr).chain(actual.programs.pools.keys().copied()).collect()
        };
        let table = NatTable { nat_bit: marks.nat_bit(), no_nat: aggregate(&ranges), inner };
        if actual.nat != NatState::Intact(table.clone()) {
            ops.push(Op::ReplaceNat(table));
        }
    }
    for pool in &desired.pools {
        let entry = PoolEntry { tag: pool.tag, nat_outgoing: pool.nat_outgoing, dscp: pool.dscp };
        if actual.programs.pools.get(&pool.cidr) != Some(&entry) {
            ops.push(Op::SetPool { cidr: pool.cidr, entry });
        }
    }
    ops
}

/// With which source this node's own packets reach other nodes' pods: those of encapsulated pools, whose ranges are
/// closed.
fn inner_source(desired: &DesiredState) -> Option<InnerSource> {
    let address = desired.inner_ipv4.filter(|_| desired.underlay_ipv4.is_some())?;
    let is_ipv4 = |range: &&Cidr| range.family() == Family::V4;
    let ranges: Vec<Cidr> = desired.closed_ranges.iter().filter(is_ipv4).copied().collect();
    (!ranges.is_empty()).then(|| InnerSource { address, ranges: aggregate(&ranges) })
}

/// What is stale, and the table if nobody needs it. `desired` is complete.
pub(super) fn plan_stale(desired: &DesiredState, actual: &Actual) -> Vec<Group> {
    let mut groups = Vec::new();
    let wanted_pools: BTreeSet<Cidr> = desired.pools.iter().map(|pool| pool.cidr).collect();
    let stale = actual.programs.pools.keys().filter(|cidr| !wanted_pools.contains(cidr));
    groups.push(Group::Each(stale.map(|cidr| Op::RemovePool { cidr: *cidr }).collect()));
    let wanted_tags: BTreeSet<TagId> = desired.pools.iter().map(|pool| pool.tag).collect();
    let stale = actual.programs.counted.difference(&wanted_tags);
    groups.push(Group::Each(stale.map(|tag| Op::ForgetTag(*tag)).collect()));
    let is_needed = desired.pools.iter().any(|pool| pool.nat_outgoing) || inner_source(desired).is_some();
    if actual.nat != NatState::Absent && !is_needed {
        groups.push(Group::Chain(vec![Op::RemoveNat]));
    }
    groups
}

/// Ranges without overlap, neighbours joined, in order: the form in which sets are compared.
pub(crate) fn aggregate(ranges: &[Cidr]) -> Vec<Cidr> {
    let nets: Vec<IpNet> = ranges.iter().map(Cidr::as_ipnet).collect();
    let mut joined: Vec<Cidr> = IpNet::aggregate(&nets).into_iter().map(Cidr::from).collect();
    joined.sort();
    joined
}

/// The pools that a plan which is still to be carried out leaves as they are: their packets are treated as desired
/// already.
pub(crate) fn ready_pools(pools: &[Pool], left: &Plan) -> Vec<Pool> {
    let ops = || left.ops();
    if ops().any(|op| matches!(op, Op::SetMarks(_))) {
        return Vec::new();
    }
    let nat_is_left = ops().any(|op| matches!(op, Op::ReplaceNat(_)));
    let is_left = |pool: &Pool| ops().any(|op| matches!(op, Op::SetPool { cidr, .. } if *cidr == pool.cidr));
    pools.iter().copied().filter(|pool| !(is_left(pool) || pool.nat_outgoing && nat_is_left)).collect()
}
