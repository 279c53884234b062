//! What somebody breaks on the node is put back by one operation; what is not ours is never touched.

use std::time::Duration;

use harness::{AgentOptions, wait_until};
use serde_json::Value;

use crate::kernel::{delete_key, detach, forget_endpoint, traces};
use crate::manifest::pool;
use crate::site::{Node, Pod, Site};

/// Two seconds by the timer, and what the runs themselves take.
const LIMIT: Duration = Duration::from_secs(3);

struct Scene<'s> {
    node: Node<'s>,
    pod: Pod,
    block: String,
}

impl<'s> Scene<'s> {
    /// With a timer of one second, or practically none.
    fn new(site: &'s Site, resync_seconds: u64) -> Self {
        let node = site.start_with(&AgentOptions { resync_seconds, ..AgentOptions::default() });
        node.apply(&[
            pool("a", "10.75.0.0/26", "blockSize: 29, natOutgoing: true, dscp: 12"),
            pool("six", "fd75::/120", "blockSize: 125"),
        ]);
        let pod = node.add_container("a");
        let block = node.address_state(pod.address())["block"].as_str().unwrap().to_owned();
        Self { node, pod, block }
    }

    /// Operations that the agent says it has done, without those by which programs settle in their time.
    fn operations(&self) -> Vec<String> {
        let log = self.node.site.log();
        let words = ["brought the kernel in step operation=", "repaired the routes operation="];
        let of_line = |line: &str| words.iter().find_map(|w| Some(line.split_once(w)?.1.to_owned()));
        log.lines()
            .filter_map(of_line)
            .filter(|operation| !operation.contains("in the lasting way"))
            .collect()
    }

    /// What traces leave out, and nft.
    fn state(&self) -> (String, Value) {
        let mut ruleset = self.node.netns().nft_list("ruleset").unwrap();
        // Handles count up with every replacement.
        strip_handles(&mut ruleset);
        let pools =
            ["pw_pools_v4", "pw_pools_v6"].map(|map| crate::kernel::dump_map(&self.node.site.files, map));
        let forwarding = self.node.netns().sysctl("ipv4/ip_forward").unwrap();
        (format!("{}\npools {pools:?}\nforwarding {forwarding}", traces(&self.node)), ruleset)
    }

    /// Breaks something, and waits until all is as before, by one operation that says these words.
    fn check(&self, what: &str, words: &[&str], damage: impl FnOnce()) {
        let (before, done_before) = (self.state(), self.operations());
        damage();
        wait_until(LIMIT, what, || self.state() == before);
        // A second operation would come at once.
        std::thread::sleep(Duration::from_millis(300));
        let done = self.operations().split_off(done_before.len());
        assert_eq!(done.len(), 1, "{what}: {done:#?}");
        for word in words {
            assert!(done[0].contains(word), "{what}: {word:?} is not in {done:?}");
        }
        assert_eq!(self.node.check(&self.pod), None, "{what}");
        assert_eq!(self.node.status()["ready"], true, "{what}");
    }
}

fn strip_handles(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("handle");
            map.values_mut().for_each(strip_handles);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_handles),
        _ => {}
    }
}

#[test]
fn a_route_or_interface_that_somebody_changed_is_repaired_by_its_event() {
    let site = Site::new();
    let scene = Scene::new(&site, 3600);
    let (host, address) = (scene.pod.host_ifname(), scene.pod.address().to_string());
    let ip = |line: &str| {
        let line = line.replace("HOST", &host).replace("ADDRESS", &address).replace("BLOCK", &scene.block);
        scene.node.netns().ip(&line).unwrap();
    };
    scene.check("route to a pod deleted", &["add route", &address], || {
        ip("route del ADDRESS/32 dev HOST proto 80");
    });
    scene.check("blackhole deleted", &["add route", &scene.block], || {
        ip("route del blackhole BLOCK proto 80");
    });
    scene.check("route of ours that should not be", &["delete route", "10.75.0.63"], || {
        ip("route add blackhole 10.75.0.63/32 proto 80");
    });
}

#[test]
fn an_interface_taken_down_is_up_again_with_its_routes() {
    let site = Site::new();
    let scene = Scene::new(&site, 3600);
    let before = scene.state();
    // Down takes routes and addresses of the interface with it.
    scene.node.netns().ip(&format!("link set {} down", scene.pod.host_ifname())).unwrap();
    wait_until(LIMIT, "up again", || scene.state() == before);
    assert_eq!(scene.node.check(&scene.pod), None);
}

