//! ADD and DEL as runtimes really send them: again, too late, too early, with the agent away (C1, C2).

use harness::{Attachment, NetNs};
use serde_json::{Value, json};

use crate::kernel::{agreed, traces};
use crate::manifest::pool;
use crate::site::{Node, Pod, Site};

fn node_with_a_pool(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[pool("a", "10.62.0.0/26", "blockSize: 29"), pool("six", "fd62::/120", "blockSize: 125")]);
    node
}

/// The code of a CNI error, which must say something for people too.
fn refusal(answer: &harness::cni::Answer) -> u64 {
    assert!(answer.json["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{}", answer.json);
    answer.error_code().unwrap()
}

#[test]
fn del_is_fine_twice_without_namespace_and_without_an_add() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    // The block is claimed before what is compared.
    node.del(&node.add_container("first"));
    let before = traces(&node);

    let pod = node.add_container("twice");
    node.del(&pod);
    node.del(&pod);
    assert_eq!(traces(&node), before, "after two DELs");

    let mut pod = node.add_container("netns-gone");
    NetNs::delete(pod.netns.name()).unwrap();
    pod.netns.keep();
    pod.attachment.netns = None;
    node.del(&pod);
    node.del(&pod);
    assert_eq!(traces(&node), before, "after DEL without its namespace");

    node.del(&Pod::container("never-added"));
    let mut wrong_netns = node.add_container("other-netns");
    wrong_netns.attachment.netns = Some("/run/netns/there-is-none".into());
    node.del(&wrong_netns);
    assert_eq!(traces(&node), before);
}

#[test]
fn del_while_the_agent_is_away_can_be_tried_again_and_then_succeeds() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pod = node.add_container("a");
    node.agent.kill().unwrap();
    for answer in [node.cni().del(&pod.attachment).unwrap(), node.cni().add(&pod.attachment).unwrap()] {
        assert_eq!(refusal(&answer), 11, "{}", answer.json);
    }
    assert_eq!(refusal(&node.cni().status().unwrap()), 50);
    node.agent.start_again().unwrap();
    assert_eq!(agreed(&node).len(), 1, "nothing was forgotten meanwhile");
    node.del(&pod);
    assert!(agreed(&node).is_empty());
}

#[test]
fn a_repeated_add_gets_the_same_answer_and_doubles_nothing() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pod = node.add_container("a");
    let before = traces(&node);
    let again = |node: &Node<'_>| node.cni().add(&pod.attachment).unwrap().ok().unwrap();
    for _ in 0..3 {
        assert_eq!(again(&node), pod.result);
    }
    assert_eq!(traces(&node), before);
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert_eq!(again(&node), pod.result, "by another agent");
    assert_eq!(traces(&node), before);
}

#[test]
fn an_add_with_another_namespace_tears_down_what_was_there_first() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let mut pod = node.add_container("a");
    let second = NetNs::unique("pwnet-pod").unwrap();
    pod.attachment.netns = Some(second.path());
    let result = node.cni().add(&pod.attachment).unwrap().ok().unwrap();
    assert_eq!(result["interfaces"][1]["sandbox"], second.path().display().to_string());
    let held = agreed(&node);
    assert_eq!(held.len(), 1);
    assert_eq!(held[&pod.handle()], crate::site::addresses_of(&result).into_iter().collect());
    assert!(pod.netns.link("eth0").is_err(), "the first namespace still has its interface");
    assert!(second.link("eth0").is_ok());
    node.del(&pod);
    assert!(agreed(&node).is_empty());
}

#[test]
fn an_add_again_after_the_sandbox_was_damaged_makes_it_anew() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let pod = node.add_container("a");
    pod.netns.ip("route del default").unwrap();
    let result = node.cni().add(&pod.attachment).unwrap().ok().unwrap();
    assert_eq!(agreed(&node).len(), 1);
    let again = node.cni().check(&pod.attachment, &result).unwrap();
    assert_eq!(again.code, 0, "{}", again.json);
}

#[test]
fn a_second_interface_is_refused_while_the_first_has_the_default_route() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let first = node.add_container("a");
    let before = traces(&node);
    let mut attachment = first.attachment.clone();
    attachment.ifname = "net1".to_owned();
    let answer = node.cni().add(&attachment).unwrap();
    refusal(&answer);
    let said = answer.json["msg"].as_str().unwrap();
    assert!(said.contains("net1") && said.contains("169.254.1.1"), "{said}");
    assert_eq!(traces(&node), before);
    assert_eq!(node.check(&first), None, "the first interface suffered from the second");
}

