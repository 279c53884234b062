//! Containers of real pods that vanish without a DEL, and pods that only look as if they had.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::cluster::{DAEMON_SET, NAMESPACE};
use harness::cluster::{PORT, Pod, PodOptions};
use harness::{Kubectl, Worker};
use serde_json::{Value, json};

use crate::reach::who;
use crate::site::{SOON, Site, wait_until};

/// What agents' pods are labelled with.
const AGENTS: &str = "app.kubernetes.io/component=node";

/// After which addresses of a pod that vanished are free.
const GRACE: Duration = Duration::from_secs(4);

/// Long enough that whoever is taken for gone would have been freed.
const SEVERAL_GRACES: Duration = Duration::from_secs(3 * GRACE.as_secs());

/// How long a kubelet may take until it sees that a pod uses more than it may: it and containerd look every ten seconds.
const EVICTION_LIMIT: Duration = Duration::from_secs(90);

/// On this node a pod is evicted, on the other one containers vanish.
const OF_EVICTION: u8 = 1;
const OF_VANISHING: u8 = 2;

/// On two nodes, whose agents have [`GRACE`].
pub(crate) fn only_addresses_of_containers_that_are_really_gone_are_freed_without_a_del(site: &mut Site) {
    let namespace = site.namespace("leaks", &[]);
    let on = |name, number| PodOptions {
        namespace: &namespace,
        name,
        node: Some(number),
        ..PodOptions::default()
    };
    let evicted = evictable(&on("evicted", OF_EVICTION));
    let names = ["asking", "live", "restarted", "lagging", "vanished"];
    let mut options = vec![evicted, on("asking", OF_EVICTION)];
    options.extend(names[1..].iter().map(|name| on(name, OF_VANISHING)));
    let pods = site.pods(&options);
    let [evicted, asking, live, restarted, lagging, vanished] = pods.as_slice() else { panic!("{pods:?}") };
    let answers = |site: &Site, pod: &Pod| {
        let seen = who(site, asking, &format!("{}:{PORT}", pod.address));
        assert_eq!(seen, Ok((pod.name.clone(), asking.address.to_string())), "{pod:?}");
    };

    // Takes its time, while other things happen.
    let held = HeldDels::on(worker(site, OF_EVICTION));
    site.exec(evicted, &["dd", "if=/dev/zero", "of=/tmp/fill", "bs=1M", "count=8"]).unwrap();

    let anew = a_sandbox_that_dies_is_replaced(site, restarted);
    answers(site, &anew);

    // Nobody looks after the pods of this node any more, and the API server is told that two of them are gone: one is.
    let worker_mut = &mut site.cluster.workers[usize::from(OF_VANISHING) - 1];
    worker_mut.kill("kubelet").unwrap();
    let delete = ["delete", "pod", "--force", "--grace-period=0", "--wait=false", "--namespace", &namespace];
    site.kubectl().run(&[delete.as_slice(), &["lagging", "vanished"]].concat()).unwrap();
    let worker_mut = &mut site.cluster.workers[usize::from(OF_VANISHING) - 1];
    let gone = vanish(worker_mut, vanished);
    site.wait_until_free(vanished);
    assert!(gone.elapsed() >= GRACE, "freed after {:?}", gone.elapsed());
    eprintln!("the address of a container that vanished is free after {:.1?}", gone.elapsed());
    let status = worker(site, OF_VANISHING).poolwardctl(&["status"]).unwrap();
    let leak = |line: &&str| line.contains(&vanished.address.to_string()) && line.contains("no DEL");
    assert!(status.lines().any(|line| leak(&line)), "{status}");

    wait_until_evicted(site, evicted);
    // Its processes are gone, and its namespace and interface are there until the runtime's DEL.
    let looked_at = Instant::now();
    while looked_at.elapsed() < SEVERAL_GRACES {
        for pod in [evicted, lagging, live, &anew] {
            site.assert_holder(pod);
        }
        for pod in [lagging, live, &anew] {
            answers(site, pod);
        }
    }
    let interface = interface_of(worker(site, OF_EVICTION), evicted);
    assert!(interface.is_some(), "the sandbox of the evicted pod was gone before its address");
    held.let_go();
    site.wait_until_free(evicted);
    assert_eq!(interface_of(worker(site, OF_EVICTION), evicted), None);
    drop(held);

    site.cluster.workers[usize::from(OF_VANISHING) - 1].start_again("kubelet").unwrap();
    site.wait_until_free(lagging);
    for pod in [live, &anew] {
        site.assert_holder(pod);
        answers(site, pod);
    }
    let status = worker(site, OF_VANISHING).poolwardctl(&["status"]).unwrap();
    assert_eq!(status.matches("no DEL").count(), 1, "somebody else was taken for gone: {status}");
    site.delete_at_once(&namespace);
}

