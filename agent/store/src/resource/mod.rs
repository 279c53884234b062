//! The objects of the cluster as they are written down.
//!
//! Wire types only: text and numbers, as a manifest or another node wrote them. They are checked where they
//! enter ([`crate::manifest`]) and converted into pure types where something is decided. Objects of
//! Kubernetes (Namespace, Node, Pod) are reduced to what choosing a pool needs.

macro_rules! resource {
    ($type:ident { $($item:tt)* }) => {
        impl Resource for $type {
            $($item)*

            fn metadata(&self) -> &Metadata {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut Metadata {
                &mut self.metadata
            }
        }
    };
}

mod block;
mod ipam_config;
mod node_addresses;
mod pool;
mod registry;
mod reservation;
mod workload;

use std::collections::BTreeMap;

use model::Labels;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::key::{Key, KeyError};

pub use block::{IpBlock, IpBlockSpec, Loan};
pub use ipam_config::{IpamConfig, IpamConfigSpec, MAX_GRACE_SECONDS};
pub use node_addresses::{NodeAddress, NodeAddresses};
pub use pool::{Condition, IpPool, IpPoolSpec, IpPoolStatus};
pub use registry::{IpPoolRegistry, IpPoolRegistrySpec, RegistryEntry};
pub use reservation::{IpReservation, IpReservationSpec};
pub use workload::{Namespace, Node, Pod, PodSpec};

/// The group and version of our own kinds.
pub const API_VERSION: &str = "poolward.io/v1";

/// The version of Kubernetes' own kinds.
pub(crate) const API_VERSION_CORE: &str = "v1";

/// The finalizer of kinds that are [`Resource::PROTECTED`]: what is deleted by other means than the store's stays,
/// marked, until an agent has let go of it.
pub const PROTECT_FINALIZER: &str = "poolward.io/protect";

/// What a range looks like, as far as a pattern can say: which addresses and lengths there are, and that no host bits
/// are set, is checked when it is read.
#[cfg(feature = "kubernetes")]
const CIDR_PATTERN: &str = r"^(([0-9]{1,3}\.){3}[0-9]{1,3}|[0-9a-fA-F.]*:[0-9a-fA-F:.]*)/[0-9]{1,3}$";

/// The same, or a single address.
#[cfg(feature = "kubernetes")]
const ADDRESS_OR_CIDR_PATTERN: &str =
    r"^(([0-9]{1,3}\.){3}[0-9]{1,3}|[0-9a-fA-F.]*:[0-9a-fA-F:.]*)(/[0-9]{1,3})?$";

/// An object that the store keeps.
pub trait Resource:
    Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + Unpin + 'static
{
    /// `kind` in manifests. Never changes: objects are stored under it.
    const KIND: &'static str;
    /// `apiVersion` in manifests we print.
    const API_VERSION: &'static str = API_VERSION;
    /// What the kind is called in paths of the Kubernetes API.
    const PLURAL: &'static str;
    /// Whether objects of the kind live in a namespace.
    const NAMESPACED: bool = false;
    /// Whether objects of the kind carry [`PROTECT_FINALIZER`] where the store knows finalizers.
    const PROTECTED: bool = false;

    /// The object's metadata.
    fn metadata(&self) -> &Metadata;

    /// The object's metadata, to change.
    fn metadata_mut(&mut self) -> &mut Metadata;

    /// Reads an object as the Kubernetes API writes it; what is not known here is passed over.
    ///
    /// # Errors
    /// It is no object of this kind.
    fn from_api(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// What the object is stored under.
    ///
    /// # Errors
    /// The name (or namespace) is not a DNS subdomain, or a namespace is given where none belongs.
    fn key(&self) -> Result<Key, KeyError> {
        let Metadata { name, namespace, .. } = self.metadata();
        match (Self::NAMESPACED, namespace.is_empty()) {
            (true, _) => Key::namespaced(namespace, name),
            (false, true) => Key::named(name),
            (false, false) => Err(KeyError::Shape {
                text: format!("{namespace}/{name}"),
                expected: "NAME, without a namespace",
            }),
        }
    }
}

/// What every object says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name, a DNS subdomain.
    pub name: String,
    /// Namespace, for Pods; otherwise empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Unique over all objects there ever were. Empty until the store has given one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Who has to let go before the object can be gone. In no manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Since when the object is being deleted, if it is: it is still there, and goes with its last finalizer. In no
    /// manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// Objects of others that this one belongs to. Kept as they are; in no manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
}

/// An object that another one belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Its group and version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Whether it manages the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether it waits for the object to be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl Metadata {
    /// Whether somebody has asked for the object to be gone; it is still there.
    #[must_use]
    pub fn is_being_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// Whether it carries [`PROTECT_FINALIZER`].
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == PROTECT_FINALIZER)
    }

    /// Takes over what no manifest says, from the object that this one is to replace.
    pub fn carry_over(&mut self, stored: &Self) {
        self.finalizers.clone_from(&stored.finalizers);
        self.deletion_timestamp.clone_from(&stored.deletion_timestamp);
        self.owner_references.clone_from(&stored.owner_references);
    }

    /// The metadata of an object that has a name and nothing else.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}
