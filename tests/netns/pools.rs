//! What becomes of pods when their pool is changed, disabled, deleted or reserved from.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use harness::lab::{FIREWALL_TO_NODE, NODE_IPV4, OUTSIDE_IPV4};
use harness::{Capture, Direction, EchoServer, IpHeader, Run, wait_until};

use crate::kernel::{agreed, blackholes, dump_map, endpoints, number};
use crate::manifest::{pool, reservation};
use crate::site::{Node, Pod, Site};
use crate::traffic::{count_marks, mark_of_pool, marks_of};

const PORT: u16 = 7400;

/// What one datagram of a pod to the outside looks like at the firewall.
fn header_at_firewall(node: &Node<'_>, pod: &Pod) -> IpHeader {
    let lab = &node.site.lab;
    let _server = EchoServer::start(&lab.outside, [PORT]).unwrap();
    let capture = Capture::start(&lab.firewall, FIREWALL_TO_NODE, Direction::In).unwrap();
    assert!(pod.reaches((OUTSIDE_IPV4, PORT)), "{} does not reach the outside", pod.handle());
    let to_server = |packet: &harness::Packet| packet.ports.is_some_and(|(_, port)| port == PORT);
    let packet = capture.wait_for(Duration::from_secs(1), to_server).expect("captured at the firewall");
    packet.ip.unwrap()
}

/// Tag ids of the IPv4 pools in the kernel, by their first address.
fn tags(node: &Node<'_>) -> Vec<u64> {
    dump_map(&node.site.files, "pw_pools_v4").iter().map(|entry| number(&entry["value"]["tag"])).collect()
}

#[test]
fn a_disabled_pool_hands_out_nothing_new_and_its_pods_go_on_tagged() {
    let site = Site::new();
    let node = site.start();
    site.lab.route_to_node("10.76.0.0/26").unwrap();
    count_marks(&site.lab.node);
    node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29, dscp: 20")]);
    let (pod, other) = (node.add_container("a"), node.add_container("b"));
    let mark = mark_of_pool(&node, "a");
    node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29, dscp: 20, disabled: true")]);

    let answer = node.add_refused(&Pod::container("new"));
    let said = format!("{} {}", answer.json["msg"], answer.json["details"]);
    assert!(said.contains('a') && said.contains("disabled"), "{said}");
    let header = header_at_firewall(&node, &pod);
    assert_eq!((header.source, header.dscp()), (pod.address(), 20));
    assert_eq!(marks_of(&node, &pod), [(mark, 1)]);
    assert_eq!(node.cni().add(&pod.attachment).unwrap().ok().unwrap(), pod.result, "what it has it keeps");
    assert_eq!(agreed(&node).len(), 2);
    let conditions = node.pool("a")["status"]["conditions"][0].clone();
    assert_eq!((&conditions["status"], &conditions["reason"]), (&"False".into(), &"Disabled".into()));
    node.del(&other);
    assert_eq!(node.usage("a")[0], 1, "its addresses can be freed");
    node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29, dscp: 20")]);
    node.add_container("new");
}

#[test]
fn a_deleted_pool_stays_until_its_last_address_is_freed() {
    let site = Site::new();
    let mut node = site.start();
    site.lab.route_to_node("10.76.0.0/26").unwrap();
    node.apply(&[
        pool("a", "10.76.0.0/26", "blockSize: 29, dscp: 20"),
        pool("b", "10.76.1.0/26", "blockSize: 29"),
    ]);
    let only_a = node.cni().with_config(|config| config["ipam"] = serde_json::json!({"ipv4_pools": ["a"]}));
    let mut pod = Pod::container("a");
    pod.result = only_a.add(&pod.attachment).unwrap().ok().unwrap();
    let tag = node.pool("a")["status"]["tag"].as_u64().unwrap();

    let told = node.ctl().run(&["delete", "pool", "a"]).unwrap();
    assert!(told.contains("terminating"), "{told}");
    assert_eq!(node.pool("a")["status"]["terminating"], true);
    let answer = only_a.add(&Pod::container("new").attachment).unwrap();
    let said = format!("{} {}", answer.json["msg"], answer.json["details"]);
    assert!(answer.code != 0 && said.contains("being deleted"), "{said}");
    let said = node.apply_refused(&[pool("a", "10.76.0.0/26", "blockSize: 29")]);
    assert!(said.contains("being deleted"), "{said}");
    assert_eq!(header_at_firewall(&node, &pod).dscp(), 20, "its pod goes on as before");

    // It stays so through a crash.
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert_eq!(node.first_planned(), 0, "{}", node.agent.log_tail());
    assert_eq!(node.pool("a")["status"]["terminating"], true);

    node.del(&pod);
    let gone = || node.ctl().finish(&["get", "pool", "a"]).unwrap().status.code() == Some(3);
    wait_until(Duration::from_secs(8), "the pool goes", gone);
    wait_until(Duration::from_secs(2), "its tag and its blackhole go", || {
        !tags(&node).contains(&tag) && blackholes(&node).is_empty()
    });
    let left = node.ctl().json(&["get", "blocks"]).unwrap();
    assert!(left["items"].as_array().unwrap().is_empty(), "{left}");

    // The same name and range again: another pool, with another tag, so that nobody takes one for the other.
    node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29")]);
    assert_ne!(node.pool("a")["status"]["tag"].as_u64().unwrap(), tag);
}

