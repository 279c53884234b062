//! Two nodes with a pod each, and what is between them: real traffic through the programs on both uplinks.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bpf::{AttachMode, Bpf, Endpoint, OpenOptions, PeerRule, RemoteRange, UplinkRule};
use harness::{Capture, Direction, NetNs, RawSender, Run};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::bench::{PinDir, attach_modes, rule};
use crate::frames::{SHORTEST, V4};
use crate::nodes::{STRANGER, between, inside};

const TAG: u16 = 7;
const LIMIT: Duration = Duration::from_secs(10);

/// One node: two namespaces, its own maps.
struct Side {
    node: NetNs,
    pod: NetNs,
    address: Ipv4Addr,
    pod_address: Ipv4Addr,
    /// Its own address out of its block.
    inner: Ipv4Addr,
    block: &'static str,
    uplink: u32,
    pins: PinDir,
    bpf: Bpf,
}

/// Both nodes, and the router between them if they are not on one link.
struct Underlay {
    a: Side,
    b: Side,
    router: Option<NetNs>,
}

/// What a link to the router carries.
const NARROW_MTU: u32 = 1400;

impl Side {
    fn new(node: NetNs, address: Ipv4Addr, number: u8, mode: AttachMode) -> Self {
        let pod = NetNs::unique("pwbpf").unwrap();
        let pod_address = Ipv4Addr::new(10, 244, number, 2);
        node.ip(&format!("link add host0 type veth peer name eth0 netns {}", pod.name())).unwrap();
        let uplink = node.link("up0").unwrap().index;
        let host = node.link("host0").unwrap();
        let mac = host.mac.map(|byte| format!("{byte:02x}")).join(":");
        node.ip_batch(&format!(
            "link set up0 up\nlink set host0 up\naddr add 10.244.{number}.1/32 dev lo\n\
             route add {pod_address} dev host0\nroute add blackhole 10.244.{number}.0/24\n"
        ))
        .unwrap();
        pod.ip_batch(&format!(
            "link set eth0 up\naddr add {pod_address}/32 dev eth0\nroute add 169.254.1.1 dev eth0\n\
             neigh add 169.254.1.1 lladdr {mac} dev eth0\nroute add default via 169.254.1.1\n"
        ))
        .unwrap();
        for (key, value) in [("ip_forward", "1"), ("conf/up0/rp_filter", "1"), ("conf/host0/rp_filter", "1")]
        {
            node.set_sysctl(&format!("ipv4/{key}"), value).unwrap();
        }
        let pins = PinDir::unique();
        let bpf = Bpf::open(&OpenOptions { attach_mode: mode, ..OpenOptions::new(pins.path()) }).unwrap();
        let inner = Ipv4Addr::new(10, 244, number, 1);
        let block = if number == 1 { "10.244.1.0/24" } else { "10.244.2.0/24" };
        let mut side = Self { node, pod, address, pod_address, inner, block, uplink, pins, bpf };
        side.bpf.set_pool("10.244.0.0/16".parse().unwrap(), rule(TAG, false, None)).unwrap();
        side.bpf
            .set_endpoint(host.index, Endpoint { ipv4: Some(pod_address), ipv6: None, ..Endpoint::default() })
            .unwrap();
        let bpf = &mut side.bpf;
        side.node.run(|| bpf.attach(host.index)).unwrap().unwrap();
        side
    }

    /// Lets the other node be known here: maps first, then the programs, then the route.
    fn knows(&mut self, address: Ipv4Addr, inner: Ipv4Addr, block: &str, gateway: Ipv4Addr) {
        let bpf = &mut self.bpf;
        bpf.set_uplink(self.uplink, UplinkRule { local: self.address, decapsulate: true }).unwrap();
        bpf.set_peer(address, PeerRule { inner: Some(inner) }).unwrap();
        let own = RemoteRange { node: self.address, encapsulate: false };
        bpf.set_remote_range(self.block.parse().unwrap(), own).unwrap();
        let theirs = RemoteRange { node: address, encapsulate: true };
        bpf.set_remote_range(block.parse().unwrap(), theirs).unwrap();
        self.node.run(|| bpf.attach_uplink(self.uplink)).unwrap().unwrap();
        let route = format!("route add {block} via {gateway} dev up0 src {} mtu 1480", self.inner);
        self.node.ip(&route).unwrap();
    }

