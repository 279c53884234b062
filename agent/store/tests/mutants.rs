//! The conformance suite catches stores that are wrong in one thing each.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, StreamExt as _, stream};
use poolward_store::conformance::Promises;
use poolward_store::memory::MemoryStore;
use poolward_store::resource::Resource;
use poolward_store::{Event, Key, List, Revision, Store, StoreError, Versioned, Watch, conformance};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mutant {
    Faithful,
    CreateReplaces,
    CreateGivesTheSameUidAgain,
    SwapIgnoresTheRevision,
    SwapCreates,
    SwapDropsTheUid,
    DeleteIgnoresTheRevision,
    ListRevisionIsBehind,
    ListRevisionIsAhead,
    ListIsOutOfOrder,
    WatchStartsNow,
    WatchMissesTheFirst,
    WatchRepeats,
    WatchHidesDeletions,
    WatchHidesExpiry,
}

const MUTANTS: [Mutant; 14] = [
    Mutant::CreateReplaces,
    Mutant::CreateGivesTheSameUidAgain,
    Mutant::SwapIgnoresTheRevision,
    Mutant::SwapCreates,
    Mutant::SwapDropsTheUid,
    Mutant::DeleteIgnoresTheRevision,
    Mutant::ListRevisionIsBehind,
    Mutant::ListRevisionIsAhead,
    Mutant::ListIsOutOfOrder,
    Mutant::WatchStartsNow,
    Mutant::WatchMissesTheFirst,
    Mutant::WatchRepeats,
    Mutant::WatchHidesDeletions,
    Mutant::WatchHidesExpiry,
];

/// A right store behind one wrong turn.
#[derive(Clone)]
struct Mutated {
    right: MemoryStore,
    mutant: Mutant,
}

impl Store for Mutated {
    async fn create<R: Resource>(&self, mut value: R) -> Result<Versioned<R>, StoreError> {
        if self.mutant == Mutant::CreateGivesTheSameUidAgain && value.metadata().uid.is_empty() {
            value.metadata_mut().uid = value.metadata().name.clone();
        }
        match self.right.create(value.clone()).await {
            Err(StoreError::AlreadyExists { actual, .. }) if self.mutant == Mutant::CreateReplaces => {
                self.right.compare_and_swap(actual, value).await
            }
            result => result,
        }
    }

    async fn get<R: Resource>(&self, key: &Key) -> Result<Option<Versioned<R>>, StoreError> {
        self.right.get(key).await
    }

    async fn compare_and_swap<R: Resource>(
        &self,
        expected: Revision,
        value: R,
    ) -> Result<Versioned<R>, StoreError> {
        let result = self.right.compare_and_swap(expected, value.clone()).await;
        match (self.mutant, result) {
            (Mutant::SwapIgnoresTheRevision, Err(StoreError::Conflict { actual: Some(actual), .. })) => {
                self.right.compare_and_swap(actual, value).await
            }
            (Mutant::SwapCreates, Err(StoreError::Conflict { actual: None, .. })) => {
                self.right.create(value).await
            }
            (Mutant::SwapDropsTheUid, Ok(object)) => Ok(Versioned { uid: String::new(), ..object }),
            (_, result) => result,
        }
    }

    async fn compare_and_delete<R: Resource>(
        &self,
        key: &Key,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        match self.right.compare_and_delete::<R>(key, expected).await {
            Err(StoreError::Conflict { actual: Some(actual), .. })
                if self.mutant == Mutant::DeleteIgnoresTheRevision =>
            {
                self.right.compare_and_delete::<R>(key, actual).await
            }
            result => result,
        }
    }

    async fn list<R: Resource>(&self) -> Result<List<R>, StoreError> {
        let mut list = self.right.list::<R>().await?;
        let revision = list.revision.get();
        match self.mutant {
            Mutant::ListRevisionIsBehind => list.revision = Revision::new(revision.saturating_sub(1)),
            Mutant::ListRevisionIsAhead => list.revision = Revision::new(revision + 1),
            Mutant::ListIsOutOfOrder => list.items.reverse(),
            _ => {}
        }
        Ok(list)
    }

    async fn watch<R: Resource>(&self, from: Revision) -> Result<Watch<R>, StoreError> {
        let newest = self.right.list::<R>().await?.revision;
        let right = match (self.mutant, self.right.watch::<R>(from).await) {
            (Mutant::WatchStartsNow, _) => self.right.watch(newest).await?,
            (Mutant::WatchHidesExpiry, Err(StoreError::Expired { .. })) => self.right.watch(newest).await?,
            (_, result) => result?,
        };
        Ok(match self.mutant {
            Mutant::WatchMissesTheFirst => right.skip(1).boxed(),
            Mutant::WatchRepeats => right.flat_map(|item| stream::iter([item.clone(), item])).boxed(),
            Mutant::WatchHidesDeletions => {
                right.filter(|item| std::future::ready(!matches!(item, Ok(Event::Delete { .. })))).boxed()
            }
            _ => right,
        })
    }
}

async fn is_caught(mutant: Mutant) -> bool {
    let fresh = async || Mutated { right: MemoryStore::new(64), mutant };
    AssertUnwindSafe(conformance::run_all(Promises::with_history(64), fresh)).catch_unwind().await.is_err()
}

/// Time stands still unless everybody waits, so a change that never comes costs no time to wait for.
#[tokio::test(start_paused = true)]
async fn every_wrong_store_is_caught_and_the_right_one_is_not() {
    assert!(!is_caught(Mutant::Faithful).await);
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        if !is_caught(mutant).await {
            missed.push(mutant);
        }
    }
    assert_eq!(missed, []);
}
