//! Why a request got no address, for a machine that branches on it and for a person who wonders.

use std::fmt;
use std::net::IpAddr;

use model::{Cidr, Handle, NodeName, PoolName};

/// How many lines [`Refusal::details`] holds at most; a last line says how many were left out.
pub const MAX_DETAIL_LINES: usize = 64;

/// No address, and why: what kind of reason, one line that says it, and a line for each pool that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    kind: RefusalKind,
    message: String,
    details: Vec<String>,
}

/// Kinds of refusal that a caller may treat differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// No family was wanted at all.
    NothingAsked,
    /// No pool is eligible. `pending`: one would be, once it has its tag id, so the same again may work.
    NoPool {
        /// A pool only waits for its admission.
        pending: bool,
    },
    /// Eligible pools exist and are all full.
    Exhausted {
        /// Those pools, in the order they were tried.
        pools: Vec<PoolName>,
    },
    /// A pool that was asked for does not exist or may not serve this workload.
    RequestedPool {
        /// The name or CIDR as asked for.
        requested: String,
        /// It only waits for its admission, so the same again may work.
        pending: bool,
    },
    /// The explicit address is held by somebody else.
    AddressHeld {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: Handle,
    },
    /// The explicit address is in another node's block.
    OtherNode {
        /// The address.
        address: IpAddr,
        /// The block.
        block: Cidr,
        /// Whose it is.
        node: NodeName,
    },
    /// The explicit address was freed a short while ago, or its block does not serve at the moment: the same
    /// again may work.
    AddressNotYet {
        /// The address.
        address: IpAddr,
    },
    /// The explicit address cannot be given: in no pool, or in one that may not serve this workload.
    Address {
        /// The address.
        address: IpAddr,
    },
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, message: String, details: Vec<String>) -> Self {
        let mut refusal = Self { kind, message, details };
        refusal.bound();
        refusal
    }

    /// The kind of reason.
    #[must_use]
    pub fn kind(&self) -> &RefusalKind {
        &self.kind
    }

    /// A line for each pool that was looked at: how full it is, or why it was passed over. At most
    /// [`MAX_DETAIL_LINES`].
    #[must_use]
    pub fn details(&self) -> &[String] {
        &self.details
    }

    /// Whether the same request may succeed later without anybody changing a pool or the request.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match &self.kind {
            RefusalKind::NoPool { pending } | RefusalKind::RequestedPool { pending, .. } => *pending,
            RefusalKind::Exhausted { .. }
            | RefusalKind::AddressHeld { .. }
            | RefusalKind::AddressNotYet { .. } => true,
            RefusalKind::NothingAsked | RefusalKind::OtherNode { .. } | RefusalKind::Address { .. } => false,
        }
    }

    /// This refusal of one family with another family's added; the kind stays this one's.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.message = format!("{}; {}", self.message, other.message);
        self.details.extend(other.details);
        self.bound();
        self
    }

    fn bound(&mut self) {
        if self.details.len() > MAX_DETAIL_LINES {
            let left_out = self.details.len() - (MAX_DETAIL_LINES - 1);
            self.details.truncate(MAX_DETAIL_LINES - 1);
            self.details.push(format!("and {left_out} more"));
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
