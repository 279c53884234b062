//! Whether the server's history is still the one that a watcher has seen.
//!
//! A store that was restored from a backup went back. Once it has grown beyond what a watcher saw, its newest revision
//! tells nothing of that any more. What does is the newest change that the watcher knows of: at the watcher's position,
//! its object has to be as that change left it. In another history the revision of that change is somebody else's.
//!
//! It does not say which history is right, and knows no deletion that was made before the list a watch began with.

use super::transport::{self, Failure};
use super::wire::{self, Page};
use super::{KubernetesStore, LIST_MATCH_EXACT};
use crate::resource::Resource;
use crate::versioned::{Revision, Versioned};

/// The newest change of a kind that somebody knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Witness {
    namespace: String,
    name: String,
    /// What it left: the object at this revision; `None`: nothing.
    left: Option<Revision>,
}

/// What a list showed last.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    /// The list's own revision.
    pub(super) revision: Revision,
    /// Its newest object.
    pub(super) newest: Option<Witness>,
}

impl Witness {
    /// An object was written.
    pub(super) fn of_put<R: Resource>(object: &Versioned<R>) -> Self {
        let metadata = object.value.metadata();
        let (namespace, name) = (metadata.namespace.clone(), metadata.name.clone());
        Self { namespace, name, left: Some(object.revision) }
    }

    /// An object was deleted.
    pub(super) fn of_deletion<R: Resource>(last: &Versioned<R>) -> Self {
        Self { left: None, ..Self::of_put(last) }
    }

    /// The newer of the two, of which neither is a deletion.
    pub(super) fn newer(self, other: Self) -> Self {
        if other.left > self.left { other } else { self }
    }

    /// Whether the history of the server at `position` is one with this change in it. What it no longer keeps is taken to
    /// be.
    pub(super) async fn holds<R: Resource>(
        &self,
        store: &KubernetesStore,
        selector: Option<&str>,
        position: Revision,
    ) -> Result<bool, Failure> {
        let selector = self.selector(selector);
        let position = position.get().to_string();
        let query = [
            ("limit", "1"),
            ("fieldSelector", selector.as_str()),
            ("resourceVersion", position.as_str()),
            ("resourceVersionMatch", LIST_MATCH_EXACT),
        ];
        match store.transport.ask(transport::get(&wire::list_path::<R>(), &query)).await {
            Ok(answer) => {
                wire::read_page::<R>(&answer).map_err(Failure::Unreadable).map(|page| self.is_in(&page))
            }
            Err(Failure::Refused(status)) if status.code == 410 => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    fn is_in<R: Resource>(&self, page: &Page<R>) -> bool {
        page.items.first().map(|object| object.revision) == self.left
    }

    fn selector(&self, more: Option<&str>) -> String {
        let mut selector = format!("metadata.name={}", self.name);
        if !self.namespace.is_empty() {
            selector = format!("{selector},metadata.namespace={}", self.namespace);
        }
        match more {
            // A watch of one object has asked for it by name already.
            Some(more) if !more.starts_with("metadata.name=") => format!("{selector},{more}"),
            _ => selector,
        }
    }
}
