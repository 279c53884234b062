//! Packets from node to node: our outer headers beside plain routing and a vxlan device of the kernel.

use std::collections::BTreeMap;
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

/// What is measured: as the example names it, in the JSON, for people, and how much of routing is asked for.
const MEASURES: [(&str, &str, &str, Option<f64>); 5] = [
    ("tcp_bytes_per_s", "tcp_ratio", "TCP, MB/s", Some(0.95)),
    ("tcp_mtu_bytes_per_s", "tcp_mtu_ratio", "TCP, MTU-sized, MB/s", Some(0.85)),
    ("tcp_rr_per_s", "tcp_rr_ratio", "TCP requests, k/s", Some(0.85)),
    // As a program on this machine has it that asks for nothing; where pacing is in it, that is in all three.
    ("tcp_own_bytes_per_s", "tcp_own_ratio", "TCP, own control, MB/s", None),
    ("tcp_mtu_own_bytes_per_s", "tcp_mtu_own_ratio", "TCP, MTU-sized, own control, MB/s", None),
];

/// What the example `node_to_node` prints; it says there what each number is.
#[derive(Debug, Deserialize)]
struct Measured {
    cpu: usize,
    congestion_control: String,
    #[serde(flatten)]
    series: BTreeMap<String, Series>,
}

/// One measure of one way.
#[derive(Debug, Deserialize)]
struct Series {
    median: f64,
    samples: Vec<f64>,
}

/// Runs the example that measures and shows what it says.
pub(super) fn run(workspace: &Workspace, toolbox: &Toolbox, numbers: &mut Numbers) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--quiet", "--release", "-p", "poolward-bpf", "--example", "node_to_node"]);
    cargo.env("PATH", toolbox.path()?);
    let log = workspace.log("bench-dataplane");
    logged::ok(cargo, &log, LIMIT)?;
    let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    let measured = parse(&text)?;
    let mut table = Table::new(&["", "routing", "ours", "of routing", "goal", "vxlan", "of routing"]);
    for (series, name, what, goal) in MEASURES {
        let of = |way: &str| -> Result<f64> {
            let key = format!("{way}_{series}");
            let series = measured.series.get(&key).with_context(|| format!("the example left out {key}"))?;
            ensure!(series.median > 0.0 && !series.samples.is_empty(), "the example measured no {key}");
            Ok(series.median)
        };
        let (routing, ipip, vxlan) = (of("routing")?, of("ipip")?, of("vxlan")?);
        numbers.set(name, ipip / routing);
        numbers.set(&format!("vxlan_{name}"), vxlan / routing);
        let unit = if series.ends_with("bytes_per_s") { 1e6 } else { 1e3 };
        table.row([
            what.to_owned(),
            format!("{:.1}", routing / unit),
            format!("{:.1}", ipip / unit),
            format!("{:.3}", ipip / routing),
            goal.map_or_else(String::new, |goal| format!("at least {goal}, and vxlan")),
            format!("{:.1}", vxlan / unit),
            format!("{:.3}", vxlan / routing),
        ]);
    }
    println!("{}\n{}", bold("pod to pod over two nodes, all on one CPU"), table.render());
    println!("  CPU {}; medians of {} turns each", measured.cpu, turns(&measured));
    println!(
        "  congestion control: cubic, and by \"own control\" the machine's, {}",
        measured.congestion_control
    );
    Ok(())
}

fn turns(measured: &Measured) -> usize {
    measured.series.values().map(|series| series.samples.len()).min().unwrap_or(0)
}

/// The document at the end of the output; the build may have said something before it.
fn parse(text: &str) -> Result<Measured> {
    let start = text.find('{').with_context(|| format!("the example measured nothing:\n{text}"))?;
    let measured: Measured =
        serde_json::from_str(&text[start..]).context("what the example node_to_node printed")?;
    ensure!(!measured.series.is_empty(), "the example measured nothing:\n{text}");
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_and_nothing_measured_is_an_error() {
        let measured = parse(
            "warning: something\n{\"cpu\": 1, \"congestion_control\": \"bbr\", \"ipip_tcp_rr_per_s\": {\"median\": 2.0, \"samples\": [1, 2, 3]}}\n",
        )
        .unwrap();
        assert_eq!((measured.cpu, measured.series["ipip_tcp_rr_per_s"].median), (1, 2.0));
        assert_eq!(turns(&measured), 3);
        for wrong in [
            "nothing\n",
            "{\"cpu\": 1, \"congestion_control\": \"bbr\"}",
            "{\"cpu\": 1, \"congestion_control\": \"bbr\", \"ipip_tcp_rr_per_s\": 3}",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
