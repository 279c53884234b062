//! Many pods at once, and how long the cluster takes for them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, Pod, PodOptions};

/// How long a burst may take on a machine that is busy with much else, and how long it may take to be gone.
const LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Pods that were created in one go, spread over all nodes.
#[derive(Clone, Debug)]
pub struct Burst {
    /// From the creation of the first until the last was ready.
    pub all: Duration,
    /// What containerd waited for one ADD, on the average.
    pub add: Duration,
    /// Where each pod runs and its address.
    pub pods: Vec<(String, IpAddr)>,
}

impl Burst {
    /// How fast it was, for people to read.
    #[must_use]
    pub fn speed(&self) -> String {
        format!("{:.1?} ({:.0?} an ADD)", self.all, self.add)
    }
}

impl Cluster {
    /// Creates pods in one go, in a namespace that is there, and waits until all are ready.
    ///
    /// # Errors
    /// They are not ready in time, or a server does not answer.
    pub fn burst(&self, namespace: &str, count: usize) -> Result<Burst> {
        let kubectl = self.kubectl()?;
        let before = self.network_adds()?;
        let names: Vec<String> = (0..count).map(|number| format!("burst-{number}")).collect();
        let more = json!({
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "burst"}},
            }],
        });
        let pod = |name: &String| {
            let labels = &[("app", "burst")];
            PodOptions { namespace, name, labels, more: more.clone(), ..PodOptions::default() }.object()
        };
        let items: Vec<Value> = names.iter().map(pod).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let started = Instant::now();
        kubectl.run_with(&["create", "--validate=false", "-f", "-"], &list.to_string())?;
        let ready = loop {
            let found = kubectl.json(&["get", "pods", "--namespace", namespace])?;
            let pods = found["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ready: Vec<Pod> = pods.iter().filter_map(Pod::of).collect();
            if ready.len() == count {
                break ready;
            }
            let waited = started.elapsed();
            ensure!(waited < LIMIT, "{} of {count} pods are ready after {waited:.1?}", ready.len());
            std::thread::sleep(POLL);
        };
        let all = started.elapsed();
        let after = self.network_adds()?;
        let adds = after.count - before.count;
        ensure!(adds >= 1.0, "containerd counts no ADD of {count}");
        let add = Duration::from_secs_f64((after.seconds - before.seconds) / adds);
        Ok(Burst { all, add, pods: ready.into_iter().map(|pod| (pod.node, pod.address)).collect() })
    }

    /// Removes all pods of a namespace, and waits until the runtimes have ended every DEL of a network by this name.
    ///
    /// # Errors
    /// No pod is on such a network, they are not gone in time, or a server does not answer.
    pub fn end_burst(&self, namespace: &str, network: &str) -> Result<()> {
        let count =
            || -> Result<usize> { self.workers.iter().map(|worker| worker.networks_count(network)).sum() };
        // Under another name there would be nothing to wait for.
        ensure!(count()? > 0, "no pod is on a network called {network}");
        self.kubectl()?.delete_pods_at_once(namespace)?;
        let started = Instant::now();
        loop {
            let left = count()?;
            if left == 0 {
                return Ok(());
            }
            let waited = started.elapsed();
            ensure!(waited < LIMIT, "{left} pods of {network} are not taken down after {waited:.1?}");
            std::thread::sleep(POLL);
        }
    }
}
