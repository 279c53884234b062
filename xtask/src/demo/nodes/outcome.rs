//! What was seen over several nodes: the tables, the JSON, and whether it is what was promised.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use harness::{Fabric, Requests};
use serde::Serialize;

use crate::demo::stage::{ACCEPTED_POOL, PoolRange};
use crate::report::{Table, bold};

/// All of it. Field names are those of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// One per pod.
    pub(super) pods: Vec<PodSeen>,
    /// Pod to pod.
    pub(super) mesh: MeshSeen,
    /// Of all nodes, in their order.
    pub(super) routes: Vec<RouteSeen>,
    /// What the API server was asked while the pods were added.
    pub(super) requests: Vec<RequestSeen>,
}

/// A pod, and what its packets looked like outside.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSeen {
    /// Name.
    pub(super) pod: String,
    /// The node it runs on.
    pub(super) node: String,
    /// The pool its address is from.
    pub(super) pool: String,
    /// The block its address is from.
    pub(super) block: String,
    /// Its address.
    pub(super) address: IpAddr,
    /// `skb->mark` of its packets on its node, as nft counted them.
    pub(super) mark: u32,
    /// DSCP of its packets at the firewall, as captured.
    pub(super) dscp: u8,
    /// Source of its packets at the firewall, as captured.
    pub(super) firewall_saw: IpAddr,
    /// `accept` or `drop`, by the firewall's counters.
    pub(super) firewall_verdict: &'static str,
}

/// Every pod to every other.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MeshSeen {
    /// Pairs of pods.
    pub(super) pings: u64,
    /// Pairs of which the answer came.
    pub(super) answered: u64,
    /// Packets of protocol 4 between the nodes, by the witness.
    pub(super) encapsulated: u64,
    /// Packets with a pod's address between the nodes that were not, by the witness.
    pub(super) plain: u64,
}

/// A route of ours.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteSeen {
    /// Whose table.
    pub(super) node: String,
    /// Range or address.
    pub(super) destination: String,
    /// What it is for.
    pub(super) leads_to: String,
    /// Gateway; empty where there is none.
    pub(super) via: String,
    /// Interface; empty where there is none.
    pub(super) device: String,
    /// Nexthop object.
    pub(super) nexthop_id: Option<u64>,
    /// Source of what the node itself sends there; empty where any is.
    pub(super) source: String,
    /// The largest packet; left out where it is the interface's.
    pub(super) mtu_bytes: Option<u64>,
}

/// Requests of one kind, as the API server counted them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RequestSeen {
    /// Such as `LIST`.
    pub(super) verb: String,
    /// Such as `ipblocks`.
    pub(super) resource: String,
    /// How many.
    pub(super) count: u64,
}

/// Those about objects that agents deal with, the most first.
pub(super) fn counted(requests: &Requests) -> Vec<RequestSeen> {
    let mut seen: Vec<RequestSeen> = Vec::new();
    let agents = ["nodes", "pods", "namespaces"];
    for (kind, count) in requests.iter() {
        if kind.group != "poolward.io" && !(kind.group.is_empty() && agents.contains(&kind.resource.as_str()))
        {
            continue;
        }
        let known = seen.iter_mut().find(|seen| seen.verb == kind.verb && seen.resource == kind.resource);
        if let Some(same) = known {
            same.count += count;
            continue;
        }
        seen.push(RequestSeen { verb: kind.verb.clone(), resource: kind.resource.clone(), count });
    }
    seen.sort_by(|a, b| {
        b.count.cmp(&a.count).then_with(|| (&a.resource, &a.verb).cmp(&(&b.resource, &b.verb)))
    });
    seen
}

