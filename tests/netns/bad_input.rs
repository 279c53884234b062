//! What cannot be served is refused with what, where and why, and nothing half-done stays behind.

use std::path::PathBuf;

use harness::Attachment;
use serde_json::{Value, json};

use crate::kernel::traces;
use crate::manifest::{pool, reservation};
use crate::site::{Node, Pod, Site};

fn node_with_a_pool(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[pool("a", "10.66.0.0/26", "blockSize: 29")]);
    node.del(&node.add_container("claims-a-block"));
    node
}

/// One ADD that is refused: code, words that must be said, and nothing of it is left on the node or in the pod.
fn check_refused(node: &Node<'_>, pod: &Pod, code: u64, words: &[&str], config: impl FnOnce(&mut Value)) {
    let before = (traces(node), node.usage("a"), pod.netns.ip("address show").unwrap());
    let answer = node.cni().with_config(config).add(&pod.attachment).unwrap();
    let said = format!("{} {}", answer.json["msg"], answer.json["details"]);
    assert_eq!(answer.error_code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    let after = (traces(node), node.usage("a"), pod.netns.ip("address show").unwrap());
    assert_eq!(after, before, "{said}");
}

#[test]
fn an_interface_that_the_pod_has_already_is_not_touched() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let pod = Pod::container("taken");
    pod.netns.ip("link add eth0 type veth peer name other").unwrap();
    check_refused(&node, &pod, 101, &["eth0", "taken-"], |_| ());
    assert!(pod.netns.link("other").is_ok());
}

#[test]
fn an_interface_of_the_node_that_has_the_pods_name_is_not_touched() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let pod = node.add_container("a");
    let host = pod.host_ifname();
    node.del(&pod);
    node.netns().ip(&format!("link add {host} type veth peer name other")).unwrap();
    check_refused(&node, &pod, 101, &[&host], |_| ());
    // DEL does not take it for the pod's either.
    node.del(&pod);
    assert!(node.netns().link(&host).is_ok());
}

#[test]
fn a_call_that_makes_no_sense_is_refused_before_anything_is_made() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let check = |change: &dyn Fn(&mut Attachment), code: u64, words: &[&str]| {
        let mut pod = Pod::container("bad");
        change(&mut pod.attachment);
        check_refused(&node, &pod, code, words, |_| ());
    };
    check(
        &|a| a.netns = Some("/run/netns/there-is-none".into()),
        4,
        &["CNI_NETNS", "/run/netns/there-is-none"],
    );
    check(&|a| a.netns = None, 4, &["CNI_NETNS", "not set"]);
    check(&|a| a.netns = Some("/dev/null".into()), 4, &["CNI_NETNS", "/dev/null", "not a network namespace"]);
    check(&|a| a.netns = Some("relative".into()), 4, &["CNI_NETNS", "absolute"]);
    check(&|a| a.netns = Some("/proc/self/ns/mnt".into()), 4, &["CNI_NETNS", "not a network namespace"]);
    check(&|a| a.container_id = "../../etc".into(), 4, &["CNI_CONTAINERID", "../../etc"]);
    check(&|a| a.container_id = "a/b".into(), 4, &["CNI_CONTAINERID", "a/b"]);
    check(&|a| a.container_id = String::new(), 4, &["CNI_CONTAINERID", "not set"]);
    check(&|a| a.container_id = "x".repeat(129), 4, &["CNI_CONTAINERID", "128"]);
    check(&|a| a.ifname = "sixteen-bytes-xx".into(), 4, &["CNI_IFNAME", "15"]);
    check(&|a| a.ifname = "..".into(), 4, &["CNI_IFNAME"]);
    check(&|a| a.ifname = "eth0/1".into(), 4, &["CNI_IFNAME", "eth0/1"]);
    check(&|a| a.args = "K8S_POD_NAME".into(), 4, &["CNI_ARGS", "K8S_POD_NAME"]);
    check(
        &|a| a.args = "K8S_POD_NAMESPACE=..;K8S_POD_NAME=x;IgnoreUnknown=1".into(),
        7,
        &["K8S_POD_NAMESPACE"],
    );

    let own = node.netns().path();
    let in_node = move |a: &mut Attachment| a.netns = Some(PathBuf::from(&own));
    check(&in_node, 4, &["own network namespace"]);
}

