//! Our addresses under other main plugins, and our dataplane under addresses of `host-local`.
//!
//! The other plugins are Debian's (containernetworking-plugins).

use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{AgentOptions, Binaries, Cni, EchoServer, wait_until};
use serde_json::{Value, json};

use crate::manifest::{namespace, pod, pool, reservation};
use crate::site::{Node, Pod, Site, addresses_of};

const DEBIANS: &str = "/usr/lib/cni";

/// A directory with our plugin under both its names and Debian's beside it, as a node has it.
pub(crate) fn plugin_dir(site: &Site) -> PathBuf {
    let dir = site.files.dir().join("cni-bin");
    std::fs::create_dir(&dir).unwrap();
    let ours = Binaries::find().unwrap().plugin;
    for name in ["poolward", "poolward-ipam"] {
        symlink(ours.canonicalize().unwrap(), dir.join(name)).unwrap();
    }
    for name in ["ptp", "bridge", "macvlan", "host-local"] {
        let path = Path::new(DEBIANS).join(name);
        assert!(path.is_file(), "{} is missing: apt-get install containernetworking-plugins", path.display());
        symlink(path, dir.join(name)).unwrap();
    }
    dir
}

pub(crate) fn plugin<'n>(node: &Node<'n>, dir: &Path, kind: &str, extra: &Value) -> Cni<'n> {
    let mut config = json!({
        "cniVersion": "1.0.0",
        "name": "others",
        "type": kind,
        "agentSocket": node.site.files.socket(),
        // Where host-local keeps what it gives: nowhere on this machine but here.
        "dataDir": dir.join("data"),
    });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Cni::new(&dir.join(kind), node.netns(), config)
}

pub(crate) fn add(cni: &Cni<'_>, pod: &mut Pod) {
    pod.result = cni.add(&pod.attachment).unwrap().ok().unwrap();
}

pub(crate) fn holders(node: &Node<'_>) -> usize {
    node.ctl().json(&["ipam", "show"]).unwrap()["addresses"].as_array().unwrap().len()
}

/// Waits for the comparison that takes off what kept ranges closed, now that they are another plugin's; by how they begin.
pub(crate) fn wait_until_left_to_others(node: &Node<'_>, ranges: &[&str]) {
    wait_until(Duration::from_secs(10), "ranges of another plugin are left to it", || {
        let routes = node.netns().ip("route show").unwrap() + &node.netns().ip("-6 route show").unwrap();
        let closes = |line: &str| {
            let range = line.strip_prefix("blackhole ").or_else(|| line.strip_prefix("unreachable "));
            range.is_some_and(|range| ranges.iter().any(|begin| range.starts_with(begin)))
        };
        !routes.lines().any(closes)
    });
}

#[test]
fn ptp_has_its_addresses_from_our_pools_and_gives_them_back() {
    let site = Site::new();
    let options = AgentOptions { more_yaml: "leakGraceSeconds: 2\n".into(), ..AgentOptions::default() };
    let mut node = site.start_with(&options);
    node.apply(&[
        pool("first", "10.68.0.0/28", "blockSize: 29"),
        pool("second", "10.68.1.0/28", "blockSize: 29"),
        // The second address of each is the gateway, as host-local has it.
        reservation("special", &["10.68.0.0/31", "10.68.0.15", "10.68.1.0/31", "10.68.1.15"]),
        namespace("n", &[("cni.projectcalico.org/ipv4pools", "[\"second\"]")]),
        pod("n", "p", &[]),
    ]);
    let dir = plugin_dir(&site);
    let ptp =
        plugin(&node, &dir, "ptp", &json!({"mtu": 1400, "ipam": {"type": "poolward-ipam"}, "ipMasq": false}));
    let (mut a, mut b) = (Pod::container("a"), Pod::of("n", "p"));
    add(&ptp, &mut a);
    add(&ptp, &mut b);
    assert!(a.address().to_string().starts_with("10.68.0."), "{}", a.result);
    assert!(b.address().to_string().starts_with("10.68.1."), "the annotation counts: {}", b.result);
    let _echo = EchoServer::start(&b.netns, [7700]).unwrap();
    wait_until(Duration::from_secs(2), "one reaches the other", || a.reaches((b.address(), 7700)));
    assert_eq!(ptp.check(&a.attachment, &a.result).unwrap().code, 0);

    let release = node.ctl().finish(&["ipam", "release", "--yes", "--ip", &a.address().to_string()]).unwrap();
    assert!(!release.status.success(), "nobody can see here whether it lives");
    assert_eq!(holders(&node), 2);

    wait_until_left_to_others(&node, &["10.68."]);
    // A new agent knows them by its journal, and neither frees nor sweeps them.
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert_eq!((holders(&node), node.first_planned()), (2, 0));
    let mut wrong = a.result.clone();
    wrong["ips"][0]["address"] = json!("10.68.0.9/28");
    assert_ne!(ptp.check(&a.attachment, &wrong).unwrap().code, 0);
    let checked = node.ctl().json(&["ipam", "check"]).unwrap();
    assert_eq!(checked["violations"], json!([]), "{checked}");

    ptp.del(&a.attachment).unwrap().ok().unwrap();
    ptp.del(&a.attachment).unwrap().ok().unwrap();
    assert_eq!(holders(&node), 1);
    // And one that vanishes without a DEL, whose interface we never had.
    drop(_echo);
    let live = {
        let mut live = Pod::container("live");
        add(&ptp, &mut live);
        live
    };
    drop(b);
    wait_until(Duration::from_secs(8), "the leak is freed", || holders(&node) == 1);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(holders(&node), 1, "the live one stays");
    let mut brief = Pod::container("brief");
    add(&ptp, &mut brief);
    ptp.del(&brief.attachment).unwrap().ok().unwrap();
    assert_eq!(holders(&node), 1);

    // Without the journal nobody can tell which address of its block the live one has: those go to nobody. Blocks that
    // nobody has claimed yet have no such past.
    node.agent.kill().unwrap();
    std::fs::write(site.journal(), b"damaged").unwrap();
    node.agent.start_again().unwrap();
    let block_of = |address: IpAddr| match address {
        IpAddr::V4(v4) => u32::from(v4) >> 3,
        IpAddr::V6(_) => panic!("{address}"),
    };
    let later: Vec<Pod> = (0..8).map(|_| Pod::container("later")).collect();
    for pod in &later {
        let answer = ptp.add(&pod.attachment).unwrap();
        let given = (answer.code == 0).then(|| addresses_of(&answer.json)[0]);
        let before = block_of(live.address());
        assert!(
            given.is_none_or(|address| block_of(address) != before),
            "may be given twice: {}",
            answer.json
        );
    }
}

