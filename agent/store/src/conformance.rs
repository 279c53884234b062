//! What every implementation of [`crate::Store`] must do, as checks that run against any of them.
//!
//! Each check takes a fresh, empty store and panics when it is not satisfied, as tests do. [`run_all`] runs them
//! in turn, each on a store of its own. What only one implementation can show (surviving a restart, say) is in
//! that implementation's own tests.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests: they panic when they are not satisfied"
)]

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};

use crate::event::{Event, Watch};
use crate::interface::{Store, StoreError};
use crate::key::Key;
use crate::resource::{IpPool, IpReservation, Metadata, Namespace, Pod, Resource};
use crate::retry::{self, Decision, Outcome, Patience, RetryError};
use crate::versioned::{Revision, Versioned};

/// The longest any single step may take.
const STEP: Duration = Duration::from_secs(30);

/// Runs every check, each on a store that `fresh` makes: empty, and keeping the last `history_len` changes for
/// watchers, which must be at least 64.
pub async fn run_all<S, F>(history_len: u64, mut fresh: impl FnMut() -> F)
where
    S: Store,
    F: Future<Output = S>,
{
    assert!(history_len >= 64, "the checks below make up to 64 changes before they read them");
    an_object_is_created_once(&fresh().await).await;
    a_stale_or_absent_object_is_not_replaced(&fresh().await).await;
    a_stale_or_absent_object_is_not_deleted(&fresh().await).await;
    a_uid_stays_for_the_life_of_an_object(&fresh().await).await;
    kinds_and_namespaces_are_kept_apart(&fresh().await).await;
    revisions_grow_over_all_objects(&fresh().await).await;
    a_watch_from_a_list_brings_exactly_what_followed(&fresh().await).await;
    a_watch_of_one_kind_is_not_disturbed_by_another(&fresh().await).await;
    a_watch_waits_and_wakes(&fresh().await).await;
    history_that_is_gone_is_said_to_be_gone(&fresh().await, history_len).await;
    a_watch_that_falls_behind_is_told(&fresh().await, history_len).await;
    many_watchers_see_every_change_once_and_in_order(&fresh().await).await;
    concurrent_changes_of_one_object_are_all_kept(&fresh().await).await;
    of_racing_creates_exactly_one_wins(&fresh().await).await;
    of_racing_deletes_exactly_one_wins(&fresh().await).await;
    a_decision_is_made_again_when_the_object_has_changed(&fresh().await).await;
    tries_are_bounded_and_refusals_change_nothing(&fresh().await).await;
}

fn key(text: &str) -> Key {
    text.parse().expect("a key in a check is valid")
}

fn pool(name: &str, priority: i32) -> IpPool {
    let mut pool = IpPool { metadata: Metadata::named(name), ..IpPool::default() };
    pool.spec.cidr = "10.0.0.0/24".to_owned();
    pool.spec.priority = priority;
    pool
}

fn pod(namespace: &str, name: &str) -> Pod {
    let metadata = Metadata { namespace: namespace.to_owned(), ..Metadata::named(name) };
    Pod { metadata, ..Pod::default() }
}

/// A result that must come, and soon.
async fn soon<T>(what: &str, work: impl Future<Output = Result<T, StoreError>>) -> T {
    match tokio::time::timeout(STEP, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => panic!("{what}: {error}"),
        Err(_) => panic!("{what}: nothing for {STEP:?}"),
    }
}

/// The next item of a watch, which must come soon.
async fn next<R: Resource>(watch: &mut Watch<R>) -> Event<R> {
    soon("watch", async { watch.next().await.expect("a watch without an error does not end") }).await
}

async fn create<R: Resource>(store: &impl Store, value: R) -> Versioned<R> {
    soon("create", store.create(value)).await
}

async fn get(store: &impl Store, name: &str) -> Option<Versioned<IpPool>> {
    soon("get", store.get(&key(name))).await
}

