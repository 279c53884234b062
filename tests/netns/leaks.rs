//! Containers that vanish without a DEL: found by the agent itself, and nobody else with them.

use std::time::Duration;

use harness::{AgentOptions, wait_until};

use crate::kernel::agreed;
use crate::manifest::pool;
use crate::site::{Node, Pod, Site};

const GRACE: Duration = Duration::from_secs(2);

fn options() -> AgentOptions {
    AgentOptions { more_yaml: "leakGraceSeconds: 2\n".into(), ..AgentOptions::default() }
}

fn handles(node: &Node<'_>) -> Vec<String> {
    let shown = node.ctl().json(&["ipam", "show"]).unwrap();
    let mut handles: Vec<String> = shown["addresses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["handle"].as_str().unwrap().to_owned())
        .collect();
    handles.sort();
    handles
}

#[test]
fn a_pod_whose_namespace_vanished_is_freed_after_the_grace_and_a_live_one_never() {
    let site = Site::new();
    let mut node = site.start_with(&options());
    node.apply(&[pool("a", "10.66.0.0/28", "blockSize: 28")]);
    let live = node.add_container("live");
    let vanished = node.add_container("vanished");
    let unplugged = node.add_container("unplugged");
    let held_open = node.add_container("held-open");

    // Its interface is gone, and its namespace is not: whoever is in it may get another one by a DEL and an ADD.
    let host = unplugged.host_ifname();
    node.netns().ip(&format!("link delete {host}")).unwrap();
    // Its name is gone, and a process still lives in it.
    let mut sleeper =
        held_open.netns.run(|| std::process::Command::new("sleep").arg("60").spawn()).unwrap().unwrap();
    let still_held = held_open.handle();
    let (address, handle) = (vanished.address(), vanished.handle());
    drop(held_open);
    drop(vanished);
    assert_eq!(node.address_state(address)["state"], "used", "not before the grace");

    let took = wait_until(GRACE * 4, "the leak is freed", || !handles(&node).contains(&handle));
    assert!(took >= GRACE - Duration::from_millis(100), "freed after {} ms", took.as_millis());
    let mut expected = vec![live.handle(), unplugged.handle(), still_held.clone()];
    expected.sort();
    // Long enough that all of them would have been freed.
    std::thread::sleep(GRACE * 2);
    assert_eq!(handles(&node), expected);
    assert_eq!(node.check(&live), None);
    let status = node.status();
    let told = status["leaks"][0].as_str().unwrap();
    assert!(told.contains(&handle) && told.contains(&address.to_string()), "{told}");
    assert!(site.log().contains("leaked: interface and network namespace gone"), "{}", node.agent.log_tail());

    // What is journalled tells it to the next agent as well.
    node.agent.kill().unwrap();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    node.agent.start_again().unwrap();
    wait_until(GRACE * 4, "the second leak is freed", || !handles(&node).contains(&still_held));
    node.del(&unplugged);
    assert_eq!(agreed(&node).into_keys().collect::<Vec<_>>(), [live.handle()]);
}

#[test]
fn a_namespace_that_takes_over_the_number_of_a_vanished_one_does_not_hide_the_leak() {
    let site = Site::new();
    let node = site.start_with(&options());
    node.apply(&[pool("a", "10.66.0.0/28", "blockSize: 28")]);
    let vanished = node.add_container("vanished");
    let handle = vanished.handle();
    let host = vanished.host_ifname();
    drop(vanished);
    wait_until(Duration::from_secs(3), "the pair is gone", || node.netns().link(&host).is_err());
    // The kernel gives the lowest number that is free.
    let next: Vec<Pod> = (0..2).map(|_| node.add_container("next")).collect();
    wait_until(GRACE * 4, "the leak is freed", || !handles(&node).contains(&handle));
    assert_eq!(agreed(&node).len(), next.len());
}
