//! Pods as tests want them: busybox, quick to go, with a small web server that says who it is and who asks.

use std::net::IpAddr;

use harness::cluster::BUSYBOX_IMAGE;
use serde_json::{Value, json};

/// Where the web server of every pod listens, unless it is told another port.
pub(crate) const PORT: u16 = 8080;

/// What a pod shall be.
#[derive(Clone, Debug)]
pub(crate) struct PodOptions<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The number of its node; none: what the scheduler says.
    pub(crate) node: Option<u8>,
    pub(crate) annotations: &'a [(&'a str, &'a str)],
    pub(crate) labels: &'a [(&'a str, &'a str)],
    /// Of the web server.
    pub(crate) port: u16,
    /// More fields of the spec.
    pub(crate) more: Value,
}

impl Default for PodOptions<'_> {
    fn default() -> Self {
        Self {
            namespace: "default",
            name: "pod",
            node: None,
            annotations: &[],
            labels: &[],
            port: PORT,
            more: Value::Null,
        }
    }
}

impl PodOptions<'_> {
    /// The manifest.
    pub(crate) fn object(&self) -> Value {
        let port = self.port.to_string();
        let mut spec = json!({
            "automountServiceAccountToken": false,
            // Its process is the first of its namespace and hears no SIGTERM.
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": false,
            "dnsPolicy": "Default",
            "containers": [{
                "name": "main",
                "image": BUSYBOX_IMAGE,
                "imagePullPolicy": "Never",
                "command": ["httpd", "-f", "-p", port, "-h", "/www"],
            }],
        });
        if let Some(number) = self.node {
            spec["nodeName"] = json!(format!("node-{number}"));
        }
        if let Some(more) = self.more.as_object() {
            for (key, value) in more {
                spec[key] = value.clone();
            }
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace,
                "annotations": map(self.annotations), "labels": map(self.labels),
            },
            "spec": spec,
        })
    }
}

fn map(pairs: &[(&str, &str)]) -> Value {
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value)));
    pairs.collect::<serde_json::Map<_, _>>().into()
}

/// A pod that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) address: IpAddr,
}

impl Pod {
    /// By its object; none unless it is ready.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let conditions = object["status"]["conditions"].as_array()?;
        let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        if !conditions.iter().any(is_ready) {
            return None;
        }
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            namespace: text("/metadata/namespace")?,
            name: text("/metadata/name")?,
            node: text("/spec/nodeName")?,
            address: text("/status/podIP")?.parse().ok()?,
        })
    }
}
