//! Runs test programs, one after the other or two at once.

use std::collections::VecDeque;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::discover::TestProgram;
use super::outcome::{self, Outcome};
use super::{PROGRAM_LIMIT, Tier, TierResult, progress, progress_end};
use crate::logged;
use crate::report::{bold, red};
use crate::setup::Toolbox;
use crate::workspace::Workspace;

/// Targets that take as long as all others of their tiers: they begin first.
const LONG: &[&str] = &["cluster"];

/// What all programs are run with.
pub(super) struct Runner<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) toolbox: &'a Toolbox,
    /// Only tests whose name contains this.
    pub(super) filter: Option<&'a str>,
}

/// How one program ended.
struct Ran {
    outcome: Outcome,
    /// What a person needs to know of its failures; empty when there are none.
    said: String,
}

impl Runner<'_> {
    /// Runs programs, each of the result of this number, and adds to the results what they said.
    ///
    /// # Errors
    /// A program's log cannot be read, or somebody interrupts.
    pub(super) fn run_all(
        &self,
        mut programs: Vec<(usize, TestProgram)>,
        results: &mut [TierResult],
    ) -> Result<()> {
        let tiers: Vec<Tier> = results.iter().map(|result| result.tier).collect();
        let at_once = tiers.iter().map(|tier| tier.programs_at_once()).max().unwrap_or(1);
        if at_once > 1 {
            programs.sort_by_key(|(_, program)| !LONG.iter().any(|long| program.name.ends_with(long)));
        }
        let count = programs.len();
        let queue = Mutex::new(VecDeque::from(programs));
        let results = Mutex::new(results);
        let lane = || -> Result<()> {
            loop {
                let (number, next) = {
                    let mut queue = lock(&queue);
                    (count - queue.len() + 1, queue.pop_front())
                };
                let Some((at, program)) = next else { return Ok(()) };
                let tier = tiers.get(at).copied().context("a program of no tier")?;
                progress(&format!("{}: {number}/{count} {}", bold(tier.name()), program.name));
                let started = Instant::now();
                let ran = self.run(tier, &program)?;
                let mut results = lock(&results);
                let result = results.get_mut(at).context("a program of no tier")?;
                note(result, &program, ran, started.elapsed());
                crate::interrupt::check()?;
            }
        };
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..at_once).map(|_| scope.spawn(lane)).collect();
            let ended =
                lanes.into_iter().map(|lane| lane.join().map_err(|_| anyhow!("a thread panicked"))?);
            // Every one is waited for, whatever became of the others.
            ended.collect::<Vec<Result<()>>>().into_iter().collect()
        })
    }

    fn run(&self, tier: Tier, program: &TestProgram) -> Result<Ran> {
        let mut command = Command::new(&program.executable);
        // As cargo would run it: in the package's directory, which some tests find their files by.
        command.current_dir(&program.package_dir).env("CARGO_MANIFEST_DIR", &program.package_dir);
        command.env("PATH", self.toolbox.path()?).args(["--color", "never"]);
        if let Some(threads) = tier.threads_count() {
            command.arg(format!("--test-threads={threads}"));
        }
        command.args(self.filter);
        let log = self.workspace.log(&format!("test-{}-{}", tier.name(), program.name.replace('/', "-")));
        let status = logged::finish(command, &log, PROGRAM_LIMIT);
        let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        let outcome = Outcome::parse(&text);
        let ended_well = matches!(&status, Ok(status) if status.success());
        let mut said = String::new();
        if !ended_well || outcome.failed > 0 || !outcome.complete {
            said = outcome::failures(&text);
            if let Err(error) = status {
                said += &format!("\n{error:#}");
            }
        }
        // A program may end badly after saying that all was well.
        let complete = outcome.complete && (ended_well || outcome.failed > 0);
        Ok(Ran { outcome: Outcome { complete, ..outcome }, said })
    }
}

/// Adds what a program said to its tier's result; shows it only when something in it failed.
fn note(result: &mut TierResult, program: &TestProgram, ran: Ran, took: Duration) {
    let Ran { outcome, said } = ran;
    result.took += took;
    result.outcome.add(&outcome);
    if !said.is_empty() {
        progress_end(&format!("{} {}", red("FAILED"), program.name));
        println!("{said}");
    }
    if !outcome.complete {
        result.problems.push(format!("{} ended without a result", program.name));
    }
}

/// What is under the lock is whole whatever its last holder came to.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
