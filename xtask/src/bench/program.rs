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

/// One line of the example's output.
#[derive(Debug, Deserialize)]
struct Cost {
    /// Prefixes in the map.
    prefixes: u64,
    /// Nanoseconds.
    ns_per_packet: f64,
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
    let least = costs.iter().map(|cost| cost.ns_per_packet).fold(f64::INFINITY, f64::min);
    let mut table = Table::new(&["prefixes", "ns per packet", "to the least"]);
    for cost in &costs {
        numbers.set(&format!("bpf.from_pod.{}_prefixes.ns_per_packet", cost.prefixes), cost.ns_per_packet);
        table.row([
            cost.prefixes.to_string(),
            format!("{:.1}", cost.ns_per_packet),
            format!("{:.2}", cost.ns_per_packet / least),
        ]);
    }
    println!("{}\n{}", bold("from_pod, by test run"), table.render());
    Ok(())
}

fn parse(text: &str) -> Result<Vec<Cost>> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let costs: Vec<Cost> = lines
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    ensure!(!costs.is_empty(), "the example measured nothing:\n{text}");
    Ok(costs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_costs_are_read_and_nothing_measured_is_an_error() {
        let costs = parse("warming up\n{\"prefixes\": 1, \"ns_per_packet\": 31.5}\n{\"prefixes\":100,\"ns_per_packet\":42}\n").unwrap();
        assert_eq!(costs.iter().map(|cost| cost.prefixes).collect::<Vec<_>>(), [1, 100]);
        assert!(parse("nothing\n").is_err());
        assert!(parse("{\"prefixes\": 1}\n").is_err());
    }
}
