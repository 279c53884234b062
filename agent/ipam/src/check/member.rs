//! One node by itself, and against the objects.

use model::Cidr;

use super::objects::{Objects, is_admitted, lends};
use super::{Found, Member, Snapshot, Violation};
use crate::block::{Block, OrdinalState};
use crate::protocol::{BlockObject, BorrowPhase, Keeper, LoanState, Phase, Tenure};

pub(super) fn check_member(
    snapshot: &Snapshot<'_>,
    objects: &Objects<'_>,
    member: &Member<'_>,
    found: &mut Found,
) {
    check_counts(member, found);
    let Some(keeper) = member.keeper else {
        // Of such a node no more is known than which blocks it serves from.
        for block in member.ipam.blocks().filter(|block| block.is_serving()) {
            let object = objects.get(&block.cidr());
            check_served(
                snapshot,
                member,
                &block.cidr(),
                object,
                |object| object.owner.name == *member.name,
                found,
            );
        }
        return;
    };
    for (block, tenure) in keeper.tenures() {
        check_tenure(snapshot, objects, member, (block, tenure), found);
    }
    check_borrows(objects, member, keeper, found);
    check_tracked(member, keeper, found);
    for object in objects.iter().filter(|object| object.owner == *keeper.me()) {
        if keeper.tenure(&object.cidr).is_none() {
            found.add(Violation::BlockForgotten { node: member.name.clone(), block: object.cidr });
        }
    }
    for object in objects.iter() {
        for loan in object.loans.iter().filter(|loan| loan.borrower == *keeper.me()) {
            if let LoanState::Granted { address } = loan.state
                && !keeper.borrows().any(|(nonce, _)| nonce == loan.nonce)
            {
                let (node, loan) = (member.name.clone(), loan.nonce);
                found.add(Violation::BorrowForgotten { node, address, loan });
            }
        }
    }
}

/// The states of each block and pool add up, and handles and blocks name each other.
fn check_counts(member: &Member<'_>, found: &mut Found) {
    let node = member.name;
    let mut adds_up = true;
    for block in member.ipam.blocks() {
        for fault in block.faults() {
            adds_up = false;
            found.add(match fault.states {
                [Some(one), Some(other)] => Violation::OrdinalTwice {
                    node: node.clone(),
                    address: fault.address,
                    states: [one, other],
                },
                _ => Violation::OrdinalLost { node: node.clone(), address: fault.address },
            });
        }
        for (address, holder) in block.holders() {
            let listed = member.ipam.held_addresses(holder).any(|held| held == address);
            if !listed {
                let (by_handle, by_block) = (None, Some(holder.clone()));
                found.add(Violation::HolderMismatch { node: node.clone(), address, by_handle, by_block });
            }
        }
    }
    for (handle, address) in member.ipam.held() {
        let by_block = member.ipam.holder_of(address);
        if by_block != Some(handle) {
            let (by_handle, by_block) = (Some(handle.clone()), by_block.cloned());
            found.add(Violation::HolderMismatch { node: node.clone(), address, by_handle, by_block });
        }
    }
    let Some((view, now)) = member.view.as_ref().filter(|_| adds_up) else { return };
    for pool in view.pools.iter() {
        let counted = member.ipam.pool_usage(view, pool, *now).usage;
        let size = pool.cidr.size();
        if !counted.adds_up() || counted.size != size {
            let (pool, usage) = (pool.name.clone(), counted.to_string());
            found.add(Violation::PoolUsage { node: node.clone(), pool, usage, size });
        }
    }
}

/// A block that hands out addresses: whose object it has.
fn check_served(
    snapshot: &Snapshot<'_>,
    member: &Member<'_>,
    block: &Cidr,
    object: Option<&BlockObject>,
    is_ours: impl Fn(&BlockObject) -> bool,
    found: &mut Found,
) {
    let (node, block) = (member.name.clone(), *block);
    match object {
        None => found.add(Violation::ServesAbsent { node, block }),
        Some(object) if !is_ours(object) => {
            found.add(Violation::ServesForeign { node, block, owner: object.owner.clone() });
        }
        Some(object) => {
            if snapshot.registry.is_some_and(|registry| !is_admitted(registry, object)) {
                found.add(Violation::ServesUnadmitted { node, block, pool: object.pool.clone() });
            }
        }
    }
}

