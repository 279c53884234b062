//! The objects of the cluster as they are written down.
//!
//! Wire types only: text and numbers, as a manifest or another node wrote them. They are checked where they
//! enter ([`crate::manifest`]) and converted into pure types where something is decided. Objects of
//! Kubernetes (Namespace, Node, Pod) are reduced to what choosing a pool needs.

use std::collections::BTreeMap;

use model::Labels;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::key::{Key, KeyError};

/// The group and version of our own kinds.
pub const API_VERSION: &str = "poolward.io/v1";

/// An object that the store keeps.
pub trait Resource:
    Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + Unpin + 'static
{
    /// `kind` in manifests. Never changes: objects are stored under it.
    const KIND: &'static str;
    /// `apiVersion` in manifests we print.
    const API_VERSION: &'static str = API_VERSION;
    /// Whether objects of the kind live in a namespace.
    const NAMESPACED: bool = false;

    /// The object's metadata.
    fn metadata(&self) -> &Metadata;

    /// The object's metadata, to change.
    fn metadata_mut(&mut self) -> &mut Metadata;

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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
}

impl Metadata {
    /// The metadata of an object that has a name and nothing else.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

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

/// A pool of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpPool {
    /// Name and labels.
    pub metadata: Metadata,
    /// What the pool is.
    pub spec: IpPoolSpec,
}
resource!(IpPool { const KIND: &'static str = "IPPool"; });

/// What a pool is. Field names and meanings are Calico's, but for the last three.
///
/// Fields left out of a manifest are filled in when it is read, so that a stored pool says everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpPoolSpec {
    /// The range, without host bits.
    pub cidr: String,
    /// Prefix length of its blocks: 20 to 32 or 116 to 128; 26 or 122 when left out.
    pub block_size: u32,
    /// `Never`, `CrossSubnet` or `Always`.
    #[serde(default = "never")]
    pub ipip_mode: String,
    /// Whether pods leave the pools under the node's address.
    #[serde(default)]
    pub nat_outgoing: bool,
    /// Whether it hands out nothing new.
    #[serde(default)]
    pub disabled: bool,
    /// Which nodes may own blocks of it.
    #[serde(default = "all")]
    pub node_selector: String,
    /// Which namespaces' pods may have addresses of it.
    #[serde(default = "all")]
    pub namespace_selector: String,
    /// What its addresses may be used for: `Workload`, `Tunnel`.
    #[serde(default = "workload_and_tunnel")]
    pub allowed_uses: Vec<String>,
    /// `Automatic`, or `Manual` for pools that serve only who asks for them.
    #[serde(default = "automatic")]
    pub assignment_mode: String,
    /// Lower is tried first.
    #[serde(default)]
    pub priority: i32,
    /// DSCP written on its pods' packets, 0 to 63; left out: packets keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// How long a freed address is kept back, in seconds.
    #[serde(default)]
    pub cooldown_seconds: u32,
}

fn never() -> String {
    "Never".to_owned()
}

fn all() -> String {
    "all()".to_owned()
}

fn automatic() -> String {
    "Automatic".to_owned()
}

fn workload_and_tunnel() -> Vec<String> {
    vec!["Workload".to_owned(), "Tunnel".to_owned()]
}

impl Default for IpPoolSpec {
    /// Everything as in a manifest that says nothing; the range is empty and the block size IPv4's.
    fn default() -> Self {
        Self {
            cidr: String::new(),
            block_size: 26,
            ipip_mode: never(),
            nat_outgoing: false,
            disabled: false,
            node_selector: all(),
            namespace_selector: all(),
            allowed_uses: workload_and_tunnel(),
            assignment_mode: automatic(),
            priority: 0,
            dscp: None,
            cooldown_seconds: 0,
        }
    }
}

/// Ranges that are not handed out automatically.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpReservation {
    /// Name and labels.
    pub metadata: Metadata,
    /// Which ranges.
    pub spec: IpReservationSpec,
}
resource!(IpReservation { const KIND: &'static str = "IPReservation"; });

/// Which ranges are reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpReservationSpec {
    /// The ranges, without host bits; single addresses are written as /32 or /128. They may overlap.
    #[serde(rename = "reservedCIDRs")]
    pub reserved_cidrs: Vec<String>,
}

/// A block: a part of a pool that belongs to one node. Named by [`Key::of_block`]. Written by agents only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlock {
    /// Name.
    pub metadata: Metadata,
    /// Whose it is.
    pub spec: IpBlockSpec,
}
resource!(IpBlock { const KIND: &'static str = "IPBlock"; });

/// Whose a block is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlockSpec {
    /// The range.
    pub cidr: String,
    /// Name of the pool it is cut from.
    pub pool: String,
    /// Uid of that pool: another pool of the same name does not get its blocks.
    pub pool_uid: String,
    /// Name of the owner.
    pub node: String,
    /// Uid of the owner's Node object; empty where there is none.
    #[serde(default)]
    pub node_uid: String,
    /// What the owner's journal knows this claim by.
    pub nonce: String,
    /// Addresses lent to other nodes.
    #[serde(default)]
    pub loans: Vec<Loan>,
}

/// An address lent to another node, or the wish for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Loan {
    /// Name of the borrower.
    pub node: String,
    /// Uid of the borrower's Node object; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_uid: String,
    /// What the borrower's journal knows it by.
    pub nonce: String,
    /// `Requested` (by the borrower), then `Granted` or `Refused` (by the owner).
    pub phase: String,
    /// Granted: the address. Requested: exactly this one; left out: any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Requested: the borrower has no block of the pool and would take an empty one whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole_block_welcome: bool,
    /// Refused: why. `Full`, `Taken`, `Strict` or `Draining`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// The one object that admits pools, so that no two that overlap are ever served from. Written by agents only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpPoolRegistry {
    /// Always [`IpPoolRegistry::NAME`].
    pub metadata: Metadata,
    /// What is admitted.
    pub spec: IpPoolRegistrySpec,
}
resource!(IpPoolRegistry { const KIND: &'static str = "IPPoolRegistry"; });

impl IpPoolRegistry {
    /// The name of the one there is.
    pub const NAME: &'static str = "default";

    /// A registry that admits nothing yet.
    #[must_use]
    pub fn empty() -> Self {
        Self { metadata: Metadata::named(Self::NAME), spec: IpPoolRegistrySpec::default() }
    }
}

/// What is admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpPoolRegistrySpec {
    /// The pools that may be served from or still have blocks.
    #[serde(default)]
    pub entries: Vec<RegistryEntry>,
    /// Tag ids that had a pool and that packets, maps or marks may still carry: not to be given out again.
    #[serde(default)]
    pub retired_tags: Vec<u16>,
}

/// A pool that is admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryEntry {
    /// The pool's name.
    pub name: String,
    /// The pool's uid.
    pub uid: String,
    /// The pool's range.
    pub cidr: String,
    /// Prefix length of its blocks.
    pub block_size: u32,
    /// The tag id its packets carry; never 0.
    pub tag: u16,
    /// Deleted, but blocks of it are left: nothing new is served or claimed.
    #[serde(default)]
    pub terminating: bool,
}

/// A namespace of Kubernetes, or of a node without it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Namespace {
    /// Name, uid, labels and annotations.
    pub metadata: Metadata,
}
resource!(Namespace {
    const KIND: &'static str = "Namespace";
    const API_VERSION: &'static str = "v1";
});

/// A node of Kubernetes. Where there are none, no node is ever found to be gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Name, uid, labels and annotations.
    pub metadata: Metadata,
    /// By which the other nodes reach it: its addresses of type `InternalIP`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}
resource!(Node {
    const KIND: &'static str = "Node";
    const API_VERSION: &'static str = "v1";
});

/// A pod of Kubernetes, or of a node without it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Name, namespace, uid, labels and annotations.
    pub metadata: Metadata,
    /// Where it runs.
    #[serde(default)]
    pub spec: PodSpec,
}
resource!(Pod {
    const KIND: &'static str = "Pod";
    const API_VERSION: &'static str = "v1";
    const NAMESPACED: bool = true;
});

/// Where a pod runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    /// Its node; empty while it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Whether it uses the node's own network, and so has no address of its own.
    #[serde(default)]
    pub host_network: bool,
}
