//! Networks for pods: Debian's plugins, which show that the lab works and what others cost, and Poolward.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{Cluster, NODES_READY_LIMIT};

/// Where Poolward's manifests put it.
pub const NAMESPACE: &str = "poolward-system";

/// The agents, as `kubectl` calls them.
pub const DAEMON_SET: &str = "daemonset/poolward-node";

/// Addresses of pods with Debian's plugins: `10.77.N.0/24` on node N.
pub const HOST_LOCAL_RANGE: &str = "10.77.0.0/16";

/// The name of that network.
pub const HOST_LOCAL_NETWORK: &str = "host-local";

const HOST_LOCAL_FILE: &str = "20-ptp.conflist";

impl Cluster {
    /// ptp and host-local on every node, and routes between them.
    ///
    /// # Errors
    /// A file cannot be written, or what `ip` says.
    pub fn install_host_local(&self) -> Result<()> {
        for (worker, node) in self.workers.iter().zip(&self.fabric.nodes) {
            let range = format!("10.77.{}.0/24", worker.number);
            // Nodes reach what they do not know by the fabric.
            self.fabric.route_from_outside(&range, node)?;
            let ptp = json!({
                "type": "ptp", "ipMasq": false, "mtu": 1500,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": range}]], "routes": [{"dst": "0.0.0.0/0"}]},
            });
            let list = json!({"cniVersion": "0.4.0", "name": HOST_LOCAL_NETWORK, "plugins": [ptp]});
            worker.set_network(HOST_LOCAL_FILE, &list)?;
        }
        Ok(())
    }

    /// Takes that away again: nodes are not ready until there is another network.
    ///
    /// # Errors
    /// A file cannot be removed, or what `ip` says.
    pub fn remove_host_local(&self) -> Result<()> {
        for (worker, node) in self.workers.iter().zip(&self.fabric.nodes) {
            worker.remove_network(HOST_LOCAL_FILE)?;
            self.fabric.router.ip(&format!("route del 10.77.{}.0/24 via {}", worker.number, node.ipv4))?;
        }
        Ok(())
    }

    /// Poolward, from an image archive and a directory for `kubectl apply -k` that names this image; waits until all
    /// nodes are ready with it.
    ///
    /// # Errors
    /// What `ctr` or `kubectl` says, or not every agent becomes ready.
    pub fn install_poolward(&mut self, archive: &Path, overlay: &Path) -> Result<()> {
        std::thread::scope(|scope| -> Result<()> {
            let imports: Vec<_> =
                self.workers.iter().map(|worker| scope.spawn(|| worker.import_images(archive))).collect();
            for import in imports {
                import.join().unwrap_or_else(|_| bail!("importing an image panicked"))?;
            }
            Ok(())
        })?;
        let kubectl = self.kubectl()?;
        let overlay = overlay.to_str().context("the path of the manifests is no text")?;
        // This kubectl knows nothing of rules that later servers enforce; the server leaves out what it does not know.
        kubectl.run(&["apply", "--validate=false", "-k", overlay])?;
        let limit = format!("--timeout={}s", NODES_READY_LIMIT.as_secs());
        kubectl
            .long(&["rollout", "status", DAEMON_SET, "--namespace", NAMESPACE, &limit], NODES_READY_LIMIT)?;
        self.wait_until_ready().map(drop)
    }
}
