//! How addresses are given, in the whole cluster.

use serde::{Deserialize, Serialize};

use super::{Metadata, Resource};

/// How addresses are given, in the whole cluster. There is one, called [`IpamConfig::NAME`], or none: then each
/// agent goes by its own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamConfig {
    /// Always [`IpamConfig::NAME`].
    pub metadata: Metadata,
    /// The settings.
    pub spec: IpamConfigSpec,
}
resource!(IpamConfig {
    const KIND: &'static str = "IPAMConfig";
    const PLURAL: &'static str = "ipamconfigs";
});

impl IpamConfig {
    /// The name of the one there is.
    pub const NAME: &'static str = "default";
}

/// The longest grace, in seconds: a week.
pub const MAX_GRACE_SECONDS: u32 = 7 * 86_400;

/// Settings that hold for all nodes. Names, meanings and what holds when one is left out are those of the agent's
/// own configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct IpamConfigSpec {
    /// Never borrow addresses from other nodes' blocks, nor lend.
    pub strict_affinity: bool,
    /// Claim blocks when own ones have no room.
    pub auto_allocate_blocks: bool,
    /// Selectors hold for pools that a pod asks for by name, too.
    pub enforce_selectors_on_request: bool,
    /// The most blocks of one family a node may own; left out: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 1, max = 65_536)))]
    pub max_blocks_per_node: Option<u32>,
    /// What a node does at that limit: `Fail` or `Borrow`.
    #[cfg_attr(feature = "kubernetes", schemars(extend("enum" = ["Fail", "Borrow"])))]
    pub at_block_limit: String,
    /// An empty block that is not needed is given up after this many seconds.
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 0, max = MAX_GRACE_SECONDS)))]
    pub release_after_seconds: u32,
    /// A borrowed address that nobody holds is given back after this many seconds.
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 0, max = MAX_GRACE_SECONDS)))]
    pub return_after_seconds: u32,
    /// Blocks of a node without Node object may be taken after this many seconds; such a node must be off or fenced
    /// by then.
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 30, max = MAX_GRACE_SECONDS)))]
    pub gone_after_seconds: u32,
}

impl Default for IpamConfigSpec {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            enforce_selectors_on_request: true,
            max_blocks_per_node: None,
            at_block_limit: "Fail".to_owned(),
            release_after_seconds: 300,
            return_after_seconds: 60,
            gone_after_seconds: 600,
        }
    }
}
