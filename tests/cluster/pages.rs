//! The pages for operators, command by command as they are published.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::cluster::DEFAULT_POOL;

use crate::dual_stack::{forget_at_the_routers, tell_the_routers};
use crate::site::{EXTERNAL_POOL, Site, site};

/// Runs the commands of a page, which leaves the cluster as it was.
fn check(name: &str) {
    check_beside(name, |_, _| ());
}

/// The same, while somebody else does what no command of the page does; until its second argument says that the page is done.
fn check_beside(name: &str, beside: impl FnOnce(&Site, &dyn Fn() -> bool) + Send) {
    let site = site();
    let said = std::thread::scope(|scope| {
        let shown: &Site = &site;
        let page = scope.spawn(|| shown.cluster.run_page(name, &[]).unwrap());
        beside(shown, &|| page.is_finished());
        page.join()
    });
    let said = said.unwrap_or_else(|failure| {
        site.clear_desk();
        std::panic::resume_unwind(failure)
    });
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
    check_beside("dual-stack.md", |site, is_done| {
        // What operators of routers do.
        let mut told = BTreeSet::new();
        while !is_done() {
            told.extend(tell_the_routers(site));
            std::thread::sleep(Duration::from_millis(200));
        }
        forget_at_the_routers(site, &told);
    });
}

#[test]
fn a_range_that_is_full() {
    check("exhaustion.md");
}

#[test]
fn what_to_look_at_when_something_does_not_work() {
    check("troubleshooting.md");
}
