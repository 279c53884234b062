//! Attached programs and real packets: what only a device can show.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bpf::{AttachMode, AttachOutcome, Bpf, Endpoint, OpenOptions};
use harness::{Capture, Direction, NetNs, RawSender};

use crate::bench::{PinDir, TAG, attach_modes, rule, tag_id};
use crate::frames::{Arp, OTHER_V4, OTHER_V6, POD_V4, POD_V6, SHORTEST, V4, V6, ethernet};

/// A host and a pod joined by a veth pair, the programs attached on the host's end.
struct Wire {
    host: NetNs,
    pod: NetNs,
    ifindex: u32,
    pins: PinDir,
    bpf: Option<Bpf>,
    mode: AttachMode,
}

impl Wire {
    fn new(mode: AttachMode) -> Self {
        let host = NetNs::unique("pwbpf").expect("these tests need root and iproute2");
        let pod = NetNs::unique("pwbpf").unwrap();
        host.ip(&format!("link add host0 type veth peer name eth0 netns {}", pod.name())).unwrap();
        for (netns, ifname) in [(&host, "host0"), (&pod, "eth0")] {
            // No noise of the kernel's own: every counter must move by exactly what a test sends.
            netns.set_sysctl(&format!("ipv6/conf/{ifname}/disable_ipv6"), "1").unwrap();
            netns.ip(&format!("link set {ifname} arp off up")).unwrap();
        }
        let ifindex = host.link("host0").unwrap().index;
        let mut wire = Self { host, pod, ifindex, pins: PinDir::unique(), bpf: None, mode };
        wire.open();
        let endpoint = Endpoint { ipv4: Some(POD_V4), ipv6: Some(POD_V6), ..Endpoint::default() };
        let bpf = wire.bpf();
        bpf.set_endpoint(ifindex, endpoint).unwrap();
        for cidr in ["10.1.0.0/26", "fd00:1::/112"] {
            bpf.set_pool(cidr.parse().unwrap(), rule(TAG, false, Some(46))).unwrap();
        }
        wire.attach();
        wire
    }

    fn open(&mut self) {
        self.bpf = None;
        let options = OpenOptions { attach_mode: self.mode, ..OpenOptions::new(self.pins.path()) };
        self.bpf = Some(Bpf::open(&options).unwrap());
    }

    fn bpf(&mut self) -> &mut Bpf {
        self.bpf.as_mut().unwrap()
    }

    fn attach(&mut self) -> AttachOutcome {
        let bpf = self.bpf.as_mut().unwrap();
        self.host.run(|| bpf.attach(self.ifindex)).unwrap().unwrap()
    }

    fn sender(&self) -> RawSender {
        RawSender::new(&self.pod, "eth0").unwrap()
    }

    fn drops(&mut self, reason: &str) -> u64 {
        self.bpf().fetch_drops().unwrap()[reason]
    }

    /// Waits for a drop counter to reach a value: the other end of a veth works a moment later.
    fn wait_for_drops(&mut self, reason: &str, count: u64) {
        for _ in 0..200 {
            if self.drops(reason) >= count {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.drops(reason), count, "{reason}");
    }
}

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_tag_that_the_kernel_takes_out_of_the_frame_is_seen() {
    for &mode in attach_modes() {
        let mut wire = Wire::new(mode);
        let sender = wire.sender();
        let own = V4::from(POD_V4).frame();
        let tagged = |outer: u16, inner: &[u8]| {
            let mut rest = vec![0, 7];
            rest.extend(inner);
            ethernet(outer, &rest)
        };
        sender.send(&tagged(0x8100, &own[12..])).unwrap();
        wire.wait_for_drops("vlan", 1);
        sender.send(&tagged(0x88a8, &tagged(0x8100, &own[12..])[12..])).unwrap();
        wire.wait_for_drops("vlan", 2);
        let passed = wire.bpf().fetch_pool_counters().unwrap()[&tag_id(TAG)].tx_packets;
        assert_eq!(passed, 0, "{mode:?}");
    }
}

#[test]
fn a_packet_cut_short_anywhere_is_dropped() {
    let mut wire = Wire::new(AttachMode::Auto);
    let sender = wire.sender();
    let mut dropped = 0;
    let v4 = V4 { options: vec![1; 40], ..V4::from(POD_V4) };
    for (frame, header_end) in [(v4.frame(), 14 + 60), (V6::from(POD_V6).frame(), 14 + 40)] {
        for len in SHORTEST..header_end {
            sender.send(&frame[..len]).unwrap();
            dropped += 1;
            wire.wait_for_drops("truncated", dropped);
        }
    }
    let arp = Arp::request(POD_V4).frame();
    for len in SHORTEST..arp.len() {
        sender.send(&arp[..len]).unwrap();
        dropped += 1;
        wire.wait_for_drops("truncated", dropped);
    }
    assert_eq!(wire.bpf().fetch_pool_counters().unwrap()[&tag_id(TAG)].tx_packets, 0);
}

#[test]
fn what_is_cut_short_on_its_way_into_the_pod_arrives_uncounted() {
    let mut wire = Wire::new(AttachMode::Auto);
    let capture = Capture::start(&wire.pod, "eth0", Direction::In).unwrap();
    let sender = RawSender::new(&wire.host, "host0").unwrap();
    let v4 = V4 { destination: POD_V4, ..V4::from(OTHER_V4) }.frame();
    let v6 = V6 { destination: POD_V6, ..V6::from(OTHER_V6) }.frame();
    let cuts = [(&v4, SHORTEST), (&v4, 30), (&v4, 33), (&v6, SHORTEST), (&v6, 38), (&v6, 53)];
    for (frame, len) in cuts {
        sender.send(&frame[..len]).unwrap();
    }
    sender.send(&v6).unwrap();
    assert!(capture.wait_for(LIMIT, |packet| packet.frame.len() == v6.len()).is_some());
    assert_eq!(capture.count(|_| true), cuts.len() + 1);
    assert_eq!(wire.bpf().fetch_pool_counters().unwrap()[&tag_id(TAG)].rx_packets, 1);
}

#[test]
fn real_packets_are_judged_marked_and_counted() {
    for &mode in attach_modes() {
        let mut wire = Wire::new(mode);
        wire.host
            .nft(
                "table ip seen {
                   chain c {
                     type filter hook prerouting priority -300
                     meta mark & 0x0fff0000 == 0x50000 ip dscp 46 counter accept
                     counter
                   }
                 }",
            )
            .unwrap();
        let sender = wire.sender();
        let mac = wire.host.link("host0").unwrap().mac;
        let to_host = |mut frame: Vec<u8>| {
            frame[..6].copy_from_slice(&mac);
            frame
        };
        for _ in 0..3 {
            sender.send(&to_host(V4::from(POD_V4).frame())).unwrap();
        }
        for _ in 0..2 {
            sender.send(&to_host(V4::from(OTHER_V4).frame())).unwrap();
        }
        wire.wait_for_drops("ipv4_source", 2);
        let counters = wire.bpf().fetch_pool_counters().unwrap()[&tag_id(TAG)];
        assert_eq!(counters.tx_packets, 3, "{mode:?}");
        assert_eq!(counters.tx_bytes, 3 * V4::from(POD_V4).frame().len() as u64, "{mode:?}");
        let listed = wire.host.nft_list("table ip seen").unwrap().to_string();
        assert!(listed.contains("\"packets\":3"), "{mode:?}: {listed}");
        assert!(listed.contains("\"packets\":0"), "{mode:?}: nothing else came by: {listed}");
    }
}