#[test]
fn tag_ids_are_not_used_again() {
    let site = Site::new();
    let mut node = site.start();
    let mut seen = Vec::new();
    for round in 0..4 {
        node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29")]);
        seen.push(node.pool("a")["status"]["tag"].as_u64().unwrap());
        assert_eq!(tags(&node), [seen[round]]);
        let told = node.ctl().run(&["delete", "pool", "a"]).unwrap();
        assert!(told.contains("deleted"), "nobody uses it: {told}");
        assert!(tags(&node).is_empty());
        if round == 1 {
            node.agent.kill().unwrap();
            node.agent.start_again().unwrap();
        }
    }
    let mut distinct = seen.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), seen.len(), "{seen:?}");
}

#[test]
fn dscp_and_nat_of_a_pool_change_for_pods_that_run() {
    let site = Site::new();
    let node = site.start();
    site.lab.route_to_node("10.76.0.0/26").unwrap();
    count_marks(&site.lab.node);
    node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29")]);
    let pod = node.add_container("a");
    let tag_before = node.pool("a")["status"]["tag"].clone();
    let check = |more: &str, source: IpAddr, dscp: u8| {
        node.apply(&[pool("a", "10.76.0.0/26", &format!("blockSize: 29{more}"))]);
        let header = header_at_firewall(&node, &pod);
        assert_eq!((header.source, header.dscp()), (source, dscp), "{more}");
        let mark = mark_of_pool(&node, "a");
        assert!(
            marks_of(&node, &pod).iter().any(|(seen, _)| *seen == mark),
            "{more}: no packet with {mark:#x}"
        );
    };
    check("", pod.address(), 0);
    check(", dscp: 46", pod.address(), 46);
    check(", dscp: 46, natOutgoing: true", NODE_IPV4.into(), 46);
    check(", natOutgoing: true", NODE_IPV4.into(), 0);
    check(", dscp: 0", pod.address(), 0);
    assert_eq!(node.pool("a")["status"]["tag"], tag_before, "it is the same pool all the time");
    assert_eq!(node.check(&pod), None);
}

#[test]
fn an_address_cools_down_before_it_is_given_again_whatever_the_agent_does_meanwhile() {
    const COOLDOWN: Duration = Duration::from_secs(2);
    let site = Site::new();
    let mut node = site.start();
    node.apply(&[pool("one", "10.76.0.9/32", "blockSize: 32, cooldownSeconds: 2")]);
    let pod = node.add_container("a");
    let before_del = Instant::now();
    node.del(&pod);
    assert_eq!(node.usage("one"), [0, 0, 1, 0]);
    assert_eq!(node.address_state(pod.address())["state"], "cooling");
    let next = Pod::container("next");
    assert_eq!(node.add_refused(&next).error_code(), Some(11));
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    let mut refused_count = 0;
    let result = loop {
        let answer = node.cni().add(&next.attachment).unwrap();
        if answer.code == 0 {
            break answer.json;
        }
        refused_count += 1;
        assert!(before_del.elapsed() < 3 * COOLDOWN, "it never comes back: {}", answer.json);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(refused_count > 0 && before_del.elapsed() >= COOLDOWN, "given again too soon");
    assert_eq!(crate::site::addresses_of(&result), pod.addresses());
}

#[test]
fn freed_addresses_go_to_the_tail_and_keep_their_order_through_a_crash() {
    let site = Site::new();
    let mut node = site.start();
    node.apply(&[pool("a", "10.76.0.0/30", "blockSize: 30")]);
    let pods: Vec<Pod> = (0..4).map(|_| node.add_container("a")).collect();
    let order = [2, 0, 3, 1];
    for at in order {
        node.del(&pods[at]);
    }
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    for at in order {
        let pod = node.add_container("again");
        assert_eq!(pod.addresses(), pods[at].addresses(), "in the order in which they were freed");
    }
}

#[test]
fn reserved_addresses_are_not_handed_out() {
    let site = Site::new();
    let node = site.start();
    node.apply(&[pool("a", "10.76.0.0/30", "blockSize: 30"), reservation("kept", &["10.76.0.0/31"])]);
    assert_eq!(node.usage("a"), [0, 2, 0, 2]);
    let pods = [node.add_container("a"), node.add_container("b")];
    let expected: [IpAddr; 2] = ["10.76.0.2".parse().unwrap(), "10.76.0.3".parse().unwrap()];
    assert_eq!([pods[0].address(), pods[1].address()], expected);
    let third = Pod::container("c");
    assert_eq!(node.add_refused(&third).error_code(), Some(11));
    assert_eq!(node.address_state("10.76.0.1".parse().unwrap())["state"], "reserved");
    node.ctl().run(&["delete", "ipreservation", "kept"]).unwrap();
    assert_eq!(node.usage("a"), [2, 2, 0, 0]);
    node.cni().add(&third.attachment).unwrap().ok().unwrap();
    // A reservation over an address in use takes nothing from anybody.
    node.apply(&[reservation("later", &["10.76.0.2/32"])]);
    assert_eq!(node.check(&pods[0]), None);
    assert_eq!(node.usage("a"), [3, 1, 0, 0]);
}

#[test]
fn an_operator_frees_what_a_pod_left_and_needs_force_for_one_that_lives() {
    let site = Site::new();
    let node = site.start();
    node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29")]);
    let (living, left) = (node.add_container("living"), node.add_container("left"));
    let release = |pod: &Pod, more: &[&str]| {
        let address = pod.address().to_string();
        let args: Vec<&str> =
            ["ipam", "release", "--yes", "--ip", &address].iter().chain(more).copied().collect();
        node.ctl().finish(&args).unwrap()
    };
    let refused = release(&living, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&living.host_ifname()));
    assert_eq!(agreed(&node).len(), 2);

    node.netns().ip(&format!("link del {}", left.host_ifname())).unwrap();
    wait_until(Duration::from_secs(2), "the agent sees it go", || endpoints(&site.files).len() == 1);
    assert!(release(&left, &[]).status.success());
    assert_eq!(agreed(&node).into_keys().collect::<Vec<_>>(), [living.handle()]);
    assert!(release(&living, &["--force"]).status.success());
    assert!(agreed(&node).is_empty());
    assert!(node.netns().link(&living.host_ifname()).is_err(), "it takes the interface off as well");
    // Its DEL comes late and is fine.
    node.del(&living);
    let nobody = node.ctl().finish(&["ipam", "release", "--yes", "--handle", "nobody/eth0"]).unwrap();
    assert!(nobody.status.success() || nobody.status.code() == Some(3));
}

