//! Sets the stage: manifests, rules, pods. Decides nothing and judges nothing.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::fabric::FABRIC_TO_OUTSIDE;
use harness::lab::NODE_UPLINK;
use harness::{Agent, Attachment, Binaries, BoundPod, Cni, FabricNode, Leak, NetNs};
use serde_json::Value;

use crate::demo::stage::{ACCEPTED_POOL, NAME, PoolRange, pool_ranges as ranges_of};
use crate::many::ManyNodes;
use crate::workspace::Workspace;

/// The two kinds of pods, and so namespaces, of the walkthrough.
const KINDS: [&str; 2] = ["external", "internal"];

/// How long agents may take to hear of something.
pub(super) const HEAR_LIMIT: Duration = Duration::from_secs(30);

/// Everything a scene needs.
pub(super) struct Stage<'a> {
    /// Control plane, network, nodes.
    pub(super) all: &'a ManyNodes,
    /// One for each node, in their order.
    pub(super) agents: &'a [Agent<'a>],
    /// Two on each node.
    pub(super) pods: &'a [Pod<'a>],
}

/// A pod that the plugin has wired.
pub(super) struct Pod<'a> {
    /// Where it runs.
    pub(super) node: &'a FabricNode,
    /// Its network namespace.
    pub(super) netns: NetNs,
    /// As the runtime knows it.
    pub(super) attachment: Attachment,
    /// Namespace in the sense of Kubernetes.
    pub(super) namespace: String,
    /// Name.
    pub(super) name: String,
    /// Its IPv4 address, by the plugin's result.
    pub(super) address: IpAddr,
}

/// Pools and namespaces of the walkthrough. Its pods are made here, each bound to a node, as a scheduler would.
pub(super) fn apply_manifests(workspace: &Workspace, all: &ManyNodes) -> Result<()> {
    let path = workspace.root.join("deploy/examples/walkthrough.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let without_pods: Vec<&str> =
        text.split("\n---\n").filter(|document| !document.lines().any(|line| line == "kind: Pod")).collect();
    let control_plane = &all.management.control_plane;
    control_plane.kubectl()?.apply(&without_pods.join("\n---\n"))?;
    let named: Vec<(String, String, &FabricNode)> = all
        .fabric
        .nodes
        .iter()
        .flat_map(|node| KINDS.map(|kind| (format!("{kind}-{}", node.number), format!("{kind}-ns"), node)))
        .collect();
    let pods: Vec<BoundPod<'_>> = named
        .iter()
        .map(|(name, namespace, node)| BoundPod { node: &node.name, namespace, name, annotations: &[] })
        .collect();
    control_plane.create_pods(&pods)
}

/// All pools, by `poolwardctl pools export`, once every agent says the same.
pub(super) fn pool_ranges(agents: &[Agent<'_>]) -> Result<Vec<PoolRange>> {
    let deadline = Instant::now() + HEAR_LIMIT;
    loop {
        let said: Vec<Vec<PoolRange>> =
            agents.iter().map(|agent| ranges_of(&agent.ctl())).collect::<Result<_>>()?;
        let first = said.first().context("no agent")?;
        if first.len() == KINDS.len() && said.iter().all(|ranges| ranges == first) {
            return Ok(first.clone());
        }
        ensure!(Instant::now() < deadline, "after {} s the agents say {said:?}", HEAR_LIMIT.as_secs());
        crate::interrupt::check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The firewall's static rule towards the outside, the witness between the nodes, and counters on each node. Written
/// before any pod is there.
pub(super) fn write_rules(all: &ManyNodes, ranges: &[PoolRange]) -> Result<()> {
    let accepted = ranges.iter().find(|range| range.name == ACCEPTED_POOL);
    let accepted = &accepted.with_context(|| format!("no pool {ACCEPTED_POOL}"))?.cidr;
    all.fabric.router.nft(&format!(
        "table inet {NAME} {{
            # Per source and destination port, so that pods behind a node's address can be told apart here.
            set accepted {{ typeof ip saddr . udp dport; flags dynamic; size 4096; }}
            set dropped {{ typeof ip saddr . udp dport; flags dynamic; size 4096; }}
            chain forward {{
                type filter hook forward priority filter; policy accept;
                oifname != \"{FABRIC_TO_OUTSIDE}\" accept
                ip saddr {accepted} update @accepted {{ ip saddr . udp dport counter }}
                ip saddr {accepted} accept
                update @dropped {{ ip saddr . udp dport counter }}
                drop
            }}
        }}
        "
    ))?;
    let pods: Vec<&str> = ranges.iter().map(|range| range.cidr.as_str()).collect();
    all.fabric.witness(&pods, Leak::Drop)?;
    for node in &all.fabric.nodes {
        node.netns.nft(&format!(
            "table inet {NAME} {{
                set seen {{ typeof ip saddr . meta mark; flags dynamic; size 4096; }}
                chain prerouting {{
                    type filter hook prerouting priority mangle; policy accept;
                    iifname != \"{NODE_UPLINK}\" update @seen {{ ip saddr . meta mark counter }}
                }}
            }}
            "
        ))?;
    }
    Ok(())
}

