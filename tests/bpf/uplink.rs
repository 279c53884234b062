//! Uplinks: what is written is read back, programs are attached, adopted, replaced and detached.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use bpf::{
    AttachMode, AttachOutcome, Bpf, BpfError, OpenOptions, PeerRule, RemoteRange, UplinkAttachment,
    UplinkRule, UplinkState,
};
use harness::NetNs;
use model::Cidr;

use crate::bench::{Bench, PinDir, attach_modes};
use crate::nodes::{LOCAL, NODE_B, NODE_C};

const BOTH_OK: UplinkAttachment = UplinkAttachment { from_uplink_ok: true, to_uplink_ok: true };
const RULE: UplinkRule = UplinkRule { local: LOCAL, decapsulate: true };

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn ranges_peers_and_rules_are_read_back_and_removed() {
    let pins = PinDir::unique();
    let mut bpf = Bpf::open(&OpenOptions::new(pins.path())).unwrap();
    let ranges = BTreeMap::from([
        (cidr("10.0.0.0/26"), RemoteRange { node: NODE_B, encapsulate: true }),
        (cidr("10.0.0.7/32"), RemoteRange { node: NODE_C, encapsulate: true }),
        (cidr("10.0.0.0/8"), RemoteRange { node: NODE_C, encapsulate: false }),
        (cidr("0.0.0.0/0"), RemoteRange { node: LOCAL, encapsulate: false }),
    ]);
    for (cidr, range) in &ranges {
        bpf.set_remote_range(*cidr, RemoteRange { node: LOCAL, encapsulate: false }).unwrap();
        bpf.set_remote_range(*cidr, *range).unwrap();
    }
    assert_eq!(bpf.remote_ranges().unwrap(), ranges);

    let peers = BTreeMap::from([
        (NODE_B, PeerRule { inner: Some(Ipv4Addr::new(10, 0, 0, 1)) }),
        (NODE_C, PeerRule { inner: None }),
    ]);
    for (node, rule) in &peers {
        bpf.set_peer(*node, *rule).unwrap();
    }
    assert_eq!(bpf.peers().unwrap(), peers);

    bpf.set_uplink(1, UplinkRule { decapsulate: false, ..RULE }).unwrap();
    let state =
        UplinkState { rule: Some(UplinkRule { decapsulate: false, ..RULE }), ..UplinkState::default() };
    assert_eq!(bpf.uplinks().unwrap(), BTreeMap::from([(1, state)]));
    assert!(!state.is_complete());

    // The next process finds it all.
    drop(bpf);
    let mut bpf = Bpf::open(&OpenOptions::new(pins.path())).unwrap();
    assert_eq!(bpf.remote_ranges().unwrap(), ranges);
    assert_eq!(bpf.peers().unwrap(), peers);
    for cidr in ranges.keys() {
        assert!(bpf.remove_remote_range(*cidr).unwrap());
        assert!(!bpf.remove_remote_range(*cidr).unwrap());
    }
    for node in peers.keys() {
        assert!(bpf.remove_peer(*node).unwrap());
        assert!(!bpf.remove_peer(*node).unwrap());
    }
    assert_eq!(bpf.remote_ranges().unwrap(), BTreeMap::new());
    assert_eq!(bpf.peers().unwrap(), BTreeMap::new());
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let pins = PinDir::unique();
    let mut options = OpenOptions::new(pins.path());
    options.sizes.max_remote_ranges = 2;
    options.sizes.max_peers = 1;
    let mut bpf = Bpf::open(&options).unwrap();
    let range = RemoteRange { node: NODE_B, encapsulate: true };
    for text in ["10.0.0.0/26", "10.0.0.64/26"] {
        bpf.set_remote_range(cidr(text), range).unwrap();
    }
    let error = bpf.set_remote_range(cidr("10.0.0.128/26"), range).unwrap_err();
    assert_eq!(error.to_string(), "map pw_remote is full at 2 entries: adding 10.0.0.128/26");
    bpf.set_peer(NODE_B, PeerRule::default()).unwrap();
    let error = bpf.set_peer(NODE_C, PeerRule::default()).unwrap_err();
    assert_eq!(error.to_string(), "map pw_peers is full at 1 entries: adding 192.0.2.3");
    let error = bpf.set_remote_range(cidr("fd00::/112"), range).unwrap_err();
    assert!(matches!(error, BpfError::NotIpv4 { .. }), "{error}");
}

