//! What the node's kernel holds of pods, read by `ip` and `bpftool`, and whether everybody agrees on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use harness::{NetNs, NodeFiles, Run, wait_until};
use serde_json::Value;

use crate::site::Node;

/// Protocol number of our routes, as `ip` prints it.
pub(crate) const ROUTE_PROTOCOL: &str = "80";

/// Where maps and links are pinned, whatever the schema version.
pub(crate) fn version_dir(files: &NodeFiles) -> PathBuf {
    let entries = std::fs::read_dir(files.pin_dir()).unwrap();
    let is_version =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v'));
    let dirs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(is_version).collect();
    assert_eq!(dirs.len(), 1, "more than one schema version: {dirs:?}");
    dirs[0].clone()
}

/// `bpftool map dump`, as the maps' type information formats it.
pub(crate) fn dump_map(files: &NodeFiles, map: &str) -> Vec<Value> {
    let path = version_dir(files).join(map);
    let text = Run::new("bpftool").args(["-j", "map", "dump", "pinned"]).args([path]).ok().unwrap();
    let dumped: Value = serde_json::from_str(&text).unwrap();
    dumped.as_array().unwrap().iter().map(|entry| entry["formatted"].clone()).collect()
}

/// The endpoint map: what may be sent through which interface.
pub(crate) fn endpoints(files: &NodeFiles) -> BTreeMap<u64, BTreeSet<IpAddr>> {
    let bytes = |value: &Value| -> Vec<u8> {
        value.as_array().unwrap().iter().map(|byte| number(byte) as u8).collect()
    };
    let of_entry = |entry: Value| {
        let value = &entry["value"];
        let flags = number(&value["flags"]);
        let mut addresses = BTreeSet::new();
        if flags & 1 != 0 {
            addresses.insert(IpAddr::from(<[u8; 4]>::try_from(bytes(&value["ipv4"])).unwrap()));
        }
        if flags & 2 != 0 {
            addresses.insert(IpAddr::from(<[u8; 16]>::try_from(bytes(&value["ipv6"])).unwrap()));
        }
        (number(&entry["key"]["ifindex"]), addresses)
    };
    dump_map(files, "pw_endpoints").into_iter().map(of_entry).collect()
}

/// bpftool prints some numbers as numbers and some as text in hexadecimal.
pub(crate) fn number(value: &Value) -> u64 {
    let from_text = || {
        let text = value.as_str()?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    };
    value.as_u64().or_else(from_text).unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Interfaces whose alias says that they are ours: name, index, handle, addresses.
pub(crate) fn pod_links(node: &Node<'_>) -> Vec<(String, u64, String, BTreeSet<IpAddr>)> {
    let links = node.netns().ip_json("link show type veth").unwrap();
    let mut found = Vec::new();
    for link in links.as_array().unwrap() {
        let Some(alias) = link["ifalias"].as_str().and_then(|alias| alias.strip_prefix("poolward1;")) else {
            continue;
        };
        let parts: BTreeMap<&str, &str> = alias.split(';').filter_map(|part| part.split_once('=')).collect();
        let addresses = ["4", "6"].iter().filter_map(|key| parts.get(key)).map(|text| text.parse().unwrap());
        found.push((
            link["ifname"].as_str().unwrap().to_owned(),
            link["ifindex"].as_u64().unwrap(),
            format!("{}/{}", parts["c"], parts["i"]),
            addresses.collect(),
        ));
    }
    found
}

/// Routes of ours, both families: destination without the length of a host, and where to (`blackhole`, `unreachable`
/// or a device).
pub(crate) fn own_routes(node: &Node<'_>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let routes = node.netns().ip_json(&format!("{family} route show proto {ROUTE_PROTOCOL}")).unwrap();
        for route in routes.as_array().unwrap() {
            let dead_end = route["type"].as_str().filter(|kind| ["blackhole", "unreachable"].contains(kind));
            let target = dead_end.or(route["dev"].as_str()).unwrap_or("?");
            let destination = route["dst"].as_str().unwrap();
            found.push((destination.to_owned(), target.to_owned()));
        }
    }
    found
}