    fn drops(&self) -> BTreeMap<&'static str, u64> {
        self.bpf.fetch_drops().unwrap().into_iter().filter(|(_, count)| *count != 0).collect()
    }
}

impl Underlay {
    /// On one link.
    fn flat(mode: AttachMode) -> Self {
        let [a, b] = [0, 1].map(|_| NetNs::unique("pwbpf").expect("these tests need root and iproute2"));
        a.ip(&format!("link add up0 type veth peer name up0 netns {}", b.name())).unwrap();
        let [at_a, at_b] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
        a.ip(&format!("addr add {at_a}/24 dev up0")).unwrap();
        b.ip(&format!("addr add {at_b}/24 dev up0")).unwrap();
        Self::join(Side::new(a, at_a, 1, mode), Side::new(b, at_b, 2, mode), [at_b, at_a], None)
    }

    /// Behind a router, whose link to node B carries less.
    fn routed(mode: AttachMode) -> Self {
        let [a, b, router] = [0, 1, 2].map(|_| NetNs::unique("pwbpf").expect("these tests need root"));
        for (node, name, net, mtu) in [(&a, "to-a", "192.0.2", 1500), (&b, "to-b", "198.51.100", NARROW_MTU)]
        {
            node.ip(&format!("link add up0 type veth peer name {name} netns {}", router.name())).unwrap();
            let number = if name == "to-a" { 1 } else { 2 };
            node.ip(&format!("addr add {net}.{number}/24 dev up0")).unwrap();
            router
                .ip_batch(&format!("addr add {net}.254/24 dev {name}\nlink set {name} mtu {mtu} up"))
                .unwrap();
        }
        router.set_sysctl("ipv4/ip_forward", "1").unwrap();
        let [at_a, at_b] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2)];
        let gateways = [Ipv4Addr::new(192, 0, 2, 254), Ipv4Addr::new(198, 51, 100, 254)];
        let (a, b) = (Side::new(a, at_a, 1, mode), Side::new(b, at_b, 2, mode));
        a.node.ip(&format!("route add default via {}", gateways[0])).unwrap();
        b.node.ip(&format!("route add default via {}", gateways[1])).unwrap();
        Self::join(a, b, gateways, Some(router))
    }

    fn join(mut a: Side, mut b: Side, gateways: [Ipv4Addr; 2], router: Option<NetNs>) -> Self {
        a.knows(b.address, b.inner, b.block, gateways[0]);
        b.knows(a.address, a.inner, a.block, gateways[1]);
        Self { a, b, router }
    }

    /// No packet was dropped, and nothing came by in a way it should not.
    fn assert_clean(&self, what: &str) {
        for side in [&self.a, &self.b] {
            assert_eq!(
                side.drops(),
                BTreeMap::new(),
                "{what}: {} ({})",
                side.node.name(),
                side.pins.path().display()
            );
        }
    }
}

/// Bytes in which nothing repeats soon.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

/// Sends over TCP and compares what arrives.
fn transfer(from: &NetNs, to: &NetNs, at: Ipv4Addr, len: usize) -> std::io::Result<()> {
    let listener = to.run(|| TcpListener::bind((at, 0))).unwrap()?;
    let target = listener.local_addr()?;
    let stream = from.run(|| TcpStream::connect_timeout(&target, LIMIT)).unwrap()?;
    stream.set_write_timeout(Some(LIMIT))?;
    let sent = pattern(len);
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> std::io::Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(LIMIT))?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            Ok(received)
        });
        let mut stream = stream;
        let written = stream.write_all(&sent).and_then(|()| stream.shutdown(Shutdown::Write));
        drop(stream);
        let received = reader.join().unwrap();
        written.and(received)
    })?;
    assert!(received == sent, "{} of {len} bytes arrived, or others", received.len());
    Ok(())
}

