//! B3: a crash at any point of a claim, release, loan or reclaim, and every way a write can go.

use super::*;

/// Runs a scene with a crash at each of its steps in turn, until it gets through without one. After each, everybody
/// entitled goes on, and all must come to rest.
fn crash_everywhere(
    scene: &str,
    start: impl Fn() -> Cluster,
    act: impl Fn(&mut Cluster) -> Result<(), Crashed>,
    after: impl Fn(&mut Cluster),
) {
    for steps in 0.. {
        let mut cluster = start();
        cluster.steps_left = Some(steps);
        let crashed = act(&mut cluster).is_err();
        cluster.steps_left = None;
        // What was refused lately may be tried again.
        cluster.pass(20);
        cluster.settle();
        after(&mut cluster);
        cluster.settle();
        if !crashed {
            assert!(steps > 2, "{scene}: nothing happened");
            return;
        }
        assert!(steps < 200, "{scene}: it does not end");
    }
}

/// The same, with each of the first writes going wrong in each way, instead of crashes.
fn lose_every_write(
    start: impl Fn() -> Cluster,
    act: impl Fn(&mut Cluster) -> Result<(), Crashed>,
    after: impl Fn(&mut Cluster),
) {
    for lost in 0..4 {
        for fate in [Fate::Unanswered, Fate::Lost, Fate::Delayed] {
            for late in [false, true] {
                let mut cluster = start();
                cluster.fates = vec![Fate::Made; lost];
                cluster.fates.push(fate);
                let _ = act(&mut cluster);
                if late {
                    cluster.pass(20);
                    cluster.settle();
                    cluster.deliver();
                } else {
                    cluster.deliver();
                    cluster.pass(20);
                }
                cluster.settle();
                after(&mut cluster);
                cluster.settle();
            }
        }
    }
}

fn served(cluster: &mut Cluster, name: &'static str, container: &str) -> Result<(), Crashed> {
    match cluster.add(name, container) {
        Ok(_) => Ok(()),
        Err(Stop::Crashed) => Err(Crashed),
        Err(Stop::Refused(refusal)) => panic!("{container}: {refusal}"),
    }
}

fn one_block() -> Cluster {
    Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/30", 30)])
}

fn check(
    scene: &str,
    start: impl Fn() -> Cluster,
    act: impl Fn(&mut Cluster) -> Result<(), Crashed>,
    after: impl Fn(&mut Cluster),
) {
    crash_everywhere(scene, &start, &act, &after);
    lose_every_write(&start, &act, &after);
}

#[test]
fn b3_a_claim_that_was_cut_short_is_completed_or_undone() {
    check(
        "claim",
        one_block,
        |cluster| served(cluster, "a", "x"),
        |cluster| {
            // The pool has four addresses, and all of them are to be had, on whichever node.
            let held = cluster.keeper("a").ipam().holder_count();
            let given: BTreeSet<String> =
                (held..4).map(|n| cluster.given(["b", "a"][n % 2], &format!("n{n}"))).collect();
            assert_eq!(given.len() + held, 4);
        },
    );
}

#[test]
fn b3_a_loan_that_was_cut_short_is_completed_or_undone() {
    let start = || {
        let mut cluster = one_block();
        cluster.given("a", "x");
        cluster
    };
    check(
        "loan",
        start,
        |cluster| served(cluster, "b", "y"),
        |cluster| {
            let held = cluster.keeper("b").ipam().holder_count();
            for n in 0..(3 - held) {
                cluster.given("b", &format!("n{n}"));
            }
            let all = cluster.refused("b", &request("more"));
            assert!(all.to_string().contains("pool exhausted"), "{all}");
            cluster.pass(20);
        },
    );
}

#[test]
fn b3_a_return_that_was_cut_short_is_completed() {
    let start = || {
        let mut cluster = one_block();
        cluster.given("a", "x");
        cluster.given("b", "y");
        cluster.free("b", "y");
        cluster.settle();
        cluster.pass(100);
        cluster
    };
    let act = |cluster: &mut Cluster| {
        for _ in 0..3 {
            cluster.upkeep("b")?;
            cluster.upkeep("a")?;
        }
        Ok(())
    };
    check("return", start, act, |cluster| {
        cluster.pass(100);
        cluster.settle();
        cluster.pass(100);
        cluster.settle();
        assert!(cluster.store.values().all(|seen| seen.object.loans.is_empty()));
        for n in 0..3 {
            cluster.given("a", &format!("n{n}"));
        }
    });
}

