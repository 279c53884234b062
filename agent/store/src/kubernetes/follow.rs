//! A watch that goes on over many connections.
//!
//! For each connection, the first included:
//!
//! 1. The server is asked, consistently, for its newest revision. If that is below what was seen, the store went back
//!    (an etcd restored from a backup): expired. This also tells a server that is away from one that has nothing new.
//! 2. If the server was away, it may have grown beyond what was seen since it went back: whether the newest change that
//!    was seen is in its history is asked, too ([`Witness`]). If it is not: expired.
//! 3. A watch is opened from what was seen, with bookmarks, so that what was seen moves on without events.
//! 4. Lines are read until the connection ends, breaks, or is silent for too long; then again from 1, after a pause
//!    that doubles while nothing works.
//!
//! The stream ends with [`StoreError::Expired`] when the server no longer keeps what followed. It does not end because
//! the server is away: whoever watches goes on with what it has, and misses nothing.
//!
//! What this cannot see: a deletion that was undone, if it was made before the list which the watch began with and
//! nothing of the kind was written after it.

use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use tracing::{debug, warn};

use super::KubernetesStore;
use super::transport::{self, Call, Failure};
use super::wire::{self, Line};
use super::witness::Witness;
use crate::event::{Event, Watch};
use crate::interface::StoreError;
use crate::key::Key;
use crate::resource::Resource;
use crate::rules::WATCH;
use crate::versioned::{Revision, Versioned};

/// The first pause between connections that bring nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Lines of one connection.
type Lines = BoxStream<'static, Result<String, std::io::Error>>;

/// Watches a kind, within what the store was opened for.
pub(super) async fn start<R: Resource>(
    store: KubernetesStore,
    from: Revision,
) -> Result<Watch<R>, StoreError> {
    let selector = store.field_selector::<R>();
    let witness = store.newest_listed::<R>(from);
    watch(store, selector, from, witness).await
}

/// Watches one object.
pub(super) async fn of_object<R: Resource>(
    store: KubernetesStore,
    key: &Key,
    from: Revision,
) -> Result<Watch<R>, StoreError> {
    let mut selector = format!("metadata.name={}", key.name());
    if let Some(namespace) = key.namespace() {
        selector = format!("{selector},metadata.namespace={namespace}");
    }
    watch(store, Some(selector), from, None).await
}

/// The server's newest revision. Consistent: a page of one object, read through.
pub(super) async fn newest<R: Resource>(store: &KubernetesStore) -> Result<Revision, Failure> {
    let request = transport::get(&wire::list_path::<R>(), &[("limit", "1")]);
    let answer = store.transport.ask(request).await?;
    let page = wire::read_page::<R>(&answer).map_err(Failure::Unreadable)?;
    Ok(page.revision)
}

async fn watch<R: Resource>(
    store: KubernetesStore,
    selector: Option<String>,
    from: Revision,
    witness: Option<Witness>,
) -> Result<Watch<R>, StoreError> {
    let mut follower = Follower {
        store,
        selector,
        position: from,
        witness,
        was_away: false,
        connection: None,
        over: false,
        pause: FIRST_PAUSE,
    };
    match follower.connect::<R>().await {
        Ok(lines) => follower.connection = Some(lines),
        Err(Broken::Expired(error)) => return Err(error),
        Err(Broken::Passing(failure) | Broken::Ended(failure)) => {
            return Err(Call::of::<R>(WATCH, transport::ALL).failed(failure));
        }
    }
    let events = stream::unfold(follower, |mut follower| async move {
        let item = follower.next::<R>().await?;
        Some((item, follower))
    });
    Ok(events.boxed())
}

/// A watch, between events. One for each stream; it ends with it.
struct Follower {
    store: KubernetesStore,
    selector: Option<String>,
    /// Everything up to here was passed on.
    position: Revision,
    /// The newest change up to there, if one is known.
    witness: Option<Witness>,
    /// Whether the server has failed since the last connection was made.
    was_away: bool,
    connection: Option<Lines>,
    over: bool,
    pause: Duration,
}

/// Why a connection brings nothing more.
enum Broken {
    /// What followed is not kept: the end.
    Expired(StoreError),
    /// Another try may do.
    Passing(Failure),
    /// The same, and it is no more than what was to be expected.
    Ended(Failure),
}

