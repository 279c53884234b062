//! A Kubernetes cluster of several real nodes on this one machine: control plane with controllers and scheduler, and on
//! each node containerd, a kubelet and kube-proxy, joined by a [`Fabric`].
//!
//! Starts it, waits until it is ready, and takes it away with everything that runs in it, also when its owner is killed.
//! What the pods' network is made of is for others to install ([`network`]).

mod burst;
mod images;
mod network;
mod operator;
mod pod;
mod worker;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

pub use self::burst::Burst;
pub use self::images::{BUSYBOX_IMAGE, PAUSE_IMAGE};
pub use self::network::{DAEMON_SET, HOST_LOCAL_NETWORK, HOST_LOCAL_RANGE, NAMESPACE};
pub use self::pod::{DEFAULT_POOL, PORT, Pod, PodOptions, Range};
use self::worker::Identities;
pub use self::worker::{DNS_ADDRESS, DNS_DOMAIN, NetworkAdds, Worker};
use crate::control_plane::Guard;
use crate::kubernetes::cache_dir;
use crate::machine::{Cgroup, wait_for_end};
use crate::{
    ControlPlaneOptions, Fabric, FabricNode, Kubectl, Management, ManagementLink, NodeFiles, Underlay,
    stop_daemon_left_running,
};

/// How long nodes may take until they are ready: some seconds, unless the machine is busy with much else.
pub const NODES_READY_LIMIT: Duration = Duration::from_secs(120);

/// The cluster as kube-proxy knows it: every pool of the lab is inside.
pub const POD_RANGE: &str = "10.244.0.0/16";

/// What a cluster is made of.
#[derive(Debug)]
pub struct ClusterOptions<'a> {
    /// Names of everything begin with this; nothing else may be called so.
    pub name: &'a str,
    /// How the nodes are joined.
    pub underlay: Underlay,
    /// How many nodes.
    pub nodes_count: u8,
    /// A directory of Poolward's resource definitions; none: nothing of Poolward is there.
    pub definitions: Option<&'a Path>,
    /// The control plane's directory; none: in memory, with a name that nobody else has.
    pub control_plane_dir: Option<PathBuf>,
}

/// A running cluster. Taken away on drop and when this process dies, unless it was left running.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they go: first what runs, then what it runs on.
    /// The nodes, in the order of their numbers, which begin with 1.
    pub workers: Vec<Worker>,
    links: Vec<ManagementLink>,
    /// What joins them, and a server outside.
    pub fabric: Fabric,
    /// etcd, the API server, controllers and scheduler.
    pub management: Management,
    dir: PathBuf,
    /// `None` once it was left running.
    guard: Option<Guard>,
}

