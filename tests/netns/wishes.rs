//! What a pod's annotations ask for besides pools: families, addresses, a hardware address, further sources.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use harness::lab::{FIREWALL_TO_NODE, OUTSIDE_IPV4};
use harness::{AgentOptions, Capture, Direction, Packet, Run};

use crate::kernel::{agreed, traces};
use crate::manifest::{namespace, pod, pool, reservation};
use crate::site::{Node, Pod, Site};

const FAMILIES: &str = "cni.projectcalico.org/ipFamilies";
const ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";
const MAC: &str = "cni.projectcalico.org/hwAddr";

fn node_with_pools(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[
        pool("four", "10.67.0.0/27", "blockSize: 28"),
        pool("six", "fd67::/120", "blockSize: 124"),
        pool("off", "10.67.1.0/28", "blockSize: 28, disabled: true"),
        reservation("kept", &["10.67.0.3"]),
        namespace("plain", &[]),
        namespace("six-only", &[(FAMILIES, "[\"IPv6\"]")]),
    ]);
    node
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_pod_gets_the_addresses_that_it_names_and_no_others() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let check = |name: &str, annotations: &[(&str, &str)], expected: &[&str]| {
        node.apply(&[pod("plain", name, annotations)]);
        let added = node.add_pod("plain", name);
        assert_eq!(added.addresses(), addresses(expected), "{annotations:?}");
        assert_eq!(node.check(&added), None);
        agreed(&node);
        added
    };
    let first = check("first", &[(ADDRESSES, "[\"10.67.0.9\"]")], &["10.67.0.9"]);
    let _both = check(
        "both",
        &[("poolward.io/ipAddrs", "[\"10.67.0.10\", \"fd67::9\"]")],
        &["10.67.0.10", "fd67::9"],
    );
    // An address that a reservation keeps from everybody else, and one of a block that nobody has claimed yet.
    let _kept = check("kept", &[(ADDRESSES, "[\"10.67.0.3\"]")], &["10.67.0.3"]);
    let _claims = check("claims", &[(ADDRESSES, "[\"10.67.0.20\"]")], &["10.67.0.20"]);
    // As of a StatefulSet: the same name again, with the same address.
    node.del(&first);
    let again = node.add_pod("plain", "first");
    assert_eq!(again.addresses(), first.addresses());

    let refused = |name: &str, value: &str, words: &[&str]| {
        node.apply(&[pod("plain", name, &[(ADDRESSES, value)])]);
        let before = traces(&node);
        let answer = node.add_refused(&Pod::of("plain", name));
        let said = format!("{} {}", answer.json["msg"], answer.json["details"]);
        for word in words.iter().chain(&[ADDRESSES]) {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
        assert_eq!(traces(&node), before, "{name}: something was left");
    };
    refused("held", "[\"10.67.0.9\"]", &[again.attachment.container_id.as_str()]);
    refused("nowhere", "[\"192.0.2.1\"]", &["192.0.2.1", "in no pool"]);
    refused("disabled", "[\"10.67.1.2\"]", &["off", "disabled"]);
    // Both or neither.
    refused("half", "[\"10.67.0.11\", \"fd68::1\"]", &["fd68::1"]);
    let said = node.apply_refused(&[pod("plain", "broken", &[(ADDRESSES, "10.67.0.9")])]);
    assert!(said.contains(ADDRESSES), "{said}");
}

#[test]
fn families_are_the_pods_choice_or_its_namespaces() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let check = |namespace: &str, annotations: &[(&str, &str)], four: bool, six: bool| {
        node.apply(&[pod(namespace, "p", annotations)]);
        let added = node.add_pod(namespace, "p");
        let has = |want_four: bool| added.addresses().iter().any(|address| address.is_ipv4() == want_four);
        assert_eq!((has(true), has(false)), (four, six), "{namespace} {annotations:?}");
        node.del(&added);
    };
    check("plain", &[], true, true);
    check("plain", &[(FAMILIES, "[\"IPv4\"]")], true, false);
    check("plain", &[("poolward.io/ipFamilies", "[\"IPv6\"]")], false, true);
    check("plain", &[(FAMILIES, "[\"IPv6\", \"IPv4\"]")], true, true);
    check("six-only", &[], false, true);
    check("six-only", &[(FAMILIES, "[\"IPv4\"]")], true, false);
    check("six-only", &[(ADDRESSES, "[\"10.67.0.9\"]")], true, true);
}