impl Follower {
    async fn next<R: Resource>(&mut self) -> Option<Result<Event<R>, StoreError>> {
        loop {
            if self.over {
                return None;
            }
            let broken = match self.connection.as_mut() {
                None => match self.connect::<R>().await {
                    Ok(lines) => {
                        self.connection = Some(lines);
                        continue;
                    }
                    Err(broken) => broken,
                },
                Some(lines) => {
                    let line =
                        tokio::time::timeout(self.store.transport.timeouts.watch_silence, lines.next());
                    match line.await {
                        Ok(Some(Ok(line))) => match self.take::<R>(&line) {
                            Ok(Some(event)) => return Some(Ok(event)),
                            Ok(None) => continue,
                            Err(broken) => broken,
                        },
                        // The server ends every watch after a while; the next connection asks how things are.
                        Ok(None) => Broken::Ended(passing("the server ended the watch")),
                        Ok(Some(Err(error))) => Broken::Passing(passing(error.to_string())),
                        Err(_) => Broken::Passing(passing("silence")),
                    }
                }
            };
            self.connection = None;
            match broken {
                Broken::Expired(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
                Broken::Passing(Failure::Unreadable(error)) if !error.is_eof() => {
                    self.over = true;
                    return Some(Err(Call::of::<R>(WATCH, transport::ALL).unreadable(&error)));
                }
                Broken::Passing(failure) => {
                    self.was_away = true;
                    self.rest::<R>(failure).await;
                }
                Broken::Ended(failure) => self.rest::<R>(failure).await,
            }
        }
    }

    /// Waits before the next connection: as long as the server asks, else twice as long as the last time, and by
    /// chance less, so that a thousand watchers do not come back at once.
    async fn rest<R: Resource>(&mut self, failure: Failure) {
        let asked = match &failure {
            Failure::Unanswered { retry_after, .. } => *retry_after,
            Failure::Refused(_) | Failure::Unreadable(_) => None,
        };
        let pause = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0).max(asked.unwrap_or_default());
        let reason = Call::of::<R>(WATCH, transport::ALL).failed(failure);
        debug!(kind = R::KIND, position = %self.position, ?pause, %reason, "the watch is taken up again");
        tokio::time::sleep(pause).await;
        self.pause = (self.pause * 2).min(self.store.transport.timeouts.watch_pause);
    }

    async fn connect<R: Resource>(&mut self) -> Result<Lines, Broken> {
        let newest = newest::<R>(&self.store).await.map_err(Broken::Passing)?;
        // Zero would mean "from wherever you are" to the server.
        if self.position > newest || self.position == Revision::ZERO {
            return Err(Broken::Expired(self.expired::<R>(newest)));
        }
        if self.was_away
            && let Some(witness) = &self.witness
        {
            let holds = witness.holds::<R>(&self.store, self.selector.as_deref(), self.position).await;
            if !holds.map_err(Broken::Passing)? {
                let (kind, position) = (R::KIND, self.position);
                warn!(kind, %position, %newest, ?witness, "the store has another history than it had: restored from a backup?");
                return Err(Broken::Expired(self.expired::<R>(newest)));
            }
        }
        let timeouts = &self.store.transport.timeouts;
        let length = timeouts.watch_length.mul_f64(0.5 + fastrand::f64() / 2.0).as_secs().max(1).to_string();
        let from = self.position.get().to_string();
        let mut query = vec![
            ("watch", "true"),
            ("resourceVersion", from.as_str()),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", length.as_str()),
        ];
        if let Some(selector) = &self.selector {
            query.push(("fieldSelector", selector));
        }
        match self.store.transport.open(transport::get(&wire::list_path::<R>(), &query)).await {
            Ok(response) => {
                self.was_away = false;
                let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
                Ok(body.into_async_read().lines().boxed())
            }
            Err(Failure::Refused(status)) if status.code == 410 => {
                Err(Broken::Expired(self.expired::<R>(newest)))
            }
            Err(failure) => Err(Broken::Passing(failure)),
        }
    }

    /// What a line brings, if it brings an event.
    fn take<R: Resource>(&mut self, line: &str) -> Result<Option<Event<R>>, Broken> {
        let line = wire::read_line::<R>(line).map_err(|error| Broken::Passing(Failure::Unreadable(error)))?;
        self.pause = FIRST_PAUSE;
        match line {
            Line::Put(object) if object.revision > self.position => {
                self.position = object.revision;
                self.witness = Some(Witness::of_put(&object));
                Ok(Some(Event::Put(object)))
            }
            Line::Deleted(last) if last.revision > self.position => {
                let Versioned { revision, .. } = last;
                self.position = revision;
                self.witness = Some(Witness::of_deletion(&last));
                Ok(Some(Event::Delete { last, revision }))
            }
            // Seen already: a connection may begin a little early.
            Line::Put(_) | Line::Deleted(_) => Ok(None),
            Line::Bookmark(revision) => {
                self.position = self.position.max(revision);
                Ok(None)
            }
            Line::Failed { code: 410, .. } => Err(Broken::Expired(self.expired::<R>(self.position))),
            Line::Failed { code, message } => Err(Broken::Passing(passing(format!("{code}: {message}")))),
        }
    }

    fn expired<R: Resource>(&self, newest: Revision) -> StoreError {
        // Which revision is the oldest that is kept, the API does not say.
        let oldest = if self.position > newest { Revision::ZERO } else { self.position.next() };
        StoreError::Expired { kind: R::KIND, from: self.position, oldest, newest }
    }
}

fn passing(reason: impl Into<String>) -> Failure {
    Failure::Unanswered { reason: reason.into(), retry_after: None }
}
