//! The server away, slow, or started again.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use poolward_store::resource::{IpPool, IpReservation};
use poolward_store::{Event, Store, StoreError, Watch};

use crate::cluster::{Cluster, SHORT, STEP, is_unavailable, key, pool, read, reservation};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_hangs_while_the_server_is_away_and_all_goes_on_when_it_is_back() {
    let mut cluster = Cluster::start().await;
    let store = cluster.hasty().await;
    let made = store.create(pool("a", 1)).await.unwrap();
    let mut watch = store.watch::<IpPool>(made.revision).await.unwrap();
    cluster.control_plane.kill_api().unwrap();

    let started = Instant::now();
    assert!(is_unavailable(&store.get::<IpPool>(&key("a")).await));
    assert!(is_unavailable(&store.list::<IpPool>().await));
    assert!(is_unavailable(&store.create(pool("b", 1)).await));
    assert!(is_unavailable(&store.compare_and_swap(made.revision, pool("a", 2)).await));
    assert!(is_unavailable(&store.compare_and_delete::<IpPool>(&key("a"), made.revision).await));
    assert!(is_unavailable(&store.watch::<IpPool>(made.revision).await.map(drop)));
    assert!(started.elapsed() < Duration::from_secs(5), "a refused connection is no reason to wait");

    cluster.control_plane.start_api().unwrap();
    assert_eq!(read::<IpPool>(&store, "a").await, Some(made.clone()));
    assert_eq!(read::<IpPool>(&store, "b").await, None);
    let changed = store.compare_and_swap(made.revision, pool("a", 2)).await.unwrap();
    // The watch brings it; or it says that the server, which began to keep history when it started, cannot.
    match tokio::time::timeout(STEP, watch.next()).await.unwrap().unwrap() {
        Ok(event) => assert_eq!(event, Event::Put(changed)),
        Err(StoreError::Expired { from, .. }) => assert!(from >= made.revision && from < changed.revision),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_given_up_on_in_bounded_time() {
    let cluster = Cluster::start().await;
    let store = cluster.hasty().await;
    let made = store.create(pool("a", 1)).await.unwrap();
    let api = cluster.control_plane.api();
    api.pause().unwrap();
    let started = Instant::now();
    assert!(is_unavailable(&store.get::<IpPool>(&key("a")).await));
    let swapped = store.compare_and_swap(made.revision, pool("a", 2)).await;
    let took = started.elapsed();
    api.resume().unwrap();
    assert!(is_unavailable(&swapped), "{swapped:?}");
    assert!(took >= SHORT.request && took < SHORT.request * 4, "{took:?}");
    // It may have been made or not; the next one settles it.
    let there = read::<IpPool>(&store, "a").await.unwrap();
    let settled = store.compare_and_swap(there.revision, pool("a", 3)).await;
    match settled {
        Ok(settled) => assert_eq!(settled.value.spec.priority, 3),
        // The delayed one came between: it is over now.
        Err(StoreError::Conflict { .. }) => {
            let there = read::<IpPool>(&store, "a").await.unwrap();
            assert_eq!(there.value.spec.priority, 2);
            store.compare_and_swap(there.revision, pool("a", 3)).await.unwrap();
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(read::<IpPool>(&store, "a").await.unwrap().value.spec.priority, 3);
}

async fn next(watch: &mut Watch<IpPool>) -> Event<IpPool> {
    tokio::time::timeout(STEP, watch.next()).await.unwrap().unwrap().unwrap()
}

/// The hasty store's watches are ended by the server after two to four seconds, and taken for dead after three of
/// silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_its_connections_and_misses_and_repeats_nothing() {
    let cluster = Cluster::start().await;
    let store = cluster.hasty().await;
    let first = store.create(pool("a", 0)).await.unwrap();
    let mut watch = store.watch::<IpPool>(first.revision).await.unwrap();
    let before = cluster.control_plane.requests().unwrap();
    let mut current = first;
    let started = Instant::now();
    let mut priority = 0;
    while started.elapsed() < Duration::from_secs(12) {
        priority += 1;
        current = store.compare_and_swap(current.revision, pool("a", priority)).await.unwrap();
        store.create(reservation(&format!("r{priority}"), &[])).await.unwrap();
        if priority % 3 == 0 {
            // Several at once, after a silence in which the connection may end.
            for _ in 0..3 {
                assert_eq!(next(&mut watch).await.object().value.metadata.name, "a");
            }
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
    }
    for _ in 0..priority % 3 {
        next(&mut watch).await;
    }
    let last = store.compare_and_swap(current.revision, pool("a", -1)).await.unwrap();
    assert_eq!(next(&mut watch).await, Event::Put(last));
    let new = cluster.control_plane.requests().unwrap().since(&before);
    let watches = new.only(|kind| kind.verb == "WATCH" && kind.resource == "ippools").count();
    assert!(watches >= 2, "the watch had {watches} connections: {new:?}");
    let reservations = store.list::<IpReservation>().await.unwrap();
    assert_eq!(reservations.items.len(), usize::try_from(priority).unwrap());
}
