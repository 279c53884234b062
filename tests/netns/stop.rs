//! SIGTERM while requests are under way, and what an agent of an older schema left.

use std::time::Duration;

use harness::{Run, wait_until};

use crate::kernel::agreed;
use crate::manifest::pool;
use crate::random::Random;
use crate::site::{Pod, Site};

#[test]
fn a_stop_ends_every_request_whole_or_not_at_all() {
    let site = Site::new();
    let mut node = site.start();
    // Small blocks: some of the requests are claiming one when the signal comes.
    node.apply(&[pool("a", "10.73.0.0/24", "blockSize: 31")]);
    let mut random = Random::new(7);
    for round in 0..6 {
        let pods: Vec<Pod> = (0..10).map(|_| Pod::container("stopped")).collect();
        let delay = Duration::from_micros(random.below(20_000));
        let cni = site.cni();
        let codes: Vec<i32> = std::thread::scope(|scope| {
            let calls: Vec<_> =
                pods.iter().map(|pod| scope.spawn(|| cni.add(&pod.attachment).unwrap().code)).collect();
            std::thread::sleep(delay);
            // Fails when it takes longer than the harness waits.
            let (status, _) = node.agent.stop().unwrap();
            assert!(status.success(), "round {round}: {status}");
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        node.agent.start_again().unwrap();
        let held = agreed(&node);
        for (pod, code) in pods.iter().zip(&codes) {
            assert_eq!(held.contains_key(&pod.handle()), *code == 0, "round {round}: {codes:?}");
            node.del(pod);
        }
        assert!(agreed(&node).is_empty());
    }
}

#[test]
fn a_stop_while_a_pool_is_being_deleted_does_not_hang_and_the_next_agent_goes_on() {
    let site = Site::new();
    let mut node = site.start();
    let mut random = Random::new(8);
    for round in 0..6 {
        node.apply(&[pool("a", "10.73.0.0/26", "blockSize: 30")]);
        let pod = node.add_container("used");
        node.del(&pod);
        let ctl = node.ctl();
        let delay = Duration::from_micros(random.below(6_000));
        std::thread::scope(|scope| {
            // Whether it is answered in time does not matter here.
            let deletion = scope.spawn(|| ctl.finish(&["delete", "pool", "a"]).unwrap());
            std::thread::sleep(delay);
            let (status, _) = node.agent.stop().unwrap();
            assert!(status.success(), "round {round}: {status}");
            deletion.join().unwrap();
        });
        node.agent.start_again().unwrap();
        // Deleted in the end, by whoever was in time.
        node.ctl().finish(&["delete", "pool", "a"]).unwrap();
        wait_until(Duration::from_secs(8), "the pool is gone", || {
            !node.ctl().finish(&["get", "pool", "a"]).unwrap().status.success()
        });
        let blocks = node.ctl().json(&["get", "blocks"]).unwrap();
        assert_eq!(blocks["items"], serde_json::json!([]), "round {round}");
    }
}

#[test]
fn what_another_schema_version_pinned_goes_once_all_is_attached_anew() {
    let site = Site::new();
    let older = site.files.pin_dir().join("v0");
    std::fs::create_dir_all(&older).unwrap();
    let map = older.join("pw_drops");
    let create =
        ["map", "create", map.to_str().unwrap(), "type", "array", "key", "4", "value", "4", "entries", "1"];
    Run::new("bpftool").args(create).args(["name", "pw_drops"]).ok().unwrap();
    let _node = site.start();
    assert!(!older.exists());
    assert!(site.files.pin_dir().join(format!("v{}", dataplane::MAP_SCHEMA_VERSION)).exists());
}
