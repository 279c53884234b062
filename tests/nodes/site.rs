//! A network of nodes of its own for every test, around the control plane that they share.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use harness::lab::NODE_UPLINK;
use harness::{
    Agent, AgentOptions, Attachment, Binaries, Cni, ControlPlane, ControlPlaneOptions, Ctl, Fabric,
    FabricNode, Kubectl, Leak, Management, ManagementLink, NetNs, Run, Underlay, Witnessed, wait_until,
};
use serde_json::{Value, json};

/// Names of namespaces, files and pins begin with this.
const NAME: &str = "pwnodes";

/// Where the API server writes down what agents ask for.
const AUDIT_LOG: &str = "audit.log";

/// How long what takes a few round trips may take on a machine that is busy with much else.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Objects in etcd that belong to a test.
const OF_A_TEST: [&str; 3] = ["/registry/poolward.io/", "/registry/minions/", "/registry/pods/"];

/// The network of one test, before there are agents.
pub(crate) struct Site {
    pub(crate) fabric: Fabric,
    links: Vec<ManagementLink>,
    management: &'static Mutex<Management>,
    /// One test at a time: they share the control plane.
    _turn: MutexGuard<'static, ()>,
}

impl Site {
    pub(crate) fn new(underlay: Underlay, nodes_count: u8) -> Self {
        mount_bpffs();
        static TURN: Mutex<()> = Mutex::new(());
        // A test that failed in its turn has broken nothing that is not mended here.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = shared();
        let mut management = lock(shared);
        // A test that failed may have left it dead.
        if management.control_plane.api().pid().is_none() {
            management.control_plane.start_api().unwrap();
        }
        for prefix in OF_A_TEST {
            management.control_plane.wipe(prefix).unwrap();
        }
        let fabric = Fabric::unique(NAME, underlay, nodes_count).unwrap();
        let links = fabric.nodes.iter().map(|node| management.join(node).unwrap()).collect();
        Self { fabric, links, management: shared, _turn: turn }
    }

