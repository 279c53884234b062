//! What can be wrong: each violation with its data, what it says, which rule it breaks and what to do about it.

use std::fmt;
use std::net::IpAddr;

use model::{Cidr, Handle, NodeName, PoolName};

use super::Strength;
use crate::protocol::{NodeId, Nonce};

/// Somebody who has an address: a handle on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The node it runs on.
    pub node: NodeName,
    /// Its handle.
    pub handle: Handle,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on node {}", self.handle, self.node)
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields are named by their types; the variants say what they mean")]
pub enum Violation {
    /// Something stored, or the alias of an interface, cannot be read; so it could not be checked.
    Unreadable { what: String, problem: String },
    /// A block stands under the name of another range.
    BlockName { name: Cidr, block: Cidr },
    /// Two blocks share addresses.
    BlockOverlap { block: Cidr, other: Cidr },
    /// A block's pool is not, or is no longer, admitted.
    BlockPool { block: Cidr, pool: PoolName, uid: String },
    /// A block is none of those that its pool is cut into.
    BlockRange { block: Cidr, pool: PoolName, range: Cidr, block_len: u8 },
    /// The owner of a block is gone.
    OwnerGone { block: Cidr, owner: NodeId },
    /// The borrower of an address is gone.
    BorrowerGone { block: Cidr, borrower: NodeId },
    /// An address is lent out of a block that it is not in.
    LoanOutside { block: Cidr, address: IpAddr, borrower: NodeId },
    /// An address is lent twice.
    LoanTwice { block: Cidr, address: IpAddr, borrower: NodeId, other: NodeId },
    /// Two loans of a block go by one nonce.
    LoanNonce { block: Cidr, loan: Nonce },
    /// A block lends an address to its own owner.
    LoanToOwner { block: Cidr, address: IpAddr, owner: NodeId },
    /// A loan was asked for and not answered, or refused and not taken out again.
    LoanHalfWay { block: Cidr, borrower: NodeId, loan: Nonce },
    /// Two admitted pools share addresses.
    RegistryOverlap { pool: PoolName, range: Cidr, other: PoolName, other_range: Cidr },
    /// A pool serves with a tag id, a range or a block size that it was not admitted with.
    PoolTag { pool: PoolName, tag: u16, admitted: u16 },
    /// An address has two holders.
    DuplicateHolder { address: IpAddr, holder: Holder, other: Holder },
    /// Somebody holds an address that its node neither owns a block of nor has borrowed.
    HolderUnfounded { address: IpAddr, holder: Holder },
    /// The list of holders and the blocks do not say the same.
    HolderMismatch { node: NodeName, address: IpAddr, by_handle: Option<Handle>, by_block: Option<Handle> },
    /// An address of a block is in two states at once.
    OrdinalTwice { node: NodeName, address: IpAddr, states: [&'static str; 2] },
    /// An address of a block is in no state: nobody has it, and nobody will get it.
    OrdinalLost { node: NodeName, address: IpAddr },
    /// The states of a pool's addresses do not add up to its size.
    PoolUsage { node: NodeName, pool: PoolName, usage: String, size: u128 },
    /// A node serves from a block whose object is another's.
    ServesForeign { node: NodeName, block: Cidr, owner: NodeId },
    /// A node serves from a block that has no object.
    ServesAbsent { node: NodeName, block: Cidr },
    /// A node serves from a block that its journal does not say it owns.
    ServesUnclaimed { node: NodeName, block: Cidr },
    /// A node serves from a block whose pool is not admitted.
    ServesUnadmitted { node: NodeName, block: Cidr, pool: PoolName },
    /// The allocator has a block that the journal knows neither as owned nor as borrowed, or the other way round.
    BlockUntracked { node: NodeName, block: Cidr },
    /// Object and journal name different pools for one claim of a block.
    PoolMismatch { node: NodeName, block: Cidr, stored: PoolName, journalled: PoolName },
    /// An address is lent by the object, and its owner serves from the block without knowing of it.
    LentUnknown { node: NodeName, address: IpAddr, borrower: NodeId, loan: Nonce },
    /// An address is lent by the object, and held on its owner.
    LentHeld { address: IpAddr, borrower: NodeId, holder: Holder },
    /// The owner's record of a loan and its block do not say the same.
    LentMismatch { node: NodeName, block: Cidr, recorded: usize, lent: usize },
    /// An address is lent by its owner's journal and not by the object.
    LentStale { node: NodeName, address: IpAddr, borrower: NodeId, loan: Nonce },
    /// A claim or release was begun and not finished.
    ClaimHalfWay { node: NodeName, block: Cidr },
    /// A block is a node's by its object and the node's journal does not know it.
    BlockForgotten { node: NodeName, block: Cidr },
    /// A block is a node's by its journal, and its object says otherwise.
    BlockTaken { node: NodeName, block: Cidr },
    /// A request for a loan, or its return, was begun and not finished.
    BorrowHalfWay { node: NodeName, block: Cidr, loan: Nonce },
    /// An address is borrowed by a node's journal, and the object does not lend it.
    BorrowStale { node: NodeName, address: IpAddr, loan: Nonce },
    /// An address is lent by the object, and the borrower's journal does not know it.
    BorrowForgotten { node: NodeName, address: IpAddr, loan: Nonce },
    /// An address is in use on a node, and not by whom the node's ledger says, if anybody.
    LiveUnknown { address: IpAddr, holder: Holder, by_ledger: Option<Handle> },
    /// An address is held by the ledger, and its interface is not there.
    HeldNotLive { address: IpAddr, holder: Holder },
}

impl Violation {
    /// One word for each kind, which stays the same.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.kind().0
    }

    /// Whether it must never be, or not once everything under way has ended.
    #[must_use]
    pub fn strength(&self) -> Strength {
        self.kind().1
    }

    /// The rule it breaks: an invariant of allocation, a rule of the protocol, or a behaviour.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.kind().2
    }

