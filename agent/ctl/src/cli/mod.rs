//! The command line: names, arguments, and the help that teaches them.
//!
//! Nothing is done here. What crosses an argument (files, sockets) is checked by the commands.

mod values;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use rpc::client::DEFAULT_SOCKET_PATH;
use store::manifest::Kind;

use crate::cluster::Access;
use crate::exit::EXIT_CODES_HELP;
use values::{KindParser, parse_set_name, parse_timeout};

/// The examples of a command, then the exit codes.
macro_rules! concat_help {
    ($examples:expr $(,)?) => {
        format!("{}\n\n{}", $examples, EXIT_CODES_HELP)
    };
}

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

/// The commands below `pools`.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolsCommand {
    /// Print the exact ranges of pools, for a firewall
    #[command(
        long_about = "Print the exact ranges of pools, for a firewall.\n\n\
            Ranges that touch are merged into the fewest CIDRs that hold exactly the same addresses. Pools with \
            natOutgoing leave the cluster as their node's address, so their ranges never show outside: they are left \
            out, which a comment says, unless --include-nat is given. Disabled pools are included: pods may still \
            hold their addresses.\n\n\
            Formats:\n  \
              cidr   one CIDR per line, comments with #\n  \
              nft    two named sets NAME_ipv4 and NAME_ipv6 to include inside an nftables table\n  \
              json   {\"ipv4\": [..], \"ipv6\": [..], \"pools\": [..], \"leftOut\": [..]} (as -o json)",
        after_long_help = concat_help!(
            "Examples:\n  \
              poolwardctl pools export --pool external-pool\n  \
              poolwardctl pools export --format nft > /etc/nftables.d/poolward.nft\n\n\
            and in /etc/nftables.conf:\n  \
              table inet filter {\n    \
                include \"/etc/nftables.d/poolward.nft\"\n    \
                chain forward {\n      \
                  type filter hook forward priority filter; policy drop;\n      \
                  ct state established,related accept\n      \
                  ip saddr @poolward_ipv4 accept\n      \
                  ip6 saddr @poolward_ipv6 accept\n    \
                }\n  \
              }",
        )
    )]
    Export(PoolsExportArgs),
}

/// Arguments of `pools export`.
#[derive(Args, Debug)]
pub(crate) struct PoolsExportArgs {
    /// How to print the ranges [default: cidr, or what -o says]
    #[arg(long, value_enum)]
    pub(crate) format: Option<ExportFormat>,

    /// Only this pool; may be repeated
    #[arg(long = "pool", value_name = "NAME")]
    pub(crate) pools: Vec<String>,

    /// Pools with natOutgoing too
    #[arg(long)]
    pub(crate) include_nat: bool,

    /// With nft: what the sets' names begin with
    #[arg(long, value_name = "NAME", default_value = "poolward", value_parser = parse_set_name)]
    pub(crate) set_name: String,
}

/// How ranges are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Cidr,
    Nft,
    Json,
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
