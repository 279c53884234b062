//! Our addresses under macvlan, as those use it who put pods on their LAN: a part of the LAN's range, its router as gateway.
//!
//! The LAN is the lab's link between node and firewall; the plugin is Debian's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use harness::lab::{FIREWALL_TO_NODE, NODE_UPLINK, OUTSIDE_IPV4, OUTSIDE_IPV6};
use harness::{AgentOptions, Capture, Cni, Direction, EchoServer, wait_until};
use serde_json::{Value, json};

use crate::manifest::{namespace, pod, pool, reservation};
use crate::other_plugins::{add, holders, plugin, plugin_dir, wait_until_left_to_others};
use crate::site::{Node, Pod, Site, addresses_of};

const PORT: u16 = 7710;

/// The firewall's addresses on the LAN.
const GATEWAYS: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];

/// Soon enough for what takes the kernel a moment.
const SOON: Duration = Duration::from_secs(3);

/// A pool of each family that is a part of the LAN.
fn pools() -> [String; 2] {
    [
        pool("lan", "192.0.2.192/28", "blockSize: 29, cooldownSeconds: 0"),
        pool("lan-six", "2001:db8:1::100/120", "blockSize: 125, cooldownSeconds: 0"),
    ]
}

/// What the main plugin passes on.
fn ipam() -> Value {
    json!({"type": "poolward-ipam", "subnets": ["192.0.2.0/24", "2001:db8:1::/64"]})
}

fn macvlan<'n>(node: &Node<'n>, dir: &Path) -> Cni<'n> {
    let extra = json!({"master": NODE_UPLINK, "mode": "bridge", "ipam": ipam()});
    plugin(node, dir, "macvlan", &extra)
}

