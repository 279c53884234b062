//! A control plane for people, with or without nodes: real, small, and gone without a trace when it is taken down.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use harness::cluster::{BUSYBOX_IMAGE, NAMESPACE};
use harness::{Cluster, ClusterOptions, ControlPlane, ControlPlaneOptions, Kubernetes, Underlay};

use crate::many;
use crate::report::{bold, green, seconds};
use crate::workspace::Workspace;

/// Names of everything it is begin with this.
const NAME: &str = "pwcluster";

/// What installs Poolward on nodes that were given its image by hand.
const OVERLAY: &str = "deploy/overlays/lab";

/// What pods get unless they ask for something else: without any pool no node is ready. Beside those of the examples.
const POOL: &str = "\
apiVersion: poolward.io/v1
kind: IPPool
metadata: {name: default-pool}
spec: {cidr: 10.244.128.0/17, blockSize: 26, ipipMode: Always, natOutgoing: true}
";

/// Starts etcd and the API server, applies Poolward's resource definitions, and says what to type next. With nodes, also
/// controllers and a scheduler, and on each node containerd, a kubelet and kube-proxy; their pods' network is Poolward
/// from this image, or else what Debian's plugins make.
///
/// # Errors
/// One is up already, or something does not start.
pub(crate) fn up(workspace: &Workspace, nodes_count: u8, image: Option<&Path>) -> Result<()> {
    let found = standing(workspace)?;
    ensure!(
        found.is_empty(),
        "a cluster is up already (or was cut short): `cargo xtask cluster down` takes it down; there is {}",
        found.join(", ")
    );
    let started = Instant::now();
    if nodes_count > 0 {
        return up_with_nodes(workspace, nodes_count, image, started);
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

/// The same with nodes, and what their pods' network is made of.
fn up_with_nodes(
    workspace: &Workspace,
    nodes_count: u8,
    image: Option<&Path>,
    started: Instant,
) -> Result<()> {
    let progress =
        |what: &str| eprintln!("{} {what}, after {}", bold("cluster:"), seconds(started.elapsed()));
    let options = ClusterOptions {
        name: NAME,
        underlay: Underlay::Routed,
        nodes_count,
        definitions: Some(&workspace.root.join("deploy/crds")),
        control_plane_dir: Some(many::control_plane_dir(workspace, NAME)),
    };
    let mut cluster = Cluster::start(&options, &progress)?;
    crate::interrupt::check()?;
    let agents = if let Some(image) = image {
        progress("Poolward");
        install(workspace, &mut cluster, image)?;
        format!("  kubectl get pods -n {NAMESPACE} -o wide\n  kubectl get ippools,ipblocks\n")
    } else {
        progress("ptp and host-local");
        cluster.install_host_local()?;
        cluster.wait_until_ready()?;
        String::new()
    };
    crate::interrupt::check()?;
    let control_plane = &cluster.management.control_plane;
    let first = cluster.worker(1)?;
    let text = format!(
        "{} {nodes_count} nodes and {}, ready in {}\n\n  \
         alias kubectl='nsenter --net=/run/netns/{} {} --kubeconfig {}'\n  \
         kubectl get nodes -o wide\n\
         {agents}  \
         kubectl run shell --image={BUSYBOX_IMAGE} --image-pull-policy=Never -it --rm --restart=Never -- sh\n  \
         nsenter --target $(cat {}/init.pid) --all ip route   # on {}\n  \
         less {}/kubelet.log\n  \
         cargo xtask cluster down\n",
        green("up:"),
        bold(&control_plane.server()),
        seconds(started.elapsed()),
        cluster.management.netns().name(),
        Kubernetes::find()?.program("kubectl").display(),
        control_plane.kubeconfig().display(),
        first.machine.dir().display(),
        first.name,
        first.machine.dir().display(),
    );
    cluster.leave_running();
    print!("{text}");
    Ok(())
}

/// Gives a cluster that knows the definitions a pool, and Poolward from this image; waits until all nodes are ready.
///
/// # Errors
/// What `kubectl` or `ctr` says, or not every agent becomes ready.
pub(crate) fn install(workspace: &Workspace, cluster: &mut Cluster, image: &Path) -> Result<()> {
    cluster.kubectl()?.apply(POOL)?;
    cluster.install_poolward(image, &workspace.root.join(OVERLAY))
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
    let was_up = !standing(workspace)?.is_empty();
    Cluster::take_down_nodes(NAME)?;
    many::take_down(workspace, NAME)?;
    println!("{}", if was_up { "the cluster is down" } else { "no cluster is up" });
    Ok(())
}

/// What is there of a cluster.
fn standing(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found = many::standing(workspace, NAME)?;
    if Cluster::is_there(NAME)? {
        found.push(Cluster::dir_of(NAME)?.display().to_string());
    }
    Ok(found)
}
