//! The pages for operators, command by command as they are published.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Binaries, Kubernetes, Page};

use crate::dual_stack::{forget_at_the_routers, tell_the_routers};
use crate::site::{Site, site};

/// How long a page may take on a machine that is busy with much else: some seconds each, else.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs the commands of a page, which leaves the cluster as it was.
fn check(name: &str) {
    check_beside(name, |_, _| ());
}

/// The same, while somebody else does what no command of the page does; until its second argument says that the page is done.
fn check_beside(name: &str, beside: impl FnOnce(&Site, &dyn Fn() -> bool) + Send) {
    let site = site();
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let page = Page::read(&root.join("docs/operate").join(name)).unwrap();
    let kubectl = site.kubectl();
    let programs = [
        Kubernetes::find().unwrap().program("kubectl").parent().unwrap().to_owned(),
        Binaries::find().unwrap().ctl.parent().unwrap().to_owned(),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: OsString =
        std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let env: [(&str, &OsStr); 2] = [("KUBECONFIG", kubectl.kubeconfig().as_os_str()), ("PATH", &path)];
    let done = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        let shown: &Site = &site;
        scope.spawn(|| beside(shown, &|| done.load(Ordering::Acquire)));
        let ran = page.run(root, &env, Some(site.cluster.management.netns()), LIMIT);
        done.store(true, Ordering::Release);
        ran
    });
    let said = ran.unwrap();
    // Shown if what follows fails.
    println!("{said}");
    let pools = kubectl.run(&["get", "ippools", "-o", "name"]).unwrap();
    let left: Vec<&str> =
        pools.lines().filter(|name| !name.ends_with("/default") && !name.ends_with("/external")).collect();
    assert_eq!(left, [""; 0], "the page {name} left pools behind");
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
