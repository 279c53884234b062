//! The registry of pools.

use serde::{Deserialize, Serialize};

use super::{Metadata, Resource};

/// The one object that admits pools, so that no two that overlap are ever served from. Written by agents only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolRegistry {
    /// Always [`IpPoolRegistry::NAME`].
    pub metadata: Metadata,
    /// What is admitted.
    pub spec: IpPoolRegistrySpec,
}
resource!(IpPoolRegistry {
    const KIND: &'static str = "IPPoolRegistry";
    const PLURAL: &'static str = "ippoolregistries";
});

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
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
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
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RegistryEntry {
    /// The pool's name.
    pub name: String,
    /// The pool's uid.
    pub uid: String,
    /// The pool's range.
    #[cfg_attr(feature = "kubernetes", schemars(regex(pattern = super::CIDR_PATTERN), length(max = 43)))]
    pub cidr: String,
    /// Prefix length of its blocks.
    pub block_size: u32,
    /// The tag id its packets carry; never 0.
    #[cfg_attr(feature = "kubernetes", schemars(range(min = 1)))]
    pub tag: u16,
    /// Deleted, but blocks of it are left: nothing new is served or claimed.
    #[serde(default)]
    pub terminating: bool,
}
