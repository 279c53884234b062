//! Wiring, checking and unwiring of single pods.

use std::fs::File;
use std::os::fd::AsFd;

use dataplane::{AttachMode, Dataplane, WireError};
use harness::lab::{OUTSIDE_IPV4, OUTSIDE_IPV6};
use harness::{Run, has_tcx};
use model::Identity;

use crate::fixture::{MTU_BYTES, Node, Pod, pools, wiring};

#[test]
fn a_wired_pod_passes_its_check_and_leaves_nothing_when_unwired() {
    let check = |mode: AttachMode, pod: Pod| {
        let node = Node::with(|settings| settings.attach_mode = mode);
        node.reconcile_ok(&node.desired(&pools(), &[]));
        let wired = node.wire(&pod).unwrap();
        assert_eq!(node.check(&pod), None);
        assert_eq!(node.our_links(), std::slice::from_ref(&wired.host_ifname));
        let (host, eth0) = (node.netns().link(&wired.host_ifname).unwrap(), pod.netns.link("eth0").unwrap());
        assert_eq!((host.index, host.mac), (wired.host_ifindex, wired.host_mac.0));
        assert_eq!(eth0.mac, wired.pod_mac.0);
        assert!(node.unwire(&pod));
        assert!(!node.unwire(&pod), "a second time there is nothing to take off");
        node.assert_clean();
        let left = pod.netns.ip_json("link show").unwrap();
        assert_eq!(left.as_array().unwrap().len(), 1, "only lo is left in the pod: {left}");
    };
    let tcx = has_tcx().then_some(AttachMode::Tcx);
    for mode in [AttachMode::Auto, AttachMode::Clsact].into_iter().chain(tcx) {
        check(mode, Pod::v4(1));
        check(mode, Pod::v6(2));
        check(mode, Pod::dual(3));
    }
}

