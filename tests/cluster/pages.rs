//! The pages for operators, command by command as they are published.

use crate::desk::run_page;
use crate::site::{DEFAULT_POOL, EXTERNAL_POOL, site};

/// Runs the commands of a page, which leaves the cluster as it was.
fn check(name: &str) {
    let site = site();
    let said = run_page(&site.cluster, name, &[]);
    // Shown if what follows fails.
    println!("{said}");
    site.assert_pools(&[DEFAULT_POOL, EXTERNAL_POOL]);
    site.assert_consistent();
}

#[test]
fn a_pool_for_a_namespace_and_a_rule_for_the_firewall() {
    check("namespace-pools.md");
}

#[test]
fn ranges_by_place() {
    check("topology.md");
}

#[test]
fn a_fixed_address() {
    check("fixed-address.md");
}

#[test]
fn moving_to_another_pool_and_block_size() {
    check("move-pool.md");
}

#[test]
fn both_families() {
    check("dual-stack.md");
}

#[test]
fn a_range_that_is_full() {
    check("exhaustion.md");
}
