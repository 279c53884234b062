//! One namespace, one veth pair, one set of pinned maps, and programs run on single frames.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use bpf::{AttachMode, Bpf, Endpoint, OpenOptions, PoolCounters, PoolRule};
use harness::{NetNs, has_tcx};
use model::{Dscp, TagId};

use crate::frames::{POD_V4, POD_V6};

/// `TCX_NEXT`, as the test run reports it.
pub(crate) const PASS: u32 = u32::MAX;
/// `TC_ACT_SHOT`.
pub(crate) const DROP: u32 = 2;

/// Tag of the pool that holds the pod's addresses.
pub(crate) const TAG: u16 = 5;
/// What [`TAG`] looks like in a mark.
pub(crate) const MARK: u32 = 0x0005_0000;

/// How programs can be attached in the running kernel.
pub(crate) fn attach_modes() -> &'static [AttachMode] {
    if has_tcx() { &[AttachMode::Tcx, AttachMode::Clsact] } else { &[AttachMode::Clsact] }
}

/// A directory for pins that is gone afterwards, whatever happens.
pub(crate) struct PinDir(PathBuf);

impl PinDir {
    pub(crate) fn unique() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/sys/fs/bpf/pwbpf-{}-{count}", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn version(&self) -> PathBuf {
        self.0.join(format!("v{}", bpf::SCHEMA_VERSION))
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        let _ = Bpf::unload_all(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs programs on frames that seem to come through one pod's interface.
pub(crate) struct Bench {
    pub(crate) netns: NetNs,
    pub(crate) ifindex: u32,
    pub(crate) bpf: Bpf,
    pins: PinDir,
}

/// What a program made of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) verdict: u32,
    pub(crate) mark: u32,
    pub(crate) frame: Vec<u8>,
}

/// Which program.
#[derive(Clone, Copy)]
pub(crate) enum Program {
    FromPod,
    ToPod,
    FromUplink,
    ToUplink,
}

/// Fields of the context that a test may set.
#[derive(Clone, Copy, Default)]
pub(crate) struct Given {
    pub(crate) mark: u32,
    pub(crate) gso_segments: u32,
    /// Another interface than the bench's.
    pub(crate) ifindex: Option<u32>,
}

impl Bench {
    /// A pod with [`POD_V4`] and [`POD_V6`], in pools with [`TAG`] and nothing else.
    pub(crate) fn new() -> Self {
        let pins = PinDir::unique();
        let netns = NetNs::unique("pwbpf").expect("these tests need root and iproute2");
        netns.ip("link add host0 type veth peer name pod0").unwrap();
        let ifindex = netns.link("host0").unwrap().index;
        let mut bpf = Bpf::open(&OpenOptions::new(pins.path())).expect("these tests need root and a bpffs");
        bpf.set_endpoint(ifindex, Endpoint { ipv4: Some(POD_V4), ipv6: Some(POD_V6), ..Endpoint::default() })
            .unwrap();
        let mut bench = Self { netns, ifindex, bpf, pins };
        bench.set_pools(rule(TAG, false, None));
        bench
    }

    /// One rule for the prefixes of both of the pod's addresses.
    pub(crate) fn set_pools(&mut self, rule: PoolRule) {
        for cidr in ["10.1.0.0/26", "fd00:1::/112"] {
            self.bpf.set_pool(cidr.parse().unwrap(), rule).unwrap();
        }
    }

    pub(crate) fn pin_dir(&self) -> &Path {
        self.pins.path()
    }

    pub(crate) fn run(&self, program: Program, frame: &[u8], given: Given) -> Ran {
        self.netns.run(|| run_here(self.program(program), self.ifindex, frame, given)).unwrap()
    }

    fn program(&self, program: Program) -> &SchedClassifier {
        match program {
            Program::FromPod => self.bpf.from_pod_program().unwrap(),
            Program::ToPod => self.bpf.to_pod_program().unwrap(),
            Program::FromUplink => self.bpf.from_uplink_program().unwrap(),
            Program::ToUplink => self.bpf.to_uplink_program().unwrap(),
        }
    }

    pub(crate) fn counters(&self, tag: u16) -> PoolCounters {
        self.bpf.fetch_pool_counters().unwrap().get(&tag_id(tag)).copied().unwrap_or_default()
    }

