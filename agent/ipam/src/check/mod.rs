//! Whether a state of the cluster is one that may be: every invariant of allocation, over one snapshot.
//!
//! There is one function, [`check`], for the model checker, the simulation, the tests and `poolwardctl ipam check`.
//! It borrows what it looks at and allocates next to nothing where nothing is wrong. What is not known is left out
//! of the [`Snapshot`], and what depends on it is not checked.
//!
//! Two strengths: what holds [`Always`](Strength::Always), between any two steps; and what holds
//! [`AtRest`](Strength::AtRest), when nothing is under way any more.
//!
//! Some invariants need no check because no value can break them: a [`Registry`] has unique names and tag ids, none
//! of them retired ([`Registry::from_parts`] refuses others, and [`Snapshot::unreadable`] brings that here); a
//! handle holds at most one address of a family.
//!
//! Not here: who repairs what is wrong. [`Violation::remedy`] says it to people.

mod holders;
mod member;
mod objects;
#[cfg(test)]
mod tests;
mod violation;

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::{BootTime, Cidr, Handle, NodeName};

use crate::allocator::{ClusterView, NodeIpam};
use crate::pool::PoolTable;
use crate::protocol::{BlockObject, Keeper, NodeId};
use crate::registry::Registry;

pub use violation::{Holder, Violation};

/// How much must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strength {
    /// Between any two steps.
    Always,
    /// When nothing is under way: everybody runs, has looked at everything, and every grace is over.
    AtRest,
}

/// What is known of the cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot<'a> {
    /// Objects of blocks: the range that each is named by, and what it says.
    pub blocks: Vec<(Cidr, &'a BlockObject)>,
    /// The registry of pools.
    pub registry: Option<&'a Registry>,
    /// Pools as they serve.
    pub pools: Option<&'a PoolTable>,
    /// Every node there is; `None` where there are no Node objects.
    pub nodes: Option<&'a BTreeSet<NodeId>>,
    /// The nodes whose inside is known.
    pub members: Vec<Member<'a>>,
    /// Who really uses which address on those nodes, all of it, by the kernel or the simulation.
    pub live: Option<Vec<LiveHolder<'a>>>,
    /// What could not be read: what it is, and why. It stands for whatever is missing above.
    pub unreadable: Vec<(String, String)>,
}

/// A node whose inside is known.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// Its addresses.
    pub ipam: &'a NodeIpam,
    /// Its part in the protocol, whose addresses these are.
    pub keeper: Option<&'a Keeper>,
    /// What it knows of the cluster, and its time: for the counts of its pools.
    pub view: Option<(ClusterView<'a>, BootTime)>,
}

impl<'a> Member<'a> {
    /// A node by its part in the protocol.
    #[must_use]
    pub fn of(keeper: &'a Keeper) -> Self {
        Self { name: &keeper.me().name, ipam: keeper.ipam(), keeper: Some(keeper), view: None }
    }

    fn holder(&self, handle: &Handle) -> Holder {
        Holder { node: self.name.clone(), handle: handle.clone() }
    }
}

/// Somebody who really uses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveHolder<'a> {
    /// The address.
    pub address: IpAddr,
    /// By whom.
    pub handle: &'a Handle,
    /// Where.
    pub node: &'a NodeName,
}

/// Everything that is wrong with a snapshot.
///
/// 1. Objects by themselves: names, pools, overlaps, loans, gone nodes; and the registry by itself.
/// 2. Each known node by itself: its blocks and handles, its counts, what it has begun.
/// 3. Each known node against the objects: what it serves from, what it lends and borrows.
/// 4. All holders against each other, against what entitles their node, and against who is really there.
#[must_use]
pub fn check(snapshot: &Snapshot<'_>, strength: Strength) -> Vec<Violation> {
    let mut found = Found { strength, violations: Vec::new() };
    let objects = objects::Objects::new(snapshot);
    for (what, problem) in &snapshot.unreadable {
        found.add(Violation::Unreadable { what: what.clone(), problem: problem.clone() });
    }
    objects::check_objects(snapshot, &objects, &mut found);
    objects::check_registry(snapshot, &mut found);
    for member in &snapshot.members {
        member::check_member(snapshot, &objects, member, &mut found);
    }
    holders::check_holders(snapshot, &objects, &mut found);
    found.violations
}

/// What was found, of the strength asked for.
struct Found {
    strength: Strength,
    violations: Vec<Violation>,
}

impl Found {
    fn add(&mut self, violation: Violation) {
        if violation.strength() <= self.strength {
            self.violations.push(violation);
        }
    }
}
