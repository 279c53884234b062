//! A control plane for people: real, small, and gone without a trace when it is taken down.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::{ControlPlane, ControlPlaneOptions, Kubernetes};

use crate::report::{bold, green, seconds};
use crate::workspace::Workspace;

/// Everything about it is in here.
fn dir(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("cluster")
}

/// Starts etcd and the API server, applies Poolward's resource definitions, and says what to type next.
///
/// # Errors
/// One is up already, or something does not start.
pub(crate) fn up(workspace: &Workspace) -> Result<()> {
    let dir = dir(workspace);
    ensure!(
        !dir.exists(),
        "a cluster is up already (or was cut short) in {}: `cargo xtask cluster down` takes it down",
        dir.display()
    );
    let started = Instant::now();
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

/// Applies every manifest of deploy/crds.
fn apply_definitions(workspace: &Workspace, control_plane: &ControlPlane) -> Result<String> {
    let crds = workspace.root.join("deploy/crds");
    if !crds.is_dir() {
        return Ok("without resource definitions, there are none in deploy/crds".to_owned());
    }
    let path = crds.to_str().context("the workspace's path is no text")?;
    let kubectl = control_plane.kubectl()?;
    let applied = kubectl.run(&["apply", "-f", path])?;
    kubectl.run(&["wait", "--for=condition=established", "--timeout=60s", "-f", path])?;
    Ok(format!("{} resource definitions applied", applied.lines().count()))
}

/// Takes it down, with all that was in it.
///
/// # Errors
/// A process does not go.
pub(crate) fn down(workspace: &Workspace) -> Result<()> {
    let was_up = ControlPlane::stop_left_running(&dir(workspace))?;
    println!("{}", if was_up { "the cluster is down" } else { "no cluster is up" });
    Ok(())
}
