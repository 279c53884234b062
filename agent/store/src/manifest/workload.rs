//! `Namespace` and `Pod`: what choosing a pool needs of them.

use std::collections::BTreeMap;

use ipam::annotations::wishes::{self, POD_ONLY_KEYS};
use ipam::annotations::{AnnotationError, PoolSources, parse_pool_list, pool_keys, requested_pools};
use model::Family;
use serde_json::json;

use super::fields::{Fields, Findings};
use crate::resource::{Metadata, Namespace, Pod, PodSpec};

/// Annotations that Calico follows and Poolward does not.
const NOT_FOLLOWED: [&str; 2] = ["cni.projectcalico.org/floatingIPs", "cni.projectcalico.org/ipAddrsNoIpam"];

/// `None` if anything is wrong.
pub(super) fn read_namespace(findings: &mut Findings, metadata: Metadata) -> Option<Namespace> {
    check_annotations(findings, &metadata.annotations);
    let nothing = BTreeMap::new();
    check_wishes(findings, &nothing, &metadata.annotations);
    for key in POD_ONLY_KEYS.as_flattened() {
        if metadata.annotations.contains_key(*key) {
            findings
                .warn(&format!("metadata.annotations.{key}"), "has no effect on a namespace, only on a pod");
        }
    }
    findings.errors.is_empty().then_some(Namespace { metadata })
}

/// Reads the two fields of `spec` that say where a pod runs; a pod's other fields are for others.
/// `None` if anything is wrong.
pub(super) fn read_pod(findings: &mut Findings, top: &Fields<'_>, metadata: Metadata) -> Option<Pod> {
    check_annotations(findings, &metadata.annotations);
    check_wishes(findings, &metadata.annotations, &BTreeMap::new());
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

/// The same for what annotations ask for besides pools.
fn check_wishes(
    findings: &mut Findings,
    pod: &BTreeMap<String, String>,
    namespace: &BTreeMap<String, String>,
) {
    let (key, reason) = match wishes::wishes(pod, namespace) {
        Ok(_) => return,
        Err(AnnotationError::Malformed { key, reason, .. }) => (key, reason),
        Err(AnnotationError::Contradiction { first, second, .. }) => {
            (second, format!("differs from {first}: set only one of them, or both alike"))
        }
    };
    let value = pod.get(key).or_else(|| namespace.get(key)).map(|value| json!(value));
    findings.refuse(&format!("metadata.annotations.{key}"), value.as_ref(), reason);
}
