//! Attaching, adopting, replacing and detaching, by TCX and by clsact.

use std::fs;

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use bpf::{AttachMode, AttachOutcome, Attachment, Bpf, BpfError, OpenOptions};
use harness::{NetNs, Run};
use serde_json::Value;

use crate::bench::PinDir;

const BOTH: [AttachMode; 2] = [AttachMode::Tcx, AttachMode::Clsact];

/// A namespace with a veth pair, and options to open with.
struct Node {
    netns: NetNs,
    ifindex: u32,
    pins: PinDir,
    mode: AttachMode,
}

impl Node {
    fn new(mode: AttachMode) -> Self {
        let netns = NetNs::unique("pwbpf").expect("these tests need root and iproute2");
        netns.ip("link add host0 type veth peer name pod0").unwrap();
        let ifindex = netns.link("host0").unwrap().index;
        Self { netns, ifindex, pins: PinDir::unique(), mode }
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { attach_mode: self.mode, ..OpenOptions::new(self.pins.path()) }
    }

    fn open(&self) -> Bpf {
        Bpf::open(&self.options()).unwrap()
    }

    /// Inside the namespace.
    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.netns.run(act).unwrap()
    }

    fn attach(&self, bpf: &mut Bpf) -> AttachOutcome {
        self.within(|| bpf.attach(self.ifindex)).unwrap()
    }

    fn attachments(&self, bpf: &Bpf) -> Vec<Attachment> {
        self.within(|| bpf.fetch_attachments()).unwrap()
    }

    /// Ids of all programs on the device, ingress and egress: TCX as the kernel lists them, clsact as bpftool
    /// does (which does not know TCX yet).
    fn programs(&self) -> [Vec<u32>; 2] {
        let shown = Run::new("bpftool").args(["-j", "net", "show"]).ok_in(&self.netns).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let filters = shown[0]["tc"].as_array().unwrap();
        let filters = filters.iter().filter(|one| one["devname"] == "host0" && one["id"].is_u64());
        let sides = [(TcAttachType::Ingress, "clsact/ingress"), (TcAttachType::Egress, "clsact/egress")];
        sides.map(|(side, kind)| {
            let (_, tcx) = self.within(|| SchedClassifier::query_tcx("host0", side)).unwrap();
            let mut ids: Vec<u32> = tcx.iter().map(ProgramInfo::id).collect();
            for filter in filters.clone().filter(|one| one["kind"] == kind) {
                ids.push(u32::try_from(filter["id"].as_u64().unwrap()).unwrap());
            }
            ids
        })
    }

    fn good(&self) -> Vec<Attachment> {
        vec![Attachment { ifindex: self.ifindex, from_pod_ok: true, to_pod_ok: true }]
    }
}

#[test]
fn programs_outlive_the_process_and_are_adopted_unchanged() {
    for mode in BOTH {
        let node = Node::new(mode);
        let mut bpf = node.open();
        assert_eq!(bpf.uses_tcx(), mode == AttachMode::Tcx);
        assert_eq!(node.attachments(&bpf), []);
        assert_eq!(node.attach(&mut bpf), AttachOutcome::Attached, "{mode:?}");
        assert_eq!(node.attach(&mut bpf), AttachOutcome::Unchanged, "{mode:?}");
        assert_eq!(node.attachments(&bpf), node.good(), "{mode:?}");
        let running = node.programs();
        assert_eq!(running.each_ref().map(Vec::len), [1, 1], "{mode:?}");
        drop(bpf);
        assert_eq!(node.programs(), running, "{mode:?}: after the process");

        let mut bpf = node.open();
        assert_eq!(node.attachments(&bpf), node.good(), "{mode:?}: before anything is attached again");
        assert_eq!(node.attach(&mut bpf), AttachOutcome::Unchanged, "{mode:?}");
        assert_eq!(node.programs(), running, "{mode:?}: the very same programs");
    }
}

