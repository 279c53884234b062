//! The cluster store in one file on this machine: for a node on its own, demonstrations, and tests of the
//! whole path.
//!
//! A change is on the disk when its call returns. One process has the file at a time. The last changes are kept
//! for watchers, a bounded number of them. Why redb: docs/adr/0002-embedded-store.md.
//!
//! Database work runs on tokio's threads for blocking work, so these calls need a tokio runtime.

mod file;
mod opening;
mod row;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Mutex, watch};

pub use file::OpenOptions;
pub use opening::OpenError;

use crate::event::{self, Batch, Log, Watch};
use crate::interface::{List, Store, StoreError};
use crate::key::Key;
use crate::resource::Resource;
use crate::rules::{CREATE, DELETE, GET, LIST, REPLACE, WATCH, internal, key_of};
use crate::versioned::{Revision, Versioned};
use file::File;

/// Stands in errors where an operation is about all objects of a kind.
const ALL: &str = "(all)";

/// A store in a file. The file is closed, and free for others, when the last handle, watch and call under way
/// is gone.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    /// Writers wait here rather than on one of the runtime's threads each. The lock travels with the work: a
    /// caller that goes away does not let the next writer in early.
    writer: Arc<Mutex<()>>,
    newest: watch::Sender<Revision>,
}

impl EmbeddedStore {
    /// Opens the store in this file, or makes it if there is no such file. The directory must exist.
    ///
    /// # Errors
    /// [`OpenError`]: the file is in use, or is not a whole store; it is left as it is.
    pub async fn open(path: &Path, options: OpenOptions) -> Result<Self, OpenError> {
        let path = path.to_owned();
        let opening = tokio::task::spawn_blocking({
            let path = path.clone();
            move || File::open(&path, options)
        });
        // The database is made to report damage as an error; a panic would be a case it missed.
        let file = opening.await.unwrap_or_else(|error| Err(OpenError::damaged(&path, error.to_string())))?;
        let (newest, _) = watch::channel(file.newest_at_open());
        Ok(Self { shared: Arc::new(Shared { file, writer: Arc::default(), newest }) })
    }

    async fn read<R: Resource, T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&File) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared.file)).await;
        done.unwrap_or_else(|error| Err(internal::<R>(operation, key, error.to_string())))
    }

    /// Makes a change, then tells watchers; both happen even if the caller goes away meanwhile.
    async fn write<R: Resource, T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &Key,
        work: impl FnOnce(&File) -> Result<(T, Revision), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.shared.writer).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let (made, revision) = work(&shared.file)?;
            shared.newest.send_replace(revision);
            Ok(made)
        });
        done.await.unwrap_or_else(|error| Err(internal::<R>(operation, key.as_str(), error.to_string())))
    }
}

impl Store for EmbeddedStore {
    async fn create<R: Resource>(&self, value: R) -> Result<Versioned<R>, StoreError> {
        let key = key_of(CREATE, &value)?;
        self.write::<R, _>(CREATE, &key.clone(), move |file| {
            let made = file.create(&key, value)?;
            let revision = made.revision;
            Ok((made, revision))
        })
        .await
    }

    async fn get<R: Resource>(&self, key: &Key) -> Result<Option<Versioned<R>>, StoreError> {
        let owned = key.clone();
        self.read::<R, _>(GET, key.as_str(), move |file| file.get(&owned)).await
    }

    async fn compare_and_swap<R: Resource>(
        &self,
        expected: Revision,
        value: R,
    ) -> Result<Versioned<R>, StoreError> {
        let key = key_of(REPLACE, &value)?;
        self.write::<R, _>(REPLACE, &key.clone(), move |file| {
            let made = file.compare_and_swap(&key, expected, value)?;
            let revision = made.revision;
            Ok((made, revision))
        })
        .await
    }

    async fn compare_and_delete<R: Resource>(
        &self,
        key: &Key,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        let owned = key.clone();
        self.write::<R, _>(DELETE, key, move |file| {
            let revision = file.compare_and_delete::<R>(&owned, expected)?;
            Ok((revision, revision))
        })
        .await
    }

    async fn list<R: Resource>(&self) -> Result<List<R>, StoreError> {
        self.read::<R, _>(LIST, ALL, File::list).await
    }

    async fn watch<R: Resource>(&self, from: Revision) -> Result<Watch<R>, StoreError> {
        let newest = self.shared.newest.subscribe();
        let first = self.read_after(from).await?;
        Ok(event::stream(self.clone(), newest, first))
    }
}

impl Log for EmbeddedStore {
    async fn read_after<R: Resource>(&self, position: Revision) -> Result<Batch<R>, StoreError> {
        self.read::<R, _>(WATCH, ALL, move |file| file.read_after(position)).await
    }
}