/// The second create fails, names the first one's revision, and changes nothing.
pub async fn an_object_is_created_once(store: &impl Store) {
    assert_eq!(get(store, "a").await, None);
    let first = create(store, pool("a", 1)).await;
    assert!(!first.uid.is_empty() && first.value.metadata.uid == first.uid, "a created object has a uid");
    let again = store.create(pool("a", 2)).await;
    let expected = StoreError::AlreadyExists { kind: "IPPool", key: key("a"), actual: first.revision };
    assert_eq!(again, Err(expected));
    assert_eq!(get(store, "a").await, Some(first));
}

/// Only the newest revision can be replaced.
pub async fn a_stale_or_absent_object_is_not_replaced(store: &impl Store) {
    let conflict = |name: &str, expected, actual| {
        Err(StoreError::Conflict { operation: "replace", kind: "IPPool", key: key(name), expected, actual })
    };
    let first = create(store, pool("a", 1)).await;
    let second = soon("replace", store.compare_and_swap(first.revision, pool("a", 2))).await;
    assert!(second.revision > first.revision);
    let stale = store.compare_and_swap(first.revision, pool("a", 3)).await;
    assert_eq!(stale, conflict("a", first.revision, Some(second.revision)));
    let ahead = Revision::new(second.revision.get() + 1);
    assert_eq!(
        store.compare_and_swap(ahead, pool("a", 3)).await,
        conflict("a", ahead, Some(second.revision))
    );
    assert_eq!(get(store, "a").await, Some(second.clone()));

    let absent = store.compare_and_swap(first.revision, pool("b", 1)).await;
    assert_eq!(absent, conflict("b", first.revision, None));
    assert_eq!(
        store.compare_and_swap(Revision::ZERO, pool("b", 1)).await,
        conflict("b", Revision::ZERO, None)
    );
    assert_eq!(get(store, "b").await, None);
}

/// Only the newest revision can be deleted; what is deleted can be created anew and is another object then.
pub async fn a_stale_or_absent_object_is_not_deleted(store: &impl Store) {
    let conflict = |expected, actual| {
        Err(StoreError::Conflict { operation: "delete", kind: "IPPool", key: key("a"), expected, actual })
    };
    let name = key("a");
    let delete = |revision| store.compare_and_delete::<IpPool>(&name, revision);
    let first = create(store, pool("a", 1)).await;
    let second = soon("replace", store.compare_and_swap(first.revision, pool("a", 2))).await;
    assert_eq!(delete(first.revision).await, conflict(first.revision, Some(second.revision)));
    assert_eq!(get(store, "a").await, Some(second.clone()));

    let deleted = soon("delete", delete(second.revision)).await;
    assert!(deleted > second.revision, "a deletion is a change of its own");
    assert_eq!(get(store, "a").await, None);
    assert_eq!(delete(second.revision).await, conflict(second.revision, None));

    let reborn = create(store, pool("a", 1)).await;
    assert!(reborn.revision > deleted);
    assert_ne!(reborn.uid, first.uid);
    assert_eq!(delete(second.revision).await, conflict(second.revision, Some(reborn.revision)));
}

/// A uid that was given is kept, a replacement keeps it, and another one is refused.
pub async fn a_uid_stays_for_the_life_of_an_object(store: &impl Store) {
    let mut named = pool("a", 1);
    named.metadata.uid = "uid-of-mine".to_owned();
    let first = create(store, named).await;
    assert_eq!((first.uid.as_str(), first.value.metadata.uid.as_str()), ("uid-of-mine", "uid-of-mine"));
    let second = soon("replace", store.compare_and_swap(first.revision, pool("a", 2))).await;
    assert_eq!((second.uid.as_str(), second.value.metadata.uid.as_str()), ("uid-of-mine", "uid-of-mine"));
    let mut other = pool("a", 3);
    other.metadata.uid = "uid-of-another".to_owned();
    let refused = store.compare_and_swap(second.revision, other).await;
    assert!(matches!(refused, Err(StoreError::Internal { .. })), "{refused:?}");
    assert_eq!(get(store, "a").await, Some(second));
    assert_ne!(create(store, pool("b", 1)).await.uid, create(store, pool("c", 1)).await.uid);
}