#[test]
fn a_pool_that_no_longer_selects_the_node_keeps_its_pods_and_takes_no_new_ones() {
    let site = Site::new();
    let node = site.start();
    node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29")]);
    let pod = node.add_container("a");
    node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29, nodeSelector: \"zone == 'b'\"")]);
    let answer = node.add_refused(&Pod::container("new"));
    let said = format!("{} {}", answer.json["msg"], answer.json["details"]);
    assert!(said.contains("nodeSelector"), "{said}");
    assert_eq!(node.check(&pod), None);
    node.del(&pod);
}

#[test]
fn what_the_kernel_cannot_have_yet_is_not_served() {
    let site = Site::new();
    let node = site.start();
    count_marks(&site.lab.node);
    let _server = EchoServer::start(&site.lab.outside, [PORT]).unwrap();
    site.lab.route_to_node("10.76.0.0/16").unwrap();
    // A pod of a pool that is seconds old: its very first packet has the mark.
    for n in 0..5 {
        let name = format!("p{n}");
        let only =
            node.cni().with_config(|config| config["ipam"] = serde_json::json!({"ipv4_pools": [name]}));
        node.apply(&[pool(&name, &format!("10.76.{n}.0/26"), "blockSize: 29")]);
        let mut pod = Pod::container("first");
        pod.result = only.add(&pod.attachment).unwrap().ok().unwrap();
        assert!(pod.reaches(SocketAddr::from((OUTSIDE_IPV4, PORT))));
        assert_eq!(marks_of(&node, &pod), [(mark_of_pool(&node, &name), 1)]);
    }
}

#[test]
fn an_address_that_no_block_covers_is_unreachable_and_does_not_come_back() {
    let site = Site::new();
    let node = site.start();
    site.lab.route_to_node("10.76.0.0/26").unwrap();
    node.apply(&[pool("a", "10.76.0.0/26", "blockSize: 29")]);
    let address: IpAddr = [10, 76, 0, 63].into();
    let returned_count = || {
        let capture = Capture::start(&site.lab.firewall, FIREWALL_TO_NODE, Direction::In).unwrap();
        // No answer is what is expected; what matters is what the node sends on.
        let ping = Run::new("ping").args(["-c", "1", "-W", "1", "-t", "8", &address.to_string()]);
        assert!(!ping.finish_in(&site.lab.firewall).unwrap().status.success());
        let packets = capture.stop().unwrap();
        packets.iter().filter(|packet| packet.ip.is_some_and(|ip| ip.destination == address)).count()
    };
    assert_eq!(returned_count(), 0);
    // Without the route, which a stopped agent does not put back, it goes around until its TTL ends.
    node.agent.pause().unwrap();
    node.netns().ip("route del unreachable 10.76.0.0/26 metric 8192").unwrap();
    assert!(returned_count() > 0);
    node.agent.resume().unwrap();
    wait_until(Duration::from_secs(2), "the route is back", || {
        node.netns().ip("route show type unreachable").unwrap().contains("10.76.0.0/26")
    });
}
