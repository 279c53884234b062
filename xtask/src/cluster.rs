//! A control plane for people, with or without nodes: real, small, and gone without a trace when it is taken down.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::{ControlPlane, ControlPlaneOptions, Kubernetes, Underlay};

use crate::many::{self, ManyNodes};
use crate::report::{bold, green, seconds};
use crate::workspace::Workspace;

/// Names of everything it is begin with this.
const NAME: &str = "pwcluster";

/// Starts etcd and the API server, applies Poolward's resource definitions, and says what to type next.
///
/// # Errors
/// One is up already, or something does not start.
pub(crate) fn up(workspace: &Workspace, nodes_count: u8) -> Result<()> {
    let found = many::standing(workspace, NAME)?;
    ensure!(
        found.is_empty(),
        "a cluster is up already (or was cut short): `cargo xtask cluster down` takes it down; there is {}",
        found.join(", ")
    );
    let started = Instant::now();
    if nodes_count > 0 {
        return up_with_nodes(workspace, nodes_count, started);
    }
    let dir = many::control_plane_dir(workspace, NAME);
    let options = ControlPlaneOptions { dir: Some(dir), ..ControlPlaneOptions::default() };
    let control_plane = ControlPlane::start(&options)?;
    let definitions = apply_definitions(workspace, &control_plane)?;
    let kubectl = Kubernetes::find()?.program("kubectl");
    let text = format!(
        "{} {}, in {}: {definitions}\n\n  \
         export KUBECONFIG={}\n  \
         alias kubectl={}\n  \
         kubectl api-resources --api-group poolward.io\n  \
         kubectl apply -f deploy/examples/walkthrough.yaml\n  \
         cargo xtask cluster down\n",
        green("up:"),
        bold(&control_plane.server()),
        seconds(started.elapsed()),
        control_plane.kubeconfig().display(),
        kubectl.display(),
    );
    control_plane.leave_running();
    print!("{text}");
    Ok(())
}

/// The same with nodes, each in a network namespace and with its agent.
fn up_with_nodes(workspace: &Workspace, nodes_count: u8, started: Instant) -> Result<()> {
    let all = ManyNodes::build(workspace, NAME, Underlay::Routed, nodes_count)?;
    let mut agents = all.start_agents()?;
    let kubectl = Kubernetes::find()?.program("kubectl");
    let inside = |netns: &str, command: &str| format!("nsenter --net=/run/netns/{netns} {command}");
    let first = all.fabric.nodes.first().context("no node")?;
    let kubectl = inside(
        all.management.netns().name(),
        &format!(
            "{} --kubeconfig {}",
            kubectl.display(),
            all.management.control_plane.kubeconfig().display()
        ),
    );
    let ctl = workspace.target.join("release/poolwardctl");
    let text = format!(
        "{} {nodes_count} nodes and {}, in {}\n\n  \
         alias kubectl='{kubectl}'\n  \
         kubectl get nodes,ippools,ipblocks\n  \
         {} --socket {} status\n  \
         {}\n  \
         less {}\n  \
         cargo xtask cluster down\n",
        green("up:"),
        bold(&all.management.control_plane.server()),
        seconds(started.elapsed()),
        ctl.display(),
        first.files.socket().display(),
        inside(first.netns.name(), "ip route"),
        first.files.log().display(),
    );
    agents.iter_mut().for_each(harness::Agent::leave_running);
    drop(agents);
    all.keep();
    print!("{text}");
    Ok(())
}

/// Applies every manifest of deploy/crds.
pub(crate) fn apply_definitions(workspace: &Workspace, control_plane: &ControlPlane) -> Result<String> {
    let crds = workspace.root.join("deploy/crds");
    if !crds.is_dir() {
        return Ok("without resource definitions, there are none in deploy/crds".to_owned());
    }
    Ok(format!("{} resource definitions applied", control_plane.apply_definitions(&crds)?))
}

/// Takes it down, with all that was in it.
///
/// # Errors
/// A process does not go.
pub(crate) fn down(workspace: &Workspace) -> Result<()> {
    let was_up = !many::standing(workspace, NAME)?.is_empty();
    many::take_down(workspace, NAME)?;
    println!("{}", if was_up { "the cluster is down" } else { "no cluster is up" });
    Ok(())
}
