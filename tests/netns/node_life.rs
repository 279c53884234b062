//! A node's life around its agent: what is installed before, when the runtime is told, what a container may and must be
//! given, and that nothing is left in the end.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::{AgentOptions, Binaries, Finished, Run, wait_until};

use crate::manifest::pool;
use crate::site::Site;

const SOON: Duration = Duration::from_secs(10);

/// The directories of a node's runtime, and the lines of configuration that name them.
struct Runtime {
    plugins: PathBuf,
    conflist: PathBuf,
    mark: PathBuf,
}

impl Runtime {
    fn of(site: &Site) -> Self {
        let (plugins, lists) = (site.files.dir().join("bin"), site.files.dir().join("net.d"));
        std::fs::create_dir(&plugins).unwrap();
        std::fs::create_dir(&lists).unwrap();
        let mut mark = site.files.pin_dir().to_owned().into_os_string();
        mark.push("_mark");
        Self { plugins, conflist: lists.join("10-poolward.conflist"), mark: mark.into() }
    }

    fn options(&self, more_yaml: &str) -> AgentOptions {
        let (conflist, mark) = (self.conflist.display(), self.mark.display());
        let more_yaml = format!("cni: {{conflistPath: {conflist}}}\nbpfSharedMark: {mark}\n{more_yaml}");
        AgentOptions { more_yaml, ..AgentOptions::default() }
    }

    /// As the container that comes before the agent's.
    fn install(&self, site: &Site) {
        let from = site.files.dir().join("from");
        std::fs::create_dir_all(&from).unwrap();
        let plugin = Binaries::find().unwrap().plugin;
        std::fs::copy(plugin, from.join("poolward")).unwrap();
        std::fs::copy("/usr/lib/cni/loopback", from.join("loopback")).unwrap();
        let config = site.files.dir().join("install.yaml");
        std::fs::write(&config, format!("bpfSharedMark: {}\n", self.mark.display())).unwrap();
        let args = ["install", "--config", text(&config), "--from", text(&from), "--to", text(&self.plugins)];
        Run::new(Binaries::find().unwrap().agent).args(args).ok().unwrap();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Outside of what the site deletes; it is there unless a clean-up was the test.
        let _ = std::fs::remove_dir(&self.mark);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn said(finished: &Finished) -> String {
    String::from_utf8_lossy(&[finished.stdout.clone(), finished.stderr.clone()].concat()).into_owned()
}

fn probe(site: &Site, what: &str) -> bool {
    let config = site.files.config();
    let args = ["probe", what, "--config", text(&config)];
    Run::new(Binaries::find().unwrap().agent).args(args).finish().unwrap().status.success()
}

#[test]
fn the_runtime_is_told_once_pods_can_get_addresses_and_never_untold() {
    let site = Site::new();
    let runtime = Runtime::of(&site);
    runtime.install(&site);
    assert!(!probe(&site, "live") && !probe(&site, "ready"), "a probe succeeds without an agent");
    let mut node = site.start_with(&runtime.options(""));
    assert!(probe(&site, "live") && probe(&site, "ready"), "{}", node.agent.log_tail());
    // It serves, but there is no pool.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!runtime.conflist.exists(), "told although no pod could get an address");
    node.apply(&[pool("a", "10.81.0.0/26", "blockSize: 29")]);
    wait_until(SOON, "the runtime is told", || runtime.conflist.exists());
    node.add_container("first");
    let list: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&runtime.conflist).unwrap()).unwrap();
    assert_eq!(list["plugins"][0]["type"], "poolward");
    assert_eq!(list["plugins"][0]["agentSocket"], text(&site.files.socket()));

    let inode = || std::fs::metadata(&runtime.conflist).unwrap().ino();
    let before = inode();
    node.agent.stop().unwrap();
    assert_eq!(inode(), before, "the end of an agent is not the end of the network");
    node.agent.start_again().unwrap();
    wait_until(SOON, "the next agent knows it", || site.log().contains("the runtime knows already"));
    assert_eq!(inode(), before, "a list that is the same was written again");
    node.agent.kill().unwrap();
    assert_eq!(inode(), before);
}

