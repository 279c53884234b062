//! One node among others: ranges, peers and a rule for the bench's interface, and packets between nodes.

use std::net::Ipv4Addr;

use bpf::{PeerRule, RemoteRange, UplinkRule};

use crate::bench::{Bench, DROP, Given, PASS, Program, Ran};
use crate::frames::V4;

/// This node.
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The node that serves [`POD_B`]'s block.
pub(crate) const NODE_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Another one, with [`LENT`] out of node B's block.
pub(crate) const NODE_C: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// Nobody's.
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

/// A pod of this node.
pub(crate) const POD_A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
/// A pod of node B.
pub(crate) const POD_B: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);
/// Out of node B's block, lent to node C.
pub(crate) const LENT: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 9);
/// A pod of node C, in a range that is not encapsulated.
pub(crate) const POD_C: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 2);
/// In the pool, in no block.
pub(crate) const UNCOVERED: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 9);
/// Node B's own address out of the pool, in nobody's block here.
pub(crate) const INNER_B: Ipv4Addr = Ipv4Addr::new(10, 244, 8, 1);
/// In no pool.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

impl Bench {
    /// The bench's interface as the uplink of a node that knows two others.
    pub(crate) fn between_nodes() -> Self {
        let mut bench = Self::new();
        let ifindex = bench.ifindex;
        bench.set_rule(true);
        let bpf = &mut bench.bpf;
        bpf.set_pool("10.244.0.0/16".parse().unwrap(), crate::bench::rule(7, false, None)).unwrap();
        bpf.set_peer(NODE_B, PeerRule { inner: Some(INNER_B) }).unwrap();
        bpf.set_peer(NODE_C, PeerRule::default()).unwrap();
        for (cidr, node, encapsulate) in [
            ("10.244.1.0/24", LOCAL, false),
            ("10.244.2.0/24", NODE_B, true),
            ("10.244.2.9/32", NODE_C, true),
            ("10.244.3.0/24", NODE_C, false),
        ] {
            bpf.set_remote_range(cidr.parse().unwrap(), RemoteRange { node, encapsulate }).unwrap();
        }
        assert_eq!(bpf.uplinks().unwrap()[&ifindex].attached, bpf::UplinkAttachment::default());
        bench
    }

    pub(crate) fn set_rule(&mut self, decapsulate: bool) {
        self.bpf.set_uplink(self.ifindex, UplinkRule { local: LOCAL, decapsulate }).unwrap();
    }
}

/// A packet between two pods.
pub(crate) fn between(source: Ipv4Addr, destination: Ipv4Addr) -> V4 {
    V4 { destination, ..V4::from(source) }
}

/// A frame's packet inside an outer header.
pub(crate) fn inside(outer: V4, inner: &V4) -> V4 {
    V4 { protocol: 4, payload: inner.frame()[14..].to_vec(), ..outer }
}

/// What a program at the uplink is expected to make of a frame.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// Dropped, and one more under this reason.
    Drop(&'static str),
    /// Passed as it came, counted nowhere.
    Pass,
    /// Passed as it came, and one more under this reason.
    Count(&'static str),
    /// Passed as these bytes, counted nowhere.
    Becomes(Vec<u8>),
    /// Passed as these bytes, and one more under this reason.
    BecomesAndCount(Vec<u8>, &'static str),
}

/// Runs a program and compares verdict, bytes, mark and every counter. Identifications of outer headers are taken from
/// what came out: they are another one each time.
pub(crate) fn check(bench: &Bench, program: Program, what: &str, frame: &[u8], expect: &Expect) -> Ran {
    let drops = bench.bpf.fetch_drops().unwrap();
    let ran = bench.run(program, frame, Given { mark: 0x1234_5678, ..Given::default() });
    let counted = bench.drops_since(&drops);
    let (verdict, bytes, reasons) = match expect {
        Expect::Drop(reason) => (DROP, frame, vec![(*reason, 1)]),
        Expect::Pass => (PASS, frame, vec![]),
        Expect::Count(reason) => (PASS, frame, vec![(*reason, 1)]),
        Expect::Becomes(bytes) => (PASS, bytes.as_slice(), vec![]),
        Expect::BecomesAndCount(bytes, reason) => (PASS, bytes.as_slice(), vec![(*reason, 1)]),
    };
    assert_eq!(ran.verdict, verdict, "{what}: verdict; reasons counted: {counted:?}");
    assert_eq!(counted, reasons, "{what}: reasons");
    assert_eq!(ran.mark, 0x1234_5678, "{what}: mark");
    let mut expected = bytes.to_vec();
    if matches!(program, Program::ToUplink) && expected.len() != frame.len() {
        take_id(&mut expected, &ran.frame);
    }
    assert_eq!(hex(&ran.frame), hex(&expected), "{what}: bytes");
    ran
}

/// Gives an outer header the identification of another, and the checksum that goes with it.
pub(crate) fn take_id(frame: &mut [u8], from: &[u8]) {
    frame[18..20].copy_from_slice(&from[18..20]);
    frame[24..26].fill(0);
    let sum = crate::frames::checksum(&frame[14..34]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
}

pub(crate) fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x} ")).collect()
}
