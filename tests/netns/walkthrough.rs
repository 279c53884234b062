//! The walkthrough: two pools, two namespaces, three pods in each, and a firewall that knows one rule.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use harness::lab::{FIREWALL_TO_NODE, NODE_IPV4, NODE_UPLINK, OUTSIDE_IPV4};
use harness::packet::PROTOCOL_UDP;
use harness::{AgentOptions, Capture, Direction, EchoServer, IpHeader, Packet, udp_echo, wait_until};

use crate::kernel::{agreed, blackholes, dump_map, filtered, linked, number};
use crate::site::{Node, Pod, Site};
use crate::traffic::{count_marks, mark_of_pool, marks_of};

/// Where the server outside listens.
const PORT: u16 = 7100;

/// Datagrams of each pod.
const DATAGRAMS_COUNT: usize = 5;

/// How long an echo is waited for; what the firewall drops costs this much.
const ECHO_LIMIT: Duration = Duration::from_millis(100);

/// The example manifest of this name.
pub(crate) fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The six pods, the firewall's rule and a server outside.
struct Scene<'s> {
    node: Node<'s>,
    external: Vec<Pod>,
    internal: Vec<Pod>,
    _server: EchoServer,
}

impl<'s> Scene<'s> {
    fn new(site: &'s Site, options: &AgentOptions) -> Self {
        let node = site.start_with(options);
        node.apply(&[example("walkthrough.yaml")]);
        for range in ["10.244.0.0/26", "10.244.0.64/26"] {
            site.lab.route_to_node(range).unwrap();
        }
        // One static rule: external-pool's range may go out. What came in may be answered.
        site.lab
            .firewall
            .nft(&format!(
                "table inet fw {{
                    set accepted {{ typeof ip saddr; flags dynamic; size 4096; }}
                    set dropped {{ typeof ip saddr; flags dynamic; size 4096; }}
                    chain forward {{
                        type filter hook forward priority filter; policy drop;
                        oifname \"{FIREWALL_TO_NODE}\" ct state established,related accept
                        ip saddr 10.244.0.0/26 update @accepted {{ ip saddr counter }}
                        ip saddr 10.244.0.0/26 accept
                        update @dropped {{ ip saddr counter }}
                    }}
                }}"
            ))
            .unwrap();
        count_marks(&site.lab.node);
        let add = |namespace: &str, name: &str| {
            (1..=3).map(|n| node.add_pod(namespace, &format!("{name}-{n}"))).collect()
        };
        let external = add("external-ns", "external");
        let internal = add("internal-ns", "internal");
        let server = EchoServer::start(&site.lab.outside, [PORT]).unwrap();
        Self { node, external, internal, _server: server }
    }

    fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.external.iter().chain(&self.internal)
    }
}

/// Sends from one pod; headers at the firewall, and how many echoes came back.
fn speak(node: &Node<'_>, pod: &Pod) -> (Vec<IpHeader>, usize) {
    let capture = Capture::start(&node.site.lab.firewall, FIREWALL_TO_NODE, Direction::In).unwrap();
    let to = SocketAddr::from((OUTSIDE_IPV4, PORT));
    let echo = |_| udp_echo(&pod.netns, to, pod.handle().as_bytes(), ECHO_LIMIT).unwrap();
    let echoed_count = (0..DATAGRAMS_COUNT).filter_map(echo).count();
    let packets = capture.stop().unwrap();
    let ours = |packet: &&Packet| packet.payload == pod.handle().as_bytes();
    let headers: Vec<IpHeader> = packets.iter().filter(ours).filter_map(|packet| packet.ip).collect();
    assert_eq!(headers.len(), DATAGRAMS_COUNT, "packets of {} at the firewall", pod.handle());
    assert!(headers.iter().all(|ip| ip.checksum_holds && ip.protocol == PROTOCOL_UDP), "{headers:?}");
    (headers, echoed_count)
}

