//! What the simulation promises of itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use poolward_sim::scenario::{Event, Scenario, What};
use poolward_sim::sim;

fn run(scenario: &Scenario) -> sim::Outcome {
    sim::run(scenario, &std::env::temp_dir(), false).unwrap()
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..20 {
        let scenario = Scenario::of_seed(seed);
        let (first, again) = (run(&scenario), run(&scenario));
        let differs = first.trace.iter().zip(&again.trace).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.fingerprint, again.fingerprint, "seed {seed}");
        assert_eq!(first.violations, [], "seed {seed}");
    }
}

#[test]
fn seeds_give_different_runs() {
    assert_ne!(run(&Scenario::of_seed(1)).fingerprint, run(&Scenario::of_seed(2)).fingerprint);
}

#[test]
fn a_run_is_told_with_its_crashes_and_reboots() {
    let mut scenario = Scenario::of_seed(0);
    let event = |at_ms, what| Event { at_ms, what };
    scenario.events = vec![
        event(10, What::Add { pod: 0, machine: 0, pool: None, hang_up_ms: None }),
        event(1_000, What::Crash { machine: 0, after_ops: None, down_ms: 10 }),
        event(3_000, What::Again { pod: 0, other_netns: false }),
        event(5_000, What::Reboot { machine: 0, down_ms: 100 }),
    ];
    let outcome = run(&scenario);
    assert_eq!(outcome.violations, []);
    let at = |text: &str| outcome.trace.iter().position(|line| line.contains(text));
    let starts = [at("start 1, boot 1"), at("start 2, boot 1"), at("start 3, boot 2")];
    assert!(starts.is_sorted() && starts.iter().all(Option::is_some), "{starts:?}");
    let added: Vec<&str> = outcome
        .trace
        .iter()
        .filter_map(|line| line.split_once("c0: added: "))
        .map(|(_, told)| told)
        .collect();
    assert!(added.len() == 2 && added[0] == added[1], "the same address after a crash: {added:?}");
}
