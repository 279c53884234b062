//! What a node does while the store is away, for as long as that takes.

use ipam::Settings;
use poolward_sim::scenario::{Event, PoolPlan, Scenario, What};
use poolward_sim::sim;

fn scenario(events: Vec<Event>) -> Scenario {
    let pool = PoolPlan {
        name: "a".to_owned(),
        cidr: "10.1.0.0/24".to_owned(),
        block_size: 26,
        cooldown_s: 0,
        disabled: false,
    };
    Scenario {
        seed: 4,
        machine_count: 2,
        has_nodes: true,
        settings: Settings::default(),
        pools: vec![pool],
        events,
    }
}

/// Twenty minutes without the store, twice as long as the grace after which blocks of nodes that are gone may be taken;
/// the agent crashes, is stopped and crashes again, and after each of these goes on serving.
#[test]
fn no_add_is_refused_while_the_store_is_away_and_the_agent_is_restarted() {
    const PODS: u32 = 12;
    let event = |at_ms, what| Event { at_ms, what };
    let add = |pod| What::Add { pod, machine: 0, pool: None, hang_up_ms: None };
    let mut events = vec![event(10, add(0)), event(4_000, What::StoreDown { for_ms: 1_200_000 })];
    // Long after the store is back, so that everything has its time to come to rest.
    events.push(event(1_400_000, What::Check { pod: 0 }));
    events.extend((1..PODS).map(|pod| event(u64::from(pod) * 100_000, add(pod))));
    events.push(event(150_000, What::Crash { machine: 0, after_ops: None, down_ms: 2_000 }));
    events.push(event(350_000, What::Stop { machine: 0, down_ms: 500 }));
    events.push(event(850_000, What::Crash { machine: 0, after_ops: None, down_ms: 30_000 }));
    events.sort_by_key(|event| event.at_ms);
    let outcome = sim::run(&scenario(events), &std::env::temp_dir(), false).unwrap();
    assert_eq!(outcome.violations, []);
    // When it happened, in seconds of simulated time.
    let at = |text: &str| {
        let line = outcome.trace.iter().find(|line| line.contains(text))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    assert!(at("start 4, boot 1").is_some(), "the agent was started four times");
    for pod in 0..PODS {
        let asked = at(&format!("event: Add {{ pod: {pod},")).unwrap();
        let added = at(&format!(" c{pod}: added: ["));
        assert!(added.is_some_and(|added| added < asked + 2.0), "c{pod}, asked for at {asked} s: {added:?}");
        assert_eq!(at(&format!(" c{pod}: ADD:")), None, "c{pod} was refused first");
    }
}

/// After a reboot nothing of before counts: pods wait for the store, and are served when it is back.
#[test]
fn after_a_reboot_a_node_waits_for_the_store() {
    let event = |at_ms, what| Event { at_ms, what };
    let add = |pod| What::Add { pod, machine: 0, pool: None, hang_up_ms: None };
    let outcome = sim::run(
        &scenario(vec![
            event(10, add(0)),
            event(4_000, What::StoreDown { for_ms: 100_000 }),
            event(10_000, What::Reboot { machine: 0, down_ms: 1_000 }),
            event(90_000, What::Check { pod: 0 }),
        ]),
        &std::env::temp_dir(),
        false,
    )
    .unwrap();
    assert_eq!(outcome.violations, []);
    let at = |text: &str| outcome.trace.iter().position(|line| line.contains(text));
    assert!(at("start 2, boot 2") > at("no more faults"), "it served before the store answered");
}
