//! CHECK: each thing that somebody may break is named, and nothing is wrong with a pod that nobody touched (C3).

use std::time::Duration;

use harness::{AgentOptions, wait_until};
use serde_json::json;

use crate::kernel::{agreed, detach, endpoints, forget_endpoint};
use crate::manifest::pool;
use crate::site::{Node, Pod, Site};

fn node_of(site: &Site) -> Node<'_> {
    let node = site.start_with(&AgentOptions { resync_seconds: 1, ..AgentOptions::default() });
    node.apply(&[
        pool("a", "10.63.0.0/26", "blockSize: 29, ipipMode: Always"),
        pool("six", "fd63::/120", "blockSize: 125"),
    ]);
    node
}

/// What CHECK says right after the damage, before the agent has had time to repair anything: it is stopped while the
/// damage is done and the request sent, and answers requests sooner than events.
fn said_after(node: &Node<'_>, pod: &Pod, damage: impl FnOnce()) -> String {
    node.agent.pause().unwrap();
    damage();
    std::thread::scope(|scope| {
        let check = scope.spawn(|| node.cni().check(&pod.attachment, &pod.result).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        node.agent.resume().unwrap();
        let answer = check.join().unwrap();
        assert_eq!(answer.error_code(), Some(102), "{}", answer.json);
        answer.json["msg"].as_str().unwrap().to_owned()
    })
}

/// One kind of damage after the other, each to a pod of its own: CHECK must name it in these words. What the agent
/// can see to by itself is whole again soon; a DEL copes with all of it.
#[test]
fn check_names_the_first_thing_that_is_not_as_it_was_made() {
    let site = Site::new();
    let node = node_of(&site);
    let run = |what: &str, words: &[&str], repaired: bool, damage: &dyn Fn(&Pod)| {
        let pod = node.add_container("a");
        assert_eq!(node.check(&pod), None, "before: {what}");
        let said = said_after(&node, &pod, || damage(&pod));
        for word in words {
            let word =
                word.replace("HOST", &pod.host_ifname()).replace("ADDRESS", &pod.address().to_string());
            assert!(said.contains(&word), "{what}: {word:?} is not in {said:?}");
        }
        assert!(said.contains(&pod.handle()), "{what}: whose it is, is not in {said:?}");
        if repaired {
            wait_until(Duration::from_secs(4), what, || node.check(&pod).is_none());
        }
        node.del(&pod);
        // What the maps have of an interface that somebody removed goes a moment later.
        wait_until(Duration::from_secs(2), "no endpoint is left", || endpoints(&site.files).is_empty());
        assert!(agreed(&node).is_empty(), "{what}: something is left after DEL");
    };
    let check = |what: &str, words: &[&str], repaired: bool, lines: &str| {
        run(what, words, repaired, &|pod| {
            for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
                let line =
                    line.replace("HOST", &pod.host_ifname()).replace("ADDRESS", &pod.address().to_string());
                let (place, arguments) = line.split_once(": ").unwrap();
                let netns = if place == "pod" { &pod.netns } else { node.netns() };
                netns.ip(arguments).unwrap();
            }
        });
    };
    check(
        "address removed",
        &["addresses of eth0 in the pod", "ADDRESS/32"],
        false,
        "pod: addr del ADDRESS/32 dev eth0",
    );
    check(
        "address added",
        &["addresses of eth0 in the pod", "10.9.9.9/32"],
        false,
        "pod: addr add 10.9.9.9/32 dev eth0",
    );
    check("default route removed", &["route in the pod", "0.0.0.0/0"], false, "pod: route del default");
    check("IPv6 route removed", &["route in the pod", "::/0"], false, "pod: -6 route del default");
    check(
        "gateway's neighbour changed",
        &["neighbour 169.254.1.1 in the pod", "02:00:00:00:00:01"],
        false,
        "pod: neighbour replace 169.254.1.1 lladdr 02:00:00:00:00:01 nud permanent dev eth0",
    );
    check(
        "MTU in the pod",
        &["MTU of eth0 in the pod", "1480", "1300"],
        false,
        "pod: link set eth0 mtu 1300",
    );
    check(
        "MTU on the node",
        &["MTU of HOST of the node", "1480", "1400"],
        false,
        "node: link set HOST mtu 1400",
    );
    check(
        "interface down in the pod",
        &["interface eth0 in the pod", "down"],
        false,
        "pod: link set eth0 down",
    );
    check("interface gone", &["interface HOST of the node", "none"], false, "node: link del HOST");
    check(
        "hardware address",
        &["hardware address of eth0", "02:00:00:00:00:07"],
        false,
        "pod: link set eth0 address 02:00:00:00:00:07",
    );
    check(
        "interface down on the node",
        &["interface HOST of the node", "down"],
        true,
        "node: link set HOST down",
    );
    check(
        "route of the node removed",
        &["route of the node", "ADDRESS"],
        true,
        "node: route del ADDRESS/32 dev HOST proto 80",
    );
    check(
        "neighbour of the node changed",
        &["neighbour ADDRESS of the node", "02:00:00:00:00:01"],
        true,
        "node: neighbour replace ADDRESS lladdr 02:00:00:00:00:01 nud permanent dev HOST",
    );
    run("program detached", &["program on HOST", "not attached"], true, &|pod| {
        detach(&node, &pod.host_ifname());
    });
    run("map entry removed", &["endpoint map entry of HOST", "none"], true, &|pod| {
        forget_endpoint(&node, &pod.host_ifname());
    });
}