#[test]
fn twenty_thousand_ranges_are_all_there() {
    let pins = PinDir::unique();
    let mut bpf = Bpf::open(&OpenOptions::new(pins.path())).unwrap();
    let range_of = |index: u32| {
        let network = Ipv4Addr::from(0x0a00_0000 + index * 64);
        let node = Ipv4Addr::from(0xac10_0000 + index / 4);
        (
            Cidr::containing(network.into(), 26).unwrap(),
            RemoteRange { node, encapsulate: index.is_multiple_of(2) },
        )
    };
    let started = Instant::now();
    for index in 0..20_000 {
        let (cidr, range) = range_of(index);
        bpf.set_remote_range(cidr, range).unwrap();
    }
    let written = started.elapsed();
    let read = bpf.remote_ranges().unwrap();
    println!("20,000 ranges: written in {written:?}, read in {:?}", started.elapsed() - written);
    assert_eq!(read, (0..20_000).map(range_of).collect());
}

/// A namespace with an uplink in it.
struct Node {
    netns: NetNs,
    ifindex: u32,
    pins: PinDir,
    mode: AttachMode,
}

impl Node {
    fn new(mode: AttachMode) -> Self {
        let netns = NetNs::unique("pwbpf").expect("these tests need root and iproute2");
        netns.ip("link add up0 type veth peer name far0").unwrap();
        let ifindex = netns.link("up0").unwrap().index;
        Self { netns, ifindex, pins: PinDir::unique(), mode }
    }

    fn open(&self) -> Bpf {
        Bpf::open(&OpenOptions { attach_mode: self.mode, ..OpenOptions::new(self.pins.path()) }).unwrap()
    }

    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.netns.run(act).unwrap()
    }

    fn attach(&self, bpf: &mut Bpf) -> AttachOutcome {
        self.within(|| bpf.attach_uplink(self.ifindex)).unwrap()
    }

    fn uplinks(&self, bpf: &Bpf) -> BTreeMap<u32, UplinkState> {
        self.within(|| bpf.uplinks()).unwrap()
    }

    fn state(&self, rule: Option<UplinkRule>, attached: UplinkAttachment) -> BTreeMap<u32, UplinkState> {
        BTreeMap::from([(self.ifindex, UplinkState { rule, attached })])
    }
}

#[test]
fn uplink_programs_outlive_the_process_and_are_adopted_or_replaced() {
    for &mode in attach_modes() {
        let node = Node::new(mode);
        let mut bpf = node.open();
        bpf.set_uplink(node.ifindex, RULE).unwrap();
        assert_eq!(node.attach(&mut bpf), AttachOutcome::Attached, "{mode:?}");
        assert_eq!(node.attach(&mut bpf), AttachOutcome::Unchanged, "{mode:?}");
        assert_eq!(node.uplinks(&bpf), node.state(Some(RULE), BOTH_OK), "{mode:?}");
        // An uplink is no pod.
        assert_eq!(node.within(|| bpf.fetch_attachments()).unwrap(), [], "{mode:?}");
        drop(bpf);

        let mut bpf = node.open();
        assert_eq!(node.uplinks(&bpf), node.state(Some(RULE), BOTH_OK), "{mode:?}: adopted");
        assert_eq!(node.attach(&mut bpf), AttachOutcome::Unchanged, "{mode:?}");
        drop(bpf);

        // The same code on other counters is not what is wanted.
        std::fs::remove_file(node.pins.version().join("pw_drops")).unwrap();
        let mut bpf = node.open();
        let neither = UplinkAttachment::default();
        assert_eq!(node.uplinks(&bpf), node.state(Some(RULE), neither), "{mode:?}: on other maps");
        assert_eq!(node.attach(&mut bpf), AttachOutcome::Replaced, "{mode:?}");
        assert_eq!(node.uplinks(&bpf), node.state(Some(RULE), BOTH_OK), "{mode:?}");

        for _ in 0..2 {
            node.within(|| bpf.detach_uplink(node.ifindex)).unwrap();
            assert_eq!(node.uplinks(&bpf), BTreeMap::new(), "{mode:?}");
        }
    }
}

