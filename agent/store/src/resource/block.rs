//! Blocks, and addresses of them that are lent.

use serde::{Deserialize, Serialize};

use super::{Metadata, Resource};

/// A block: a part of a pool that belongs to one node. Named by [`crate::Key::of_block`]. Written by agents only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpBlock {
    /// Name.
    pub metadata: Metadata,
    /// Whose it is.
    pub spec: IpBlockSpec,
}
resource!(IpBlock {
    const KIND: &'static str = "IPBlock";
    const PLURAL: &'static str = "ipblocks";
    const PROTECTED: bool = true;
});

/// Whose a block is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IpBlockSpec {
    /// The range.
    #[cfg_attr(feature = "kubernetes", schemars(regex(pattern = super::CIDR_PATTERN), length(max = 43)))]
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
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Loan {
    /// Name of the borrower.
    pub node: String,
    /// Uid of the borrower's Node object; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_uid: String,
    /// What the borrower's journal knows it by.
    pub nonce: String,
    /// `Requested` (by the borrower), then `Granted` or `Refused` (by the owner).
    #[cfg_attr(feature = "kubernetes", schemars(extend("enum" = ["Requested", "Granted", "Refused"])))]
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
