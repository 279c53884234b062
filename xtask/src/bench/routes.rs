//! Routes to other nodes: how fast they come, and come back, and what it takes to see that all are there.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Numbers;
use crate::logged;
use crate::report::{Table, bold};
use crate::setup::Toolbox;
use crate::workspace::Workspace;

/// The longest building and measuring may take.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// What the dataplane's benchmark `routes` prints; it says there what each number is.
#[derive(Debug, Deserialize)]
struct Costs {
    routes_per_s_5000x4: f64,
    routes_per_s_1000x1: f64,
    routes_per_s_10000x1: f64,
    first_run_routes_per_s_5000x4: f64,
    first_run_routes_per_s_1000x1: f64,
    first_run_routes_per_s_10000x1: f64,
    first_run_encapsulated_routes_per_s_5000x4: f64,
    ip_batch_classic_per_s_5000x4: f64,
    repair_ms_p50: f64,
    repair_ms_p90: f64,
    carrier_ms_p50_1000x4: f64,
    carrier_ms_p90_1000x4: f64,
    carrier_ms_p50_5000x4: f64,
    resync_ms_p50: f64,
    resync_drift_ops: f64,
}

/// Runs the benchmark and shows what it says.
pub(super) fn run(workspace: &Workspace, toolbox: &Toolbox, numbers: &mut Numbers) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["bench", "--quiet", "-p", "poolward-dataplane", "--bench", "routes"]);
    cargo.env("PATH", toolbox.path()?);
    let log = workspace.log("bench-routes");
    logged::ok(cargo, &log, LIMIT)?;
    let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    let costs = parse(&text)?;
    for (name, value) in [
        ("routes_per_s_5000x4", costs.routes_per_s_5000x4),
        ("routes_per_s_1000x1", costs.routes_per_s_1000x1),
        ("routes_per_s_10000x1", costs.routes_per_s_10000x1),
        ("first_run_routes_per_s_5000x4", costs.first_run_routes_per_s_5000x4),
        ("first_run_routes_per_s_1000x1", costs.first_run_routes_per_s_1000x1),
        ("first_run_routes_per_s_10000x1", costs.first_run_routes_per_s_10000x1),
        ("first_run_encapsulated_routes_per_s_5000x4", costs.first_run_encapsulated_routes_per_s_5000x4),
        ("ip_batch_classic_per_s_5000x4", costs.ip_batch_classic_per_s_5000x4),
        ("repair_ms_p50", costs.repair_ms_p50),
        ("repair_ms_p90", costs.repair_ms_p90),
        ("carrier_ms_p50_1000x4", costs.carrier_ms_p50_1000x4),
        ("carrier_ms_p90_1000x4", costs.carrier_ms_p90_1000x4),
        ("carrier_ms_p50_5000x4", costs.carrier_ms_p50_5000x4),
        ("resync_ms_p50", costs.resync_ms_p50),
        ("resync_drift_ops", costs.resync_drift_ops),
    ] {
        numbers.set(name, value);
    }
    println!("{}\n{}", bold("routes by one nexthop object for each node"), table_of(&costs));
    Ok(())
}

fn table_of(costs: &Costs) -> String {
    let mut table = Table::new(&["what", "goal", "value"]);
    let mut row = |what: &str, goal: &str, value: String| table.row([what, goal, &value]);
    let whole = |value: f64| format!("{value:.0}");
    let digit = |value: f64| format!("{value:.1}");
    row("routes/s, 5,000 nodes x 4, from nothing", "at least 100000", whole(costs.routes_per_s_5000x4));
    row("routes/s, 1,000 nodes x 1", "", whole(costs.routes_per_s_1000x1));
    row("routes/s, 10,000 nodes x 1", "within 20 % of it", whole(costs.routes_per_s_10000x1));
    row("ip -batch, a gateway each, 5,000 x 4", "", whole(costs.ip_batch_classic_per_s_5000x4));
    row("first reconciliation, 5,000 x 4, routes/s", "", whole(costs.first_run_routes_per_s_5000x4));
    row("first reconciliation, 1,000 x 1, routes/s", "", whole(costs.first_run_routes_per_s_1000x1));
    row("first reconciliation, 10,000 x 1, routes/s", "", whole(costs.first_run_routes_per_s_10000x1));
    let encapsulated = whole(costs.first_run_encapsulated_routes_per_s_5000x4);
    row("the same, encapsulated, 5,000 x 4, routes/s", "", encapsulated);
    row("a deleted route of 20,000 is back, ms, p50", "at most 50", digit(costs.repair_ms_p50));
    row("the same, p90", "", digit(costs.repair_ms_p90));
    let carrier = digit(costs.carrier_ms_p50_1000x4);
    row("carrier back: all of 4,000 routes are, ms, p50", "at most 50", carrier);
    row("the same, p90", "", digit(costs.carrier_ms_p90_1000x4));
    row("carrier back: all of 20,000 routes are, ms, p50", "", digit(costs.carrier_ms_p50_5000x4));
    row("20,000 unchanged routes read and compared, ms", "", digit(costs.resync_ms_p50));
    row("operations for one altered among them", "1", whole(costs.resync_drift_ops));
    table.render()
}

fn parse(text: &str) -> Result<Costs> {
    let line = text.lines().rev().find(|line| line.starts_with('{')).context("no numbers in the output")?;
    serde_json::from_str(line).with_context(|| format!("read {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_whatever_was_said_before() {
        let line = r#"{"routes_per_s_5000x4":1,"routes_per_s_1000x1":2,"routes_per_s_10000x1":3,
            "first_run_routes_per_s_5000x4":4,"first_run_routes_per_s_1000x1":5,"first_run_routes_per_s_10000x1":6,
            "first_run_encapsulated_routes_per_s_5000x4":6,"ip_batch_classic_per_s_5000x4":7,"repair_ms_p50":8,"repair_ms_p90":9,"carrier_ms_p50_1000x4":1,
            "carrier_ms_p90_1000x4":1,"carrier_ms_p50_5000x4":1,"resync_ms_p50":10,
            "resync_drift_ops":1}"#
            .replace('\n', "");
        let costs = parse(&format!("warning: something\n{line}\n")).unwrap();
        assert_eq!((costs.routes_per_s_1000x1, costs.resync_drift_ops), (2.0, 1.0));
        assert!(parse("nothing").is_err());
    }
}