impl Cluster {
    /// Starts all of it. Nodes are not ready before there is a network for pods.
    ///
    /// # Errors
    /// Something of this name exists, something has not been built, or does not start; with the end of its log.
    pub fn start(options: &ClusterOptions<'_>, progress: &dyn Fn(&str)) -> Result<Self> {
        let name = options.name;
        let dir = Self::dir_of(name)?;
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("resolve {}", dir.display()))?;
        let numbers = 1..=options.nodes_count;
        let namespaces: Vec<String> =
            ["fabric".to_owned(), "out".to_owned()].into_iter().chain(numbers.clone().map(role)).collect();
        let namespaces: Vec<String> = namespaces.iter().map(|role| format!("{name}-{role}")).collect();
        let mut trees = Vec::new();
        for number in numbers {
            trees.extend(Cgroup::new(&group_name(name, number)).directories()?);
            // Made with the fabric, for agents that are no pods.
            trees.push(NodeFiles::open(&Fabric::files_name(name, number)).dir().to_owned());
        }
        let guard = Some(Guard::over(&dir, &namespaces, &trees)?);
        let fabric = Fabric::build(name, options.underlay, options.nodes_count)?;
        progress("control plane");
        let (management, images) = std::thread::scope(|scope| {
            let images = dir.join("images.tar");
            let packed = scope.spawn(move || images::pack(&images).map(|()| images));
            let control_plane = ControlPlaneOptions {
                dir: options.control_plane_dir.clone(),
                controllers: true,
                ..ControlPlaneOptions::default()
            };
            let management = Management::start(name, options.definitions, control_plane);
            (management, packed.join().map_err(|_| anyhow!("packing images panicked")))
        });
        let (management, images) = (management?, images??);
        let links: Vec<ManagementLink> =
            fabric.nodes.iter().map(|node| management.join(node)).collect::<Result<_>>()?;
        let mut cluster = Self { workers: Vec::new(), links, fabric, management, dir, guard };
        progress("nodes");
        cluster.start_workers(name, &images)?;
        Ok(cluster)
    }

    fn start_workers(&mut self, name: &str, images: &Path) -> Result<()> {
        let mut identities = Vec::new();
        for (node, link) in self.fabric.nodes.iter().zip(&self.links) {
            // One after the other: the authority counts what it signs in a file.
            identities.push(Identities::create(&self.management.control_plane, &node.name)?);
            // For logs and exec: the API server calls kubelets by their nodes' addresses.
            self.management.netns().ip(&format!("route replace {} via {}", node.ipv4, link.address))?;
        }
        let this = &*self;
        let started: Vec<Result<Worker>> = std::thread::scope(|scope| {
            let threads: Vec<_> = this
                .fabric
                .nodes
                .iter()
                .zip(&identities)
                .map(|(node, identities)| {
                    scope.spawn(move || {
                        let group = group_name(name, node.number);
                        let dir = this.dir.join(role(node.number));
                        Worker::start(node, identities, &dir, &group, images)
                            .with_context(|| format!("start {}", node.name))
                    })
                })
                .collect();
            let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended.map(|ended| ended.unwrap_or_else(|_| Err(anyhow!("starting a node panicked")))).collect()
        });
        self.workers = started.into_iter().collect::<Result<_>>()?;
        Ok(())
    }

    /// Where a cluster of this name keeps its nodes.
    ///
    /// # Errors
    /// As [`cache_dir`].
    pub fn dir_of(name: &str) -> Result<PathBuf> {
        Ok(cache_dir()?.join("clusters").join(name))
    }

    /// A node by its number.
    ///
    /// # Errors
    /// There is none.
    pub fn worker(&self, number: u8) -> Result<&Worker> {
        let index = usize::from(number).checked_sub(1).context("nodes are numbered from 1")?;
        self.workers.get(index).with_context(|| format!("there is no node {number}"))
    }

    /// Switches a node off, as a power cut would: pods, `/run`, pins and everything in its network are gone but its cables
    /// and their addresses, and its uplink has no carrier.
    ///
    /// # Errors
    /// There is no such node, it is off, or something on it does not end.
    pub fn switch_off(&mut self, number: u8) -> Result<()> {
        let (worker, node) = self.place(number)?;
        worker.switch_off()?;
        node.forget().with_context(|| format!("empty the network of {}", node.name))?;
        self.fabric.cut(self.node(number)?)
    }

    /// Switches it on again: disks are as they were.
    ///
    /// # Errors
    /// There is no such node, it is on, or it does not start.
    pub fn switch_on(&mut self, number: u8) -> Result<()> {
        self.fabric.mend(self.node(number)?)?;
        self.place(number)?.0.switch_on()
    }

    /// Switches on another machine in the place of a node that is off: the same name, addresses and identity, and an empty
    /// disk but for these image archives.
    ///
    /// # Errors
    /// There is no such node, it is on, or it does not start.
    pub fn replace(&mut self, number: u8, archives: &[&Path]) -> Result<()> {
        self.fabric.mend(self.node(number)?)?;
        self.place(number)?.0.replace(archives)
    }

    /// Switches a node off and on again.
    ///
    /// # Errors
    /// As both.
    pub fn reboot(&mut self, number: u8) -> Result<()> {
        self.switch_off(number)?;
        self.switch_on(number)
    }

    fn node(&self, number: u8) -> Result<&FabricNode> {
        let node = self.fabric.nodes.iter().find(|node| node.number == number);
        node.with_context(|| format!("there is no node {number}"))
    }

    fn place(&mut self, number: u8) -> Result<(&mut Worker, &FabricNode)> {
        let worker = self.workers.iter_mut().find(|worker| worker.number == number);
        let node = self.fabric.nodes.iter().find(|node| node.number == number);
        worker.zip(node).with_context(|| format!("there is no node {number}"))
    }

    /// `kubectl` as administrator.
    ///
    /// # Errors
    /// The network namespace is gone.
    pub fn kubectl(&self) -> Result<Kubectl> {
        self.management.control_plane.kubectl()
    }

    /// What the containerds of all nodes say of networks, together.
    ///
    /// # Errors
    /// As [`Worker::network_adds`].
    pub fn network_adds(&self) -> Result<NetworkAdds> {
        self.workers.iter().try_fold(NetworkAdds::default(), |sum, worker| {
            let one = worker.network_adds()?;
            Ok(NetworkAdds { count: sum.count + one.count, seconds: sum.seconds + one.seconds })
        })
    }

    /// Waits until all nodes are ready and pods can be created in the namespace `default`; how long that took.
    ///
    /// # Errors
    /// A process has ended, or they are not ready within [`NODES_READY_LIMIT`]; with what they say of themselves.
    pub fn wait_until_ready(&mut self) -> Result<Duration> {
        let started = Instant::now();
        let kubectl = self.kubectl()?;
        loop {
            self.check()?;
            let nodes = kubectl.json(&["get", "nodes"])?;
            let nodes = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            let account = ["get", "serviceaccount", "default", "--namespace", "default"];
            if nodes.len() == self.workers.len()
                && nodes.iter().all(is_ready)
                && kubectl.run(&account).is_ok()
            {
                return Ok(started.elapsed());
            }
            if started.elapsed() > NODES_READY_LIMIT {
                let said: Vec<String> =
                    nodes.iter().map(|node| node["status"]["conditions"].to_string()).collect();
                let limit = NODES_READY_LIMIT.as_secs();
                bail!("not all nodes are ready after {limit} s: {}", said.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// An error with the end of its log once one of the processes has ended by itself.
    ///
    /// # Errors
    /// One has.
    pub fn check(&mut self) -> Result<()> {
        self.management.control_plane.check()?;
        self.workers.iter_mut().try_for_each(Worker::check)
    }

    /// Leaves everything running; [`Cluster::take_down_nodes`] ends the nodes.
    pub fn leave_running(mut self) {
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        self.workers.iter_mut().for_each(Worker::leave_running);
        self.fabric.keep();
        self.management.leave_running();
    }

    /// Whether there is anything of a cluster of this name.
    ///
    /// # Errors
    /// As [`cache_dir`].
    pub fn is_there(name: &str) -> Result<bool> {
        Ok(Self::dir_of(name)?.exists())
    }

    /// Ends the nodes of a cluster of this name, whether left running or cut short, and deletes what they wrote. Network
    /// namespaces, agents' files and control plane are for who named them.
    ///
    /// # Errors
    /// Something does not go.
    pub fn take_down_nodes(name: &str) -> Result<()> {
        let Ok(dir) = Self::dir_of(name)?.canonicalize() else { return Ok(()) };
        for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            let path = entry.with_context(|| format!("read {}", dir.display()))?.path();
            let Some(number) =
                path.file_name().and_then(|name| name.to_str()?.strip_prefix("node")?.parse().ok())
            else {
                continue;
            };
            let init = std::fs::read_to_string(path.join("init.pid")).ok().and_then(|text| text.parse().ok());
            if stop_daemon_left_running(&path, "init", Duration::from_secs(10))?
                && let Some(init) = init
            {
                wait_for_end(init)?;
            }
            // The power switch goes by itself then; but one that was cut short may have none to wait for.
            stop_daemon_left_running(&path, "machine", Duration::from_secs(1))?;
            Cgroup::new(&group_name(name, number)).remove()?;
        }
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
    }
}

fn role(number: u8) -> String {
    format!("node{number}")
}

fn group_name(cluster: &str, number: u8) -> String {
    format!("{cluster}-{}", role(number))
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
