//! The tiers of the allocation protocol: a program of their own, built as released, that counts each configuration or
//! each mutant as one test.

use std::process::Command;

use anyhow::{Context, Result};

use super::discover::CHECKER;
use super::outcome::Outcome;
use super::{PROGRAM_LIMIT, TierResult, progress_end};
use crate::setup::Toolbox;
use crate::workspace::Workspace;
use crate::{build, logged};

/// Builds the checker, runs it, and shows its lines.
///
/// # Errors
/// It does not build, or cannot be run.
pub(super) fn run(
    workspace: &Workspace,
    toolbox: &Toolbox,
    filter: Option<&str>,
    result: &mut TierResult,
) -> Result<()> {
    let tier = result.tier.name();
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "-p", CHECKER]).env("PATH", toolbox.path()?);
    logged::ok(cargo, &workspace.log("build-checker"), build::BUILD_LIMIT)?;
    let mut command = Command::new(workspace.target.join("release").join(CHECKER));
    command.arg(tier).args(filter);
    let log = workspace.log(&format!("test-{tier}"));
    let status = logged::finish(command, &log, PROGRAM_LIMIT)?;
    let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    progress_end(text.trim_end());
    let outcome = Outcome::parse(&text);
    result.outcome.add(&outcome);
    if !outcome.complete || !status.success() && outcome.failed == 0 {
        result.problems.push(format!("{CHECKER} {tier} ended without a result"));
    }
    Ok(())
}
