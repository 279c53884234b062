//! The unix socket: binding it, accepting, and what a clean stop waits for.
//!
//! It carries requests to a [`Service`] and replies back; it knows nothing of pods or pools.

mod connection;

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rpc::{Reply, Request};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Requests served at once; more wait in the socket's backlog. A kubelet starts some tens of pods at once.
const MAX_CONNECTIONS: usize = 512;

/// How long a stop waits for requests under way. Wiring a pod takes milliseconds.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Who answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. `cancel` fires when the client hangs up; the future is always run to its end.
    fn answer(
        &self,
        request: Request,
        descriptor: Option<OwnedFd>,
        cancel: CancellationToken,
    ) -> impl Future<Output = Reply> + Send;
}

/// The bound socket. One for the agent; it is bound only while the journal's lock is held.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// The socket cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{operation} socket {path}: {source}")]
pub struct BindError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Server {
    /// Binds the socket with mode 0600. A socket left behind by an earlier agent is replaced at once, so that
    /// there is never a moment without one; anything else of that name is left alone.
    ///
    /// # Errors
    /// The directory cannot be made, the name is taken by something that is no socket, or bind fails.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |operation| {
            let path = path.to_owned();
            move |source| BindError { operation, path, source }
        };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                let source =
                    io::Error::new(io::ErrorKind::AlreadyExists, "the name is taken by something else");
                return Err(failed("bind")(source));
            }
            _ => {}
        }
        // Bound under another name and renamed: the mode is right before anybody can connect.
        let next = path.with_extension("new");
        match std::fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("bind")(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&next).map_err(failed("bind"))?;
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).map_err(failed("chmod"))?;
        std::fs::rename(&next, path).map_err(failed("put in place"))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `stop` fires, then lets requests under way end (bounded) and removes the socket.
    pub async fn serve<S: Service>(self, service: Arc<S>, stop: CancellationToken) {
        let requests = TaskTracker::new();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
                let (stream, _) = self.listener.accept().await?;
                Ok::<_, io::Error>((place, stream))
            };
            let (place, stream) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = next => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, most likely: others will end.
                        warn!(%error, "accept on the socket failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let service = service.clone();
            requests.spawn(async move {
                connection::serve(stream, &*service).await;
                drop(place);
            });
        }
        requests.close();
        if let Err(error) = std::fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "the socket was not removed");
        }
        info!(under_way = requests.len(), "no new requests are taken");
        if tokio::time::timeout(DRAIN_LIMIT, requests.wait()).await.is_err() {
            warn!(left = requests.len(), limit_s = DRAIN_LIMIT.as_secs(), "requests did not end in time");
        }
    }
}
