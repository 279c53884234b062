//! The agent's process: flags, configuration, logs, exit code.

use std::process::ExitCode;

use clap::Parser;
use poolward_agent::config::{Config, Flags};
use poolward_agent::journal::LockError;
use poolward_agent::{logging, run};

/// Threads for what only waits: sockets, timers, watches.
const WORKER_THREADS: usize = 2;

/// Threads for kernel work, most of which waits for one lock of the kernel anyway: more of them at once would cost
/// memory and win nothing.
const MAX_BLOCKING_THREADS: usize = 16;

fn main() -> ExitCode {
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
