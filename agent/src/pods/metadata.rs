//! What is known of a pod before it gets an address: labels of its namespace, and the pools it asks for.
//!
//! A pod whose namespace or own object is not known is refused for now and never served from a default pool: the
//! runtime asks again, and by then the object may be there.

use std::collections::BTreeMap;

use ipam::annotations::{PoolSources, requested_pools};
use ipam::{AssignRequest, FamilyRequest, Want};
use model::{Family, Handle, Labels};
use rpc::{NetworkOptions, PodRef, RpcError};
use store::{Key, Store};

use super::{INVENTED_UID_PREFIX, Pods};
use crate::answer::{invalid, try_again};

/// What Kubernetes says; empty where the runtime is not Kubernetes.
#[derive(Debug, Default)]
struct Metadata {
    namespace_labels: Labels,
    namespace_annotations: BTreeMap<String, String>,
    pod_annotations: BTreeMap<String, String>,
}

impl<S: Store> Pods<S> {
    /// The request that `ipam` decides.
    ///
    /// # Errors
    /// Metadata is not there yet or is another pod's (try again), or an annotation is malformed.
    pub(super) fn assign_request(
        &self,
        handle: &Handle,
        pod: &PodRef,
        options: &NetworkOptions,
    ) -> Result<AssignRequest, RpcError> {
        let metadata = self.metadata(pod)?;
        let sources = PoolSources {
            pod: &metadata.pod_annotations,
            namespace: &metadata.namespace_annotations,
            network_v4: options.ipv4_pools.as_deref(),
            network_v6: options.ipv6_pools.as_deref(),
        };
        let family = |family, assign: Option<bool>| {
            let pools = requested_pools(&sources, family)
                .map_err(|error| invalid(format!("pod {}: {error}", name_of(pod))))?;
            let want = match assign {
                Some(true) => Want::Required,
                Some(false) => Want::No,
                None if pools.is_some() => Want::Required,
                None => Want::AsPoolsExist,
            };
            Ok::<_, RpcError>(FamilyRequest { want, pools, address: None })
        };
        Ok(AssignRequest {
            v4: family(Family::V4, options.assign_ipv4)?,
            v6: family(Family::V6, options.assign_ipv6)?,
            ..AssignRequest::new(handle.clone(), metadata.namespace_labels)
        })
    }

    fn metadata(&self, pod: &PodRef) -> Result<Metadata, RpcError> {
        if pod.namespace.is_empty() && pod.name.is_empty() {
            return Ok(Metadata::default());
        }
        let world = &self.node.world;
        let key =
            Key::named(&pod.namespace).map_err(|error| invalid(format!("K8S_POD_NAMESPACE: {error}")))?;
        let namespace = world.namespaces.get(&key).ok_or_else(|| unknown("namespace", &pod.namespace))?;
        let key = Key::namespaced(&pod.namespace, &pod.name)
            .map_err(|error| invalid(format!("K8S_POD_NAME: {error}")))?;
        let object = world.pods.get(&key).ok_or_else(|| unknown("pod", &name_of(pod)))?;
        let known_uid = &object.value.metadata.uid;
        let comparable = !pod.uid.is_empty() && !known_uid.starts_with(INVENTED_UID_PREFIX);
        if comparable && pod.uid != *known_uid {
            let mut error = try_again(format!(
                "pod {} has UID {known_uid} here, the runtime says {}: this node has not seen the new pod yet",
                name_of(pod),
                pod.uid
            ));
            error.details.push("the runtime asks again by itself".to_owned());
            return Err(error);
        }
        Ok(Metadata {
            namespace_labels: namespace.value.metadata.labels,
            namespace_annotations: namespace.value.metadata.annotations,
            pod_annotations: object.value.metadata.annotations,
        })
    }
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
