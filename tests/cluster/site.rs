//! The cluster of this run: started once, with Debian's plugins first, then with Poolward; gone when this process is.

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use harness::{Cluster, ClusterOptions, Kubectl, Leak, Run, Underlay, Witnessed};
use serde_json::{Value, json};

use harness::cluster::{Burst, DEFAULT_POOL, HOST_LOCAL_NETWORK, Pod, PodOptions, Range};

/// How long what takes a few round trips and a pod may take on a machine that is busy with much else.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Nodes.
pub(crate) const NODES_COUNT: u8 = 3;

/// How many pods are created in one go.
pub(crate) const BURST_COUNT: usize = 30;

/// Addresses for who asks for them by name.
pub(crate) const EXTERNAL_POOL: Range =
    Range { pool: "external", network: Ipv4Addr::new(10, 244, 64, 0), prefix: 20 };

/// The cluster with Poolward on it.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    /// What there was to see before Poolward came.
    pub(crate) bare: Bare,
}

/// What Debian's plugins did.
#[derive(Clone, Debug)]
pub(crate) struct Bare {
    /// Nodes, by `kubectl`, once all were ready.
    pub(crate) nodes: Vec<String>,
    /// A burst of pods.
    pub(crate) burst: Burst,
}

/// The cluster, for one test at a time.
pub(crate) fn site() -> MutexGuard<'static, Site> {
    // Never dropped: guards take all of it away when this process ends.
    static SITE: OnceLock<Result<Mutex<Site>, String>> = OnceLock::new();
    let site = SITE.get_or_init(|| {
        // Once: what did not start for one test does not start for the next.
        let started = std::panic::catch_unwind(|| Mutex::new(Site::start()));
        started.map_err(|_| "the cluster did not start; the first test says why".to_owned())
    });
    match site {
        Ok(site) => site.lock().unwrap_or_else(PoisonError::into_inner),
        Err(error) => panic!("{error}"),
    }
}

impl Site {
    fn start() -> Self {
        let started = Instant::now();
        let options = ClusterOptions {
            name: &format!("pwc-{}", std::process::id()),
            underlay: Underlay::Routed,
            nodes_count: NODES_COUNT,
            definitions: None,
            control_plane_dir: None,
        };
        let mut cluster = Cluster::start(&options, &|_| ()).unwrap();
        eprintln!("control plane and {NODES_COUNT} nodes run after {:.1?}", started.elapsed());
        let bare = Bare::see(&mut cluster);
        eprintln!(
            "ready with Debian's plugins, and {BURST_COUNT} pods seen, after {:.1?}",
            started.elapsed()
        );
        let mut site = Self { cluster, bare };
        site.install();
        eprintln!("ready with Poolward after {:.1?}", started.elapsed());
        site
    }

    /// Poolward instead of Debian's plugins, by the page that says how.
    fn install(&mut self) {
        self.cluster.remove_host_local().unwrap();
        self.cluster.fabric.witness(&[harness::cluster::POD_RANGE], Leak::Drop).unwrap();
        let said = self.cluster.run_page("install.md", &[]).unwrap();
        println!("{said}");
        let Range { pool, network, prefix } = EXTERNAL_POOL;
        let manifest = format!(
            "apiVersion: poolward.io/v1\nkind: IPPool\nmetadata: {{name: {pool}}}\n\
             spec: {{cidr: {network}/{prefix}, blockSize: 27, ipipMode: Always, assignmentMode: Manual}}\n"
        );
        self.kubectl().apply(&manifest).unwrap();
        self.cluster.wait_until_ready().unwrap();
    }

    pub(crate) fn kubectl(&self) -> Kubectl {
        self.cluster.kubectl().unwrap()
    }

    /// A namespace in which pods can be created.
    pub(crate) fn namespace(&self, name: &str, annotations: &[(&str, &str)]) -> String {
        self.cluster.management.control_plane.create_namespace(name, annotations).unwrap();
        self.wait_for_service_account(name);
        name.to_owned()
    }

    /// Pods are refused until the controller-manager has seen the namespace.
    pub(crate) fn wait_for_service_account(&self, namespace: &str) {
        self.kubectl().wait_for_service_account(namespace).unwrap();
    }