/// Sends datagrams there and back.
fn datagrams(from: &NetNs, to: &NetNs, at: Ipv4Addr, len: usize) {
    let server = to.run(|| UdpSocket::bind((at, 0))).unwrap().unwrap();
    let target = server.local_addr().unwrap();
    let client = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
    }
    let sent = pattern(len);
    let mut buffer = vec![0; 65_536];
    for _ in 0..5 {
        client.send_to(&sent, target).unwrap();
        let (count, source) = server
            .recv_from(&mut buffer)
            .unwrap_or_else(|error| panic!("{len} bytes from {} to {at}: {error}", from.name()));
        assert!(buffer[..count] == sent, "{count} of {len} bytes arrived, or others");
        server.send_to(&sent, source).unwrap();
        let (count, _) = client
            .recv_from(&mut buffer)
            .unwrap_or_else(|error| panic!("{len} bytes back from {at} to {}: {error}", from.name()));
        assert!(buffer[..count] == sent, "{count} of {len} bytes came back, or others");
    }
}

/// One echo request; says whether it was answered.
fn ping(from: &NetNs, to: Ipv4Addr, payload_len: usize, df: bool) -> bool {
    let df = if df { "do" } else { "dont" };
    let args = ["-c", "1", "-W", "5", "-M", df, "-s", &payload_len.to_string(), &to.to_string()];
    Run::new("ping").args(args).finish_in(from).unwrap().ok().is_ok()
}

#[test]
fn pods_and_nodes_reach_each_other_inside_outer_headers_only() {
    for &mode in attach_modes() {
        let net = Underlay::flat(mode);
        let (a, b) = (&net.a, &net.b);
        let wire = Capture::start(&b.node, "up0", Direction::Both).unwrap();
        assert!(ping(&a.pod, b.pod_address, 56, false), "{mode:?}");
        assert!(ping(&b.pod, a.pod_address, 1452, true), "{mode:?}: as much as fits");
        assert!(!ping(&b.pod, a.pod_address, 1453, true), "{mode:?}: one byte more is said not to fit");
        assert!(!ping(&a.pod, b.pod_address, 1453, true), "{mode:?}: and the other way");
        assert!(!ping(&a.pod, b.inner, 1453, true), "{mode:?}: and to a node");
        assert!(ping(&a.node, b.pod_address, 56, false), "{mode:?}: from a node");
        assert!(ping(&a.pod, b.inner, 56, false), "{mode:?}: to a node's own address");
        assert!(ping(&a.node, b.inner, 1400, true), "{mode:?}: between nodes");
        assert!(ping(&a.node, b.address, 56, true), "{mode:?}: and without any of it");
        transfer(&a.pod, &b.pod, b.pod_address, 4 << 20).unwrap();
        transfer(&b.pod, &a.pod, a.pod_address, 4 << 20).unwrap();
        transfer(&a.node, &b.pod, b.pod_address, 1 << 20).unwrap();
        for len in [1, 1452, 1453, 8_000, 60_000] {
            datagrams(&a.pod, &b.pod, b.pod_address, len);
            datagrams(&b.node, &a.pod, a.pod_address, len);
        }
        net.assert_clean(&format!("{mode:?}"));
        let in_pool = |address: std::net::IpAddr| matches!(address, std::net::IpAddr::V4(address) if address.octets()[..2] == [10, 244]);
        let pods = |inside: bool| {
            wire.count(|packet| {
                let ip = packet.ip.filter(|ip| in_pool(ip.source) || in_pool(ip.destination));
                ip.is_some() && packet.outer.is_some() == inside
            })
        };
        assert_eq!(pods(false), 0, "{mode:?}: packets of pods as they are");
        assert!(pods(true) > 100, "{mode:?}: {} packets inside outer headers", pods(true));
        assert_eq!(wire.count(|p| p.outer.is_some_and(|outer| !outer.checksum_holds)), 0, "{mode:?}");
    }
}

#[test]
fn without_the_program_the_same_capture_sees_packets_of_pods() {
    let mut net = Underlay::flat(AttachMode::Auto);
    let wire = Capture::start(&net.b.node, "up0", Direction::In).unwrap();
    let (bpf, uplink) = (&mut net.a.bpf, net.a.uplink);
    net.a.node.run(|| bpf.detach_uplink(uplink)).unwrap().unwrap();
    ping(&net.a.pod, net.b.pod_address, 56, false);
    let plain = |p: &harness::Packet| {
        p.outer.is_none() && p.ip.is_some_and(|ip| ip.source == std::net::IpAddr::from(net.a.pod_address))
    };
    assert!(wire.wait_for(LIMIT, plain).is_some());
    assert!(net.b.drops()["not_encapsulated"] > 0, "{:?}", net.b.drops());
}

