//! A node of its own for every test: network, files, agent, plugin, pods.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harness::cni::Answer;
use harness::{Agent, AgentOptions, Attachment, Binaries, Cni, Ctl, Lab, NetNs, NodeFiles, Run};
use serde_json::Value;

/// Names of namespaces, files and pins begin with this.
const NAME: &str = "pwnet";

/// Network and files of one node, before there is an agent.
pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) files: NodeFiles,
}

impl Site {
    pub(crate) fn new() -> Self {
        mount_bpffs();
        Self { lab: Lab::unique(NAME).unwrap(), files: NodeFiles::unique(NAME).unwrap() }
    }

    /// The agent with the harness's defaults: it compares the kernel by events and requests only.
    pub(crate) fn start(&self) -> Node<'_> {
        self.start_with(&AgentOptions::default())
    }

    pub(crate) fn start_with(&self, options: &AgentOptions) -> Node<'_> {
        Node { site: self, agent: Agent::start(&self.lab.node, &self.files, options).unwrap() }
    }

    /// The journal's file.
    pub(crate) fn journal(&self) -> PathBuf {
        self.files.dir().join("state/journal")
    }

    /// What the agent has said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.files.log()).unwrap()
    }

    /// The plugin, for the agent of this node.
    pub(crate) fn cni(&self) -> Cni<'_> {
        Cni::poolward(&Binaries::find().unwrap().plugin, &self.lab.node, &self.files.socket())
    }
}

/// A node with its agent.
pub(crate) struct Node<'s> {
    pub(crate) site: &'s Site,
    pub(crate) agent: Agent<'s>,
}

impl<'s> Node<'s> {
    pub(crate) fn netns(&self) -> &'s NetNs {
        &self.site.lab.node
    }

    pub(crate) fn ctl(&self) -> Ctl {
        self.agent.ctl()
    }

    pub(crate) fn cni(&self) -> Cni<'s> {
        self.site.cni()
    }

    /// Applies manifests in one call.
    pub(crate) fn apply(&self, manifests: &[String]) {
        self.ctl().apply(&manifests.concat()).unwrap();
    }

    /// Applies manifests that must be refused; what `poolwardctl` said.
    pub(crate) fn apply_refused(&self, manifests: &[String]) -> String {
        format!("{:#}", self.ctl().apply(&manifests.concat()).unwrap_err())
    }

    pub(crate) fn status(&self) -> Value {
        self.ctl().json(&["status"]).unwrap()
    }

    /// How many operations the first comparison after the last start planned.
    pub(crate) fn first_planned(&self) -> u64 {
        self.status().pointer("/reconcile/firstPlanned").and_then(Value::as_u64).unwrap()
    }

    /// Packets dropped for this reason so far.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let status = self.status();
        let drops = status["drops"].as_array().unwrap();
        let found = drops.iter().find(|drop| drop["reason"] == reason);
        found.unwrap_or_else(|| panic!("no counter {reason} in {status}"))["packets"].as_u64().unwrap()
    }

    /// Counts of a pool, by `ipam show`: used, free, cooling, reserved.
    pub(crate) fn usage(&self, pool: &str) -> [u64; 4] {
        let shown = self.ctl().json(&["ipam", "show"]).unwrap();
        let found = shown["pools"].as_array().unwrap().iter().find(|entry| entry["name"] == pool);
        let found = found.unwrap_or_else(|| panic!("no pool {pool} in {shown}"));
        ["used", "free", "cooling", "reserved"].map(|key| found[key].as_u64().unwrap())
    }

    /// The state of one address, by `ipam show --ip`.
    pub(crate) fn address_state(&self, address: IpAddr) -> Value {
        let shown = self.ctl().json(&["ipam", "show", "--ip", &address.to_string()]).unwrap();
        shown["addresses"][0].clone()
    }

    /// The pool as `get` shows it.
    pub(crate) fn pool(&self, name: &str) -> Value {
        self.ctl().json(&["get", "pool", name]).unwrap()
    }

    /// Adds a container that no Kubernetes knows: pools choose it by themselves.
    pub(crate) fn add_container(&self, id: &str) -> Pod {
        let mut pod = Pod::container(id);
        pod.result = self.cni().add(&pod.attachment).unwrap().ok().unwrap_or_else(|error| {
            panic!("ADD of {id}: {error:#}\n{}", self.agent.log_tail());
        });
        pod
    }

    /// Adds a pod whose object is in the store.
    pub(crate) fn add_pod(&self, namespace: &str, name: &str) -> Pod {
        let mut pod = Pod::of(namespace, name);
        pod.result = self.cni().add(&pod.attachment).unwrap().ok().unwrap_or_else(|error| {
            panic!("ADD of {namespace}/{name}: {error:#}\n{}", self.agent.log_tail());
        });
        pod
    }

    pub(crate) fn del(&self, pod: &Pod) {
        self.cni().del(&pod.attachment).unwrap().ok().unwrap();
    }

    /// An ADD that is refused.
    pub(crate) fn add_refused(&self, pod: &Pod) -> Answer {
        let answer = self.cni().add(&pod.attachment).unwrap();
        assert_ne!(answer.code, 0, "the ADD was served: {}", answer.json);
        answer
    }

    /// What CHECK says of a pod: nothing when all is as it was.
    pub(crate) fn check(&self, pod: &Pod) -> Option<String> {
        let answer = self.cni().check(&pod.attachment, &pod.result).unwrap();
        (answer.code != 0).then(|| answer.json["msg"].as_str().unwrap_or_default().to_owned())
    }
}

