//! `cargo xtask`: set-up, build, test tiers, demo and benchmarks.
//!
//! Starts on a bare machine with nothing but rustup and a C compiler, so it depends on little and on nothing that
//! needs the BPF linker.

mod bench;
mod build;
mod cluster;
mod codegen;
mod demo;
mod image;
mod interrupt;
mod logged;
mod many;
mod report;
mod setup;
mod tiers;
mod vm;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bench::Bench;
use crate::setup::Needs;
use crate::tiers::{Asked, Tier};
use crate::vm::Kernel;
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
        /// Also build Kubernetes, which `cluster` and the tests of many nodes need; it takes some minutes, once
        #[arg(long)]
        kubernetes: bool,
    },
    /// Build the agent, poolwardctl and the plugin, as released
    Build,
    /// One node, six pods and a firewall, for real: what Poolward promises, seen from outside
    Demo {
        /// Several nodes and a real Kubernetes API server instead of one node
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
        /// Leave everything standing, and say how to look around
        #[arg(long)]
        keep: bool,
        /// Write what was seen to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Take down a demo that was left standing or cut short, and do nothing else
        #[arg(long, conflicts_with_all = ["keep", "json"])]
        clean: bool,
    },
    /// Build the container image of a node, without a container engine: an OCI archive for `ctr images import`
    Image {
        /// Write the archive to this file [default: image/poolward.tar in the target directory]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write no archive, but the files of the image below this directory, for a container engine to take
        #[arg(long, value_name = "DIR", conflicts_with = "out")]
        unpacked: Option<PathBuf>,
    },
    /// A real Kubernetes API server to look around in
    Cluster {
        /// Start it, or take it down
        #[command(subcommand)]
        action: ClusterAction,
    },
    /// Measure, beside what else does the same, and write the numbers down
    Bench {
        /// What
        #[arg(value_enum)]
        which: Bench,
        /// Write the numbers to this file, flat
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Write the generated files anew: the custom resource definitions in deploy/crds
    Codegen,
    /// Run test tiers: all of them, or those named
    Test {
        /// Which tiers
        #[arg(value_enum)]
        tiers: Vec<Tier>,
        /// Of the simulation, run this seed only and show everything that happens
        #[arg(long, value_name = "SEED")]
        seed: Option<u64>,
        /// Of the guest kernels, boot this one only and show everything it prints
        #[arg(long, value_enum, value_name = "KERNEL")]
        kernel: Option<Kernel>,
        /// Only tests whose name contains this
        #[arg(last = true)]
        filter: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum ClusterAction {
    /// Start etcd and the API server, and say what to type next
    Up {
        /// Also so many nodes with containerd, kubelet and kube-proxy, controllers and a scheduler
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=99))]
        nodes: u8,
        /// Install Poolward, from this repository's image and manifests, instead of Debian's ptp and host-local
        #[arg(long, requires = "nodes")]
        poolward: bool,
    },
    /// End them, and delete all that was in them
    Down,
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
        Task::Setup { print_path: true, kubernetes } => {
            let toolbox =
                setup::run(&workspace, setup::Show::Nothing, Needs { kubernetes, ..Needs::default() })?;
            println!("{}", toolbox.linker_dir.display());
        }
        Task::Setup { print_path: false, kubernetes } => {
            setup::run(&workspace, setup::Show::Every, Needs { kubernetes, ..Needs::default() })?;
        }
        Task::Codegen => {
            let toolbox = setup::run(&workspace, setup::Show::Changes, Needs::default())?;
            codegen::run(&workspace, &toolbox)?;
        }
        Task::Build => {
            let toolbox = setup::run(&workspace, setup::Show::Changes, Needs::BUILDING)?;
            build::release(&workspace, &toolbox)?;
        }
        Task::Image { out, unpacked } => {
            let toolbox = setup::run(&workspace, setup::Show::Changes, Needs::BUILDING)?;
            match unpacked {
                Some(dir) => image::unpack(&workspace, &toolbox, &dir)?,
                None => println!("{}", image::build(&workspace, &toolbox, out.as_deref())?.display()),
            }
        }
        Task::Demo { clean: true, .. } => demo::clean(&workspace)?,
        Task::Demo { nodes, keep, json, clean: false } => {
            let needs = Needs { kubernetes: nodes > 1, ..Needs::default() };
            let toolbox = setup::run(&workspace, setup::Show::Changes, needs)?;
            build::release(&workspace, &toolbox)?;
            let options = demo::Options { nodes_count: nodes, keep, json: json.as_deref() };
            demo::run(&workspace, options)?;
        }
        Task::Cluster { action: ClusterAction::Up { nodes, poolward } } => {
            let toolbox =
                setup::run(&workspace, setup::Show::Changes, Needs { kubernetes: true, ..Needs::default() })?;
            let image = poolward.then(|| image::build(&workspace, &toolbox, None)).transpose()?;
            cluster::up(&workspace, nodes, image.as_deref())?;
        }
        Task::Cluster { action: ClusterAction::Down } => cluster::down(&workspace)?,
        Task::Bench { which, json } => {
            let needs = Needs { kubernetes: which.needs_kubernetes(), ..Needs::default() };
            let toolbox = setup::run(&workspace, setup::Show::Changes, needs)?;
            if which.needs_binaries() {
                build::release(&workspace, &toolbox)?;
            }
            let image = which.needs_nodes().then(|| image::build(&workspace, &toolbox, None)).transpose()?;
            bench::run(&workspace, &toolbox, which, image.as_deref(), json.as_deref())?;
        }
        Task::Test { tiers, seed: Some(seed), filter: None, kernel: None } if tiers == [Tier::Sim] => {
            let toolbox = setup::run(&workspace, setup::Show::Changes, Needs::default())?;
            return tiers::run_seed(&workspace, &toolbox, seed);
        }
        Task::Test { seed: Some(_), .. } => anyhow::bail!("--seed goes with the tier sim alone"),
        Task::Test { tiers, kernel: Some(_), .. } if tiers != [Tier::Vm] => {
            anyhow::bail!("--kernel goes with the tier vm alone")
        }
        Task::Test { tiers, filter, kernel, seed: None } => {
            let needs = Needs { kubernetes: Tier::need_kubernetes(&tiers), ..Needs::default() };
            let toolbox = setup::run(&workspace, setup::Show::Changes, needs)?;
            let asked = Asked { tiers: &tiers, filter: filter.as_deref(), kernel };
            return tiers::run(&workspace, &toolbox, &asked);
        }
    }
    Ok(ExitCode::SUCCESS)
}