fn check_tenure(
    snapshot: &Snapshot<'_>,
    objects: &Objects<'_>,
    member: &Member<'_>,
    (cidr, tenure): (&Cidr, &Tenure),
    found: &mut Found,
) {
    let node = || member.name.clone();
    let object = objects.get(cidr);
    let is_ours = |object: &BlockObject| object.nonce == tenure.nonce && object.owner.name == *member.name;
    let ours = object.filter(|object| is_ours(object));
    let serves = member.ipam.block(cidr).is_some_and(Block::is_serving);
    if tenure.phase != Phase::Owned {
        found.add(Violation::ClaimHalfWay { node: node(), block: *cidr });
    } else if serves {
        check_served(snapshot, member, cidr, object, is_ours, found);
    } else if ours.is_none() {
        found.add(Violation::BlockTaken { node: node(), block: *cidr });
    }
    if serves && tenure.phase != Phase::Owned {
        found.add(Violation::ServesUnclaimed { node: node(), block: *cidr });
    }
    if let Some(object) = ours
        && (object.pool != tenure.pool || object.pool_uid != tenure.pool_uid)
    {
        let (stored, journalled) = (object.pool.clone(), tenure.pool.clone());
        found.add(Violation::PoolMismatch { node: node(), block: *cidr, stored, journalled });
    }
    check_lent(member, (cidr, tenure), found);
    if let Some(object) = ours {
        check_granted(member, object, tenure, serves, found);
    }
}

/// What the journal says is lent, the block says too.
fn check_lent(member: &Member<'_>, (cidr, tenure): (&Cidr, &Tenure), found: &mut Found) {
    let Some(block) = member.ipam.block(cidr) else { return };
    let matching = tenure.lent.values().filter(|lent| {
        let state = block.state(lent.address, model::BootTime::default());
        matches!(state, Some(OrdinalState::Lent(to)) if *to == lent.borrower.name)
    });
    let (recorded, lent) = (tenure.lent.len(), block.lent().count());
    if matching.count() != recorded || recorded != lent {
        found.add(Violation::LentMismatch { node: member.name.clone(), block: *cidr, recorded, lent });
    }
}

/// What our own object lends, the journal knew before; and what the journal lends, the object does.
fn check_granted(
    member: &Member<'_>,
    object: &BlockObject,
    tenure: &Tenure,
    serves: bool,
    found: &mut Found,
) {
    let node = || member.name.clone();
    for loan in &object.loans {
        let LoanState::Granted { address } = loan.state else { continue };
        // One of its own is left from before the block was its owner's, and melts into it.
        if loan.borrower.name == *member.name {
            continue;
        }
        let known = tenure.lent.get(&loan.nonce).is_some_and(|lent| lent.address == address);
        let (borrower, nonce) = (loan.borrower.clone(), loan.nonce);
        if let Some(holder) = member.ipam.holder_of(address) {
            let holder = member.holder(holder);
            found.add(Violation::LentHeld { address, borrower, holder });
        } else if serves && !known {
            found.add(Violation::LentUnknown { node: node(), address, borrower, loan: nonce });
        }
    }
    for (&loan, lent) in &tenure.lent {
        if !lends(object, loan, lent.address, &lent.borrower.name) {
            let (address, borrower) = (lent.address, lent.borrower.clone());
            found.add(Violation::LentStale { node: node(), address, borrower, loan });
        }
    }
}

fn check_borrows(objects: &Objects<'_>, member: &Member<'_>, keeper: &Keeper, found: &mut Found) {
    for (loan, borrow) in keeper.borrows() {
        let node = member.name.clone();
        let BorrowPhase::Holding { address } = borrow.phase else {
            found.add(Violation::BorrowHalfWay { node, block: borrow.block, loan });
            continue;
        };
        let lent = objects.get(&borrow.block).is_some_and(|object| lends(object, loan, address, member.name));
        if !lent {
            found.add(Violation::BorrowStale { node, address, loan });
        }
    }
}

/// Every block of the allocator is an owned one or a borrowed address, and the other way round.
fn check_tracked(member: &Member<'_>, keeper: &Keeper, found: &mut Found) {
    let untracked = |block: Cidr| Violation::BlockUntracked { node: member.name.clone(), block };
    for block in member.ipam.blocks() {
        let cidr = block.cidr();
        let owned = keeper.tenure(&cidr).is_some_and(|tenure| tenure.phase != Phase::Claiming);
        let borrowed = || {
            cidr.size() == 1 && keeper.borrows().any(|(_, borrow)| borrow.address() == Some(cidr.network()))
        };
        if !owned && !borrowed() {
            found.add(untracked(cidr));
        }
    }
    let owned =
        keeper.tenures().filter(|(_, tenure)| tenure.phase != Phase::Claiming).map(|(block, _)| *block);
    let borrowed = keeper.borrows().filter_map(|(_, borrow)| borrow.address()).map(Cidr::host);
    for block in owned.chain(borrowed).filter(|block| member.ipam.block(block).is_none()) {
        found.add(untracked(block));
    }
}