#[test]
fn pods_on_the_lan_reach_each_other_the_gateway_and_the_outside_under_their_own_addresses() {
    let site = Site::new();
    let node = site.start();
    node.apply(&pools());
    let dir = plugin_dir(&site);
    let macvlan = macvlan(&node, &dir);
    let (mut a, mut b) = (Pod::container("a"), Pod::container("b"));
    add(&macvlan, &mut a);
    add(&macvlan, &mut b);
    for pod in [&a, &b] {
        let ips = pod.result["ips"].as_array().unwrap();
        let of = |key: &str| ips.iter().map(|ip| ip[key].as_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(of("gateway"), GATEWAYS, "{}", pod.result);
        let lengths: Vec<&str> = of("address").iter().map(|it| it.split('/').nth(1).unwrap()).collect();
        assert_eq!(lengths, ["24", "64"], "{}", pod.result);
        assert!(of("address")[0].starts_with("192.0.2.19") || of("address")[0].starts_with("192.0.2.20"));
    }
    let _servers = [&b.netns, &site.lab.firewall, &site.lab.outside]
        .map(|netns| EchoServer::start(netns, [PORT]).unwrap());
    let wire = Capture::start(&site.lab.firewall, FIREWALL_TO_NODE, Direction::In).unwrap();
    let gateways = GATEWAYS.map(|gateway| gateway.parse::<IpAddr>().unwrap());
    let outside = [IpAddr::from(OUTSIDE_IPV4), OUTSIDE_IPV6.into()];
    for to in b.addresses().into_iter().chain(gateways).chain(outside) {
        // Of IPv6 the plugin waits until duplicate address detection is done; routers may take a moment to answer.
        wait_until(SOON, &format!("{to} answers"), || a.reaches((to, PORT)));
    }
    // Each by its own hardware address and under its own address: no NAT, whatever the pools say.
    let mac = a.netns.link("eth0").unwrap().mac;
    let of_a: Vec<_> = wire.stop().unwrap().into_iter().filter(|packet| packet.source_mac == mac).collect();
    for to in outside {
        let seen = of_a.iter().filter_map(|packet| packet.ip).find(|ip| ip.destination == to);
        assert!(a.addresses().contains(&seen.unwrap().source), "{seen:?}");
    }
    // What macvlan cannot do, with any IPAM: the node itself and pods on its own link do not meet.
    let from_node = |to: IpAddr| {
        harness::udp_echo(node.netns(), (to, PORT).into(), b"x", Duration::from_millis(300))
            .is_ok_and(|echo| echo.is_some())
    };
    assert!(b.addresses().into_iter().all(|to| !from_node(to)), "the node reaches pods on its uplink");
    assert_eq!(macvlan.check(&a.attachment, &a.result).unwrap().code, 0);
    let checked = node.ctl().json(&["ipam", "check"]).unwrap();
    assert_eq!(checked["violations"], json!([]), "{checked}");
    for pod in [&a, &b] {
        macvlan.del(&pod.attachment).unwrap().ok().unwrap();
        assert!(pod.netns.link("eth0").is_err());
    }
    assert_eq!(holders(&node), 0);
}

#[test]
fn addresses_on_the_lan_outlive_the_agent_and_come_back_by_del_gc_or_as_leaks() {
    let site = Site::new();
    let options = AgentOptions { more_yaml: "leakGraceSeconds: 2\n".into(), ..AgentOptions::default() };
    let mut node = site.start_with(&options);
    node.apply(&pools());
    node.apply(&[
        reservation("printer", &["192.0.2.192/30"]),
        namespace("n", &[]),
        pod("n", "named", &[("poolward.io/ipAddrs", "[\"192.0.2.200\", \"2001:db8:1::109\"]")]),
    ]);
    let dir = plugin_dir(&site);
    let macvlan = macvlan(&node, &dir);
    let mut pods: Vec<Pod> = (0..3).map(|_| Pod::container("pod")).collect();
    pods.iter_mut().for_each(|pod| add(&macvlan, pod));
    let mut named = Pod::of("n", "named");
    add(&macvlan, &mut named);
    let texts: Vec<String> = named.addresses().iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["192.0.2.200", "2001:db8:1::109"]);
    let all: BTreeSet<IpAddr> = pods.iter().flat_map(Pod::addresses).collect();
    assert_eq!(all.len(), 6, "somebody has another's: {all:?}");
    let is_kept = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[3] < 196);
    assert!(!all.iter().any(is_kept), "what a reservation keeps was given: {all:?}");
    assert_eq!(holders(&node), 8);

    // The same again gets the same, before and after the agent was killed.
    assert_eq!(asked_again(&node, &dir, &pods[0]), pods[0].addresses());
    wait_until_left_to_others(&node, &["192.0.2.", "2001:db8:1:"]);
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert_eq!((holders(&node), node.first_planned()), (8, 0));
    assert_eq!(asked_again(&node, &dir, &pods[0]), pods[0].addresses());
    assert_eq!(macvlan.check(&pods[0].attachment, &pods[0].result).unwrap().code, 0);

    // By DEL, also of a sandbox whose namespace is gone; by GC; and without either, once it has been gone long enough.
    let (live, mut gone) = (named, pods);
    let deleted = gone.pop().unwrap();
    let attachment = harness::Attachment { netns: None, ..deleted.attachment.clone() };
    drop(deleted);
    macvlan.del(&attachment).unwrap().ok().unwrap();
    wait_until(Duration::from_secs(1), "DEL frees", || holders(&node) == 6);
    let collected = gone.pop().unwrap();
    drop(collected);
    let kept = [&live.attachment, &gone[0].attachment];
    ipam_alone(&node, &dir).gc(&kept).unwrap().ok().unwrap();
    assert_eq!(holders(&node), 4, "GC frees");
    gone.clear();
    wait_until(Duration::from_secs(8), "the leak is freed", || holders(&node) == 2);
    assert_eq!(macvlan.check(&live.attachment, &live.result).unwrap().code, 0, "the live one stays");
    macvlan.del(&live.attachment).unwrap().ok().unwrap();
    assert_eq!(holders(&node), 0);
}

/// Our plugin under its other name, as the main plugin calls it.
fn ipam_alone<'n>(node: &Node<'n>, dir: &Path) -> Cni<'n> {
    plugin(node, dir, "poolward-ipam", &json!({"ipam": ipam()}))
}

/// What an ADD that comes again is answered.
fn asked_again(node: &Node<'_>, dir: &Path, pod: &Pod) -> Vec<IpAddr> {
    addresses_of(&ipam_alone(node, dir).add(&pod.attachment).unwrap().ok().unwrap())
}