#[test]
fn b3_a_handover_that_was_cut_short_is_completed_or_undone() {
    let start = || {
        let mut cluster = one_block();
        cluster.given("a", "x");
        cluster.free("a", "x");
        cluster.settle();
        cluster
    };
    check(
        "handover",
        start,
        |cluster| served(cluster, "b", "y"),
        |cluster| {
            let held = cluster.keeper("b").ipam().holder_count();
            for n in held..4 {
                cluster.given("b", &format!("n{n}"));
            }
            assert_eq!(cluster.owners().len(), 1);
        },
    );
}

#[test]
fn b3_a_release_that_was_cut_short_is_completed() {
    let start = || {
        let mut cluster = Cluster::new(&["a", "b"], &[pool("p", "10.0.0.0/29", 30)]);
        for n in 0..5 {
            cluster.given("a", &format!("c{n}"));
        }
        for n in 0..5 {
            cluster.free("a", &format!("c{n}"));
        }
        cluster.settle();
        cluster.pass(400);
        cluster
    };
    let act = |cluster: &mut Cluster| {
        for _ in 0..3 {
            cluster.upkeep("a")?;
        }
        Ok(())
    };
    check("release", start, act, |cluster| {
        cluster.pass(400);
        cluster.settle();
        assert_eq!(cluster.owners().len(), 1, "one is given up, the last is kept");
        let given: BTreeSet<String> = (0..8).map(|n| cluster.given("b", &format!("n{n}"))).collect();
        assert_eq!(given.len(), 8);
    });
}

#[test]
fn b3_a_reclaim_that_was_cut_short_is_completed_by_anybody() {
    let start = || {
        let mut cluster = Cluster::new(&["a", "b", "c"], &[pool("p", "10.0.0.0/30", 30)]);
        cluster.given("a", "x");
        cluster.given("b", "y");
        cluster.switch_off("a");
        for name in ["b", "c"] {
            assert!(cluster.upkeep(name).is_ok());
        }
        cluster.pass(601);
        cluster
    };
    for order in [["b", "c"], ["c", "b"]] {
        let act = |cluster: &mut Cluster| {
            for name in order.into_iter().cycle().take(4) {
                cluster.upkeep(name)?;
            }
            Ok(())
        };
        check("reclaim", start, act, |cluster| {
            // A restart forgets since when the node has been gone.
            cluster.pass(601);
            cluster.settle();
            assert_eq!(cluster.blocks_of("a"), Vec::<String>::new());
            assert_eq!(
                cluster.keeper("b").ipam().holder_count(),
                1,
                "whoever held an address holds it still"
            );
            for n in 0..3 {
                cluster.given("c", &format!("n{n}"));
            }
        });
    }
}

#[test]
fn b3_an_agent_that_starts_without_the_store_serves_nothing_that_it_may_not() {
    // Each scene is cut short at each step; the agent then starts while the store is away, and serves on the word of
    // its journal.
    type Scene = (fn() -> Cluster, fn(&mut Cluster) -> Result<(), Crashed>);
    let taken_over = || {
        let mut cluster = Cluster::new(&["a", "b", "c"], &[pool("p", "10.0.0.0/30", 30)]);
        cluster.given("a", "x");
        cluster.given("b", "y");
        cluster.switch_off("a");
        assert!(cluster.upkeep("c").is_ok());
        cluster.pass(601);
        cluster
    };
    let lent = || {
        let mut cluster = one_block();
        cluster.given("a", "x");
        cluster
    };
    let scenes: [Scene; 3] = [
        (one_block, |cluster| served(cluster, "a", "x")),
        (lent, |cluster| served(cluster, "b", "y")),
        (taken_over, |cluster| {
            for _ in 0..4 {
                cluster.upkeep("c")?;
            }
            Ok(())
        }),
    ];
    for (start, act) in scenes {
        for steps in 0.. {
            let mut cluster = start();
            cluster.steps_left = Some(steps);
            let crashed = act(&mut cluster).is_err();
            for name in cluster.names() {
                cluster.restart(name);
                cluster.keeper_mut(name).set_store_away(true);
                cluster.assert(Strength::Always);
            }
            if !crashed {
                assert!(steps > 2, "nothing happened");
                break;
            }
        }
    }
}
