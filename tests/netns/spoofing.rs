//! A pod that claims what is not its own: by source address, by ARP, by neighbour discovery.
//!
//! Every attempt is made three times: with the program (nothing may arrive, and every frame is counted), without it
//! (it must arrive, or the first run has proved nothing), and after the agent has put the program back by itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use harness::lab::{FIREWALL_TO_NODE, NODE_IPV4, NODE_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6};
use harness::{AgentOptions, Capture, Direction, RawSender, UdpFrame, wait_until};

use crate::frames::{arp_request, is_arp_reply_to, neighbour_advertisement};
use crate::kernel::{attached, detach};
use crate::manifest::pool;
use crate::site::{Node, Pod, Site};

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
        let node = site.start_with(&AgentOptions { resync_seconds: 1, more_yaml, ..AgentOptions::default() });
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

    /// Makes all attempts with the program, without it, and with it again.
    fn check(&self, attempts: &[Attempt]) {
        let host = self.attacker.host_ifname();
        let index = u64::from(self.node.netns().link(&host).unwrap().index);
        for attempt in attempts {
            self.check_guarded(attempt, "with the program");
        }

        // Stopped, it cannot repair what is broken here on purpose.
        self.node.agent.pause().unwrap();
        detach(&self.node, &host);
        for attempt in attempts {
            assert_eq!(self.make(attempt), attempt.expected, "{}: noticed without the program", attempt.what);
        }
        self.node.agent.resume().unwrap();

        wait_until(Duration::from_secs(3), "the agent puts the program back", || {
            attached(&self.node).contains(&index)
        });
        for attempt in attempts {
            self.check_guarded(attempt, "after the repair");
        }
    }

    /// Nobody notices, and every frame is counted for its reason and for no other.
    fn check_guarded(&self, attempt: &Attempt, when: &str) {
        let what = attempt.what;
        let before = self.drops();
        assert_eq!(self.make(attempt), 0, "{what}: noticed {when}");
        let after = self.drops();
        let risen: Vec<(&str, u64)> = after
            .iter()
            .filter(|(key, packets)| before[*key] != **packets)
            .map(|(key, packets)| (key.as_str(), packets - before[key]))
            .collect();
        assert_eq!(risen, [(attempt.reason, FRAMES_COUNT as u64)], "{what}: counted {when}");
    }

    fn make(&self, attempt: &Attempt) -> usize {
        (attempt.seen)(self, &|| self.send(&attempt.frame))
    }

    /// A datagram under another source; somebody captures what comes where it goes.
    fn claiming(&self, what: &'static str, source: IpAddr, to: IpAddr, passes_without: bool) -> Attempt {
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
        Attempt {
            what,
            frame: frame.build().unwrap(),
            reason: if source.is_ipv4() { "ipv4_source" } else { "ipv6_source" },
            expected: if passes_without { FRAMES_COUNT } else { 0 },
            seen: Box::new(move |scene, send| {
                let capture = if scene.victim.addresses().contains(&to) {
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
            }),
        }
    }
}

/// How often somebody noticed what the closure sends.
type Seen = Box<dyn Fn(&Scene<'_>, &dyn Fn()) -> usize>;

/// One claim.
struct Attempt {
    what: &'static str,
    frame: Vec<u8>,
    /// The counter that must rise.
    reason: &'static str,
    /// How often somebody notices when there is no program.
    expected: usize,
    seen: Seen,
}

fn ipv4(pod: &Pod) -> Ipv4Addr {
    pod.addresses().into_iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(v4) } else { None }).unwrap()
}

fn ipv6(pod: &Pod) -> Ipv6Addr {
    pod.addresses().into_iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(v6) } else { None }).unwrap()
}

fn check_ipv4_sources(attach_mode: &str) {
    let site = Site::new();
    let scene = Scene::new(&site, attach_mode);
    let victim = IpAddr::from(ipv4(&scene.victim));
    let outside = IpAddr::from(OUTSIDE_IPV4);
    let parse = |text: &str| text.parse().unwrap();
    scene.check(&[
        scene.claiming("another pod's, to the outside", victim, outside, true),
        scene.claiming("one nobody has, to another pod", parse("10.61.0.60"), victim, true),
        scene.claiming("one of no pool", parse("203.0.113.9"), outside, true),
        // The kernel itself takes no IPv4 packet from a wire that claims to be from the node.
        scene.claiming("the node's", NODE_IPV4.into(), outside, false),
    ]);
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
    let scene = Scene::new(&site, "auto");
    let victim = IpAddr::from(ipv6(&scene.victim));
    let outside = IpAddr::from(OUTSIDE_IPV6);
    let parse = |text: &str| text.parse().unwrap();
    scene.check(&[
        scene.claiming("another pod's, to the outside", victim, outside, true),
        scene.claiming("one nobody has, to another pod", parse("fd61::ff"), victim, true),
        scene.claiming("one of no pool", parse("2001:db8:ffff::1"), outside, true),
        scene.claiming("the node's", NODE_IPV6.into(), outside, true),
    ]);
}

#[test]
fn a_pod_asks_by_arp_under_no_address_but_its_own() {
    let site = Site::new();
    let scene = Scene::new(&site, "auto");
    let (victim, own) = (ipv4(&scene.victim), ipv4(&scene.attacker));
    let mac = scene.attacker.netns.link("eth0").unwrap().mac;
    scene.check(&[Attempt {
        what: "ARP for the victim",
        frame: arp_request(mac, victim, NODE_IPV4),
        reason: "arp_sender",
        expected: FRAMES_COUNT,
        seen: Box::new(move |scene, send| {
            // The node would answer, and remember whom.
            let capture = Capture::start(&scene.attacker.netns, "eth0", Direction::In).unwrap();
            send();
            std::thread::sleep(CROSSING);
            let packets = capture.stop().unwrap();
            packets.iter().filter(|packet| is_arp_reply_to(&packet.frame, victim)).count()
        }),
    }]);
    let capture = Capture::start(&scene.attacker.netns, "eth0", Direction::In).unwrap();
    scene.send(&arp_request(mac, own, NODE_IPV4));
    let answered = capture.wait_for(CROSSING, |packet| is_arp_reply_to(&packet.frame, own));
    assert!(answered.is_some(), "its own address is answered");
}

#[test]
fn a_pod_advertises_no_neighbour_but_itself() {
    let site = Site::new();
    let scene = Scene::new(&site, "auto");
    let (claimed, host) = (ipv6(&scene.victim), scene.attacker.host_ifname());
    // Link-local sources are a pod's own business; what it advertises is not.
    let (source, all_nodes) = ("fe80::66".parse().unwrap(), "ff02::1".parse().unwrap());
    let mac = [2, 0, 0, 0, 0, 0x66];
    scene.check(&[Attempt {
        what: "ND for the victim",
        frame: neighbour_advertisement(scene.host_mac(), mac, source, all_nodes, claimed),
        reason: "nd_target",
        expected: 1,
        seen: Box::new(move |scene, send| {
            let ip = |arguments: String| scene.node.netns().ip(&arguments).unwrap();
            ip(format!("neighbour replace {claimed} lladdr 02:00:00:00:00:01 nud stale dev {host}"));
            send();
            std::thread::sleep(CROSSING);
            let shown = ip(format!("neighbour show {claimed} dev {host}"));
            ip(format!("neighbour del {claimed} dev {host}"));
            usize::from(shown.contains("02:00:00:00:00:66"))
        }),
    }]);
}
