//! Pods with an address of each family: on every node, between nodes, and towards a server outside.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use harness::cluster::{PORT, Pod, PodOptions};
use harness::lab::{OUTSIDE_IPV4, OUTSIDE_IPV6};
use harness::{Capture, Direction, NetNs};
use serde_json::{Value, json};

use crate::reach::who;
use crate::site::{NODES_COUNT, Site, site, wait_until};

const FOUR_POOLS: &str = "cni.projectcalico.org/ipv4pools";
const SIX_POOLS: &str = "cni.projectcalico.org/ipv6pools";
const ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";
const FAMILIES: &str = "cni.projectcalico.org/ipFamilies";

/// The node of the lab whose kubelet does not tell its IPv6 address: its blocks do.
const NODE_WITHOUT: u8 = 2;

/// What a person writes at a reservation, so that only who names an address gets it.
const KEPT_FOUR: &str = "10.244.96.77";
const KEPT_SIX: &str = "fd00:10:244::77";

/// Values of DSCP that the pools ask for.
const SIX_DSCP: u8 = 34;
const SIX_NAT_DSCP: u8 = 18;

/// Where the server outside listens.
const OUTSIDE_PORT: u16 = 8088;

/// A pod and both its addresses.
struct Both {
    pod: Pod,
    four: Option<IpAddr>,
    six: IpAddr,
}

impl Both {
    /// By what its interface has.
    fn of(site: &Site, pod: Pod) -> Self {
        let said = site.exec(&pod, &["ip", "addr", "show", "dev", "eth0", "scope", "global"]).unwrap();
        let words: Vec<&str> = said.split_whitespace().collect();
        let found = words.windows(2).filter(|pair| ["inet", "inet6"].contains(&pair[0]));
        let addresses: Vec<IpAddr> =
            found.map(|pair| pair[1].split('/').next().unwrap().parse().unwrap()).collect();
        let of = |is_four: bool| addresses.iter().copied().find(|address| address.is_ipv4() == is_four);
        Self { four: of(true), six: of(false).unwrap_or_else(|| panic!("{pod:?}: {said}")), pod }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.four.into_iter().chain([self.six])
    }

    fn node(&self) -> u8 {
        self.pod.node.trim_start_matches("node-").parse().unwrap()
    }
}

/// Where somebody listens, as in a URL.
fn place(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// A web server outside that tells whoever asks what it sees of them. It ends with the value.
struct Outside {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    fn start(netns: &NetNs) -> Self {
        let listener =
            netns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, OUTSIDE_PORT))).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Acquire) {
                    match listener.accept() {
                        // A client that goes away is the caller's to notice.
                        Ok((stream, peer)) => drop(answer(stream, peer)),
                        Err(_) => std::thread::sleep(Duration::from_millis(10)),
                    }
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: std::net::TcpStream, peer: SocketAddr) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    // A request for one page fits into one segment.
    let _ = stream.read(&mut [0; 2048])?;
    let body = format!("outside {}\n", peer.ip());
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn apply(site: &Site, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    site.kubectl().apply_unchecked(&list.to_string()).unwrap();
}

fn pool(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "poolward.io/v1", "kind": "IPPool", "metadata": {"name": name}, "spec": spec})
}

/// Deletes pools, which have no pods any more, and waits until they are gone.
fn delete_pools(site: &Site, names: &[&str]) {
    let kubectl = site.kubectl();
    kubectl
        .run(
            &["delete", "ippool", "--wait=false"]
                .into_iter()
                .chain(names.iter().copied())
                .collect::<Vec<_>>(),
        )
        .unwrap();
    wait_until("the pools are gone", || {
        let there = kubectl.run(&["get", "ippools", "-o", "name"]).unwrap();
        !names.iter().any(|name| there.lines().any(|line| line.ends_with(&format!("/{name}"))))
    });
}

/// Tells the routers between and behind the nodes where the blocks of IPv6 are, as an operator must; which ones.
pub(crate) fn tell_the_routers(site: &Site) -> BTreeSet<String> {
    let blocks = site.kubectl().json(&["get", "ipblocks"]).unwrap();
    let mut told = BTreeSet::new();
    for block in blocks["items"].as_array().unwrap() {
        let text = |path: &str| block.pointer(path).and_then(Value::as_str).unwrap().to_owned();
        let (range, owner) = (text("/spec/cidr"), text("/spec/node"));
        if range.contains(':') {
            let node = site.cluster.fabric.nodes.iter().find(|node| node.name == owner).unwrap();
            site.cluster.fabric.route_from_outside(&range, node).unwrap();
            told.insert(range);
        }
    }
    told
}

