//! What is known of blocks and addresses, for `poolwardctl ipam`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What to show of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamShowRequest {
    /// One address: who holds it, or why nobody can.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

/// How full pools and blocks are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamReply {
    /// Every pool, or the one around the address asked for.
    pub pools: Vec<PoolUsage>,
    /// Every block, or the one around the address asked for.
    pub blocks: Vec<BlockUsage>,
    /// The addresses in use on this node, or the state of the one asked for.
    pub addresses: Vec<AddressUsage>,
}

/// Addresses counted by state; the four states add up to the size. Saturates at `u64::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// All addresses.
    pub size: u64,
    /// Held by somebody.
    pub used: u64,
    /// To be had.
    pub free: u64,
    /// Freed a short while ago and not yet to be had.
    pub cooling: u64,
    /// Kept back by a reservation and held by nobody.
    pub reserved: u64,
}

/// How full a pool is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolUsage {
    /// Name.
    pub name: String,
    /// Range.
    pub cidr: String,
    /// Counts.
    #[serde(flatten)]
    pub usage: Usage,
    /// Blocks owned by any node.
    pub blocks: u64,
    /// `true` when it hands out nothing new.
    pub disabled: bool,
}

/// How full a block is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockUsage {
    /// Range.
    pub cidr: String,
    /// Its pool.
    pub pool: String,
    /// The node it belongs to.
    pub node: String,
    /// Counts.
    #[serde(flatten)]
    pub usage: Usage,
}

/// The state of one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressUsage {
    /// The address.
    pub address: IpAddr,
    /// `used`, `free`, `cooling`, `reserved`, `unclaimed` (no block yet) or `outside` (in no pool).
    pub state: String,
    /// Its pool, or empty.
    pub pool: String,
    /// Its block, or empty.
    pub block: String,
    /// The node whose block it is in, or empty.
    pub node: String,
    /// `container id/interface` of the holder, or empty.
    pub handle: String,
    /// `namespace/pod` of the holder, or empty.
    pub pod: String,
    /// More for people: until when it cools, which reservation keeps it.
    pub note: String,
}

/// What to free. Exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamReleaseRequest {
    /// All addresses of this handle (`container id/interface`).
    pub handle: String,
    /// Only this one of them; the handle must hold it.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Free it even though its interface still exists.
    #[serde(default)]
    pub force: bool,
}

/// What was freed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamReleaseReply {
    /// Addresses that are free (or cooling) now and were not before.
    pub freed: Vec<IpAddr>,
}

/// What was checked, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamCheckReply {
    /// Blocks of all nodes that were checked.
    pub blocks: u64,
    /// Addresses in use on this node that were checked.
    pub addresses: u64,
    /// What is wrong; empty when all is well.
    pub violations: Vec<IpamViolation>,
}

/// Something that must not be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamViolation {
    /// One word for each kind, such as `duplicate-holder`; it stays the same from release to release.
    pub kind: String,
    /// What is wrong, and where; one line.
    pub message: String,
    /// The rule it breaks.
    pub rule: String,
    /// What to do about it; one line.
    pub remedy: String,
    /// It may be so for a while, when something is under way; it was so at two looks, one after the other.
    pub at_rest: bool,
}