/// A pod that is evicted as soon as it has written something.
fn evictable<'a>(options: &PodOptions<'a>) -> PodOptions<'a> {
    let mut container = options.object()["spec"]["containers"][0].take();
    container["resources"] = json!({"limits": {"ephemeral-storage": "1Mi"}});
    PodOptions { more: json!({"containers": [container]}), ..options.clone() }
}

fn wait_until_evicted(site: &Site, pod: &Pod) {
    let started = Instant::now();
    loop {
        let object = site.kubectl().json(&["get", "pod", "--namespace", &pod.namespace, &pod.name]).unwrap();
        let status = &object["status"];
        if status["phase"] == "Failed" {
            assert_eq!(status["reason"], "Evicted", "{status}");
            break;
        }
        assert!(started.elapsed() < EVICTION_LIMIT, "not evicted: {status}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Kills the process that keeps a pod's namespaces; the pod once its kubelet has given it others.
fn a_sandbox_that_dies_is_replaced(site: &Site, pod: &Pod) -> Pod {
    let worker = site.cluster.workers.iter().find(|worker| worker.name == pod.node).unwrap();
    let sandbox = sandbox(worker, pod);
    worker.ctr(&["tasks", "kill", "--signal", "SIGKILL", &sandbox]).unwrap();
    let mut now = pod.clone();
    wait_until("the pod has another address", || {
        let object = site.kubectl().json(&["get", "pod", "--namespace", &pod.namespace, &pod.name]).unwrap();
        let found = Pod::of(&object).filter(|found| found.address != pod.address);
        found.map(|found| now = found).is_some()
    });
    site.wait_until_free(pod);
    site.assert_holder(&now);
    now
}

/// Ends a pod's processes, forgets its containers and its network namespace, and lets containerd start from what is left:
/// nobody knows any more that there was one, and no DEL ever comes. Its kubelet must be away. Since when it is gone.
fn vanish(worker: &mut Worker, pod: &Pod) -> Instant {
    let sandbox = sandbox(worker, pod);
    let spec: Value = serde_json::from_str(&worker.ctr(&["containers", "info", &sandbox]).unwrap()).unwrap();
    let namespaces = spec["Spec"]["linux"]["namespaces"].as_array().unwrap();
    let network = namespaces.iter().find(|namespace| namespace["type"] == "network").unwrap();
    let netns = network["path"].as_str().unwrap().to_owned();
    let all = containers(worker, &[("io.kubernetes.pod.name", &pod.name)]);
    assert_eq!(all.len(), 2, "{all:?}");
    for id in &all {
        worker.ctr(&["tasks", "kill", "--signal", "SIGKILL", id]).unwrap();
    }
    for id in &all {
        wait_until("its process has ended", || {
            // It is collected by containerd itself, or still to be.
            let _ = worker.ctr(&["tasks", "delete", id]);
            worker.ctr(&["containers", "delete", id]).is_ok() || !all_containers(worker).contains(id)
        });
    }
    worker.kill("containerd").unwrap();
    let run = |program: &str, args: &[&str]| worker.run(program, args).unwrap().ok().unwrap();
    let gone = Instant::now();
    run("umount", &[&netns]);
    run("rm", &[&netns]);
    let cached = format!("*{sandbox}*");
    run("find", &["/var/lib/cni/results", "-name", &cached, "-delete"]);
    worker.start_again("containerd").unwrap();
    gone
}

/// The id of a pod's sandbox.
fn sandbox(worker: &Worker, pod: &Pod) -> String {
    let labels = [("io.kubernetes.pod.name", pod.name.as_str()), ("io.cri-containerd.kind", "sandbox")];
    let found = containers(worker, &labels);
    assert_eq!(found.len(), 1, "{pod:?} {found:?}");
    found.into_iter().next().unwrap()
}

/// Ids of the containers with these labels, sandboxes too.
fn containers(worker: &Worker, labels: &[(&str, &str)]) -> Vec<String> {
    let wanted: Vec<String> =
        labels.iter().map(|(key, value)| format!("labels.\"{key}\"=={value}")).collect();
    let listed = worker.ctr(&["containers", "list", "--quiet", &wanted.join(",")]).unwrap();
    listed.split_whitespace().map(str::to_owned).collect()
}

fn all_containers(worker: &Worker) -> Vec<String> {
    let listed = worker.ctr(&["containers", "list", "--quiet"]).unwrap();
    listed.split_whitespace().map(str::to_owned).collect()
}

/// The node's interface of a pod, by the alias that says whose it is.
fn interface_of(worker: &Worker, pod: &Pod) -> Option<String> {
    let links = worker.run("ip", &["-json", "link", "show"]).unwrap().ok().unwrap();
    let links: Value = serde_json::from_str(&links).unwrap();
    let address = pod.address.to_string();
    let is_its = |link: &&Value| link["ifalias"].as_str().is_some_and(|alias| alias.contains(&address));
    links.as_array().unwrap().iter().find(is_its).map(Value::to_string)
}

fn worker(site: &Site, number: u8) -> &Worker {
    site.cluster.worker(number).unwrap()
}

/// Agents with [`GRACE`], until this goes.
pub(crate) struct ShortGrace {
    kubectl: Kubectl,
    before: String,
}

impl ShortGrace {
    const NAME: &'static str = "poolward-config-of-leaks";

    pub(crate) fn set(kubectl: Kubectl) -> Self {
        let daemons = kubectl.json(&["get", "--namespace", NAMESPACE, DAEMON_SET]).unwrap();
        let volumes = daemons["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        let config = volumes.iter().find(|volume| volume["name"] == "config").unwrap();
        let before = config["configMap"]["name"].as_str().unwrap().to_owned();
        let map = kubectl.json(&["get", "--namespace", NAMESPACE, "configmap", &before]).unwrap();
        let yaml = map["data"]["agent.yaml"].as_str().unwrap();
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": Self::NAME, "namespace": NAMESPACE},
            "data": {"agent.yaml": format!("{yaml}\nleakGraceSeconds: {}\n", GRACE.as_secs())},
        });
        kubectl.apply(&map.to_string()).unwrap();
        let agents = Self { kubectl, before };
        agents.roll(Self::NAME).unwrap();
        agents
    }

    /// Gives the agents another configuration, all of them at once.
    fn roll(&self, config: &str) -> anyhow::Result<()> {
        self.patch(&json!({"spec": {
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {"spec": {"volumes": [{"name": "config", "configMap": {"name": config}}]}},
        }}))?;
        // Their kubelets keep objects of pods that have ended for a while, and only then there are others.
        let delete =
            ["delete", "pod", "--force", "--grace-period=0", "--wait=false", "--namespace", NAMESPACE];
        self.kubectl.run(&[delete.as_slice(), &["--selector", AGENTS]].concat())?;
        let wait = ["rollout", "status", "--namespace", NAMESPACE, DAEMON_SET, "--timeout=120s"];
        self.kubectl.long(&wait, 2 * SOON)?;
        self.patch(&json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}}}))
    }

    fn patch(&self, patch: &Value) -> anyhow::Result<()> {
        let args = ["patch", "--namespace", NAMESPACE, DAEMON_SET, "--patch", &patch.to_string()];
        self.kubectl.run(&args).map(drop)
    }
}