#[test]
fn a_pod_gets_the_hardware_address_that_it_asks_for_and_keeps_it_through_a_new_agent() {
    let site = Site::new();
    let mut node = node_with_pools(&site);
    node.apply(&[pod("plain", "p", &[(MAC, "1c:0c:0a:c0:ff:ee")]), pod("plain", "q", &[])]);
    let (added, other) = (node.add_pod("plain", "p"), node.add_pod("plain", "q"));
    let link = added.netns.ip_json("link show dev eth0").unwrap();
    assert_eq!(link[0]["address"], "1c:0c:0a:c0:ff:ee");
    assert_eq!(added.result["interfaces"][1]["mac"], "1c:0c:0a:c0:ff:ee");
    let _echo = harness::EchoServer::start(&added.netns, [7600]).unwrap();
    assert!(other.reaches((added.address(), 7600)), "through the neighbour entry of the node");
    assert_eq!(node.check(&added), None);
    // By the journal, and without it by the interface alone.
    for lose_journal in [false, true] {
        traces(&node);
        node.agent.kill().unwrap();
        if lose_journal {
            std::fs::remove_file(site.journal()).unwrap();
        }
        node.agent.start_again().unwrap();
        assert_eq!(node.first_planned(), 0, "journal lost: {lose_journal}");
        assert_eq!(node.check(&added), None, "journal lost: {lose_journal}");
    }
    for wrong in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "1c:0c"] {
        let said = node.apply_refused(&[pod("plain", "wrong", &[(MAC, wrong)])]);
        assert!(said.contains(MAC), "{said}");
    }
}

#[test]
fn further_sources_need_the_nodes_leave_and_pass_for_that_pod_alone() {
    const SOURCES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
    let vip = Ipv4Addr::new(198, 51, 100, 7);
    let site = Site::new();
    let mut node = node_with_pools(&site);
    node.apply(&[pod("plain", "p", &[(SOURCES, "[\"198.51.100.0/29\"]")]), pod("plain", "q", &[])]);
    let refused = node.add_refused(&Pod::of("plain", "p"));
    let said = format!("{} {}", refused.json["msg"], refused.json["details"]);
    assert!(said.contains(SOURCES) && said.contains("allowSourcePrefixes: Any"), "{said}");

    node.agent.stop().unwrap();
    drop(node);
    let more_yaml = "allowSourcePrefixes: Any\n".to_owned();
    let mut node = site.start_with(&AgentOptions { more_yaml, ..AgentOptions::default() });
    let (allowed, other) = (node.add_pod("plain", "p"), node.add_pod("plain", "q"));
    assert_eq!((node.check(&allowed), node.check(&other)), (None, None));
    let arrives = |pod: &Pod| {
        let capture = Capture::start(&site.lab.firewall, FIREWALL_TO_NODE, Direction::In).unwrap();
        // The ping has no way back; what counts is what the firewall sees.
        let args = ["-c", "1", "-W", "1", "-I", "198.51.100.7", &OUTSIDE_IPV4.to_string()];
        let _ = Run::new("ping").args(args).finish_in(&pod.netns).unwrap();
        let from_vip = |packet: &Packet| packet.ip.as_ref().is_some_and(|ip| ip.source == IpAddr::from(vip));
        capture.wait_for(Duration::from_millis(300), from_vip).is_some()
    };
    for pod in [&allowed, &other] {
        pod.netns.ip("address add 198.51.100.7/32 dev lo").unwrap();
    }
    assert!(arrives(&allowed), "{}", node.status());
    assert!(!arrives(&other), "a pod that may not");
    // The next agent knows it by its journal.
    traces(&node);
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert_eq!((node.first_planned(), node.check(&allowed)), (0, None));
    assert!(arrives(&allowed));
    // Without the journal nothing is known of it, and the pod may send from its own addresses alone.
    node.agent.kill().unwrap();
    std::fs::remove_file(site.journal()).unwrap();
    node.agent.start_again().unwrap();
    assert!(!arrives(&allowed));
    node.del(&allowed);
    node.del(&other);
}