impl Outcome {
    /// For people.
    pub(super) fn render(&self) -> String {
        let mut pods = Table::new(&[
            "POD",
            "NODE",
            "POOL",
            "BLOCK",
            "ADDRESS",
            "MARK",
            "DSCP",
            "FIREWALL SAW",
            "FIREWALL",
        ]);
        for pod in &self.pods {
            pods.row([
                pod.pod.clone(),
                pod.node.clone(),
                pod.pool.clone(),
                pod.block.clone(),
                pod.address.to_string(),
                format!("{:#010x}", pod.mark),
                pod.dscp.to_string(),
                pod.firewall_saw.to_string(),
                pod.firewall_verdict.to_owned(),
            ]);
        }
        let mut text = pods.render();
        let mut nodes: Vec<&str> = self.routes.iter().map(|route| route.node.as_str()).collect();
        nodes.dedup();
        for node in nodes {
            let mut routes =
                Table::new(&["DESTINATION", "LEADS TO", "VIA", "DEVICE", "NEXTHOP", "SOURCE", "MTU"]);
            for route in self.routes.iter().filter(|route| route.node == node) {
                let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
                routes.row([
                    route.destination.clone(),
                    route.leads_to.clone(),
                    route.via.clone(),
                    route.device.clone(),
                    number(route.nexthop_id),
                    route.source.clone(),
                    number(route.mtu_bytes),
                ]);
            }
            text += &format!("\n{}\n{}", bold(&format!("Routes of {node}")), routes.render());
        }
        let mut between = Table::new(&["PINGS POD TO POD", "ANSWERED", "ENCAPSULATED", "OTHERWISE"]);
        let MeshSeen { pings, answered, encapsulated, plain } = self.mesh;
        between.row([pings, answered, encapsulated, plain].map(|count| count.to_string()));
        text += &format!("\n{}\n{}", bold("Between the nodes, as the router saw it"), between.render());
        let mut requests = Table::new(&["REQUESTS", "VERB", "RESOURCE"]);
        for RequestSeen { verb, resource, count } in &self.requests {
            requests.row([count.to_string(), verb.clone(), resource.clone()]);
        }
        let title = "While the pods were added, first blocks claimed: what the API server counted";
        text + &format!("\n{}\n{}", bold(title), requests.render())
    }

