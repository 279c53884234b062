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
//! | kubernetes | integration tests called `kubernetes`: against a real API server; `cluster` and `installation`: on real nodes |
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
mod queue;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::discover::TestProgram;
use self::outcome::Outcome;
pub(crate) use self::program::run_seed;
use self::queue::Runner;
use crate::report::{Table, bold, green, red, seconds};
use crate::setup::Toolbox;
use crate::vm::Kernel;
use crate::workspace::Workspace;
use crate::{build, image};

/// The longest one test program may take.
const PROGRAM_LIMIT: Duration = Duration::from_secs(20 * 60);

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

    /// How many programs of this tier, and of its neighbours of which this is also said, run at once.
    fn programs_at_once(self) -> usize {
        if matches!(self, Self::Kubernetes | Self::Nodes) { 2 } else { 1 }
    }
}

/// What became of a tier.
struct TierResult {
    tier: Tier,
    outcome: Outcome,
    /// Why it failed beyond single tests; empty when it did not.
    problems: Vec<String>,
    /// Building, and each of its programs, whatever ran beside it.
    took: Duration,
}

impl TierResult {
    fn new(tier: Tier) -> Self {
        Self { tier, outcome: Outcome::default(), problems: Vec::new(), took: Duration::default() }
    }

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
    for together in tiers.chunk_by(|a, b| a.programs_at_once() > 1 && b.programs_at_once() > 1) {
        results.extend(run_together(workspace, toolbox, asked, together)?);
    }
    print!("\n{}", table_of(&results));
    let passed: u64 = results.iter().map(|r| r.outcome.passed).sum();
    let failed: u64 = results.iter().map(TierResult::failed_count).sum();
    println!("\nin {}", seconds(started.elapsed()));
    let last = format!("{passed} passed, {failed} failed");
    println!("{}", if failed == 0 { green(&last) } else { red(&last) });
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tiers that run together: their programs wait for servers and kubelets most of the time, so two at once take little
/// longer than one.
fn run_together(
    workspace: &Workspace,
    toolbox: &Toolbox,
    asked: &Asked<'_>,
    tiers: &[Tier],
) -> Result<Vec<TierResult>> {
    let mut results: Vec<TierResult> = tiers.iter().copied().map(TierResult::new).collect();
    let mut queue = Vec::new();
    for (at, result) in results.iter_mut().enumerate() {
        let started = Instant::now();
        match run_or_build(workspace, toolbox, asked, result) {
            Ok(programs) => queue.extend(programs.into_iter().map(|program| (at, program))),
            Err(error) => result.problems.push(format!("{error:#}")),
        }
        result.took = started.elapsed();
        crate::interrupt::check()?;
    }
    let runner = Runner { workspace, toolbox, filter: asked.filter };
    runner.run_all(queue, &mut results)?;
    for result in &mut results {
        if result.problems.is_empty() && result.outcome.ran() == 0 {
            let matching = asked.filter.map_or_else(String::new, |filter| format!(" matching {filter:?}"));
            result.problems.push(format!("no test{matching} ran"));
        }
        if result.outcome.ignored > 0 {
            result.problems.push(format!("{} tests were ignored", result.outcome.ignored));
        }
        progress_end(&line_of(result));
        for problem in &result.problems {
            println!("{} {problem}", red(&format!("{}:", result.tier.name())));
        }
    }
    Ok(results)
}

/// Runs a tier that runs itself; of others, builds the test programs, which are still to be run.
fn run_or_build(
    workspace: &Workspace,
    toolbox: &Toolbox,
    asked: &Asked<'_>,
    result: &mut TierResult,
) -> Result<Vec<TestProgram>> {
    let tier = result.tier;
    if tier == Tier::Vm {
        return guests::run(workspace, toolbox, asked, result).map(|()| Vec::new());
    }
    if let Some(program) = program::of_tier(tier) {
        return program::run(workspace, toolbox, &program, asked.filter, result).map(|()| Vec::new());
    }
    match tier {
        Tier::Netns | Tier::Nodes => build::release(workspace, toolbox)?,
        // Nodes run the agent from the image that is shipped.
        Tier::Kubernetes => image::build(workspace, toolbox, None).map(drop)?,
        _ => {}
    }
    progress(&format!("{}: building", bold(tier.name())));
    discover::build(workspace, toolbox, tier)
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
