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

/// Builds release binaries of agent, poolwardctl and plugin, all of them static.
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

/// All of them are linked statically: the plugin is copied into /opt/cni/bin of hosts whose libc may be older than the
/// builder's, and the others run in an image that has none (docs/adr/0010-image.md). The same programs run everywhere:
/// what is tested is what is shipped.
fn build_all(workspace: &Workspace, toolbox: &Toolbox) -> Result<()> {
    let programs = [
        ("poolward-agent", "poolward-agent", "release"),
        ("poolwardctl", "poolwardctl", "release"),
        ("poolward-cni", "poolward", "plugin"),
    ];
    for (package, program, profile) in programs {
        let mut cargo = workspace.cargo();
        cargo
            .args(["rustc", "-p", package, "--profile", profile, "--bin", program, "--"])
            .args(["-C", "target-feature=+crt-static"])
            .env("PATH", toolbox.path()?);
        logged::ok(cargo, &workspace.log(&format!("build-{program}")), BUILD_LIMIT)?;
    }
    Ok(())
}
