//! Tiers that are a program of ours: it runs its own cases, says what is wrong with those that fail, and ends with a
//! line `N passed, M failed`.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use super::outcome::Outcome;
use super::{PROGRAM_LIMIT, Tier, TierResult, progress, progress_end};
use crate::report::{bold, red};
use crate::setup::Toolbox;
use crate::workspace::Workspace;
use crate::{build, logged};

/// A program that is a tier.
pub(super) struct Program {
    /// Its package, and its name.
    package: &'static str,
    /// What it is told when all of its cases are to run.
    args: &'static [&'static str],
    /// Whether it takes names of single cases, and what it says is worth reading when all is well.
    is_told: bool,
}

/// Checks the allocation protocol state by state. It seeds bugs into what it depends on, so it is built by itself: no
/// other test shall be built with the seeds.
pub(super) const CHECKER: &str = "poolward-protocol-check";

/// The program of a tier; `None` for tiers made of test programs.
pub(super) fn of_tier(tier: Tier) -> Option<Program> {
    match tier {
        Tier::Model => Some(Program { package: CHECKER, args: &["model"], is_told: true }),
        Tier::Mutants => Some(Program { package: CHECKER, args: &["mutants"], is_told: true }),
        Tier::Sim => Some(Program { package: "poolward-sim", args: &["--seeds", "1000"], is_told: false }),
        Tier::Unit | Tier::Property | Tier::Bpf | Tier::Netns | Tier::Kubernetes | Tier::Nodes | Tier::Vm => {
            None
        }
    }
}

/// Builds the program, runs all its cases, and counts them.
///
/// # Errors
/// It cannot be built or run.
pub(super) fn run(
    workspace: &Workspace,
    toolbox: &Toolbox,
    program: &Program,
    filter: Option<&str>,
    result: &mut TierResult,
) -> Result<()> {
    let name = result.tier.name();
    progress(&format!("{}: building", bold(name)));
    let mut command = built(workspace, toolbox, program)?;
    progress(&format!("{}: {} {}", bold(name), program.package, program.args.join(" ")));
    command.args(program.args).args(filter.filter(|_| program.is_told));
    let log = workspace.log(&format!("test-{name}"));
    let status = logged::finish(command, &log, PROGRAM_LIMIT);
    let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    result.outcome = Outcome::parse_last_line(&text);
    let ended_well = matches!(&status, Ok(status) if status.success());
    if !ended_well || result.outcome.failed > 0 {
        progress_end(&format!("{} {}", red("FAILED"), program.package));
        println!("{text}");
    } else if program.is_told {
        progress_end(text.trim_end());
    }
    if !result.outcome.complete || (!ended_well && result.outcome.failed == 0) {
        let ended = status.map_or_else(|error| format!("{error:#}"), |status| status.to_string());
        result.problems.push(format!("{} ended without a result: {ended}", program.package));
    }
    Ok(())
}

/// Runs one case of the simulation, with everything it has to say on the terminal.
///
/// # Errors
/// It cannot be built or run.
pub(crate) fn run_seed(workspace: &Workspace, toolbox: &Toolbox, seed: u64) -> Result<ExitCode> {
    let program = of_tier(Tier::Sim).context("the simulation is a program")?;
    let mut command = built(workspace, toolbox, &program)?;
    let status = command.arg("--seed").arg(seed.to_string()).arg("--trace").status();
    let status = status.with_context(|| format!("run {}", program.package))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The program, optimised: its cases are many.
fn built(workspace: &Workspace, toolbox: &Toolbox, program: &Program) -> Result<Command> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "-p", program.package, "--bin", program.package]);
    cargo.env("PATH", toolbox.path()?);
    logged::ok(cargo, &workspace.log(&format!("build-{}", program.package)), build::BUILD_LIMIT)?;
    let path: OsString = workspace.target.join("release").join(program.package).into();
    Ok(Command::new(path))
}
