//! `pools export`: the ranges of pools as a firewall outside the cluster needs them.
//!
//! What is exported is decided purely from the agent's reply; merging is [`crate::ranges`]' matter.

use model::{Cidr, Family};
use rpc::{PoolRange, Reply, Request};
use serde::Serialize;

use super::{Context, unexpected};
use crate::cli::{ExportFormat, Format, PoolsCommand, PoolsExportArgs};
use crate::exit::{Exit, Failure};
use crate::output::{structured, write_stdout};
use crate::ranges::aggregate;

const OPERATION: &str = "export pools";

/// Why a pool with natOutgoing is left out.
const NAT_REASON: &str = "natOutgoing: its pods leave the cluster as their node's address";

/// What is exported. Field names are part of the interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Export {
    /// The fewest CIDRs that hold the pools' IPv4 addresses.
    ipv4: Vec<String>,
    /// The same for IPv6.
    ipv6: Vec<String>,
    /// The pools these come from.
    pools: Vec<PoolRange>,
    /// Pools that were asked for and do not show outside.
    left_out: Vec<LeftOut>,
}

/// A pool that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct LeftOut {
    name: String,
    cidr: String,
    reason: String,
}

/// Runs one command below `pools`.
pub(crate) fn run(context: &Context, command: &PoolsCommand) -> Result<Exit, Failure> {
    let PoolsCommand::Export(args) = command;
    let format = choose_format(args.format, context.output.format)?;
    let pools = match context.ask(OPERATION, &Request::PoolsExport)? {
        Reply::Pools(reply) => reply.pools,
        reply => return Err(unexpected(OPERATION, &reply)),
    };
    let export = decide_export(pools, args)?;
    write_stdout(&match format {
        Wanted::Cidr => render_cidr(&export),
        Wanted::Nft => render_nft(&export, &args.set_name),
        Wanted::Json => structured::json(&export)?,
        Wanted::Yaml => structured::yaml(&export)?,
    })?;
    if export.pools.is_empty() {
        context.output.warn(if export.left_out.is_empty() {
            "there are no pools, so there is nothing to accept; create one with `poolwardctl apply -f FILE`"
        } else {
            "nothing is exported: every pool has natOutgoing, so the firewall sees nodes' addresses; \
             --include-nat prints the ranges all the same"
        });
    }
    Ok(Exit::Ok)
}

/// One of `--format` and `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Cidr,
    Nft,
    Json,
    Yaml,
}

fn choose_format(format: Option<ExportFormat>, output: Format) -> Result<Wanted, Failure> {
    match (format, output) {
        (None | Some(ExportFormat::Cidr), Format::Table) => Ok(Wanted::Cidr),
        (Some(ExportFormat::Nft), Format::Table) => Ok(Wanted::Nft),
        (Some(ExportFormat::Json), Format::Table | Format::Json) | (None, Format::Json) => Ok(Wanted::Json),
        (None, Format::Yaml) => Ok(Wanted::Yaml),
        (Some(_), Format::Json | Format::Yaml) => {
            Err(Failure::new(Exit::Usage, "export pools: --format and -o ask for different things")
                .with_next("give one of them: --format cidr|nft|json or -o json|yaml"))
        }
    }
}

/// Which pools show outside, and their ranges merged.
fn decide_export(pools: Vec<PoolRange>, args: &PoolsExportArgs) -> Result<Export, Failure> {
    let unknown: Vec<&str> = args
        .pools
        .iter()
        .filter(|name| !pools.iter().any(|pool| pool.name == **name))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        let known: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
        return Err(Failure::new(Exit::NotFound, format!("export pools: no pool {}", unknown.join(", ")))
            .with_details(vec![format!("pools: {known}")]));
    }
    let mut export = Export::default();
    let mut ranges = Vec::new();
    for pool in pools {
        if !args.pools.is_empty() && !args.pools.contains(&pool.name) {
            continue;
        }
        let cidr: Cidr = pool.cidr.parse().map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("export pools: pool {} as the agent gives it: {error}", pool.name),
            )
        })?;
        if pool.nat_outgoing && !args.include_nat {
            export.left_out.push(LeftOut { name: pool.name, cidr: pool.cidr, reason: NAT_REASON.to_owned() });
        } else {
            ranges.push(cidr);
            export.pools.push(pool);
        }
    }
    let texts = |family| aggregate(&ranges, family).iter().map(Cidr::to_string).collect();
    export.ipv4 = texts(Family::V4);
    export.ipv6 = texts(Family::V6);
    Ok(export)
}

/// What stands above the ranges. No time in it: the same pools give the same file.
fn render_comments(export: &Export) -> String {
    let mut text = String::from(
        "# Ranges of Poolward's pools as they show outside the cluster (poolwardctl pools export).\n",
    );
    for pool in &export.pools {
        let nat = if pool.nat_outgoing { "; included although natOutgoing hides it outside" } else { "" };
        let disabled = if pool.disabled { "; disabled, pods may still hold addresses" } else { "" };
        let dscp = pool.dscp.map(|dscp| format!("; DSCP {dscp}")).unwrap_or_default();
        text += &comment(&format!("{} {}{dscp}{disabled}{nat}", pool.name, pool.cidr));
    }
    for LeftOut { name, cidr, reason } in &export.left_out {
        text += &comment(&format!("left out: {name} {cidr} ({reason})"));
    }
    text
}

