//! Namespaces as they were after a pod of theirs had appeared on this node.
//!
//! A copy kept by a watch may be from before a namespace was annotated, and a pool that was chosen by it would be the
//! wrong one for as long as the pod lives. So when a pod first appears here, its namespace is read live, off the way of
//! its ADD. Whether what is known is good enough is decided in `ipam` (rule 8 of `docs/design/ipam.md`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use store::resource::{Namespace, Pod};
use store::{Key, Store, StoreError, Versioned};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Node;
use crate::journal::{FreshRecord, ObjectRecord};

/// What was read, by pod. One for each agent; entries go with their pods.
#[derive(Debug, Default)]
pub struct Fresh {
    /// The pod's uid, and its namespace; `None`: there was none.
    by_pod: Mutex<BTreeMap<Key, Entry>>,
    changed: Notify,
}

type Entry = (String, Option<Versioned<Namespace>>);

impl Fresh {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespace as read after this pod had appeared; the outer `None`: not read yet.
    #[must_use]
    pub fn namespace(&self, pod: &Key, uid: &str) -> Option<Option<Versioned<Namespace>>> {
        self.lock().get(pod).filter(|(read_for, _)| read_for == uid).map(|(_, namespace)| namespace.clone())
    }
}

impl Fresh {
    /// Remembers what was read after this pod had appeared.
    pub fn note(&self, pod: Key, uid: String, namespace: Option<Versioned<Namespace>>) {
        self.lock().insert(pod, (uid, namespace));
        self.changed.notify_one();
    }

    /// Ready when something was noted since it was last waited for. For one task.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All of it, to be written down.
    #[must_use]
    pub fn records(&self) -> Vec<FreshRecord> {
        let record = |(pod, (uid, namespace)): (&Key, &Entry)| FreshRecord {
            pod: pod.to_string(),
            uid: uid.clone(),
            namespace: namespace.as_ref().map(ObjectRecord::from),
        };
        self.lock().iter().map(record).collect()
    }
}

impl<S: Store> Node<S> {
    /// Reads a pod's namespace live and remembers it for that pod.
    ///
    /// # Errors
    /// The store fails.
    pub async fn read_namespace(&self, pod: &Key, uid: &str, namespace: &Key) -> Result<(), StoreError> {
        let read = self.store.get::<Namespace>(namespace).await?;
        self.fresh.note(pod.clone(), uid.to_owned(), read);
        Ok(())
    }

    /// Reads the namespace of every pod that appears, until `stop` fires.
    pub async fn follow_freshness(&self, stop: &CancellationToken) {
        let mut pods = self.world.pods.changes();
        loop {
            self.refresh_namespaces().await;
            if !matches!(stop.run_until_cancelled(pods.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    }

    async fn refresh_namespaces(&self) {
        let pods: Vec<(Key, Versioned<Pod>)> =
            self.world.pods.read().iter().map(|(key, pod)| (key.clone(), pod.clone())).collect();
        {
            let mut fresh = self.fresh.lock();
            fresh.retain(|key, (uid, _)| pods.iter().any(|(known, pod)| known == key && pod.uid == *uid));
        }
        for (key, pod) in pods {
            let node = &pod.value.spec.node_name;
            let elsewhere = !node.is_empty() && node != self.config.node_name.as_str();
            if elsewhere || self.fresh.namespace(&key, &pod.uid).is_some() {
                continue;
            }
            let Ok(namespace) = Key::named(&pod.value.metadata.namespace) else { continue };
            if let Err(error) = self.read_namespace(&key, &pod.uid, &namespace).await {
                warn!(pod = %key, %error, "its namespace is read when its ADD comes");
            }
        }
    }
}