/// Ranges of ours that are dropped where no pod is.
pub(crate) fn blackholes(node: &Node<'_>) -> Vec<String> {
    let routes = own_routes(node).into_iter();
    routes.filter(|(_, target)| target == "blackhole").map(|(destination, _)| destination).collect()
}

/// Who holds what by the ledger (`ipam show`).
pub(crate) fn ledger(node: &Node<'_>) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let shown = node.ctl().json(&["ipam", "show"]).unwrap();
    let mut holders: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for usage in shown["addresses"].as_array().unwrap() {
        let address: IpAddr = usage["address"].as_str().unwrap().parse().unwrap();
        assert!(seen.insert(address), "{address} is in use twice: {shown}");
        holders.entry(usage["handle"].as_str().unwrap().to_owned()).or_default().insert(address);
    }
    holders
}

/// Asserts that ledger, interfaces, routes, endpoint map and programs all speak of the same pods with the same
/// addresses, none of them doubled; who holds what.
pub(crate) fn agreed(node: &Node<'_>) -> BTreeMap<String, BTreeSet<IpAddr>> {
    agreed_but(node, &BTreeSet::new())
}

/// The same, but these may hold addresses without an interface: a DEL of theirs was cut short, and has to come again.
pub(crate) fn agreed_but(
    node: &Node<'_>,
    half_deleted: &BTreeSet<String>,
) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let ledger = ledger(node);
    let links = pod_links(node);
    let by_alias: BTreeMap<String, BTreeSet<IpAddr>> =
        links.iter().map(|(_, _, handle, addresses)| (handle.clone(), addresses.clone())).collect();
    assert_eq!(by_alias.len(), links.len(), "two interfaces of one handle: {links:?}");
    let mut with_interface = ledger.clone();
    with_interface.retain(|handle, _| by_alias.contains_key(handle) || !half_deleted.contains(handle));
    assert_eq!(with_interface, by_alias, "ledger (left) and interfaces (right)");

    let expected: BTreeMap<u64, BTreeSet<IpAddr>> =
        links.iter().map(|(_, ifindex, _, addresses)| (*ifindex, addresses.clone())).collect();
    assert_eq!(endpoints(&node.site.files), expected, "endpoint map (left) and interfaces (right)");

    let mut routed: Vec<(IpAddr, String)> = own_routes(node)
        .into_iter()
        .filter(|(_, target)| target != "blackhole" && target != "unreachable")
        .map(|(destination, device)| {
            (destination.parse().unwrap_or_else(|_| panic!("a route of ours to {destination}")), device)
        })
        .collect();
    let mut to_pods: Vec<(IpAddr, String)> = links
        .iter()
        .flat_map(|(name, _, _, addresses)| addresses.iter().map(|address| (*address, name.clone())))
        .collect();
    routed.sort();
    to_pods.sort();
    assert_eq!(routed, to_pods, "routes (left) and interfaces (right)");

    assert_eq!(attached(node), expected.keys().copied().collect(), "programs (left)");
    ledger
}

/// Indexes of the interfaces with the program that looks at what pods send: by a TCX link or by a clsact filter, never
/// by both, or every packet would count twice.
pub(crate) fn attached(node: &Node<'_>) -> BTreeSet<u64> {
    let (linked, filtered) = (linked(&node.site.files), filtered(node.netns()));
    assert!(linked.is_disjoint(&filtered), "links {linked:?} and filters {filtered:?}");
    linked.union(&filtered).copied().collect()
}

/// Interfaces with a TCX link of `from_pod`, by the pin that keeps it. (Debian's bpftool does not list such links.)
pub(crate) fn linked(files: &NodeFiles) -> BTreeSet<u64> {
    let entries = std::fs::read_dir(version_dir(files).join("links")).unwrap();
    let index = |name: String| name.strip_suffix("-from_pod").map(|index| index.parse().unwrap());
    entries.filter_map(|entry| index(entry.unwrap().file_name().to_string_lossy().into_owned())).collect()
}

