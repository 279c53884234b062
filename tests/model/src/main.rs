//! `poolward-protocol-check`: the allocation protocol, model-checked.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use ipam::mutant::{self, Mutant};
use poolward_protocol_check::checker::{self, Report, Violation};
use poolward_protocol_check::config::Config;
use poolward_protocol_check::configs;

/// Checks the allocation protocol, state by state.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
    /// The longest one search may take, in seconds; one that is cut short fails
    #[arg(long, global = true, default_value_t = 120)]
    limit_s: u64,
    /// Show traces of what is expected to be found, too
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Every configuration holds, and the one that drops the assumption about gone nodes does not
    Model {
        /// Only these configurations
        names: Vec<String>,
    },
    /// Every seeded bug is caught
    Mutants {
        /// Only these mutants
        names: Vec<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let limit = Duration::from_secs(cli.limit_s);
    let ok = match &cli.task {
        Task::Model { names } => model(names, limit, cli.verbose),
        Task::Mutants { names } => mutants(names, limit, cli.verbose),
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many passed, and how many did not.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn add(&mut self, well: bool) {
        *(if well { &mut self.passed } else { &mut self.failed }) += 1;
    }

    /// The last line, which says how many, and whether all is well.
    fn conclude(self) -> bool {
        let Self { passed, failed } = self;
        let ok = failed == 0 && passed > 0;
        println!("\n{passed} passed, {failed} failed");
        ok
    }
}

/// Runs work on both cores, and shows each result as it comes.
fn side_by_side<T: Sync>(work: &[T], run: impl Fn(&T) -> (String, bool) + Sync) -> Count {
    let (next, count) = (AtomicUsize::new(0), Mutex::new(Count::default()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (lines, well) = run(item);
                    let mut count = count.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    println!("{lines}");
                    count.add(well);
                }
            });
        }
    });
    count.into_inner().unwrap_or_default()
}

fn model(names: &[String], limit: Duration, verbose: bool) -> bool {
    let started = Instant::now();
    let asked = |config: &Config| names.is_empty() || names.iter().any(|name| name == config.name);
    let mut work: Vec<(Config, bool)> = configs::all().into_iter().map(|config| (config, true)).collect();
    work.push((configs::unfenced(), false));
    work.retain(|(config, _)| asked(config));
    println!(
        "{:<10} {:>9} {:>9} {:>5} {:>6} {:>6} {:>7}  result",
        "name", "states", "unique", "depth", "props", "settle", "time"
    );
    let count = side_by_side(&work, |(config, holds)| {
        let report = checker::check(config.clone(), 1, limit);
        let found = report.violation.as_ref();
        let (result, well) = match (found, holds) {
            (None, true) if report.exhausted => ("exhausted: yes".to_owned(), true),
            (None, true) => ("exhausted: NO, cut short".to_owned(), false),
            (Some(found), true) => (format!("VIOLATED: {}", found.property), false),
            (Some(found), false) if found.property == "one holder for each address" => {
                (format!("as expected, without the assumption: {} fails", found.property), true)
            }
            (Some(found), false) => (format!("VIOLATED otherwise than expected: {}", found.property), false),
            (None, false) => ("the expected counterexample was NOT found".to_owned(), false),
        };
        let mut lines = line_of(config, &report, &result);
        if let Some(found) = found {
            lines += &trace_of(found, !well || !holds || verbose);
        }
        (lines, well)
    });
    println!("{} configurations, {:.0} s", work.len(), started.elapsed().as_secs_f64());
    count.conclude()
}

fn line_of(config: &Config, report: &Report, result: &str) -> String {
    format!(
        "{:<10} {:>9} {:>9} {:>5} {:>6} {:>6} {:>5.1} s  {result}\n           {}; {} nodes, {} pods; at most: {}",
        config.name,
        report.states,
        report.unique,
        report.depth,
        poolward_protocol_check::truth::CHECKS.len(),
        report.settle_steps,
        report.took.as_secs_f64(),
        config.about,
        config.machines.len(),
        config.pods.len(),
        config.budget,
    )
}

fn trace_of(found: &Violation, wanted: bool) -> String {
    if wanted { found.trace.iter().map(|line| format!("\n{line}")).collect() } else { String::new() }
}

fn mutants(names: &[String], limit: Duration, verbose: bool) -> bool {
    let mut count = Count::default();
    let asked = |mutant: &&Mutant| {
        names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(&format!("{mutant:?}")))
    };
    let wanted: Vec<Mutant> = Mutant::ALL.iter().filter(asked).copied().collect();
    let mut used: Vec<Config> = Vec::new();
    for mutant in &wanted {
        let mut found = None;
        let likely = configs::for_mutant(*mutant);
        for config in &likely {
            if !used.iter().any(|other| other.name == config.name) {
                used.push(config.clone());
            }
        }
        // Whatever is wrong at once says more than that it does not settle, so that is looked at last.
        let at_once = likely.iter().map(|config| Config { settle_steps: 0, ..config.clone() });
        for config in at_once.chain(likely.clone()) {
            mutant::activate(Some(*mutant));
            let report = checker::check(config.clone(), 2, limit);
            mutant::activate(None);
            if let Some(violation) = report.violation {
                found = Some((config.name, violation, report.took));
                break;
            }
        }
        count.add(found.is_some());
        match found {
            Some((config, violation, took)) => {
                let (name, steps) = (format!("{mutant:?}"), violation.steps);
                println!(
                    "{name:<20} caught by \"{}\" in {steps} steps, configuration {config}, {:.1} s{}",
                    violation.property,
                    took.as_secs_f64(),
                    trace_of(&violation, verbose)
                );
            }
            None => println!("{:<20} SURVIVED", format!("{mutant:?}")),
        }
    }
    println!("{} of {} mutants caught", count.passed, wanted.len());
    let unmutated = side_by_side(&used, |config| {
        let report = checker::check(config.clone(), 1, limit);
        let well = report.violation.is_none() && report.exhausted;
        let result = if well { "unmutated, exhausted: yes" } else { "unmutated, and does NOT hold" };
        (line_of(config, &report, result), well)
    });
    count.passed += unmutated.passed;
    count.failed += unmutated.failed;
    count.conclude()
}
