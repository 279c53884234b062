//! How long wiring and unwiring take: printed, and bounded loosely enough for a busy machine.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dataplane::AttachMode;

use crate::fixture::{Node, Pod, pools};

const RUN_COUNT: usize = 100;

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn wiring_and_unwiring_take_milliseconds() {
    for mode in [AttachMode::Auto, AttachMode::Tcx, AttachMode::Clsact] {
        check(mode);
    }
}

fn check(mode: AttachMode) {
    let node = Node::with(|settings| settings.attach_mode = mode);
    node.reconcile_ok(&node.desired(&pools(), &[]));
    let pod = Pod::dual(9);
    let file = pod.open();
    let (mut wire, mut unwire) = (Vec::new(), Vec::new());
    node.call(|dataplane| {
        for _ in 0..RUN_COUNT {
            let started = Instant::now();
            dataplane.wire(&pod.wiring, file.as_fd()).unwrap();
            wire.push(started.elapsed());
            let started = Instant::now();
            assert!(dataplane.unwire(pod.handle()).unwrap());
            unwire.push(started.elapsed());
        }
    });
    for (what, times) in [("wire", &mut wire), ("unwire", &mut unwire)] {
        times.sort();
        let (p50, p99) = (percentile(times, 50), percentile(times, 99));
        println!("{mode:?} {what}: p50 {p50:?}, p99 {p99:?}, least {:?}", times[0]);
        assert!(p50 < Duration::from_millis(50), "{what}: p50 {p50:?}");
    }
    node.assert_clean();
}