#[test]
fn a_bridge_has_a_whole_pool_on_its_link_if_its_special_addresses_are_kept() {
    let site = Site::new();
    let node = site.start();
    node.apply(&[pool("lan", "10.69.0.0/28", "blockSize: 29")]);
    let dir = plugin_dir(&site);
    let ipam = json!({"type": "poolward-ipam", "gateways": ["10.69.0.1"]});
    let bridge = plugin(&node, &dir, "bridge", &json!({"bridge": "br-lan", "ipam": ipam}));
    let mut a = Pod::container("a");
    let refused = bridge.add(&a.attachment).unwrap();
    assert!(
        refused.json["msg"].as_str().unwrap().contains("10.69.0.0, 10.69.0.15, 10.69.0.1"),
        "{}",
        refused.json
    );
    assert_eq!(holders(&node), 0, "nothing is kept");
    // As a runtime does after a refusal; the bridge plugin had made its interface already.
    bridge.del(&a.attachment).unwrap().ok().unwrap();

    node.apply(&[reservation("special", &["10.69.0.0/31", "10.69.0.15"])]);
    add(&bridge, &mut a);
    let mut b = Pod::container("b");
    add(&bridge, &mut b);
    let address = a.result["ips"][0]["address"].as_str().unwrap();
    assert!(address.starts_with("10.69.0.") && address.ends_with("/28"), "{}", a.result);
    assert_eq!(a.result["ips"][0]["gateway"], "10.69.0.1");
    node.netns().ip("address add 10.69.0.1/28 dev br-lan").unwrap();
    let _echo = EchoServer::start(&b.netns, [7701]).unwrap();
    assert!(a.reaches((b.address(), 7701)), "on the link");
    // From the node, which has the gateway's address, over its bridge and not into the block's blackhole.
    wait_until(Duration::from_secs(3), "the node reaches it", || {
        let to = (b.address(), 7701).into();
        // While the blackhole is there the kernel refuses to send at all.
        harness::udp_echo(node.netns(), to, b"x", Duration::from_millis(300)).is_ok_and(|echo| echo.is_some())
    });
    // A part of what is on the link: its own special addresses are none of the pool's.
    node.apply(&[pool("part", "10.69.1.128/28", "blockSize: 29")]);
    let ipam = json!({"type": "poolward-ipam", "ipv4_pools": ["part"], "subnets": ["10.69.1.0/24"]});
    let second = plugin(&node, &dir, "bridge", &json!({"bridge": "br-part", "ipam": ipam}));
    let mut c = Pod::container("c");
    add(&second, &mut c);
    assert!(c.result["ips"][0]["address"].as_str().unwrap().ends_with("/24"), "{}", c.result);
    assert_eq!(c.result["ips"][0]["gateway"], "10.69.1.1");
    node.netns().ip("address add 10.69.1.1/24 dev br-part").unwrap();
    let _echo_c = EchoServer::start(&c.netns, [7701]).unwrap();
    wait_until(Duration::from_secs(3), "the node reaches it by the link's route", || {
        let to = (c.address(), 7701).into();
        harness::udp_echo(node.netns(), to, b"x", Duration::from_millis(300)).is_ok_and(|echo| echo.is_some())
    });
    second.del(&c.attachment).unwrap().ok().unwrap();
    for pod in [&a, &b] {
        bridge.del(&pod.attachment).unwrap().ok().unwrap();
    }
    assert_eq!(holders(&node), 0);
}