#[test]
fn tcp_works_with_every_combination_of_offloads() {
    let net = Underlay::flat(AttachMode::Auto);
    let (a, b) = (&net.a, &net.b);
    let set = |netns: &NetNs, name: &str, bits: u32| {
        let mut args = vec!["-K".to_owned(), name.to_owned()];
        for (bit, feature) in ["tso", "gso", "tx", "gro"].into_iter().enumerate() {
            args.push(feature.to_owned());
            args.push(if bits & 1 << bit == 0 { "off" } else { "on" }.to_owned());
        }
        Run::new("ethtool").args(args).ok_in(netns).unwrap();
    };
    for bits in 0..16 {
        for (pods, nodes) in [(bits, 15), (15, bits), (bits, bits)] {
            for side in [a, b] {
                set(&side.pod, "eth0", pods);
                set(&side.node, "host0", pods);
                set(&side.node, "up0", nodes);
            }
            transfer(&a.pod, &b.pod, b.pod_address, 1 << 20)
                .unwrap_or_else(|error| panic!("offloads {pods:#x}, {nodes:#x}: {error}: {:?}", b.drops()));
        }
    }
    net.assert_clean("offloads");
}

/// Lets an interface have aggregates longer than IPv4 can say (iproute2 learnt that later than the kernel).
fn allow_big_tcp(netns: &NetNs, ifname: &str) {
    let mut message = LinkMessage::default();
    message.header.index = netns.link(ifname).unwrap().index;
    message.attributes = vec![LinkAttribute::GsoMaxSize(200_000), LinkAttribute::GsoIpv4MaxSize(200_000)];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut request =
        NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::SetLink(message)));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = netns.run(|| Socket::new(NETLINK_ROUTE)).unwrap().unwrap();
    socket.bind_auto().unwrap();
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).unwrap();
    let (reply, _) = socket.recv_from_full().unwrap();
    let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply).unwrap();
    assert!(matches!(&reply.payload, NetlinkPayload::Error(error) if error.code.is_none()), "{reply:?}");
}

#[test]
fn aggregates_above_64_kib_are_dropped_by_their_own_reason() {
    let net = Underlay::flat(AttachMode::Auto);
    for side in [&net.a, &net.b] {
        allow_big_tcp(&side.pod, "eth0");
        allow_big_tcp(&side.node, "host0");
        allow_big_tcp(&side.node, "up0");
    }
    // Whether it ever gets through is the sender's patience; what arrives is right, which `transfer` asserts.
    let (from, to, at) = (&net.a.pod, &net.b.pod, net.b.pod_address);
    let outcome = transfer(from, to, at, 16 << 20);
    let drops = net.a.drops();
    assert!(drops.get("too_long").is_some_and(|count| *count > 0), "{outcome:?}: {drops:?}");
    assert_eq!(drops.len(), 1, "{drops:?}");
    assert_eq!(net.b.drops(), BTreeMap::new());
}

#[test]
fn a_narrow_way_is_told_to_the_sender() {
    for &mode in attach_modes() {
        let net = Underlay::routed(mode);
        let (a, b) = (&net.a, &net.b);
        assert!(ping(&a.pod, b.pod_address, 56, false), "{mode:?}");
        assert!(net.router.is_some());
        transfer(&a.pod, &b.pod, b.pod_address, 2 << 20)
            .unwrap_or_else(|error| panic!("{mode:?}: {error}: {:?}", a.drops()));
        let mtu_of = |netns: &NetNs, to: Ipv4Addr| {
            let shown = netns.ip_json(&format!("route get {to}")).unwrap();
            shown[0]["metrics"][0]["mtu"].as_u64()
        };
        assert_eq!(mtu_of(&a.pod, b.pod_address), Some(u64::from(NARROW_MTU) - 20), "{mode:?}");
        let relayed = a.drops();
        assert!(relayed["path_mtu_relayed"] > 0, "{mode:?}: {relayed:?}");
        assert_eq!(relayed.len(), 1, "{mode:?}: {relayed:?}");
        // The node's own connections learn too.
        transfer(&a.node, &b.pod, b.pod_address, 1 << 20)
            .unwrap_or_else(|error| panic!("{mode:?}: from the node: {error}: {:?}", a.drops()));
        assert!(a.drops()["path_mtu_relayed"] > relayed["path_mtu_relayed"], "{mode:?}");
        assert_eq!(a.bpf.path_mtus().unwrap(), BTreeMap::new(), "{mode:?}");
    }
}

