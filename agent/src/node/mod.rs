//! The node: what it knows (`world`), what it has given to whom (`ledger`), and how the kernel is kept in step.

pub mod admission;
mod announce;
pub mod attend;
pub mod blocks;
pub mod conditions;
pub mod environment;
pub mod freshness;
pub mod gate;
pub mod inner;
pub mod ledger;
pub mod memory;
pub mod mirror;
pub mod nodes;
pub mod pod;
pub mod policies;
pub mod publish;
pub mod reconcile;
pub mod remote;
pub mod retire;
pub mod start;
pub mod upkeep;
mod view;
pub mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataplane::Dataplane;
use model::BootTime;
use store::Store;

use crate::config::Config;
use environment::Environment;
use gate::Gates;
use ledger::Ledger;
use reconcile::Reconciler;
use world::World;

/// How many leaks that were removed are told of.
const LEAKS_TOLD_COUNT: usize = 8;

/// Everything that serves requests of this node. One for each agent, shared by all its tasks.
#[derive(Debug)]
pub struct Node<S> {
    /// Time and randomness, and where kernel work runs.
    pub environment: Environment,
    /// The checked configuration.
    pub config: Config,
    /// The cluster store.
    pub store: S,
    /// Copies of its objects.
    pub world: Arc<World>,
    /// The kernel.
    pub dataplane: Arc<Dataplane>,
    /// Keeps the kernel in step.
    pub reconciler: Reconciler,
    /// The order of requests of each handle.
    pub gates: Gates,
    ledger: Arc<Mutex<Ledger>>,
    /// Namespaces as they were read after a pod of theirs had appeared.
    pub fresh: freshness::Fresh,
    /// One look at a block at a time: two ADDs that need a block want the same one.
    attending: tokio::sync::Mutex<()>,
    upkeep_wanted: tokio::sync::Notify,
    /// Told of everything that is noted of blocks and loans; wakes in the order in which they came those who wait.
    progress: tokio::sync::Notify,
    /// Why the node has no address of its own, if it should.
    inner_trouble: Mutex<inner::Trouble>,
    /// What was last found of NetworkPolicies.
    policies: Mutex<Option<store::NetworkPolicies>>,
    /// The last leaks that were removed, for people.
    leaks: Mutex<std::collections::VecDeque<String>>,
    /// One deletion of pools at a time.
    retiring: tokio::sync::Mutex<()>,
}

impl<S: Store> Node<S> {
    /// The ledger. Held for microseconds, never across a wait.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_inner_trouble(&self) -> MutexGuard<'_, inner::Trouble> {
        self.inner_trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the node has no address of its own, if it should.
    pub fn inner_trouble(&self) -> inner::Trouble {
        *self.lock_inner_trouble()
    }

    /// Remembers a leak that was removed.
    pub fn note_leak(&self, told: String) {
        let mut leaks = self.leaks.lock().unwrap_or_else(PoisonError::into_inner);
        leaks.truncate(LEAKS_TOLD_COUNT - 1);
        leaks.push_front(told);
    }

    /// The last leaks that were removed, the latest first.
    pub fn leaks(&self) -> Vec<String> {
        self.leaks.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Ready as soon as anything is noted of blocks and loans after this call.
    pub fn progressed(&self) -> tokio::sync::futures::Notified<'_> {
        self.progress.notified()
    }

    /// Now, by this machine's clock.
    pub fn now(&self) -> BootTime {
        self.environment.clock.now()
    }

    /// Runs kernel work, which is synchronous, off the asynchronous threads.
    ///
    /// # Errors
    /// The work panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        self.environment.kernel_work.run(work).await
    }
}
