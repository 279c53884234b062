//! Pods as tests want them: busybox, quick to go, with a small web server that says who it is and who asks; and the ranges
//! that their addresses are from.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::BUSYBOX_IMAGE;

/// Where the web server of every pod listens, unless it is told another port.
pub const PORT: u16 = 8080;

/// Addresses that pods get unless somebody asks for others: the first pool of docs/operate/install.md.
pub const DEFAULT_POOL: Range =
    Range { pool: "default-pool", network: Ipv4Addr::new(10, 244, 128, 0), prefix: 17 };

/// What a pool hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its name.
    pub pool: &'static str,
    /// The first address.
    pub network: Ipv4Addr,
    /// How many bits of it are common.
    pub prefix: u8,
}

impl Range {
    /// Whether an address is one of it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        let beyond = 32 - u32::from(self.prefix);
        address.to_bits() >> beyond == self.network.to_bits() >> beyond
    }
}

/// What a pod shall be.
#[derive(Clone, Debug)]
pub struct PodOptions<'a> {
    /// Its namespace, which has to be there.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The number of its node; none: what the scheduler says.
    pub node: Option<u8>,
    /// What is asked for it.
    pub annotations: &'a [(&'a str, &'a str)],
    /// What Services and spread constraints find it by.
    pub labels: &'a [(&'a str, &'a str)],
    /// Of the web server.
    pub port: u16,
    /// More fields of the spec.
    pub more: Value,
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
    #[must_use]
    pub fn object(&self) -> Value {
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
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node, by name.
    pub node: String,
    /// Its first address.
    pub address: IpAddr,
}

impl Pod {
    /// By its object; none unless it is ready.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
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
