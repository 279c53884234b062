//! Objects and the registry by themselves.

use std::net::IpAddr;

use model::Cidr;

use super::{Found, Snapshot, Violation};
use crate::protocol::{BlockObject, LoanState};
use crate::registry::Registry;

/// Objects of blocks in order of range.
pub(super) struct Objects<'a> {
    sorted: Vec<(Cidr, &'a BlockObject)>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(snapshot: &Snapshot<'a>) -> Self {
        let mut sorted = snapshot.blocks.clone();
        sorted.sort_by_key(|(name, _)| *name);
        Self { sorted }
    }

    /// The object of this range.
    pub(super) fn get(&self, block: &Cidr) -> Option<&'a BlockObject> {
        let index = self.sorted.binary_search_by_key(block, |(name, _)| *name).ok()?;
        self.sorted.get(index).map(|(_, object)| *object)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'a BlockObject> + '_ {
        self.sorted.iter().map(|(_, object)| *object)
    }
}

pub(super) fn check_objects(snapshot: &Snapshot<'_>, objects: &Objects<'_>, found: &mut Found) {
    // Ranges nest or are disjoint, so in order those around the present one are a stack.
    let mut around: Vec<Cidr> = Vec::new();
    for &(name, object) in &objects.sorted {
        let block = object.cidr;
        if name != block {
            found.add(Violation::BlockName { name, block });
        }
        while around.last().is_some_and(|outer| !outer.overlaps(&name)) {
            around.pop();
        }
        if let Some(&other) = around.last() {
            found.add(Violation::BlockOverlap { block: name, other });
        }
        around.push(name);
        if let Some(registry) = snapshot.registry {
            check_pool(registry, object, found);
        }
        check_loans(object, found);
        check_gone(snapshot, object, found);
    }
}

/// Whether the registry has the pool of a block.
pub(super) fn is_admitted(registry: &Registry, object: &BlockObject) -> bool {
    registry.entry(&object.pool).is_some_and(|entry| entry.uid == object.pool_uid)
}

fn check_pool(registry: &Registry, object: &BlockObject, found: &mut Found) {
    let BlockObject { cidr: block, pool, pool_uid, .. } = object;
    match registry.entry(pool).filter(|entry| entry.uid == *pool_uid) {
        None => {
            found.add(Violation::BlockPool { block: *block, pool: pool.clone(), uid: pool_uid.clone() });
        }
        Some(entry) => {
            let block_len = entry.block_size.prefix_len();
            if !entry.cidr.covers(block) || block.prefix_len() != block_len {
                let (block, pool, range) = (*block, pool.clone(), entry.cidr);
                found.add(Violation::BlockRange { block, pool, range, block_len });
            }
        }
    }
}

fn check_loans(object: &BlockObject, found: &mut Found) {
    let block = object.cidr;
    for (index, loan) in object.loans.iter().enumerate() {
        let earlier = object.loans.get(..index).unwrap_or_default();
        if earlier.iter().any(|other| other.nonce == loan.nonce) {
            found.add(Violation::LoanNonce { block, loan: loan.nonce });
        }
        let borrower = loan.borrower.clone();
        let LoanState::Granted { address } = loan.state else {
            found.add(Violation::LoanHalfWay { block, borrower, loan: loan.nonce });
            continue;
        };
        if !block.contains(address) {
            found.add(Violation::LoanOutside { block, address, borrower: borrower.clone() });
        }
        let same = |state: &LoanState| matches!(state, LoanState::Granted { address: at } if *at == address);
        if let Some(other) = earlier.iter().find(|other| same(&other.state)) {
            let other = other.borrower.clone();
            found.add(Violation::LoanTwice { block, address, borrower: other, other: borrower.clone() });
        }
        if borrower == object.owner {
            found.add(Violation::LoanToOwner { block, address, owner: borrower });
        }
    }
}

fn check_gone(snapshot: &Snapshot<'_>, object: &BlockObject, found: &mut Found) {
    let Some(nodes) = snapshot.nodes else { return };
    let block = object.cidr;
    if !nodes.contains(&object.owner) {
        found.add(Violation::OwnerGone { block, owner: object.owner.clone() });
    }
    for loan in object.loans.iter().filter(|loan| !nodes.contains(&loan.borrower)) {
        found.add(Violation::BorrowerGone { block, borrower: loan.borrower.clone() });
    }
}

pub(super) fn check_registry(snapshot: &Snapshot<'_>, found: &mut Found) {
    let Some(registry) = snapshot.registry else { return };
    let mut entries: Vec<_> = registry.entries().collect();
    entries.sort_by_key(|entry| entry.cidr);
    let mut around: Vec<&crate::registry::RegistryEntry> = Vec::new();
    for entry in entries {
        while around.last().is_some_and(|outer| !outer.cidr.overlaps(&entry.cidr)) {
            around.pop();
        }
        if let Some(outer) = around.last() {
            found.add(Violation::RegistryOverlap {
                pool: outer.name.clone(),
                range: outer.cidr,
                other: entry.name.clone(),
                other_range: entry.cidr,
            });
        }
        around.push(entry);
    }
    for pool in snapshot.pools.into_iter().flat_map(crate::pool::PoolTable::iter) {
        let entry = registry.entry(&pool.name).filter(|entry| entry.uid == pool.uid);
        if let (Some(tag), Some(entry)) = (pool.tag, entry)
            && tag != entry.tag
        {
            let (tag, admitted) = (tag.get(), entry.tag.get());
            found.add(Violation::PoolTag { pool: pool.name.clone(), tag, admitted });
        }
    }
}

/// Whether an object lends this address by this nonce to a node of this name.
pub(super) fn lends(
    object: &BlockObject,
    loan: crate::protocol::Nonce,
    address: IpAddr,
    to: &model::NodeName,
) -> bool {
    object.loan(loan).is_some_and(|loan| {
        loan.borrower.name == *to && matches!(loan.state, LoanState::Granted { address: at } if at == address)
    })
}
