//! Pure decisions about addresses: which pools serve a workload, which block is claimed next, which address it
//! gets, when a freed address may be had again, and how full everything is.
//!
//! The state of one node is [`NodeIpam`]; what it needs to know of the world outside is borrowed for each
//! decision as a [`ClusterView`]. `decide_*` methods read and answer with data; `apply_*` methods change the
//! state and answer with an error when the data does not fit it. The caller makes decisions durable in between.
//!
//! This crate does no I/O, reads no clock, draws no random numbers and knows no serialisation: time is an
//! argument, and seeds are names. It does not talk about interfaces, routes or marks either.
#![forbid(unsafe_code)]

pub mod accounting;
pub mod allocator;
pub mod annotations;
mod block;
pub mod check;
mod choice;
mod claim;
mod gc;
mod line;
mod metadata;
pub mod mutant;
pub mod pool;
pub mod protocol;
mod ranges;
mod refusal;
pub mod registry;
mod request;
mod reservation;
pub mod selector;
mod serving;

pub use accounting::{AddressState, PoolUsage, Usage};
pub use allocator::{
    Allocation, ApplyError, Assignment, AtBlockLimit, BlockBorrow, BlockClaim, ClusterView, Decision,
    FreeError, FreeItem, Freed, Graces, InnerDecision, NodeIpam, Settings,
};
pub use block::{Block, OrdinalError, OrdinalState};
pub use choice::{PassedOver, PassedReason, PoolChoice, choose_pools};
pub use claim::{ForeignBlocks, MAX_ALTERNATIVES, UnclaimedBlocks, unclaimed_blocks};
pub use gc::{Absence, LeakStep, NamespaceSeen, Seen, decide_leak, is_leaked};
pub use line::{Line, Visit};
pub use metadata::{MetadataKnown, MetadataStep, next_metadata_step};
pub use pool::{AllowedUses, AssignmentMode, Overlap, Pool, PoolError, PoolSpec, PoolTable, check_overlap};
pub use refusal::{MAX_DETAIL_LINES, Refusal, RefusalKind};
pub use registry::{AdmissionRefusal, Admitted, Candidate, Registry, RegistryEntry, RegistryError};
pub use request::{AssignRequest, FamilyRequest, PoolSource, RequestedPools, Want};
pub use reservation::Reservations;
pub use selector::{Selector, SelectorError};
