//! Changes as a watcher sees them, and the one loop that turns a log of changes into a stream.
//!
//! How a watcher neither misses a change nor sees one twice, and never holds up a writer: the log is the only
//! truth. A writer appends and then announces the newest revision; a watcher that has worked off all it has
//! read waits for a greater announcement, then reads the log from its own position. A slow watcher has no
//! queue that could fill; it falls behind until the log no longer reaches back to it, and is told so.

use std::future::Future;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use crate::interface::StoreError;
use crate::resource::Resource;
use crate::versioned::{Revision, Versioned};

/// A change of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<R> {
    /// Created or replaced.
    Put(Versioned<R>),
    /// Deleted.
    Delete {
        /// The state that was deleted. On a Kubernetes API server its revision is that of the deletion.
        last: Versioned<R>,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl<R: Resource> Event<R> {
    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(object) => object.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The object: as it is now, or as it was last.
    pub fn object(&self) -> &Versioned<R> {
        match self {
            Self::Put(object) | Self::Delete { last: object, .. } => object,
        }
    }
}

/// A stream of changes. See [`crate::Store::watch`].
pub type Watch<R> = BoxStream<'static, Result<Event<R>, StoreError>>;

/// Events that one reading of the log brings at most, so that a far-behind watcher needs bounded memory.
pub(crate) const BATCH_LEN: usize = 256;

/// What one reading of the log brings.
pub(crate) struct Batch<R> {
    /// Changes of the kind, in order.
    pub(crate) events: Vec<Event<R>>,
    /// How far the log was read: no change of the kind up to here is missing.
    pub(crate) position: Revision,
}

/// Where changes can be read in order. The two implementations in this crate share the stream below.
pub(crate) trait Log: Clone + Send + 'static {
    /// Changes of the kind after `position`, at most [`BATCH_LEN`]; an empty batch when there is nothing new.
    fn read_after<R: Resource>(
        &self,
        position: Revision,
    ) -> impl Future<Output = Result<Batch<R>, StoreError>> + Send;
}

/// The stream over a log, starting with a batch that was read already.
pub(crate) fn stream<R: Resource, L: Log>(
    log: L,
    newest: watch::Receiver<Revision>,
    first: Batch<R>,
) -> Watch<R> {
    let state =
        State { log, newest, position: first.position, ready: first.events.into_iter(), failed: false };
    stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some((item, state))
    })
    .boxed()
}

struct State<R, L> {
    log: L,
    newest: watch::Receiver<Revision>,
    position: Revision,
    ready: std::vec::IntoIter<Event<R>>,
    failed: bool,
}

impl<R: Resource, L: Log> State<R, L> {
    async fn next(&mut self) -> Option<Result<Event<R>, StoreError>> {
        loop {
            if self.failed {
                return None;
            }
            if let Some(event) = self.ready.next() {
                return Some(Ok(event));
            }
            let position = self.position;
            // Fails only when no writer can come any more; the log keeps one alive.
            self.newest.wait_for(|newest| *newest > position).await.ok()?;
            match self.log.read_after(position).await {
                Ok(batch) => {
                    self.position = batch.position;
                    self.ready = batch.events.into_iter();
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
