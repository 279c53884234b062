//! A pod that claims what is not its own: by source address, by ARP, by neighbour discovery.
//!
//! Every attempt is made three times: with the program (nothing may arrive, and every frame is counted), without it
//! (it must arrive, or the first run has proved nothing), and after the agent has put the program back by itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use harness::lab::{FIREWALL_TO_NODE, NODE_IPV4, NODE_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6};
use harness::{AgentOptions, Capture, Direction, RawSender, UdpFrame};

use crate::frames::{arp_request, is_arp_reply_to, neighbour_advertisement};
use crate::kernel::{attached, detach};
use crate::manifest::pool;
use crate::site::{Node, Pod, Site, wait_until};

/// Frames of each attempt.
const FRAMES_COUNT: usize = 7;

/// How long frames may take once they are sent.
const CROSSING: Duration = Duration::from_millis(150);

const PORT: u16 = 7999;

/// Two pods with both families; the firewall knows where their ranges are.
struct Scene<'s> {
    node: Node<'s>,
    attacker: Pod,
    victim: Pod,
}

impl<'s> Scene<'s> {
    fn new(site: &'s Site, attach_mode: &str) -> Self {
        let more_yaml = format!("attachMode: {attach_mode}\n");
        let node = site.start_with(AgentOptions { resync_seconds: 1, more_yaml, ..AgentOptions::default() });
        node.apply(&[
            pool("four", "10.61.0.0/26", "blockSize: 29"),
            pool("six", "fd61::/120", "blockSize: 125"),
        ]);
        for range in ["10.61.0.0/26", "fd61::/120"] {
            site.lab.route_to_node(range).unwrap();
        }
        let (attacker, victim) = (node.add_container("attacker"), node.add_container("victim"));
        Self { node, attacker, victim }
    }

    fn host_mac(&self) -> [u8; 6] {
        self.node.netns().link(&self.attacker.host_ifname()).unwrap().mac
    }

    fn drops(&self) -> BTreeMap<String, u64> {
        let status = self.node.status();
        let drops = status["drops"].as_array().unwrap();
        drops
            .iter()
            .map(|drop| (drop["reason"].as_str().unwrap().to_owned(), drop["packets"].as_u64().unwrap()))
            .collect()
    }

    fn send(&self, frame: &[u8]) {
        let sender = RawSender::new(&self.attacker.netns, "eth0").unwrap();
        for _ in 0..FRAMES_COUNT {
            sender.send(frame).unwrap();
        }
    }

    /// Sends with the program, without, and with it again. `seen` sends by the closure it is given and says how often
    /// somebody noticed; without the program that must be `expected`.
    fn check(
        &mut self,
        what: &str,
        frame: &[u8],
        reason: &str,
        expected: usize,
        seen: impl Fn(&Self, &dyn Fn()) -> usize,
    ) {
        let attempt = |scene: &Self| seen(scene, &|| scene.send(frame));
        let guarded = |scene: &Self, when: &str| {
            let before = scene.drops();
            assert_eq!(attempt(scene), 0, "{what}: noticed {when}");
            let after = scene.drops();
            let risen: Vec<(&str, u64)> = after
                .iter()
                .filter(|(key, packets)| before[*key] != **packets)
                .map(|(key, packets)| (key.as_str(), packets - before[key]))
                .collect();
            assert_eq!(risen, [(reason, FRAMES_COUNT as u64)], "{what}: counted {when}");
        };
        guarded(self, "with the program");

        // Stopped, it cannot repair what is broken here on purpose.
        self.node.agent.pause().unwrap();
        detach(&self.node, &self.attacker.host_ifname());
        assert_eq!(attempt(self), expected, "{what}: noticed without the program");
        self.node.agent.resume().unwrap();

        let index = u64::from(self.node.netns().link(&self.attacker.host_ifname()).unwrap().index);
        wait_until(Duration::from_secs(3), "the agent puts the program back", || {
            attached(&self.node).contains(&index)
        });
        guarded(self, "after the repair");
    }

    /// A datagram under another source; somebody captures what comes there.
    fn check_source(&mut self, what: &str, source: IpAddr, to: IpAddr, reason: &str, passes_without: bool) {
        let frame = UdpFrame {
            source_mac: self.attacker.netns.link("eth0").unwrap().mac,
            destination_mac: self.host_mac(),
            source,
            destination: to,
            source_port: PORT,
            destination_port: PORT,
            tos: 0,
            payload: what.as_bytes().to_vec(),
        };
        let expected = if passes_without { FRAMES_COUNT } else { 0 };
        self.check(what, &frame.build().unwrap(), reason, expected, |scene, send| {
            let to_victim = scene.victim.addresses().contains(&to);
            let capture = if to_victim {
                Capture::start(&scene.victim.netns, "eth0", Direction::In)
            } else {
                Capture::start(&scene.node.site.lab.firewall, FIREWALL_TO_NODE, Direction::In)
            };
            let capture = capture.unwrap();
            send();
            let ours = |packet: &harness::Packet| packet.payload == what.as_bytes();
            let deadline = Instant::now() + CROSSING;
            while capture.count(ours) < FRAMES_COUNT && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            capture.stop().unwrap().iter().filter(|packet| ours(packet)).count()
        });
    }
}