    /// Registers a node as its kubelet would and starts its agent. Numbers begin with 1, as in its name.
    pub(crate) fn start(&self, number: u8) -> Node<'_> {
        self.start_with(number, "")
    }

    /// The same with more lines in the agent's configuration.
    pub(crate) fn start_with(&self, number: u8, more_yaml: &str) -> Node<'_> {
        let at = self.at(number);
        self.control_plane(|it| it.create_node(&at.name, &at.addresses()).unwrap());
        self.start_registered(number, more_yaml)
    }

    /// Starts the agent of a node that is registered.
    pub(crate) fn start_registered(&self, number: u8, more_yaml: &str) -> Node<'_> {
        let at = self.at(number);
        let options = AgentOptions {
            node_name: at.name.clone(),
            kubeconfig: Some(self.links[usize::from(number) - 1].kubeconfig.clone()),
            more_yaml: more_yaml.to_owned(),
            ..AgentOptions::default()
        };
        Node { at, agent: Agent::start(&at.netns, &at.files, &options).unwrap() }
    }

    /// Registers and starts all nodes.
    pub(crate) fn start_all(&self) -> Vec<Node<'_>> {
        self.fabric.nodes.iter().map(|at| self.start(at.number)).collect()
    }

    /// A machine by its number.
    pub(crate) fn at(&self, number: u8) -> &FabricNode {
        &self.fabric.nodes[usize::from(number) - 1]
    }

    /// Does something with the control plane.
    pub(crate) fn control_plane<T>(&self, work: impl FnOnce(&mut ControlPlane) -> T) -> T {
        work(&mut lock(self.management).control_plane)
    }

    /// Pulls the cable between a node and the API server.
    pub(crate) fn cut_off(&self, number: u8) {
        lock(self.management).cut(&self.links[usize::from(number) - 1]).unwrap();
    }

    /// Puts it back.
    pub(crate) fn join_again(&self, number: u8) {
        lock(self.management).mend(&self.links[usize::from(number) - 1]).unwrap();
    }

    /// `kubectl` as administrator.
    pub(crate) fn kubectl(&self) -> Kubectl {
        lock(self.management).control_plane.kubectl().unwrap()
    }

    /// `kubectl` as whom the agents are.
    pub(crate) fn agents_kubectl(&self) -> Kubectl {
        lock(self.management).control_plane.kubectl_as(&self.links[0].kubeconfig).unwrap()
    }

    /// Every request that was made as an agent and has been answered: verb, resource and HTTP status.
    pub(crate) fn audited(&self) -> Vec<(String, String, u64)> {
        let path = lock(self.management).control_plane.dir().join(AUDIT_LOG);
        // It is made with the first request.
        let log = std::fs::read_to_string(path).unwrap_or_default();
        let requests = log.lines().map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            let text =
                |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
            (text("/verb"), text("/objectRef/resource"), code)
        });
        requests.collect()
    }

    /// Applies pools, each `(name, range, more)`, where `more` are fields of the spec in YAML's flow style.
    pub(crate) fn apply_pools(&self, pools: &[(&str, &str, &str)]) {
        let manifests = pools.iter().map(|(name, cidr, more)| {
            format!(
                "---\napiVersion: poolward.io/v1\nkind: IPPool\nmetadata: {{name: {name}}}\n\
                 spec: {{cidr: \"{cidr}\", {more}}}\n"
            )
        });
        self.kubectl().apply(&manifests.collect::<String>()).unwrap();
    }

    /// All objects of a kind.
    pub(crate) fn objects(&self, kind: &str) -> Vec<Value> {
        self.kubectl().json(&["get", kind]).unwrap()["items"].as_array().unwrap().clone()
    }

    /// Blocks as `(range, name of the owner)`.
    pub(crate) fn blocks(&self) -> Vec<(String, String)> {
        let blocks = self.objects("ipblocks").into_iter();
        let mut blocks: Vec<_> = blocks
            .map(|block| {
                let text = |path: &str| block.pointer(path).and_then(Value::as_str).map(str::to_owned);
                let cidr = text("/spec/cidr").unwrap_or_else(|| panic!("no range in {block}"));
                (cidr, text("/spec/node").unwrap_or_else(|| panic!("no owner in {block}")))
            })
            .collect();
        blocks.sort();
        blocks
    }

    /// Everything with a pod's address must be encapsulated from here on; what is not is dropped and counted.
    pub(crate) fn seal(&self, pods: &[&str]) {
        self.fabric.witness(pods, Leak::Drop).unwrap();
    }

    /// What crossed the fabric since it was sealed: something, and all of it encapsulated.
    pub(crate) fn assert_sealed(&self) -> Witnessed {
        let seen = self.fabric.witnessed().unwrap();
        assert_eq!(seen.plain, 0, "with a pod's address, outside of protocol 4: {:?}", seen.senders);
        assert!(seen.encapsulated > 0, "nothing was encapsulated: {seen:?}");
        seen
    }
}

/// A node with its agent.
pub(crate) struct Node<'s> {
    pub(crate) at: &'s FabricNode,
    pub(crate) agent: Agent<'s>,
}

impl<'s> Node<'s> {
    pub(crate) fn netns(&self) -> &'s NetNs {
        &self.at.netns
    }

    pub(crate) fn ctl(&self) -> Ctl {
        self.agent.ctl()
    }

    pub(crate) fn status(&self) -> Value {
        self.ctl().json(&["status"]).unwrap()
    }

    /// Waits until the node has an address of its own out of a pool, for what it sends to pods of encapsulated pools.
    pub(crate) fn wait_for_own_address(&self) {
        wait_until(SOON, &format!("{} has an address of its own", self.at.name), || {
            self.netns().ip("route show proto 80").unwrap().contains(" src ")
        });
    }

    /// The plugin, told to take addresses of these pools.
    pub(crate) fn cni(&self, pools: &[&str]) -> Cni<'s> {
        let plugin = Binaries::find().unwrap().plugin;
        let (four, six): (Vec<&str>, Vec<&str>) = pools.iter().partition(|pool| !pool.ends_with("-six"));
        Cni::poolward(&plugin, &self.at.netns, &self.at.files.socket()).with_config(|config| {
            let mut ipam = json!({});
            if !four.is_empty() {
                ipam["ipv4_pools"] = json!(four);
            }
            if !six.is_empty() {
                ipam["ipv6_pools"] = json!(six);
                ipam["assign_ipv6"] = json!(true);
                ipam["assign_ipv4"] = json!(!four.is_empty());
            }
            config["ipam"] = ipam;
        })
    }

    /// Adds a container that Kubernetes knows nothing of, with an address of each of these pools: at the first try.
    pub(crate) fn add_at_once(&self, pools: &[&str]) -> Pod<'s> {
        let mut pod = Pod::container(self.at);
        pod.result = self.cni(pools).add(&pod.attachment).unwrap().ok().unwrap_or_else(|error| {
            panic!("ADD on {} of {pools:?}: {error:#}\n{}", self.at.name, self.agent.log_tail());
        });
        pod
    }

    /// The same as a runtime does it: after a refusal once more, up to a limit. A pool that was just made is not known
    /// everywhere yet.
    pub(crate) fn add(&self, pools: &[&str]) -> Pod<'s> {
        let mut pod = Pod::container(self.at);
        let deadline = Instant::now() + 2 * SOON;
        loop {
            let answer = self.cni(pools).add(&pod.attachment).unwrap();
            if answer.code == 0 {
                pod.result = answer.json;
                return pod;
            }
            assert!(
                Instant::now() < deadline,
                "ADD on {} of {pools:?}: {}\n{}",
                self.at.name,
                answer.json,
                self.agent.log_tail()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub(crate) fn del(&self, pod: &Pod<'_>) {
        self.cni(&[]).del(&pod.attachment).unwrap().ok().unwrap();
    }
}

/// A sandbox: a network namespace and who it is. It goes when the value does, as a crashed pod's would.
pub(crate) struct Pod<'s> {
    pub(crate) netns: NetNs,
    pub(crate) attachment: Attachment,
    /// Of the ADD; `Null` before.
    pub(crate) result: Value,
    pub(crate) at: &'s FabricNode,
}

