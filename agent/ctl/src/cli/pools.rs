//! The command line below `pools`.

use clap::{Args, Subcommand, ValueEnum};

use super::values::parse_set_name;
use crate::exit::EXIT_CODES_HELP;

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
