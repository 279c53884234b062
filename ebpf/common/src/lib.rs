//! What the programs in the kernel and the agent must agree on: keys and values of the maps ([`layout`]),
//! reasons for a drop ([`DropReason`]), and the verdicts themselves ([`verdict`], [`mark`], [`dscp`] for pods,
//! [`to_uplink`], [`from_uplink`], [`path_mtu`] between nodes) as plain functions, so that they are tested on the
//! host and run in the kernel.
//!
//! Deliberately not here: reading a real `sk_buff`, looking maps up and counting (the programs), and creating
//! or pinning maps (the `bpf` crate).
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]
#![cfg_attr(feature = "user", deny(unsafe_code))]

#[cfg(test)]
extern crate std;

mod arp;
mod drop_reason;
pub mod dscp;
pub mod from_uplink;
mod ipv4;
mod ipv4_header;
mod ipv6;
pub mod layout;
pub mod mark;
mod nd;
mod packet;
pub mod path_mtu;
mod tables;
pub mod to_uplink;
#[cfg(feature = "user")]
mod user;
pub mod verdict;

pub use drop_reason::DropReason;
pub use from_uplink::{FromUplink, check_from_uplink};
pub use ipv4_header::Header;
pub use layout::{
    Endpoint, EndpointKey, MAX_SOURCES, MAX_UPLINKS, PathMtu, PeerEntry, PeerKey, PoolCounters, PoolEntry,
    RemoteEntry, Settings, SourceKey, TagEntry, TagKey, UplinkEntry,
};
pub use packet::{NEAR_LEN, Packet, SlicePacket};
pub use tables::Tables;
pub use to_uplink::{ToUplink, check_to_uplink};
pub use verdict::{Source, Verdict, check_from_pod, claimed_source};

/// Version of everything in [`layout`] and of the meaning of the maps, part of the pin path. Raised whenever a
/// newer agent could not use the maps of an older one as they stand.
pub const SCHEMA_VERSION: u32 = 3;

/// Names of the maps in the kernel. At most 15 characters: the kernel cuts there.
pub mod map_name {
    /// Hash, [`EndpointKey`](crate::EndpointKey) to [`Endpoint`](crate::Endpoint).
    pub const ENDPOINTS: &str = "pw_endpoints";
    /// LPM trie, [`SourceKey`](crate::SourceKey) to a number that is not 0.
    pub const SOURCES: &str = "pw_sources";
    /// LPM trie, IPv4 prefix to [`PoolEntry`](crate::PoolEntry).
    pub const POOLS_V4: &str = "pw_pools_v4";
    /// LPM trie, IPv6 prefix to [`PoolEntry`](crate::PoolEntry).
    pub const POOLS_V6: &str = "pw_pools_v6";
    /// Per-CPU hash, [`TagKey`](crate::TagKey) to [`PoolCounters`](crate::PoolCounters).
    pub const POOL_STATS: &str = "pw_pool_stats";
    /// Per-CPU array of packets by [`DropReason`](crate::DropReason).
    pub const DROPS: &str = "pw_drops";
    /// Array of one [`Settings`](crate::Settings).
    pub const SETTINGS: &str = "pw_settings";

    /// Hash, [`TagKey`](crate::TagKey) to [`TagEntry`](crate::TagEntry).
    pub const TAGS: &str = "pw_tags";
    /// Hash, [`UplinkKey`](crate::UplinkKey) to [`UplinkEntry`](crate::UplinkEntry).
    pub const UPLINKS: &str = "pw_uplinks";
    /// LPM trie, IPv4 prefix to [`RemoteEntry`](crate::RemoteEntry).
    pub const REMOTE: &str = "pw_remote";
    /// Hash, [`PeerKey`](crate::PeerKey) to [`PeerEntry`](crate::PeerEntry).
    pub const PEERS: &str = "pw_peers";
    /// Hash, [`PeerKey`](crate::PeerKey) to [`PathMtu`](crate::PathMtu).
    pub const PATH_MTUS: &str = "pw_path_mtus";

    /// All of them.
    pub const ALL: [&str; 12] = [
        ENDPOINTS, SOURCES, POOLS_V4, POOLS_V6, POOL_STATS, DROPS, SETTINGS, TAGS, UPLINKS, REMOTE, PEERS,
        PATH_MTUS,
    ];
}
