//! The routes that Poolward has put on each node, as `ip` tells them, with what they are for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::outcome::RouteSeen;
use super::stage::{HEAR_LIMIT, Stage};

/// Protocol number of our routes.
const PROTOCOL: &str = "80";

/// Reads all of them.
pub(super) fn read(stage: &Stage<'_>) -> Result<Vec<RouteSeen>> {
    let blocks = stage.all.management.control_plane.kubectl()?.json(&["get", "ipblocks"])?;
    let owners = owners(&blocks)?;
    let pods: BTreeMap<IpAddr, &str> =
        stage.pods.iter().map(|pod| (pod.address, pod.name.as_str())).collect();
    let mut seen = Vec::new();
    for node in &stage.all.fabric.nodes {
        let shown = node.netns.ip_json(&format!("-4 route show table main proto {PROTOCOL}"))?;
        for route in shown.as_array().context("ip route: no list")? {
            seen.push(route_of(&node.name, route, &owners, &pods)?);
        }
    }
    Ok(seen)
}

/// Waits until each node has a route to every block of every other: a claim is told, not asked for.
pub(super) fn wait_until_known(stage: &Stage<'_>) -> Result<()> {
    let blocks = stage.all.management.control_plane.kubectl()?.json(&["get", "ipblocks"])?;
    let owners = owners(&blocks)?;
    let deadline = Instant::now() + HEAR_LIMIT;
    loop {
        let missing = missing(stage, &owners)?;
        if missing.is_empty() {
            return Ok(());
        }
        let limit = HEAR_LIMIT.as_secs();
        ensure!(Instant::now() < deadline, "after {limit} s there is no route {}", missing.join(", "));
        crate::interrupt::check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn missing(stage: &Stage<'_>, owners: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for node in &stage.all.fabric.nodes {
        let shown = node.netns.ip_json(&format!("-4 route show table main proto {PROTOCOL}"))?;
        let known: Vec<&str> =
            shown.as_array().into_iter().flatten().filter_map(|route| route.get("dst")?.as_str()).collect();
        let unknown = owners.iter().filter(|(range, _)| !known.contains(&range.as_str()));
        missing.extend(unknown.map(|(range, owner)| format!("from {} to {range} of {owner}", node.name)));
    }
    Ok(missing)
}

/// Who owns which block.
fn owners(blocks: &Value) -> Result<BTreeMap<String, String>> {
    let items = blocks.get("items").and_then(Value::as_array).context("get ipblocks: no \"items\"")?;
    let pairs = items.iter().map(|block| {
        let text = |path: &str| block.pointer(path).and_then(Value::as_str).map(str::to_owned);
        text("/spec/cidr").zip(text("/spec/node")).with_context(|| format!("no range or node in {block}"))
    });
    pairs.collect()
}

fn route_of(
    node: &str,
    route: &Value,
    owners: &BTreeMap<String, String>,
    pods: &BTreeMap<IpAddr, &str>,
) -> Result<RouteSeen> {
    let text = |key: &str| route.get(key).and_then(Value::as_str).unwrap_or_default();
    let destination = text("dst").to_owned();
    let pod = destination.parse().ok().and_then(|address: IpAddr| pods.get(&address));
    let leads_to = match (text("type"), owners.get(&destination), pod) {
        ("blackhole", ..) => "own block: dropped unless a pod has it".to_owned(),
        ("unreachable", ..) => "nobody's: refused".to_owned(),
        (_, Some(owner), _) => owner.clone(),
        (_, _, Some(pod)) => format!("pod {pod}"),
        _ => String::new(),
    };
    let mtu_bytes = route.pointer("/metrics/0/mtu").and_then(Value::as_u64);
    Ok(RouteSeen {
        node: node.to_owned(),
        destination,
        leads_to,
        via: text("gateway").to_owned(),
        device: text("dev").to_owned(),
        nexthop_id: route.get("nhid").and_then(Value::as_u64),
        source: text("prefsrc").to_owned(),
        mtu_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn routes_say_where_they_lead() {
        let owners =
            owners(&json!({"items": [{"spec": {"cidr": "10.0.0.8/29", "node": "node-2"}}]})).unwrap();
        let pods = BTreeMap::from([("10.0.0.1".parse().unwrap(), "web-1")]);
        let check = |route: Value, leads_to: &str, via: &str, mtu| {
            let seen = route_of("node-1", &route, &owners, &pods).unwrap();
            assert_eq!((seen.leads_to.as_str(), seen.via.as_str(), seen.mtu_bytes), (leads_to, via, mtu));
        };
        let remote = json!({"dst": "10.0.0.8/29", "nhid": 7, "gateway": "192.0.2.1", "dev": "up0",
            "prefsrc": "10.0.0.2", "metrics": [{"mtu": 1480}]});
        check(remote, "node-2", "192.0.2.1", Some(1480));
        check(json!({"dst": "10.0.0.1", "dev": "pw1", "scope": "link"}), "pod web-1", "", None);
        check(
            json!({"type": "blackhole", "dst": "10.0.0.0/29"}),
            "own block: dropped unless a pod has it",
            "",
            None,
        );
        check(json!({"type": "unreachable", "dst": "10.0.0.0/26"}), "nobody's: refused", "", None);
    }
}
