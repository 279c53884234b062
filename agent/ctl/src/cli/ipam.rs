//! The command line below `ipam`.

use std::net::IpAddr;

use clap::{ArgGroup, Args, Subcommand};

use crate::exit::EXIT_CODES_HELP;

/// The commands below `ipam`.
#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Show how full pools are, or who holds an address
    #[command(
        long_about = "Show how full pools are, or who holds an address.\n\n\
            Every address of a pool is in one of four states: used (somebody holds it), free, cooling (freed a short \
            while ago and not yet to be had), or reserved (kept back by an IPReservation and held by nobody).",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl ipam show\n  \
              poolwardctl ipam show --show-blocks --show-addresses\n  \
              poolwardctl ipam show --ip 192.0.2.9\n  \
              poolwardctl ipam show -o json | jq '.pools[] | select(.free < 16) | .name'",
        )
    )]
    Show(IpamShowArgs),

    /// Check that blocks, addresses and interfaces fit together
    #[command(
        long_about = "Check that blocks, addresses and interfaces fit together.\n\n\
            The agent holds the blocks of all nodes, the registry of pools, its own addresses and the interfaces in \
            its kernel against each other, and looks twice, so that pods that are just starting or ending do not \
            count. Each violation is shown with what to do about it. What other nodes have given to whom only their \
            own agents know: run it on every node.\n\n\
            It changes nothing, and ends with exit code 1 when there is a violation.",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl ipam check\n  \
              poolwardctl ipam check -o json | jq -r '.violations[] | .kind' | sort | uniq -c",
        )
    )]
    Check,

    /// Free addresses whose pod is gone
    #[command(
        long_about = "Free addresses whose pod is gone.\n\n\
            An address is freed by its holder's identity and never by its number alone: --ip looks the holder up, \
            shows it, asks, and frees the address only if that holder still has it. An address whose interface still \
            exists is refused unless --force is given; freeing such a one gives it to another pod while the first \
            still uses it.",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl ipam release --ip 192.0.2.9\n  \
              poolwardctl ipam release --ip 192.0.2.9 --yes\n  \
              poolwardctl ipam release --handle 3f9a5e/eth0   # all addresses of that interface",
        )
    )]
    Release(IpamReleaseArgs),
}

/// Arguments of `ipam show`.
#[derive(Args, Debug)]
pub(crate) struct IpamShowArgs {
    /// Every block too
    #[arg(long)]
    pub(crate) show_blocks: bool,

    /// Every address in use on this node too
    #[arg(long)]
    pub(crate) show_addresses: bool,

    /// The state of one address: who holds it, or why nobody does
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["show_blocks", "show_addresses"])]
    pub(crate) ip: Option<IpAddr>,
}

/// Arguments of `ipam release`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).args(["ip", "handle"]))]
pub(crate) struct IpamReleaseArgs {
    /// The address to free
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<IpAddr>,

    /// Free all addresses of this holder: container id, slash, interface name
    #[arg(long, value_name = "CONTAINER/INTERFACE")]
    pub(crate) handle: Option<String>,

    /// Free it even though its interface still exists
    #[arg(long)]
    pub(crate) force: bool,

    /// Do not ask; needed where there is no terminal to ask on
    #[arg(short, long)]
    pub(crate) yes: bool,
}
