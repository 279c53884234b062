//! The desk of an operator: `kubectl` and `poolwardctl` as administrator, a login on every node, and the pages to go by.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use harness::{Binaries, Cluster, Desk, Kubernetes, NodeShell, Page};

/// How long a page may take on a machine that is busy with much else: some seconds each, else.
const LIMIT: Duration = Duration::from_secs(400);

/// Runs a page of docs/operate; what it printed. With `env` for what a reader fills in.
///
/// The desk is in the root of the sources, and on nodes in the directory of the image's archive.
pub(crate) fn run_page(cluster: &Cluster, name: &str, env: &[(&str, &str)]) -> String {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let page = Page::read(&root.join("docs/operate").join(name)).unwrap();
    let programs = [
        Kubernetes::find().unwrap().program("kubectl").parent().unwrap().to_owned(),
        Binaries::find().unwrap().ctl.parent().unwrap().to_owned(),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let kubeconfig = cluster.management.control_plane.kubeconfig().as_os_str().to_owned();
    let mut all: Vec<(&str, OsString)> = vec![("KUBECONFIG", kubeconfig), ("PATH", path)];
    all.extend(env.iter().map(|(key, value)| (*key, OsString::from(value))));
    let archive = harness::image_archive().unwrap().canonicalize().unwrap();
    let node = |worker: &harness::Worker| NodeShell {
        name: worker.name.clone(),
        enter: worker.machine.shell().unwrap(),
        dir: archive.parent().unwrap().to_owned(),
    };
    let desk = Desk {
        dir: root,
        env: all,
        netns: Some(cluster.management.netns()),
        nodes: cluster.workers.iter().map(node).collect(),
        limit: LIMIT,
    };
    let started = std::time::Instant::now();
    let said = page.run(&desk).unwrap();
    eprintln!("{name}: {:.1?}", started.elapsed());
    said
}
