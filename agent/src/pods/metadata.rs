//! What is known of a pod before it gets an address: labels of its namespace, and the pools it asks for.
//!
//! A pod whose namespace or own object is not known is refused for now and never served from a default pool: the
//! runtime asks again, and by then the object may be there.

use std::collections::BTreeMap;

use ipam::annotations::wishes::{Wishes, want_of, wishes};
use ipam::annotations::{AnnotationError, PoolSources, requested_pools};
use ipam::{AssignRequest, FamilyRequest, MetadataKnown, MetadataStep};
use model::{Extras, Family, Handle, Labels};
use rpc::{NetworkOptions, PodRef, RpcError};
use store::resource::Pod;
use store::{Key, Store, Versioned};

use super::{INVENTED_UID_PREFIX, Pods};
use crate::answer::{invalid, try_again};

/// More reads than a pod and its namespace can need.
const MAX_READS: usize = 4;

/// What Kubernetes says; empty where the runtime is not Kubernetes.
#[derive(Debug, Default)]
struct Metadata {
    namespace_labels: Labels,
    namespace_annotations: BTreeMap<String, String>,
    pod_annotations: BTreeMap<String, String>,
}

/// What an ADD is to come to.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// What `ipam` decides.
    pub(super) request: AssignRequest,
    /// What the pod gets besides addresses.
    pub(super) extras: Extras,
    /// Its interface is another plugin's.
    pub(super) foreign_interface: bool,
    /// The annotation that names addresses, for refusals.
    pub(super) address_key: Option<&'static str>,
}

impl<S: Store> Pods<S> {
    /// What is wanted, before anything is decided.
    ///
    /// # Errors
    /// Metadata is not there yet or is another pod's (try again), or an annotation is malformed.
    pub(super) async fn assign_request(
        &self,
        handle: &Handle,
        pod: &PodRef,
        options: &NetworkOptions,
    ) -> Result<Wanted, RpcError> {
        let metadata = self.metadata(pod).await?;
        let malformed = |error: AnnotationError| invalid(format!("pod {}: {error}", name_of(pod)));
        let wishes = wishes(&metadata.pod_annotations, &metadata.namespace_annotations).map_err(malformed)?;
        let sources = PoolSources {
            pod: &metadata.pod_annotations,
            namespace: &metadata.namespace_annotations,
            network_v4: options.ipv4_pools.as_deref(),
            network_v6: options.ipv6_pools.as_deref(),
        };
        let family = |family, assign: Option<bool>| {
            let pools = requested_pools(&sources, family).map_err(malformed)?;
            let want = want_of(&wishes, family, assign, pools.is_some());
            let address = wishes.addresses.and_then(|(_, addresses)| addresses.of(family));
            Ok::<_, RpcError>(FamilyRequest { want, pools, address })
        };
        let request = AssignRequest {
            v4: family(Family::V4, options.assign_ipv4)?,
            v6: family(Family::V6, options.assign_ipv6)?,
            ..AssignRequest::new(handle.clone(), metadata.namespace_labels)
        };
        let address_key = wishes.addresses.map(|(key, _)| key);
        Ok(Wanted { request, extras: self.extras(pod, wishes)?, foreign_interface: false, address_key })
    }

    /// What the pod gets besides addresses, if this node gives it.
    fn extras(&self, pod: &PodRef, wishes: Wishes) -> Result<Extras, RpcError> {
        let mut extras = Extras { mac: wishes.mac.map(|(_, mac)| mac), ..Extras::default() };
        let Some((key, sources)) = wishes.sources else { return Ok(extras) };
        if !self.node.config.allow_source_prefixes {
            let mut error = invalid(format!(
                "pod {}: pod annotation {key}: this node lets no pod send from other sources than its own",
                name_of(pod)
            ));
            error
                .details
                .push("to allow it: allowSourcePrefixes: Any in the agent's configuration".to_owned());
            return Err(error);
        }
        extras.allowed_sources = sources;
        Ok(extras)
    }

