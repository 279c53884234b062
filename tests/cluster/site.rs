//! The clusters of this run, and pods on them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::{Cluster, ClusterOptions, Underlay};

/// How long what takes a few round trips and a pod may take on a machine that is busy with much else.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Starts a cluster whose pods have no network yet.
pub(crate) fn start(role: &str, nodes_count: u8) -> Cluster {
    let definitions = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds"));
    let options = ClusterOptions {
        name: &format!("pwc-{}-{role}", std::process::id()),
        underlay: Underlay::Routed,
        nodes_count,
        definitions: &definitions,
        control_plane_dir: None,
    };
    Cluster::start(&options, &|_| ()).unwrap()
}

/// Waits until it holds; how long that took.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SOON, "not within {} s: {what}", SOON.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
    started.elapsed()
}