    /// Reasons that counted anything since `before`.
    pub(crate) fn drops_since(&self, before: &BTreeMap<&'static str, u64>) -> Vec<(&'static str, u64)> {
        let now = self.bpf.fetch_drops().unwrap();
        now.into_iter()
            .map(|(name, count)| (name, count - before[name]))
            .filter(|(_, count)| *count != 0)
            .collect()
    }
}

/// Offsets into `struct __sk_buff` (include/uapi/linux/bpf.h).
const CONTEXT_LEN: usize = 192;
const CONTEXT_MARK: usize = 8;
const CONTEXT_IFINDEX: usize = 40;
const CONTEXT_GSO_SEGS: usize = 164;

pub(crate) fn run_here(program: &SchedClassifier, ifindex: u32, frame: &[u8], given: Given) -> Ran {
    let mut context = [0u8; CONTEXT_LEN];
    let mut put = |at: usize, value: u32| context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(CONTEXT_MARK, given.mark);
    put(CONTEXT_IFINDEX, given.ifindex.unwrap_or(ifindex));
    put(CONTEXT_GSO_SEGS, given.gso_segments);
    let mut context_out = [0u8; CONTEXT_LEN];
    let mut frame_out = vec![0u8; frame.len() + 64];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut frame_out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        })
        .unwrap_or_else(|error| panic!("test run of {frame:02x?}: {error:?}"));
    frame_out.truncate(result.data_size_out as usize);
    let mark = u32::from_ne_bytes(context_out[CONTEXT_MARK..CONTEXT_MARK + 4].try_into().unwrap());
    Ran { verdict: result.return_value, mark, frame: frame_out }
}

pub(crate) fn tag_id(tag: u16) -> TagId {
    TagId::new(tag).unwrap()
}

pub(crate) fn rule(tag: u16, nat_outgoing: bool, dscp: Option<u8>) -> PoolRule {
    PoolRule { tag: tag_id(tag), nat_outgoing, dscp: dscp.map(|value| Dscp::new(u32::from(value)).unwrap()) }
}

/// What `from_pod` is expected to make of a frame.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// Dropped, and one more under this reason.
    Drop(&'static str),
    /// Passed as it came, with the pool's mark, counted once.
    Tagged,
    /// Passed as it came, without a mark, counted nowhere.
    Untagged,
    /// Passed as it came, without a mark, counted as `no_pool`.
    NoPool,
    /// Passed with these bytes and the pool's mark, counted once.
    Rewritten(Vec<u8>),
}

/// Foreign bits in every test's mark, and bits of ours that must not survive.
const MARK_IN: u32 = 0xf7ff_e00f;
const FOREIGN: u32 = MARK_IN & !0x0fff_0000;

/// Runs `from_pod` and compares verdict, bytes, mark and every counter.
pub(crate) fn check(bench: &Bench, what: &str, frame: &[u8], expect: &Expect) {
    let drops = bench.bpf.fetch_drops().unwrap();
    let before = bench.counters(TAG);
    let ran = bench.run(Program::FromPod, frame, Given { mark: MARK_IN, ..Given::default() });
    let (verdict, mark, bytes, reasons, counted) = match expect {
        Expect::Drop(reason) => (DROP, None, frame, vec![(*reason, 1)], false),
        Expect::Tagged => (PASS, Some(FOREIGN | MARK), frame, vec![], true),
        Expect::Untagged => (PASS, Some(FOREIGN), frame, vec![], false),
        Expect::NoPool => (PASS, Some(FOREIGN), frame, vec![("no_pool", 1)], false),
        Expect::Rewritten(bytes) => (PASS, Some(FOREIGN | MARK), bytes.as_slice(), vec![], true),
    };
    assert_eq!(ran.verdict, verdict, "{what}: verdict; reasons counted: {:?}", bench.drops_since(&drops));
    assert_eq!(bench.drops_since(&drops), reasons, "{what}: reasons");
    assert_eq!(ran.frame, bytes, "{what}: bytes");
    if let Some(mark) = mark {
        assert_eq!(ran.mark, mark, "{what}: mark {:#x} for {mark:#x}", ran.mark);
    }
    let sent = u64::from(counted);
    let expected = PoolCounters {
        tx_packets: before.tx_packets + sent,
        tx_bytes: before.tx_bytes + sent * frame.len() as u64,
        ..before
    };
    assert_eq!(bench.counters(TAG), expected, "{what}: counters");
}

/// Runs a table of cases through [`check`] on one bench.
pub(crate) fn check_all(bench: &Bench, cases: &[(&str, Vec<u8>, Expect)]) {
    for (what, frame, expect) in cases {
        check(bench, what, frame, expect);
    }
}
