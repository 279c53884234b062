//! What `from_pod` costs per packet, by test run in the kernel.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Numbers;
use crate::logged;
use crate::report::{Table, bold};
use crate::setup::Toolbox;
use crate::workspace::Workspace;

/// The longest building and measuring may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What the example `from_pod_cost` prints; it says there what each number is.
#[derive(Debug, Deserialize)]
struct Costs {
    /// Nanoseconds of a test run of a program that passes the packet over, repeated.
    floor_ns: f64,
    /// The same for single runs.
    single_floor_ns: f64,
    results: Vec<Cost>,
}

/// The cost with one number of prefixes in the map.
#[derive(Debug, Deserialize)]
struct Cost {
    prefixes: u64,
    /// The same source again and again.
    ns_per_packet: f64,
    /// A random source each time, run by run.
    spread_ns: f64,
}

/// Runs the example that measures and shows what it says.
pub(super) fn run(workspace: &Workspace, toolbox: &Toolbox, numbers: &mut Numbers) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--quiet", "--release", "-p", "poolward-bpf", "--example", "from_pod_cost"]);
    cargo.env("PATH", toolbox.path()?);
    let log = workspace.log("bench-bpf");
    logged::ok(cargo, &log, LIMIT)?;
    let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    let costs = parse(&text)?;
    numbers.set("bpf.floor.ns_per_packet", costs.floor_ns);
    numbers.set("bpf.single_floor.ns_per_packet", costs.single_floor_ns);
    let mut table =
        Table::new(&["prefixes", "ns, one source", "less the floor", "ns, random sources", "less the floor"]);
    for cost in &costs.results {
        let name = format!("bpf.from_pod.{}_prefixes", cost.prefixes);
        numbers.set(&format!("{name}.ns_per_packet"), cost.ns_per_packet);
        numbers.set(&format!("{name}.spread_ns_per_packet"), cost.spread_ns);
        table.row([
            cost.prefixes.to_string(),
            format!("{:.0}", cost.ns_per_packet),
            format!("{:.0}", cost.ns_per_packet - costs.floor_ns),
            format!("{:.0}", cost.spread_ns),
            format!("{:.0}", cost.spread_ns - costs.single_floor_ns),
        ]);
    }
    println!("{}\n{}", bold("from_pod, by test run"), table.render());
    Ok(())
}

/// The document at the end of the output; the build may have said something before it.
fn parse(text: &str) -> Result<Costs> {
    let start = text.find('{').with_context(|| format!("the example measured nothing:\n{text}"))?;
    let costs: Costs =
        serde_json::from_str(&text[start..]).context("what the example from_pod_cost printed")?;
    ensure!(!costs.results.is_empty(), "the example measured nothing:\n{text}");
    Ok(costs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_read_and_nothing_measured_is_an_error() {
        let printed = |results: &str| {
            format!(
                "warning: something\n{{\n \"floor_ns\": 38, \"single_floor_ns\": 70, \"program\": \"from_pod\", \"results\": {results}}}\n"
            )
        };
        let costs = parse(&printed(
            r#"[{"prefixes": 1, "ns_per_packet": 31.5, "spread_ns": 100, "hot_ns": 31.5},
                {"prefixes": 100, "ns_per_packet": 42, "spread_ns": 120}]"#,
        ))
        .unwrap();
        assert_eq!(costs.results.iter().map(|cost| cost.prefixes).collect::<Vec<_>>(), [1, 100]);
        for wrong in ["nothing\n".to_owned(), printed("[]"), printed(r#"[{"prefixes": 1}]"#)] {
            assert!(parse(&wrong).is_err(), "{wrong}");
        }
    }
}
