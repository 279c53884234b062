//! `poolward-protocol-check`.
use std::time::Duration;
fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    for config in poolward_protocol_check::configs::all() {
        if !names.is_empty() && !names.iter().any(|n| n == config.name) { continue; }
        let name = config.name;
        let r = poolward_protocol_check::checker::check(config, 1, Duration::from_secs(60));
        println!("{name}: {} {} depth {} {:?} exhausted {} settle {}", r.states, r.unique, r.depth, r.took, r.exhausted, r.settle_steps);
        if let Some(v) = r.violation { println!("VIOLATED {}", v.property); for l in v.trace { println!("{l}"); } }
    }
}
