//! Which pools serve a request, in which order, and why the others do not.
//!
//! How full a pool is plays no part here; that is found out by trying.

use std::fmt;

use model::{Family, Labels};

use crate::accounting::PoolUsage;
use crate::allocator::ClusterView;
use crate::pool::{AssignmentMode, Pool};
use crate::refusal::{Refusal, RefusalKind};
use crate::request::{FamilyRequest, RequestedPools};

/// Why a pool does not serve a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassedReason {
    /// It is of the other family.
    OtherFamily,
    /// It is being deleted.
    Terminating,
    /// `disabled: true`.
    Disabled,
    /// The registry refused it.
    NotAdmitted(String),
    /// `allowedUses` lacks Workload.
    NotForWorkloads,
    /// `nodeSelector` does not match this node.
    NodeSelector,
    /// `namespaceSelector` does not match the pod's namespace.
    NamespaceSelector,
    /// `assignmentMode: Manual`, and the request does not name it.
    Manual,
    /// Everything fits, but it has no tag id yet: its packets could not be told apart.
    Pending,
    /// Every address is used, cooling or reserved.
    Full(PoolUsage),
    /// Owned blocks are full and the node may not claim another one.
    NoClaims(PoolUsage),
    /// Owned blocks are full, blocks are unclaimed, and the node owns as many as it may.
    AtLimit {
        /// `maxBlocksPerNode`.
        limit: u32,
        /// How full the pool is.
        usage: PoolUsage,
    },
    /// Owned blocks are full, every other one is another node's, and nothing is borrowed.
    Strict(PoolUsage),
}

impl fmt::Display for PassedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherFamily => f.write_str("of the other address family"),
            Self::Terminating => f.write_str("being deleted"),
            Self::Disabled => f.write_str("disabled"),
            Self::NotAdmitted(reason) => write!(f, "not admitted: {reason}"),
            Self::NotForWorkloads => f.write_str("allowedUses lacks Workload"),
            Self::NodeSelector => f.write_str("nodeSelector does not match this node"),
            Self::NamespaceSelector => f.write_str("namespaceSelector does not match the namespace"),
            Self::Manual => f.write_str("assignmentMode is Manual and it was not asked for"),
            Self::Pending => f.write_str("not admitted yet"),
            Self::Full(usage) => write!(f, "exhausted, {usage}"),
            Self::AtLimit { limit, usage } => {
                write!(f, "no room in owned blocks and maxBlocksPerNode is {limit}, {usage}")
            }
            Self::Strict(usage) => {
                write!(f, "no room in owned blocks and strictAffinity forbids borrowing, {usage}")
            }
            Self::NoClaims(usage) => {
                write!(f, "no room in owned blocks and autoAllocateBlocks is false, {usage}")
            }
        }
    }
}

/// A pool that does not serve a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver<'a> {
    /// The pool.
    pub pool: &'a Pool,
    /// Why not.
    pub reason: PassedReason,
}

impl fmt::Display for PassedOver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {} ({}): {}", self.pool.name, self.pool.cidr, self.reason)
    }
}

/// The pools for one family of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolChoice<'a> {
    /// Those that serve, in the order they are tried.
    pub eligible: Vec<&'a Pool>,
    /// Those of the family that do not. Empty when pools were named: then the others were not looked at.
    pub passed_over: Vec<PassedOver<'a>>,
}

impl PoolChoice<'_> {
    /// Whether a pool is passed over only because it has no tag id yet.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.passed_over.iter().any(|passed| passed.reason == PassedReason::Pending)
    }
}

/// Chooses pools for one family.
///
/// 1. If the request names pools, those serve, in the order they were named, each once. One that does not
///    exist or may not serve refuses the request: a workload that names a pool never gets another one.
/// 2. Otherwise all pools of the family that may serve do, by priority, then by name.
///
/// # Errors
/// A named pool that does not exist, or that may not serve this workload; the text names it, where it was
/// asked for, and the reason.
pub fn choose_pools<'a>(
    view: &ClusterView<'a>,
    family: Family,
    request: &FamilyRequest,
    namespace_labels: &Labels,
) -> Result<PoolChoice<'a>, Refusal> {
    if let Some(requested) = &request.pools {
        return choose_requested(view, family, requested, namespace_labels);
    }
    let mut choice = PoolChoice::default();
    for pool in view.pools.of_family(family) {
        match why_not(view, pool, family, namespace_labels, false) {
            None => choice.eligible.push(pool),
            Some(reason) => choice.passed_over.push(PassedOver { pool, reason }),
        }
    }
    Ok(choice)
}

fn choose_requested<'a>(
    view: &ClusterView<'a>,
    family: Family,
    requested: &RequestedPools,
    namespace_labels: &Labels,
) -> Result<PoolChoice<'a>, Refusal> {
    let mut choice = PoolChoice::default();
    for text in &requested.entries {
        let refuse = |problem: String, pending: bool| {
            let kind = RefusalKind::RequestedPool { requested: text.clone(), pending };
            Refusal::new(
                kind,
                format!("requested {family} {problem} (asked for by {})", requested.source),
                Vec::new(),
            )
        };
        let Some(pool) = view.pools.by_name_or_cidr(text) else {
            return Err(refuse(format!("pool {text:?} does not exist"), false));
        };
        if let Some(reason) = why_not(view, pool, family, namespace_labels, true) {
            let pending = reason == PassedReason::Pending;
            return Err(refuse(PassedOver { pool, reason }.to_string(), pending));
        }
        if !choice.eligible.iter().any(|other| other.name == pool.name) {
            choice.eligible.push(pool);
        }
    }
    Ok(choice)
}

/// Why a pool may not serve a workload in a namespace with these labels; `None`: it may. `asked_for`: the
/// request names the pool or an address of it. [`PassedReason::Pending`] is the answer only when nothing else
/// stands against the pool.
pub(crate) fn why_not(
    view: &ClusterView<'_>,
    pool: &Pool,
    family: Family,
    namespace_labels: &Labels,
    asked_for: bool,
) -> Option<PassedReason> {
    let selectors_count = !asked_for || view.settings.enforce_selectors_on_request;
    if pool.family() != family {
        Some(PassedReason::OtherFamily)
    } else if pool.terminating {
        Some(PassedReason::Terminating)
    } else if pool.disabled {
        Some(PassedReason::Disabled)
    } else if let Some(reason) = &pool.not_admitted {
        Some(PassedReason::NotAdmitted(reason.clone()))
    } else if !pool.allowed_uses.workload {
        Some(PassedReason::NotForWorkloads)
    } else if selectors_count && !pool.node_selector.matches(view.node_labels) {
        Some(PassedReason::NodeSelector)
    } else if selectors_count && !pool.namespace_selector.matches(namespace_labels) {
        Some(PassedReason::NamespaceSelector)
    } else if !asked_for && pool.assignment_mode == AssignmentMode::Manual {
        Some(PassedReason::Manual)
    } else if pool.tag.is_none() {
        Some(PassedReason::Pending)
    } else {
        None
    }
}
