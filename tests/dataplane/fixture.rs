//! A node with an uplink, pods, and the dataplane under test.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use dataplane::{Dataplane, DesiredState, PodWiring, Pool, Report, Settings, WireError, Wired};
use harness::{Lab, NetNs, Run};
use model::{Cidr, Dscp, Handle, Identity, TagId, Workload};

/// MTU of pods in these tests: nobody's default.
pub(crate) const MTU_BYTES: u32 = 1480;

/// A node of its own, a firewall and a server behind it; the dataplane is open in the node.
pub(crate) struct Node {
    pub(crate) lab: Lab,
    pub(crate) dataplane: Dataplane,
    pub(crate) pin_dir: PathBuf,
}

/// A pod's namespace and what it is to be wired with.
pub(crate) struct Pod {
    pub(crate) netns: NetNs,
    pub(crate) wiring: PodWiring,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        mount_bpffs();
        let lab = Lab::unique("pwdp").unwrap();
        let name = format!("pwdp-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let pin_dir = Path::new("/sys/fs/bpf").join(name);
        let mut settings = Settings::new(pin_dir.clone());
        change(&mut settings);
        let dataplane = lab.node.run(|| Dataplane::open(settings)).unwrap().unwrap();
        Self { lab, dataplane, pin_dir }
    }

    /// The node's namespace.
    pub(crate) fn netns(&self) -> &NetNs {
        &self.lab.node
    }

    /// Calls the dataplane from a thread in the node, as the agent does.
    pub(crate) fn call<T: Send>(&self, call: impl FnOnce(&Dataplane) -> T + Send) -> T {
        self.lab.node.run(|| call(&self.dataplane)).unwrap()
    }

    pub(crate) fn wire(&self, pod: &Pod) -> Result<Wired, WireError> {
        let file = pod.open();
        self.call(|dataplane| dataplane.wire(&pod.wiring, file.as_fd()))
    }

    pub(crate) fn unwire(&self, pod: &Pod) -> bool {
        self.call(|dataplane| dataplane.unwire(pod.handle())).unwrap()
    }

    /// The first difference that CHECK would name.
    pub(crate) fn check(&self, pod: &Pod) -> Option<String> {
        let file = pod.open();
        self.call(|dataplane| dataplane.check(&pod.wiring, file.as_fd())).unwrap().map(|d| d.to_string())
    }

    /// A desired state of these pools and pods, complete.
    pub(crate) fn desired(&self, pools: &[Pool], pods: &[&Pod]) -> DesiredState {
        DesiredState {
            since: self.dataplane.epoch(),
            sweep: true,
            pools: pools.to_vec(),
            own_blocks: Vec::new(),
            closed_ranges: Vec::new(),
            peers: Vec::new(),
            remote_ranges: Vec::new(),
            underlay_ipv4: None,
            inner_ipv4: None,
            pods: pods.iter().map(|pod| pod.wiring.identity.clone()).collect(),
            forward_ipv4: true,
            forward_ipv6: true,
        }
    }

    pub(crate) fn reconcile(&self, desired: &DesiredState) -> Report {
        // As an agent would that has just computed it.
        let desired = DesiredState { since: self.dataplane.epoch(), ..desired.clone() };
        self.call(|dataplane| dataplane.reconcile(&desired))
    }

    /// Reconciles; fails on any error; returns what was planned.
    pub(crate) fn reconcile_ok(&self, desired: &DesiredState) -> Vec<String> {
        let report = self.reconcile(desired);
        assert!(report.errors.is_empty(), "{:?} after {:#?}", report.errors, report.planned);
        report.planned
    }

    /// Names of the node's interfaces, without what the lab made.
    pub(crate) fn our_links(&self) -> Vec<String> {
        let links = self.netns().ip_json("link show").unwrap();
        let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
        names.filter(|name| name != "lo" && name != "up0").collect()
    }

    /// Routes of our protocol, both families, as `ip` prints them.
    pub(crate) fn our_routes(&self) -> Vec<String> {
        let show = |family| self.netns().ip(&format!("{family} route show table main proto 80")).unwrap();
        let lines = |text: String| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        [lines(show("-4")), lines(show("-6"))].concat()
    }

    /// What is pinned for interfaces.
    pub(crate) fn pinned_links(&self) -> Vec<String> {
        let mut names = Vec::new();
        for version in fs::read_dir(&self.pin_dir).unwrap().map(Result::unwrap) {
            if let Ok(links) = fs::read_dir(version.path().join("links")) {
                names.extend(links.map(|link| link.unwrap().file_name().into_string().unwrap()));
            }
        }
        names.sort();
        names
    }

