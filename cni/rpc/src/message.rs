//! Requests and replies. Every request has exactly one reply; a connection carries one request.
//!
//! Wire types only: text and numbers, checked and converted into `model` types by the agent.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A question to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Request {
    /// CNI ADD. The pod's network namespace travels beside it as a file descriptor.
    CniAdd(AddRequest),
    /// CNI ADD whose addresses another IPAM plugin gave. The pod's network namespace travels beside it as a file
    /// descriptor. Answered with [`Reply::Added`].
    CniAddDelegated(AddDelegatedRequest),
    /// CNI ADD of addresses alone, for another main plugin. The pod's network namespace travels beside it as a file
    /// descriptor.
    CniIpamAdd(IpamAddRequest),
    /// The ranges that the cluster gave this node for its pods.
    PodCidrs,
    /// CNI DEL.
    CniDel(DelRequest),
    /// CNI CHECK. The pod's network namespace travels beside it as a file descriptor.
    CniCheck(CheckRequest),
    /// CNI GC.
    CniGc(GcRequest),
    /// CNI STATUS: answered with [`Reply::Done`] or an error of code [`ErrorCode::NotReady`] or
    /// [`ErrorCode::NotReadyLimited`].
    CniStatus,
    /// Create or change objects, all or none.
    Apply(ApplyRequest),
    /// Read objects.
    Get(GetRequest),
    /// Delete one object.
    Delete(DeleteRequest),
    /// How full pools and blocks are, or who holds an address.
    IpamShow(IpamShowRequest),
    /// Free addresses whose holder is known.
    IpamRelease(IpamReleaseRequest),
    /// Whether everything known of blocks, addresses and interfaces fits together.
    IpamCheck,
    /// The exact ranges of pools, for a firewall.
    PoolsExport,
    /// State of this node's agent.
    NodeStatus,
    /// Versions of the agent and of what it speaks.
    Version,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "camelCase")]
pub enum Reply {
    /// It did not work; nothing was changed unless the text says so.
    Error(RpcError),
    /// It is done, and there is nothing to tell.
    Done,
    /// To [`Request::CniAdd`].
    Added(AddReply),
    /// To [`Request::CniIpamAdd`].
    Assigned(AssignedReply),
    /// To [`Request::PodCidrs`].
    PodCidrs(PodCidrsReply),
    /// To [`Request::CniGc`].
    Collected(GcReply),
    /// To [`Request::Apply`] and [`Request::Delete`].
    Applied(ApplyReply),
    /// To [`Request::Get`].
    Objects(GetReply),
    /// To [`Request::IpamShow`].
    Ipam(IpamReply),
    /// To [`Request::IpamRelease`].
    Released(IpamReleaseReply),
    /// To [`Request::IpamCheck`].
    IpamChecked(IpamCheckReply),
    /// To [`Request::PoolsExport`].
    Pools(PoolsExportReply),
    /// To [`Request::NodeStatus`].
    Node(Box<NodeStatusReply>),
    /// To [`Request::Version`].
    Version(VersionReply),
}

/// Why a request was not carried out, in kinds that a caller acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// The request itself is wrong; the same again fails again.
    Invalid,
    /// What it speaks of does not exist.
    NotFound,
    /// Somebody else holds or has changed it.
    Conflict,
    /// No address can be given: pools are full, passed over or missing.
    Exhausted,
    /// Not now; the same again may work (CNI code 11).
    TryAgain,
    /// CNI STATUS: no address can be given (CNI code 50).
    NotReady,
    /// CNI STATUS: and existing pods may have limited connectivity (CNI code 51).
    NotReadyLimited,
    /// CNI CHECK found a difference.
    CheckFailed,
    /// The request was cancelled by a DEL of the same handle.
    Cancelled,
    /// The kernel or the store failed in a way the request cannot mend.
    Internal,
    /// The peer speaks another protocol version.
    Version,
}

/// A refusal or a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// What kind.
    pub code: ErrorCode,
    /// One line: operation, object, cause.
    pub message: String,
    /// More lines: reasons pool by pool, or what to do next. May be empty.
    #[serde(default)]
    pub details: Vec<String>,
}

/// Who an attachment is: shared by ADD, DEL and CHECK.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `name` of the network configuration.
    pub network: String,
}

/// What Kubernetes says of the pod in `CNI_ARGS` (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`); empty
/// where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// CNI ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddRequest {
    /// Who.
    pub attachment: Attachment,
    /// `CNI_NETNS`, for messages; the descriptor is what counts.
    pub netns_path: String,
    /// The pod.
    pub pod: PodRef,
    /// What the network configuration asks for.
    #[serde(default)]
    pub options: NetworkOptions,
}

/// CNI ADD whose addresses another IPAM plugin gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddDelegatedRequest {
    /// Everything else.
    pub add: AddRequest,
    /// At most one address of each family; none: only if it was added before, and then as it was.
    pub addresses: Vec<IpAddr>,
}

