//! The conformance suite on both implementations of this crate, and what only the file can show.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use poolward_store::conformance::Promises;
use poolward_store::embedded::{EmbeddedStore, OpenError, OpenOptions};
use poolward_store::memory::MemoryStore;
use poolward_store::resource::{IpPool, Metadata};
use poolward_store::{Event, Key, Revision, Store, StoreError, Versioned, conformance};

const HISTORY_LEN: u64 = 64;
const OPTIONS: OpenOptions = OpenOptions { history_len: HISTORY_LEN };

fn pool(name: &str, priority: i32) -> IpPool {
    let mut pool = IpPool { metadata: Metadata::named(name), ..IpPool::default() };
    pool.spec.priority = priority;
    pool
}

fn key(name: &str) -> Key {
    Key::named(name).unwrap()
}

async fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path, OPTIONS).await.unwrap()
}

async fn refused(path: &Path) -> OpenError {
    EmbeddedStore::open(path, OPTIONS).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_memory_conforms() {
    conformance::run_all(Promises::with_history(HISTORY_LEN), async || {
        MemoryStore::new(usize::try_from(HISTORY_LEN).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_a_file_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let mut number = 0;
    conformance::run_all(Promises::with_history(HISTORY_LEN), || {
        number += 1;
        let path = dir.path().join(format!("{number}.redb"));
        async move { open(&path).await }
    })
    .await;
}

#[tokio::test]
async fn objects_history_and_revisions_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = open(&path).await;
    let first = store.create(pool("a", 1)).await.unwrap();
    let doomed = store.create(pool("b", 1)).await.unwrap();
    let second = store.compare_and_swap(first.revision, pool("a", 2)).await.unwrap();
    let deleted = store.compare_and_delete::<IpPool>(&key("b"), doomed.revision).await.unwrap();
    drop(store);

    let store = open(&path).await;
    let list = store.list::<IpPool>().await.unwrap();
    assert_eq!((list.items, list.revision), (vec![second.clone()], deleted));
    let mut watch = store.watch::<IpPool>(first.revision).await.unwrap();
    let expected =
        [Event::Put(doomed.clone()), Event::Put(second), Event::Delete { last: doomed, revision: deleted }];
    for event in expected {
        assert_eq!(watch.next().await, Some(Ok(event)));
    }
    let next = store.create(pool("c", 1)).await.unwrap();
    assert!(next.revision > deleted, "revisions go on where they were");
    assert_eq!(watch.next().await, Some(Ok(Event::Put(next))));
}

/// What is on the disk while the store is open is what a crash would leave.
#[tokio::test]
async fn every_answered_change_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (path, crashed) = (dir.path().join("store.redb"), dir.path().join("crashed.redb"));
    let store = open(&path).await;
    for i in 0..20 {
        let made = store.create(pool(&format!("p{i}"), i)).await.unwrap();
        std::fs::copy(&path, &crashed).unwrap();
        let after = open(&crashed).await;
        let list = after.list::<IpPool>().await.unwrap();
        assert_eq!((list.items.len(), list.revision), (usize::try_from(i).unwrap() + 1, made.revision));
        assert_eq!(after.get(&key(&format!("p{i}"))).await.unwrap(), Some(made));
    }
}

/// A writer that is killed at any moment: what it was told is kept, and the file opens. The writer is this
/// test again, in a process of its own.
#[tokio::test]
async fn a_killed_writer_loses_nothing_it_was_told() {
    if let Some(path) = std::env::var_os(FILE_TO_WRITE) {
        write_until_killed(Path::new(&path)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut told = 0;
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_writer_loses_nothing_it_was_told", "--nocapture"])
            .env(FILE_TO_WRITE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut revisions =
            lines.filter_map(|line| line.unwrap().strip_prefix("revision ")?.parse::<u64>().ok());
        told = revisions.nth(10 + 7 * round).unwrap();
        child.kill().unwrap();
        told = revisions.last().unwrap_or(told);
        child.wait().unwrap();
        let newest = open(&path).await.list::<IpPool>().await.unwrap().revision.get();
        assert!(newest >= told, "told {told}, found {newest}");
    }
    assert!(told > 40, "every round went on from the one before");
}

const FILE_TO_WRITE: &str = "POOLWARD_STORE_TEST_FILE";

async fn write_until_killed(path: &Path) -> ! {
    let store = open(path).await;
    let mut revision = store.list::<IpPool>().await.unwrap().revision;
    loop {
        revision = store.create(pool(&format!("p{revision}"), 0)).await.unwrap().revision;
        println!("\nrevision {revision}");
    }
}

#[tokio::test]
async fn a_file_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = open(&path).await;
    let error = refused(&path).await;
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("store.redb: another process has it open"), "{error}");
    let watch = store.watch::<IpPool>(Revision::ZERO).await.unwrap();
    drop(store);
    assert!(matches!(refused(&path).await, OpenError::Locked { .. }), "a watch keeps the store open");
    drop(watch);
    open(&path).await;
}

#[tokio::test]
async fn racing_first_openers_share_no_file_and_break_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let openers: Vec<_> = (0..4)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move { EmbeddedStore::open(&path, OPTIONS).await })
        })
        .collect();
    let mut open = Vec::new();
    for opener in openers {
        match opener.await.unwrap() {
            Ok(store) => open.push(store),
            Err(error) => assert!(matches!(error, OpenError::Locked { .. }), "{error}"),
        }
    }
    assert!(open.len() <= 1);
    drop(open);
    self::open(&path).await.create(pool("a", 1)).await.unwrap();
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["store.redb"]);
}

