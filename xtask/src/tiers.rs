//! The test tiers: which test programs belong to which, running them, and the count at the end.
//!
//! Tiers are found by what the targets are called, so a new test file is in its tier without anybody listing it:
//!
//! | tier | what |
//! |---|---|
//! | unit | unit tests of every library and program, and integration tests that no other tier takes |
//! | property | integration tests called `properties`, `histories` or `fuzz` |
//! | bpf | integration tests of `poolward-bpf`, and those called `bpf` |
//! | netns | every other integration test of `poolward-tests`, and those called `netns` |
//! | kubernetes | integration tests called `kubernetes`: against a real API server; and `cluster`: on real nodes |
//! | nodes | integration tests called `nodes`: several nodes in network namespaces, and a real API server |
//!
//! Others are one program of ours each, which counts its cases itself (`program`):
//!
//! | tier | what |
//! |---|---|
//! | model | `poolward-protocol-check model`: the allocation protocol state by state, one case a configuration |
//! | mutants | `poolward-protocol-check mutants`: every seeded bug of it is caught, one case a bug |
//! | sim | `poolward-sim`: whole agents under simulated time, one case a seed |
//!
//! And one runs test programs elsewhere (`guests`):
//!
//! | tier | what |
//! |---|---|
//! | vm | the integration test `vm`, and those of the kernel that guests can show something new about, in guest kernels |
//!
//! A tier that was asked for and cannot run fails; so does one in which no test ran, or in which tests were ignored.

mod discover;
mod guests;
mod outcome;
mod program;

use std::io::{IsTerminal, Write};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::discover::TestProgram;
use self::outcome::Outcome;
pub(crate) use self::program::run_seed;
use crate::report::{Table, bold, green, red, seconds};
use crate::setup::Toolbox;
use crate::vm::Kernel;
use crate::workspace::Workspace;
use crate::{build, image, logged};

/// The longest one test program may take.
const PROGRAM_LIMIT: Duration = Duration::from_secs(25 * 60);

/// A tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tier {
    /// Unit tests and integration tests without privileges
    Unit,
    /// Property tests and fuzzing on bytes
    Property,
    /// Whole agents under simulated time, store and kernel, one case a seed
    Sim,
    /// eBPF programs, packet by packet, in the running kernel
    Bpf,
    /// The real agent and plugin in network namespaces
    Netns,
    /// Against a real Kubernetes API server, and on real nodes with kubelets
    Kubernetes,
    /// Several nodes with an agent each, in network namespaces, and a real Kubernetes API server
    Nodes,
    /// The allocation protocol, model-checked
    Model,
    /// Seeded bugs of the allocation protocol, each to be caught
    Mutants,
    /// eBPF programs, pods and tunnels in guest kernels
    Vm,
}

impl Tier {
    /// All of them, cheapest first.
    const ALL: [Self; 10] = [
        Self::Unit,
        Self::Property,
        Self::Model,
        Self::Mutants,
        Self::Sim,
        Self::Bpf,
        Self::Netns,
        Self::Vm,
        Self::Kubernetes,
        Self::Nodes,
    ];

    /// Whether these, or all when none is named, include one that takes a real API server.
    pub(crate) fn need_kubernetes(asked: &[Self]) -> bool {
        asked.is_empty() || asked.iter().any(|tier| matches!(tier, Self::Kubernetes | Self::Nodes))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Property => "property",
            Self::Sim => "sim",
            Self::Bpf => "bpf",
            Self::Netns => "netns",
            Self::Kubernetes => "kubernetes",
            Self::Nodes => "nodes",
            Self::Model => "model",
            Self::Mutants => "mutants",
            Self::Vm => "vm",
        }
    }

    /// Tests of one program at a time: those of the kernel tiers measure and share a machine.
    fn threads_count(self) -> Option<u32> {
        match self {
            Self::Unit | Self::Property | Self::Model | Self::Mutants | Self::Sim => None,
            Self::Bpf | Self::Vm => Some(2),
            Self::Netns | Self::Kubernetes | Self::Nodes => Some(1),
        }
    }
}

/// What became of a tier.
struct TierResult {
    tier: Tier,
    outcome: Outcome,
    /// Why it failed beyond single tests; empty when it did not.
    problems: Vec<String>,
    took: Duration,
}

impl TierResult {
    fn failed_count(&self) -> u64 {
        self.outcome.failed + self.problems.len() as u64
    }
}

/// What somebody wants to be run.
pub(crate) struct Asked<'a> {
    /// Which tiers; none for all.
    pub(crate) tiers: &'a [Tier],
    /// Only tests whose name contains this.
    pub(crate) filter: Option<&'a str>,
    /// Of the guest kernels only this one, with everything it prints.
    pub(crate) kernel: Option<Kernel>,
}

