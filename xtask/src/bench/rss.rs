//! The agent's memory among 5,000 other nodes with four blocks each, all of them read from a real API server.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::lab::NODE_IPV4;
use harness::{Agent, AgentOptions, ControlPlane, ControlPlaneOptions, Lab, NetNs, NodeFiles};
use serde_json::{Value, json};

use super::Numbers;
use crate::cluster::apply_definitions;
use crate::report::{Table, bold};
use crate::workspace::Workspace;

/// Names of namespaces and files begin with this.
const NAME: &str = "pwrss";

const NODES_COUNT: u32 = 5_000;
const BLOCKS_PER_NODE_COUNT: u32 = 4;

/// Objects that one transaction of etcd takes; its own limit is 128 operations.
const BATCH_LEN: usize = 120;

/// How long until the agent knows all of it.
const KNOWN_LIMIT: Duration = Duration::from_secs(180);

/// How long it is left alone before it is looked at.
const REST: Duration = Duration::from_secs(5);

/// What the goal is, in MiB.
const GOAL_MIB: u64 = 40;

/// Measures and shows.
pub(super) fn run(workspace: &Workspace, numbers: &mut Numbers) -> Result<()> {
    ensure!(
        NetNs::list(&format!("{NAME}-"))?.is_empty() && !NodeFiles::exist(NAME),
        "a benchmark is running, or was cut short: `ip netns delete` what begins with {NAME}-, remove /run/{NAME}"
    );
    let lab = Lab::one_node(NAME)?;
    let files = NodeFiles::create(NAME)?;
    eprintln!("{} a control plane with {NODES_COUNT} nodes", bold("bench:"));
    let netns = Some(format!("{NAME}-node"));
    let control_plane =
        ControlPlane::start(&ControlPlaneOptions { netns, ..ControlPlaneOptions::default() })?;
    apply_definitions(workspace, &control_plane)?;
    control_plane.create_node("bench", &[IpAddr::V4(NODE_IPV4)])?;
    control_plane.kubectl()?.apply(
        "apiVersion: poolward.io/v1\nkind: IPPool\nmetadata: {name: bench}\n\
         spec: {cidr: 10.128.0.0/9, blockSize: 26, ipipMode: Always}\n",
    )?;
    load(&control_plane)?;
    let options = AgentOptions {
        node_name: "bench".to_owned(),
        kubeconfig: Some(control_plane.kubeconfig()),
        ..AgentOptions::default()
    };
    let mut agent = Agent::start(&lab.node, &files, &options)?;
    let started = Instant::now();
    while !knows_all(&agent) {
        ensure!(
            started.elapsed() < KNOWN_LIMIT,
            "after {} s the agent does not know all\n{}",
            KNOWN_LIMIT.as_secs(),
            agent.log_tail()
        );
        crate::interrupt::check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(REST);
    let resident_mib = agent.resident_kib()? as f64 / 1024.0;
    let (status, _) = agent.stop()?;
    ensure!(status.success(), "the agent stopped with {status}");
    numbers.set("agent_rss_mib_5000x4", resident_mib);
    let mut table = Table::new(&["what", "goal", "value"]);
    table.row([
        "agent's memory, 5,000 nodes x 4 blocks, MiB".to_owned(),
        format!("at most {GOAL_MIB}"),
        format!("{resident_mib:.1}"),
    ]);
    println!("{}\n{}", bold("memory among many nodes"), table.render());
    Ok(())
}

/// Whether the agent has seen every node and block, and has brought the kernel in step.
fn knows_all(agent: &Agent<'_>) -> bool {
    let Ok(status) = agent.ctl().json(&["status"]) else { return false };
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64);
    number("/peers") == Some(NODES_COUNT.into())
        && number("/remoteRanges") == Some((NODES_COUNT * BLOCKS_PER_NODE_COUNT).into())
        && number("/reconcile/lastPlanned") == Some(0)
}

/// Puts nodes and blocks into etcd itself: the server would take minutes to be asked for each.
fn load(control_plane: &ControlPlane) -> Result<()> {
    let mut puts = Vec::new();
    for number in 0..NODES_COUNT {
        let name = format!("node-{number:05}");
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 1).to_bits() + number);
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": name, "uid": uid(number), "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
            },
            "spec": {},
            "status": {"addresses": [{"type": "InternalIP", "address": address.to_string()}]},
        });
        puts.push((format!("/registry/minions/{name}"), node));
    }
    let base = Ipv4Addr::new(10, 128, 0, 0).to_bits();
    for number in 0..NODES_COUNT * BLOCKS_PER_NODE_COUNT {
        let network = Ipv4Addr::from_bits(base + number * 64);
        let name = format!("{}-26", network.octets().map(|part| part.to_string()).join("-"));
        let owner = number % NODES_COUNT;
        let block = json!({
            "apiVersion": "poolward.io/v1", "kind": "IPBlock",
            "metadata": {
                "name": name, "uid": uid(NODES_COUNT + number), "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["poolward.io/protect"],
            },
            "spec": {
                "cidr": format!("{network}/26"), "pool": "bench", "poolUid": "of-another-life",
                "node": format!("node-{owner:05}"), "nodeUid": uid(owner), "nonce": format!("{:032x}", number + 1),
                "loans": [],
            },
        });
        puts.push((format!("/registry/poolward.io/ipblocks/{name}"), block));
    }
    for batch in puts.chunks(BATCH_LEN) {
        // Conditions, what to do if they hold, what to do if not: none, puts, none.
        let mut transaction = "\n".to_owned();
        for (key, object) in batch {
            let quoted = serde_json::to_string(&object.to_string()).context("quote an object")?;
            writeln!(transaction, "put {key} {quoted}")?;
        }
        transaction += "\n\n";
        let said = control_plane.etcdctl_with(&["txn"], &transaction)?;
        ensure!(said.contains("SUCCESS"), "etcd: {said}");
        crate::interrupt::check()?;
    }
    Ok(())
}

/// A UID as the server gives them.
fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}
