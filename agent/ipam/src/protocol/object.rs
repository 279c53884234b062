//! What a block's object in the store says, as decisions see it. How it is written down is the store's business.

use std::fmt;
use std::net::IpAddr;
use std::num::ParseIntError;
use std::str::FromStr;

use model::{Cidr, NodeName, PoolName};

/// One life of a node: its name and the UID of its Node object. A node that is registered anew under its name is
/// another one. The UID is empty where there are no Node objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Its name.
    pub name: NodeName,
    /// UID of its Node object.
    pub uid: String,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.uid.is_empty() { self.name.fmt(f) } else { write!(f, "{} ({})", self.name, self.uid) }
    }
}

/// 128 random bits that tell one claim of a block, or one loan, from any other. Drawn by whoever asks, and written
/// to its journal before anybody else sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub u128);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Nonce {
    type Err = ParseIntError;

    /// Reads hexadecimal digits, with or without the dashes of a UUID.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        u128::from_str_radix(&digits, 16).map(Self)
    }
}

/// Which state of an object this is: grows with every change, and a compare-and-swap names the one it expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRevision(pub u64);

/// A block's object, and which of its states this is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The state.
    pub revision: ObjectRevision,
    /// The object.
    pub object: BlockObject,
}

/// A block: whose it is, and what of it is lent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockObject {
    /// Its range.
    pub cidr: Cidr,
    /// The pool it is cut from.
    pub pool: PoolName,
    /// UID of that pool.
    pub pool_uid: String,
    /// Its owner.
    pub owner: NodeId,
    /// The nonce of the owner's claim.
    pub nonce: Nonce,
    /// Loans and requests for loans, in the order they came.
    pub loans: Vec<Loan>,
}

impl BlockObject {
    /// The loan of this nonce.
    #[must_use]
    pub fn loan(&self, nonce: Nonce) -> Option<&Loan> {
        self.loans.iter().find(|loan| loan.nonce == nonce)
    }
}

/// An address lent to another node, or the wish for one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Loan {
    /// Who asked.
    pub borrower: NodeId,
    /// The borrower's nonce.
    pub nonce: Nonce,
    /// How far it is.
    pub state: LoanState,
}

/// How far a loan is.
///
/// ```text
///            borrower writes       owner writes            borrower writes
///  (nothing) ───────────────> Requested ──┬──> Granted ──────────────> (nothing)
///                                 │       └──> Refused ──────────────> (nothing)
///                                 └── withdrawn by the borrower ─────> (nothing)
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LoanState {
    /// Asked for.
    Requested {
        /// Exactly this address; `None`: any.
        address: Option<IpAddr>,
        /// The borrower has no block of the pool: an empty block may be handed over whole.
        whole_block_welcome: bool,
    },
    /// The borrower may hand it out.
    Granted {
        /// The address.
        address: IpAddr,
    },
    /// Not to be had.
    Refused {
        /// Why.
        reason: LoanRefusal,
    },
}

/// Why a loan is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoanRefusal {
    /// Nothing of the block is free.
    Full,
    /// The address that was asked for is not free, or not in the block.
    Taken,
    /// The owner does not lend (`strictAffinity`).
    Strict,
    /// The pool is disabled, being deleted, or no longer selects the owner.
    Draining,
}

impl LoanRefusal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Full, Self::Taken, Self::Strict, Self::Draining];

    /// As it is written down.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "Full",
            Self::Taken => "Taken",
            Self::Strict => "Strict",
            Self::Draining => "Draining",
        }
    }
}

/// A change of one block's object. Each is atomic and guarded: made later than meant, it does nothing if the object
/// has changed since.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// Create it if there is none of this range.
    Create(BlockObject),
    /// Replace it if it is still at `expected`.
    Swap {
        /// The state it must be in.
        expected: ObjectRevision,
        /// What it becomes.
        object: BlockObject,
    },
    /// Delete it if it is still at `expected`.
    Delete {
        /// The block.
        cidr: Cidr,
        /// The state it must be in.
        expected: ObjectRevision,
    },
}

impl Write {
    /// The block it changes.
    #[must_use]
    pub fn cidr(&self) -> Cidr {
        match self {
            Self::Create(object) | Self::Swap { object, .. } => object.cidr,
            Self::Delete { cidr, .. } => *cidr,
        }
    }
}

/// What became of a [`Write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteOutcome {
    /// It was made.
    Made,
    /// The object is in another state, or exists already: nothing was changed.
    Conflict,
    /// No answer: it may have been made, or may be made later.
    Unanswered,
}