#[test]
fn a_program_on_other_maps_is_replaced_in_place() {
    for mode in BOTH {
        let node = Node::new(mode);
        let mut bpf = node.open();
        node.attach(&mut bpf);
        let old = node.programs();
        drop(bpf);
        // The same code, but its drop counters are no longer those that can be read.
        fs::remove_file(node.pins.version().join("pw_drops")).unwrap();
        let mut bpf = node.open();
        let stale = Attachment { ifindex: node.ifindex, from_pod_ok: false, to_pod_ok: true };
        assert_eq!(node.attachments(&bpf), [stale], "{mode:?}: to_pod counts no drops");
        assert_eq!(node.attach(&mut bpf), AttachOutcome::Replaced, "{mode:?}");
        assert_eq!(node.attachments(&bpf), node.good(), "{mode:?}");
        let new = node.programs();
        assert_ne!(new[0], old[0], "{mode:?}");
        assert_eq!(new[1], old[1], "{mode:?}");
        assert_eq!(new.each_ref().map(Vec::len), [1, 1], "{mode:?}: replaced, not doubled");
    }
}

#[test]
fn detaching_takes_effect_at_once_and_may_be_repeated() {
    for mode in BOTH {
        let node = Node::new(mode);
        let mut bpf = node.open();
        node.attach(&mut bpf);
        for _ in 0..2 {
            node.within(|| bpf.detach(node.ifindex)).unwrap();
            assert_eq!(node.programs().map(|list| list.len()), [0, 0], "{mode:?}");
            assert_eq!(node.attachments(&bpf), [], "{mode:?}");
        }
        assert_eq!(node.attach(&mut bpf), AttachOutcome::Attached, "{mode:?}");
        assert_eq!(node.programs().map(|list| list.len()), [1, 1], "{mode:?}");
    }
}

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
fn an_interface_that_is_not_there_is_named() {
    for mode in BOTH {
        let node = Node::new(mode);
        let mut bpf = node.open();
        let error = node.within(|| bpf.attach(4_000_000)).unwrap_err();
        assert_eq!(error.to_string(), "attaching programs: no interface has index 4000000", "{mode:?}");
        node.within(|| bpf.detach(4_000_000)).unwrap();
    }
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

#[test]
fn unloading_detaches_everything_of_ours_and_nothing_else() {
    for mode in BOTH {
        let node = Node::new(mode);
        if mode == AttachMode::Clsact {
            let tc = |args: &[&str]| Run::new("tc").args(args).ok_in(&node.netns).unwrap();
            tc(&["qdisc", "add", "dev", "host0", "clsact"]);
            // Classic BPF: return -1.
            let filter = ["filter", "add", "dev", "host0", "ingress", "prio", "1", "handle", "7", "bpf"];
            tc(&[&filter[..], &["bytecode", "1,6 0 0 4294967295,"]].concat());
        }
        let mut bpf = node.open();
        node.attach(&mut bpf);
        drop(bpf);
        let running = node.programs();
        let other = PinDir::unique();
        drop(Bpf::open(&OpenOptions::new(other.path())).unwrap());
        node.within(|| Bpf::unload_all(other.path())).unwrap();
        assert_eq!(node.programs(), running, "{mode:?}: another directory's programs stay");
        node.within(|| Bpf::unload_all(node.pins.path())).unwrap();
        assert_eq!(node.programs().map(|list| list.len()), [0, 0], "{mode:?}");
        assert!(!node.pins.path().exists(), "{mode:?}");
        if mode == AttachMode::Clsact {
            let left = Run::new("tc")
                .args(["filter", "show", "dev", "host0", "ingress"])
                .ok_in(&node.netns)
                .unwrap();
            assert!(left.contains("handle 0x7 "), "{left}");
            assert!(!left.contains("from_pod"), "{left}");
        }
    }
}

#[test]
fn tcx_is_chosen_where_the_kernel_has_it() {
    let node = Node::new(AttachMode::Auto);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    assert_eq!(node.open().uses_tcx(), version >= (6, 6), "{release}");
}
