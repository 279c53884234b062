//! The command line: names, arguments, and the help that teaches them.
//!
//! Nothing is done here. What crosses an argument (files, sockets) is checked by the commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use rpc::client::DEFAULT_SOCKET_PATH;
use store::manifest::Kind;

use self::values::{KindParser, parse_timeout};
use crate::cluster::Access;
use crate::exit::EXIT_CODES_HELP;

/// The examples of a command, then the exit codes.
macro_rules! concat_help {
    ($examples:expr $(,)?) => {
        format!("{}\n\n{}", $examples, EXIT_CODES_HELP)
    };
}

// Below the macro, which they use.
mod ipam;
mod node;
mod pools;
mod values;

pub(crate) use self::ipam::{IpamCommand, IpamReleaseArgs, IpamShowArgs};
pub(crate) use self::node::{CleanupArgs, NodeCommand};
pub(crate) use self::pools::{ExportFormat, PoolsCommand, PoolsExportArgs};

/// Look at and change Poolward's pools, blocks and addresses.
#[derive(Debug, Parser)]
#[command(
    name = "poolwardctl",
    version,
    about = "Look at and change Poolward's pools, blocks and addresses",
    long_about = "Look at and change Poolward's pools, blocks and addresses.\n\n\
        Poolward gives every pod an address whose range says who it is. A pool is such a range; it is cut into \
        blocks, and each block belongs to one node, which gives its addresses to pods. This command asks the agent \
        of the node it runs on, through its unix socket; or, with --kubeconfig or KUBECONFIG, the cluster's API server, \
        for what takes nothing but objects (apply, get, delete, pools export, ipam check).",
    after_long_help = concat_help!(
        "First steps:\n  \
          poolwardctl status                      is the agent ready?\n  \
          poolwardctl apply -f pools.yaml         create or change pools\n  \
          poolwardctl get pools                   what there is\n  \
          poolwardctl ipam show                   how full it is\n  \
          poolwardctl pools export --format nft   the ranges, for a firewall",
    ),

)]
pub(crate) struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
pub(crate) struct Global {
    // The variable is read by hand: with clap's `env` every usage line would show the option once it is set.
    /// The agent's unix socket [env: POOLWARD_SOCKET] [default: /run/poolward/agent.sock]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    socket: Option<PathBuf>,

    /// Ask the cluster's API server instead, as whom this file says [env: KUBECONFIG, unless a socket is named]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options",
        conflicts_with = "socket"
    )]
    kubeconfig: Option<PathBuf>,

    /// How to print the answer: for people, or for programs (the same fields in both)
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Global options"
    )]
    pub(crate) output: Format,

    /// How long to wait for the agent: 30, 30s, 500ms or 2m
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        default_value = "30s",
        value_parser = parse_timeout,
        help_heading = "Global options"
    )]
    pub(crate) timeout: Duration,

    /// Never colour (also: environment variable NO_COLOR; pipes and files are never coloured)
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_color: bool,
}

impl Global {
    /// The API server, where that is to be asked: the file that is named; else, unless a socket is named, the first file
    /// of the variable that exists.
    pub(crate) fn cluster(&self) -> Option<Access> {
        if let Some(kubeconfig) = &self.kubeconfig {
            return Some(Access { kubeconfig: kubeconfig.clone(), is_explicit: true });
        }
        let named = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
        if self.socket.is_some() || named(SOCKET_VARIABLE).is_some() {
            return None;
        }
        let files = named(KUBECONFIG_VARIABLE)?;
        let kubeconfig = std::env::split_paths(&files).find(|path| path.is_file())?;
        Some(Access { kubeconfig, is_explicit: false })
    }

    /// Where the agent listens: the option, else the variable unless it is empty, else the usual place.
    pub(crate) fn socket(&self) -> PathBuf {
        let variable =
            || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        self.socket.clone().or_else(variable).unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET_PATH))
    }
}

/// The environment variable that names the agent's socket.
const SOCKET_VARIABLE: &str = "POOLWARD_SOCKET";

/// The environment variable that names kubeconfig files, as kubectl knows it.
const KUBECONFIG_VARIABLE: &str = "KUBECONFIG";

