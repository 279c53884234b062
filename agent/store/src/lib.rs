//! The cluster store: the objects Poolward keeps, how they are read from manifests and checked, and where
//! they live.
//!
//! * [`resource`]: the objects as they are written down (`apiVersion`, `kind`, `metadata`, `spec`).
//! * [`manifest`]: from YAML to checked objects and pure types, and back to YAML.
//! * `change`: what operators ask for, decided before it is written, and written all or none.
//! * [`Store`]: create-if-absent, compare-and-swap, compare-and-delete, list and watch; implemented by
//!   [`embedded`] (a file on this machine), `kubernetes` (custom resources; a feature) and [`memory`] (tests and
//!   simulation), checked by `conformance` (a feature, for tests), and used through [`retry`].
//!
//! It decides nothing about addresses (that is `ipam`) and knows no node, socket or kernel.
#![forbid(unsafe_code)]

mod block;
#[cfg(feature = "client")]
pub mod change;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "client")]
mod event;
#[cfg(feature = "client")]
mod interface;
mod key;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod manifest;
#[cfg(feature = "client")]
pub mod memory;
mod registry;
pub mod resource;
#[cfg(feature = "client")]
pub mod retry;
#[cfg(feature = "client")]
mod rules;
mod versioned;

pub use block::{block_of, block_resource, tell_ipv6, told_ipv6};
#[cfg(feature = "client")]
pub use event::{Event, Watch};
#[cfg(feature = "client")]
pub use interface::{Contact, List, NetworkPolicies, Store, StoreError};
pub use key::{Key, KeyError};
pub use registry::{registry_of, registry_spec};
pub use versioned::{Revision, Versioned};