#[test]
fn an_interface_that_lost_its_name_tag_is_named_and_left_alone() {
    let site = Site::new();
    let node = node_of(&site);
    let pod = node.add_container("a");
    let alias = |text: &str| {
        let arguments = format!("link set {} alias", pod.host_ifname());
        let netns = node.netns().name();
        let run = harness::Run::new("ip").args(["-n", netns]).args(arguments.split(' ')).args([text]);
        run.ok().unwrap();
    };
    let before = node.netns().ip_json(&format!("link show dev {}", pod.host_ifname())).unwrap();
    let before = before[0]["ifalias"].as_str().unwrap().to_owned();
    let said = said_after(&node, &pod, || alias("somebody else's"));
    assert!(
        said.contains(&format!("alias of {}", pod.host_ifname())) && said.contains("somebody else's"),
        "{said}"
    );
    // It might be anybody's now: the node says so and does not touch it.
    wait_until(Duration::from_secs(3), "STATUS tells", || {
        node.cni().status().unwrap().error_code() == Some(51)
    });
    assert!(node.netns().link(&pod.host_ifname()).is_ok());
    alias(&before);
    wait_until(Duration::from_secs(4), "all is well again", || node.cni().status().unwrap().code == 0);
    assert_eq!(node.check(&pod), None);
    node.del(&pod);
    assert!(agreed(&node).is_empty());
}

#[test]
fn check_compares_what_the_runtime_was_told() {
    let site = Site::new();
    let node = node_of(&site);
    let pod = node.add_container("a");
    let refused = |pod: &Pod, result: &serde_json::Value, code: u64, word: &str| {
        let answer = node.cni().check(&pod.attachment, result).unwrap();
        assert_eq!(answer.error_code(), Some(code), "{}", answer.json);
        assert!(answer.json["msg"].as_str().unwrap().contains(word), "{word:?} is not in {}", answer.json);
    };
    let mut other = pod.result.clone();
    other["ips"][0]["address"] = json!("10.63.0.63/32");
    refused(&pod, &other, 102, "10.63.0.63");
    let mut none = pod.result.clone();
    none["ips"] = json!([]);
    refused(&pod, &none, 7, "prevResult.ips");
    let stranger = Pod::container("stranger");
    refused(&stranger, &pod.result, 3, "holds no address");
}