#[test]
fn a_bpffs_of_the_containers_own_is_refused_with_what_to_mount() {
    let site = Site::new();
    let runtime = Runtime::of(&site);
    runtime.install(&site);
    let mut node = site.start_with(&runtime.options(""));
    node.agent.stop().unwrap();
    let agent = Binaries::find().unwrap().agent;
    let script = format!(
        "mount -t bpf bpf /sys/fs/bpf && exec {} --config {}",
        agent.display(),
        site.files.config().display()
    );
    let own = Run::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .limit(Duration::from_secs(20))
        .finish_in(&site.lab.node)
        .unwrap();
    assert_eq!(own.status.code(), Some(1), "{}", said(&own));
    for word in [text(&runtime.mark), "not the host's", "hostPath"] {
        assert!(said(&own).contains(word), "{word} is not in: {}", said(&own));
    }
    // Another mount namespace with the host's is as good as the host's own.
    node.agent.start_again().unwrap();
}

/// The agent as the DaemonSet runs it: two capabilities, its own `/proc/sys` read-only, the host's beside it.
struct Contained(Child);

impl Contained {
    fn start(site: &Site) -> Self {
        let agent = Binaries::find().unwrap().agent;
        let script = format!(
            "mkdir {sys} && mount --bind /proc/sys/net {sys} && mount --bind /proc/sys /proc/sys && \
             mount -o remount,bind,ro /proc/sys && \
             exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+net_admin,+sys_admin {} --config {}",
            agent.display(),
            site.files.config().display(),
            sys = site.files.dir().join("sys").display(),
        );
        let log = std::fs::File::options().append(true).open(site.files.log()).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(site.lab.node.run(|| command.spawn()).unwrap().unwrap())
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_capabilities_and_the_hosts_switches_are_all_that_an_agent_needs() {
    let site = Site::new();
    let runtime = Runtime::of(&site);
    runtime.install(&site);
    let switches = format!("sysctlDir: {}\n", site.files.dir().join("sys").display());
    std::fs::create_dir(site.files.dir().join("sys")).unwrap();
    // Once with all rights, for its configuration and a pool.
    let mut node = site.start_with(&runtime.options(&switches));
    node.apply(&[
        pool("four", "10.82.0.0/26", "blockSize: 29, natOutgoing: true"),
        pool("six", "fd00:82::/112", "blockSize: 124, natOutgoing: true"),
    ]);
    node.agent.stop().unwrap();
    std::fs::remove_dir(site.files.dir().join("sys")).unwrap();
    std::fs::remove_file(site.files.log()).unwrap();
    std::fs::write(site.files.log(), "").unwrap();
    site.lab.node.set_sysctl("ipv4/ip_forward", "0").unwrap();

    let contained = Contained::start(&site);
    wait_until(SOON, "it is ready", || probe(&site, "ready"));
    assert_eq!(site.lab.node.sysctl("ipv4/ip_forward").unwrap(), "1", "the switch was not written");
    let cni = site.cni().with_config(|config| {
        config["ipam"] = serde_json::json!({"assign_ipv4": true, "assign_ipv6": true});
    });
    let pod = crate::site::Pod::container("contained");
    let result = cni.add(&pod.attachment).unwrap().ok().unwrap_or_else(|e| panic!("{e:#}\n{}", site.log()));
    assert_eq!(crate::site::addresses_of(&result).len(), 2, "{result}");
    assert_eq!(cni.check(&pod.attachment, &result).unwrap().code, 0);
    cni.del(&pod.attachment).unwrap().ok().unwrap();
    drop(contained);
}

/// Everything on a node that a person can list.
fn listing(site: &Site, runtime: &Runtime) -> String {
    let node = &site.lab.node;
    let mut all = String::new();
    for what in [
        "-o link show",
        "-o addr show",
        "route show table all",
        "-6 route show table all",
        "rule",
        "nexthop",
        "neigh",
    ] {
        // What is learned and forgotten by itself is nobody's work.
        let learned = |line: &&str| {
            !line.contains("lladdr") && !line.contains("FAILED") && !line.contains("INCOMPLETE")
        };
        let lines: Vec<String> = node.ip(what).unwrap().lines().filter(learned).map(str::to_owned).collect();
        all.push_str(&format!("ip {what}:\n{}\n", lines.join("\n")));
    }
    let nft = Run::new("nft").args(["list", "ruleset"]).ok_in(node).unwrap();
    let tc = Run::new("tc").args(["qdisc", "show"]).ok_in(node).unwrap();
    let bpf = Run::new("bpftool").args(["net", "show"]).ok_in(node).unwrap();
    all.push_str(&format!("nft:\n{nft}\ntc:\n{tc}\nbpf:\n{bpf}\n"));
    for path in [site.files.pin_dir(), &runtime.mark] {
        all.push_str(&format!("{}: {}\n", path.display(), path.exists()));
    }
    for dir in [&runtime.plugins, runtime.conflist.parent().unwrap()] {
        let found = Run::new("find").args([text(dir)]).ok().unwrap();
        all.push_str(&found);
    }
    all.push_str(&format!("state: {}\n", site.files.dir().join("state").exists()));
    all.push_str(&format!("socket: {}\n", site.files.socket().exists()));
    all
}

#[test]
fn a_node_that_is_cleaned_up_is_as_it_was_found() {
    let site = Site::new();
    let runtime = Runtime::of(&site);
    // What a plugin of the distribution's own, and somebody else's table and route, have to survive.
    std::fs::write(runtime.plugins.join("bridge"), "theirs").unwrap();
    site.lab.node.nft("table inet theirs {\n chain c {\n }\n}\n").unwrap();
    site.lab.node.ip("route add blackhole 203.0.113.0/24 proto 99").unwrap();
    let before = listing(&site, &runtime);

    runtime.install(&site);
    let mut node = site.start_with(&runtime.options(""));
    node.apply(&[pool("a", "10.83.0.0/26", "blockSize: 29, ipipMode: Always, natOutgoing: true")]);
    wait_until(SOON, "the runtime is told", || runtime.conflist.exists());
    let _pods = [node.add_container("one"), node.add_container("two")];
    let used = listing(&site, &runtime);
    assert_ne!(used, before);

    let cleanup = |more: &[&str]| {
        let config = site.files.config();
        let args = ["node", "cleanup", "--config", text(&config), "--plugins", text(&runtime.plugins)];
        Run::new(Binaries::find().unwrap().ctl)
            .args(args.iter().chain(more))
            .finish_in(&site.lab.node)
            .unwrap()
    };
    let refused = cleanup(&["--yes"]);
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("an agent runs"), "{}", said(&refused));
    let listed = cleanup(&["--dry-run"]);
    assert!(
        listed.status.success() && said(&listed).contains("has to be stopped first"),
        "{}",
        said(&listed)
    );
    assert_eq!(listing(&site, &runtime), used, "a refusal or a listing has changed something");

    node.agent.kill().unwrap();
    let listed = said(&cleanup(&["--dry-run"]));
    let expected =
        ["interface pw", "10.83.0.0/26 unreachable", "nftables table inet poolward", "eBPF programs"];
    let files = [text(&runtime.conflist), "bin/poolward", "bin/loopback", text(&runtime.mark), "/state"];
    for thing in expected.iter().chain(&files) {
        assert!(listed.contains(thing), "{thing} is not in:\n{listed}");
    }
    assert!(
        !listed.contains("bridge") && !listed.contains("theirs") && !listed.contains("203.0.113"),
        "{listed}"
    );
    let unasked = cleanup(&[]);
    assert!(!unasked.status.success() && said(&unasked).contains("--yes"), "{}", said(&unasked));
    let removed = cleanup(&["--yes"]);
    assert!(removed.status.success(), "{}", said(&removed));
    // Sockets are the service's to remove; a crashed one's stays for the clean-up.
    similar(&listing(&site, &runtime), &before);
    let again = cleanup(&["--yes"]);
    assert!(again.status.success() && said(&again).contains("nothing of Poolward"), "{}", said(&again));
    similar(&listing(&site, &runtime), &before);
}

/// The same lines; what differs is shown alone.
fn similar(after: &str, before: &str) {
    let missing: Vec<&str> =
        before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    let left: Vec<&str> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
    assert!(missing.is_empty() && left.is_empty(), "missing: {missing:#?}\nleft: {left:#?}");
}
