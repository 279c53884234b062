//! All holders: against each other, against what entitles their node, and against who is really there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{Cidr, Handle, NodeName};

use super::objects::{Objects, lends};
use super::{Found, Holder, Member, Snapshot, Violation};
use crate::protocol::{BorrowPhase, Phase};

pub(super) fn check_holders(snapshot: &Snapshot<'_>, objects: &Objects<'_>, found: &mut Found) {
    let mut holders: BTreeMap<IpAddr, (&NodeName, &Handle)> = BTreeMap::new();
    let held = snapshot
        .members
        .iter()
        .flat_map(|member| member.ipam.held().map(|(handle, address)| (address, member.name, handle)));
    let live = snapshot.live.iter().flatten().map(|live| (live.address, live.node, live.handle));
    for (address, node, handle) in held.chain(live) {
        let &mut first = holders.entry(address).or_insert((node, handle));
        if first != (node, handle) {
            let of =
                |(node, handle): (&NodeName, &Handle)| Holder { node: node.clone(), handle: handle.clone() };
            let violation =
                Violation::DuplicateHolder { address, holder: of(first), other: of((node, handle)) };
            // Ledger and kernel may both say so.
            if !found.violations.contains(&violation) {
                found.add(violation);
            }
        }
    }
    for member in &snapshot.members {
        for (handle, address) in member.ipam.held() {
            if !is_entitled(objects, member, address) {
                found.add(Violation::HolderUnfounded { address, holder: member.holder(handle) });
            }
        }
    }
    check_live(snapshot, found);
}

/// Whether a node may have given an address away: by a block whose object agrees, or by a loan.
fn is_entitled(objects: &Objects<'_>, member: &Member<'_>, address: IpAddr) -> bool {
    let Some(block) = member.ipam.block_around(address).map(crate::block::Block::cidr) else { return false };
    let Some(keeper) = member.keeper else {
        return objects.get(&block).is_some_and(|object| object.owner.name == *member.name);
    };
    if let Some(tenure) = keeper.tenure(&block) {
        let agrees = objects
            .get(&block)
            .is_some_and(|object| object.nonce == tenure.nonce && object.owner.name == *member.name);
        return agrees && tenure.phase != Phase::Claiming;
    }
    keeper.borrows().any(|(loan, borrow)| {
        let holds = matches!(borrow.phase, BorrowPhase::Holding { address: at } if Cidr::host(at) == block);
        holds && objects.get(&borrow.block).is_some_and(|object| lends(object, loan, address, member.name))
    })
}

fn check_live(snapshot: &Snapshot<'_>, found: &mut Found) {
    let Some(live) = &snapshot.live else { return };
    let there: BTreeSet<(&NodeName, &Handle, IpAddr)> =
        live.iter().map(|live| (live.node, live.handle, live.address)).collect();
    for &(node, handle, address) in &there {
        let mut of_node = snapshot.members.iter().filter(|member| member.name == node).peekable();
        if of_node.peek().is_none() {
            continue;
        }
        let by_ledger: Vec<Option<&Handle>> = of_node.map(|member| member.ipam.holder_of(address)).collect();
        if !by_ledger.contains(&Some(handle)) {
            let by_ledger = by_ledger.into_iter().flatten().next().cloned();
            let holder = Holder { node: node.clone(), handle: handle.clone() };
            found.add(Violation::LiveUnknown { address, holder, by_ledger });
        }
    }
    for member in &snapshot.members {
        for (handle, address) in member.ipam.held() {
            if !there.contains(&(member.name, handle, address)) {
                found.add(Violation::HeldNotLive { address, holder: member.holder(handle) });
            }
        }
    }
}