#[test]
fn host_local_gives_from_the_nodes_ranges_and_our_dataplane_tags_and_routes() {
    let site = Site::new();
    let more_yaml = "podCIDRs: [10.244.3.0/24, \"fd44:3::/112\"]\n".to_owned();
    let mut node = site.start_with(&AgentOptions { more_yaml, ..AgentOptions::default() });
    let dir = plugin_dir(&site);
    let ranges = json!([[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges, "dataDir": dir.join("data")});
    let cni = plugin(&node, &dir, "poolward", &json!({"ipam": ipam}));
    let given = || {
        let files = std::fs::read_dir(dir.join("data/others")).into_iter().flatten();
        let is_address = |name: &str| name.parse::<IpAddr>().is_ok();
        files.filter(|file| is_address(&file.as_ref().unwrap().file_name().to_string_lossy())).count()
    };

    // Without a pool, and with one that would give the same addresses: refused, and given back.
    let mut a = Pod::container("a");
    let refused = |word: &str| {
        let answer = cni.add(&a.attachment).unwrap();
        assert_ne!(answer.code, 0, "{}", answer.json);
        let said = format!("{} {}", answer.json["msg"], answer.json["details"]);
        assert!(said.contains(word), "{word:?} is not in {said}");
        assert_eq!(given(), 0, "host-local keeps what was refused");
        // A runtime that asks first is told so.
        let status = cni.status().unwrap();
        assert_eq!(status.error_code(), Some(50), "{}", status.json);
    };
    refused("no pool covers 10.244.3.0/24");
    node.apply(&[pool("four", "10.244.0.0/16", "blockSize: 26, natOutgoing: true")]);
    refused("hands out addresses itself");
    node.apply(&[
        pool("four", "10.244.0.0/16", "blockSize: 26, natOutgoing: true, disabled: true"),
        pool("six", "fd44::/16", "blockSize: 122, disabled: true"),
    ]);
    let status = cni.status().unwrap();
    assert_eq!(status.code, 0, "no pool gives addresses, and none has to: {}", status.json);

    add(&cni, &mut a);
    let mut b = Pod::container("b");
    add(&cni, &mut b);
    let mut families: Vec<String> = a.addresses().iter().map(ToString::to_string).collect();
    families.sort();
    assert!(families[0].starts_with("10.244.3.") && families[1].starts_with("fd44:3::"), "{families:?}");
    assert_eq!(given(), 4);
    // The same again is answered as it was, and nothing is given twice.
    let again = cni.add(&a.attachment).unwrap().ok().unwrap();
    assert_eq!((addresses_of(&again), given()), (a.addresses(), 4));
    assert_eq!(cni.check(&a.attachment, &a.result).unwrap().code, 0);

    let _echo = EchoServer::start(&b.netns, [7702]).unwrap();
    for address in b.addresses() {
        assert!(a.reaches((address, 7702)), "{address}");
    }
    let traffic = node.status()["traffic"].clone();
    let of_pool = |name: &str| {
        let found = traffic.as_array().unwrap().iter().find(|entry| entry["pool"] == name);
        found.unwrap_or_else(|| panic!("no counters of {name} in {traffic}"))["txPackets"].as_u64().unwrap()
    };
    assert!(of_pool("four") > 0 && of_pool("six") > 0, "tagged by the pools that cover it: {traffic}");
    // What no pod has goes nowhere else.
    let route = node.netns().ip("route show 10.244.3.0/24").unwrap();
    assert!(route.contains("blackhole"), "{route}");
    assert_eq!(node.ctl().json(&["ipam", "check"]).unwrap()["violations"], json!([]));

    // A new agent, with its journal and without: the pods stay.
    for lose_journal in [false, true] {
        wait_until(Duration::from_secs(3), "nothing is left to do", || {
            node.status().pointer("/reconcile/lastPlanned").and_then(Value::as_u64) == Some(0)
        });
        node.agent.kill().unwrap();
        if lose_journal {
            std::fs::remove_file(site.journal()).unwrap();
        }
        node.agent.start_again().unwrap();
        assert_eq!(node.first_planned(), 0, "journal lost: {lose_journal}");
        assert_eq!(cni.check(&a.attachment, &a.result).unwrap().code, 0, "journal lost: {lose_journal}");
    }
    for pod in [&a, &b, &a] {
        cni.del(&pod.attachment).unwrap().ok().unwrap();
    }
    assert_eq!((given(), node.status()["pods"].as_u64()), (0, Some(0)));
    assert!(a.netns.link("eth0").is_err());
    // And not even the journal remembers.
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert_eq!(node.status()["pods"], 0);
}