/// Runs the tiers, or all when none is named.
///
/// # Errors
/// Nothing could be run at all. Failing tests are no error but an exit code.
pub(crate) fn run(workspace: &Workspace, toolbox: &Toolbox, asked: &Asked<'_>) -> Result<ExitCode> {
    let started = Instant::now();
    let is_asked = |tier: &Tier| asked.tiers.is_empty() || asked.tiers.contains(tier);
    let tiers: Vec<Tier> = Tier::ALL.into_iter().filter(is_asked).collect();
    let mut results = Vec::new();
    for tier in tiers {
        let tier_started = Instant::now();
        let mut result =
            TierResult { tier, outcome: Outcome::default(), problems: Vec::new(), took: Duration::default() };
        if let Err(error) = run_tier(workspace, toolbox, asked, &mut result) {
            result.problems.push(format!("{error:#}"));
        }
        crate::interrupt::check()?;
        if result.problems.is_empty() && result.outcome.ran() == 0 {
            let matching = asked.filter.map_or_else(String::new, |filter| format!(" matching {filter:?}"));
            result.problems.push(format!("no test{matching} ran"));
        }
        if result.outcome.ignored > 0 {
            result.problems.push(format!("{} tests were ignored", result.outcome.ignored));
        }
        result.took = tier_started.elapsed();
        progress_end(&line_of(&result));
        for problem in &result.problems {
            println!("{} {problem}", red(&format!("{}:", tier.name())));
        }
        results.push(result);
    }
    print!("\n{}", table_of(&results));
    let passed: u64 = results.iter().map(|r| r.outcome.passed).sum();
    let failed: u64 = results.iter().map(TierResult::failed_count).sum();
    println!("\nin {}", seconds(started.elapsed()));
    let last = format!("{passed} passed, {failed} failed");
    println!("{}", if failed == 0 { green(&last) } else { red(&last) });
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_tier(
    workspace: &Workspace,
    toolbox: &Toolbox,
    asked: &Asked<'_>,
    result: &mut TierResult,
) -> Result<()> {
    let (tier, filter) = (result.tier, asked.filter);
    if tier == Tier::Vm {
        return guests::run(workspace, toolbox, asked, result);
    }
    if let Some(program) = program::of_tier(tier) {
        return program::run(workspace, toolbox, &program, filter, result);
    }
    match tier {
        Tier::Netns | Tier::Nodes => build::release(workspace, toolbox)?,
        // Nodes run the agent from the image that is shipped.
        Tier::Kubernetes => image::build(workspace, toolbox, None).map(drop)?,
        _ => {}
    }
    progress(&format!("{}: building", bold(tier.name())));
    let programs = discover::build(workspace, toolbox, tier)?;
    for (done, program) in programs.iter().enumerate() {
        progress(&format!("{}: {}/{} {}", bold(tier.name()), done + 1, programs.len(), program.name));
        let outcome = run_program(workspace, toolbox, tier, program, filter)?;
        result.outcome.add(&outcome);
        if !outcome.complete {
            result.problems.push(format!("{} ended without a result", program.name));
        }
        crate::interrupt::check()?;
    }
    Ok(())
}

/// Runs one test program; what it said is shown only when something in it failed.
fn run_program(
    workspace: &Workspace,
    toolbox: &Toolbox,
    tier: Tier,
    program: &TestProgram,
    filter: Option<&str>,
) -> Result<Outcome> {
    let mut command = Command::new(&program.executable);
    // As cargo would run it: in the package's directory, which some tests find their files by.
    command.current_dir(&program.package_dir).env("CARGO_MANIFEST_DIR", &program.package_dir);
    command.env("PATH", toolbox.path()?).args(["--color", "never"]);
    if let Some(threads) = tier.threads_count() {
        command.arg(format!("--test-threads={threads}"));
    }
    command.args(filter);
    let log = workspace.log(&format!("test-{}-{}", tier.name(), program.name.replace('/', "-")));
    let status = logged::finish(command, &log, PROGRAM_LIMIT);
    let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let outcome = Outcome::parse(&text);
    let ended_well = matches!(&status, Ok(status) if status.success());
    if !ended_well || outcome.failed > 0 || !outcome.complete {
        progress_end(&format!("{} {}", red("FAILED"), program.name));
        println!("{}", outcome::failures(&text));
        if let Err(error) = status {
            println!("{error:#}");
        }
    }
    // A program may end badly after saying that all was well.
    Ok(Outcome { complete: outcome.complete && (ended_well || outcome.failed > 0), ..outcome })
}

fn line_of(result: &TierResult) -> String {
    let failed = result.failed_count();
    let state = if failed == 0 { green("ok") } else { red("FAILED") };
    let name = bold(result.tier.name());
    format!("{name}: {state}, {} passed, {failed} failed, {}", result.outcome.passed, seconds(result.took))
}

fn table_of(results: &[TierResult]) -> String {
    let mut table = Table::new(&["tier", "passed", "failed", "time"]);
    for result in results {
        let (passed, failed) = (result.outcome.passed.to_string(), result.failed_count().to_string());
        table.row([result.tier.name().to_owned(), passed, failed, seconds(result.took)]);
    }
    table.render()
}

/// One line that the next one replaces; on a terminal only.
fn progress(line: &str) {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[K{line}");
        let _ = std::io::stdout().flush();
    }
}

/// A line that stays.
fn progress_end(line: &str) {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[K");
    }
    println!("{line}");
}