/// The same name in another kind or namespace is another object; lists hold one kind, in order.
pub async fn kinds_and_namespaces_are_kept_apart(store: &impl Store) {
    let names = |list: Vec<Versioned<Pod>>| -> Vec<String> {
        list.iter()
            .map(|pod| format!("{}/{}", pod.value.metadata.namespace, pod.value.metadata.name))
            .collect()
    };
    create(store, pool("a", 1)).await;
    create(store, IpReservation { metadata: Metadata::named("a"), ..IpReservation::default() }).await;
    create(store, Namespace { metadata: Metadata::named("a") }).await;
    for (namespace, name) in [("b", "a"), ("a", "b"), ("a", "a"), ("a-b", "a")] {
        create(store, pod(namespace, name)).await;
    }
    let pods = soon("list", store.list::<Pod>()).await;
    assert_eq!(names(pods.items), ["a-b/a", "a/a", "a/b", "b/a"]);
    assert_eq!(soon("list", store.list::<IpPool>()).await.items.len(), 1);
    let web = soon("get", store.get::<Pod>(&key("a/b"))).await.expect("it was created");
    soon("delete", store.compare_and_delete::<Pod>(&key("a/b"), web.revision)).await;
    assert_eq!(names(soon("list", store.list::<Pod>()).await.items), ["a-b/a", "a/a", "b/a"]);
    let nameless = store.create(pool("", 1)).await;
    assert!(matches!(nameless, Err(StoreError::Internal { .. })), "{nameless:?}");
    let stray = store.create(Namespace { metadata: pod("a", "b").metadata }).await;
    assert!(matches!(stray, Err(StoreError::Internal { .. })), "{stray:?}");
}

/// One number over all kinds: strictly growing, and a list carries at least the newest it has seen.
pub async fn revisions_grow_over_all_objects(store: &impl Store) {
    let mut newest = soon("list", store.list::<IpPool>()).await.revision;
    for i in 0..5 {
        let pool = create(store, pool(&format!("p{i}"), i)).await;
        assert!(pool.revision > newest);
        let pod = create(store, pod("a", &format!("p{i}"))).await;
        assert!(pod.revision > pool.revision);
        newest = soon("list", store.list::<IpPool>()).await.revision;
        assert!(newest >= pod.revision);
    }
}

/// What the list holds is not repeated, what came after it is not missed, deletions carry the last state.
pub async fn a_watch_from_a_list_brings_exactly_what_followed(store: &impl Store) {
    let kept = create(store, pool("kept", 1)).await;
    let doomed = create(store, pool("doomed", 1)).await;
    let list = soon("list", store.list::<IpPool>()).await;
    assert_eq!(list.items, [doomed.clone(), kept.clone()]);

    let changed = soon("replace", store.compare_and_swap(kept.revision, pool("kept", 2))).await;
    let deleted = soon("delete", store.compare_and_delete::<IpPool>(&key("doomed"), doomed.revision)).await;
    let mut watch = soon("watch", store.watch::<IpPool>(list.revision)).await;
    let added = create(store, pool("added", 3)).await;

    let expected =
        [Event::Put(changed), Event::Delete { last: doomed, revision: deleted }, Event::Put(added.clone())];
    for expected in expected {
        let event = next(&mut watch).await;
        assert_eq!((event.revision(), &event), (expected.revision(), &expected));
    }
    assert!(watch.next().now_or_never().is_none(), "nothing else happened");

    let mut from_end = soon("watch", store.watch::<IpPool>(added.revision)).await;
    assert!(from_end.next().now_or_never().is_none(), "nothing happened since");
}

/// Changes of other kinds are passed over.
pub async fn a_watch_of_one_kind_is_not_disturbed_by_another(store: &impl Store) {
    let from = soon("list", store.list::<Pod>()).await.revision;
    let mut watch = soon("watch", store.watch::<Pod>(from)).await;
    for i in 0..10 {
        create(store, pool(&format!("p{i}"), i)).await;
    }
    let web = create(store, pod("a", "web")).await;
    assert_eq!(next(&mut watch).await, Event::Put(web));
}

/// A watch with nothing to tell waits without an end, and wakes at the next change.
pub async fn a_watch_waits_and_wakes(store: &impl Store) {
    let from = soon("list", store.list::<IpPool>()).await.revision;
    let mut watch = soon("watch", store.watch::<IpPool>(from)).await;
    for i in 0..3 {
        let waiting = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
        assert!(waiting.is_err(), "nothing happened yet: {waiting:?}");
        let made = create(store, pool(&format!("p{i}"), i)).await;
        assert_eq!(next(&mut watch).await, Event::Put(made));
    }
}

