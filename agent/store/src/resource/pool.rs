//! Pools.

use serde::{Deserialize, Serialize};

use super::{Metadata, Resource};

/// A pool of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPool {
    /// Name and labels.
    pub metadata: Metadata,
    /// What the pool is.
    pub spec: IpPoolSpec,
    /// What agents observed of it; [`crate::Store::compare_and_swap_status`] writes it.
    #[serde(default, skip_serializing_if = "IpPoolStatus::is_empty")]
    pub status: IpPoolStatus,
}
resource!(IpPool {
    const KIND: &'static str = "IPPool";
    const PLURAL: &'static str = "ippools";
    const PROTECTED: bool = true;
});

/// What a pool is. Field names and meanings are Calico's, but for the last three.
///
/// Fields left out of a manifest are filled in when it is read, so that a stored pool says everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    /// The range, without host bits.
    #[cfg_attr(feature = "kubernetes", schemars(regex(pattern = super::CIDR_PATTERN), length(max = 43)))]
    pub cidr: String,
    /// Prefix length of its blocks: 20 to 32 or 116 to 128; 26 or 122 when left out (or 0), more if the range is
    /// smaller.
    #[serde(default, skip_serializing_if = "is_left_out")]
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 20, max = 128), extend("default" = null)))]
    pub block_size: u32,
    /// `Never`, `CrossSubnet` or `Always`.
    #[serde(default = "never")]
    #[cfg_attr(feature = "kubernetes", schemars(extend("enum" = ["Never", "CrossSubnet", "Always"])))]
    pub ipip_mode: String,
    /// Whether pods leave the pools under the node's address.
    #[serde(default)]
    pub nat_outgoing: bool,
    /// Whether it hands out nothing new.
    #[serde(default)]
    pub disabled: bool,
    /// Which nodes may own blocks of it.
    #[serde(default = "all")]
    #[cfg_attr(feature = "kubernetes", schemars(length(max = 4096)))]
    pub node_selector: String,
    /// Which namespaces' pods may have addresses of it.
    #[serde(default = "all")]
    #[cfg_attr(feature = "kubernetes", schemars(length(max = 4096)))]
    pub namespace_selector: String,
    /// What its addresses may be used for: `Workload`, `Tunnel`.
    #[serde(default = "workload_and_tunnel")]
    #[cfg_attr(
        feature = "kubernetes",
        schemars(extend(
            "x-kubernetes-list-type" = "set",
            "items" = serde_json::json!({"type": "string", "enum": ["Workload", "Tunnel"]})
        ))
    )]
    pub allowed_uses: Vec<String>,
    /// `Automatic`, or `Manual` for pools that serve only who asks for them.
    #[serde(default = "automatic")]
    #[cfg_attr(feature = "kubernetes", schemars(extend("enum" = ["Automatic", "Manual"])))]
    pub assignment_mode: String,
    /// Lower is tried first.
    #[serde(default)]
    pub priority: i32,
    /// DSCP written on its pods' packets, 0 to 63; left out: packets keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 0, max = 63)))]
    pub dscp: Option<u8>,
    /// How long a freed address is kept back, in seconds.
    #[serde(default)]
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 0, max = 86_400)))]
    pub cooldown_seconds: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_left_out(block_size: &u32) -> bool {
    *block_size == 0
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

/// What agents observed of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IpPoolStatus {
    /// One of each type: `Allocatable` says whether the pool hands out addresses, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "kubernetes",
        schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))
    )]
    pub conditions: Vec<Condition>,
}

impl IpPoolStatus {
    /// Whether nothing was observed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }
}

/// A condition in the shape that Kubernetes gives all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about: `Allocatable`.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "kubernetes", schemars(length(min = 1, max = 316)))]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[cfg_attr(feature = "kubernetes", schemars(extend("enum" = ["True", "False", "Unknown"])))]
    pub status: String,
    /// One word that says why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When the status last changed, as RFC 3339. For people: nothing compares it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_transition_time: String,
    /// The `metadata.generation` this is about; 0 where none is known.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 0)))]
    pub observed_generation: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}