#[test]
fn the_pod_has_what_the_drawing_says() {
    let node = Node::new();
    let pod = Pod::dual(5);
    let wired = node.wire(&pod).unwrap();
    let inside = |arguments: &str| {
        let text = pod.netns.ip(arguments).unwrap();
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(
        inside("-4 route show"),
        ["default via 169.254.1.1 dev eth0 proto static", "169.254.1.1 dev eth0 proto static scope link"]
    );
    let v6: Vec<_> = inside("-6 route show").into_iter().filter(|line| line.starts_with("default")).collect();
    assert_eq!(v6, ["default via fe80::1 dev eth0 proto static metric 1024 pref medium"]);
    let mac = wired.host_mac;
    let mut neighbours = inside("neigh show nud permanent");
    neighbours.sort();
    assert_eq!(
        neighbours,
        [
            format!("169.254.1.1 dev eth0 lladdr {mac} PERMANENT"),
            format!("fe80::1 dev eth0 lladdr {mac} PERMANENT")
        ]
    );
    let shown = pod.netns.ip_json("addr show dev eth0").unwrap();
    let addresses: Vec<String> = shown[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|info| info["scope"] == "global")
        .map(|info| format!("{}/{} {}", info["local"].as_str().unwrap(), info["prefixlen"], info["nodad"]))
        .collect();
    assert_eq!(addresses, ["10.77.0.5/32 null", "fd77::5/128 true"]);
    assert_eq!(shown[0]["mtu"], MTU_BYTES);

    let host = node.netns().ip_json(&format!("-d link show dev {}", wired.host_ifname)).unwrap();
    assert_eq!(host[0]["mtu"], MTU_BYTES);
    let identity = Identity::parse_alias(host[0]["ifalias"].as_str().unwrap()).unwrap();
    assert_eq!(identity, pod.wiring.identity);
    assert_eq!(
        node.our_routes(),
        [
            format!("10.77.0.5 dev {} scope link", wired.host_ifname),
            format!("fd77::5 dev {} metric 64 pref medium", wired.host_ifname)
        ]
    );
    let key = format!("ipv6/conf/{}/accept_ra", wired.host_ifname);
    assert_eq!(node.netns().sysctl(&key).unwrap(), "0", "a pod is nobody's router");
}

#[test]
fn pods_reach_each_other_the_node_and_the_outside_with_the_first_packet() {
    let node = Node::new();
    node.reconcile_ok(&node.desired(&pools(), &[]));
    node.lab.route_to_node("10.77.0.0/24").unwrap();
    node.lab.route_to_node("fd77::/112").unwrap();
    let (a, b) = (Pod::dual(1), Pod::dual(2));
    node.wire(&a).unwrap();
    node.wire(&b).unwrap();
    assert!(a.ping(b.ipv4()), "pod to pod, IPv4");
    assert!(b.ping(a.ipv6()), "pod to pod, IPv6");
    assert!(a.ping(OUTSIDE_IPV4), "pod to outside, IPv4");
    assert!(a.ping(OUTSIDE_IPV6), "pod to outside, IPv6");
    for to in [a.ipv4().to_string(), a.ipv6().to_string()] {
        let ping = Run::new("ping").args(["-n", "-q", "-c", "1", "-W", "1", &to]);
        assert!(ping.finish_in(node.netns()).unwrap().status.success(), "node to {to}");
    }
}

#[test]
fn no_packet_that_a_pod_sends_with_another_pods_address_leaves_its_interface() {
    let node = Node::new();
    node.reconcile_ok(&node.desired(&pools(), &[]));
    let (honest, thief) = (Pod::v4(1), Pod::v4(2));
    node.wire(&honest).unwrap();
    node.wire(&thief).unwrap();
    thief.netns.ip(&format!("addr add {}/32 dev eth0", honest.ipv4())).unwrap();
    let from = honest.ipv4().to_string();
    let ping = Run::new("ping").args(["-n", "-q", "-c", "3", "-i", "0.02", "-W", "1", "-I", &from]);
    let finished = ping.args([OUTSIDE_IPV4.to_string()]).finish_in(&thief.netns).unwrap();
    assert!(!finished.status.success());
    let drops = node.call(Dataplane::drops).unwrap();
    assert_eq!(drops["ipv4_source"], 3, "{drops:?}");
}

#[test]
fn a_namespace_without_ipv6_is_fine_for_ipv4_and_is_given_ipv6_where_asked() {
    let node = Node::new();
    let off = |pod: &Pod| {
        for scope in ["all", "default"] {
            pod.netns.set_sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
        }
    };
    let (plain, dual) = (Pod::v4(1), Pod::dual(2));
    off(&plain);
    off(&dual);
    node.wire(&plain).unwrap();
    assert_eq!(node.check(&plain), None);
    assert_eq!(plain.netns.sysctl("ipv6/conf/eth0/disable_ipv6").unwrap(), "1");
    node.wire(&dual).unwrap();
    assert_eq!(node.check(&dual), None);
    assert_eq!(dual.netns.sysctl("ipv6/conf/eth0/disable_ipv6").unwrap(), "0");
}

#[test]
fn wiring_again_for_the_same_handle_replaces_what_was_left() {
    let node = Node::new();
    let first = Pod::v4(1);
    let before = node.wire(&first).unwrap();
    // The same container and interface in another namespace, with another address.
    let mut second = Pod::v4(2);
    second.wiring = wiring(first.handle().container_id(), Some("10.77.0.9"), None);
    let after = node.wire(&second).unwrap();
    assert_ne!(before.host_ifindex, after.host_ifindex);
    assert_eq!(node.check(&second), None);
    assert_eq!(node.our_links(), std::slice::from_ref(&after.host_ifname));
    assert_eq!(node.our_routes(), [format!("10.77.0.9 dev {} scope link", after.host_ifname)]);
    assert!(node.check(&first).is_some(), "the first one is gone");
}

#[test]
fn a_name_that_is_taken_is_refused_and_nothing_is_changed() {
    let node = Node::new();
    let pod = Pod::dual(1);

    pod.netns.ip("link add eth0 type bridge").unwrap();
    let before = pod.netns.ip("-d addr show dev eth0").unwrap();
    match node.wire(&pod) {
        Err(WireError::PodInterfaceTaken { ifname }) => assert_eq!(ifname, "eth0"),
        other => panic!("{other:?}"),
    }
    assert_eq!(pod.netns.ip("-d addr show dev eth0").unwrap(), before);
    node.assert_clean();
    pod.netns.ip("link del eth0").unwrap();

    let name = pod.host_ifname();
    node.netns().ip(&format!("link add {name} type bridge")).unwrap();
    node.netns().ip(&format!("link set {name} alias theirs")).unwrap();
    let before = node.netns().ip(&format!("-d addr show dev {name}")).unwrap();
    match node.wire(&pod) {
        Err(WireError::HostInterfaceTaken { ifname, alias }) => {
            assert_eq!((ifname, alias.as_str()), (name.clone(), "theirs"));
        }
        other => panic!("{other:?}"),
    }
    let refused = node.call(|dataplane| dataplane.unwire(pod.handle())).unwrap_err();
    assert!(refused[0].to_string().contains("not touched"), "{refused:?}");
    assert_eq!(node.netns().ip(&format!("-d addr show dev {name}")).unwrap(), before);
    node.netns().ip(&format!("link del {name}")).unwrap();
    node.wire(&pod).unwrap();
}

#[test]
fn descriptors_that_are_no_pods_namespace_are_refused() {
    let node = Node::new();
    let pod = Pod::v4(1);
    let own = File::open(node.netns().path()).unwrap();
    let result = node.call(|dataplane| dataplane.wire(&pod.wiring, own.as_fd()));
    assert!(matches!(result, Err(WireError::OwnNamespace)), "{result:?}");
    for path in ["/dev/null", "/proc/self/ns/mnt"] {
        let other = File::open(path).unwrap();
        let result = node.call(|dataplane| dataplane.wire(&pod.wiring, other.as_fd()));
        assert!(matches!(result, Err(WireError::NotANamespace)), "{path}: {result:?}");
    }
    node.assert_clean();
}

#[test]
fn what_fails_half_way_is_taken_back() {
    // Each obstacle lies at another step.
    let check = |obstacle: &dyn Fn(&Node, &Pod), expected: &str, remove: &dyn Fn(&Node, &Pod)| {
        let node = Node::new();
        let pod = Pod::dual(1);
        obstacle(&node, &pod);
        let error = node.wire(&pod).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        remove(&node, &pod);
        node.assert_clean();
        let left = pod.netns.ip_json("link show").unwrap();
        let names: Vec<_> =
            left.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap()).collect();
        assert!(!names.contains(&"eth0"), "{names:?}");
        node.wire(&pod).unwrap();
        assert_eq!(node.check(&pod), None);
    };
    // In the pod: another default route.
    check(
        &|_, pod| {
            pod.netns.ip("link add other type bridge").unwrap();
            pod.netns.ip("link set other up").unwrap();
            pod.netns.ip("route add default dev other").unwrap();
        },
        "add route 0.0.0.0/0",
        &|_, pod| pod.netns.ip("link del other").map(drop).unwrap(),
    );
    // On the node, the very last step: somebody else's route to the address.
    check(
        &|node, _| node.netns().ip("-6 route add fd77::1/128 dev up0 metric 64").map(drop).unwrap(),
        "add route fd77::1/128",
        &|node, _| node.netns().ip("-6 route del fd77::1/128 dev up0 metric 64").map(drop).unwrap(),
    );
    // Between the two: the endpoint map takes no more.
    let node = Node::with(|settings| settings.max_pods = 1);
    let first = Pod::v4(1);
    node.wire(&first).unwrap();
    let before = (node.our_links(), node.our_routes(), node.pinned_links());
    let error = node.wire(&Pod::v4(2)).unwrap_err().to_string();
    assert!(error.contains("set endpoint"), "{error}");
    assert_eq!((node.our_links(), node.our_routes(), node.pinned_links()), before);
}

