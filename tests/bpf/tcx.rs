//! What only links of TCX have: pins that say more than is true. Asked of kernels since 6.6.

use std::fs;

use bpf::{AttachMode, AttachOutcome, Attachment, BpfError};
use harness::NetNs;

use crate::attach::Node;

#[test]
fn half_of_an_attachment_is_completed() {
    let node = Node::new(AttachMode::Tcx);
    let mut bpf = node.open();
    node.attach(&mut bpf);
    let pin = node.pins.version().join(format!("links/{}-to_pod", node.ifindex));
    fs::remove_file(&pin).unwrap();
    let half = Attachment { ifindex: node.ifindex, from_pod_ok: true, to_pod_ok: false };
    assert_eq!(node.attachments(&bpf), [half]);
    assert_eq!(node.attach(&mut bpf), AttachOutcome::Attached);
    assert_eq!(node.attachments(&bpf), node.good());
}

#[test]
fn a_pin_of_an_interface_that_is_gone_is_not_believed() {
    let node = Node::new(AttachMode::Tcx);
    let mut bpf = node.open();
    node.attach(&mut bpf);
    node.netns.ip("link delete host0").unwrap();
    let dead = Attachment { ifindex: node.ifindex, from_pod_ok: false, to_pod_ok: false };
    assert_eq!(node.attachments(&bpf), [dead]);
    // Another device under the same index, as after a long time.
    node.netns.ip(&format!("link add host0 index {} type veth peer name pod0", node.ifindex)).unwrap();
    assert_eq!(node.attachments(&bpf), [dead]);
    assert_eq!(node.attach(&mut bpf), AttachOutcome::Attached);
    assert_eq!(node.attachments(&bpf), node.good());
    assert_eq!(node.programs().map(|list| list.len()), [1, 1]);
}

#[test]
fn a_pin_of_another_interface_is_not_believed() {
    let node = Node::new(AttachMode::Tcx);
    node.netns.ip("link add host1 type veth peer name pod1").unwrap();
    let other = node.netns.link("host1").unwrap().index;
    let mut bpf = node.open();
    node.attach(&mut bpf);
    let links = node.pins.version().join("links");
    for program in ["from_pod", "to_pod"] {
        let from = links.join(format!("{}-{program}", node.ifindex));
        fs::rename(from, links.join(format!("{other}-{program}"))).unwrap();
    }
    let wrong = Attachment { ifindex: other, from_pod_ok: false, to_pod_ok: false };
    assert_eq!(node.attachments(&bpf), [wrong]);
    assert_eq!(node.within(|| bpf.attach(other)).unwrap(), AttachOutcome::Attached);
    assert_eq!(node.attach(&mut bpf), AttachOutcome::Attached);
    assert_eq!(node.attachments(&bpf).len(), 2);
    assert_eq!(node.programs().map(|list| list.len()), [1, 1]);
}

#[test]
fn a_link_in_another_namespace_is_not_believed() {
    let node = Node::new(AttachMode::Tcx);
    let mut bpf = node.open();
    node.attach(&mut bpf);
    let elsewhere = NetNs::unique("pwbpf").unwrap();
    node.netns.ip(&format!("link set host0 netns {}", elsewhere.name())).unwrap();
    // Whatever index it has there, it is not the interface that this node means.
    let lost = Attachment { ifindex: node.ifindex, from_pod_ok: false, to_pod_ok: false };
    assert_eq!(node.attachments(&bpf), [lost]);
    let error = node.within(|| bpf.attach(node.ifindex)).unwrap_err();
    assert!(matches!(error, BpfError::NoInterface { .. }), "{error}");
}

#[test]
fn interfaces_that_vanished_are_cleaned_up_and_others_stay() {
    let node = Node::new(AttachMode::Tcx);
    node.netns.ip("link add host1 type veth peer name pod1").unwrap();
    let other = node.netns.link("host1").unwrap().index;
    let mut bpf = node.open();
    for ifindex in [node.ifindex, other] {
        bpf.set_endpoint(ifindex, bpf::Endpoint::default()).unwrap();
        node.within(|| bpf.attach(ifindex)).unwrap();
    }
    assert_eq!(node.within(|| bpf.remove_gone()).unwrap(), [0u32; 0]);
    node.netns.ip("link delete host1").unwrap();
    assert_eq!(node.within(|| bpf.remove_gone()).unwrap(), [other]);
    assert_eq!(node.attachments(&bpf), node.good());
    assert_eq!(bpf.fetch_endpoints().unwrap().into_keys().collect::<Vec<_>>(), [node.ifindex]);

    node.netns.ip("link delete host0").unwrap();
    node.within(|| bpf.interface_gone(node.ifindex)).unwrap();
    assert_eq!(node.attachments(&bpf), []);
    assert_eq!(bpf.fetch_endpoints().unwrap().len(), 0);
    assert_eq!(node.within(|| bpf.remove_gone()).unwrap(), [0u32; 0]);
}