    /// A map as `bpftool` prints it.
    pub(crate) fn map_dump(&self, name: &str) -> serde_json::Value {
        let version = fs::read_dir(&self.pin_dir).unwrap().next().unwrap().unwrap().path();
        let path = version.join(name);
        let text =
            Run::new("bpftool").args(["-j", "map", "dump", "pinned", path.to_str().unwrap()]).ok().unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Takes an entry with a number for a key out of a map, behind the dataplane's back.
    pub(crate) fn map_delete(&self, name: &str, key: u32) {
        let version = fs::read_dir(&self.pin_dir).unwrap().next().unwrap().unwrap().path();
        let bytes = key.to_ne_bytes().map(|byte| byte.to_string());
        let args =
            ["map", "delete", "pinned", version.join(name).to_str().unwrap(), "key"].map(str::to_owned);
        Run::new("bpftool").args(args.iter().chain(&bytes)).ok().unwrap();
    }

    /// Takes the programs off an interface, behind the dataplane's back.
    pub(crate) fn detach(&self, ifindex: u32) {
        let links = self.netns().ip_json("link show").unwrap();
        let link = links.as_array().unwrap().iter().find(|link| link["ifindex"] == ifindex).unwrap();
        let ifname = link["ifname"].as_str().unwrap();
        // Fails where there are no filters.
        let delete = Run::new("tc").args(["qdisc", "del", "dev", ifname, "clsact"]);
        let _ = delete.finish_in(self.netns()).unwrap();
        let version = fs::read_dir(&self.pin_dir).unwrap().next().unwrap().unwrap().path();
        for link in fs::read_dir(version.join("links")).unwrap().map(|link| link.unwrap().path()) {
            if link.file_name().unwrap().to_str().unwrap().starts_with(&format!("{ifindex}-")) {
                fs::remove_file(link).unwrap();
            }
        }
    }

    /// Takes a pinned program off an uplink, behind the dataplane's back.
    pub(crate) fn detach_uplink(&self, ifindex: u32) {
        let version = fs::read_dir(&self.pin_dir).unwrap().next().unwrap().unwrap().path();
        let pins = fs::read_dir(version.join("links")).unwrap().map(|link| link.unwrap().path());
        let of_uplink: Vec<PathBuf> = pins
            .filter(|pin| pin.file_name().unwrap().to_str().unwrap().starts_with(&format!("{ifindex}-")))
            .collect();
        assert!(!of_uplink.is_empty(), "nothing is pinned for {ifindex}");
        of_uplink.into_iter().for_each(|pin| fs::remove_file(pin).unwrap());
    }

    /// Nothing of any pod is left. Pins of a deleted interface go a little later than it.
    pub(crate) fn assert_clean(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !self.pinned_links().is_empty() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(self.our_links(), [""; 0], "interfaces");
        assert_eq!(self.our_routes(), [""; 0], "routes");
        assert_eq!(self.pinned_links(), [""; 0], "pins");
        assert_eq!(self.map_dump("pw_endpoints"), serde_json::json!([]), "endpoints");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let removed = self.lab.node.run(|| self.dataplane.remove_all());
        if !std::thread::panicking() {
            removed.unwrap().unwrap();
            assert!(!self.pin_dir.exists(), "{} is left", self.pin_dir.display());
        }
    }
}

impl Pod {
    /// A pod named by a number, with these addresses.
    pub(crate) fn new(number: u8, ipv4: Option<&str>, ipv6: Option<&str>) -> Self {
        let netns = NetNs::unique("pwdp-pod").unwrap();
        let container_id = format!("{number:064x}");
        Self { wiring: wiring(&container_id, ipv4, ipv6), netns }
    }

    pub(crate) fn v4(number: u8) -> Self {
        Self::new(number, Some(&format!("10.77.0.{number}")), None)
    }

    pub(crate) fn v6(number: u8) -> Self {
        Self::new(number, None, Some(&format!("fd77::{number}")))
    }

    pub(crate) fn dual(number: u8) -> Self {
        Self::new(number, Some(&format!("10.77.0.{number}")), Some(&format!("fd77::{number}")))
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.wiring.identity.handle
    }

    pub(crate) fn host_ifname(&self) -> String {
        self.handle().host_ifname()
    }

    pub(crate) fn ipv4(&self) -> Ipv4Addr {
        self.wiring.identity.ipv4.unwrap()
    }

    pub(crate) fn ipv6(&self) -> Ipv6Addr {
        self.wiring.identity.ipv6.unwrap()
    }

    /// As the plugin does it.
    pub(crate) fn open(&self) -> File {
        File::open(self.netns.path()).unwrap()
    }

    /// Whether `count` of `count` pings come back, the first one too.
    pub(crate) fn ping(&self, to: impl Into<std::net::IpAddr>) -> bool {
        let to = to.into().to_string();
        let args = ["-n", "-q", "-c", "3", "-i", "0.02", "-W", "1", &to];
        let finished = Run::new("ping").args(args).finish_in(&self.netns).unwrap();
        String::from_utf8_lossy(&finished.stdout).contains("3 received")
    }
}

pub(crate) fn wiring(container_id: &str, ipv4: Option<&str>, ipv6: Option<&str>) -> PodWiring {
    PodWiring {
        identity: Identity {
            handle: Handle::new(container_id, "eth0").unwrap(),
            ipv4: ipv4.map(|text| text.parse().unwrap()),
            ipv6: ipv6.map(|text| text.parse().unwrap()),
            network: "poolward".into(),
            workload: Workload { namespace: "tests".into(), pod: "pod".into(), uid: String::new() },
            extras: model::Extras::default(),
        },
        mtu_bytes: MTU_BYTES,
    }
}

pub(crate) fn pool(cidr: &str, tag: u16, nat_outgoing: bool, dscp: Option<u32>) -> Pool {
    Pool {
        cidr: cidr.parse::<Cidr>().unwrap(),
        tag: TagId::new(tag).unwrap(),
        nat_outgoing,
        dscp: dscp.map(|value| Dscp::new(value).unwrap()),
    }
}

/// The pools of most tests.
pub(crate) fn pools() -> Vec<Pool> {
    vec![pool("10.77.0.0/24", 1, false, None), pool("fd77::/112", 1, false, None)]
}

fn mount_bpffs() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        Run::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).ok().unwrap();
    }
}
