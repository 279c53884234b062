//! Runs seeds, and says which of them fail and why.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use clap::Parser;
use poolward_sim::scenario::Scenario;
use poolward_sim::shrink::shrink;
use poolward_sim::sim::{self, Outcome};
use poolward_sim::tally::Counts;

/// How much of the trace of a failure is shown.
const TAIL_LINES_COUNT: usize = 60;

/// Seeds that are shown at length.
const SHOWN_MAX: usize = 3;

/// From so many seeds on, all of them together must have got everywhere.
const REACH_SEEDS_MIN: u64 = 500;

/// In how many of a hundred runs an address must be borrowed at least.
const BORROWING_PERCENT_MIN: u64 = 25;

/// Whole agents under simulated time, store and kernel, with faults on every boundary.
#[derive(Debug, Parser)]
struct Flags {
    /// How many seeds to run
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    first: u64,
    /// Run only this one
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Print what happens as it happens, and what agents log (RUST_LOG)
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Do not look for a shorter list of events that fails as well
    #[arg(long)]
    no_shrink: bool,
    /// Stop at the first seed that fails
    #[arg(long)]
    fail_fast: bool,
    /// Seed a known bug into the allocator or the protocol, by its name in `ipam::mutant`: seeds must fail then
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Threads; by default as many as there are processors
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
}

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    if flags.trace {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    #[cfg(feature = "mutants")]
    if let Some(name) = &flags.mutant {
        let mutant = ipam::mutant::Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == *name);
        ipam::mutant::activate(Some(mutant.with_context(|| format!("no mutant is called {name}"))?));
    }
    let scratch = scratch();
    let (first, count) = flags.seed.map_or((flags.first, flags.seeds), |seed| (seed, 1));
    let (next, shown) = (AtomicU64::new(first), AtomicUsize::new(0));
    let (added, fingerprint) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let reach = Mutex::new(Reach::default());
    let threads =
        flags.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let work = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let over = flags.fail_fast && shown.load(Ordering::Relaxed) > 0;
            if seed >= first + count || over {
                return Ok(());
            }
            let scenario = Scenario::of_seed(seed);
            let outcome =
                sim::run(&scenario, &scratch, flags.trace).with_context(|| format!("seed {seed}"))?;
            added.fetch_add(outcome.added_count, Ordering::Relaxed);
            fingerprint.fetch_xor(outcome.fingerprint, Ordering::Relaxed);
            reach.lock().unwrap_or_else(PoisonError::into_inner).add(&outcome);
            if !outcome.violations.is_empty() {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                if shown.fetch_add(1, Ordering::Relaxed) < SHOWN_MAX {
                    show(&scenario, &outcome, &scratch, &flags)?;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(_) => anyhow::bail!("a run panicked"),
        })
    })?;
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_unstable();
    let reach = reach.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        println!("failed seeds: {failed:?}");
    }
    println!(
        "{} ADDs succeeded; fingerprint of all traces: {:016x}",
        added.into_inner(),
        fingerprint.into_inner()
    );
    println!("{reach}");
    let mut failed_count = failed.len() as u64;
    let mut case_count = reach.run_count;
    if reach.run_count >= REACH_SEEDS_MIN {
        // A case of its own: whether all these runs have been anywhere.
        case_count += 1;
        if let Err(reason) = reach.is_enough() {
            failed_count += 1;
            println!("FAILED: these runs prove too little: {reason}");
        }
    }
    println!("{} passed, {failed_count} failed", case_count - failed_count);
    Ok(if failed_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What all runs together have got to.
#[derive(Debug, Default)]
struct Reach {
    run_count: u64,
    /// Runs in which an address was borrowed.
    borrowing_count: u64,
    counts: Counts,
}

impl Reach {
    fn add(&mut self, outcome: &Outcome) {
        self.run_count += 1;
        self.borrowing_count += u64::from(outcome.counts.granted > 0);
        self.counts.add(&outcome.counts);
    }

    fn is_enough(&self) -> Result<(), String> {
        let never: Vec<&str> =
            self.counts.named().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
        if !never.is_empty() {
            return Err(format!("never {}", never.join(", ")));
        }
        if self.borrowing_count * 100 < self.run_count * BORROWING_PERCENT_MIN {
            return Err(format!("only {} of {} borrow", self.borrowing_count, self.run_count));
        }
        Ok(())
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> =
            self.counts.named().iter().map(|(name, count)| format!("{name} {count}")).collect();
        write!(f, "blocks and loans: {}; runs that borrow: {}", counts.join(", "), self.borrowing_count)
    }
}

/// Where journals lie: on the tmpfs that there is.
fn scratch() -> PathBuf {
    let shared_memory = Path::new("/dev/shm");
    if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() }
}

/// Says what is wrong with a seed, in one piece.
fn show(scenario: &Scenario, outcome: &Outcome, scratch: &Path, flags: &Flags) -> anyhow::Result<()> {
    let seed = scenario.seed;
    let mut text = format!("seed {seed}: FAILED\n");
    for violation in &outcome.violations {
        text += &format!("  {violation}\n");
    }
    let (mut told, mut events) = (outcome.clone(), &scenario.events);
    let shorter;
    if !flags.no_shrink && !flags.trace {
        let rule = outcome.violations.first().map(|violation| violation.rule);
        let same = |candidate: &Scenario| {
            let again = sim::run(candidate, scratch, false);
            again.is_ok_and(|again| again.violations.first().map(|violation| violation.rule) == rule)
        };
        shorter = shrink(scenario, same);
        told = sim::run(&shorter, scratch, false)?;
        events = &shorter.events;
        text += &format!(
            "  the shortest list of events found ({} of {}):\n",
            events.len(),
            scenario.events.len()
        );
    } else {
        text += "  events:\n";
    }
    for event in events {
        text += &format!("  {:>7} ms {:?}\n", event.at_ms, event.what);
    }
    if !flags.trace {
        text += "  the end of its trace:\n";
        let first = told.trace.len().saturating_sub(TAIL_LINES_COUNT);
        for line in &told.trace[first..] {
            text += &format!("  {line}\n");
        }
        for violation in &told.violations {
            text += &format!("  {violation}\n");
        }
    }
    text += &format!("  again: cargo xtask test sim --seed {seed}\n");
    print!("{text}");
    Ok(())
}
