//! What the program does besides being the agent: steps of a node's life around it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

/// What to do instead of running.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Put the plugins into the runtime's directory, and mark the host's bpffs
    Install(InstallArgs),
    /// Ask the agent of this node how it is; for probes of a kubelet
    Probe(ProbeArgs),
    /// Take everything off the node that agents have made and left; refused while one runs
    Cleanup(CleanupArgs),
}

/// Arguments of `install`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct InstallArgs {
    /// Where the plugins are: those called poolward… are put in place of others, the rest only where there is none
    #[arg(long, value_name = "DIR", default_value = "/opt/poolward/cni")]
    pub from: PathBuf,
    /// Where the runtime looks for them
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub to: PathBuf,
}

/// Arguments of `probe`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ProbeArgs {
    /// What to ask
    #[arg(value_enum)]
    pub what: Probe,
    /// How long it may take to answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub timeout: Duration,
}

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// Whether it answers at all
    Live,
    /// Whether the kernel is as it should be, so that the next node's agent may be replaced
    Ready,
}

/// Arguments of `cleanup`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct CleanupArgs {
    /// List what would be removed, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask; needed where there is no terminal to ask on
    #[arg(short, long)]
    pub yes: bool,
    /// Stay until a signal comes once all is done, for a pod that must not end
    #[arg(long, conflicts_with = "dry_run")]
    pub stay: bool,
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub plugins: PathBuf,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=600) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected 1 to 600".to_owned()),
    }
}