fn ipv4(pod: &Pod) -> Ipv4Addr {
    pod.addresses().into_iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(v4) } else { None }).unwrap()
}

fn ipv6(pod: &Pod) -> Ipv6Addr {
    pod.addresses().into_iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(v6) } else { None }).unwrap()
}

fn check_ipv4_sources(attach_mode: &str) {
    let site = Site::new();
    let mut scene = Scene::new(&site, attach_mode);
    let victim = IpAddr::from(ipv4(&scene.victim));
    let outside = IpAddr::from(OUTSIDE_IPV4);
    scene.check_source("another pod's, to the outside", victim, outside, "ipv4_source", true);
    let neighbour = "10.61.0.60".parse().unwrap();
    scene.check_source("one nobody has, to another pod", neighbour, victim, "ipv4_source", true);
    scene.check_source("one of no pool", "203.0.113.9".parse().unwrap(), outside, "ipv4_source", true);
    // The kernel itself takes no packet from outside that claims to be from the node.
    scene.check_source("the node's", NODE_IPV4.into(), outside, "ipv4_source", false);
}

#[test]
fn a_pod_sends_ipv4_under_no_address_but_its_own() {
    check_ipv4_sources("auto");
}

#[test]
fn a_pod_guarded_by_a_tcx_link_sends_ipv4_under_no_address_but_its_own() {
    check_ipv4_sources("tcx");
}

#[test]
fn a_pod_sends_ipv6_under_no_address_but_its_own() {
    let site = Site::new();
    let mut scene = Scene::new(&site, "auto");
    let victim = IpAddr::from(ipv6(&scene.victim));
    let outside = IpAddr::from(OUTSIDE_IPV6);
    scene.check_source("another pod's, to the outside", victim, outside, "ipv6_source", true);
    scene.check_source(
        "one nobody has, to another pod",
        "fd61::ff".parse().unwrap(),
        victim,
        "ipv6_source",
        true,
    );
    scene.check_source("one of no pool", "2001:db8:ffff::1".parse().unwrap(), outside, "ipv6_source", true);
    scene.check_source("the node's", NODE_IPV6.into(), outside, "ipv6_source", true);
}

#[test]
fn a_pod_asks_by_arp_under_no_address_but_its_own() {
    let site = Site::new();
    let mut scene = Scene::new(&site, "auto");
    let (victim, mac) = (ipv4(&scene.victim), scene.attacker.netns.link("eth0").unwrap().mac);
    let frame = arp_request(mac, victim, NODE_IPV4);
    scene.check("ARP for the victim", &frame, "arp_sender", FRAMES_COUNT, |scene, send| {
        // The node would answer, and remember whom.
        let capture = Capture::start(&scene.attacker.netns, "eth0", Direction::In).unwrap();
        send();
        std::thread::sleep(CROSSING);
        let packets = capture.stop().unwrap();
        packets.iter().filter(|packet| is_arp_reply_to(&packet.frame, victim)).count()
    });
    let own = arp_request(mac, ipv4(&scene.attacker), NODE_IPV4);
    let capture = Capture::start(&scene.attacker.netns, "eth0", Direction::In).unwrap();
    scene.send(&own);
    let answered = capture.wait_for(CROSSING, |packet| is_arp_reply_to(&packet.frame, ipv4(&scene.attacker)));
    assert!(answered.is_some(), "its own address is answered");
}

#[test]
fn a_pod_advertises_no_neighbour_but_itself() {
    let site = Site::new();
    let mut scene = Scene::new(&site, "auto");
    let host = scene.attacker.host_ifname();
    let (claimed, mac) = (ipv6(&scene.victim), [2, 0, 0, 0, 0, 0x66]);
    let frame = neighbour_advertisement(
        scene.host_mac(),
        mac,
        // Link-local sources are a pod's own business.
        "fe80::66".parse().unwrap(),
        "ff02::1".parse().unwrap(),
        claimed,
    );
    scene.check("ND for the victim", &frame, "nd_target", 1, |scene, send| {
        let netns = scene.node.netns();
        netns
            .ip(&format!("neighbour replace {claimed} lladdr 02:00:00:00:00:01 nud stale dev {host}"))
            .unwrap();
        send();
        std::thread::sleep(CROSSING);
        let shown = netns.ip(&format!("neighbour show {claimed} dev {host}")).unwrap();
        netns.ip(&format!("neighbour del {claimed} dev {host}")).unwrap();
        usize::from(shown.contains("02:00:00:00:00:66"))
    });
}