#[test]
fn a_configuration_that_cannot_be_followed_is_refused_before_anything_is_made() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let check = |change: fn(&mut Value), code: u64, words: &[&str]| {
        check_refused(&node, &Pod::container("bad"), code, words, change);
    };
    let remove = |config: &mut Value| drop(config.as_object_mut().unwrap().remove("name"));
    check(remove, 7, &["name", "missing"]);
    check(|config| config["name"] = json!("a/b"), 7, &["name", "a/b"]);
    check(|config| config["cniVersion"] = json!("9.9.9"), 1, &["cniVersion", "9.9.9", "1.1.0"]);
    check(|config| config["ipam"] = json!({"type": "dhcp"}), 2, &["ipam.type", "dhcp"]);
    // The delegate is looked for where the runtime says.
    check(
        |config| config["ipam"] = json!({"type": "host-local"}),
        4,
        &["ipam.type", "host-local", "CNI_PATH"],
    );
    check(|config| config["ipam"] = json!({"ipv4_pool": ["a"]}), 2, &["ipv4_pool"]);
    check(|config| config["ipam"] = json!({"ipv4_pools": "a"}), 7, &["ipam.ipv4_pools"]);
    check(|config| config["mtu"] = json!(17), 7, &["mtu", "17"]);
    check(|config| config["agentSocket"] = json!("relative.sock"), 7, &["agentSocket"]);
    check(|config| config["runtimeConfig"] = json!({"mac": "02:00:00:00:00:01"}), 2, &["runtimeConfig.mac"]);

    let pod = Pod::container("bad");
    for (stdin, code) in [(&b""[..], 6), (b"{", 6), (b"[]", 6), (&[0xff, 0xfe], 6)] {
        let answer = node.cni().call_raw("ADD", Some(&pod.attachment), stdin).unwrap();
        assert_eq!(answer.error_code(), Some(code), "{stdin:?}: {}", answer.json);
    }
}

#[test]
fn of_several_documents_with_mistakes_all_are_told_and_none_is_applied() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let check = |manifests: &[String], words: &[&str]| {
        let before = (
            node.ctl().json(&["get", "pools"]).unwrap(),
            node.ctl().json(&["get", "ipreservations"]).unwrap(),
        );
        let said = node.apply_refused(manifests);
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
        let after = (
            node.ctl().json(&["get", "pools"]).unwrap(),
            node.ctl().json(&["get", "ipreservations"]).unwrap(),
        );
        assert_eq!(after, before, "{said}");
    };
    let good = || pool("good", "10.67.0.0/26", "blockSize: 29");
    check(&[good(), pool("b", "10.68.0.1/26", "blockSize: 29")], &["10.68.0.1/26", "cidr", "document 2"]);
    check(&[good(), pool("b", "10.68.0.0/26", "blockSize: 19")], &["blockSize", "19"]);
    check(&[good(), pool("b", "10.68.0.0/26", "blockSize: 25")], &["blockSize", "25"]);
    check(&[good(), pool("b", "fd00::/64", "blockSize: 64")], &["blockSize", "64"]);
    check(&[good(), pool("b", "10.68.0.0/26", "blocksize: 29")], &["blocksize"]);
    check(&[good(), pool("b", "10.68.0.0/26", "nodeSelector: \"zone = 'b'\"")], &["nodeSelector"]);
    check(&[good(), pool("b", "10.68.0.0/26", "dscp: 64")], &["dscp", "64"]);
    check(&[good(), reservation("r", &["10.0.0.1/24"])], &["reservedCIDRs", "10.0.0.1/24"]);
    check(&[good(), "---\nkind: Nonsense\napiVersion: v1\nmetadata: {name: x}\n".into()], &["Nonsense"]);
    // With what is stored, and with each other.
    check(&[good(), pool("b", "10.66.0.32/27", "blockSize: 29")], &["10.66.0.32/27", "a"]);
    check(&[good(), pool("b", "10.67.0.0/24", "blockSize: 29")], &["10.67.0.0/24", "good"]);
    // Several at once: each is told.
    check(
        &[pool("x", "10.68.0.1/26", "blockSize: 29"), pool("y", "10.69.0.0/26", "blockSize: 7")],
        &["10.68.0.1/26", "blockSize", "7"],
    );
    // And what was not applied can be, once it is right.
    node.apply(&[good()]);
}