/// Watching from before the kept history, or from a revision that never was, fails at once.
pub async fn history_that_is_gone_is_said_to_be_gone(store: &impl Store, history_len: u64) {
    let start = soon("list", store.list::<IpPool>()).await.revision;
    let mut current = create(store, pool("a", 0)).await;
    let first = current.revision;
    for i in 0..history_len {
        let next = pool("a", i32::try_from(i).expect("a short history"));
        current = soon("replace", store.compare_and_swap(current.revision, next)).await;
    }
    let expired =
        |result: Result<Watch<IpPool>, StoreError>| matches!(result, Err(StoreError::Expired { .. }));
    assert!(expired(store.watch(start).await), "the change after the start is no longer kept");
    assert!(expired(store.watch(Revision::new(current.revision.get() + 1)).await), "that is in the future");
    let mut whole = soon("watch", store.watch::<IpPool>(first)).await;
    for _ in 0..history_len {
        next(&mut whole).await;
    }
    assert!(whole.next().now_or_never().is_none(), "the kept history has {history_len} changes");
    assert_eq!(get(store, "a").await, Some(current));
}

/// A watcher that does not read for too long gets what it has read already, then the error, then the end.
pub async fn a_watch_that_falls_behind_is_told(store: &impl Store, history_len: u64) {
    let from = soon("list", store.list::<IpPool>()).await.revision;
    let mut slow = soon("watch", store.watch::<IpPool>(from)).await;
    let mut current = create(store, pool("a", 0)).await;
    assert_eq!(next(&mut slow).await, Event::Put(current.clone()));
    for i in 0..=history_len {
        let value = pool("a", i32::try_from(i).expect("a short history"));
        current = soon("replace", store.compare_and_swap(current.revision, value)).await;
    }
    let late = tokio::time::timeout(STEP, slow.next()).await.expect("an answer");
    assert!(matches!(late, Some(Err(StoreError::Expired { .. }))), "{late:?}");
    assert!(slow.next().await.is_none(), "the watch is over");
}

/// Writers and watchers at once: every watcher sees the same changes, each once, in order of revision.
pub async fn many_watchers_see_every_change_once_and_in_order(store: &impl Store) {
    const WRITERS: usize = 4;
    const EACH: usize = 12;
    let from = soon("list", store.list::<IpPool>()).await.revision;
    let watchers: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut watch = soon("watch", store.watch::<IpPool>(from)).await;
                let mut seen = Vec::new();
                while seen.len() < WRITERS * EACH {
                    let event = next(&mut watch).await;
                    seen.push((event.revision(), event.object().value.metadata.name.clone()));
                }
                seen
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..EACH {
                    create(&store, pool(&format!("w{writer}-{i}"), 0)).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    let list = soon("list", store.list::<IpPool>()).await;
    let mut made: Vec<_> =
        list.items.iter().map(|pool| (pool.revision, pool.value.metadata.name.clone())).collect();
    made.sort_unstable();
    for watcher in watchers {
        assert_eq!(watcher.await.expect("a watcher ends"), made);
    }
}

/// Tasks that each increment one object many times: no increment is lost.
pub async fn concurrent_changes_of_one_object_are_all_kept(store: &impl Store) {
    const TASKS: i32 = 8;
    const EACH: i32 = 5;
    create(store, pool("a", 0)).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    // Not by the retry helper: its tries are bounded, and this is about the store.
                    loop {
                        let seen = get(&store, "a").await.expect("it is never deleted");
                        let next = pool("a", seen.value.spec.priority + 1);
                        match store.compare_and_swap(seen.revision, next).await {
                            Ok(_) => break,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task ends");
    }
    assert_eq!(get(store, "a").await.expect("it is there").value.spec.priority, TASKS * EACH);
}

/// Tasks that create the same object at once: one wins, the others learn the winner's revision.
pub async fn of_racing_creates_exactly_one_wins(store: &impl Store) {
    for round in 0..5 {
        let name = format!("p{round}");
        let tasks: Vec<_> = (0..6)
            .map(|i| {
                let (store, value) = (store.clone(), pool(&name, i));
                tokio::spawn(async move { store.create(value).await })
            })
            .collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.expect("a task ends"));
        }
        let won: Vec<_> = results.iter().flatten().collect();
        assert_eq!(won.len(), 1, "{results:?}");
        let lost = StoreError::AlreadyExists { kind: "IPPool", key: key(&name), actual: won[0].revision };
        assert!(results.iter().all(|result| result.is_ok() || *result == Err(lost.clone())));
        assert_eq!(get(store, &name).await.as_ref(), Some(won[0]));
    }
}