/// One line whatever the text holds: what follows a line feed would be configuration.
fn comment(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("# {text}\n")
}

fn render_cidr(export: &Export) -> String {
    let ranges: String = export.ipv4.iter().chain(&export.ipv6).map(|cidr| format!("{cidr}\n")).collect();
    render_comments(export) + &ranges
}

/// Two sets, also when they are empty, so that rules which name them always load.
fn render_nft(export: &Export, name: &str) -> String {
    let set = |family: &str, kind: &str, cidrs: &[String]| {
        // nft refuses an empty list of elements.
        let elements = if cidrs.is_empty() {
            String::new()
        } else {
            format!("\telements = {{\n\t\t{}\n\t}}\n", cidrs.join(",\n\t\t"))
        };
        format!("set {name}_{family} {{\n\ttype {kind}\n\tflags interval\n{elements}}}\n")
    };
    render_comments(export)
        + "# Include it inside a table: table inet filter { include \"FILE\" .. }\n"
        + &set("ipv4", "ipv4_addr", &export.ipv4)
        + &set("ipv6", "ipv6_addr", &export.ipv6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, cidr: &str) -> PoolRange {
        PoolRange { name: name.into(), cidr: cidr.into(), ..PoolRange::default() }
    }

    fn pools() -> Vec<PoolRange> {
        vec![
            PoolRange { dscp: Some(46), ..pool("a", "192.0.2.0/26") },
            PoolRange { disabled: true, ..pool("b", "192.0.2.64/26") },
            PoolRange { nat_outgoing: true, ..pool("internal", "10.0.0.0/24") },
            pool("six", "fd00::/112"),
        ]
    }

    fn args(pools: &[&str], include_nat: bool) -> PoolsExportArgs {
        PoolsExportArgs {
            format: None,
            pools: pools.iter().map(|&name| name.to_owned()).collect(),
            include_nat,
            set_name: "poolward".into(),
        }
    }

    #[test]
    fn ranges_are_merged_and_hidden_pools_are_only_mentioned() {
        let export = decide_export(pools(), &args(&[], false)).unwrap();
        assert_eq!(
            render_cidr(&export),
            "\
# Ranges of Poolward's pools as they show outside the cluster (poolwardctl pools export).
# a 192.0.2.0/26; DSCP 46
# b 192.0.2.64/26; disabled, pods may still hold addresses
# six fd00::/112
# left out: internal 10.0.0.0/24 (natOutgoing: its pods leave the cluster as their node's address)
192.0.2.0/25
fd00::/112
"
        );
    }

    #[test]
    fn nft_sets_are_complete_and_an_empty_one_has_no_elements() {
        let export = decide_export(pools(), &args(&["a", "internal"], true)).unwrap();
        assert_eq!(
            render_nft(&export, "trusted"),
            "\
# Ranges of Poolward's pools as they show outside the cluster (poolwardctl pools export).
# a 192.0.2.0/26; DSCP 46
# internal 10.0.0.0/24; included although natOutgoing hides it outside
# Include it inside a table: table inet filter { include \"FILE\" .. }
set trusted_ipv4 {
\ttype ipv4_addr
\tflags interval
\telements = {
\t\t10.0.0.0/24,
\t\t192.0.2.0/26
\t}
}
set trusted_ipv6 {
\ttype ipv6_addr
\tflags interval
}
"
        );
    }

    #[test]
    fn a_pool_that_is_not_there_is_named_and_so_are_those_that_are() {
        let failure = decide_export(pools(), &args(&["a", "z"], false)).unwrap_err();
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::NotFound, "export pools: no pool z"));
        assert_eq!(failure.details, ["pools: a, b, internal, six"]);
    }

    #[test]
    fn a_range_that_is_none_stops_the_export() {
        let failure = decide_export(vec![pool("a", "192.0.2.1/26")], &args(&[], false)).unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.message.contains("host bits"), "{failure:?}");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_comment() {
        assert_eq!(comment("a\n0.0.0.0/0"), "# a?0.0.0.0/0\n");
    }

    #[test]
    fn the_two_ways_to_choose_a_format_must_agree() {
        for (format, output, expected) in [
            (None, Format::Table, Some(Wanted::Cidr)),
            (None, Format::Json, Some(Wanted::Json)),
            (None, Format::Yaml, Some(Wanted::Yaml)),
            (Some(ExportFormat::Nft), Format::Table, Some(Wanted::Nft)),
            (Some(ExportFormat::Json), Format::Json, Some(Wanted::Json)),
            (Some(ExportFormat::Nft), Format::Json, None),
            (Some(ExportFormat::Json), Format::Yaml, None),
        ] {
            assert_eq!(choose_format(format, output).ok(), expected, "{format:?} {output:?}");
        }
    }
}
