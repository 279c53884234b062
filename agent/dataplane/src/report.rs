//! What a reconciliation did, and what is known after it.

use model::Handle;

use crate::desired::Pool;
use crate::kernel::KernelError;
use crate::op::Op;
use crate::plan::{Plan, Unrouted};

/// Operations that a report names one by one; that there are more it says as well.
const NAMED_MAX: usize = 256;

/// The interface by which the node reaches the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name; `None` if there is none.
    pub ifname: Option<String>,
    /// Its MTU in bytes; 1500 if there is none.
    pub mtu_bytes: u32,
    /// How it was found.
    pub source: UplinkSource,
}

/// How an [`Uplink`] was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkSource {
    /// It is configured.
    Configured,
    /// It has the IPv4 default route.
    DefaultRouteIpv4,
    /// It has the IPv6 default route, and there is no IPv4 one.
    DefaultRouteIpv6,
    /// There is no default route, or the configured interface does not exist.
    None,
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct Report {
    /// One text for each operation planned, in order; of a great many the last text says how many more. Empty:
    /// everything was as it should be.
    pub planned: Vec<String>,
    /// How many operations were planned.
    pub planned_count: usize,
    /// Ranges of other nodes that have no route, and why; what they lack is followed by its events.
    pub unrouted: Vec<Unrouted>,
    /// The uplink as it was found; `None` if it could not be read.
    pub uplink: Option<Uplink>,
    /// Pods that should be there but have no interface.
    pub missing: Vec<Handle>,
    /// What failed, and what stands in the way and is not ours to move.
    pub errors: Vec<DataplaneError>,
    /// Desired pools whose packets are tagged, and masqueraded where they ask for it, from here on; `None` if that
    /// could not be read.
    pub ready_pools: Option<Vec<Pool>>,
}

impl Report {
    /// What a plan says, before it has been carried out.
    pub(crate) fn of(plan: &Plan) -> Self {
        let planned_count = plan.ops().count();
        let mut planned: Vec<String> = plan.ops().take(NAMED_MAX).map(Op::to_string).collect();
        if planned_count > NAMED_MAX {
            planned.push(format!("{} more operations", planned_count - NAMED_MAX));
        }
        let conflicts = plan.conflicts.iter().cloned().map(DataplaneError::Conflict);
        Self {
            planned,
            planned_count,
            missing: plan.missing.clone(),
            unrouted: plan.unrouted.clone(),
            errors: conflicts.collect(),
            ..Self::default()
        }
    }
}

/// A part of the dataplane that could not be read or brought about.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The kernel would not.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Something foreign stands in the way; the text says what.
    #[error("{0}")]
    Conflict(String),
    /// The desired state is based on an epoch older than [`crate::Epoch::MAX_AGE`].
    #[error("the desired state is too old to tell which pods were wired since")]
    Stale,
}

impl DataplaneError {
    /// Whether something foreign stands in the way, and nothing of ours was there to be touched.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }
}