impl<'s> Pod<'s> {
    /// A sandbox without Kubernetes, not added yet.
    pub(crate) fn container(at: &'s FabricNode) -> Self {
        let netns = NetNs::unique(&format!("{NAME}-pod")).unwrap();
        let attachment = Attachment {
            container_id: unique_id(&at.name),
            ifname: "eth0".to_owned(),
            netns: Some(netns.path()),
            args: String::new(),
        };
        Self { netns, attachment, result: Value::Null, at }
    }

    /// A sandbox of a pod of Kubernetes, not added yet.
    pub(crate) fn of(at: &'s FabricNode, namespace: &str, name: &str, uid: &str) -> Self {
        let netns = NetNs::unique(&format!("{NAME}-pod")).unwrap();
        let attachment = Attachment::of_pod(&unique_id(name), &netns, namespace, name, uid);
        Self { netns, attachment, result: Value::Null, at }
    }

    /// All addresses, by the ADD's result.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        harness::cni::addresses(&self.result)
    }

    /// The largest packet that its interface takes.
    pub(crate) fn mtu_bytes(&self) -> usize {
        let shown = self.netns.ip_json("link show dev eth0").unwrap();
        shown[0]["mtu"].as_u64().unwrap().try_into().unwrap()
    }

    /// The first address, by the ADD's result.
    pub(crate) fn address(&self) -> IpAddr {
        self.addresses()[0]
    }
}

/// No two containers of one run have the same id.
fn unique_id(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The control plane of this run.
fn shared() -> &'static Mutex<Management> {
    // Never dropped: the guard of the control plane takes it away when this process ends.
    static SHARED: OnceLock<Mutex<Management>> = OnceLock::new();
    SHARED.get_or_init(|| {
        let definitions = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds"));
        let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/../nodes/audit.yaml");
        // Servers work in their control plane's directory, and it goes with that.
        let audit = [format!("--audit-policy-file={policy}"), format!("--audit-log-path={AUDIT_LOG}")];
        let options = ControlPlaneOptions { api_args: audit.to_vec(), ..ControlPlaneOptions::default() };
        let prefix = format!("{NAME}-{}", std::process::id());
        Mutex::new(Management::start(&prefix, Some(&definitions), options).unwrap())
    })
}

fn lock(management: &Mutex<Management>) -> MutexGuard<'_, Management> {
    management.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The table of routes as a person sees it, for messages.
pub(crate) fn routes(node: &Node<'_>) -> String {
    let four = node.netns().ip("route show").unwrap();
    let objects = node.netns().ip("nexthop show").unwrap_or_default();
    format!("{} routes:\n{four}nexthops on {NODE_UPLINK}:\n{objects}", node.at.name)
}

fn mount_bpffs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let kind = Run::new("stat").args(["-f", "-c", "%T", "/sys/fs/bpf"]).ok().unwrap();
        if kind.trim() != "bpf_fs" {
            Run::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).ok().unwrap();
        }
    });
}