    /// Reads what is not known well enough, then takes it.
    async fn metadata(&self, pod: &PodRef) -> Result<Metadata, RpcError> {
        if pod.namespace.is_empty() && pod.name.is_empty() {
            return Ok(Metadata::default());
        }
        let world = &self.node.world;
        let namespace_key =
            Key::named(&pod.namespace).map_err(|error| invalid(format!("K8S_POD_NAMESPACE: {error}")))?;
        let key = Key::namespaced(&pod.namespace, &pod.name)
            .map_err(|error| invalid(format!("K8S_POD_NAME: {error}")))?;
        let (mut object, mut pod_read_live) = (world.pods.get(&key), false);
        for _ in 0..MAX_READS {
            let uid = object.as_ref().map(|object| object.uid.as_str());
            let fresh = uid.and_then(|uid| self.node.fresh.namespace(&key, uid));
            let copy = world.namespaces.get(&namespace_key);
            // Whichever is newer: the copy may have moved on since.
            let namespace = match (fresh.clone().flatten(), copy) {
                (Some(read), Some(copy)) if copy.revision < read.revision => Some(read),
                (read, copy) => copy.or(read),
            };
            let comparable = !uid.is_some_and(|uid| uid.starts_with(INVENTED_UID_PREFIX));
            let known = MetadataKnown {
                pod_uid: object.as_ref().map(uid_at_runtime),
                pod_read_live,
                namespace: namespace.is_some(),
                namespace_read_live: fresh.is_some(),
            };
            match (
                ipam::next_metadata_step(&known, if comparable { &pod.uid } else { "" }),
                namespace,
                &object,
            ) {
                (MetadataStep::Use, Some(namespace), Some(object)) => {
                    return Ok(Metadata {
                        namespace_labels: namespace.value.metadata.labels,
                        namespace_annotations: namespace.value.metadata.annotations,
                        pod_annotations: object.value.metadata.annotations.clone(),
                    });
                }
                (MetadataStep::ReadPod, _, _) => {
                    object = self.node.store.get::<Pod>(&key).await.map_err(try_again)?;
                    pod_read_live = true;
                }
                (MetadataStep::ReadNamespace, _, Some(known)) => {
                    let read = self.node.read_namespace(&key, &known.uid, &namespace_key).await;
                    read.map_err(try_again)?;
                }
                // Without its namespace no pod of it is known either; the cause is the better answer.
                (MetadataStep::RefuseNamespaceUnknown, _, _) | (MetadataStep::RefusePodUnknown, None, _) => {
                    return Err(unknown("namespace", &pod.namespace));
                }
                (MetadataStep::RefuseOtherPod, _, _) => {
                    return Err(other_pod(pod, object.as_ref().map_or("", uid_at_runtime)));
                }
                (MetadataStep::RefusePodUnknown | MetadataStep::Use | MetadataStep::ReadNamespace, _, _) => {
                    return Err(unknown("pod", &name_of(pod)));
                }
            }
        }
        Err(try_again(format!("pod {} changes faster than it can be read", name_of(pod))))
    }
}

/// The annotation by which a kubelet marks the object that it has made for a pod of its own, a static one: the hash of the
/// pod's manifest.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The UID by which a runtime knows the pod of an object with this UID: the hash, where the object is only a mirror.
fn uid_at_runtime(object: &Versioned<Pod>) -> &str {
    object.value.metadata.annotations.get(MIRROR).map_or(&object.uid, String::as_str)
}

fn other_pod(pod: &PodRef, known_uid: &str) -> RpcError {
    let mut error = try_again(format!(
        "pod {} has UID {known_uid} here, the runtime says {}: the new pod is not to be seen yet",
        name_of(pod),
        pod.uid
    ));
    error.details.push("the runtime asks again by itself".to_owned());
    error
}

fn name_of(pod: &PodRef) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn unknown(what: &str, name: &str) -> RpcError {
    let mut error =
        try_again(format!("{what} {name} is not known on this node: no pool is chosen without it"));
    error.details.push(format!(
        "the runtime asks again by itself; on a standalone node, `poolwardctl apply` the {what}"
    ));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_pod_is_known_to_the_runtime_by_the_hash_of_its_manifest() {
        // Every pod that a kubelet has read from somewhere has this one.
        let hash = ("kubernetes.io/config.hash".to_owned(), "of another".to_owned());
        let mut value = Pod::default();
        value.metadata.annotations = BTreeMap::from([hash]);
        let mut object = Versioned { value, uid: "1175ef56".to_owned(), revision: store::Revision::new(1) };
        assert_eq!(uid_at_runtime(&object), "1175ef56");
        object.value.metadata.annotations.insert(MIRROR.to_owned(), "b562e97b".to_owned());
        assert_eq!(uid_at_runtime(&object), "b562e97b");
    }
}