/// How an answer is printed. (Words on the variants would make every page of help four lines longer.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create or change objects from manifests, all or none
    #[command(
        long_about = "Create or change objects from manifests, all or none.\n\n\
            Manifests are YAML or JSON with any number of documents: IPPool and IPReservation (apiVersion \
            poolward.io/v1 or projectcalico.org/v3), IPAMConfig (apiVersion poolward.io/v1), Namespace and Pod (apiVersion v1). Everything is checked before \
            anything is sent, and every mistake is listed with its document, field, value and reason.",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl apply -f pools.yaml\n  \
              poolwardctl apply -f pools/ -f namespaces.yaml   # every .yaml, .yml and .json of a directory\n  \
              poolwardctl apply -f pools.yaml --dry-run        # check only, also against what exists\n  \
              poolwardctl get pools -o yaml | sed 's/disabled: false/disabled: true/' | poolwardctl apply -f -\n\n\
            A pool:\n  \
              apiVersion: poolward.io/v1\n  \
              kind: IPPool\n  \
              metadata:\n    \
                name: external-pool\n  \
              spec:\n    \
                cidr: 192.0.2.0/26\n    \
                blockSize: 29\n    \
                ipipMode: Always\n    \
                natOutgoing: false",
        )
    )]
    Apply(ApplyArgs),

    /// List objects, or show one
    #[command(
        long_about = "List objects, or show one.\n\n\
            Kinds and their short names:\n  \
              ippool (pool)              ranges of addresses\n  \
              ipreservation              ranges that are not handed out by themselves\n  \
              ipblock (block)            parts of pools that belong to nodes\n  \
              ipamconfig                 how addresses are given, in the whole cluster\n  \
              nodeaddresses              what each node has given out (in a cluster)\n  \
              namespace (ns)             namespaces, as far as they choose pools\n  \
              pod (po)                   pods, as far as they choose pools\n\
            Plurals and capitals are understood too. With -o json or yaml a list has the shape of a Kubernetes List, \
            and what is printed can be given to `apply` again.",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl get pools\n  \
              poolwardctl get pool external-pool -o yaml\n  \
              poolwardctl get block 192.0.2.8/29\n  \
              poolwardctl get pods -n external-ns\n  \
              poolwardctl get pod external-ns/web-1",
        )
    )]
    Get(GetArgs),

    /// Delete objects
    #[command(
        long_about = "Delete objects.\n\n\
            A pool that still has blocks becomes terminating: it hands out nothing new and goes when its last \
            address is freed. Blocks cannot be deleted: the agent of their node releases them. With -f, objects are \
            deleted in the opposite order of the files; each one succeeds or fails by itself.",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl delete pool external-pool\n  \
              poolwardctl delete pod external-ns/web-1\n  \
              poolwardctl delete -f pools.yaml\n  \
              poolwardctl delete -f pools.yaml --ignore-not-found",
        )
    )]
    Delete(DeleteArgs),

    /// Look at addresses, or free one
    #[command(
        subcommand,
        long_about = "Look at addresses, or free one: how full pools and blocks are, who holds an address, and how \
            to free what a pod that is gone has left behind.",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl ipam show\n  \
              poolwardctl ipam show --ip 192.0.2.9\n  \
              poolwardctl ipam release --ip 192.0.2.9",
        )
    )]
    Ipam(IpamCommand),

    /// Ranges of pools, for firewalls
    #[command(
        subcommand,
        long_about = "Ranges of pools, for firewalls outside the cluster.",
        after_long_help = concat_help!("Examples:\n  poolwardctl pools export --format nft"),
    )]
    Pools(PoolsCommand),

    /// Kubernetes' definitions of our kinds
    #[command(
        subcommand,
        long_about = "Kubernetes' definitions of our kinds (custom resource definitions).",
        after_long_help = concat_help!("Examples:\n  poolwardctl crds apply --kubeconfig admin.kubeconfig"),
    )]
    Crds(CrdsCommand),

    /// Show whether this node's agent is ready, and what it does
    #[command(
        long_about = "Show whether this node's agent is ready, and what it does: what it holds, where its programs \
            are, what the last reconciliation of kernel state changed, what was dropped and why, and how much \
            traffic each pool has.\n\n\
            The exit code is 0 when the agent is ready and 5 when it is not.",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl status\n  \
              poolwardctl status -o json | jq .drops\n  \
              until poolwardctl status >/dev/null; do sleep 1; done   # wait for the agent",
        )
    )]
    Status,

    /// Steps of this node's life
    #[command(
        subcommand,
        long_about = "Steps of this node's life, taken on the node itself.",
        after_long_help = concat_help!("Examples:\n  poolwardctl node cleanup --dry-run"),
    )]
    Node(NodeCommand),

    /// Show the versions of this command and of the agent
    #[command(
        long_about = "Show the versions of this command and of the agent.",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl version\n  \
              poolwardctl version --client   # without asking the agent",
        )
    )]
    Version(VersionArgs),

    /// Print a completion script for a shell
    #[command(
        long_about = "Print a completion script for a shell.",
        after_long_help = concat_help!(
            "Examples:\n  \
              source <(poolwardctl completions bash)\n  \
              poolwardctl completions bash > /etc/bash_completion.d/poolwardctl\n  \
              poolwardctl completions zsh > \"${fpath[1]}/_poolwardctl\"\n  \
              poolwardctl completions fish > ~/.config/fish/completions/poolwardctl.fish",
        )
    )]
    Completions(CompletionsArgs),
}

