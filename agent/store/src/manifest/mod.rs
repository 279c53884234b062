//! Manifests: from YAML to checked objects, and from objects back to YAML.
//!
//! 1. [`parse_yaml`] splits a text into documents; an error names line and column.
//! 2. [`validate`] unwraps lists, checks every object and collects all that is wrong: each error names the
//!    document, the object, the field, the value and the reason.
//! 3. [`to_manifest`] prints an object so that it can be applied again.
//!
//! Nothing here asks the store: whether a pool overlaps one that exists is decided where it is admitted.
//! The same code runs in poolwardctl, before anything is sent, and in the agent, before anything is stored.

mod dscp;
mod error;
mod fields;
mod ipam_config;
mod kinds;
mod metadata;
mod pool;
mod present;
mod reservation;
mod validate;
mod workload;
mod yaml;

pub use dscp::dscp_of_name;
pub use error::{ManifestError, YamlError};
pub use kinds::Kind;
pub use pool::pool_of;
pub use present::to_manifest;
pub use reservation::ranges_of;
pub use validate::{Object, Validated, validate};
pub use yaml::{Document, MAX_MANIFEST_BYTES, parse_yaml};
