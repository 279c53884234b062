//! Two agents of one node: the second leaves or waits, as it is told, and nothing is served twice.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::lab::OUTSIDE_IPV4;
use harness::{EchoServer, Run, wait_until};

use crate::background::Background;
use crate::kernel::{agreed, traces};
use crate::manifest::pool;
use crate::site::{Node, Pod, Site};
use crate::traffic::Stream;

const PORT: u16 = 7300;

fn node_with_a_pool(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[pool("a", "10.74.0.0/26", "blockSize: 29")]);
    site.lab.route_to_node("10.74.0.0/26").unwrap();
    node
}

#[test]
fn a_second_agent_exits_with_3_and_says_who_holds_the_lock() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let pod = node.add_container("a");
    let before = traces(&node);
    let second = Run::new(&harness::Binaries::find().unwrap().agent)
        .args(["--config"])
        .args([site.files.config()])
        .args(["--on-locked", "exit"])
        .limit(Duration::from_secs(10))
        .finish_in(node.netns())
        .unwrap();
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8_lossy(&[second.stdout, second.stderr].concat()).into_owned();
    for word in [&node.agent.pid().unwrap().to_string(), "journal.lock", "--on-locked wait"] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert_eq!(traces(&node), before);
    assert_eq!(node.check(&pod), None, "the first one serves on");
}

/// The first agent ends in this way while the second waits; pods send and callers call all the time.
fn check_take_over(end: impl FnOnce(&mut Node<'_>)) {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let _server = EchoServer::start(&site.lab.outside, [PORT]).unwrap();
    let pod = node.add_container("a");
    traces(&node);
    let stream = Stream::start(&pod, SocketAddr::from((OUTSIDE_IPV4, PORT)));
    let second = Background::agent(&site, &["--on-locked", "wait"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(second.said().contains("waiting until it ends"), "{}", second.said());
    let ctl = node.ctl();
    let pid = || ctl.json(&["status"]).ok().and_then(|status| status["pid"].as_u64());
    assert_eq!(pid(), node.agent.pid().map(u64::from), "the first one serves");

    let stop = AtomicBool::new(false);
    let taken_over = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = (0, 0);
            while !stop.load(Ordering::Acquire) {
                let other = Pod::container("other");
                for answer in
                    [site.cni().add(&other.attachment).unwrap(), site.cni().del(&other.attachment).unwrap()]
                {
                    let refused = answer.code != 0;
                    assert!(!refused || answer.error_code() == Some(11), "{}", answer.json);
                    calls = (calls.0 + u32::from(!refused), calls.1 + u32::from(refused));
                }
                // A DEL that could not be served is sent again, as runtimes do.
                wait_until(Duration::from_secs(5), "DEL again", || {
                    site.cni().del(&other.attachment).unwrap().code == 0
                });
            }
            calls
        });
        std::thread::sleep(Duration::from_millis(200));
        let ended = Instant::now();
        end(&mut node);
        wait_until(Duration::from_secs(5), "the second one serves", || pid() == Some(second.pid().into()));
        let taken_over = ended.elapsed();
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Release);
        let (served, refused) = caller.join().unwrap();
        assert!(served > 0, "{served} served, {refused} to be tried again");
        taken_over
    });
    assert!(taken_over < Duration::from_secs(1), "taken over after {} ms", taken_over.as_millis());
    let counts = stream.stop();
    assert_eq!(counts.sent, counts.echoed, "packets were lost");
    assert_eq!(node.first_planned(), 0);
    assert_eq!(agreed(&node).into_keys().collect::<Vec<_>>(), [pod.handle()]);
    assert_eq!(site.cni().add(&pod.attachment).unwrap().ok().unwrap(), pod.result);
}

#[test]
fn a_waiting_agent_takes_over_when_the_first_one_stops() {
    check_take_over(|node| {
        assert!(node.agent.stop().unwrap().0.success());
    });
}

#[test]
fn a_waiting_agent_takes_over_when_the_first_one_is_killed() {
    check_take_over(|node| node.agent.kill().unwrap());
}

#[test]
fn a_waiting_agent_ends_cleanly_when_it_is_asked_to() {
    let site = Site::new();
    let node = node_with_a_pool(&site);
    let second = Background::agent(&site, &["--on-locked", "wait"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(second.terminate(Duration::from_secs(2)).success(), "the waiting one ends by SIGTERM");
    assert!(site.files.socket().exists(), "the socket is the first one's");
    node.add_container("a");
}

#[test]
fn a_socket_and_a_pid_left_by_a_killed_agent_do_not_hinder_the_next_one() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    node.agent.kill().unwrap();
    assert!(site.files.socket().exists());
    node.agent.start_again().unwrap();
    node.add_container("a");
    assert!(node.agent.stop().unwrap().0.success());
    assert!(!site.files.socket().exists(), "a clean stop removes it");
}