/// Arguments of `apply`.
#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// A manifest, a directory of them, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub(crate) files: Vec<PathBuf>,

    /// Check everything and say what would be done, but change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `get`.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// What to list; short names and plurals are understood too
    #[arg(value_parser = KindParser)]
    pub(crate) kind: Kind,

    /// One object by name; NAMESPACE/NAME for pods, also the range for blocks
    pub(crate) name: Option<String>,

    /// Only pods of this namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

/// Arguments of `delete`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["kind", "files"]).multiple(false))]
pub(crate) struct DeleteArgs {
    /// What to delete; short names and plurals are understood too
    #[arg(value_parser = KindParser, requires = "names")]
    pub(crate) kind: Option<Kind>,

    /// Names; NAMESPACE/NAME for pods
    #[arg(value_name = "NAME", conflicts_with = "files")]
    pub(crate) names: Vec<String>,

    /// The namespace of the pods named
    #[arg(short, long, conflicts_with = "files")]
    pub(crate) namespace: Option<String>,

    /// Delete what this manifest, directory or - (standard input) lists; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    pub(crate) files: Vec<PathBuf>,

    /// What is not there counts as deleted
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

/// The commands below `crds`.
#[derive(Debug, Subcommand)]
pub(crate) enum CrdsCommand {
    /// Create or update them, and wait until the API server serves them
    #[command(
        long_about = "Create or update the definitions of all our kinds at the API server, and wait until it serves \
            them. Doing it again does no harm. It takes the right to write customresourcedefinitions.",
        after_long_help = concat_help!("Examples:\n  poolwardctl crds apply --kubeconfig admin.kubeconfig"),
    )]
    Apply,
}

/// Arguments of `version`.
#[derive(Args, Debug)]
pub(crate) struct VersionArgs {
    /// Only this command's version, without asking the agent
    #[arg(long)]
    pub(crate) client: bool,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Shells we write completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What many of a kind are called.
pub(crate) fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::IpPool => "pools",
        Kind::IpReservation => "reservations",
        Kind::IpBlock => "blocks",
        Kind::IpamConfig => "ipamconfigs",
        Kind::NodeAddresses => "nodeaddresses",
        Kind::Namespace => "namespaces",
        Kind::Pod => "pods",
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_the_variable_and_the_socket_that_are_used() {
        let help = Cli::command().render_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            help.contains(&format!("[env: {SOCKET_VARIABLE}] [default: {DEFAULT_SOCKET_PATH}]")),
            "{help}"
        );
    }

    #[test]
    fn every_command_teaches_by_a_line_a_text_examples_and_exit_codes() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
            let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && !about.ends_with('.') && about.len() <= 70, "{name}: {about:?}");
            assert!(long.len() > about.len(), "{name}: {long:?}");
            assert!(after.contains("poolwardctl ") && after.contains("Exit codes:"), "{name}: {after:?}");
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn kinds_go_by_all_their_names() {
        for (kind, names) in [
            (Kind::IpPool, ["ippool", "pool", "pools", "IPPool"].as_slice()),
            (Kind::IpReservation, &["ipreservation", "reservations"]),
            (Kind::IpBlock, &["ipblock", "block", "blocks"]),
            (Kind::Namespace, &["namespace", "ns", "NAMESPACES"]),
            (Kind::Pod, &["pod", "po", "pods"]),
        ] {
            for name in names {
                let cli = Cli::try_parse_from(["poolwardctl", "get", name]).unwrap();
                assert!(matches!(cli.command, Command::Get(args) if args.kind == kind), "{name}");
            }
        }
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "get",
            "get nodes",
            "get pools -o xml",
            "apply",
            "delete",
            "delete pool",
            "delete pool a -f b",
            "ipam release",
            "ipam release --ip 10.0.0.1 --handle a/b",
            "ipam show --ip 10.0.0.256",
            "ipam show --ip 10.0.0.1 --show-blocks",
            "pools export --format iptables",
            "pools export --set-name 4x",
            "status --timeout 0",
            "status --timeout 2h",
            "completions tcsh",
        ] {
            assert!(
                Cli::try_parse_from(["poolwardctl"].into_iter().chain(line.split(' '))).is_err(),
                "{line}"
            );
        }
    }
}
