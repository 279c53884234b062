//! History that is gone, and a store that went back.

use futures::StreamExt as _;
use poolward_store::resource::IpPool;
use poolward_store::{Revision, Store, StoreError, Versioned};

use crate::cluster::{Cluster, STEP, key, pool, read};

/// The error that a watch from here comes to, at once or as its last item.
async fn end_of_watch(store: &impl Store, from: Revision) -> StoreError {
    let mut watch = match store.watch::<IpPool>(from).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    loop {
        match tokio::time::timeout(STEP, watch.next()).await.unwrap() {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                assert!(watch.next().await.is_none(), "the watch is over");
                return error;
            }
            None => panic!("a watch does not end without an error"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_history_that_etcd_has_compacted_is_expired() {
    let mut cluster = Cluster::start().await;
    let first = cluster.store.create(pool("a", 0)).await.unwrap();
    let mut current = first.clone();
    for i in 1..10 {
        current = cluster.store.compare_and_swap(current.revision, pool("a", i)).await.unwrap();
    }
    // A server that was started since has nothing in memory either.
    cluster.control_plane.etcdctl(&["compact", &current.revision.to_string()]).unwrap();
    cluster.control_plane.kill_api().unwrap();
    cluster.control_plane.start_api().unwrap();
    assert_eq!(read::<IpPool>(&cluster.store, "a").await, Some(current.clone()));
    let end = end_of_watch(&cluster.store, first.revision).await;
    assert!(matches!(end, StoreError::Expired { from, .. } if from == first.revision), "{end}");
    // From zero nothing was ever kept.
    let end = end_of_watch(&cluster.store, Revision::ZERO).await;
    assert!(matches!(end, StoreError::Expired { .. }), "{end}");
    // Listed again, it goes on.
    let list = cluster.store.list::<IpPool>().await.unwrap();
    assert_eq!(list.items, [current]);
    let mut watch = cluster.store.watch::<IpPool>(list.revision).await.unwrap();
    let made = cluster.store.create(pool("b", 0)).await.unwrap();
    let event = tokio::time::timeout(STEP, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.revision(), made.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_restored_from_a_backup_is_noticed_and_read_anew() {
    let mut cluster = Cluster::start().await;
    let kept = cluster.store.create(pool("kept", 1)).await.unwrap();
    let backup = cluster.control_plane.snapshot("before").unwrap();
    let lost = cluster.store.create(pool("lost", 1)).await.unwrap();
    let mut current = kept.clone();
    for i in 2..60 {
        current = cluster.store.compare_and_swap(current.revision, pool("kept", i)).await.unwrap();
    }
    let mut watch = cluster.store.watch::<IpPool>(current.revision).await.unwrap();
    cluster.control_plane.restore(&backup).unwrap();

    // The running watch notices when it connects again, a new one at once.
    let end = tokio::time::timeout(STEP, watch.next()).await.unwrap();
    let Some(Err(StoreError::Expired { from, newest, .. })) = end else { panic!("{end:?}") };
    assert!(from >= current.revision && newest < current.revision, "{from} {newest}");
    assert!(watch.next().await.is_none());
    let end = end_of_watch(&cluster.store, current.revision).await;
    assert!(matches!(end, StoreError::Expired { .. }), "{end}");

    let list = cluster.store.list::<IpPool>().await.unwrap();
    assert!(list.revision < current.revision);
    assert_eq!(list.items, std::slice::from_ref(&kept));
    // What was written since the backup is void: no compare-and-swap takes it for what is there.
    let stale = cluster.store.compare_and_swap(current.revision, pool("kept", 99)).await;
    assert!(
        matches!(stale, Err(StoreError::Conflict { actual: Some(actual), .. }) if actual == kept.revision)
    );
    let absent = cluster.store.compare_and_delete::<IpPool>(&key("lost"), lost.revision).await;
    assert!(matches!(absent, Err(StoreError::Conflict { actual: None, .. })), "{absent:?}");

    it_is_noticed_also_when_the_store_has_grown_beyond_what_was_seen(&mut cluster, kept).await;
}

async fn it_is_noticed_also_when_the_store_has_grown_beyond_what_was_seen(
    cluster: &mut Cluster,
    mut kept: Versioned<IpPool>,
) {
    let from = cluster.store.list::<IpPool>().await.unwrap().revision;
    let backup = cluster.control_plane.snapshot("again").unwrap();
    cluster.store.create(pool("lost", 1)).await.unwrap();
    let list = cluster.store.list::<IpPool>().await.unwrap();
    // One has seen the loss in its list, one as an event.
    let mut listed = cluster.store.watch::<IpPool>(list.revision).await.unwrap();
    let mut told = cluster.store.watch::<IpPool>(from).await.unwrap();
    let event = tokio::time::timeout(STEP, told.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.object().value.metadata.name, "lost");

    cluster.control_plane.restore(&backup).unwrap();
    // Nobody watches meanwhile: streams go on only when they are asked.
    assert_eq!(read::<IpPool>(&cluster.store, "kept").await, Some(kept.clone()));
    let mut priority = 0;
    while kept.revision <= list.revision {
        priority += 1;
        kept = cluster.store.compare_and_swap(kept.revision, pool("kept", priority)).await.unwrap();
    }
    for watch in [&mut listed, &mut told] {
        let end = tokio::time::timeout(STEP, watch.next()).await.unwrap();
        let Some(Err(StoreError::Expired { from, newest, .. })) = end else { panic!("{end:?}") };
        assert!(from < newest, "{from} {newest}");
    }
}
