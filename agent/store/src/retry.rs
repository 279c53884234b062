//! The one place that retries: fetch, decide, apply by compare-and-swap, and on a conflict again.
//!
//! What a write was answered is never guessed: when the store does not answer one, the error goes to the
//! caller, because deciding again might make the change twice.

use std::time::Duration;

use crate::interface::{Store, StoreError};
use crate::key::Key;
use crate::resource::Resource;
use crate::versioned::{Revision, Versioned};

/// How often and how patiently to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Tries in all; at least one is made.
    pub max_tries: u32,
    /// The longest pause after the first failure; it doubles with each further one. The pause itself is
    /// random between nothing and that, so that writers of one object spread out.
    pub first_pause: Duration,
    /// What the doubling ends at.
    pub longest_pause: Duration,
}

impl Default for Patience {
    /// Twelve tries within some ten seconds at the very most.
    fn default() -> Self {
        Self { max_tries: 12, first_pause: Duration::from_millis(5), longest_pause: Duration::from_secs(1) }
    }
}

impl Patience {
    /// The longest pause after the `failed`th failure, counted from 0.
    fn pause_ceiling(&self, failed: u32) -> Duration {
        let doubled = self.first_pause.saturating_mul(1u32.checked_shl(failed).unwrap_or(u32::MAX));
        doubled.min(self.longest_pause)
    }
}

/// What is to be done about an object, and what the caller wants to know of the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<R, T> {
    /// Create it, or replace what was looked at.
    Put(R, T),
    /// Delete what was looked at. Nothing is done if there was nothing.
    Delete(T),
    /// Leave it.
    Keep(T),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<R, T> {
    /// Created or replaced: the object as it is now.
    Put(Versioned<R>, T),
    /// Deleted, at this revision.
    Deleted(Revision, T),
    /// Nothing.
    Kept(T),
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetryError<E> {
    /// The decision was to refuse.
    #[error("{0}")]
    Refused(E),
    /// The store did not answer: a write may have been made, or may be made later; reads were tried as often as
    /// patience allows.
    #[error(transparent)]
    Unavailable(StoreError),
    /// Others kept changing the object until the tries were used up. Nothing was written.
    #[error("given up after {tries} tries: {last}")]
    Exhausted {
        /// How many.
        tries: u32,
        /// What the last one met.
        last: StoreError,
    },
    /// The store failed in a way that trying again does not mend.
    #[error(transparent)]
    Store(StoreError),
}

impl<E> From<StoreError> for RetryError<E> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } => Self::Unavailable(error),
            error => Self::Store(error),
        }
    }
}

/// Counts tries and pauses between them: the one place that does.
#[derive(Debug)]
pub struct Tries {
    patience: Patience,
    failed: u32,
}

impl Tries {
    /// None made yet.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self { patience, failed: 0 }
    }

    /// After a try that failed for this reason: pauses, if another one is to be made.
    ///
    /// # Errors
    /// [`RetryError::Exhausted`] or [`RetryError::Unavailable`], by the reason, when patience is at its end.
    pub async fn again<S: Store, E>(&mut self, store: &S, reason: StoreError) -> Result<(), RetryError<E>> {
        self.failed += 1;
        if self.failed >= self.patience.max_tries {
            return Err(match reason {
                StoreError::Unavailable { .. } => RetryError::Unavailable(reason),
                last => RetryError::Exhausted { tries: self.failed, last },
            });
        }
        tokio::time::sleep(jitter(store.random(), self.patience.pause_ceiling(self.failed - 1))).await;
        Ok(())
    }
}

