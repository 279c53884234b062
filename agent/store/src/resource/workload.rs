//! Objects of Kubernetes, reduced to what choosing a pool and finding a node need.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{API_VERSION_CORE, Metadata, Resource};

/// What kubectl keeps the whole manifest in: of no use here, and large.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Annotations of a Node that say its IPv6 address where its status does not: ours, and the one that Calico writes, with a
/// prefix length behind the address.
const IPV6_ADDRESS: [&str; 2] = ["poolward.io/ipv6-address", "projectcalico.org/IPv6Address"];

/// A namespace of Kubernetes, or of a node without it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// Name, uid, labels and annotations.
    pub metadata: Metadata,
}
resource!(Namespace {
    const KIND: &'static str = "Namespace";
    const PLURAL: &'static str = "namespaces";
    const API_VERSION: &'static str = API_VERSION_CORE;

    fn from_api(json: &str) -> Result<Self, serde_json::Error> {
        let mut namespace: Self = serde_json::from_str(json)?;
        namespace.metadata.annotations.remove(LAST_APPLIED);
        Ok(namespace)
    }
});

/// A node of Kubernetes. Where there are none, no node is ever found to be gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Name, uid and labels.
    pub metadata: Metadata,
    /// Its `InternalIP` addresses, as text, in the order of its status; behind them an IPv6 address that an annotation tells
    /// where there is none among them: kubelets that know one address of their node report one family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The ranges that the cluster gave it for its pods (`spec.podCIDRs`), as text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
}
resource!(Node {
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
    const API_VERSION: &'static str = API_VERSION_CORE;

    /// Annotations are left out: nothing looks at them, and those of 5,000 nodes would take most of an agent's memory.
    fn from_api(json: &str) -> Result<Self, serde_json::Error> {
        let ApiNode { metadata, spec, status } = serde_json::from_str(json)?;
        // Older servers write the first one alone.
        let first = Some(spec.pod_cidr).filter(|cidr| !cidr.is_empty());
        let pod_cidrs = if spec.pod_cidrs.is_empty() { first.into_iter().collect() } else { spec.pod_cidrs };
        let internal = status.addresses.into_iter().filter(|address| address.kind == "InternalIP");
        let mut addresses: Vec<String> = internal.map(|address| address.address).collect();
        // By the colon alone: what is no address is said to be none where addresses are read.
        if !addresses.iter().any(|address| address.contains(':')) {
            let told = IPV6_ADDRESS.iter().find_map(|key| metadata.annotations.get(*key));
            addresses.extend(told.map(|told| told.split('/').next().unwrap_or(told).trim().to_owned()));
        }
        Ok(Self { metadata: Metadata { annotations: BTreeMap::new(), ..metadata }, addresses, pod_cidrs })
    }
});

/// The part of a Node that says where it is and what its pods' ranges are.
#[derive(Deserialize)]
struct ApiNode {
    metadata: Metadata,
    #[serde(default)]
    spec: ApiNodeSpec,
    #[serde(default)]
    status: ApiNodeStatus,
}

#[derive(Default, Deserialize)]
struct ApiNodeSpec {
    #[serde(default, rename = "podCIDR")]
    pod_cidr: String,
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
struct ApiNodeStatus {
    #[serde(default)]
    addresses: Vec<ApiNodeAddress>,
}

#[derive(Deserialize)]
struct ApiNodeAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// A pod of Kubernetes, or of a node without it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Name, namespace, uid, labels and annotations.
    pub metadata: Metadata,
    /// Where it runs.
    #[serde(default)]
    pub spec: PodSpec,
}
resource!(Pod {
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
    const API_VERSION: &'static str = API_VERSION_CORE;
    const NAMESPACED: bool = true;

    fn from_api(json: &str) -> Result<Self, serde_json::Error> {
        let mut pod: Self = serde_json::from_str(json)?;
        pod.metadata.annotations.remove(LAST_APPLIED);
        Ok(pod)
    }
});

/// Where a pod runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Its node; empty while it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Whether it uses the node's own network, and so has no address of its own.
    #[serde(default)]
    pub host_network: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_ipv6_address_is_its_statuss_or_an_annotations() {
        let check = |annotations: &[(&str, &str)], internal: &[&str], expected: &[&str]| {
            let addresses: Vec<_> = internal
                .iter()
                .map(|address| serde_json::json!({"type": "InternalIP", "address": address}))
                .collect();
            let annotations: BTreeMap<&str, &str> = annotations.iter().copied().collect();
            let node = serde_json::json!({
                "metadata": {"name": "a", "annotations": annotations}, "status": {"addresses": addresses},
            });
            let node = Node::from_api(&node.to_string()).unwrap();
            assert_eq!(node.addresses, expected);
            assert_eq!(node.metadata.annotations.len(), 0);
        };
        let (ours, calicos) = (IPV6_ADDRESS[0], IPV6_ADDRESS[1]);
        check(&[], &["192.0.2.1"], &["192.0.2.1"]);
        check(&[(ours, "fd00::1")], &["192.0.2.1"], &["192.0.2.1", "fd00::1"]);
        check(&[(calicos, "fd00::2/64")], &["192.0.2.1"], &["192.0.2.1", "fd00::2"]);
        check(&[(calicos, "fd00::2/64"), (ours, "fd00::1")], &["192.0.2.1"], &["192.0.2.1", "fd00::1"]);
        check(&[(ours, "fd00::1")], &["fd00::9", "192.0.2.1"], &["fd00::9", "192.0.2.1"]);
    }
}
