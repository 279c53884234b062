//! Sets the demo's stage: namespaces, agent, manifests, rules, pods. Decides nothing and judges nothing.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::lab::{FIREWALL_TO_NODE, NODE_UPLINK};
use harness::{Agent, AgentOptions, Attachment, Binaries, Cni, Ctl, Lab, NetNs, NodeFiles, Run};
use serde_json::Value;

/// Names of namespaces, files, pins and tables begin with this.
pub(super) const NAME: &str = "pwdemo";

/// The pool whose range the firewall accepts.
pub(super) const ACCEPTED_POOL: &str = "external-pool";

/// The namespace whose pods are in it.
pub(super) const ACCEPTED_NAMESPACE: &str = "external-ns";

/// Everything a scene needs.
pub(super) struct Stage<'a> {
    /// Node, firewall, outside.
    pub(super) network: &'a Lab,
    /// The node's files.
    pub(super) files: &'a NodeFiles,
    /// `poolwardctl` for the node's agent.
    pub(super) ctl: Ctl,
    /// The pods of the walkthrough.
    pub(super) pods: &'a [Pod],
    /// Two more, with an address of each family.
    pub(super) dual: &'a [Pod],
}

impl Stage<'_> {
    /// Every pod on the node.
    pub(super) fn all_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().chain(self.dual)
    }
}

/// A pod that the plugin has wired.
pub(super) struct Pod {
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
    /// Its IPv6 address, by the plugin's result.
    pub(super) ipv6: Option<IpAddr>,
    /// The host's end of its veth pair, by the plugin's result.
    pub(super) host_ifname: String,
}

/// The range of a pool, as exported for firewalls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolRange {
    /// Name.
    pub(super) name: String,
    /// Range.
    pub(super) cidr: String,
    /// DSCP its packets carry, if any.
    pub(super) dscp: Option<u64>,
    /// Whether its pods leave as the node.
    pub(super) nat_outgoing: bool,
}

/// Namespaces, links, addresses and routes.
pub(super) fn build_network() -> Result<Lab> {
    Lab::one_node(NAME)
}

/// The real agent.
pub(super) fn start_agent<'n>(network: &'n Lab, files: &'n NodeFiles) -> Result<Agent<'n>> {
    // Often enough that a demo that is kept is whole again soon after the control run; not within that run.
    let options = AgentOptions { resync_seconds: 60, ..AgentOptions::default() };
    Agent::start(&network.node, files, &options)
}

/// The walkthrough; and, as a rehearsal only, the same as Calico's users have it.
pub(super) fn apply_manifests(ctl: &Ctl, examples: &Path) -> Result<()> {
    let path = |name: &str| examples.join(name).display().to_string();
    ctl.run(&["apply", "--dry-run", "-f", &path("walkthrough-calico.yaml")])?;
    ctl.run(&["apply", "-f", &path("walkthrough.yaml")]).map(drop)
}

/// All pools, by `poolwardctl pools export`.
pub(super) fn pool_ranges(ctl: &Ctl) -> Result<Vec<PoolRange>> {
    let exported = ctl.json(&["pools", "export", "--include-nat"])?;
    let pools = exported.get("pools").and_then(Value::as_array).context("pools export: no \"pools\"")?;
    pools.iter().map(pool_range).collect()
}

fn pool_range(pool: &Value) -> Result<PoolRange> {
    let text = |key: &str| {
        pool.get(key)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("pools export: no {key} in {pool}"))
    };
    Ok(PoolRange {
        name: text("name")?,
        cidr: text("cidr")?,
        dscp: pool.get("dscp").and_then(Value::as_u64),
        nat_outgoing: pool.get("natOutgoing").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// The firewall's static rule and the counters that are read later. Written before any pod is there.
pub(super) fn write_rules(network: &Lab, ranges: &[PoolRange]) -> Result<()> {
    for range in ranges {
        network.route_to_node(&range.cidr)?;
    }
    let accepted = ranges.iter().find(|range| range.name == ACCEPTED_POOL);
    let accepted = &accepted.with_context(|| format!("no pool {ACCEPTED_POOL}"))?.cidr;
    network.firewall.nft(&format!(
        "table inet {NAME} {{
            # Per source and destination port, so that pods behind the node's address can be told apart here.
            set accepted {{ typeof ip saddr . udp dport; flags dynamic; size 4096; }}
            set dropped {{ typeof ip saddr . udp dport; flags dynamic; size 4096; }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                oifname \"{FIREWALL_TO_NODE}\" ct state established,related accept
                ip saddr {accepted} update @accepted {{ ip saddr . udp dport counter }}
                ip saddr {accepted} accept
                update @dropped {{ ip saddr . udp dport counter }}
            }}
        }}
        "
    ))?;
    network.node.nft(&format!(
        "table inet {NAME} {{
            set seen {{ typeof ip saddr . meta mark; flags dynamic; size 4096; }}
            chain prerouting {{
                type filter hook prerouting priority mangle; policy accept;
                iifname != \"{NODE_UPLINK}\" update @seen {{ ip saddr . meta mark counter }}
            }}
        }}
        "
    ))
}

