//! SIGKILL of the agent: traffic, marks and addresses do not notice, and the next agent takes over what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::lab::{OUTSIDE_IPV4, OUTSIDE_IPV6};
use harness::{EchoServer, NetNs};
use serde_json::Value;

use crate::kernel::{agreed, agreed_but, traces};
use crate::manifest::pool;
use crate::random::Random;
use crate::site::{Node, Site, addresses_of};
use crate::traffic::{Stream, count_marks, mark_of_pool, marks_of};

const PORT: u16 = 7200;

#[test]
fn a_killed_agent_loses_no_packet_and_no_mark_and_the_next_one_plans_nothing() {
    let site = Site::new();
    let mut node = site.start();
    node.apply(&[
        pool("a", "10.71.0.0/26", "blockSize: 29, dscp: 10"),
        pool("six", "fd71::/120", "blockSize: 125, natOutgoing: true"),
    ]);
    site.lab.route_to_node("10.71.0.0/26").unwrap();
    count_marks(&site.lab.node);
    let _server = EchoServer::start(&site.lab.outside, [PORT]).unwrap();
    let pods = [node.add_container("a"), node.add_container("b"), node.add_container("c")];
    let before = traces(&node);
    let mark = mark_of_pool(&node, "a");

    let outside = [SocketAddr::from((OUTSIDE_IPV4, PORT)), SocketAddr::from((OUTSIDE_IPV6, PORT))];
    // To the server outside by both families, and from pod to pod.
    let _peer = EchoServer::start(&pods[2].netns, [PORT]).unwrap();
    let to_pod = SocketAddr::from((pods[2].address(), PORT));
    let streams = [
        Stream::start(&pods[0], outside[0]),
        Stream::start(&pods[0], outside[1]),
        Stream::start(&pods[1], outside[0]),
        Stream::start(&pods[1], to_pod),
    ];
    let pause = || std::thread::sleep(Duration::from_millis(300));
    for _ in 0..3 {
        pause();
        node.agent.kill().unwrap();
        pause();
        node.agent.start_again().unwrap();
        assert_eq!(node.first_planned(), 0, "{}", node.agent.log_tail());
        assert_eq!(traces(&node), before);
    }
    // A clean stop is no different.
    let (status, _) = node.agent.stop().unwrap();
    assert!(status.success());
    pause();
    node.agent.start_again().unwrap();
    assert_eq!(node.first_planned(), 0, "{}", node.agent.log_tail());

    let counts = streams.map(Stream::stop);
    for count in counts {
        assert!(count.sent > 1000, "{counts:?}");
        assert_eq!(count.echoed, count.sent, "packets were lost: {counts:?}");
    }
    // Each of the two pods sent IPv4 with its pool's mark and with no other.
    assert_eq!(marks_of(&node, &pods[0]), [(mark, counts[0].sent)]);
    assert_eq!(marks_of(&node, &pods[1]), [(mark, counts[2].sent + counts[3].sent)]);
    for pod in &pods {
        assert_eq!(node.cni().add(&pod.attachment).unwrap().ok().unwrap(), pod.result);
        assert_eq!(node.check(pod), None);
    }
    assert_eq!(traces(&node), before);
}

/// What the callers of the storm know: what each attachment's last answer was.
#[derive(Clone, Debug)]
enum Known {
    /// The last ADD succeeded with these addresses.
    Added(Value),
    /// The last DEL succeeded.
    Deleted,
    /// The last call got no answer, or a refusal.
    Unsure,
}

/// Callers that add and delete without pause, each its own containers.
fn storm(site: &Site, netns: &[NetNs], seed: u64, stop: &AtomicBool, known: &Mutex<BTreeMap<usize, Known>>) {
    std::thread::scope(|scope| {
        for (slot, netns) in netns.iter().enumerate() {
            let cni = site.cni();
            scope.spawn(move || {
                let mut random = Random::new(seed * 1000 + slot as u64);
                let attachment = attachment_of(slot, netns);
                while !stop.load(Ordering::Acquire) {
                    let is_add = random.below(2) == 0;
                    let answer = if is_add { cni.add(&attachment) } else { cni.del(&attachment) }.unwrap();
                    let now = match (is_add, answer.code) {
                        (true, 0) => Known::Added(answer.json),
                        (false, 0) => Known::Deleted,
                        _ => {
                            // The agent is away or died over it: nothing else is a reason here.
                            assert_eq!(answer.error_code(), Some(11), "{}", answer.json);
                            std::thread::sleep(Duration::from_millis(10));
                            Known::Unsure
                        }
                    };
                    known.lock().unwrap().insert(slot, now);
                }
            });
        }
    });
}

fn attachment_of(slot: usize, netns: &NetNs) -> harness::Attachment {
    harness::Attachment {
        container_id: format!("storm-{}-{slot}", std::process::id()),
        ifname: "eth0".to_owned(),
        netns: Some(netns.path()),
        args: String::new(),
    }
}

/// Ledger and kernel agree, and so do those who were given an answer.
fn check_after_a_kill(node: &Node<'_>, netns: &[NetNs], known: &BTreeMap<usize, Known>) {
    let handle_of = |slot: usize| {
        let attachment = attachment_of(slot, &netns[slot]);
        format!("{}/{}", attachment.container_id, attachment.ifname)
    };
    let unsure = known.iter().filter(|(_, known)| matches!(known, Known::Unsure));
    let held = agreed_but(node, &unsure.map(|(slot, _)| handle_of(*slot)).collect());
    for (slot, netns) in netns.iter().enumerate() {
        let (attachment, handle) = (attachment_of(slot, netns), handle_of(slot));
        match known.get(&slot) {
            Some(Known::Added(result)) => {
                let addresses: BTreeSet<_> = addresses_of(result).into_iter().collect();
                assert_eq!(held.get(&handle), Some(&addresses), "a promise was forgotten");
                assert_eq!(node.cni().check(&attachment, result).unwrap().code, 0, "{handle}");
            }
            Some(Known::Deleted) | None => assert!(!held.contains_key(&handle), "{handle} was deleted"),
            Some(Known::Unsure) => {}
        }
    }
}

#[test]
fn thirty_kills_in_a_storm_of_adds_and_dels_lose_and_double_no_address() {
    let site = Site::new();
    let mut node = site.start();
    node.apply(&[pool("a", "10.72.0.0/27", "blockSize: 29"), pool("six", "fd72::/120", "blockSize: 125")]);
    let netns: Vec<NetNs> = (0..6).map(|_| NetNs::unique("pwnet-pod").unwrap()).collect();
    let mut random = Random::new(3);
    let known = Mutex::new(BTreeMap::new());
    for round in 0..30 {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let callers = scope.spawn(|| storm(&site, &netns, round, &stop, &known));
            std::thread::sleep(Duration::from_micros(5_000 + random.below(120_000)));
            node.agent.kill().unwrap();
            stop.store(true, Ordering::Release);
            callers.join().unwrap();
        });
        node.agent.start_again().unwrap();
        check_after_a_kill(&node, &netns, &known.lock().unwrap());
    }
    for (slot, netns) in netns.iter().enumerate() {
        node.cni().del(&attachment_of(slot, netns)).unwrap().ok().unwrap();
        assert!(netns.link("eth0").is_err());
    }
    assert!(agreed(&node).is_empty());
    assert_eq!((node.usage("a"), node.usage("six")), ([0, 32, 0, 0], [0, 256, 0, 0]));
}