    fn kind(&self) -> (&'static str, Strength, &'static str) {
        use Strength::{Always, AtRest};
        const ONE_HOLDER: &str = "an address has at most one holder";
        const OWNER_ONLY: &str =
            "only the owner of a block, or the holder of a granted loan, hands out its addresses";
        const UNANSWERED: &str = "rule 1: a write without an answer is settled by a later one";
        const IDENTITY: &str = "rule 2: ownership is node, Node UID and nonce";
        const OVERLAP: &str = "rule 3: blocks lie in admitted pools, which do not overlap";
        const CACHE: &str = "rule 5: the journal and a consistent read agree before a block serves";
        const LOANS: &str = "rule 6: the owner journals a loan before it grants it";
        const LEAK: &str = "no failed ADD leaves anything behind";
        const ADDS_UP: &str = "U1: used, free, cooling and reserved add up to the size";
        match self {
            Self::Unreadable { .. } => ("unreadable", Always, "what is stored reads"),
            Self::BlockName { .. } => ("block-name", Always, "a block is named by its range"),
            Self::BlockOverlap { .. } => ("block-overlap", AtRest, OVERLAP),
            Self::BlockPool { .. } => ("block-pool", AtRest, OVERLAP),
            Self::BlockRange { .. } => ("block-range", Always, OVERLAP),
            Self::OwnerGone { .. } => {
                ("owner-gone", AtRest, "B7: blocks of a node that is gone are reclaimed")
            }
            Self::BorrowerGone { .. } => {
                ("borrower-gone", AtRest, "rule 6: loans of a node that is gone are ended")
            }
            Self::LoanOutside { .. } => ("loan-outside", Always, OWNER_ONLY),
            Self::LoanTwice { .. } => ("loan-twice", Always, ONE_HOLDER),
            Self::LoanNonce { .. } => ("loan-nonce", Always, "rule 6: a request carries a nonce of its own"),
            Self::LoanToOwner { .. } => ("loan-to-owner", AtRest, LOANS),
            Self::LoanHalfWay { .. } => {
                ("loan-half-way", AtRest, "B3: what was begun is completed or undone")
            }
            Self::RegistryOverlap { .. } => ("registry-overlap", Always, OVERLAP),
            Self::PoolTag { .. } => ("pool-tag", Always, "rule 3: the registry says which tag a pool has"),
            Self::DuplicateHolder { .. } => ("duplicate-holder", Always, ONE_HOLDER),
            Self::HolderUnfounded { .. } => ("holder-unfounded", Always, OWNER_ONLY),
            Self::HolderMismatch { .. } => ("holder-mismatch", Always, "freeing needs the holder's identity"),
            Self::OrdinalTwice { .. } => ("ordinal-twice", Always, ADDS_UP),
            Self::OrdinalLost { .. } => ("ordinal-lost", Always, ADDS_UP),
            Self::PoolUsage { .. } => ("pool-usage", Always, ADDS_UP),
            Self::ServesForeign { .. } => ("serves-foreign", Always, OWNER_ONLY),
            Self::ServesAbsent { .. } => ("serves-absent", Always, UNANSWERED),
            Self::ServesUnclaimed { .. } => ("serves-unclaimed", Always, CACHE),
            Self::ServesUnadmitted { .. } => ("serves-unadmitted", Always, OVERLAP),
            Self::BlockUntracked { .. } => ("block-untracked", Always, CACHE),
            Self::PoolMismatch { .. } => ("pool-mismatch", Always, IDENTITY),
            Self::LentUnknown { .. } => ("lent-unknown", Always, LOANS),
            Self::LentHeld { .. } => ("lent-held", Always, ONE_HOLDER),
            Self::LentMismatch { .. } => ("lent-mismatch", Always, LOANS),
            Self::LentStale { .. } => ("lent-stale", AtRest, LOANS),
            Self::ClaimHalfWay { .. } => {
                ("claim-half-way", AtRest, "B3: what was begun is completed or undone")
            }
            Self::BlockForgotten { .. } => ("block-forgotten", AtRest, IDENTITY),
            Self::BlockTaken { .. } => ("block-taken", AtRest, IDENTITY),
            Self::BorrowHalfWay { .. } => {
                ("borrow-half-way", AtRest, "B3: what was begun is completed or undone")
            }
            Self::BorrowStale { .. } => ("borrow-stale", AtRest, LOANS),
            Self::BorrowForgotten { .. } => ("borrow-forgotten", AtRest, LOANS),
            Self::LiveUnknown { .. } => ("live-unknown", Always, "no successful ADD is ever forgotten"),
            Self::HeldNotLive { .. } => ("held-not-live", AtRest, LEAK),
        }
    }

