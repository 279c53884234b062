//! The command line below `node`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::exit::EXIT_CODES_HELP;

/// The commands below `node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Take everything of Poolward off this node
    #[command(
        long_about = "Take everything of Poolward off this node: interfaces of pods, routes, nexthop objects, the node's own \
            address, the nftables table, eBPF programs and maps, the runtime's list of plugins, plugins, journal and \
            socket. Everything is listed first; --dry-run does no more than that.\n\n\
            It is refused while an agent runs. Pods that still run lose their network: drain the node first. It needs \
            neither the API server nor an agent, but the program poolward-agent, which does the work: beside this one, \
            or on PATH.",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl node cleanup --dry-run\n  \
              poolwardctl node cleanup --yes --config /etc/poolward/agent.yaml",
        )
    )]
    Cleanup(CleanupArgs),
}

/// Arguments of `node cleanup`.
#[derive(Args, Debug)]
pub(crate) struct CleanupArgs {
    /// List what would be removed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Do not ask; needed where there is no terminal to ask on
    #[arg(short, long)]
    pub(crate) yes: bool,

    /// Stay until a signal comes once all is done, for a pod that must not end
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) stay: bool,

    /// The agent's configuration [env: POOLWARD_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Where the runtime looks for plugins [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,
}