/// Tasks that delete the same object at once: one wins.
pub async fn of_racing_deletes_exactly_one_wins(store: &impl Store) {
    let made = create(store, pool("a", 0)).await;
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let (store, revision) = (store.clone(), made.revision);
            tokio::spawn(async move { store.compare_and_delete::<IpPool>(&key("a"), revision).await })
        })
        .collect();
    let mut won = BTreeSet::new();
    for task in tasks {
        match task.await.expect("a task ends") {
            Ok(revision) => assert!(won.insert(revision)),
            Err(StoreError::Conflict { actual: None, .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(won.len(), 1);
}

/// The retry helper: changes made under its feet are seen by the next decision, whatever the kind of change.
pub async fn a_decision_is_made_again_when_the_object_has_changed(store: &impl Store) {
    let made = create(store, pool("a", 1)).await;
    // Rivals, so that decisions are overtaken.
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let add = |pool: &mut IpPool| -> Result<(), String> {
                    pool.spec.priority += 10;
                    Ok(())
                };
                retry::update(&store, &key("a"), add).await.expect("four tasks, twelve tries")
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task ends");
    }
    let changed = get(store, "a").await.expect("it is there");
    assert_eq!((changed.value.spec.priority, &changed.uid), (41, &made.uid));

    let same = retry::update(store, &key("a"), |_: &mut IpPool| Ok::<_, String>(())).await.expect("there");
    assert_eq!(same.revision, changed.revision, "nothing changed, nothing was written");

    let decide = |current: Option<&Versioned<IpPool>>| -> Result<_, String> {
        Ok(if current.is_some() { Decision::Delete(()) } else { Decision::Put(pool("a", 5), ()) })
    };
    let deleted = retry::decide(store, &key("a"), Patience::default(), decide).await.expect("there");
    assert!(matches!(deleted, Outcome::Deleted(..)), "{deleted:?}");
    let put = retry::decide(store, &key("a"), Patience::default(), decide).await.expect("absent");
    assert!(matches!(put, Outcome::Put(..)), "{put:?}");
}

/// The retry helper: an object that changes under every try ends in the conflict; refusals and absence are
/// the caller's to hear.
pub async fn tries_are_bounded_and_refusals_change_nothing(store: &impl Store) {
    let made = create(store, pool("a", 1)).await;
    let refused = retry::update(store, &key("a"), |_: &mut IpPool| Err("no")).await;
    assert_eq!(refused, Err(RetryError::Refused("no")));
    let absent = retry::update(store, &key("b"), |_: &mut IpPool| Ok::<_, String>(())).await;
    let not_found = StoreError::NotFound { operation: "update", kind: "IPPool", key: key("b") };
    assert_eq!(absent, Err(RetryError::Store(not_found)));
    assert_eq!(get(store, "a").await, Some(made));

    let patience = Patience { max_tries: 3, first_pause: Duration::ZERO, longest_pause: Duration::ZERO };
    let mut tries = 0;
    let absent = key("absent");
    let hopeless = retry::decide(store, &absent, patience, |current: Option<&Versioned<IpPool>>| {
        assert_eq!(current, None);
        tries += 1;
        // Creates an object that exists, so every try loses.
        Ok::<_, String>(Decision::Put(pool("a", 0), ()))
    });
    let error = hopeless.await.expect_err("it exists");
    assert!(
        matches!(&error, RetryError::Exhausted { last: StoreError::AlreadyExists { .. }, .. }),
        "{error}"
    );
    assert_eq!(tries, patience.max_tries);
}