impl Drop for ShortGrace {
    fn drop(&mut self) {
        // A test that fails says more than these could.
        let _ = self.roll(&self.before);
        let _ = self.kubectl.run(&["delete", "--namespace", NAMESPACE, "configmap", Self::NAME]);
    }
}

/// A node whose runtime's DELs do not end until they are let go.
struct HeldDels {
    plugin: PathBuf,
    room: PathBuf,
}

impl HeldDels {
    fn on(worker: &Worker) -> Self {
        let plugin = worker.plugins().join("poolward");
        let room = worker.plugins().join("held");
        std::fs::create_dir(&room).unwrap();
        std::fs::write(room.join("wait"), "").unwrap();
        std::fs::hard_link(&plugin, room.join("poolward")).unwrap();
        let script = "#!/bin/sh\n\
                      while [ \"$CNI_COMMAND\" = DEL ] && [ -e /opt/cni/bin/held/wait ]; do sleep 0.1; done\n\
                      exec /opt/cni/bin/held/poolward\n";
        let waiting = room.join("waiting");
        std::fs::write(&waiting, script).unwrap();
        std::fs::set_permissions(&waiting, std::fs::metadata(&plugin).unwrap().permissions()).unwrap();
        std::fs::rename(&waiting, &plugin).unwrap();
        Self { plugin, room }
    }

    fn let_go(&self) {
        std::fs::remove_file(self.room.join("wait")).unwrap();
    }
}

impl Drop for HeldDels {
    fn drop(&mut self) {
        // A test that fails says more than these could. Kubelets ask again for what ends badly here.
        let _ = std::fs::rename(self.room.join("poolward"), &self.plugin);
        let _ = std::fs::remove_dir_all(&self.room);
    }
}
