//! Changes are told by events, so that what was tampered with is repaired at once.

use std::time::{Duration, Instant};

use dataplane::{Event, Events};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::fixture::{Node, Pod, pools};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The next event, or `None` after a second of silence.
async fn next(events: &mut Events) -> Option<Event> {
    timeout(Duration::from_secs(1), events.next()).await.ok().map(Result::unwrap)
}

/// Takes events until there are none for a while.
async fn settle(events: &mut Events) {
    while timeout(Duration::from_millis(300), events.next()).await.is_ok() {}
}

#[test]
fn a_tampered_route_is_repaired_by_its_event() {
    let node = Node::new();
    let pod = Pod::dual(1);
    node.reconcile_ok(&node.desired(&pools(), &[]));
    node.wire(&pod).unwrap();
    let desired = node.desired(&pools(), &[&pod]);
    node.call(|dataplane| {
        runtime().block_on(async {
            let mut events = dataplane.events().unwrap();
            let check = async |events: &mut Events, tamper: &str, expected: &[Event]| {
                settle(events).await;
                let started = Instant::now();
                node.netns().ip(&tamper.replace("HOST", &pod.host_ifname())).unwrap();
                let event = next(events).await.unwrap_or_else(|| panic!("{tamper}: no event"));
                assert!(expected.contains(&event), "{tamper}: {event:?}");
                node.reconcile_ok(&desired);
                assert!(started.elapsed() < Duration::from_secs(1), "{tamper}: {:?}", started.elapsed());
                assert_eq!(node.check(&pod), None, "{tamper}");
            };
            check(&mut events, "route del 10.77.0.1", &[Event::Route]).await;
            check(&mut events, "-6 route del fd77::1", &[Event::Route]).await;
            check(&mut events, "link set HOST down", &[Event::Link, Event::Route, Event::Underlay]).await;
            check(&mut events, "addr add 192.0.2.77/32 dev up0", &[Event::Underlay]).await;
            settle(&mut events).await;
            assert_eq!(node.reconcile_ok(&desired), [""; 0]);
            assert_eq!(next(&mut events).await, None, "a run that plans nothing makes no event");
        });
    });
}

#[test]
fn an_overflow_is_an_event() {
    let node = Node::new();
    node.call(|dataplane| {
        runtime().block_on(async {
            let mut events = dataplane.events().unwrap();
            let lines = |verb: &str| {
                (0..20_000u32)
                    .map(|n| {
                        format!(
                            "route {verb} blackhole 10.{}.{}.{}/32\n",
                            100 + n / 65536,
                            n / 256 % 256,
                            n % 256
                        )
                    })
                    .collect::<String>()
            };
            node.netns().ip_batch(&lines("add")).unwrap();
            assert_eq!(next(&mut events).await, Some(Event::Overflow));
            node.netns().ip_batch(&lines("del")).unwrap();
            assert!(next(&mut events).await.is_some(), "it goes on after an overflow");
        });
    });
}
