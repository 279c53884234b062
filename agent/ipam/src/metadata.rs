//! Whether what is known of a pod is good enough to choose a pool by (rule 8).
//!
//! Copies of pods and namespaces may be old: another pod of the same name, or a namespace from before it was
//! annotated. A pool that was chosen by them would be the wrong one for as long as the pod lives. So a pod must have the
//! UID that the runtime says, its namespace must have been read live after the pod had appeared, and what cannot be
//! found out is a refusal that may be tried again, never a default pool.
//!
//! Reading is not done here.

use crate::mutant::{self, Mutant};

/// What is known of a pod at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataKnown<'a> {
    /// UID of the pod of this name, if there is one.
    pub pod_uid: Option<&'a str>,
    /// The pod was read live for this request.
    pub pod_read_live: bool,
    /// Its namespace is known.
    pub namespace: bool,
    /// Its namespace was read live since a pod of this UID was first seen here.
    pub namespace_read_live: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataStep {
    /// Choose by what is known.
    Use,
    /// Read the pod live and ask again.
    ReadPod,
    /// Read the namespace live and ask again.
    ReadNamespace,
    /// Refuse; the same again may work.
    RefusePodUnknown,
    /// Refuse; the same again may work.
    RefuseOtherPod,
    /// Refuse; the same again may work.
    RefuseNamespaceUnknown,
}

/// Decides the next step for a pod whose UID the runtime gave, or did not (empty: nothing to compare).
#[must_use]
pub fn next_metadata_step(known: &MetadataKnown<'_>, runtime_uid: &str) -> MetadataStep {
    if mutant::on(Mutant::StaleMetadata) && known.pod_uid.is_some() && known.namespace {
        return MetadataStep::Use;
    }
    let Some(uid) = known.pod_uid else {
        return if known.pod_read_live { MetadataStep::RefusePodUnknown } else { MetadataStep::ReadPod };
    };
    if !runtime_uid.is_empty() && uid != runtime_uid {
        return if known.pod_read_live { MetadataStep::RefuseOtherPod } else { MetadataStep::ReadPod };
    }
    match (known.namespace_read_live, known.namespace) {
        (false, _) => MetadataStep::ReadNamespace,
        (true, false) => MetadataStep::RefuseNamespaceUnknown,
        (true, true) => MetadataStep::Use,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_chosen_only_by_the_right_pod_and_a_namespace_read_after_it_appeared() {
        let check = |pod_uid: Option<&str>, live: [bool; 3], runtime_uid: &str, expected: MetadataStep| {
            let [pod_read_live, namespace, namespace_read_live] = live;
            let known = MetadataKnown { pod_uid, pod_read_live, namespace, namespace_read_live };
            assert_eq!(next_metadata_step(&known, runtime_uid), expected, "{known:?} {runtime_uid:?}");
        };
        check(None, [false, true, true], "u1", MetadataStep::ReadPod);
        check(None, [true, true, true], "u1", MetadataStep::RefusePodUnknown);
        check(Some("u0"), [false, true, true], "u1", MetadataStep::ReadPod);
        check(Some("u0"), [true, true, true], "u1", MetadataStep::RefuseOtherPod);
        check(Some("u1"), [false, true, false], "u1", MetadataStep::ReadNamespace);
        check(Some("u1"), [false, false, true], "u1", MetadataStep::RefuseNamespaceUnknown);
        check(Some("u1"), [false, true, true], "u1", MetadataStep::Use);
        check(Some("u1"), [false, true, true], "", MetadataStep::Use);
        check(Some("u1"), [false, true, false], "", MetadataStep::ReadNamespace);
    }
}