    /// For programs.
    pub(super) fn write_json(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("the demo's result as JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// What is not as promised; empty when all is.
    pub(super) fn broken_promises(&self, ranges: &[PoolRange], fabric: &Fabric) -> Vec<String> {
        let nodes: Vec<(&str, IpAddr)> =
            fabric.nodes.iter().map(|node| (node.name.as_str(), node.ipv4.into())).collect();
        self.broken(ranges, &nodes)
    }

    fn broken(&self, ranges: &[PoolRange], nodes: &[(&str, IpAddr)]) -> Vec<String> {
        let mut broken = Vec::new();
        let mut promise = |holds: bool, what: String| {
            if !holds {
                broken.push(what);
            }
        };
        let MeshSeen { pings, answered, encapsulated, plain } = self.mesh;
        promise(
            self.pods.len() == 2 * nodes.len(),
            format!("{} pods on {} nodes", self.pods.len(), nodes.len()),
        );
        promise(pings > 0 && answered == pings, format!("{answered} of {pings} pings were answered"));
        promise(encapsulated > 0, "nothing crossed the router encapsulated".to_owned());
        promise(plain == 0, format!("{plain} packets with a pod's address crossed the router as they were"));
        for pod in &self.pods {
            let name = &pod.pod;
            let Some(range) = ranges.iter().find(|range| range.name == pod.pool) else {
                promise(false, format!("{name} has an address of {:?}, which is not exported", pod.pool));
                continue;
            };
            let node = nodes.iter().find(|(node, _)| *node == pod.node).map(|(_, address)| *address);
            let saw = if range.nat_outgoing { node } else { Some(pod.address) };
            promise(
                Some(pod.firewall_saw) == saw,
                format!("the firewall saw {name} as {}", pod.firewall_saw),
            );
            let verdict = if pod.pool == ACCEPTED_POOL { "accept" } else { "drop" };
            let is = pod.firewall_verdict;
            promise(is == verdict, format!("the firewall's verdict on {name} is {is}, not {verdict}"));
            let dscp = range.dscp.unwrap_or(0);
            promise(u64::from(pod.dscp) == dscp, format!("{name} carries DSCP {}, not {dscp}", pod.dscp));
            promise(pod.mark != 0, format!("{name} carries no mark"));
            for other in self.pods.iter().filter(|other| other.pod != *name) {
                let same = (other.mark == pod.mark) == (other.pool == pod.pool);
                promise(same, format!("marks of {name} and {} do not follow their pools", other.pod));
                promise(other.address != pod.address, format!("{name} and {} share an address", other.pod));
                // Every node reaches every other node's pods by the route of their block.
                let routed = other.node == pod.node
                    || self.routes.iter().any(|route| {
                        route.node == pod.node
                            && route.destination == other.block
                            && route.leads_to == other.node
                    });
                promise(routed, format!("{} has no route to the block of {}", pod.node, other.pod));
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Vec<PoolRange> {
        let range = |name: &str, cidr: &str, dscp, nat_outgoing| PoolRange {
            name: name.into(),
            cidr: cidr.into(),
            dscp,
            nat_outgoing,
        };
        vec![
            range("external-pool", "10.244.0.0/26", Some(46), false),
            range("internal-pool", "10.244.0.64/26", None, true),
        ]
    }

    const NODES: [(&str, IpAddr); 2] = [
        ("node-1", IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 1, 2))),
        ("node-2", IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 2, 2))),
    ];

    fn as_promised() -> Outcome {
        let block = |number: u8, external: bool| {
            format!("10.244.0.{}/29", number * 8 + if external { 0 } else { 64 })
        };
        let pod = |number: u8, external: bool| {
            let address: IpAddr = [10, 244, 0, number * 8 + if external { 1 } else { 65 }].into();
            PodSeen {
                pod: format!("{}-{number}", if external { "external" } else { "internal" }),
                node: format!("node-{number}"),
                pool: if external { "external-pool" } else { "internal-pool" }.into(),
                block: block(number, external),
                address,
                mark: if external { 0x10000 } else { 0x0802_0000 },
                dscp: if external { 46 } else { 0 },
                firewall_saw: if external { address } else { NODES[usize::from(number) - 1].1 },
                firewall_verdict: if external { "accept" } else { "drop" },
            }
        };
        let route = |from: u8, to: u8, external: bool| RouteSeen {
            node: format!("node-{from}"),
            destination: block(to, external),
            leads_to: format!("node-{to}"),
            via: "198.18.1.1".into(),
            device: "up0".into(),
            nexthop_id: Some(1),
            source: String::new(),
            mtu_bytes: Some(1480),
        };
        Outcome {
            pods: vec![pod(1, true), pod(2, true), pod(1, false), pod(2, false)],
            mesh: MeshSeen { pings: 12, answered: 12, encapsulated: 16, plain: 0 },
            routes: vec![route(1, 2, true), route(1, 2, false), route(2, 1, true), route(2, 1, false)],
            requests: Vec::new(),
        }
    }

    #[test]
    fn the_walkthrough_as_promised_breaks_nothing() {
        assert_eq!(as_promised().broken(&ranges(), &NODES), Vec::<String>::new());
    }

    #[test]
    fn every_promise_can_be_broken() {
        let check = |spoil: fn(&mut Outcome), expected: &str| {
            let mut outcome = as_promised();
            spoil(&mut outcome);
            let broken = outcome.broken(&ranges(), &NODES);
            assert!(broken.iter().any(|text| text.contains(expected)), "{expected}: {broken:?}");
        };
        check(|o| drop(o.pods.pop()), "3 pods on 2 nodes");
        check(|o| o.mesh.answered = 11, "11 of 12");
        check(|o| o.mesh.encapsulated = 0, "nothing crossed");
        check(|o| o.mesh.plain = 1, "1 packets");
        check(|o| o.pods[0].pool = "other".into(), "not exported");
        check(|o| o.pods[0].firewall_saw = NODES[0].1, "saw external-1 as 198.18.1.2");
        check(|o| o.pods[2].firewall_saw = NODES[1].1, "saw internal-1 as 198.18.2.2");
        check(|o| o.pods[3].firewall_verdict = "accept", "verdict on internal-2 is accept");
        check(|o| o.pods[1].dscp = 0, "external-2 carries DSCP 0");
        check(|o| o.pods[1].mark = 0, "external-2 carries no mark");
        check(|o| o.pods[1].mark = 0x30000, "do not follow their pools");
        check(|o| o.pods[1].address = o.pods[0].address, "share an address");
        check(|o| drop(o.routes.pop()), "node-2 has no route to the block of internal-1");
    }
}