#[test]
fn a_narrow_way_that_nobody_tells_of_swallows_what_does_not_fit() {
    let mut net = Underlay::routed(AttachMode::Auto);
    // As if it were left to a device of the kernel: messages about outer packets are not looked at.
    let rule = UplinkRule { local: net.a.address, decapsulate: false };
    net.a.bpf.set_uplink(net.a.uplink, rule).unwrap();
    let one_way = |payload_len: usize| {
        let seen = Capture::start(&net.b.pod, "eth0", Direction::In).unwrap();
        ping(&net.a.pod, net.b.pod_address, payload_len, true);
        seen.count(|packet| packet.ip.is_some_and(|ip| ip.protocol == 1))
    };
    assert_eq!(one_way(NARROW_MTU as usize - 48), 1, "what fits arrives");
    assert_eq!(one_way(NARROW_MTU as usize - 47), 0, "one byte more does not");
}

#[test]
fn what_is_cut_short_or_forged_on_the_wire_is_dropped_by_its_reason() {
    for &mode in attach_modes() {
        let net = Underlay::flat(mode);
        let (a, b) = (&net.a, &net.b);
        let sender = RawSender::new(&a.node, "up0").unwrap();
        let to_b = b.node.link("up0").unwrap().mac;
        let send = |mut frame: Vec<u8>| {
            frame[..6].copy_from_slice(&to_b);
            sender.send(&frame).unwrap();
        };
        let inner = between(a.pod_address, b.pod_address);
        let whole = inside(between(a.address, b.address), &inner).frame();
        let stranger = inside(between(STRANGER, b.address), &inner).frame();
        // The kernel has not looked at these yet: the program is the first to see them.
        for len in SHORTEST..54 {
            send(whole[..len].to_vec());
        }
        send(stranger);
        send(inside(between(a.address, b.address), &between(b.pod_address, b.pod_address)).frame());
        send(inside(V4 { fragment: 0x2000, ..between(a.address, b.address) }, &inner).frame());
        let expected = BTreeMap::from([
            // Those shorter than an outer header are nobody's.
            ("truncated", 54 - 34),
            ("unknown_node", 1),
            ("inner_source", 1),
            ("outer_fragment", 1),
        ]);
        for _ in 0..200 {
            if b.drops() == expected {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(b.drops(), expected, "{mode:?}");
    }
}

#[test]
fn traffic_goes_on_while_the_programs_are_replaced() {
    for &mode in attach_modes() {
        let mut net = Underlay::flat(mode);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (from, to, at, stop) = (&net.a.pod, &net.b.pod, net.b.pod_address, &stop);
            let flow = scope.spawn(move || -> std::io::Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    transfer(from, to, at, 1 << 20)?;
                }
                Ok(())
            });
            let (node, uplink, pins) = (&net.b.node, net.b.uplink, net.b.pins.path());
            let options = OpenOptions { attach_mode: mode, ..OpenOptions::new(pins) };
            for _ in 0..5 {
                std::fs::remove_file(net.b.pins.version().join("pw_drops")).unwrap();
                net.b.bpf = Bpf::open(&options).unwrap();
                let bpf = &mut net.b.bpf;
                let outcome = node.run(|| bpf.attach_uplink(uplink)).unwrap().unwrap();
                assert_eq!(outcome, bpf::AttachOutcome::Replaced, "{mode:?}");
            }
            stop.store(true, Ordering::Relaxed);
            flow.join().unwrap().unwrap_or_else(|error| panic!("{mode:?}: {error}"));
        });
        net.assert_clean(&format!("{mode:?}"));
    }
}
