//! Networks for pods: Debian's plugins, which show that the lab works and what others cost, and Poolward.

use anyhow::{Context, Result};
use serde_json::json;

use super::Cluster;
use crate::Binaries;

/// Addresses of pods with Debian's plugins: `10.77.N.0/24` on node N.
pub const HOST_LOCAL_RANGE: &str = "10.77.0.0/16";

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
            let list = json!({"cniVersion": "0.4.0", "name": "host-local", "plugins": [ptp]});
            worker.set_network("20-ptp.conflist", &list)?;
        }
        Ok(())
    }

    /// Poolward as programs of the nodes: the agent, and the plugin with portmap behind it.
    ///
    /// # Errors
    /// They have not been built, or an agent does not answer.
    pub fn install_programs(&mut self, more_yaml: &str) -> Result<()> {
        let plugin = Binaries::find()?.plugin;
        for (worker, link) in self.workers.iter_mut().zip(&self.links) {
            let control_plane = &self.management.control_plane;
            let whole = control_plane.kubectl_as(&link.kubeconfig)?;
            let whole = whole.run(&["config", "view", "--raw", "--flatten"])?;
            let kubeconfig = worker.machine.dir().join("agent.kubeconfig");
            std::fs::write(&kubeconfig, whole).with_context(|| format!("write {}", kubeconfig.display()))?;
            worker.start_agent(&kubeconfig, more_yaml)?;
            let to = worker.plugins().join("poolward");
            std::fs::copy(&plugin, &to).with_context(|| format!("copy {}", plugin.display()))?;
            let list = json!({
                "cniVersion": "1.0.0",
                "name": "poolward",
                "plugins": [{"type": "poolward"}, {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}],
            });
            worker.set_network("10-poolward.conflist", &list)?;
        }
        Ok(())
    }
}
