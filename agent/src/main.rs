//! The agent's process: flags, configuration, logs, exit code.

use std::process::ExitCode;

use clap::Parser;
use poolward_agent::cleanup::{self, Outcome};
use poolward_agent::config::{Command, Config, Flags};
use poolward_agent::install::install;
use poolward_agent::journal::LockError;
use poolward_agent::probe::probe;
use poolward_agent::{logging, run};

/// Threads for what only waits: sockets, timers, watches.
const WORKER_THREADS: usize = 2;

/// Threads for kernel work, most of which waits for one lock of the kernel anyway: more of them at once would cost
/// memory and win nothing.
const MAX_BLOCKING_THREADS: usize = 16;

/// Blocks from this size on are given back to the kernel as soon as they are freed.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD_BYTES: i32 = 64 << 10;

/// Free memory at the end of the heap beyond this goes back to the kernel.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD_BYTES: i32 = 128 << 10;

/// Among thousands of nodes a reconciliation needs tens of MiB for a moment. With an arena for each thread, and
/// thresholds that grow with what was freed, glibc would keep several times that for good (measured with 5,000 nodes and
/// 20,000 blocks: 56 MiB of heap after two runs, and 16 MiB this way).
#[cfg(target_env = "gnu")]
fn keep_memory_small() {
    let parameters = [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
    ];
    for (parameter, value) in parameters {
        // SAFETY: it takes two numbers and changes the allocator's own parameters; no other thread runs yet. One that is
        // not known is refused, and leaves things as they are.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}

#[cfg(not(target_env = "gnu"))]
fn keep_memory_small() {}

fn main() -> ExitCode {
    keep_memory_small();
    let flags = Flags::parse();
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let config = match Config::load(&flags, &host_name) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("poolward-agent: {error}");
            eprintln!("  `poolward-agent --help` lists every key and its default");
            return ExitCode::from(2);
        }
    };
    if flags.check {
        println!("{config:#?}");
        return ExitCode::SUCCESS;
    }
    if let Some(command) = &flags.command {
        return exec(command, &config);
    }
    if let Err(error) = logging::start(&config) {
        eprintln!("poolward-agent: log level {:?}: {error}", config.log_level);
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("poolward-agent: start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = if flags.unload { run::unload(&config) } else { runtime.block_on(run::run(config)) };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("cannot run: {error:#}");
            match error.downcast_ref::<LockError>() {
                Some(LockError::Held { .. }) => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// A step of the node's life around the agent's.
fn exec(command: &Command, config: &Config) -> ExitCode {
    let done = match command {
        Command::Install(args) => install(config, args, |line| println!("{line}")),
        Command::Probe(args) => {
            probe(&config.socket_path, args.what, args.timeout).map_err(anyhow::Error::msg)
        }
        Command::Cleanup(args) => match cleanup::run(config, args) {
            Ok(Outcome::Done) => Ok(()),
            Ok(Outcome::Declined) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("poolward-agent: {error:#}");
            match error.downcast_ref::<LockError>() {
                Some(LockError::Held { .. }) => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
