//! The first process of a guest kernel: makes it a machine, runs the jobs it was packed with, says how each ended, and
//! switches the machine off.
//!
//! What jobs print goes to the second serial port, which is nobody else's; the kernel's messages stay on the first.
//! Between the outputs stand lines that begin with `@@guest`:
//!
//! ```text
//! @@guest kernel 6.1.0-50-cloud-amd64
//! @@guest begin NAME
//! ...
//! @@guest end NAME exit=0            or signal=9, or limit=60
//! @@guest done
//! ```
//!
//! What the jobs are is decided by `xtask` (`vm/initramfs.rs` writes the files read here, `vm/guest.rs` reads what is
//! printed here). Nothing here knows of Poolward.

mod job;
mod machine;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::job::Job;

/// Where jobs are, one a line.
const JOBS: &str = "/guest/jobs";

/// Where modules are, in the order of their names.
const MODULES: &str = "/guest/modules";

/// The port that nobody else writes to.
const RESULTS: &str = "/dev/ttyS1";

/// What the emulator is told: all jobs were run, or not. It makes of a code N the exit code 2N+1.
const ALL_RAN: u32 = 0x10;
const NOT_ALL_RAN: u32 = 0x11;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "poolward-guest-init: this is the first process of a guest kernel, and nothing for a machine that runs"
        );
        return ExitCode::FAILURE;
    }
    let code = match run() {
        Ok(()) => ALL_RAN,
        Err(error) => {
            eprintln!("guest: {error:#}");
            NOT_ALL_RAN
        }
    };
    machine::power_off(code)
}

fn run() -> Result<()> {
    machine::mount_all()?;
    let mut results = File::options().write(true).open(RESULTS).with_context(|| format!("open {RESULTS}"))?;
    let outcome = run_jobs(&mut results);
    let last = match &outcome {
        Ok(()) => "@@guest done".to_owned(),
        Err(error) => format!("@@guest broken: {error:#}"),
    };
    say(&mut results, &last)?;
    machine::wait_until_sent(&results)?;
    outcome
}

fn run_jobs(results: &mut File) -> Result<()> {
    let kernel =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    say(results, &format!("@@guest kernel {}", kernel.trim()))?;
    machine::load_modules(MODULES)?;
    let jobs = std::fs::read_to_string(JOBS).with_context(|| format!("read {JOBS}"))?;
    let jobs = jobs.lines().map(Job::parse).collect::<Result<Vec<_>>>()?;
    ensure!(!jobs.is_empty(), "{JOBS}: no job");
    for job in &jobs {
        say(results, &format!("@@guest begin {}", job.name))?;
        let ended = job.run(results)?;
        say(results, &format!("@@guest end {} {ended}", job.name))?;
    }
    Ok(())
}

/// A line of our own, even if what was printed before it did not end its line.
fn say(results: &mut File, line: &str) -> Result<()> {
    results.write_all(format!("\n{line}\n").as_bytes()).with_context(|| format!("write {RESULTS}"))
}