#[tokio::test]
async fn foreign_files_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let check = async |name: &str, content: &[u8], expected: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = refused(&path).await.to_string();
        assert!(error.contains(name) && error.contains(expected), "{error}");
        assert!(error.ends_with("; give another path, or move the file away"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content, "{name}");
    };
    check("text", b"pools:\n- a\n", "the file is not a store of Poolward").await;
    check("long-text", &b"x".repeat(100_000), "the file is not a store of Poolward").await;
    check("empty", b"", "the file is empty").await;
    check("sqlite", &[b"SQLite format 3\0".as_slice(), &[0; 4096]].concat(), "not a store of Poolward").await;

    let other = dir.path().join("other");
    let database = redb::Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let content = std::fs::read(&other).unwrap();
    check("other", &content, "the file is the database of another program").await;

    let error = refused(dir.path()).await.to_string();
    assert!(error.contains("it is not a regular file"), "{error}");
    let error = refused(&dir.path().join("absent/store.redb")).await;
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
}

/// Damage of every sort, at places spread over the file, in a store that was closed and in one that crashed: it is
/// refused with the remedy and left alone, or it hit nothing that is read. Never a panic, never a wrong object.
#[tokio::test]
async fn damaged_files_are_refused_or_read_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = open(&path).await;
    let mut made: Vec<Versioned<IpPool>> = Vec::new();
    for i in 0..30 {
        made.push(store.create(pool(&format!("p{i:02}"), i)).await.unwrap());
    }
    let crashed = std::fs::read(&path).unwrap();
    drop(store);
    let closed = std::fs::read(&path).unwrap();
    assert_ne!(crashed, closed, "closing a store leaves its mark");

    for whole in [&closed, &crashed] {
        let mut refusals = 0;
        for (what, content) in damages(whole) {
            refusals += u32::from(is_refused(&dir.path().join("damaged.redb"), &what, &content, &made).await);
        }
        assert!(refusals > 30, "{refusals} refusals: the damage hit nothing");
    }
}

/// Shorter files, and changes to pages that are in use.
fn damages(whole: &[u8]) -> Vec<(String, Vec<u8>)> {
    const PAGE_LEN: usize = 4096;
    let mut damages = Vec::new();
    for len in [1, 9, 64, PAGE_LEN, whole.len() / 2, whole.len() - PAGE_LEN, whole.len() - 1] {
        damages.push((format!("cut to {len}"), whole[..len].to_vec()));
    }
    for (number, page) in whole.chunks(PAGE_LEN).enumerate() {
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = number * PAGE_LEN;
        for offset in [12, 130, 700, 4090] {
            let mut content = whole.to_vec();
            content[start + offset] ^= 0x40;
            damages.push((format!("page {number}, byte {offset}"), content));
        }
        let mut content = whole.to_vec();
        content[start..start + PAGE_LEN].fill(0);
        damages.push((format!("page {number} zeroed"), content));
    }
    damages
}

async fn is_refused(path: &Path, what: &str, content: &[u8], expected: &[Versioned<IpPool>]) -> bool {
    std::fs::write(path, content).unwrap();
    match EmbeddedStore::open(path, OPTIONS).await {
        Err(error) => {
            assert!(matches!(error, OpenError::Unusable { .. }), "{what}: {error}");
            assert!(error.to_string().contains("damaged.redb"), "{what}: {error}");
            assert!(std::fs::read(path).unwrap() == content, "{what}: the file was changed");
            true
        }
        Ok(store) => match store.list::<IpPool>().await {
            Ok(list) => {
                assert!(list.items == expected, "{what}: {} of {}", list.items.len(), expected.len());
                false
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Internal { .. }), "{what}: {error}");
                true
            }
        },
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_break_the_order_of_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store.redb")).await;
    let mut watch = store.watch::<IpPool>(Revision::ZERO).await.unwrap();
    for i in 0..30 {
        // Whether this change is made is open; that watchers and list agree is not.
        let given_up = store.create(pool(&format!("given-up-{i}"), 0));
        let _ = tokio::time::timeout(Duration::from_micros(50 * i), given_up).await;
    }
    let last = store.create(pool("last", 0)).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let Some(Ok(Event::Put(made))) = watch.next().await else { panic!("the watch broke") };
        seen.push(made);
    }
    let mut list = store.list::<IpPool>().await.unwrap().items;
    list.sort_by_key(|made| made.revision);
    assert_eq!(seen, list);
}