#[test]
fn every_version_of_the_specification_gets_a_result_of_its_own_shape() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let check = |version: &str, family_in_ips: bool, mtu_in_interfaces: bool| {
        let cni = node.cni().with_config(|config| config["cniVersion"] = json!(version));
        let pod = Pod::container("versioned");
        let result = cni.add(&pod.attachment).unwrap().ok().unwrap();
        assert_eq!(result["cniVersion"], version);
        let ips = result["ips"].as_array().unwrap();
        assert_eq!(ips.len(), 2, "{result}");
        for ip in ips {
            let four = ip["address"].as_str().unwrap().contains('.');
            let expected = if four { "4" } else { "6" };
            let family = ip.get("version").and_then(Value::as_str);
            assert_eq!(family, family_in_ips.then_some(expected), "{version}: {ip}");
            assert_eq!(ip["gateway"], if four { "169.254.1.1" } else { "fe80::1" });
            assert_eq!(ip["interface"], 1, "{version}: {ip}");
        }
        let interfaces = result["interfaces"].as_array().unwrap();
        assert_eq!(interfaces.len(), 2, "{version}: {result}");
        assert!(interfaces.iter().all(|entry| entry.get("mtu").is_some() == mtu_in_interfaces), "{result}");
        assert_eq!(interfaces[1]["mac"], pod.netns.ip_json("link show dev eth0").unwrap()[0]["address"]);
        assert_eq!(result["routes"].as_array().unwrap().len(), 2, "{result}");
        // CHECK came with 0.4.0.
        let checked = cni.check(&pod.attachment, &result).unwrap();
        assert_eq!(checked.code == 0, version != "0.3.1", "{version}: {}", checked.json);
        cni.del(&pod.attachment).unwrap().ok().unwrap();
    };
    check("0.3.1", true, false);
    check("0.4.0", true, false);
    check("1.0.0", false, false);
    check("1.1.0", false, true);

    let versions = node.cni().version().unwrap().ok().unwrap();
    assert_eq!(versions["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    let old = node.cni().with_config(|config| config["cniVersion"] = json!("0.2.0"));
    assert_eq!(refusal(&old.add(&Pod::container("old").attachment).unwrap()), 1);
    assert!(agreed(&node).is_empty());
}

#[test]
fn behind_another_plugin_of_the_chain_the_result_holds_both() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let before = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "other0", "mac": "02:00:00:00:00:09", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "192.168.9.9/24", "interface": 0}],
        "routes": [{"dst": "192.168.0.0/16"}],
        "dns": {"nameservers": ["10.0.0.53"]},
    });
    let cni = node.cni().with_config(|config| config["prevResult"] = before.clone());
    let pod = Pod::container("chained");
    let result = cni.add(&pod.attachment).unwrap().ok().unwrap();
    assert_eq!(result["interfaces"][0], before["interfaces"][0]);
    assert_eq!((&result["ips"][0], &result["dns"]), (&before["ips"][0], &before["dns"]));
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(result["ips"][1]["interface"], 2, "{result}");
    assert_eq!(cni.check(&pod.attachment, &result).unwrap().code, 0);
    cni.del(&pod.attachment).unwrap().ok().unwrap();
    assert!(agreed(&node).is_empty());
}

#[test]
fn a_pod_with_the_longest_names_there_are_is_served() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let (namespace, name) = ("n".repeat(63), format!("{0}.{0}.{0}.{1}", "p".repeat(63), "q".repeat(61)));
    assert_eq!(name.len(), 253);
    node.apply(&[crate::manifest::namespace(&namespace, &[]), crate::manifest::pod(&namespace, &name, &[])]);
    let cni = node.cni().with_config(|config| config["name"] = json!("w".repeat(253)));
    let mut pod = Pod::container("longest");
    let uid = "11111111-2222-3333-4444-555555555555";
    pod.attachment = Attachment::of_pod(&"c".repeat(128), &pod.netns, &namespace, &name, uid);
    pod.attachment.ifname = "e".repeat(15);
    pod.result = cni.add(&pod.attachment).unwrap().ok().unwrap();
    assert_eq!(agreed(&node).into_keys().collect::<Vec<_>>(), [pod.handle()]);
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert_eq!(cni.check(&pod.attachment, &pod.result).unwrap().code, 0);
    cni.del(&pod.attachment).unwrap().ok().unwrap();
    assert!(agreed(&node).is_empty());
}
