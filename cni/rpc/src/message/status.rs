//! Pools for a firewall, and the state of the node.

use serde::{Deserialize, Serialize};

/// The exact ranges of pools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolsExportReply {
    /// In order of name.
    pub pools: Vec<PoolRange>,
}

/// The range of one pool and what its packets carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRange {
    /// Name.
    pub name: String,
    /// The pool's whole range.
    pub cidr: String,
    /// Tag id; 0 while it has none.
    pub tag: u16,
    /// `skb->mark` under [`PoolRange::mark_mask`].
    pub mark: u32,
    /// Which bits of the mark are ours.
    pub mark_mask: u32,
    /// DSCP written on its packets, if any.
    pub dscp: Option<u8>,
    /// Whether its pods leave as the node's address: then the range never shows outside.
    pub nat_outgoing: bool,
    /// `true` when it hands out nothing new.
    pub disabled: bool,
}

/// State of this node's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatusReply {
    /// Name of the node.
    pub node: String,
    /// Whether ADDs can be served.
    pub ready: bool,
    /// Why not; one line each.
    pub not_ready_reasons: Vec<String>,
    /// Version of the agent.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// Pods this node holds addresses for.
    pub pods: u64,
    /// Addresses held.
    pub addresses: u64,
    /// Blocks owned.
    pub blocks: u64,
    /// Uplink, its MTU, and the MTU pods get, for people.
    pub uplink: String,
    /// Which store, and whether it answers, for people.
    #[serde(default)]
    pub store: String,
    /// Who wraps packets in IPIP; empty where there are no other nodes.
    #[serde(default)]
    pub encap_backend: String,
    /// Other nodes that are known.
    #[serde(default)]
    pub peers: u64,
    /// Ranges that they serve.
    #[serde(default)]
    pub remote_ranges: u64,
    /// This node's own address out of a pool, or why it has none though it should.
    #[serde(default)]
    pub inner_address: String,
    /// What people should know although nothing is wrong; one line each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The last leaks that this agent removed, the latest first; one line each.
    #[serde(default)]
    pub leaks: Vec<String>,
    /// How programs are attached: `tcx` or `clsact`.
    pub attach_mode: String,
    /// Where programs and maps are pinned.
    pub pin_path: String,
    /// The last reconciliation of kernel state.
    pub reconcile: ReconcileStatus,
    /// Packets dropped by reason.
    pub drops: Vec<DropCount>,
    /// Packets and bytes by pool.
    pub traffic: Vec<PoolTraffic>,
}

/// What the last reconciliation of kernel state did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileStatus {
    /// Reconciliations since the agent started.
    pub runs: u64,
    /// Operations the first one planned: 0 after a restart in which nothing had changed.
    pub first_planned: u64,
    /// Operations the last one planned.
    pub last_planned: u64,
    /// What failed in the last one.
    pub last_errors: Vec<String>,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropCount {
    /// The reason's name, as in the map.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// Packets and bytes of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolTraffic {
    /// The pool, or `tag N` where the pool is gone.
    pub pool: String,
    /// From pods.
    pub tx_packets: u64,
    /// From pods.
    pub tx_bytes: u64,
    /// To pods.
    pub rx_packets: u64,
    /// To pods.
    pub rx_bytes: u64,
}

/// Versions of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionReply {
    /// Of the agent.
    pub version: String,
    /// Of the socket's protocol.
    pub protocol: u16,
    /// Of the layout of pinned maps.
    pub schema: u32,
}