fn check_firewall(scene: &Scene<'_>) {
    let check = |pod: &Pod, source: IpAddr, dscp: u8, echoes: usize| {
        let (headers, echoed_count) = speak(&scene.node, pod);
        for header in headers {
            assert_eq!((header.source, header.dscp()), (source, dscp), "{}", pod.handle());
        }
        assert_eq!(echoed_count, echoes, "echoes to {}", pod.handle());
    };
    for pod in &scene.external {
        check(pod, pod.address(), 46, DATAGRAMS_COUNT);
    }
    for pod in &scene.internal {
        check(pod, NODE_IPV4.into(), 0, 0);
    }
    let counted = |set: &str| -> BTreeMap<String, u64> {
        let listed = scene.node.site.lab.firewall.nft_list(&format!("set inet fw {set}")).unwrap();
        let elements = harness::counted_elements(&listed).unwrap();
        elements.into_iter().map(|element| (element.key[0].clone(), element.packets)).collect()
    };
    let each = DATAGRAMS_COUNT as u64;
    let accepted: BTreeMap<String, u64> =
        scene.external.iter().map(|pod| (pod.address().to_string(), each)).collect();
    assert_eq!(counted("accepted"), accepted);
    assert_eq!(counted("dropped"), [(NODE_IPV4.to_string(), 3 * each)].into_iter().collect());
}

fn check_marks(scene: &Scene<'_>) {
    let pools = [("external-pool", &scene.external), ("internal-pool", &scene.internal)];
    let marks = pools.map(|(pool, _)| mark_of_pool(&scene.node, pool));
    assert_ne!(marks[0], marks[1]);
    assert_eq!((marks[0] | marks[1]) & !0x0fff_0000, 0, "a mark outside the mask: {marks:x?}");
    for ((_, pods), mark) in pools.iter().zip(marks) {
        for pod in *pods {
            let before: u64 = marks_of(&scene.node, pod).iter().map(|(_, packets)| packets).sum();
            speak(&scene.node, pod);
            let after = marks_of(&scene.node, pod);
            assert_eq!(after, [(mark, before + DATAGRAMS_COUNT as u64)], "{}", pod.handle());
        }
    }
    // What people read in the map is what the packets had.
    let shown: Vec<u64> = dump_map(&scene.node.site.files, "pw_pools_v4")
        .iter()
        .map(|entry| number(&entry["value"]["tag"]))
        .collect();
    let mut tags = marks.map(|mark| u64::from(mark >> 16 & 0x7ff));
    let mut shown_sorted = shown.clone();
    shown_sorted.sort_unstable();
    tags.sort_unstable();
    assert_eq!(shown_sorted, tags);
}

fn check_pods_reach_each_other(scene: &Scene<'_>) {
    let pairs = [
        (&scene.external[0], &scene.external[1]),
        (&scene.external[0], &scene.internal[0]),
        (&scene.internal[0], &scene.external[1]),
        (&scene.internal[1], &scene.internal[2]),
    ];
    for (from, to) in pairs {
        let _server = EchoServer::start(&to.netns, [PORT]).unwrap();
        let capture = Capture::start(&to.netns, "eth0", Direction::In).unwrap();
        assert!(from.reaches((to.address(), PORT)), "{} does not reach {}", from.handle(), to.handle());
        let sources: Vec<IpAddr> = capture
            .stop()
            .unwrap()
            .iter()
            .filter(|packet| packet.ports.is_some_and(|(_, port)| port == PORT))
            .filter_map(|packet| packet.ip.map(|ip| ip.source))
            .collect();
        assert_eq!(sources, [from.address()], "what {} saw", to.handle());
    }
    // The node reaches its own pods, as kubelet's probes must.
    let _server = EchoServer::start(&scene.internal[0].netns, [PORT]).unwrap();
    let to = SocketAddr::from((scene.internal[0].address(), PORT));
    assert!(udp_echo(scene.node.netns(), to, b"probe", Duration::from_millis(500)).unwrap().is_some());
}

