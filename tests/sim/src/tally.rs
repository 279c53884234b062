//! What became of blocks and loans: seen where it happens, in the store, whoever says what about it.
//!
//! Counted, so that a simulation that never gets to the interesting parts cannot pass for one that does; and judged,
//! where who may do what can be told from the change itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipam::protocol::{BlockObject, LoanState, NodeId, Nonce};
use tokio::time::Instant;

use crate::record::Violation;

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks created.
    pub claimed: u64,
    /// Blocks deleted by their owners.
    pub released: u64,
    /// Blocks given whole to another node by their owners.
    pub handed_over: u64,
    /// Blocks of nodes that were gone: deleted, or taken over with their loans.
    pub reclaimed: u64,
    /// Blocks of an earlier boot, taken on with a new nonce.
    pub adopted: u64,
    /// Blocks written anew under the new UID of the same machine.
    pub rehomed: u64,
    /// Loans granted.
    pub granted: u64,
    /// Loans refused.
    pub refused: u64,
    /// Loans given back by their borrowers.
    pub returned: u64,
    /// Loans of borrowers that were gone, ended by others.
    pub ended: u64,
}

impl Counts {
    /// Each with its name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("claimed", self.claimed),
            ("released", self.released),
            ("handed over", self.handed_over),
            ("reclaimed", self.reclaimed),
            ("adopted", self.adopted),
            ("re-homed", self.rehomed),
            ("loans granted", self.granted),
            ("loans refused", self.refused),
            ("loans returned", self.returned),
            ("loans ended for others", self.ended),
        ]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.claimed += other.claimed;
        self.released += other.released;
        self.handed_over += other.handed_over;
        self.reclaimed += other.reclaimed;
        self.adopted += other.adopted;
        self.rehomed += other.rehomed;
        self.granted += other.granted;
        self.refused += other.refused;
        self.returned += other.returned;
        self.ended += other.ended;
    }
}

/// Who changes something: a machine by its name, and which of the machines of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its name.
    pub name: String,
    /// How many machines had this name before it.
    pub life: u32,
}

/// See the module. One for each run.
#[derive(Debug)]
pub struct Tally {
    /// What was counted.
    pub counts: Counts,
    /// What was broken, and nobody has taken note of yet.
    pub broken: Vec<Violation>,
    gone_after: Duration,
    /// Since when Node objects are gone.
    gone_since: BTreeMap<NodeId, Instant>,
    /// Which machine of its name a Node object is of.
    lives: BTreeMap<NodeId, u32>,
}

impl Tally {
    /// Nothing has happened yet. `gone_after`: how long others have to wait before they take what a gone node has.
    #[must_use]
    pub fn new(gone_after: Duration) -> Self {
        let (gone_since, lives) = (BTreeMap::new(), BTreeMap::new());
        Self { counts: Counts::default(), broken: Vec::new(), gone_after, gone_since, lives }
    }

    /// There is a Node object of a machine.
    pub fn node_there(&mut self, node: NodeId, life: u32) {
        self.lives.insert(node, life);
    }

    /// A Node object is gone from here on.
    pub fn node_gone(&mut self, node: NodeId) {
        self.gone_since.insert(node, Instant::now());
    }

    /// Whether a node has been gone for the whole grace. One without UID, of an agent that started while its Node
    /// object was gone, went with that.
    fn is_gone(&self, node: &NodeId) -> bool {
        self.gone_since.iter().any(|(gone, since)| {
            let same = gone == node || node.uid.is_empty() && gone.name == node.name;
            same && since.elapsed() >= self.gone_after
        })
    }

    /// Whether a machine is the one behind a node.
    fn is_same(&self, actor: &Actor, node: &NodeId) -> bool {
        node.name.as_str() == actor.name && self.lives.get(node).is_none_or(|life| *life == actor.life)
    }

    /// A block's object was changed by a machine.
    pub fn note(&mut self, actor: &Actor, before: Option<&BlockObject>, after: Option<&BlockObject>) {
        self.note_owner(actor, before, after);
        self.note_loans(actor, before, after);
    }

    fn note_owner(&mut self, actor: &Actor, before: Option<&BlockObject>, after: Option<&BlockObject>) {
        let Some(before) = before else {
            self.counts.claimed += 1;
            return;
        };
        let by_owner = self.is_same(actor, &before.owner);
        match after {
            Some(after) if before.owner == after.owner => {
                self.counts.adopted += u64::from(before.nonce != after.nonce);
            }
            Some(after) if before.owner.name == after.owner.name && before.nonce == after.nonce => {
                self.counts.rehomed += 1;
            }
            Some(after) if by_owner && before.owner.name != after.owner.name => self.counts.handed_over += 1,
            None if by_owner => self.counts.released += 1,
            _ => self.note_taken(actor, before),
        }
    }

    /// Somebody took what another has, or had.
    fn note_taken(&mut self, actor: &Actor, before: &BlockObject) {
        self.counts.reclaimed += 1;
        if !self.is_gone(&before.owner) {
            let what = format!("{} took block {} of {}", actor.name, before.cidr, before.owner);
            let rule = "what a node has is taken only when it has been gone for the grace";
            self.broken.push(Violation { rule, what });
        }
    }

    fn note_loans(&mut self, actor: &Actor, before: Option<&BlockObject>, after: Option<&BlockObject>) {
        let granted = |object: Option<&BlockObject>| -> BTreeMap<Nonce, NodeId> {
            let loans = object.into_iter().flat_map(|object| &object.loans);
            loans
                .filter(|loan| matches!(loan.state, LoanState::Granted { .. }))
                .map(|loan| (loan.nonce, loan.borrower.clone()))
                .collect()
        };
        let refused = |object: Option<&BlockObject>| -> BTreeSet<Nonce> {
            let loans = object.into_iter().flat_map(|object| &object.loans);
            loans
                .filter(|loan| matches!(loan.state, LoanState::Refused { .. }))
                .map(|loan| loan.nonce)
                .collect()
        };
        let (lent, lends) = (granted(before), granted(after));
        self.counts.granted += lends.keys().filter(|loan| !lent.contains_key(loan)).count() as u64;
        self.counts.refused += refused(after).difference(&refused(before)).count() as u64;
        for (loan, borrower) in lent.iter().filter(|(loan, _)| !lends.contains_key(loan)) {
            if self.is_same(actor, borrower) {
                self.counts.returned += 1;
                continue;
            }
            self.counts.ended += 1;
            if !self.is_gone(borrower) {
                let block = before.map(|before| before.cidr.to_string()).unwrap_or_default();
                let actor = &actor.name;
                let what = format!("{actor} ended loan {loan} of {borrower} in block {block}");
                let rule = "a loan is ended by its borrower, or when that has been gone for the grace";
                self.broken.push(Violation { rule, what });
            }
        }
    }
}
