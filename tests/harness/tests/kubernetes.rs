//! The control plane itself: that what tests rely on of it holds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};

use poolward_harness::{BoundPod, ControlPlane, ControlPlaneOptions, NetNs};
use serde_json::Value;

const LISTEN: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

fn start_in(netns: &NetNs) -> ControlPlane {
    netns.ip("link add mgmt0 type bridge").unwrap();
    netns.ip("addr add 203.0.113.1/24 dev mgmt0").unwrap();
    netns.ip("link set mgmt0 up").unwrap();
    let netns = Some(netns.name().to_owned());
    ControlPlane::start(&ControlPlaneOptions { netns, listen: LISTEN, ..ControlPlaneOptions::default() })
        .unwrap()
}

fn node_addresses(control_plane: &ControlPlane, name: &str) -> Vec<String> {
    let node = control_plane.kubectl().unwrap().json(&["get", "node", name]).unwrap();
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array).cloned().unwrap_or_default();
    let internal = addresses.iter().filter(|address| address["type"] == "InternalIP");
    internal.map(|address| address["address"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn it_lives_and_dies_and_comes_back_with_what_it_knew() {
    let netns = NetNs::unique("pwcp").unwrap();
    let mut control_plane = start_in(&netns);
    let dir = control_plane.dir().to_owned();
    let address = |last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last));

    // Nodes have the addresses that a kubelet would give them.
    let uid = control_plane.create_node("node-1", &[address(1)]).unwrap();
    assert_eq!(uid.len(), 36, "{uid}");
    assert_eq!(node_addresses(&control_plane, "node-1"), ["192.0.2.1"]);
    let snapshot = control_plane.snapshot("one-node").unwrap();
    control_plane.set_node_addresses("node-1", &[address(9)]).unwrap();
    assert_eq!(node_addresses(&control_plane, "node-1"), ["192.0.2.9"]);

    // Pods are bound; identities may do what they were granted, which is nothing.
    let pod = control_plane
        .create_pod(&BoundPod {
            node: "node-1",
            namespace: "default",
            name: "web",
            annotations: &[("poolward.io/x", "y")],
        })
        .unwrap();
    assert_ne!(pod, uid);
    let nobody = control_plane.add_identity("nobody", &["nobodies"]).unwrap();
    let refused = control_plane.kubectl_as(&nobody).unwrap().run(&["get", "nodes"]).unwrap_err();
    assert!(format!("{refused:#}").contains("nobody"), "{refused:#}");

    // Requests are counted by the server.
    let before = control_plane.requests().unwrap();
    control_plane.create_node("node-2", &[address(2)]).unwrap();
    let new = control_plane.requests().unwrap().since(&before);
    let posts = new.only(|kind| kind.verb == "POST" && kind.resource == "nodes" && kind.code == "201");
    assert_eq!(posts.count(), 1, "{new:?}");

    // Killed, both come back where they were.
    control_plane.kill_api().unwrap();
    control_plane.kubectl().unwrap().raw("/readyz").unwrap_err();
    control_plane.start_api().unwrap();
    control_plane.kill_etcd().unwrap();
    control_plane.start_etcd().unwrap();
    assert_eq!(node_addresses(&control_plane, "node-2"), ["192.0.2.2"]);

    // Restored, they are where they were earlier.
    control_plane.restore(&snapshot).unwrap();
    assert_eq!(node_addresses(&control_plane, "node-1"), ["192.0.2.1"]);
    control_plane.kubectl().unwrap().run(&["get", "node", "node-2"]).unwrap_err();

    let pids = [control_plane.api().pid().unwrap(), control_plane.etcd().pid().unwrap()];
    drop(control_plane);
    assert!(!dir.exists());
    for pid in pids {
        assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap(), "process {pid} is left");
    }
}

#[test]
fn it_is_left_running_on_request_and_found_again() {
    let netns = NetNs::unique("pwcp").unwrap();
    let control_plane = start_in(&netns);
    let (dir, pid) = (control_plane.dir().to_owned(), control_plane.etcd().pid().unwrap());
    let kubectl = control_plane.kubectl().unwrap();
    control_plane.leave_running();
    assert_eq!(kubectl.raw("/readyz").unwrap(), "ok");
    assert!(ControlPlane::stop_left_running(&dir).unwrap());
    assert!(!dir.exists());
    // Its parent, which is this process, has not asked after it: no more than that is left.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    assert!(!ControlPlane::stop_left_running(&dir).unwrap());
}