#[test]
fn half_of_an_uplink_is_seen_and_completed() {
    let node = Node::new(AttachMode::Tcx);
    let mut bpf = node.open();
    node.attach(&mut bpf);
    std::fs::remove_file(node.pins.version().join(format!("links/{}-to_uplink", node.ifindex))).unwrap();
    let half = UplinkAttachment { from_uplink_ok: true, to_uplink_ok: false };
    assert_eq!(node.uplinks(&bpf), node.state(None, half));
    assert_eq!(node.attach(&mut bpf), AttachOutcome::Attached);
    assert_eq!(node.uplinks(&bpf), node.state(None, BOTH_OK));
}

#[test]
fn an_uplink_that_is_gone_is_forgotten_with_its_rule() {
    for &mode in attach_modes() {
        let node = Node::new(mode);
        let mut bpf = node.open();
        bpf.set_uplink(node.ifindex, RULE).unwrap();
        node.attach(&mut bpf);
        node.netns.ip("link delete up0").unwrap();
        assert_eq!(node.within(|| bpf.remove_gone()).unwrap(), [node.ifindex], "{mode:?}");
        assert_eq!(node.uplinks(&bpf), BTreeMap::new(), "{mode:?}");
        let error = node.within(|| bpf.attach_uplink(node.ifindex)).unwrap_err();
        assert!(matches!(error, BpfError::NoInterface { .. }), "{error}");
    }
}

#[test]
fn an_interface_without_ethernet_headers_is_refused() {
    let node = Node::new(AttachMode::Auto);
    let mut bpf = node.open();
    let error = node.within(|| bpf.attach_uplink(1)).unwrap_err();
    assert!(matches!(error, BpfError::NotEthernet { ifindex: 1, .. }), "{error}");
    assert!(
        error.to_string().ends_with("interface 1 is no Ethernet: use the backend `device` there"),
        "{error}"
    );
    assert_eq!(node.uplinks(&bpf), BTreeMap::new());
}

#[test]
fn everything_is_removed_with_the_rest() {
    for &mode in attach_modes() {
        let node = Node::new(mode);
        let mut bpf = node.open();
        node.attach(&mut bpf);
        drop(bpf);
        node.within(|| Bpf::unload_all(node.pins.path())).unwrap();
        assert!(!node.pins.path().exists(), "{mode:?}");
        let bpf = node.open();
        assert_eq!(node.uplinks(&bpf), BTreeMap::new(), "{mode:?}");
    }
}

#[test]
fn a_rule_takes_the_place_of_one_that_was_removed_and_no_more_are_taken_than_fit() {
    let node = Node::new(AttachMode::Auto);
    let mut bpf = node.open();
    let rule = |number: u32| UplinkRule {
        local: Ipv4Addr::from(0xc000_0200 + number),
        decapsulate: number.is_multiple_of(2),
    };
    let (first, most) = (1_000, 16);
    for number in 0..most {
        bpf.set_uplink(first + number, rule(number)).unwrap();
    }
    let error = bpf.set_uplink(first + most, rule(most)).unwrap_err();
    assert_eq!(error.to_string(), "map pw_uplinks is full at 16 entries: adding 1016");
    bpf.set_uplink(first + 3, rule(30)).unwrap();
    for _ in 0..2 {
        bpf.interface_gone(first + 5).unwrap();
    }
    bpf.set_uplink(first + most, rule(most)).unwrap();
    let rules: BTreeMap<_, _> =
        bpf.uplinks().unwrap().into_iter().map(|(ifindex, state)| (ifindex, state.rule)).collect();
    let expected = (0..=most).filter(|number| *number != 5).map(|number| {
        let rule = if number == 3 { rule(30) } else { rule(number) };
        (first + number, Some(rule))
    });
    assert_eq!(rules, expected.collect());
}

#[test]
fn rules_of_the_uplink_are_dumped_with_the_names_of_their_fields() {
    let bench = Bench::between_nodes();
    let first = |name: &str| crate::dump::dump(bench.pin_dir(), name)[0]["formatted"].clone();
    let uplink = first("pw_uplinks");
    assert_eq!((&uplink["value"]["ifindex"], &uplink["value"]["flags"]), (&bench.ifindex.into(), &1.into()));
    assert_eq!(uplink["value"]["local"], serde_json::json!([192, 0, 2, 1]));
    let remote = first("pw_remote");
    assert!(remote["key"]["prefix_len"].is_u64() && remote["value"]["node"].is_array(), "{remote}");
    let peer = first("pw_peers");
    assert!(peer["key"]["address"].is_array() && peer["value"]["inner"].is_array(), "{peer}");
    assert!(first("pw_tags")["value"]["flags"].is_u64());
}
