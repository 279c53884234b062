//! The tier of the guest kernels: which test programs run in which guest, and the count of what they say.
//!
//! Each kernel is booted once and runs everything in one go. A test program is the very file that its own tier runs on
//! the machine; what a kernel has not is not asked of it, by name, and there are no tests that pass by doing nothing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::discover::{self, TestProgram};
use super::outcome::{self, Outcome};
use super::{Asked, Tier, TierResult, progress, progress_end};
use crate::report::{bold, red};
use crate::setup::Toolbox;
use crate::vm::{Contents, Ended, Guest, GuestRun, Images, Job, Kernel};
use crate::workspace::Workspace;
use crate::{build, logged, vm};

/// The package whose tests run in guests.
const PACKAGE: &str = "poolward-tests";

/// Its test programs that do, in this order.
const PROGRAMS: &[&str] = &["bpf", "dataplane", "vm"];

/// Of a program only these, by parts of their names, unless a filter says what to run: the rest shows nothing about a
/// kernel that these do not, and takes minutes on an emulated CPU.
const CHOSEN: &[(&str, &[&str])] = &[("dataplane", &["wiring::", "nat::"])];

/// What no guest is asked for, by parts of names.
const LEFT_OUT: &[&str] = &[
    // What they are about is how soon something happens.
    "events::",
    // Half a minute of transfers each; the other tests between two nodes of ours are run.
    "underlay::tcp_works_with_every_combination",
    "underlay::traffic_goes_on_while",
];

/// What a kernel without TCX is not asked for besides: that it takes clsact is what all others show. It cannot make IPv4
/// aggregates above 64 KiB either (`gso_ipv4_max_size` came with 6.3, TCX with 6.6).
const LEFT_OUT_WITHOUT_TCX: &[&str] =
    &["tcx::", "uplink::half_of_an_uplink", "underlay::aggregates_above_64_kib"];

/// The first process, built apart.
const INIT: &str = "poolward-guest-init";

/// How long one program may take in a guest, and a guest in all. An emulated CPU is ten times slower.
const JOB_LIMIT: Duration = Duration::from_secs(240);
const GUEST_LIMIT: Duration = Duration::from_secs(600);

/// Fetches what is missing, builds, boots the kernels one after the other, and counts.
///
/// # Errors
/// The guests cannot be made or the emulator not be started. A guest that dies is a problem of the result.
pub(super) fn run(
    workspace: &Workspace,
    toolbox: &Toolbox,
    asked: &Asked<'_>,
    result: &mut TierResult,
) -> Result<()> {
    let images = vm::fetch(&workspace.cache, |what| progress_end(&format!("{}: {what}", bold("vm"))))?;
    progress(&format!("{}: building", bold("vm")));
    let init = build_init(workspace, toolbox)?;
    let mut programs = discover::build_named(workspace, toolbox, PACKAGE, PROGRAMS)?;
    programs.sort_by_key(|program| PROGRAMS.iter().position(|name| *name == target_of(program)));
    for kernel in Kernel::ALL.into_iter().filter(|kernel| asked.kernel.is_none_or(|only| only == *kernel)) {
        let jobs: Vec<Job> = programs.iter().map(|program| job_of(kernel, program, asked.filter)).collect();
        let run =
            boot(workspace, &images, kernel, &Contents { init: &init, jobs: &jobs }, asked.kernel.is_some())?;
        count(kernel, &jobs, &run, asked.kernel.is_some(), result);
        crate::interrupt::check()?;
    }
    Ok(())
}

fn build_init(workspace: &Workspace, toolbox: &Toolbox) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "-p", "poolward-guest", "--bin", INIT]).env("PATH", toolbox.path()?);
    logged::ok(cargo, &workspace.log("build-guest-init"), build::BUILD_LIMIT)?;
    let path = workspace.target.join("debug").join(INIT);
    ensure!(path.is_file(), "cargo built no {}", path.display());
    Ok(path)
}

fn target_of(program: &TestProgram) -> &str {
    program.name.rsplit('/').next().unwrap_or(&program.name)
}

fn job_of(kernel: Kernel, program: &TestProgram, filter: Option<&str>) -> Job {
    let target = target_of(program);
    let threads = Tier::Vm.threads_count().unwrap_or(1);
    let mut args = vec!["--color".into(), "never".into(), format!("--test-threads={threads}")];
    let without_tcx = if kernel.has_tcx() { &[] } else { LEFT_OUT_WITHOUT_TCX };
    // Whoever names a part wants it run.
    let is_named = |part: &str| filter.is_some_and(|filter| filter.starts_with(part));
    for part in LEFT_OUT.iter().chain(without_tcx).filter(|part| !is_named(part)) {
        args.extend(["--skip".to_owned(), (*part).to_owned()]);
    }
    match filter {
        Some(filter) => args.push(filter.to_owned()),
        None => args.extend(chosen(target).iter().map(|part| (*part).to_owned())),
    }
    Job {
        name: target.to_owned(),
        executable: program.executable.clone(),
        dir: program.package_dir.clone(),
        args,
        limit: JOB_LIMIT,
    }
}

/// Parts of names; none for all.
fn chosen(target: &str) -> &'static [&'static str] {
    CHOSEN.iter().find(|(program, _)| *program == target).map_or(&[], |(_, parts)| parts)
}

fn boot(
    workspace: &Workspace,
    images: &Images,
    kernel: Kernel,
    contents: &Contents<'_>,
    show_all: bool,
) -> Result<GuestRun> {
    let name = kernel.name();
    progress(&format!("{}: {name}: packing", bold("vm")));
    let results = workspace.log(&format!("test-vm-{name}"));
    let initramfs = results.with_extension("cpio");
    vm::write(images, kernel, contents, &initramfs)?;
    progress(&format!("{}: {name}: booting", bold("vm")));
    let console = workspace.log(&format!("test-vm-{name}-console"));
    let guest =
        Guest { kernel, initramfs: &initramfs, results: &results, console: &console, limit: GUEST_LIMIT };
    let mut done_count = 0;
    let run = vm::boot(images, &guest, |line| {
        if show_all {
            progress_end(line);
        } else if line.starts_with("test ") && !line.starts_with("test result") {
            done_count += 1;
            progress(&format!("{}: {name}: {done_count} tests, {line}", bold("vm")));
        }
    });
    // As large as everything in it, and quickly made again.
    let _ = std::fs::remove_file(&initramfs);
    run
}

/// Adds what the guest's jobs said to the tier's result; what failed is shown, unless all has been.
fn count(kernel: Kernel, jobs: &[Job], run: &GuestRun, was_shown: bool, result: &mut TierResult) {
    let name = kernel.name();
    for job in &run.jobs {
        let outcome = Outcome::parse(&job.output);
        result.outcome.add(&outcome);
        let ended_well = job.ended == Some(Ended::Well);
        if !ended_well || outcome.failed > 0 || !outcome.complete {
            progress_end(&format!("{} {} in {name} ({})", red("FAILED"), job.name, run.release));
            if !was_shown {
                println!("{}", outcome::failures(&job.output));
            }
        }
        if !outcome.complete || (!ended_well && outcome.failed == 0) {
            let how = match &job.ended {
                Some(Ended::Badly(how)) => how.as_str(),
                Some(Ended::Well) => "exit=0",
                None => "the guest died",
            };
            result.problems.push(format!("{name}: {} ended without a result ({how})", job.name));
        }
    }
    for job in jobs.iter().skip(run.jobs.len()) {
        result.problems.push(format!("{name}: {} was not run", job.name));
    }
    if let Some(how) = &run.died {
        result.problems.push(format!("{name}: {how}"));
    }
}