/// One ADD for every pod, on the node it is bound to; and the router is told where it is, for answers from outside.
pub(super) fn add_pods(all: &ManyNodes) -> Result<Vec<Pod<'_>>> {
    let listed = all.management.control_plane.kubectl()?.json(&["get", "pods", "--all-namespaces"])?;
    let listed = listed.get("items").and_then(Value::as_array).context("get pods: no \"items\"")?;
    let mut pods = listed.iter().map(|pod| add_pod(all, pod)).collect::<Result<Vec<_>>>()?;
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    for pod in &pods {
        all.fabric.route_from_outside(&format!("{}/32", pod.address), pod.node)?;
    }
    Ok(pods)
}

fn add_pod<'a>(all: &'a ManyNodes, pod: &Value) -> Result<Pod<'a>> {
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name, uid) = (text("/metadata/namespace"), text("/metadata/name"), text("/metadata/uid"));
    let node = all.fabric.nodes.iter().find(|node| node.name == text("/spec/nodeName"));
    let node = node.with_context(|| format!("pod {namespace}/{name} is bound to no node of ours"))?;
    let netns = NetNs::create(&format!("{NAME}-{name}"))?;
    let attachment = Attachment::of_pod(&format!("{NAME}-{name}"), &netns, namespace, name, uid);
    let deadline = Instant::now() + HEAR_LIMIT;
    let result = loop {
        let answer = plugin(node)?.add(&attachment)?;
        // What the agent has not heard of yet is asked for again, as a runtime does.
        if answer.code == 0 || Instant::now() > deadline {
            break answer.ok().with_context(|| format!("ADD of {namespace}/{name} on {}", node.name))?;
        }
        crate::interrupt::check()?;
        std::thread::sleep(Duration::from_millis(100));
    };
    let Some(address) = harness::cni::first_address(&result) else {
        bail!("ADD of {name}: no address in {result}")
    };
    Ok(Pod { node, netns, attachment, namespace: namespace.to_owned(), name: name.to_owned(), address })
}

fn plugin(node: &FabricNode) -> Result<Cni<'_>> {
    Ok(Cni::poolward(&Binaries::find()?.plugin, &node.netns, &node.files.socket()))
}

/// One DEL for every pod.
pub(super) fn delete_pods(all: &ManyNodes, pods: &[Pod<'_>]) -> Result<()> {
    for pod in pods {
        let answer = plugin(pod.node)?.del(&pod.attachment)?;
        answer.ok().with_context(|| format!("DEL of {}/{}", pod.namespace, pod.name))?;
    }
    for node in &all.fabric.nodes {
        let links = node.netns.ip_json("link show type veth")?;
        let mut names: Vec<&str> =
            links.as_array().into_iter().flatten().filter_map(|link| link.get("ifname")?.as_str()).collect();
        names.retain(|name| ![NODE_UPLINK, "mgmt0"].contains(name));
        ensure!(
            names.is_empty(),
            "interfaces are left on {} after the last DEL: {}",
            node.name,
            names.join(", ")
        );
    }
    Ok(())
}
