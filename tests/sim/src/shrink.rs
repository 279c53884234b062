//! From a scenario that fails to a short one: delta debugging over its events (Zeller and Hildebrandt's ddmin).

use crate::scenario::{Event, Scenario};

/// Runs at most, so that a failure is told in reasonable time.
const RUNS_MAX: usize = 400;

/// Takes events out as long as `fails` says that what is left still fails. The scenario it is given does.
#[must_use]
pub fn shrink(scenario: &Scenario, mut fails: impl FnMut(&Scenario) -> bool) -> Scenario {
    let mut shortest = scenario.clone();
    let (mut parts, mut run_count) = (2, 0);
    while shortest.events.len() > 1 && run_count < RUNS_MAX {
        let size = shortest.events.len().div_ceil(parts);
        let mut shorter = None;
        for at in (0..shortest.events.len()).step_by(size) {
            run_count += 1;
            let candidate = without(&shortest, at, size);
            if fails(&candidate) {
                shorter = Some(candidate);
                break;
            }
            if run_count >= RUNS_MAX {
                break;
            }
        }
        match shorter {
            Some(found) => {
                shortest = found;
                parts = (parts - 1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(shortest.events.len()),
        }
    }
    shortest
}

fn without(scenario: &Scenario, at: usize, size: usize) -> Scenario {
    let left = scenario.events.iter().enumerate().filter(|(index, _)| *index < at || *index >= at + size);
    let events: Vec<Event> = left.map(|(_, event)| event.clone()).collect();
    Scenario { events, ..scenario.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::What;

    #[test]
    fn only_the_events_that_matter_are_left() {
        let event = |pod| Event { at_ms: u64::from(pod), what: What::Del { pod } };
        let scenario = Scenario {
            seed: 0,
            machine_count: 1,
            has_nodes: false,
            settings: ipam::Settings::default(),
            pools: Vec::new(),
            events: (0..50).map(event).collect(),
        };
        let pods = |scenario: &Scenario| -> Vec<u32> {
            let pod = |event: &Event| match event.what {
                What::Del { pod } => pod,
                _ => u32::MAX,
            };
            scenario.events.iter().map(pod).collect()
        };
        let short =
            shrink(&scenario, |candidate| [3, 17, 41].iter().all(|pod| pods(candidate).contains(pod)));
        assert_eq!(pods(&short), [3, 17, 41]);
    }
}
