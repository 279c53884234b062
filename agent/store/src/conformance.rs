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

/// What an implementation says of itself beyond the interface.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// How many changes it keeps for watchers, at least 64; `None` where that is not a number of changes.
    pub history_len: Option<u64>,
    /// A uid that an object comes with is kept. Otherwise the store always gives its own.
    pub keeps_given_uids: bool,
    /// Namespaces and Pods can be written. Otherwise they are another's.
    pub writes_core_kinds: bool,
    /// A deletion is one change, and shows the object as it was last seen. Otherwise the store may have taken its own
    /// mark off first, and the object shows the deletion's revision.
    pub deletes_in_one_change: bool,
}

impl Promises {
    /// The stores of this crate that keep their own history.
    #[must_use]
    pub fn with_history(history_len: u64) -> Self {
        assert!(history_len >= 64, "the checks below make up to 64 changes before they read them");
        Self {
            history_len: Some(history_len),
            keeps_given_uids: true,
            writes_core_kinds: true,
            deletes_in_one_change: true,
        }
    }
}

/// Runs every check, each on an empty store that `fresh` makes.
pub async fn run_all<S, F>(promises: Promises, mut fresh: impl FnMut() -> F)
where
    S: Store,
    F: Future<Output = S>,
{
    an_object_is_created_once(&fresh().await).await;
    a_stale_or_absent_object_is_not_replaced(&fresh().await).await;
    a_replacement_by_the_same_voids_what_was_sent_before(&fresh().await).await;
    a_stale_or_absent_object_is_not_deleted(&fresh().await).await;
    a_uid_stays_for_the_life_of_an_object(&fresh().await, promises).await;
    kinds_are_kept_apart(&fresh().await).await;
    if promises.writes_core_kinds {
        namespaces_are_kept_apart(&fresh().await).await;
    }
    revisions_grow_over_all_objects(&fresh().await).await;
    a_watch_from_a_list_brings_exactly_what_followed(&fresh().await, promises).await;
    a_watch_of_one_kind_is_not_disturbed_by_another(&fresh().await).await;
    a_watch_waits_and_wakes(&fresh().await).await;
    a_watch_from_the_future_is_refused(&fresh().await).await;
    if let Some(history_len) = promises.history_len {
        history_that_is_gone_is_said_to_be_gone(&fresh().await, history_len).await;
        a_watch_that_falls_behind_is_told(&fresh().await, history_len).await;
    }
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

fn reservation(name: &str) -> IpReservation {
    IpReservation { metadata: Metadata::named(name), ..IpReservation::default() }
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

/// Whoever swaps has voided every write that expects what was there, also when nothing else changes.
pub async fn a_replacement_by_the_same_voids_what_was_sent_before(store: &impl Store) {
    let mut current = create(store, pool("a", 1)).await;
    for _ in 0..3 {
        let same = soon("replace", store.compare_and_swap(current.revision, current.value.clone())).await;
        assert!(same.revision > current.revision);
        assert_eq!((&same.value, &same.uid), (&current.value, &current.uid));
        let delayed = store.compare_and_swap(current.revision, pool("a", 2)).await;
        assert!(matches!(delayed, Err(StoreError::Conflict { actual, .. }) if actual == Some(same.revision)));
        current = same;
    }
    assert_eq!(get(store, "a").await, Some(current));
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

/// A uid that was given is kept where the store says so, a replacement keeps it, and another one is refused.
pub async fn a_uid_stays_for_the_life_of_an_object(store: &impl Store, promises: Promises) {
    let mut named = pool("a", 1);
    named.metadata.uid = "uid-of-mine".to_owned();
    let first = create(store, named).await;
    assert_eq!(first.uid, first.value.metadata.uid);
    assert!(!promises.keeps_given_uids || first.uid == "uid-of-mine");
    let second = soon("replace", store.compare_and_swap(first.revision, pool("a", 2))).await;
    assert_eq!((&second.uid, &second.value.metadata.uid), (&first.uid, &first.uid));
    let mut other = pool("a", 3);
    other.metadata.uid = "uid-of-another".to_owned();
    let refused = store.compare_and_swap(second.revision, other).await;
    assert!(matches!(refused, Err(StoreError::Internal { .. })), "{refused:?}");
    assert_eq!(get(store, "a").await, Some(second));
    assert_ne!(create(store, pool("b", 1)).await.uid, create(store, pool("c", 1)).await.uid);
}

/// The same name in another kind is another object; lists hold one kind, in order; names are checked.
pub async fn kinds_are_kept_apart(store: &impl Store) {
    create(store, pool("a", 1)).await;
    for name in ["b", "a", "a-b", "a.b"] {
        create(store, reservation(name)).await;
    }
    let reservations = soon("list", store.list::<IpReservation>()).await.items;
    let names: Vec<&str> = reservations.iter().map(|object| object.value.metadata.name.as_str()).collect();
    assert_eq!(names, ["a", "a-b", "a.b", "b"]);
    assert_eq!(soon("list", store.list::<IpPool>()).await.items.len(), 1);
    soon("delete", store.compare_and_delete::<IpReservation>(&key("a"), reservations[0].revision)).await;
    assert!(get(store, "a").await.is_some(), "the pool of that name is another object");
    assert_eq!(soon("list", store.list::<IpReservation>()).await.items, reservations[1..]);
    let nameless = store.create(pool("", 1)).await;
    assert!(matches!(nameless, Err(StoreError::Internal { .. })), "{nameless:?}");
    let stray = store.create(IpPool { metadata: pod("a", "b").metadata, ..pool("b", 1) }).await;
    assert!(matches!(stray, Err(StoreError::Internal { .. })), "{stray:?}");
}

/// The same name in another namespace is another object, in lists by namespace and name.
pub async fn namespaces_are_kept_apart(store: &impl Store) {
    let names = |list: Vec<Versioned<Pod>>| -> Vec<String> {
        list.iter()
            .map(|pod| format!("{}/{}", pod.value.metadata.namespace, pod.value.metadata.name))
            .collect()
    };
    create(store, Namespace { metadata: Metadata::named("a") }).await;
    for (namespace, name) in [("b", "a"), ("a", "b"), ("a", "a"), ("a-b", "a")] {
        create(store, pod(namespace, name)).await;
    }
    let pods = soon("list", store.list::<Pod>()).await;
    assert_eq!(names(pods.items), ["a-b/a", "a/a", "a/b", "b/a"]);
    let web = soon("get", store.get::<Pod>(&key("a/b"))).await.expect("it was created");
    soon("delete", store.compare_and_delete::<Pod>(&key("a/b"), web.revision)).await;
    assert_eq!(names(soon("list", store.list::<Pod>()).await.items), ["a-b/a", "a/a", "b/a"]);
}

/// One number over all kinds: strictly growing, and a list carries at least the newest it has seen.
pub async fn revisions_grow_over_all_objects(store: &impl Store) {
    let mut newest = soon("list", store.list::<IpPool>()).await.revision;
    for i in 0..5 {
        let pool = create(store, pool(&format!("p{i}"), i)).await;
        assert!(pool.revision > newest);
        let other = create(store, reservation(&format!("p{i}"))).await;
        assert!(other.revision > pool.revision);
        newest = soon("list", store.list::<IpPool>()).await.revision;
        assert!(newest >= other.revision);
    }
}

/// What the list holds is not repeated, what came after it is not missed, deletions carry the last state.
pub async fn a_watch_from_a_list_brings_exactly_what_followed(store: &impl Store, promises: Promises) {
    let kept = create(store, pool("kept", 1)).await;
    let doomed = create(store, pool("doomed", 1)).await;
    let list = soon("list", store.list::<IpPool>()).await;
    assert_eq!(list.items, [doomed.clone(), kept.clone()]);

    let changed = soon("replace", store.compare_and_swap(kept.revision, pool("kept", 2))).await;
    let deleted = soon("delete", store.compare_and_delete::<IpPool>(&key("doomed"), doomed.revision)).await;
    let mut watch = soon("watch", store.watch::<IpPool>(list.revision)).await;
    let added = create(store, pool("added", 3)).await;

    assert_eq!(next(&mut watch).await, Event::Put(changed));
    let mut event = next(&mut watch).await;
    if promises.deletes_in_one_change {
        assert_eq!(event, Event::Delete { last: doomed, revision: deleted });
    } else {
        if matches!(event, Event::Put(_)) {
            assert_eq!(event.object().uid, doomed.uid, "of the doomed object, a mark was taken off");
            event = next(&mut watch).await;
        }
        let Event::Delete { last, revision } = &event else { panic!("expected a deletion: {event:?}") };
        assert_eq!((&last.uid, &last.value.spec, *revision), (&doomed.uid, &doomed.value.spec, deleted));
    }
    assert_eq!(next(&mut watch).await, Event::Put(added.clone()));
    assert!(watch.next().now_or_never().is_none(), "nothing else happened");

    let mut from_end = soon("watch", store.watch::<IpPool>(added.revision)).await;
    assert!(from_end.next().now_or_never().is_none(), "nothing happened since");
}

/// Changes of other kinds are passed over.
pub async fn a_watch_of_one_kind_is_not_disturbed_by_another(store: &impl Store) {
    let from = soon("list", store.list::<IpReservation>()).await.revision;
    let mut watch = soon("watch", store.watch::<IpReservation>(from)).await;
    for i in 0..10 {
        create(store, pool(&format!("p{i}"), i)).await;
    }
    let made = create(store, reservation("a")).await;
    assert_eq!(next(&mut watch).await, Event::Put(made));
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

/// Watching from a revision that never was fails at once: the store went back.
pub async fn a_watch_from_the_future_is_refused(store: &impl Store) {
    create(store, pool("a", 0)).await;
    let newest = soon("list", store.list::<IpPool>()).await.revision;
    // Far enough for a store that changes by itself.
    let refused = store.watch::<IpPool>(Revision::new(newest.get() + 100_000)).await;
    assert!(matches!(refused, Err(StoreError::Expired { .. })), "that is in the future");
}

/// Watching from before the kept history fails at once.
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
            // Nothing is there, or what the winner has just begun to delete.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((won.len(), get(store, "a").await), (1, None));
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
