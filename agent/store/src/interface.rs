//! What every implementation of the cluster store gives, and how it fails.

use std::future::Future;

use model::NodeName;

use crate::event::Watch;
use crate::key::Key;
use crate::resource::{Pod, Resource};
use crate::versioned::{Revision, Versioned};

/// The cluster store: the one place that nodes agree through.
///
/// Every change of one object is atomic and ordered with every other by its [`Revision`]; there is no
/// transaction over several objects, because the Kubernetes API has none. Handles are cheap to clone and
/// share one store. Reads are consistent: they see every change that was answered before they began.
///
/// A future that is dropped before it ends may or may not have made its change.
pub trait Store: Clone + Send + Sync + 'static {
    /// Creates the object if there is none under its key. The store gives it a uid if it has none.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] with the revision of the one that is there.
    fn create<R: Resource>(&self, value: R) -> impl Future<Output = Result<Versioned<R>, StoreError>> + Send;

    /// Reads one object; `None` if there is none.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get<R: Resource>(
        &self,
        key: &Key,
    ) -> impl Future<Output = Result<Option<Versioned<R>>, StoreError>> + Send;

    /// Replaces the object under the value's key if its revision is still `expected`.
    ///
    /// The uid stays: a value without one gets the stored one back, a value with another is refused. A replacement by
    /// the same is a change as well: no write that expects an earlier revision is made after it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] with the revision that is there, or none.
    fn compare_and_swap<R: Resource>(
        &self,
        expected: Revision,
        value: R,
    ) -> impl Future<Output = Result<Versioned<R>, StoreError>> + Send;

    /// Replaces the status of the object under the value's key if its revision is still `expected`; nothing else of
    /// the value counts.
    ///
    /// For kinds that have a status. [`Store::compare_and_swap`] may leave the stored status as it is: where others
    /// than those who write the object write its status, rights can be given apart.
    ///
    /// # Errors
    /// As [`Store::compare_and_swap`].
    fn compare_and_swap_status<R: Resource>(
        &self,
        expected: Revision,
        value: R,
    ) -> impl Future<Output = Result<Versioned<R>, StoreError>> + Send {
        self.compare_and_swap(expected, value)
    }

    /// Deletes the object if its revision is still `expected`; gives the revision of the deletion.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] with the revision that is there, or none.
    fn compare_and_delete<R: Resource>(
        &self,
        key: &Key,
        expected: Revision,
    ) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// All objects of the kind in order of key, and the revision at which this was all there was.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list<R: Resource>(&self) -> impl Future<Output = Result<List<R>, StoreError>> + Send;

    /// As [`Store::list`], handed over a page at a time, so that a kind with very many objects is never in memory at
    /// once. The revision at which this was all there was; after an error, the pages handed over count for nothing.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list_pages<R: Resource>(
        &self,
        mut take: impl FnMut(Vec<Versioned<R>>) + Send,
    ) -> impl Future<Output = Result<Revision, StoreError>> + Send {
        async move {
            let List { items, revision } = self.list::<R>().await?;
            take(items);
            Ok(revision)
        }
    }

    /// Every change of the kind after `from`, in order, each once: with the revision of a [`List`], exactly
    /// what the list does not hold yet.
    ///
    /// The stream ends only after an error; dropping it ends the watch. It keeps the store open.
    ///
    /// # Errors
    /// [`StoreError::Expired`], here or as the stream's last item: changes after `from` are no longer kept, or
    /// `from` lies in a future of this store (it went back). List again and watch from there.
    fn watch<R: Resource>(&self, from: Revision)
    -> impl Future<Output = Result<Watch<R>, StoreError>> + Send;

    /// Pods that are bound to a node. [`Store::list`] may know those of this node only.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list_pods_on(
        &self,
        node: &NodeName,
    ) -> impl Future<Output = Result<Vec<Versioned<Pod>>, StoreError>> + Send {
        let node = node.clone();
        async move {
            let mut pods = self.list::<Pod>().await?.items;
            pods.retain(|pod| pod.value.spec.node_name == node.as_str());
            Ok(pods)
        }
    }

    /// How many NetworkPolicies there are, which are enforced by nobody here.
    ///
    /// # Errors
    /// It cannot be found out now.
    fn count_network_policies(&self) -> impl Future<Output = Result<NetworkPolicies, StoreError>> + Send {
        async { Ok(NetworkPolicies::NotKept) }
    }

    /// Whether the store answers, as far as is known without asking it.
    fn contact(&self) -> Contact {
        Contact::Answers
    }

    /// A random number, for pauses between tries: whoever needs runs that can be repeated gives its own.
    fn random(&self) -> u64 {
        uuid::Uuid::new_v4().as_u64_pair().1
    }
}

/// Whether a store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contact {
    /// It did when it was asked last.
    Answers,
    /// It does not.
    Lost {
        /// For how long.
        elapsed: std::time::Duration,
        /// What came instead of the last answer.
        reason: String,
    },
}

/// What is known of NetworkPolicies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkPolicies {
    /// So many are there.
    Count(u64),
    /// We have no right to look.
    MayNotLook,
    /// The store keeps none.
    NotKept,
}

/// All objects of a kind at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<R> {
    /// In order of key.
    pub items: Vec<Versioned<R>>,
    /// The moment: watch from here.
    pub revision: Revision,
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The object is not in the state the caller expected: read it again and decide again.
    #[error(
        "{operation} {kind} {key}: expected revision {expected}, but {}",
        actual.map_or_else(|| "it does not exist".to_owned(), |actual| format!("it is at {actual}"))
    )]
    Conflict {
        /// What was asked.
        operation: &'static str,
        /// The kind of object.
        kind: &'static str,
        /// Its key.
        key: Key,
        /// What the caller expected.
        expected: Revision,
        /// What is there; `None` if nothing is.
        actual: Option<Revision>,
    },
    /// There is an object under this key already.
    #[error("create {kind} {key}: it exists already, at revision {actual}")]
    AlreadyExists {
        /// The kind of object.
        kind: &'static str,
        /// Its key.
        key: Key,
        /// The revision of the one that is there.
        actual: Revision,
    },
    /// There is no object under this key.
    #[error("{operation} {kind} {key}: it does not exist")]
    NotFound {
        /// What was asked.
        operation: &'static str,
        /// The kind of object.
        kind: &'static str,
        /// Its key.
        key: Key,
    },
    /// The history asked for is not kept, or never was: list again.
    #[error("watch {kind}: cannot go on from revision {from}: history is kept from {oldest} to {newest}")]
    Expired {
        /// The kind of object.
        kind: &'static str,
        /// Where the watch was to go on from.
        from: Revision,
        /// The oldest revision a watch can go on from.
        oldest: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The store cannot be reached now. A read may be tried again; a write may or may not have been made, or
    /// may still be, and is settled only by a later compare-and-swap of the same object.
    #[error("{operation} {kind} {key}: the store is not available: {reason}")]
    Unavailable {
        /// What was asked.
        operation: &'static str,
        /// The kind of object.
        kind: &'static str,
        /// The object's key, or `(all)`.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The store, or an object in it, is broken; the same again fails again.
    #[error("{operation} {kind} {key}: {reason}")]
    Internal {
        /// What was asked.
        operation: &'static str,
        /// The kind of object.
        kind: &'static str,
        /// The object's key, or `(all)`.
        key: String,
        /// What is wrong.
        reason: String,
    },
}
