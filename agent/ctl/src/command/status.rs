//! `status`: what this node's agent says of itself.

use rpc::{NodeStatusReply, ReconcileStatus, Reply, Request};

use super::{Context, unexpected};
use crate::exit::{Exit, Failure};
use crate::output::color::{Tone, paint};
use crate::output::table::{Align, Cell, Table, bytes, duration, facts};

/// Shows the status; the exit code says whether the agent is ready.
pub(crate) fn run(context: &Context) -> Result<Exit, Failure> {
    const OPERATION: &str = "ask the agent's status";
    let status = match context.ask(OPERATION, &Request::NodeStatus)? {
        Reply::Node(status) => status,
        reply => return Err(unexpected(OPERATION, &reply)),
    };
    context.output.show(&status, |color| render(&status, color))?;
    Ok(if status.ready { Exit::Ok } else { Exit::TryAgain })
}

fn render(status: &NodeStatusReply, color: bool) -> String {
    let ready = match (status.ready, status.not_ready_reasons.as_slice()) {
        (true, _) => Cell::toned("yes", Tone::Good),
        (false, []) => Cell::toned("no", Tone::Bad),
        (false, reasons) => Cell::toned(format!("no\n{}", reasons.join("\n")), Tone::Bad),
    };
    let agent = format!("{}, pid {}, up {}", status.version, status.pid, duration(status.uptime_s));
    let holds = format!("{} addresses of {} pods, {} blocks", status.addresses, status.pods, status.blocks);
    let programs = match (status.attach_mode.as_str(), status.pin_path.as_str()) {
        ("", "") => String::new(),
        (mode, "") => mode.to_owned(),
        (mode, path) => format!("{mode}, pinned in {path}"),
    };
    let mut rows = vec![
        ("Node", status.node.as_str().into()),
        ("Ready", ready),
        ("Agent", agent.into()),
        ("Store", status.store.as_str().into()),
        ("Holds", holds.into()),
        ("Uplink", status.uplink.as_str().into()),
    ];
    // Where there is but one node, nobody is missing.
    if !status.encap_backend.is_empty() {
        let peers = format!("{} nodes, {} ranges of theirs", status.peers, status.remote_ranges);
        let inner = if status.inner_address.is_empty() { "not needed" } else { &status.inner_address };
        rows.extend([
            ("Peers", peers.into()),
            ("Encap", status.encap_backend.as_str().into()),
            ("Own address", inner.into()),
        ]);
    }
    if !status.warnings.is_empty() {
        rows.push(("Warnings", Cell::toned(status.warnings.join("\n"), Tone::Warn)));
    }
    if !status.leaks.is_empty() {
        rows.push(("Leaks freed", status.leaks.join("\n").into()));
    }
    rows.extend([("Programs", programs.into()), ("Reconcile", reconcile(&status.reconcile))]);
    let mut text = facts(&rows, color);
    let mut section = |title: &str, body: String| {
        text += &format!("\n{}\n{body}", paint(title, Tone::Strong, color));
    };
    section("Packets dropped", drops(status, color));
    section("Traffic by pool", traffic(status, color));
    text
}

fn reconcile(reconcile: &ReconcileStatus) -> Cell {
    let ReconcileStatus { runs, first_planned, last_planned, last_errors } = reconcile;
    if *runs == 0 {
        return Cell::toned("not yet run", Tone::Warn);
    }
    let text = format!("{runs} runs; the first planned {first_planned} operations, the last {last_planned}");
    if last_errors.is_empty() {
        text.into()
    } else {
        Cell::toned(format!("{text}; it failed:\n{}", last_errors.join("\n")), Tone::Bad)
    }
}

fn drops(status: &NodeStatusReply, color: bool) -> String {
    if status.drops.iter().all(|drop| drop.packets == 0) {
        return "none\n".to_owned();
    }
    let mut table = Table::new(&[("REASON", Align::Left), ("PACKETS", Align::Right)]);
    for drop in &status.drops {
        let tone = if drop.packets == 0 { Tone::Dim } else { Tone::Warn };
        table.row(vec![drop.reason.as_str().into(), Cell::toned(drop.packets.to_string(), tone)]);
    }
    table.render(color)
}