#[test]
fn replies_are_counted_on_their_way_into_the_pod() {
    for &mode in attach_modes() {
        let mut wire = Wire::new(mode);
        let capture = Capture::start(&wire.pod, "eth0", Direction::In).unwrap();
        let frame = V6 { destination: POD_V6, ..V6::from("2001:db8::1".parse().unwrap()) }.frame();
        RawSender::new(&wire.host, "host0").unwrap().send(&frame).unwrap();
        assert!(capture.wait_for(LIMIT, |_| true).is_some(), "{mode:?}");
        let counters = wire.bpf().fetch_pool_counters().unwrap()[&tag_id(TAG)];
        assert_eq!((counters.rx_packets, counters.rx_bytes), (1, frame.len() as u64), "{mode:?}");
    }
}

#[test]
fn no_packet_escapes_while_programs_are_replaced() {
    for &mode in attach_modes() {
        let mut wire = Wire::new(mode);
        let sender = wire.sender();
        let spoofed = Arp::reply(OTHER_V4).frame();
        let own = V4::from(POD_V4).frame();
        let stop = AtomicBool::new(false);
        // Those that are done with stay open: each has drop counters of its own.
        let mut done = Vec::new();
        let sent = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut sent = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    sender.send(&spoofed).unwrap();
                    sender.send(&own).unwrap();
                    sent += 1;
                }
                sent
            });
            for _ in 0..20 {
                std::fs::remove_file(wire.pins.version().join("pw_drops")).unwrap();
                done.extend(wire.bpf.take());
                wire.open();
                assert_eq!(wire.attach(), AttachOutcome::Replaced, "{mode:?}");
                std::thread::sleep(Duration::from_millis(2));
            }
            stop.store(true, Ordering::Relaxed);
            flood.join().unwrap()
        });
        done.extend(wire.bpf.take());
        let dropped = || done.iter().map(|bpf| bpf.fetch_drops().unwrap()["arp_sender"]).sum::<u64>();
        let passed = || done[0].fetch_pool_counters().unwrap()[&tag_id(TAG)].tx_packets;
        for _ in 0..200 {
            if (dropped(), passed()) == (sent, sent) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!((dropped(), passed()), (sent, sent), "{mode:?}: every packet was judged, once");
        assert!(sent > 1000, "{mode:?}: only {sent} packets of each kind were sent meanwhile");
    }
}

#[test]
fn traffic_goes_on_judged_when_the_process_is_gone() {
    for &mode in attach_modes() {
        let mut wire = Wire::new(mode);
        let sender = wire.sender();
        sender.send(&V4::from(OTHER_V4).frame()).unwrap();
        wire.wait_for_drops("ipv4_source", 1);
        wire.bpf = None;
        for _ in 0..10 {
            sender.send(&V4::from(OTHER_V4).frame()).unwrap();
            sender.send(&V4::from(POD_V4).frame()).unwrap();
        }
        wire.open();
        wire.wait_for_drops("ipv4_source", 11);
        assert_eq!(wire.bpf().fetch_pool_counters().unwrap()[&tag_id(TAG)].tx_packets, 10, "{mode:?}");
    }
}
