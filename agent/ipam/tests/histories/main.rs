//! Long histories of one node against a trivial model: a map from address to holder, and until when freed ones cool.
//!
//! The model knows nothing of queues, indexes or claim orders. Of every answer it says whether it may be given: an
//! address is to be had or not, from this pool and not from an earlier one, and a refusal is right only when nothing is
//! to be had. After every operation the allocator must hold what the map holds.
//!
//! A run makes [`OPERATIONS`] operations; `POOLWARD_HISTORY_OPERATIONS=10000000` makes another number of them. A
//! history that fails is shrunk, and shown an operation a line.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests; the lint's exception covers test functions only"
)]

mod ops;
mod run;

use std::cell::Cell;

use proptest::test_runner::{Config, TestError, TestRunner};

use crate::run::{Run, Shape};

/// Operations of a run, both tests together.
const OPERATIONS: u32 = 1_000_000;

const SMALL: Shape = [("a", "10.0.0.0/28", 30), ("b", "10.0.1.0/30", 32), ("six", "fd00::/124", 126)];
const LARGE: Shape = [("a", "10.0.0.0/26", 28), ("b", "10.0.1.0/27", 27), ("six", "fd00::/122", 123)];

/// Half of the run's operations, on pools of this shape.
#[expect(clippy::disallowed_methods, reason = "how long a test runs is no decision of the allocator")]
fn check(shape: &Shape) {
    let asked = std::env::var("POOLWARD_HISTORY_OPERATIONS").ok();
    let wanted = asked.map_or(OPERATIONS, |text| text.parse().unwrap()) / 2;
    let done = Cell::new(0u32);
    while done.get() < wanted {
        let cases = ((wanted - done.get()) / (ops::MAX_LENGTH / 2)).max(1);
        let config =
            Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
        let outcome = TestRunner::new(config).run(&ops::ops(), |ops| {
            let mut run = Run::new(shape);
            for op in &ops {
                run.step(op)?;
                done.set(done.get() + 1);
            }
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(reason, ops)) => {
                let lines: Vec<String> = ops.iter().map(|op| format!("  {op:?}")).collect();
                panic!("{reason}\nafter these operations:\n{}", lines.join("\n"));
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("{} operations", done.get());
}

#[test]
fn a_node_with_blocks_of_few_addresses_does_what_the_map_says() {
    check(&SMALL);
}

#[test]
fn a_node_with_larger_blocks_does_what_the_map_says() {
    check(&LARGE);
}
