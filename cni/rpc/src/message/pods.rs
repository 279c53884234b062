//! What runtimes ask, by way of the plugin: attachments and their addresses.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

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