/// Interfaces with a clsact filter of `from_pod`, by what the kernel runs.
pub(crate) fn filtered(netns: &NetNs) -> BTreeSet<u64> {
    let text = Run::new("bpftool").args(["-j", "net"]).ok_in(netns).unwrap();
    let shown: Value = serde_json::from_str(&text).unwrap();
    let programs = shown[0]["tc"].as_array().unwrap_or_else(|| panic!("bpftool net: {shown}"));
    let is_filter =
        |program: &&Value| program["kind"].as_str().is_some_and(|kind| kind.starts_with("clsact/ingress"));
    let ours = programs.iter().filter(is_filter).filter(|program| program["name"] == "from_pod");
    let indexes: Vec<u64> = ours.map(|program| program["ifindex"].as_u64().unwrap()).collect();
    let distinct: BTreeSet<u64> = indexes.iter().copied().collect();
    assert_eq!(distinct.len(), indexes.len(), "two filters on one interface: {shown}");
    distinct
}

/// Everything of the node that an ADD or DEL may change, as text, to be compared before and after.
pub(crate) fn traces(node: &Node<'_>) -> String {
    // Blocks that were just claimed get theirs a moment after the ADD.
    wait_until(Duration::from_secs(2), "every block has its blackhole", || {
        node.status()["blocks"].as_u64() == Some(blackholes(node).len() as u64)
    });
    let netns = node.netns();
    let mut lines = vec![format!("held: {:?}", ledger(node))];
    let links = netns.ip_json("link show").unwrap();
    for link in links.as_array().unwrap() {
        lines.push(format!(
            "link {} {} {} {}",
            link["ifname"], link["mtu"], link["operstate"], link["ifalias"]
        ));
    }
    for family in ["-4", "-6"] {
        let routes = netns.ip(&format!("{family} route show table all")).unwrap();
        lines.extend(routes.lines().map(|line| format!("route {}", line.trim())));
    }
    let neighbours = netns.ip("neighbour show nud permanent").unwrap();
    lines.extend(neighbours.lines().map(|line| format!("neighbour {line}")));
    lines.push(format!("endpoints {:?}", endpoints(&node.site.files)));
    lines.push(format!("programs {:?}", attached(node)));
    lines.join("\n")
}

/// Takes the programs off one interface, behind the agent's back: a link goes with its last pin, a filter with its
/// qdisc.
pub(crate) fn detach(node: &Node<'_>, host_ifname: &str) {
    let index = node.netns().link(host_ifname).unwrap().index;
    for entry in std::fs::read_dir(version_dir(&node.site.files).join("links")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(&format!("{index}-")) {
            std::fs::remove_file(path).unwrap();
        }
    }
    if filtered(node.netns()).contains(&index.into()) {
        Run::new("tc")
            .args(["-n", node.netns().name(), "qdisc", "del", "dev", host_ifname, "clsact"])
            .ok()
            .unwrap();
    }
    assert!(!attached(node).contains(&index.into()), "{host_ifname} still has its program");
}

/// Removes an interface from the endpoint map, behind the agent's back.
pub(crate) fn forget_endpoint(node: &Node<'_>, host_ifname: &str) {
    let index = node.netns().link(host_ifname).unwrap().index;
    delete_key(&node.site.files, "pw_endpoints", &index.to_ne_bytes());
}

/// `bpftool map delete`.
pub(crate) fn delete_key(files: &NodeFiles, map: &str, key: &[u8]) {
    let path = version_dir(files).join(map);
    let bytes: Vec<String> = key.iter().map(|byte| format!("{byte:02x}")).collect();
    Run::new("bpftool")
        .args(["map", "delete", "pinned"])
        .args([path])
        .args(["key", "hex"])
        .args(bytes)
        .ok()
        .unwrap();
}