    /// What to do about it, for people.
    #[must_use]
    pub fn remedy(&self) -> String {
        let settles = |node: &dyn fmt::Display| {
            format!(
                "the agent of node {node} settles it by itself; if it stays, read that agent's log and restart it"
            )
        };
        match self {
            Self::Unreadable { what, .. } => {
                format!("mend {what} by hand, or take it away and let its owner make it anew")
            }
            Self::BlockName { name, .. } => {
                format!("delete the IPBlock named {name}: its owner makes it again under the right name")
            }
            Self::BlockOverlap { .. } => {
                "of the two pools keep the one that the registry has; delete the block of \
                the other once no pod uses it"
                    .to_owned()
            }
            Self::BlockPool { pool, .. } => {
                format!(
                    "delete the block if no pod uses it; otherwise apply pool {pool} as it was, and drain it"
                )
            }
            Self::BlockRange { .. } => "delete the block once no pod uses it".to_owned(),
            Self::OwnerGone { owner, .. } => format!(
                "any other agent takes it over after the grace; delete the pods that are still bound to {owner}"
            ),
            Self::BorrowerGone { borrower, .. } => format!(
                "its owner takes it back after the grace; delete the pods that are still bound to {borrower}"
            ),
            Self::LoanOutside { borrower, .. } | Self::LoanToOwner { owner: borrower, .. } => {
                format!(
                    "take the loan out of the block's object, and restart the agent of node {}",
                    borrower.name
                )
            }
            Self::LoanTwice { borrower, other, .. } => format!(
                "delete the pod that has the address on node {} or {}: both may have given it away",
                borrower.name, other.name
            ),
            Self::LoanNonce { .. } => {
                "take both loans out of the block's object, and restart the agents of both borrowers"
                    .to_owned()
            }
            Self::LoanHalfWay { borrower, .. } => format!(
                "the agents of the block's owner and of node {} settle it; if it stays, one of them does not run",
                borrower.name
            ),
            Self::RegistryOverlap { pool, other, .. } => {
                format!("delete pool {other} or {pool}, whichever serves fewer pods")
            }
            Self::PoolTag { .. } => "restart this agent: its copy of the registry is wrong".to_owned(),
            Self::DuplicateHolder { holder, other, .. } => {
                format!("delete the pod of {holder}, or that of {other}, so that it gets another address")
            }
            Self::HolderUnfounded { holder, .. } => {
                format!("delete the pod of {holder}, so that it gets another address")
            }
            Self::LiveUnknown { holder, .. } => format!(
                "restart the agent of node {}, which then finds it; or delete the pod, or the interface {}",
                holder.node,
                holder.handle.host_ifname()
            ),
            Self::HeldNotLive { address, .. } => format!(
                "if its pod is gone, `poolwardctl ipam release --ip {address}` on that node frees it; the runtime's \
                 next GC does too"
            ),
            Self::LentHeld { holder, .. } => {
                format!("delete the pod of {holder}: the address is another node's")
            }
            Self::HolderMismatch { node, .. }
            | Self::OrdinalTwice { node, .. }
            | Self::OrdinalLost { node, .. }
            | Self::PoolUsage { node, .. }
            | Self::BlockUntracked { node, .. }
            | Self::LentMismatch { node, .. } => format!(
                "restart the agent of node {node}, which rebuilds its state from the journal; keep its log: this is a bug"
            ),
            Self::ServesForeign { node, .. }
            | Self::ServesAbsent { node, .. }
            | Self::ServesUnclaimed { node, .. }
            | Self::ServesUnadmitted { node, .. }
            | Self::PoolMismatch { node, .. }
            | Self::LentUnknown { node, .. } => {
                format!(
                    "restart the agent of node {node}: no block of it serves then before it was read again"
                )
            }
            Self::LentStale { node, .. }
            | Self::ClaimHalfWay { node, .. }
            | Self::BlockForgotten { node, .. }
            | Self::BlockTaken { node, .. }
            | Self::BorrowHalfWay { node, .. }
            | Self::BorrowStale { node, .. }
            | Self::BorrowForgotten { node, .. } => settles(node),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nobody =
            |handle: &Option<Handle>| handle.as_ref().map_or("nobody".to_owned(), ToString::to_string);
        match self {
            Self::Unreadable { what, problem } => write!(f, "{what} does not read: {problem}"),
            Self::BlockName { name, block } => write!(f, "the block named {name} is {block}"),
            Self::BlockOverlap { block, other } => write!(f, "blocks {block} and {other} share addresses"),
            Self::BlockPool { block, pool, uid } => {
                write!(f, "block {block} is of pool {pool} ({uid}), which is not admitted")
            }
            Self::BlockRange { block, pool, range, block_len } => {
                write!(f, "block {block} is none of the /{block_len} blocks of pool {pool} ({range})")
            }
            Self::OwnerGone { block, owner } => write!(f, "block {block} is of node {owner}, which is gone"),
            Self::BorrowerGone { block, borrower } => {
                write!(f, "block {block} has a loan of node {borrower}, which is gone")
            }
            Self::LoanOutside { block, address, borrower } => {
                write!(f, "block {block} lends {address}, which is not in it, to node {borrower}")
            }
            Self::LoanTwice { block, address, borrower, other } => {
                write!(f, "block {block} lends {address} to node {borrower} and to node {other}")
            }
            Self::LoanNonce { block, loan } => write!(f, "block {block} has two loans of nonce {loan}"),
            Self::LoanToOwner { block, address, owner } => {
                write!(f, "block {block} lends {address} to its own owner {owner}")
            }
            Self::LoanHalfWay { block, borrower, loan } => {
                write!(f, "block {block} has an unfinished request {loan} of node {borrower}")
            }
            Self::RegistryOverlap { pool, range, other, other_range } => {
                write!(
                    f,
                    "pools {pool} ({range}) and {other} ({other_range}) are admitted and share addresses"
                )
            }
            Self::PoolTag { pool, tag, admitted } => {
                write!(f, "pool {pool} serves with tag id {tag} and was admitted with {admitted}")
            }
            Self::DuplicateHolder { address, holder, other } => {
                write!(f, "{address} is held by {holder} and by {other}")
            }
            Self::HolderUnfounded { address, holder } => {
                write!(
                    f,
                    "{address} is held by {holder}, and that node has neither its block nor a loan of it"
                )
            }
            Self::HolderMismatch { node, address, by_handle, by_block } => write!(
                f,
                "{address} on node {node} is held by {} by the list of holders and by {} by its block",
                nobody(by_handle),
                nobody(by_block)
            ),
            Self::OrdinalTwice { node, address, states: [one, other] } => {
                write!(f, "{address} on node {node} is {one} and {other} at once")
            }
            Self::OrdinalLost { node, address } => {
                write!(f, "{address} on node {node} is neither used, lent, cooling nor free")
            }
            Self::PoolUsage { node, pool, usage, size } => {
                write!(f, "pool {pool} has {size} addresses and node {node} counts {usage}")
            }
            Self::ServesForeign { node, block, owner } => {
                write!(f, "node {node} serves from block {block}, which is of node {owner}")
            }
            Self::ServesAbsent { node, block } => {
                write!(f, "node {node} serves from block {block}, which has no object")
            }
            Self::ServesUnclaimed { node, block } => {
                write!(f, "node {node} serves from block {block}, which its journal does not say it owns")
            }
            Self::ServesUnadmitted { node, block, pool } => {
                write!(f, "node {node} serves from block {block} of pool {pool}, which is not admitted")
            }
            Self::BlockUntracked { node, block } => {
                write!(
                    f,
                    "block {block} is in the allocator or in the protocol's state of node {node}, not in both"
                )
            }
            Self::PoolMismatch { node, block, stored, journalled } => write!(
                f,
                "block {block} of node {node} is of pool {stored} by its object and of {journalled} by the journal, \
                 or of another pool of that name"
            ),
            Self::LentUnknown { node, address, borrower, loan } => {
                write!(
                    f,
                    "{address} is lent to node {borrower} ({loan}), and its owner {node} serves without knowing"
                )
            }
            Self::LentHeld { address, borrower, holder } => {
                write!(f, "{address} is lent to node {borrower} and held by {holder}")
            }
            Self::LentMismatch { node, block, recorded, lent } => write!(
                f,
                "node {node} has {recorded} loans of block {block} on record, which do not match the {lent} lent \
                 addresses of it"
            ),
            Self::LentStale { node, address, borrower, loan } => {
                write!(
                    f,
                    "{address} is lent to node {borrower} ({loan}) by node {node} and not by its block's object"
                )
            }
            Self::ClaimHalfWay { node, block } => {
                write!(f, "node {node} has begun to claim or to release block {block} and not ended")
            }
            Self::BlockForgotten { node, block } => {
                write!(f, "block {block} is of node {node}, whose journal does not know it")
            }
            Self::BlockTaken { node, block } => {
                write!(f, "block {block} is of node {node} by its journal, and not by its object")
            }
            Self::BorrowHalfWay { node, block, loan } => {
                write!(
                    f,
                    "node {node} has begun to ask for or to return a loan of block {block} ({loan}) and not ended"
                )
            }
            Self::BorrowStale { node, address, loan } => {
                write!(f, "{address} is borrowed by node {node} ({loan}), and no block lends it")
            }
            Self::BorrowForgotten { node, address, loan } => {
                write!(f, "{address} is lent to node {node} ({loan}), whose journal does not know it")
            }
            Self::LiveUnknown { address, holder, by_ledger } => {
                write!(f, "{address} is in use by {holder}, and held by {} by its ledger", nobody(by_ledger))
            }
            Self::HeldNotLive { address, holder } => {
                write!(f, "{address} is held by {holder}, whose interface is not there")
            }
        }
    }
}
