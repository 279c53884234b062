//! Requests that cross each other, and clients that go away: a whole pod or nothing.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Binaries, NetNs};
use serde_json::json;

use crate::kernel::{agreed, traces};
use crate::manifest::pool;
use crate::random::Random;
use crate::site::{Node, Pod, Site, addresses_of};

fn node_with_a_pool(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[pool("a", "10.70.0.0/24", "blockSize: 26"), pool("six", "fd70::/120", "blockSize: 122")]);
    // The blocks are claimed before anything is compared.
    node.del(&node.add_container("claims-blocks"));
    node
}

/// Whether the pod is whole: its ADD's answer is what CHECK finds.
fn is_whole(node: &Node<'_>, pod: &Pod) -> bool {
    let again = node.cni().add(&pod.attachment).unwrap().ok().unwrap();
    node.cni().check(&pod.attachment, &again).unwrap().code == 0
}

#[test]
fn add_and_del_of_one_attachment_in_any_order_leave_a_whole_pod_or_nothing() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let before = traces(&node);
    let mut random = Random::new(1);
    let (mut whole_count, mut nothing_count) = (0, 0);
    for round in 0..60 {
        let pod = Pod::container("raced");
        let adds = 1 + random.below(2);
        let mut delays: Vec<(bool, u64)> = (0..adds).map(|_| (true, random.below(4000))).collect();
        delays.push((false, random.below(4000)));
        let codes: Vec<(bool, i32)> = std::thread::scope(|scope| {
            let calls: Vec<_> = delays
                .into_iter()
                .map(|(is_add, delay_us)| {
                    let (cni, attachment) = (node.cni(), &pod.attachment);
                    scope.spawn(move || {
                        std::thread::sleep(Duration::from_micros(delay_us));
                        let answer = if is_add { cni.add(attachment) } else { cni.del(attachment) }.unwrap();
                        // An ADD may be cancelled by the DEL; nothing else may go wrong.
                        let fine = answer.code == 0 || is_add && answer.error_code() == Some(103);
                        assert!(fine, "{is_add}: {}", answer.json);
                        (is_add, answer.code)
                    })
                })
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let held = agreed(&node);
        match held.len() {
            0 => {
                nothing_count += 1;
                assert_eq!(traces(&node), before, "round {round}: {codes:?}");
                assert!(pod.netns.link("eth0").is_err(), "round {round}: {codes:?}");
            }
            1 => {
                whole_count += 1;
                let an_add_succeeded = codes.iter().any(|(is_add, code)| *is_add && *code == 0);
                assert!(an_add_succeeded, "round {round}: a pod that nobody was told of: {codes:?}");
                assert!(is_whole(&node, &pod), "round {round}: {codes:?}");
            }
            _ => panic!("round {round}: {held:?}"),
        }
        node.del(&pod);
        assert!(agreed(&node).is_empty());
    }
    assert!(
        whole_count > 0 && nothing_count > 0,
        "only one outcome was seen: {whole_count} and {nothing_count}"
    );
}

#[test]
fn fifty_adds_at_once_get_fifty_addresses() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let pods: Vec<Pod> = (0..50).map(|_| Pod::container("crowd")).collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(|| node.cni().add(&pod.attachment).unwrap().ok().unwrap()))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let distinct: BTreeSet<_> = results.iter().flat_map(addresses_of).collect();
    assert_eq!(distinct.len(), 100, "fifty of each family");
    let held = agreed(&node);
    for (pod, result) in pods.iter().zip(&results) {
        assert_eq!(held[&pod.handle()], addresses_of(result).into_iter().collect::<BTreeSet<_>>());
        assert_eq!(node.cni().check(&pod.attachment, result).unwrap().code, 0);
    }
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| node.del(pod));
        }
    });
    assert!(agreed(&node).is_empty());
    assert_eq!((node.usage("a"), node.usage("six")), ([0, 256, 0, 0], [0, 256, 0, 0]));
}

#[test]
fn adds_at_once_for_the_last_addresses_leave_nobody_with_half() {
    let site = Site::new();
    let node = site.start();
    // Plenty of one family, four addresses of the other: who gets no IPv6 gets nothing at all.
    node.apply(&[pool("a", "10.70.0.0/24", "blockSize: 26"), pool("six", "fd70::/126", "blockSize: 126")]);
    let cni =
        node.cni().with_config(|config| config["ipam"] = json!({"assign_ipv4": true, "assign_ipv6": true}));
    let pods: Vec<Pod> = (0..12).map(|_| Pod::container("crowd")).collect();
    let codes: Vec<Option<u64>> = std::thread::scope(|scope| {
        let calls: Vec<_> =
            pods.iter().map(|pod| scope.spawn(|| cni.add(&pod.attachment).unwrap().error_code())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| code.is_none()).count(), 4, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(11)).count(), 8, "{codes:?}");
    let held = agreed(&node);
    assert!(held.len() == 4 && held.values().all(|addresses| addresses.len() == 2), "{held:?}");
    assert_eq!(node.usage("a")[0], 4);
}

#[test]
fn an_add_whose_caller_is_killed_is_whole_or_gone_and_its_del_cleans_up() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let before = traces(&node);
    let plugin = Binaries::find().unwrap().plugin;
    let config = json!({
        "cniVersion": "1.0.0", "name": "poolward", "type": "poolward", "agentSocket": site.files.socket(),
    });
    let mut random = Random::new(2);
    let (mut whole_count, mut gone_count) = (0, 0);
    for round in 0..40 {
        let pod = Pod::container("abandoned");
        start_and_kill(&plugin, &node, &pod, &config.to_string(), Duration::from_micros(random.below(6000)));
        // What the agent still does for it ends within moments: then it is one of the two. A CHECK waits behind it in
        // the line of its handle; the first may still have overtaken it on the way there.
        for _ in 0..3 {
            node.cni().check(&pod.attachment, &check_result(&pod)).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        let held = agreed(&node);
        if held.is_empty() {
            gone_count += 1;
            assert_eq!(traces(&node), before, "round {round}");
        } else {
            whole_count += 1;
            assert!(is_whole(&node, &pod), "round {round}");
        }
        node.del(&pod);
        assert_eq!(traces(&node), before, "round {round}, after DEL");
    }
    assert!(gone_count > 0, "every ADD was whole: {whole_count}");
}

/// Something that CHECK accepts as `prevResult`, so that it goes to the agent.
fn check_result(pod: &Pod) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": pod.netns.path()}],
        "ips": [{"address": "192.0.2.99/32", "interface": 0}],
    })
}

/// The plugin as a runtime starts it, killed after a while.
fn start_and_kill(plugin: &std::path::Path, node: &Node<'_>, pod: &Pod, config: &str, after: Duration) {
    let stdin = site_file(node, config);
    let mut command = Command::new(plugin);
    command
        .env_clear()
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", &pod.attachment.container_id)
        .env("CNI_NETNS", pod.netns.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/")
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let netns: &NetNs = node.netns();
    let started = Instant::now();
    let mut child = netns.run(|| command.spawn()).unwrap().unwrap();
    std::thread::sleep(after.saturating_sub(started.elapsed()));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn site_file(node: &Node<'_>, text: &str) -> std::fs::File {
    let path = node.site.files.dir().join("network.conf");
    std::fs::write(&path, text).unwrap();
    std::fs::File::open(path).unwrap()
}