fn check_wiring(scene: &Scene<'_>) {
    for pod in scene.pods() {
        let links = pod.netns.ip_json("link show dev eth0").unwrap();
        assert_eq!(links[0]["mtu"], 1480, "{links}");
        assert_eq!(
            scene.node.netns().ip_json(&format!("link show dev {}", pod.host_ifname())).unwrap()[0]["mtu"],
            1480
        );
        let addresses = pod.netns.ip_json("-4 address show dev eth0").unwrap();
        let infos = addresses[0]["addr_info"].as_array().unwrap();
        assert_eq!(infos.len(), 1, "{addresses}");
        assert_eq!(
            (infos[0]["local"].as_str(), infos[0]["prefixlen"].as_u64()),
            (Some(&*pod.address().to_string()), Some(32))
        );
        let routes = pod.netns.ip("-4 route show").unwrap();
        let mut routes: Vec<&str> = routes.lines().map(str::trim).collect();
        routes.sort_unstable();
        assert_eq!(routes.len(), 2, "{routes:?}");
        assert!(
            routes[0].starts_with("169.254.1.1 dev eth0") && routes[0].contains("scope link"),
            "{routes:?}"
        );
        assert!(routes[1].starts_with("default via 169.254.1.1 dev eth0"), "{routes:?}");
        let neighbours = pod.netns.ip("neighbour show nud permanent").unwrap();
        let mac = scene.node.netns().ip_json(&format!("link show dev {}", pod.host_ifname())).unwrap()[0]["address"].clone();
        assert!(
            neighbours.contains(&format!("169.254.1.1 dev eth0 lladdr {}", mac.as_str().unwrap())),
            "{neighbours}"
        );
        assert_eq!(scene.node.check(pod), None);
    }
    let held = agreed(&scene.node);
    assert_eq!(held.len(), 6);
    // Every pod lies in a block of its pool, and every block is dropped where no pod is.
    wait_until(Duration::from_secs(2), "blackholes of two blocks", || blackholes(&scene.node).len() == 2);
    // Nothing but what is needed was switched: forwarding is on, the uplink is as it was.
    assert_eq!(scene.node.netns().sysctl("ipv4/ip_forward").unwrap(), "1");
    assert_eq!(scene.node.netns().sysctl(&format!("ipv4/conf/{NODE_UPLINK}/proxy_arp")).unwrap(), "0");
}

#[test]
fn the_firewall_sees_external_pods_under_their_own_addresses_and_internal_ones_as_their_node() {
    let site = Site::new();
    check_firewall(&Scene::new(&site, &AgentOptions::default()));
}

#[test]
fn every_packet_has_its_pools_mark_on_the_node() {
    let site = Site::new();
    check_marks(&Scene::new(&site, &AgentOptions::default()));
}

#[test]
fn pods_reach_each_other_across_pools_under_their_own_addresses() {
    let site = Site::new();
    check_pods_reach_each_other(&Scene::new(&site, &AgentOptions::default()));
}

#[test]
fn a_pod_has_its_address_its_way_out_and_room_for_encapsulation() {
    let site = Site::new();
    check_wiring(&Scene::new(&site, &AgentOptions::default()));
}

/// All of it, however programs are attached.
fn check_attach_mode(mode: &str) {
    let site = Site::new();
    let options = AgentOptions { more_yaml: format!("attachMode: {mode}\n"), ..AgentOptions::default() };
    let scene = Scene::new(&site, &options);
    assert_eq!(scene.node.status()["attachMode"], mode);
    check_firewall(&scene);
    check_marks(&scene);
    check_pods_reach_each_other(&scene);
    for pod in scene.pods() {
        assert_eq!(scene.node.check(pod), None);
    }
    let (linked, filtered) = (linked(&site.files), filtered(scene.node.netns()));
    assert_eq!((linked.len(), filtered.len()), if mode == "tcx" { (6, 0) } else { (0, 6) });
}

#[test]
fn without_tcx_all_of_it_works_by_clsact_filters() {
    check_attach_mode("clsact");
}

#[test]
fn with_tcx_all_of_it_works_by_links() {
    check_attach_mode("tcx");
}

#[test]
fn the_manifest_as_once_published_is_accepted_and_all_pods_leave_as_their_node() {
    let site = Site::new();
    let node = site.start();
    node.apply(&[example("walkthrough-calico.yaml"), crate::manifest::pod("external-ns", "a", &[])]);
    let _server = EchoServer::start(&site.lab.outside, [PORT]).unwrap();
    let pod = node.add_pod("external-ns", "a");
    assert_eq!(node.address_state(pod.address())["pool"], "external-pool");
    let (headers, _) = speak(&node, &pod);
    assert!(headers.iter().all(|header| header.source == IpAddr::from(NODE_IPV4)), "{headers:?}");
}

#[test]
fn what_is_applied_twice_is_unchanged_and_deleting_the_pods_frees_everything() {
    let site = Site::new();
    let scene = Scene::new(&site, &AgentOptions::default());
    let told = scene.node.ctl().apply(&example("walkthrough.yaml")).unwrap();
    assert!(!told.contains("created") && !told.contains("configured"), "{told}");
    for pod in scene.pods() {
        scene.node.del(pod);
    }
    assert!(agreed(&scene.node).is_empty());
    for pool in ["external-pool", "internal-pool"] {
        assert_eq!(scene.node.usage(pool), [0, 64, 0, 0]);
    }
}
