//! Deletion, with the finalizer, as one operation.
//!
//! In this order:
//!
//! 1. The object is read. If it is not at the revision the caller looked at, that is a conflict.
//! 2. If it carries our finalizer, it is replaced by itself without it, expecting that revision.
//! 3. It is deleted, expecting the uid and the revision that the replacement gave.
//!
//! Why the finalizer goes first: deleting first would mark the object, and a mark cannot be taken back, so that a
//! crash (or a loan request that arrives) in between would leave an object that is doomed and still in use. This way
//! everything up to the last step can be undone by any compare-and-swap, which also gives the finalizer back
//! ([`super::protect`]), and the last step is the only one that decides. Where each crash leaves things, and what
//! another try does:
//!
//! | cut short after | state | the next try |
//! |---|---|---|
//! | 1 | untouched | does everything |
//! | 2 | without the finalizer, at a new revision | reads it, skips 2, deletes |
//! | 3 | gone | finds nothing: a conflict with nothing there, which is what callers take for done |
//!
//! An object that somebody else has deleted already (it is marked) goes with its last finalizer: step 2 ends it. If
//! finalizers of others are left it stays, marked, and the deletion will happen at a time that nobody here knows; to
//! the caller that is a write without an answer.

use futures::StreamExt as _;
use serde_json::json;

use super::follow;
use super::transport::{self, Call, Failure};
use super::{KubernetesStore, conflict, wire};
use crate::event::Event;
use crate::interface::StoreError;
use crate::key::Key;
use crate::resource::{PROTECT_FINALIZER, Resource};
use crate::rules::DELETE;
use crate::versioned::{Revision, Versioned};

impl KubernetesStore {
    /// Asks for an object to be gone, as a person does: it is marked, and goes when whoever holds it lets go. `true` if
    /// nobody held it. Nothing is done if it is another state than `seen`.
    ///
    /// # Errors
    /// As [`crate::Store::compare_and_delete`].
    pub async fn request_deletion<R: Resource>(
        &self,
        key: &Key,
        seen: &Versioned<R>,
    ) -> Result<bool, StoreError> {
        super::refuse_core::<R>(DELETE, key)?;
        if seen.value.metadata().is_being_deleted() {
            return Ok(false);
        }
        delete_now(self, key, seen.revision, seen).await?;
        Ok(seen.value.metadata().finalizers.is_empty())
    }
}

/// Deletes the object if it is at `expected`.
pub(super) async fn exec<R: Resource>(
    store: &KubernetesStore,
    key: &Key,
    expected: Revision,
) -> Result<Revision, StoreError> {
    let there = store.read::<R>(DELETE, key).await?;
    let actual = there.as_ref().map(|there| there.revision);
    let Some(mut object) = there.filter(|there| there.revision == expected) else {
        return Err(conflict::<R>(DELETE, key, expected, actual));
    };
    let marked = object.value.metadata().is_being_deleted();
    if object.value.metadata().is_protected() {
        let last = object.clone();
        let metadata = object.value.metadata_mut();
        metadata.finalizers.retain(|finalizer| finalizer != PROTECT_FINALIZER);
        let ends_here = marked && metadata.finalizers.is_empty();
        let path = wire::object_path::<R>(key);
        object = store.put(DELETE, key, &path, expected, &object.value).await?;
        if ends_here {
            return deletion_of(store, key, &last).await;
        }
    }
    let others = object.value.metadata().finalizers.clone();
    delete_now(store, key, expected, &object).await?;
    if others.is_empty() {
        return deletion_of(store, key, &object).await;
    }
    let reason = format!("it is marked, and stays until others let go of it: {}", others.join(", "));
    Err(Call::of::<R>(DELETE, key.as_str()).unavailable(reason))
}

/// The one step that decides.
async fn delete_now<R: Resource>(
    store: &KubernetesStore,
    key: &Key,
    expected: Revision,
    object: &Versioned<R>,
) -> Result<(), StoreError> {
    let preconditions = json!({"uid": object.uid, "resourceVersion": object.revision.get().to_string()});
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
    let request = transport::delete(&wire::object_path::<R>(key), options.to_string().into_bytes());
    match store.transport.ask(request).await {
        Ok(_) => Ok(()),
        Err(Failure::Refused(status)) if transport::is_absence(&status, key) => {
            Err(conflict::<R>(DELETE, key, expected, None))
        }
        Err(Failure::Refused(status)) if status.code == 409 => {
            let actual = store.revision_there::<R>(DELETE, key).await?;
            Err(conflict::<R>(DELETE, key, expected, actual))
        }
        Err(failure) => Err(Call::of::<R>(DELETE, key.as_str()).failed(failure)),
    }
}

/// At which revision an object that is certainly gone was deleted. The answer to a DELETE does not say; the watch of
/// this one object does. Where it does not answer, a revision after the deletion does as well.
async fn deletion_of<R: Resource>(
    store: &KubernetesStore,
    key: &Key,
    last: &Versioned<R>,
) -> Result<Revision, StoreError> {
    let seen = async {
        let mut events = follow::of_object::<R>(store.clone(), key, last.revision).await.ok()?;
        loop {
            match events.next().await? {
                Ok(Event::Delete { last: gone, revision }) if gone.uid == last.uid => return Some(revision),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    if let Ok(Some(revision)) = tokio::time::timeout(store.transport.timeouts.request, seen).await {
        return Ok(revision);
    }
    follow::newest::<R>(store).await.map_err(|failure| Call::of::<R>(DELETE, key.as_str()).failed(failure))
}