/// CNI ADD of addresses alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamAddRequest {
    /// Everything else.
    pub add: AddRequest,
    /// Addresses get the prefix length of what is on the link. Otherwise that of a single host.
    pub on_link: bool,
    /// What is on the link, at most one range of each family, as text; of a family without one it is the pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<String>,
    /// Next hops of default routes, at most one of each family; absent: the second address on each link.
    #[serde(default)]
    pub gateways: Option<Vec<IpAddr>>,
}

/// What was assigned for another main plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignedReply {
    /// IPv4 first.
    pub addresses: Vec<AssignedAddress>,
}

/// One address for another main plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignedAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix that is on the link.
    pub prefix_len: u8,
    /// The default route's next hop, if there is to be one.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// The pool it is from.
    pub pool: String,
}

/// The ranges that the cluster gave this node (`spec.podCIDRs` of its Node object).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCidrsReply {
    /// In the order of the object; may be empty.
    pub cidrs: Vec<String>,
}

/// What the network configuration may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkOptions {
    /// `ipam.ipv4_pools`: names or CIDRs. Absent: not asked.
    #[serde(default)]
    pub ipv4_pools: Option<Vec<String>>,
    /// `ipam.ipv6_pools`: names or CIDRs. Absent: not asked.
    #[serde(default)]
    pub ipv6_pools: Option<Vec<String>>,
    /// `ipam.assign_ipv4`; absent: as the agent is configured and pools exist.
    #[serde(default)]
    pub assign_ipv4: Option<bool>,
    /// `ipam.assign_ipv6`; absent: as the agent is configured and pools exist.
    #[serde(default)]
    pub assign_ipv6: Option<bool>,
    /// `mtu` in bytes; absent: from the uplink.
    #[serde(default)]
    pub mtu_bytes: Option<u32>,
}

/// What an ADD made, enough for a CNI result of any version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddReply {
    /// The host's end.
    pub host: InterfaceReply,
    /// The pod's end.
    pub pod: InterfaceReply,
    /// The pod's addresses, IPv4 first.
    pub addresses: Vec<AddressReply>,
    /// MTU of both ends.
    pub mtu_bytes: u32,
}

/// One end of the veth pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceReply {
    /// Name.
    pub name: String,
    /// Hardware address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
}

/// One address of a pod. The prefix length is always that of a single host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressReply {
    /// The address.
    pub address: IpAddr,
    /// The default route's next hop in the pod.
    pub gateway: IpAddr,
    /// The pool it is from.
    pub pool: String,
}

/// CNI DEL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DelRequest {
    /// Who.
    pub attachment: Attachment,
}

/// CNI CHECK.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckRequest {
    /// Who.
    pub attachment: Attachment,
    /// Addresses that `prevResult` promises for this interface.
    pub expected_addresses: Vec<IpAddr>,
}

/// CNI GC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcRequest {
    /// `name` of the network configuration: attachments of other networks are not touched.
    pub network: String,
    /// `cni.dev/valid-attachments`.
    pub valid: Vec<ValidAttachment>,
    /// When the plugin started, milliseconds of `CLOCK_BOOTTIME`: attachments younger than that are not
    /// touched.
    pub called_at_boot_ms: u64,
}

/// An attachment that the runtime still knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidAttachment {
    /// `containerID`.
    pub container_id: String,
    /// `ifname`.
    pub ifname: String,
}

/// What a GC freed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcReply {
    /// Attachments freed.
    pub freed: Vec<ValidAttachment>,
    /// What could not be freed, and why.
    pub errors: Vec<String>,
}

/// Objects to create or change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyRequest {
    /// In the order of the files.
    pub documents: Vec<Document>,
    /// Check only.
    #[serde(default)]
    pub dry_run: bool,
}

/// One document of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Where it stands, for messages: `pools.yaml, document 2`.
    pub source: String,
    /// The document itself.
    pub body: serde_json::Value,
}

/// What became of each document or object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyReply {
    /// One per document, in order.
    pub results: Vec<ObjectResult>,
    /// What was accepted but has no effect here, for people.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What became of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectResult {
    /// `ippool`, `ipreservation`, `ipblock`, `namespace` or `pod`.
    pub kind: String,
    /// Name, or `namespace/name`.
    pub name: String,
    /// `created`, `configured`, `unchanged`, `deleted` or `terminating`.
    pub outcome: String,
}

/// Which objects to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetRequest {
    /// `ippool`, `ipreservation`, `ipblock`, `namespace` or `pod`.
    pub kind: String,
    /// One by name (`namespace/name` for pods), or all.
    #[serde(default)]
    pub name: Option<String>,
}

/// Objects as manifests, with `status` where there is one: a pool's may say `tag` (its tag id), `terminating`
/// (`true` once it is deleted while blocks are left) and `conditions` (`type`, `status`, `reason`, as in
/// Kubernetes; `Allocatable=False` when it is not admitted).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetReply {
    /// In order of name.
    pub objects: Vec<serde_json::Value>,
}

/// Which object to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteRequest {
    /// `ippool`, `ipreservation`, `namespace` or `pod`.
    pub kind: String,
    /// Its name (`namespace/name` for pods).
    pub name: String,
}

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
