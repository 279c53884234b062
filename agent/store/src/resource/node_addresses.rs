//! What each node has allocated, for people and tools.

use serde::{Deserialize, Serialize};

use super::{Metadata, Resource};

/// The addresses that a node has given out, named after the node. Published by its agent some time after the fact;
/// nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAddresses {
    /// The node's name.
    pub metadata: Metadata,
    /// One entry an address, in order of address.
    #[serde(default)]
    pub addresses: Vec<NodeAddress>,
}
resource!(NodeAddresses {
    const KIND: &'static str = "NodeAddresses";
    const PLURAL: &'static str = "nodeaddresses";
});

/// An address that a node has given out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeAddress {
    /// The address.
    #[cfg_attr(feature = "kubernetes", schemars(length(min = 2, max = 45)))]
    pub address: String,
    /// Name of its pool.
    pub pool: String,
    /// Range of its block; another node's for one that is borrowed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub block: String,
    /// Who holds it: container id and interface, or what the node itself needs it for.
    pub handle: String,
    /// The pod, `NAMESPACE/NAME`; empty where the holder is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
}
