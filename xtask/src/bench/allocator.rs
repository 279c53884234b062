//! The allocator: how long a decision takes, what an assign and free through the journal costs, and what is kept.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Numbers;
use crate::logged;
use crate::report::{Table, bold};
use crate::setup::Toolbox;
use crate::workspace::Workspace;

/// The longest building and measuring may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What the agent's benchmark `ipam` prints; it says there what each number is.
#[derive(Debug, Deserialize)]
struct Costs {
    decide_ns: Spread,
    decide_ns_no_foreign_blocks: Spread,
    claim_ns: Spread,
    journal_pairs_per_s: Spread,
    journal_dir: String,
    bytes_per_allocation: f64,
    bytes_per_allocation_with_malloc: f64,
    bytes_per_foreign_block: f64,
    bytes_per_foreign_block_with_malloc: f64,
    bytes_per_foreign_block_ipv6: f64,
}

/// Percentiles over samples: how far the first and the last are apart is the machine's noise.
#[derive(Debug, Deserialize)]
struct Spread {
    p10: f64,
    p50: f64,
    p90: f64,
}

/// Runs the benchmark and shows what it says.
pub(super) fn run(workspace: &Workspace, toolbox: &Toolbox, numbers: &mut Numbers) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["bench", "--quiet", "-p", "poolward-agent", "--bench", "ipam"]);
    cargo.env("PATH", toolbox.path()?);
    let log = workspace.log("bench-ipam");
    logged::ok(cargo, &log, LIMIT)?;
    let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    let costs = parse(&text)?;
    numbers.set("decide_ns_p50", costs.decide_ns.p50);
    numbers.set("decide_ns_p50_no_foreign_blocks", costs.decide_ns_no_foreign_blocks.p50);
    numbers.set("journal_pairs_per_s", costs.journal_pairs_per_s.p50);
    numbers.set("bytes_per_allocation", costs.bytes_per_allocation);
    numbers.set("bytes_per_foreign_block", costs.bytes_per_foreign_block);
    println!("{}\n{}", bold("allocator, 250 pools and 20,000 blocks of 1,000 nodes known"), table_of(&costs));
    println!(
        "  journal on {}; with what malloc adds: {:.0} bytes an allocation, {:.0} a block of another node",
        costs.journal_dir, costs.bytes_per_allocation_with_malloc, costs.bytes_per_foreign_block_with_malloc,
    );
    Ok(())
}

fn table_of(costs: &Costs) -> String {
    let mut table = Table::new(&["what", "goal", "p50", "p10", "p90"]);
    let mut spread = |what: &str, goal: &str, spread: &Spread| {
        let cell = |value: f64| format!("{value:.0}");
        table.row([what, goal, &cell(spread.p50), &cell(spread.p10), &cell(spread.p90)]);
    };
    spread("decision, ns", "at most 2000", &costs.decide_ns);
    spread("decision, no block of other nodes, ns", "the same", &costs.decide_ns_no_foreign_blocks);
    spread("decision to claim, ns", "", &costs.claim_ns);
    spread("assign and free with journal, per s", "at least 50000", &costs.journal_pairs_per_s);
    for (what, goal, value) in [
        ("bytes of an allocation", "at most 200", costs.bytes_per_allocation),
        ("bytes of a block of another node", "at most 100", costs.bytes_per_foreign_block),
        ("the same, IPv6", "at most 100", costs.bytes_per_foreign_block_ipv6),
    ] {
        table.row([what, goal, &format!("{value:.0}")]);
    }
    table.render()
}

/// The document at the end of the output; the build may have said something before it.
fn parse(text: &str) -> Result<Costs> {
    let start = text.find('{').with_context(|| format!("the benchmark measured nothing:\n{text}"))?;
    serde_json::from_str(&text[start..]).context("what the benchmark ipam printed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_read_and_nothing_measured_is_an_error() {
        let spread = r#"{"p10": 1.5, "p50": 2, "p90": 3}"#;
        let printed = |pairs: &str| {
            format!(
                r#"warning: something
{{"decide_ns": {spread}, "decide_ns_no_foreign_blocks": {spread}, "claim_ns": {spread}, {pairs}
"journal_dir": "/run", "node_pods_count": 110, "bytes_per_allocation": 178.5,
"bytes_per_allocation_with_malloc": 190, "bytes_per_foreign_block": 56,
"bytes_per_foreign_block_with_malloc": 60, "bytes_per_foreign_block_ipv6": 86}}
"#
            )
        };
        let costs = parse(&printed(&format!(r#""journal_pairs_per_s": {spread},"#))).unwrap();
        let table = table_of(&costs);
        assert!(table.contains("\n  bytes of an allocation                 at most 200     178"), "{table}");
        assert!(parse(&printed("")).is_err());
        assert!(parse("nothing\n").is_err());
    }
}
