//! Benchmarks: what is measured, beside what else is measured in the same run, and how it is written down.
//!
//! Peers run interleaved with ours, on the same machine at the same time: only ratios mean anything elsewhere.

mod allocator;
mod burst;
mod cni;
mod dataplane;
mod program;
mod routes;
mod rss;
mod samples;

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::setup::Toolbox;
use crate::workspace::Workspace;

/// Which benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bench {
    /// ADD and DEL beside Debian's ptp and host-local, start time and size of the plugin, memory of the agent
    Cni,
    /// Cost of `from_pod` per packet
    Bpf,
    /// Decisions of the allocator, assign and free with the journal, memory of both
    Ipam,
    /// Routes to 5,000 other nodes: installing, repairing, resyncing; the agent's memory among them
    Routes,
    /// Pod to pod over two nodes, beside plain routing and a vxlan device
    Dataplane,
    /// 30 pods at once on three real nodes, beside Debian's ptp and host-local
    Burst,
    /// All of them
    All,
}

impl Bench {
    /// Whether agent, poolwardctl and plugin are run.
    pub(crate) fn needs_binaries(self) -> bool {
        matches!(self, Self::Cni | Self::Routes | Self::All)
    }

    /// Whether there is a real API server in it.
    pub(crate) fn needs_kubernetes(self) -> bool {
        self.measures_routes() || self.needs_nodes()
    }

    /// Whether pods run on real nodes, from an image.
    pub(crate) fn needs_nodes(self) -> bool {
        matches!(self, Self::Burst | Self::All)
    }

    fn measures_cni(self) -> bool {
        matches!(self, Self::Cni | Self::All)
    }

    fn measures_allocator(self) -> bool {
        matches!(self, Self::Ipam | Self::All)
    }

    fn measures_routes(self) -> bool {
        matches!(self, Self::Routes | Self::All)
    }

    fn measures_dataplane(self) -> bool {
        matches!(self, Self::Dataplane | Self::All)
    }

    fn measures_programs(self) -> bool {
        matches!(self, Self::Bpf | Self::All)
    }
}

/// Numbers by name, as they go to `--json`: `cni.add.poolward.p50_ms`.
#[derive(Debug, Default)]
struct Numbers(Map<String, Value>);

impl Numbers {
    fn set(&mut self, name: &str, value: f64) {
        // Three digits behind the point: microseconds of milliseconds.
        self.0.insert(name.to_owned(), Value::from((value * 1000.0).round() / 1000.0));
    }
}

/// Runs benchmarks; what they need must be built ([`Bench::needs_binaries`], [`Bench::needs_nodes`]).
///
/// # Errors
/// Something could not be measured.
pub(crate) fn run(
    workspace: &Workspace,
    toolbox: &Toolbox,
    which: Bench,
    image: Option<&Path>,
    json: Option<&Path>,
) -> Result<()> {
    let mut numbers = Numbers::default();
    if which.measures_cni() {
        cni::run(&mut numbers)?;
    }
    if which.measures_programs() {
        program::run(workspace, toolbox, &mut numbers)?;
    }
    if which.measures_allocator() {
        allocator::run(workspace, toolbox, &mut numbers)?;
    }
    if which.measures_routes() {
        routes::run(workspace, toolbox, &mut numbers)?;
        rss::run(workspace, &mut numbers)?;
    }
    if which.measures_dataplane() {
        dataplane::run(workspace, toolbox, &mut numbers)?;
    }
    if let Some(image) = image {
        burst::run(workspace, image, &mut numbers)?;
    }
    if let Some(path) = json {
        let mut text = serde_json::to_string_pretty(&numbers.0).context("numbers as JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
