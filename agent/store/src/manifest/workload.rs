//! `Namespace` and `Pod`: what choosing a pool needs of them.

use super::fields::{Fields, Findings};
use crate::resource::{Metadata, Namespace, Pod, PodSpec};

/// `None` if anything is wrong.
pub(super) fn read_namespace(findings: &mut Findings, metadata: Metadata) -> Option<Namespace> {
    findings.errors.is_empty().then_some(Namespace { metadata })
}

/// Reads the two fields of `spec` that say where a pod runs; a pod's other fields are for others.
/// `None` if anything is wrong.
pub(super) fn read_pod(findings: &mut Findings, top: &Fields<'_>, metadata: Metadata) -> Option<Pod> {
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