fn traffic(status: &NodeStatusReply, color: bool) -> String {
    if status.traffic.is_empty() {
        return "none yet\n".to_owned();
    }
    let mut table = Table::new(&[
        ("POOL", Align::Left),
        ("FROM PODS", Align::Right),
        ("BYTES", Align::Right),
        ("TO PODS", Align::Right),
        ("BYTES", Align::Right),
    ]);
    for pool in &status.traffic {
        table.row(vec![
            pool.pool.as_str().into(),
            pool.tx_packets.to_string().into(),
            bytes(pool.tx_bytes).into(),
            pool.rx_packets.to_string().into(),
            bytes(pool.rx_bytes).into(),
        ]);
    }
    table.render(color)
}

#[cfg(test)]
mod tests {
    use rpc::{DropCount, PoolTraffic};

    use super::*;

    fn ready() -> NodeStatusReply {
        NodeStatusReply {
            node: "node-1".into(),
            ready: true,
            version: "0.1.0".into(),
            pid: 4711,
            uptime_s: 93_784,
            pods: 6,
            addresses: 6,
            blocks: 2,
            uplink: "eth0, MTU 1500, pods 1480".into(),
            store: "embedded, /var/lib/poolward/store.redb".into(),
            attach_mode: "tcx".into(),
            pin_path: "/sys/fs/bpf/poolward/1".into(),
            reconcile: ReconcileStatus { runs: 12, first_planned: 14, last_planned: 0, last_errors: vec![] },
            drops: vec![
                DropCount { reason: "spoofed-source".into(), packets: 17 },
                DropCount { reason: "spoofed-arp".into(), packets: 0 },
            ],
            traffic: vec![PoolTraffic {
                pool: "external-pool".into(),
                tx_packets: 120,
                tx_bytes: 10_080,
                rx_packets: 9,
                rx_bytes: 756,
            }],
            ..NodeStatusReply::default()
        }
    }

    #[test]
    fn a_ready_agent_is_one_screen() {
        assert_eq!(
            render(&ready(), false),
            "\
Node:       node-1
Ready:      yes
Agent:      0.1.0, pid 4711, up 1d2h
Store:      embedded, /var/lib/poolward/store.redb
Holds:      6 addresses of 6 pods, 2 blocks
Uplink:     eth0, MTU 1500, pods 1480
Programs:   tcx, pinned in /sys/fs/bpf/poolward/1
Reconcile:  12 runs; the first planned 14 operations, the last 0

Packets dropped
REASON           PACKETS
spoofed-source        17
spoofed-arp            0

Traffic by pool
POOL            FROM PODS     BYTES   TO PODS   BYTES
external-pool         120   9.8 KiB         9   756 B
"
        );
    }

    #[test]
    fn a_node_among_others_says_how_it_stands_among_them() {
        let status = NodeStatusReply {
            store: "kubernetes, in cluster".into(),
            encap_backend: "ebpf".into(),
            peers: 2,
            remote_ranges: 7,
            inner_address: "10.244.0.1".into(),
            ..ready()
        };
        let text = render(&status, false);
        let lines: Vec<&str> = text.lines().skip(3).take(6).collect();
        assert_eq!(
            lines,
            [
                "Store:        kubernetes, in cluster",
                "Holds:        6 addresses of 6 pods, 2 blocks",
                "Uplink:       eth0, MTU 1500, pods 1480",
                "Peers:        2 nodes, 7 ranges of theirs",
                "Encap:        ebpf",
                "Own address:  10.244.0.1",
            ]
        );
    }

    #[test]
    fn an_agent_that_is_not_ready_says_why() {
        let status = NodeStatusReply {
            node: "node-1".into(),
            not_ready_reasons: vec!["no pool".into(), "uplink not found".into()],
            version: "0.1.0".into(),
            reconcile: ReconcileStatus {
                runs: 1,
                last_errors: vec!["route 10.0.0.1/32: EPERM".into()],
                ..ReconcileStatus::default()
            },
            ..NodeStatusReply::default()
        };
        assert_eq!(
            render(&status, false),
            "\
Node:       node-1
Ready:      no
            no pool
            uplink not found
Agent:      0.1.0, pid 0, up 0s
Store:      -
Holds:      0 addresses of 0 pods, 0 blocks
Uplink:     -
Programs:   -
Reconcile:  1 runs; the first planned 0 operations, the last 0; it failed:
            route 10.0.0.1/32: EPERM

Packets dropped
none

Traffic by pool
none yet
"
        );
    }
}