/// Takes that back.
pub(crate) fn forget_at_the_routers(site: &Site, told: &BTreeSet<String>) {
    for range in told {
        site.cluster.fabric.router.ip(&format!("-6 route del {range}")).unwrap();
    }
}

/// How many packets a node has dropped for this reason.
fn drops(site: &Site, node: u8, reason: &str) -> u64 {
    let worker = site.cluster.worker(node).unwrap();
    let status: Value =
        serde_json::from_str(&worker.poolwardctl(&["status", "-o", "json"]).unwrap()).unwrap();
    let drops = status["drops"].as_array().unwrap();
    drops.iter().find(|drop| drop["reason"] == reason).unwrap()["packets"].as_u64().unwrap()
}

#[test]
fn pods_of_both_families_reach_each_other_on_every_node_and_are_seen_outside_as_their_pools_say() {
    let site = site();
    let names = ["both-four", "both-six", "both-six-nat"];
    apply(
        &site,
        &[
            pool(
                names[0],
                &json!({
                    "cidr": "10.244.96.0/24", "blockSize": 28, "ipipMode": "Always", "natOutgoing": true,
                    "assignmentMode": "Manual",
                }),
            ),
            pool(
                names[1],
                &json!({
                    "cidr": "fd00:10:244::/112", "blockSize": 124, "assignmentMode": "Manual", "dscp": SIX_DSCP,
                }),
            ),
            pool(
                names[2],
                &json!({
                    "cidr": "fd00:10:245::/112", "blockSize": 124, "assignmentMode": "Manual", "natOutgoing": true,
                    "dscp": SIX_NAT_DSCP,
                }),
            ),
            json!({
                "apiVersion": "poolward.io/v1", "kind": "IPReservation", "metadata": {"name": "both-kept"},
                "spec": {"reservedCIDRs": [KEPT_FOUR, KEPT_SIX]},
            }),
        ],
    );
    let namespace =
        site.namespace("both", &[(FOUR_POOLS, r#"["both-four"]"#), (SIX_POOLS, r#"["both-six"]"#)]);
    let on_nodes: Vec<String> = (1..=NODES_COUNT).map(|number| format!("on-{number}")).collect();
    let on =
        |name, node| PodOptions { namespace: &namespace, name, node: Some(node), ..PodOptions::default() };
    let mut options: Vec<_> = on_nodes.iter().zip(1..).map(|(name, number)| on(name, number)).collect();
    let hidden = [(SIX_POOLS, r#"["both-six-nat"]"#)];
    options.push(PodOptions { annotations: &hidden, ..on("hidden", 1) });
    let kept = format!(r#"["{KEPT_FOUR}", "{KEPT_SIX}"]"#);
    let kept = [(ADDRESSES, kept.as_str())];
    options.push(PodOptions { annotations: &kept, ..on("kept", 3) });
    let six_only = [(FAMILIES, r#"["IPv6"]"#)];
    options.push(PodOptions { annotations: &six_only, ..on("six-only", 2) });
    // May add addresses to its own interface: it is the one that claims what is not its own.
    let mut containers = options[0].object()["spec"]["containers"].clone();
    containers[0]["securityContext"] = json!({"capabilities": {"add": ["NET_ADMIN"]}});
    options[0].more = json!({"containers": containers});

    let pods: Vec<Both> = site.pods(&options).into_iter().map(|pod| Both::of(&site, pod)).collect();
    let by_name = |name: &str| pods.iter().find(|both| both.pod.name == name).unwrap();
    for both in &pods {
        let only_six = both.pod.name == "six-only";
        assert_eq!((both.four.is_none(), both.pod.address.is_ipv6()), (only_six, only_six), "{:?}", both.pod);
        site.assert_holder(&both.pod);
    }
    let of_kept: Vec<String> = by_name("kept").addresses().map(|address| address.to_string()).collect();
    assert_eq!(of_kept, [KEPT_FOUR, KEPT_SIX]);

    let told = tell_the_routers(&site);
    tells_its_address_itself(&site);
    reach_each_other(&site, &pods);
    seen_outside(&site, &pods);
    claims_an_address_of_another(&site, by_name("on-1"), by_name("on-3"));
    site.assert_sealed();

    site.delete_at_once(&namespace);
    pods.iter().for_each(|both| site.wait_until_free(&both.pod));
    site.kubectl().run(&["delete", "ipreservation", "both-kept"]).unwrap();
    delete_pools(&site, &names);
    forget_at_the_routers(&site, &told);
    site.assert_consistent();
}

/// The blocks of a node that its kubelet half knows say where it is, and only those.
fn tells_its_address_itself(site: &Site) {
    let node = &site.cluster.fabric.nodes[usize::from(NODE_WITHOUT) - 1];
    let object = site.kubectl().json(&["get", "node", &node.name]).unwrap();
    assert!(!object["status"]["addresses"].to_string().contains(&node.ipv6.to_string()), "{object}");
    let blocks = site.kubectl().json(&["get", "ipblocks"]).unwrap();
    let mut told = BTreeSet::new();
    for block in blocks["items"].as_array().unwrap() {
        let says = &block["metadata"]["annotations"]["poolward.io/node-ipv6-address"];
        if let Some(address) = says.as_str() {
            told.insert((block["spec"]["node"].as_str().unwrap().to_owned(), address.to_owned()));
        }
    }
    assert_eq!(told, BTreeSet::from([(node.name.clone(), node.ipv6.to_string())]));
}

/// By both families, in small packets, large ones, and in more than one packet can hold.
fn reach_each_other(site: &Site, pods: &[Both]) {
    for from in pods.iter().filter(|both| both.pod.name.starts_with("on-")) {
        for to in pods {
            for address in to.addresses() {
                let own = if address.is_ipv4() { from.four.unwrap() } else { from.six };
                let expected = Ok((to.pod.name.clone(), own.to_string()));
                let mut said = Err(String::new());
                // What a node serves is told to the others some time after its first pod is ready.
                wait_until(&format!("{:?} reaches {address}: {said:?}", from.pod), || {
                    said = who(site, &from.pod, &place(address, PORT));
                    said == expected
                });
            }
        }
    }
    let (from, to) = (&pods[0], &pods[1]);
    assert_ne!(from.node(), to.node());
    let six = to.six.to_string();
    // 1432 bytes and their headers are what a pod's interface takes.
    for bytes in ["56", "1432", "8000"] {
        let said = site.exec(&from.pod, &["ping6", "-c", "1", "-W", "5", "-s", bytes, &six]);
        assert!(said.is_ok(), "{bytes} bytes: {said:?}");
    }
    site.exec(&to.pod, &["dd", "if=/dev/urandom", "of=/www/large", "bs=65536", "count=32"]).unwrap();
    let sum = |said: String| said.split_whitespace().next().unwrap().to_owned();
    let sent = sum(site.exec(&to.pod, &["md5sum", "/www/large"]).unwrap());
    for address in to.addresses() {
        let fetch = format!("timeout 20 wget -q -O - http://{}/large | md5sum", place(address, PORT));
        assert_eq!(sum(site.exec(&from.pod, &["sh", "-c", &fetch]).unwrap()), sent, "by {address}");
    }
    site.exec(&to.pod, &["rm", "/www/large"]).unwrap();
}

/// Under their own addresses where nothing else was asked for, under their nodes' with `natOutgoing`; and each with the
/// DSCP of its pool.
fn seen_outside(site: &Site, pods: &[Both]) {
    let _server = Outside::start(&site.cluster.fabric.outside);
    let wire = Capture::start(&site.cluster.fabric.outside, "eth0", Direction::In).unwrap();
    let mut expected = BTreeSet::new();
    for both in pods {
        let node = &site.cluster.fabric.nodes[usize::from(both.node()) - 1];
        let (six, dscp) = if both.pod.name == "hidden" {
            (IpAddr::from(node.ipv6), SIX_NAT_DSCP)
        } else {
            (both.six, SIX_DSCP)
        };
        let seen = who(site, &both.pod, &place(OUTSIDE_IPV6.into(), OUTSIDE_PORT));
        assert_eq!(seen, Ok(("outside".to_owned(), six.to_string())), "{:?}", both.pod);
        expected.insert((six, dscp));
        if both.four.is_some() {
            let seen = who(site, &both.pod, &place(OUTSIDE_IPV4.into(), OUTSIDE_PORT));
            assert_eq!(seen, Ok(("outside".to_owned(), node.ipv4.to_string())), "{:?}", both.pod);
        }
    }
    let packets = wire.stop().unwrap();
    let to_server = packets.iter().filter(|packet| packet.ports.is_some_and(|(_, to)| to == OUTSIDE_PORT));
    let six = to_server.filter_map(|packet| packet.ip).filter(|ip| ip.source.is_ipv6());
    assert_eq!(six.map(|ip| (ip.source, ip.dscp())).collect::<BTreeSet<_>>(), expected);
}

/// A container that gives itself the address of a pod on another node: nothing of it leaves, and it is counted.
fn claims_an_address_of_another(site: &Site, from: &Both, victim: &Both) {
    let (claimed, outside) = (victim.six.to_string(), OUTSIDE_IPV6.to_string());
    let wire = Capture::start(&site.cluster.fabric.outside, "eth0", Direction::In).unwrap();
    let before = drops(site, from.node(), "ipv6_source");
    site.exec(&from.pod, &["ip", "-6", "addr", "add", &format!("{claimed}/128"), "dev", "eth0"]).unwrap();
    wait_until("the container sends under it", || {
        let said = site.exec(&from.pod, &["ping6", "-c", "1", "-W", "1", "-I", &claimed, &outside]);
        assert!(said.is_err(), "answered: {said:?}");
        drops(site, from.node(), "ipv6_source") > before
    });
    // The pod itself goes on as ever.
    site.exec(&from.pod, &["ip", "-6", "addr", "del", &format!("{claimed}/128"), "dev", "eth0"]).unwrap();
    site.exec(&from.pod, &["ping6", "-c", "1", "-W", "5", &outside]).unwrap();
    let packets = wire.stop().unwrap();
    let sources: BTreeSet<IpAddr> = packets.iter().filter_map(|packet| Some(packet.ip?.source)).collect();
    assert!(sources.contains(&from.six) && !sources.contains(&victim.six), "{sources:?}");
}

#[test]
fn a_pod_of_both_families_gets_neither_while_one_is_full_and_both_when_there_is_room() {
    let site = site();
    let names = ["scarce-four", "scarce-six"];
    let pools = [("10.244.97.0/28", 28), ("fd00:10:246::/128", 128)].map(|(cidr, size)| {
        json!({"cidr": cidr, "blockSize": size, "assignmentMode": "Manual", "cooldownSeconds": 0})
    });
    let [four, six] = pools;
    apply(&site, &[pool(names[0], &four), pool(names[1], &six)]);
    let namespace =
        site.namespace("scarce", &[(FOUR_POOLS, r#"["scarce-four"]"#), (SIX_POOLS, r#"["scarce-six"]"#)]);
    let pod = |name| PodOptions { namespace: &namespace, name, node: Some(3), ..PodOptions::default() };
    let first = site.pods(&[pod("first")]).remove(0);
    assert!(Both::of(&site, first.clone()).four.is_some());

    site.create(&[pod("second")]);
    let events =
        ["get", "events", "--namespace", &namespace, "--field-selector", "involvedObject.name=second"];
    let mut told = String::new();
    wait_until("the second pod is refused", || {
        told = site.kubectl().run(&events).unwrap();
        told.contains("FailedCreatePodSandBox")
    });
    assert!(told.contains("scarce-six"), "{told}");
    // Not even of the family that has room.
    let worker = site.cluster.worker(3).unwrap();
    let shown: Value =
        serde_json::from_str(&worker.poolwardctl(&["ipam", "show", "-o", "json"]).unwrap()).unwrap();
    let text = |held: &Value| held["address"].as_str().unwrap().to_owned();
    let held: Vec<String> = shown["addresses"].as_array().unwrap().iter().map(text).collect();
    let of_pools = held.iter().filter(|it| it.starts_with("10.244.97.") || it.starts_with("fd00:10:246:"));
    assert_eq!(of_pools.count(), 2, "more than the first pod's: {held:?}");

    site.delete(&namespace, &["first"]);
    let second = site.ready(&namespace, "second");
    assert!(Both::of(&site, second.clone()).four.is_some());
    site.delete_at_once(&namespace);
    site.wait_until_free(&second);
    delete_pools(&site, &names);
    site.assert_consistent();
}
