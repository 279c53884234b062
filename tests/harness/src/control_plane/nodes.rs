//! What kubelets and schedulers would write: nodes with their addresses, namespaces, pods bound to a node.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::ControlPlane;

/// A pod as a scheduler leaves it.
#[derive(Clone, Copy, Debug)]
pub struct BoundPod<'a> {
    /// The node it is bound to.
    pub node: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its annotations.
    pub annotations: &'a [(&'a str, &'a str)],
}

impl ControlPlane {
    /// Registers a node as its kubelet would, with its internal addresses; the UID it was given.
    ///
    /// # Errors
    /// It exists, or what the server says.
    pub fn create_node(&self, name: &str, internal: &[IpAddr]) -> Result<String> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"addresses": addresses(name, internal)},
        });
        uid_of(&self.kubectl()?.create_raw("/api/v1/nodes", &node)?)
    }

    /// Gives a node other internal addresses, as its kubelet would.
    ///
    /// # Errors
    /// There is no such node, or what the server says.
    pub fn set_node_addresses(&self, name: &str, internal: &[IpAddr]) -> Result<()> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name},
            "status": {"addresses": addresses(name, internal)},
        });
        self.kubectl()?.replace_raw(&format!("/api/v1/nodes/{name}/status"), &node).map(drop)
    }

    /// Removes a node's object.
    ///
    /// # Errors
    /// What the server says.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        self.kubectl()?.run(&["delete", "node", name]).map(drop)
    }

    /// Creates a namespace.
    ///
    /// # Errors
    /// It exists, or what the server says.
    pub fn create_namespace(&self, name: &str, annotations: &[(&str, &str)]) -> Result<()> {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "annotations": object(annotations)},
        });
        self.kubectl()?.create_raw("/api/v1/namespaces", &namespace).map(drop)
    }

    /// Creates a pod that is bound to a node; the UID it was given.
    ///
    /// # Errors
    /// It exists, or what the server says.
    pub fn create_pod(&self, pod: &BoundPod<'_>) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/pods", pod.namespace);
        uid_of(&self.kubectl()?.create_raw(&path, &pod.object())?)
    }

    /// Creates many pods in one go.
    ///
    /// # Errors
    /// What the server says.
    pub fn create_pods(&self, pods: &[BoundPod<'_>]) -> Result<()> {
        let items: Vec<Value> = pods.iter().map(BoundPod::object).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.kubectl()?.run_with(&["create", "-f", "-"], &list.to_string()).map(drop)
    }

    /// Removes a pod's object at once, as a kubelet does when the pod has ended.
    ///
    /// # Errors
    /// What the server says.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let now =
            ["delete", "pod", "--grace-period=0", "--force", "--wait=false", "--namespace", namespace, name];
        self.kubectl()?.run(&now).map(drop)
    }
}

fn addresses(name: &str, internal: &[IpAddr]) -> Vec<Value> {
    let internal =
        internal.iter().map(|address| json!({"type": "InternalIP", "address": address.to_string()}));
    internal.chain([json!({"type": "Hostname", "address": name})]).collect()
}

impl BoundPod<'_> {
    fn object(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "annotations": object(self.annotations),
            },
            "spec": {"nodeName": self.node, "containers": [{"name": "main", "image": "none"}]},
        })
    }
}

fn object(pairs: &[(&str, &str)]) -> Value {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn uid_of(created: &str) -> Result<String> {
    let created: Value = serde_json::from_str(created).context("the created object: not JSON")?;
    let uid = created.pointer("/metadata/uid").and_then(Value::as_str);
    uid.map(str::to_owned).with_context(|| format!("no UID in {created}"))
}