#[test]
fn what_has_no_event_is_repaired_by_the_timer() {
    let site = Site::new();
    let scene = Scene::new(&site, 1);
    let (host, address) = (scene.pod.host_ifname(), scene.pod.address().to_string());
    let netns = scene.node.netns();
    let our_table = || {
        let tables = netns.nft_list("tables").unwrap();
        let found =
            tables["nftables"].as_array().unwrap().iter().find_map(|entry| entry.get("table")).cloned();
        let table = found.expect("a table of ours");
        format!("{} {}", table["family"].as_str().unwrap(), table["name"].as_str().unwrap())
    };
    scene.check("nftables table flushed", &["nftables table"], || {
        netns.nft(&format!("flush table {}", our_table())).unwrap();
    });
    scene.check("nftables table deleted", &["nftables table"], || {
        netns.nft(&format!("delete table {}", our_table())).unwrap();
    });
    scene.check("nftables rule added to ours", &["nftables table"], || {
        let chain = netns.nft_list(&format!("table {}", our_table())).unwrap();
        let chain = chain["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .find_map(|entry| entry.get("chain"))
            .cloned()
            .unwrap();
        netns
            .nft(&format!("add rule {} {} counter drop", our_table(), chain["name"].as_str().unwrap()))
            .unwrap();
    });
    scene.check("program detached", &["attach"], || detach(&scene.node, &host));
    scene.check("endpoint forgotten", &["endpoint"], || forget_endpoint(&scene.node, &host));
    scene.check("pool forgotten", &["set pool 10.75.0.0/26"], || {
        // The key of the trie: length in bits, then the address.
        delete_key(&site.files, "pw_pools_v4", &[&26_u32.to_ne_bytes()[..], &[10, 75, 0, 0]].concat());
    });
    scene.check("neighbour changed", &["neighbour", &address], || {
        netns
            .ip(&format!("neighbour replace {address} lladdr 02:00:00:00:00:01 nud permanent dev {host}"))
            .unwrap();
    });
    scene.check("forwarding switched off", &["ip_forward"], || {
        netns.set_sysctl("ipv4/ip_forward", "0").unwrap();
    });
}

#[test]
fn what_is_not_ours_is_never_touched() {
    let site = Site::new();
    let mut scene = Scene::new(&site, 1);
    let netns = scene.node.netns();
    netns
        .ip_batch(
            "link add other0 type veth peer name other1\n\
             link set other0 alias something\n\
             link add pw0123456789abc type veth peer name other2\n\
             link set other0 up\n\
             route add blackhole 10.75.0.128/26 proto static\n\
             route add 10.75.0.62/32 dev other0 proto 81\n\
             route add 203.0.113.0/24 via 192.0.2.1 proto boot\n\
             neighbour add 192.0.2.77 lladdr 02:00:00:00:00:77 nud permanent dev up0\n",
        )
        .unwrap();
    netns
        .nft(
            "table inet somebody {
                chain c {
                    type filter hook forward priority 5; policy accept;
                    counter
                }
            }",
        )
        .unwrap();
    let foreign_pin = site.files.pin_dir().join("somebody");
    std::fs::create_dir(&foreign_pin).unwrap();
    let links = || netns.ip("link show").unwrap();
    let all = |scene: &Scene<'_>| (scene.state(), links());
    // Counters of the foreign chain move with traffic; there is none here.
    let before = all(&scene);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(all(&scene), before);
    }
    scene.node.agent.kill().unwrap();
    scene.node.agent.start_again().unwrap();
    assert_eq!(scene.node.first_planned(), 0);
    assert_eq!(all(&scene), before);
    scene.node.del(&scene.pod);
    scene.node.ctl().run(&["delete", "pool", "a", "six"]).unwrap();
    for (what, command) in [
        ("link", "link show dev other0"),
        ("link", "link show dev pw0123456789abc"),
        ("route", "route show 10.75.0.128/26"),
        ("route", "route show 10.75.0.62/32"),
        ("route", "route show 203.0.113.0/24"),
        ("neighbour", "neighbour show 192.0.2.77 nud permanent"),
    ] {
        assert!(!netns.ip(command).unwrap().trim().is_empty(), "{what}: {command}");
    }
    assert!(netns.nft_list("table inet somebody").is_ok() && foreign_pin.exists());
}
