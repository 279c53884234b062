//! Several nodes for people: a control plane, a network, an agent on each node; left standing under a name, or gone.

use std::path::PathBuf;

use anyhow::{Context, Result};
use harness::{
    Agent, AgentOptions, ControlPlane, ControlPlaneOptions, Fabric, Management, ManagementLink, NetNs,
    NodeFiles, Underlay, stop_left_running,
};

use crate::workspace::Workspace;

/// The most nodes that a fabric numbers.
pub(crate) const MAX_NODES_COUNT: u8 = 99;

/// The network, the API server, and how each node gets there. Goes when the value does, unless it is kept.
pub(crate) struct ManyNodes {
    /// The nodes and what joins them.
    pub(crate) fabric: Fabric,
    /// The API server.
    pub(crate) management: Management,
    links: Vec<ManagementLink>,
}

/// Where the control plane of this name keeps everything.
pub(crate) fn control_plane_dir(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.cache.join(format!("{name}-control-plane"))
}

impl ManyNodes {
    /// Builds all but the agents. Namespaces, files and pins begin with the name.
    pub(crate) fn build(
        workspace: &Workspace,
        name: &str,
        underlay: Underlay,
        nodes_count: u8,
    ) -> Result<Self> {
        let fabric = Fabric::build(name, underlay, nodes_count)?;
        let dir = Some(control_plane_dir(workspace, name));
        let options = ControlPlaneOptions { dir, ..ControlPlaneOptions::default() };
        let management = Management::start(name, Some(&workspace.root.join("deploy/crds")), options)?;
        let links = fabric.nodes.iter().map(|node| management.join(node)).collect::<Result<_>>()?;
        Ok(Self { fabric, management, links })
    }

    /// Registers every node as its kubelet would, and starts its agent.
    pub(crate) fn start_agents(&self) -> Result<Vec<Agent<'_>>> {
        let nodes = self.fabric.nodes.iter().zip(&self.links);
        let agents = nodes.map(|(node, link)| {
            self.management.control_plane.create_node(&node.name, &node.addresses())?;
            let options = AgentOptions {
                node_name: node.name.clone(),
                kubeconfig: Some(link.kubeconfig.clone()),
                resync_seconds: 60,
                ..AgentOptions::default()
            };
            Agent::start(&node.netns, &node.files, &options).with_context(|| node.name.clone())
        });
        agents.collect()
    }

    /// Leaves everything but the agents standing; those are left running by themselves.
    pub(crate) fn keep(self) {
        self.fabric.keep();
        self.management.leave_running();
    }
}

/// What is there of this name.
pub(crate) fn standing(workspace: &Workspace, name: &str) -> Result<Vec<String>> {
    let mut found = NetNs::list(&format!("{name}-"))?;
    found.extend(files_of(name).map(|files| files.dir().display().to_string()));
    let dir = control_plane_dir(workspace, name);
    if dir.exists() {
        found.push(dir.display().to_string());
    }
    Ok(found)
}

/// Takes down what is there of this name, whether kept on purpose or cut short.
pub(crate) fn take_down(workspace: &Workspace, name: &str) -> Result<()> {
    for files in files_of(name) {
        stop_left_running(&files)?;
    }
    ControlPlane::stop_left_running(&control_plane_dir(workspace, name))?;
    for netns in NetNs::list(&format!("{name}-"))? {
        NetNs::delete(&netns)?;
    }
    for number in 1..=MAX_NODES_COUNT {
        NodeFiles::remove(&Fabric::files_name(name, number))?;
    }
    Ok(())
}

/// Files of nodes that are there.
fn files_of(name: &str) -> impl Iterator<Item = NodeFiles> {
    let names = (1..=MAX_NODES_COUNT).map(move |number| Fabric::files_name(name, number));
    names.filter(|name| NodeFiles::exist(name)).map(|name| NodeFiles::open(&name))
}