/// One ADD for every pod that the agent knows of and that is not there yet.
pub(super) fn add_pods(network: &Lab, files: &NodeFiles, ctl: &Ctl, there: &[Pod]) -> Result<Vec<Pod>> {
    let listed = ctl.json(&["get", "pods"])?;
    let listed = listed.get("items").and_then(Value::as_array).context("get pods: no \"items\"")?;
    let name_of =
        |pod: &Value| pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let missing = listed.iter().filter(|pod| there.iter().all(|known| known.name != name_of(pod)));
    let added: Vec<Pod> = missing.map(|pod| add_pod(network, files, pod)).collect::<Result<_>>()?;
    ensure!(!added.is_empty(), "get pods: none that is not there yet");
    Ok(added)
}

/// Two more pods, with an address of each family, and the firewall's route to them.
pub(super) fn add_dual_pods(
    network: &Lab,
    files: &NodeFiles,
    ctl: &Ctl,
    examples: &Path,
    there: &[Pod],
) -> Result<Vec<Pod>> {
    ctl.run(&["apply", "-f", &examples.join("dual-stack.yaml").display().to_string()])?;
    let six =
        pool_ranges(ctl)?.into_iter().find(|range| range.cidr.contains(':')).context("no pool of IPv6")?;
    network.route_to_node(&six.cidr)?;
    let pods = add_pods(network, files, ctl, there)?;
    ensure!(pods.len() == 2 && pods.iter().all(|pod| pod.ipv6.is_some()), "not two pods with both families");
    Ok(pods)
}

fn add_pod(network: &Lab, files: &NodeFiles, pod: &Value) -> Result<Pod> {
    let text =
        |key: &str| pod.pointer(&format!("/metadata/{key}")).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
    let netns = NetNs::create(&format!("{NAME}-{name}"))?;
    let attachment = Attachment::of_pod(&format!("{NAME}-{name}"), &netns, namespace, name, uid);
    let result = plugin(network, files)?
        .add(&attachment)?
        .ok()
        .with_context(|| format!("ADD of {namespace}/{name}"))?;
    let addresses = harness::cni::addresses(&result);
    let address = *addresses
        .iter()
        .find(|address| address.is_ipv4())
        .with_context(|| format!("ADD of {name}: no IPv4 address in {result}"))?;
    let ipv6 = addresses.into_iter().find(IpAddr::is_ipv6);
    // The host's end is the interface without a sandbox (CNI specification, "Success").
    let on_host =
        |interface: &&Value| interface.get("sandbox").and_then(Value::as_str).unwrap_or_default().is_empty();
    let host_ifname = result
        .get("interfaces")
        .and_then(Value::as_array)
        .and_then(|all| all.iter().find(on_host)?.get("name")?.as_str())
        .with_context(|| format!("ADD of {name}: no interface on the host in {result}"))?
        .to_owned();
    Ok(Pod {
        netns,
        attachment,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        address,
        ipv6,
        host_ifname,
    })
}

fn plugin<'n>(network: &'n Lab, files: &NodeFiles) -> Result<Cni<'n>> {
    Ok(Cni::poolward(&Binaries::find()?.plugin, &network.node, &files.socket()))
}

/// One DEL for every pod; then the node must hold no address and no interface of a pod.
pub(super) fn delete_pods(stage: &Stage<'_>) -> Result<()> {
    for pod in stage.all_pods() {
        let answer = plugin(stage.network, stage.files)?.del(&pod.attachment)?;
        answer.ok().with_context(|| format!("DEL of {}/{}", pod.namespace, pod.name))?;
    }
    let status = stage.ctl.json(&["status"])?;
    let left = status.get("addresses").and_then(Value::as_u64);
    ensure!(left == Some(0), "addresses are left after the last DEL: {status}");
    let links = stage.network.node.ip_json("link show type veth")?;
    let names: Vec<&str> =
        links.as_array().into_iter().flatten().filter_map(|link| link.get("ifname")?.as_str()).collect();
    ensure!(names == [NODE_UPLINK], "interfaces are left after the last DEL: {}", names.join(", "));
    Ok(())
}

/// Where the map of IPv4 pools is pinned, whatever the schema version.
pub(super) fn pool_map(files: &NodeFiles) -> Result<PathBuf> {
    let dir = files.pin_dir();
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("pw_pools_v4")))
        .filter(|path| path.exists())
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        (None, _) => bail!("no map pw_pools_v4 below {}", dir.display()),
        (Some(_), false) => bail!("more than one schema version below {}", dir.display()),
    }
}

/// `bpftool map dump`.
pub(super) fn dump_map(path: &Path) -> Result<String> {
    Run::new("bpftool").args(["map", "dump", "pinned"]).args([path]).limit(Duration::from_secs(10)).ok()
}
