//! `cargo xtask`: set-up, build, test tiers, demo and benchmarks.
//!
//! Starts on a bare machine with nothing but rustup and a C compiler, so it depends on little and on nothing that
//! needs the BPF linker.

mod build;
mod interrupt;
mod logged;
mod report;
mod setup;
mod tiers;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::tiers::Tier;
use crate::workspace::Workspace;

/// Set-up, build, tests, demo and benchmarks of Poolward.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building, testing and the demo need; what is there is left alone
    Setup {
        /// Afterwards print nothing but the directory that belongs on PATH for plain `cargo build`
        #[arg(long)]
        print_path: bool,
    },
    /// Build the agent, poolwardctl and the plugin, as released
    Build,
    /// Run test tiers: all of them, or those named
    Test {
        /// Which tiers
        #[arg(value_enum)]
        tiers: Vec<Tier>,
        /// Only tests whose name contains this
        #[arg(last = true)]
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::install();
    match run(cli.task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{} {error:#}", report::red("error:"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup { print_path: true } => {
            let toolbox = setup::run(&workspace, setup::Show::Nothing)?;
            println!("{}", toolbox.linker_dir.display());
        }
        Task::Setup { print_path: false } => {
            setup::run(&workspace, setup::Show::Every)?;
        }
        Task::Build => {
            let toolbox = setup::run(&workspace, setup::Show::Changes)?;
            build::release(&workspace, &toolbox)?;
        }
        Task::Test { tiers, filter } => {
            let toolbox = setup::run(&workspace, setup::Show::Changes)?;
            return tiers::run(&workspace, &toolbox, &tiers, filter.as_deref());
        }
    }
    Ok(ExitCode::SUCCESS)
}