/// A sandbox: a network namespace and who it is. It goes when the value does, as a crashed pod's would.
pub(crate) struct Pod {
    pub(crate) netns: NetNs,
    pub(crate) attachment: Attachment,
    /// Of the ADD; `Null` before.
    pub(crate) result: Value,
}

impl Pod {
    /// A sandbox of a pod of Kubernetes, not added yet.
    pub(crate) fn of(namespace: &str, name: &str) -> Self {
        let netns = NetNs::unique(&format!("{NAME}-pod")).unwrap();
        let attachment = Attachment::of_pod(&unique_id(name), &netns, namespace, name, "");
        Self { netns, attachment, result: Value::Null }
    }

    /// A sandbox without Kubernetes, not added yet.
    pub(crate) fn container(id: &str) -> Self {
        let netns = NetNs::unique(&format!("{NAME}-pod")).unwrap();
        let attachment = Attachment {
            container_id: unique_id(id),
            ifname: "eth0".to_owned(),
            netns: Some(netns.path()),
            args: String::new(),
        };
        Self { netns, attachment, result: Value::Null }
    }

    /// `container id/interface`.
    pub(crate) fn handle(&self) -> String {
        format!("{}/{}", self.attachment.container_id, self.attachment.ifname)
    }

    /// All addresses, by the ADD's result.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        addresses_of(&self.result)
    }

    /// The first address, by the ADD's result.
    pub(crate) fn address(&self) -> IpAddr {
        self.addresses()[0]
    }

    /// The host's end, by the ADD's result: the interface without a sandbox.
    pub(crate) fn host_ifname(&self) -> String {
        let interfaces = self.result["interfaces"].as_array().unwrap();
        let host = interfaces.iter().find(|entry| entry["sandbox"].as_str().unwrap_or_default().is_empty());
        host.unwrap()["name"].as_str().unwrap().to_owned()
    }

    /// Whether an echo comes back from there.
    pub(crate) fn reaches(&self, to: impl Into<SocketAddr>) -> bool {
        harness::udp_echo(&self.netns, to.into(), b"are you there?", Duration::from_millis(500))
            .unwrap()
            .is_some()
    }
}

/// Addresses in the result of an ADD, without their prefix lengths.
pub(crate) fn addresses_of(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}

/// No two containers of one run have the same id, whichever node they are on.
fn unique_id(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn mount_bpffs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let kind = Run::new("stat").args(["-f", "-c", "%T", "/sys/fs/bpf"]).ok().unwrap();
        if kind.trim() != "bpf_fs" {
            Run::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).ok().unwrap();
        }
    });
}
