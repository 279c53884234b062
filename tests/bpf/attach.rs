//! Attaching, adopting, replacing and detaching, by TCX (where the kernel has it) and by clsact.

use std::fs;

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use bpf::{AttachMode, AttachOutcome, Attachment, Bpf, OpenOptions};
use harness::{NetNs, Run, has_tcx};
use serde_json::Value;

use crate::bench::{PinDir, attach_modes};

/// A namespace with a veth pair, and options to open with.
pub(crate) struct Node {
    pub(crate) netns: NetNs,
    pub(crate) ifindex: u32,
    pub(crate) pins: PinDir,
    mode: AttachMode,
}

impl Node {
    pub(crate) fn new(mode: AttachMode) -> Self {
        let netns = NetNs::unique("pwbpf").expect("these tests need root and iproute2");
        netns.ip("link add host0 type veth peer name pod0").unwrap();
        let ifindex = netns.link("host0").unwrap().index;
        Self { netns, ifindex, pins: PinDir::unique(), mode }
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { attach_mode: self.mode, ..OpenOptions::new(self.pins.path()) }
    }

    pub(crate) fn open(&self) -> Bpf {
        Bpf::open(&self.options()).unwrap()
    }

    /// Inside the namespace.
    pub(crate) fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.netns.run(act).unwrap()
    }

    pub(crate) fn attach(&self, bpf: &mut Bpf) -> AttachOutcome {
        self.within(|| bpf.attach(self.ifindex)).unwrap()
    }

    pub(crate) fn attachments(&self, bpf: &Bpf) -> Vec<Attachment> {
        self.within(|| bpf.fetch_attachments()).unwrap()
    }

    /// Ids of all programs on the device, ingress and egress: TCX as the kernel lists them, clsact as bpftool
    /// does (which does not know TCX yet).
    pub(crate) fn programs(&self) -> [Vec<u32>; 2] {
        let shown = Run::new("bpftool").args(["-j", "net", "show"]).ok_in(&self.netns).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let filters = shown[0]["tc"].as_array().unwrap();
        let filters = filters.iter().filter(|one| one["devname"] == "host0" && one["id"].is_u64());
        let sides = [(TcAttachType::Ingress, "clsact/ingress"), (TcAttachType::Egress, "clsact/egress")];
        sides.map(|(side, kind)| {
            let mut ids: Vec<u32> = Vec::new();
            if has_tcx() {
                let (_, tcx) = self.within(|| SchedClassifier::query_tcx("host0", side)).unwrap();
                ids.extend(tcx.iter().map(ProgramInfo::id));
            }
            for filter in filters.clone().filter(|one| one["kind"] == kind) {
                ids.push(u32::try_from(filter["id"].as_u64().unwrap()).unwrap());
            }
            ids
        })
    }

    pub(crate) fn good(&self) -> Vec<Attachment> {
        vec![Attachment { ifindex: self.ifindex, from_pod_ok: true, to_pod_ok: true }]
    }
}

#[test]
fn programs_outlive_the_process_and_are_adopted_unchanged() {
    for &mode in attach_modes() {
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
    for &mode in attach_modes() {
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
    for &mode in attach_modes() {
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
fn an_interface_that_is_not_there_is_named() {
    for &mode in attach_modes() {
        let node = Node::new(mode);
        let mut bpf = node.open();
        let error = node.within(|| bpf.attach(4_000_000)).unwrap_err();
        assert_eq!(error.to_string(), "attaching programs: no interface has index 4000000", "{mode:?}");
        node.within(|| bpf.detach(4_000_000)).unwrap();
    }
}

#[test]
fn unloading_detaches_everything_of_ours_and_nothing_else() {
    for &mode in attach_modes() {
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
    let mut bpf = node.open();
    assert_eq!(bpf.uses_tcx(), has_tcx());
    assert_eq!(node.attach(&mut bpf), AttachOutcome::Attached);
    assert_eq!(node.attachments(&bpf), node.good());
}