/// Fetches an object (or its absence), lets `decide` decide, and applies that by compare-and-swap.
///
/// `decide` may be called several times, each time with the newest state, and must be pure: only the last call
/// counts. A conflict, a lost race to create, and a read that found the store unavailable are tried again.
///
/// # Errors
/// [`RetryError::Refused`] with what `decide` said; otherwise the store's last word, by kind.
pub async fn decide<S, R, T, E, D>(
    store: &S,
    key: &Key,
    patience: Patience,
    mut decide: D,
) -> Result<Outcome<R, T>, RetryError<E>>
where
    S: Store,
    R: Resource,
    T: Send,
    E: Send,
    D: FnMut(Option<&Versioned<R>>) -> Result<Decision<R, T>, E> + Send,
{
    let mut tries = Tries::new(patience);
    loop {
        let reason = match store.get::<R>(key).await {
            Ok(current) => {
                let decision = decide(current.as_ref()).map_err(RetryError::Refused)?;
                match apply(store, key, current.map(|current| current.revision), decision).await {
                    Err(error @ (StoreError::Conflict { .. } | StoreError::AlreadyExists { .. })) => error,
                    other => return Ok(other?),
                }
            }
            Err(error @ StoreError::Unavailable { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        tries.again(store, reason).await?;
    }
}

/// Changes an object that exists; see [`decide`]. Nothing is written if `change` changes nothing.
///
/// # Errors
/// [`StoreError::NotFound`] if there is none; otherwise as [`decide`].
pub async fn update<S, R, E, C>(store: &S, key: &Key, mut change: C) -> Result<Versioned<R>, RetryError<E>>
where
    S: Store,
    R: Resource,
    E: Send,
    C: FnMut(&mut R) -> Result<(), E> + Send,
{
    let done = decide(store, key, Patience::default(), |current: Option<&Versioned<R>>| {
        let Some(current) = current else { return Ok(Decision::Keep(None)) };
        let mut value = current.value.clone();
        change(&mut value)?;
        if value == current.value {
            return Ok(Decision::Keep(Some(current.clone())));
        }
        Ok(Decision::Put(value, None))
    });
    match done.await? {
        Outcome::Put(object, _) | Outcome::Kept(Some(object)) => Ok(object),
        Outcome::Kept(None) | Outcome::Deleted(..) => {
            Err(StoreError::NotFound { operation: "update", kind: R::KIND, key: key.clone() }.into())
        }
    }
}

async fn apply<S: Store, R: Resource, T: Send>(
    store: &S,
    key: &Key,
    current: Option<Revision>,
    decision: Decision<R, T>,
) -> Result<Outcome<R, T>, StoreError> {
    match (decision, current) {
        (Decision::Put(value, told), None) => Ok(Outcome::Put(store.create(value).await?, told)),
        (Decision::Put(value, told), Some(expected)) => {
            Ok(Outcome::Put(store.compare_and_swap(expected, value).await?, told))
        }
        (Decision::Delete(told), Some(expected)) => {
            Ok(Outcome::Deleted(store.compare_and_delete::<R>(key, expected).await?, told))
        }
        (Decision::Delete(told) | Decision::Keep(told), _) => Ok(Outcome::Kept(told)),
    }
}

/// Random between nothing and `ceiling`.
fn jitter(random: u64, ceiling: Duration) -> Duration {
    let ceiling_ns = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random % ceiling_ns.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let patience = Patience::default();
        let ceilings_ms: Vec<_> = (0..10).map(|failed| patience.pause_ceiling(failed).as_millis()).collect();
        assert_eq!(ceilings_ms, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(patience.pause_ceiling(u32::MAX), patience.longest_pause);
    }

    #[test]
    fn pauses_are_spread_below_their_ceiling() {
        let ceiling = Duration::from_millis(100);
        let store = crate::memory::MemoryStore::new(1);
        let pauses: Vec<_> = (0..200).map(|_| jitter(store.random(), ceiling)).collect();
        assert!(pauses.iter().all(|pause| *pause < ceiling));
        assert!(
            pauses.iter().any(|pause| *pause < ceiling / 4)
                && pauses.iter().any(|pause| *pause > ceiling / 4 * 3)
        );
        assert_eq!(jitter(store.random(), Duration::ZERO), Duration::ZERO);
    }
}
