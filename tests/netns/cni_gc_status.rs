//! GC and STATUS (C4).

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{AgentOptions, Binaries, wait_until};
use serde_json::json;

use crate::kernel::agreed;
use crate::manifest::pool;
use crate::site::{Node, Pod, Site};

fn node_with_a_pool(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[pool("a", "10.64.0.0/28", "blockSize: 28")]);
    node
}

fn handles(node: &Node<'_>) -> Vec<String> {
    agreed(node).into_keys().collect()
}

#[test]
fn gc_frees_exactly_the_attachments_that_the_runtime_no_longer_knows() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let pods: Vec<Pod> = (0..4).map(|_| node.add_container("g")).collect();
    let other_network = Pod::container("other-network");
    let other = node.cni().with_config(|config| config["name"] = json!("other"));
    other.add(&other_network.attachment).unwrap().ok().unwrap();
    std::thread::sleep(Duration::from_millis(5));

    let gc = |valid: &[&Pod]| {
        let attachments: Vec<_> = valid.iter().map(|pod| &pod.attachment).collect();
        node.cni().gc(&attachments).unwrap().ok().unwrap();
    };
    let check = |valid: &[&Pod]| {
        gc(valid);
        let mut expected: Vec<String> = valid.iter().map(|pod| pod.handle()).collect();
        expected.push(other_network.handle());
        expected.sort();
        assert_eq!(handles(&node), expected);
    };
    check(&[&pods[0], &pods[1], &pods[2], &pods[3]]);
    check(&[&pods[0], &pods[2]]);
    for pod in [&pods[0], &pods[2]] {
        assert_eq!(node.check(pod), None, "a valid attachment suffered");
    }
    assert!(pods[1].netns.link("eth0").is_err());
    // Twice is fine, and what the list names beyond what there is does no harm.
    check(&[&pods[0], &pods[2]]);
    gc(&[&pods[0], &pods[1], &Pod::container("stranger")]);
    check(&[&pods[0]]);
    check(&[]);
    assert_eq!(node.usage("a"), [1, 15, 0, 0]);
}

#[test]
fn gc_ignores_attachments_that_are_younger_than_the_call() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let old = node.add_container("old");
    let config = json!({
        "cniVersion": "1.1.0", "name": "poolward", "type": "poolward", "agentSocket": site.files.socket(),
        "cni.dev/valid-attachments": [],
    });
    // The plugin reads its clock when it starts, and asks the agent when it has read its configuration: what is added
    // between the two is not in the list, because the list is older.
    let mut command = Command::new(Binaries::find().unwrap().plugin);
    command
        .env_clear()
        .env("CNI_COMMAND", "GC")
        .env("CNI_PATH", "/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut gc = node.netns().run(|| command.spawn()).unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let young = node.add_container("young");
    gc.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let ended = gc.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    assert_eq!(handles(&node), [young.handle()], "the old one goes, the young one stays");
    assert_eq!(node.check(&young), None);
    node.del(&old);
    // The next call is younger than it.
    node.cni().gc(&[]).unwrap().ok().unwrap();
    assert!(handles(&node).is_empty());
}

#[test]
fn gc_needs_its_list_and_takes_nothing_without_it() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let pod = node.add_container("a");
    let config = json!({
        "cniVersion": "1.1.0", "name": "poolward", "type": "poolward", "agentSocket": site.files.socket(),
    });
    let refused = |config: &serde_json::Value, code: u64| {
        let answer = node.cni().call_raw("GC", None, config.to_string().as_bytes()).unwrap();
        assert_eq!(answer.error_code(), Some(code), "{}", answer.json);
        assert_eq!(handles(&node), [pod.handle()]);
    };
    refused(&config, 7);
    let mut malformed = config.clone();
    malformed["cni.dev/valid-attachments"] = json!([{"containerID": "a/../b", "ifname": "eth0"}]);
    refused(&malformed, 7);
    let mut old = config;
    old["cniVersion"] = json!("1.0.0");
    old["cni.dev/valid-attachments"] = json!([]);
    refused(&old, 1);
}

#[test]
fn status_is_50_while_no_address_can_be_given() {
    let site = Site::new();
    let node = site.start();
    let check = |expected: Option<u64>, word: &str| {
        let answer = node.cni().status().unwrap();
        assert_eq!(answer.error_code(), expected, "{}", answer.json);
        let said = format!("{} {}", answer.json["msg"], answer.json["details"]);
        assert!(expected.is_none() || said.contains(word), "{word:?} is not in {said}");
    };
    check(Some(50), "there is no pool");
    node.apply(&[pool("tiny", "10.64.0.0/31", "blockSize: 31")]);
    check(None, "");
    let pods = [node.add_container("a"), node.add_container("b")];
    check(Some(50), "tiny");
    node.del(&pods[0]);
    check(None, "");
    node.apply(&[pool("tiny", "10.64.0.0/31", "blockSize: 31, disabled: true")]);
    check(Some(50), "tiny");
    node.apply(&[pool("tiny", "10.64.0.0/31", "blockSize: 31, nodeSelector: zone == \"b\"")]);
    check(Some(50), "tiny");
    node.apply(&[pool("tiny", "10.64.0.0/31", "blockSize: 31")]);
    check(None, "");
}

#[test]
fn status_is_51_while_the_kernel_cannot_be_brought_into_step() {
    let site = Site::new();
    let node = site.start_with(&AgentOptions { resync_seconds: 1, ..AgentOptions::default() });
    node.apply(&[pool("a", "10.64.0.0/28", "blockSize: 28")]);
    let pod = node.add_container("a");
    // Somebody takes the interface's tag off: whose it is, is no longer known, and existing pods may be affected.
    let alias = |text: &str| {
        let netns = node.netns().name();
        let host = pod.host_ifname();
        harness::Run::new("ip").args(["-n", netns, "link", "set", &host, "alias", text]).ok().unwrap();
    };
    let before = node.netns().ip_json(&format!("link show dev {}", pod.host_ifname())).unwrap();
    alias("nobody's");
    wait_until(Duration::from_secs(3), "51", || node.cni().status().unwrap().error_code() == Some(51));
    let answer = node.cni().status().unwrap();
    assert!(answer.json["msg"].as_str().unwrap().contains(&pod.host_ifname()), "{}", answer.json);
    let status = node.ctl().finish(&["status"]).unwrap();
    assert_eq!(status.status.code(), Some(5), "poolwardctl status says that it is not ready");
    alias(before[0]["ifalias"].as_str().unwrap());
    wait_until(Duration::from_secs(4), "0", || node.cni().status().unwrap().code == 0);
}