    /// Creates pods in one go and waits until all of them are ready.
    pub(crate) fn pods(&self, pods: &[PodOptions<'_>]) -> Vec<Pod> {
        self.create(pods);
        pods.iter().map(|options| self.ready(options.namespace, options.name)).collect()
    }

    /// Creates pods in one go.
    pub(crate) fn create(&self, pods: &[PodOptions<'_>]) {
        let items: Vec<Value> = pods.iter().map(PodOptions::object).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.kubectl().run_with(&["create", "--validate=false", "-f", "-"], &list.to_string()).unwrap();
    }

    /// Waits for a pod.
    pub(crate) fn ready(&self, namespace: &str, name: &str) -> Pod {
        let kubectl = self.kubectl();
        let mut found = Err("it was not looked for".to_owned());
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            found = kubectl
                .json(&["get", "pod", "--namespace", namespace, name])
                .map_err(|error| format!("{error:#}"))
                .and_then(|object| Pod::of(&object).ok_or_else(|| object["status"].to_string()));
            if let Ok(pod) = found {
                return pod;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let events = kubectl.run(&["get", "events", "--namespace", namespace]).unwrap_or_default();
        panic!("pod {namespace}/{name} is not ready: {found:?}\n{events}");
    }

    /// Deletes pods, and does not wait until their objects are gone: a kubelet of this release may take more than a minute
    /// for that, until it has collected what is left of their containers.
    pub(crate) fn delete(&self, namespace: &str, pods: &[&str]) {
        let mut args = vec!["delete", "pod", "--wait=false", "--namespace", namespace];
        args.extend(pods);
        self.kubectl().run(&args).unwrap();
    }

    /// Removes all pods of a namespace from the API server, as if their nodes were lost; kubelets take them down later.
    pub(crate) fn delete_at_once(&self, namespace: &str) {
        self.kubectl().delete_pods_at_once(namespace).unwrap();
    }

    /// The agent of a pod's node knows that its address is this pod's.
    pub(crate) fn assert_holder(&self, pod: &Pod) {
        let state = self.state(pod);
        assert!(state.contains(&format!("{}/", pod.namespace)), "{pod:?}: {state}");
    }

    /// Waits until nobody holds the address of a pod that is gone.
    pub(crate) fn wait_until_free(&self, pod: &Pod) {
        wait_until(&format!("the address of {pod:?} is free"), || {
            !self.state(pod).contains(&format!("{}/", pod.namespace))
        });
    }

    fn state(&self, pod: &Pod) -> String {
        let worker = self.cluster.workers.iter().find(|worker| worker.name == pod.node).unwrap();
        worker.poolwardctl(&["ipam", "show", "--ip", &pod.address.to_string()]).unwrap()
    }

    /// A command in a pod; what it prints.
    pub(crate) fn exec(&self, pod: &Pod, command: &[&str]) -> Result<String, String> {
        let args = ["exec", "--namespace", &pod.namespace, &pod.name, "--"];
        let args: Vec<&str> = args.into_iter().chain(command.iter().copied()).collect();
        self.kubectl().run(&args).map_err(|error| format!("{error:#}"))
    }

    /// A command in the server outside.
    pub(crate) fn outside(&self, command: &[&str]) -> Result<String, String> {
        let run = Run::new("/bin/busybox").args(command);
        run.ok_in(&self.cluster.fabric.outside).map_err(|error| format!("{error:#}"))
    }

    /// The address of a node, by its number.
    pub(crate) fn node_address(&self, number: u8) -> Ipv4Addr {
        self.cluster.fabric.nodes[usize::from(number) - 1].ipv4
    }

    /// No packet with a pod's address has crossed the fabric outside of an encapsulation, in this whole run.
    pub(crate) fn assert_sealed(&self) -> Witnessed {
        let seen = self.cluster.fabric.witnessed().unwrap();
        assert_eq!(seen.plain, 0, "with a pod's address, outside of protocol 4: {:?}", seen.senders);
        seen
    }

    /// Takes away what a page that was cut short has left: pools that are being deleted serve nobody, so others fail by
    /// themselves only.
    pub(crate) fn clear_desk(&self) {
        let kubectl = self.kubectl();
        let delete = |args: &[&str]| {
            let args = [&["delete", "--wait=false", "--ignore-not-found"], args].concat();
            // A test that fails says more than this could.
            let _ = kubectl.run(&args);
        };
        delete(&["deployments,daemonsets,pods", "--all", "--namespace", "default"]);
        let pools = kubectl.run(&["get", "ippools", "-o", "name"]).unwrap_or_default();
        let kept = [DEFAULT_POOL, EXTERNAL_POOL].map(|range| range.pool);
        let left =
            pools.lines().filter_map(|name| name.split('/').nth(1)).filter(|name| !kept.contains(name));
        left.for_each(|name| delete(&["ippool", name]));
    }

    /// There are these pools and no others.
    pub(crate) fn assert_pools(&self, expected: &[Range]) {
        let found = self.kubectl().run(&["get", "ippools", "-o", "name"]).unwrap();
        let names: Vec<&str> = found.lines().filter_map(|name| name.split('/').nth(1)).collect();
        let expected: Vec<&str> = expected.iter().map(|range| range.pool).collect();
        assert_eq!(names, expected, "pools");
    }

    /// Every agent finds that blocks, addresses and interfaces fit together.
    pub(crate) fn assert_consistent(&self) {
        for worker in &self.cluster.workers {
            worker.poolwardctl(&["ipam", "check"]).unwrap();
        }
    }
}

impl Bare {
    fn see(cluster: &mut Cluster) -> Self {
        cluster.install_host_local().unwrap();
        cluster.wait_until_ready().unwrap();
        let namespace = "bare";
        cluster.management.control_plane.create_namespace(namespace, &[]).unwrap();
        let kubectl = cluster.kubectl().unwrap();
        kubectl.wait_for_service_account(namespace).unwrap();
        let burst = cluster.burst(namespace, BURST_COUNT).unwrap();
        let nodes = kubectl.run(&["get", "nodes", "--output=name"]).unwrap();
        cluster.end_burst(namespace, HOST_LOCAL_NETWORK).unwrap();
        Self { nodes: nodes.lines().map(str::to_owned).collect(), burst }
    }
}

/// Waits until it holds, for a while; how long that took.
pub(crate) fn wait_until(what: &str, holds: impl FnMut() -> bool) -> Duration {
    harness::wait_until(SOON, what, holds)
}
