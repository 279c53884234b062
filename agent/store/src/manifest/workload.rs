//! `Namespace` and `Pod`: what choosing a pool needs of them.

use std::collections::BTreeMap;

use ipam::annotations::{AnnotationError, PoolSources, parse_pool_list, pool_keys, requested_pools};
use model::Family;
use serde_json::json;

use super::fields::{Fields, Findings};
use crate::resource::{Metadata, Namespace, Pod, PodSpec};

/// Annotations that Calico follows and Poolward does not.
const NOT_FOLLOWED: [&str; 4] = [
    "cni.projectcalico.org/floatingIPs",
    "cni.projectcalico.org/hwAddr",
    "cni.projectcalico.org/ipAddrs",
    "cni.projectcalico.org/ipAddrsNoIpam",
];

/// `None` if anything is wrong.
pub(super) fn read_namespace(findings: &mut Findings, metadata: Metadata) -> Option<Namespace> {
    check_annotations(findings, &metadata.annotations);
    findings.errors.is_empty().then_some(Namespace { metadata })
}

/// Reads the two fields of `spec` that say where a pod runs; a pod's other fields are for others.
/// `None` if anything is wrong.
pub(super) fn read_pod(findings: &mut Findings, top: &Fields<'_>, metadata: Metadata) -> Option<Pod> {
    check_annotations(findings, &metadata.annotations);
    let mut spec = PodSpec::default();
    if let Some(fields) = top.inside(findings, "spec", "spec") {
        spec.node_name = fields.text(findings, "nodeName").unwrap_or_default().to_owned();
        spec.host_network = fields.boolean(findings, "hostNetwork").unwrap_or_default();
        if !spec.node_name.is_empty()
            && let Err(error) = spec.node_name.parse::<model::NodeName>()
        {
            fields.refuse(findings, "nodeName", error.to_string());
        }
    }
    findings.errors.is_empty().then_some(Pod { metadata, spec })
}

/// Annotations that an ADD would fail on are refused here already, each by its key.
fn check_annotations(findings: &mut Findings, annotations: &BTreeMap<String, String>) {
    let nothing = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        for key in pool_keys(family) {
            if let Some(value) = annotations.get(key)
                && let Err(reason) = parse_pool_list(value)
            {
                findings.refuse(&format!("metadata.annotations.{key}"), Some(&json!(value)), reason);
            }
        }
        let sources =
            PoolSources { pod: annotations, namespace: &nothing, network_v4: None, network_v6: None };
        if let Err(AnnotationError::Contradiction { first, second, .. }) = requested_pools(&sources, family) {
            let reason = format!("differs from {first}: set only one of them, or both alike");
            let value = annotations.get(second).map(|value| json!(value));
            findings.refuse(&format!("metadata.annotations.{second}"), value.as_ref(), reason);
        }
    }
    for key in NOT_FOLLOWED {
        if annotations.contains_key(key) {
            findings.warn(&format!("metadata.annotations.{key}"), "has no effect here");
        }
    }
}