#[test]
fn check_names_the_first_difference() {
    let node = Node::new();
    node.reconcile_ok(&node.desired(&pools(), &[]));
    let check = |tamper: &dyn Fn(&Node, &Pod), expected: &str| {
        let pod = Pod::dual(1);
        node.wire(&pod).unwrap();
        assert_eq!(node.check(&pod), None);
        tamper(&node, &pod);
        let found = node.check(&pod).unwrap_or_default();
        assert!(found.contains(expected), "expected {expected:?}, found {found:?}");
        let alias = pod.wiring.identity.to_alias();
        node.netns().ip(&format!("link set {} alias {alias}", pod.host_ifname())).unwrap();
        assert!(node.unwire(&pod));
    };
    let pod_ip = |arguments: &'static str| move |_: &Node, pod: &Pod| drop(pod.netns.ip(arguments).unwrap());
    let host_ip = |arguments: &'static str| {
        move |node: &Node, pod: &Pod| {
            drop(node.netns().ip(&arguments.replace("HOST", &pod.host_ifname())).unwrap());
        }
    };
    check(&pod_ip("link set eth0 mtu 1400"), "MTU of eth0 in the pod: expected 1480, found 1400");
    check(&host_ip("link set HOST mtu 1400"), "of the node: expected 1480, found 1400");
    check(&pod_ip("link set eth0 down"), "interface eth0 in the pod: expected up, found down");
    check(&host_ip("link set HOST alias other"), "alias of pw");
    check(&pod_ip("addr del 10.77.0.1/32 dev eth0"), "addresses of eth0 in the pod: expected 10.77.0.1/32");
    check(&pod_ip("addr add 10.77.0.200/32 dev eth0"), "found 10.77.0.1/32, 10.77.0.200/32");
    check(&pod_ip("route del default"), "route in the pod: expected 0.0.0.0/0 via 169.254.1.1");
    check(&pod_ip("-6 route del default"), "route in the pod: expected ::/0 via fe80::1");
    check(&pod_ip("neigh del 169.254.1.1 dev eth0"), "permanent neighbour 169.254.1.1 in the pod");
    check(&host_ip("route del 10.77.0.1"), "route of the node: expected 10.77.0.1/32");
    check(&host_ip("-6 route del fd77::1"), "route of the node: expected fd77::1/128");
    check(&host_ip("neigh replace 10.77.0.1 lladdr 02:00:00:00:00:01 dev HOST"), "found 02:00:00:00:00:01");
    check(
        &|node, pod| {
            let ifindex = node.netns().link(&pod.host_ifname()).unwrap().index;
            node.detach(ifindex);
        },
        "program on pw",
    );
    check(
        &|node, pod| {
            let ifindex = node.netns().link(&pod.host_ifname()).unwrap().index;
            node.map_delete("pw_endpoints", ifindex);
        },
        "endpoint map entry of pw",
    );
}

#[test]
fn the_uplink_is_found_by_the_default_route_or_by_name() {
    let check = |configured: Option<&str>, tamper: &str, expected: (Option<&str>, u32)| {
        let node = Node::with(|settings| settings.uplink = configured.map(str::to_owned));
        if !tamper.is_empty() {
            node.netns().ip_batch(tamper).unwrap();
        }
        let uplink = node.call(Dataplane::uplink).unwrap();
        assert_eq!((uplink.ifname.as_deref(), uplink.mtu_bytes), expected, "{uplink:?}");
    };
    check(None, "link set up0 mtu 1400", (Some("up0"), 1400));
    check(None, "route del default", (Some("up0"), 1500));
    check(None, "route del default\nroute del ::/0", (None, 1500));
    check(Some("up0"), "route del default\nlink set up0 mtu 9000", (Some("up0"), 9000));
    check(Some("nosuch"), "", (None, 1500));
}
