//! Builds what is shipped: the agent, poolwardctl and the plugin.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::logged;
use crate::report::{bold, seconds};
use crate::setup::Toolbox;
use crate::workspace::Workspace;

/// The longest one cargo run may take.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Builds release binaries of agent and poolwardctl and the static plugin.
///
/// # Errors
/// What the compiler says, at its end.
pub(crate) fn release(workspace: &Workspace, toolbox: &Toolbox) -> Result<()> {
    let started = Instant::now();
    eprint!("{} agent, poolwardctl and plugin ... ", bold("build:"));
    let _ = std::io::stderr().flush();
    let built = build_all(workspace, toolbox);
    eprintln!("{}", if built.is_ok() { seconds(started.elapsed()) } else { "failed".into() });
    built
}

fn build_all(workspace: &Workspace, toolbox: &Toolbox) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--release", "-p", "poolward-agent", "-p", "poolwardctl", "--bins"])
        .env("PATH", toolbox.path()?);
    logged::ok(cargo, &workspace.log("build-release"), BUILD_LIMIT)?;
    let mut cargo = workspace.cargo();
    cargo
        .args(["rustc", "-p", "poolward-cni", "--profile", "plugin", "--bin", "poolward", "--"])
        // Static: it is copied into /opt/cni/bin of hosts whose libc may be older than the builder's.
        .args(["-C", "target-feature=+crt-static"]);
    logged::ok(cargo, &workspace.log("build-plugin"), BUILD_LIMIT)
}
