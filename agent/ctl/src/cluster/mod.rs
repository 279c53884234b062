//! Straight to the cluster's API server, with the operator's own rights: what only takes objects.
//!
//! Answers the same requests with the same replies as an agent ([`serves`] says which), so that commands need not
//! know whom they ask. What an apply comes to is decided by the code that agents use (`store::change`). Pools are
//! admitted, served and retired by agents, which see what is written here; nothing here waits for that.
//!
//! The only place here with an async runtime: one thread, for one request.

mod apply;
mod check;
mod delete;
mod get;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rpc::{Reply, Request};
use store::StoreError;
use store::kubernetes::install::Installed;
use store::kubernetes::{KubernetesStore, Options, Timeouts};
use tokio::runtime::Runtime;

use crate::exit::{Exit, Failure};

/// Where the API server is, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// The file.
    pub(crate) kubeconfig: PathBuf,
    /// It was named on the command line, so that nothing else is meant.
    pub(crate) is_explicit: bool,
}

/// Whether a request is about nothing but objects.
pub(crate) fn serves(request: &Request) -> bool {
    matches!(
        request,
        Request::Apply(_) | Request::Get(_) | Request::Delete(_) | Request::PoolsExport | Request::IpamCheck
    )
}

/// Asks the API server what one would ask an agent.
///
/// # Errors
/// It cannot be reached, or refuses, or the request is refused before it is asked.
pub(crate) fn ask(
    kubeconfig: &Path,
    timeout: Duration,
    operation: &str,
    request: &Request,
) -> Result<Reply, Failure> {
    runtime(operation)?.block_on(async {
        let store = connect(kubeconfig, timeout, operation).await?;
        let Ok(reply) = tokio::time::timeout(timeout, serve(&store, operation, request)).await else {
            let message = format!("{operation}: not done within {} s", timeout.as_secs_f32());
            return Err(Failure::new(Exit::TryAgain, message).with_next(
                "it may still be done: look with `poolwardctl get`, or wait longer with --timeout",
            ));
        };
        reply
    })
}

/// Brings the definitions of our kinds to the server. What became of each.
///
/// # Errors
/// As [`ask`].
pub(crate) fn install(
    kubeconfig: &Path,
    timeout: Duration,
    operation: &str,
) -> Result<Vec<(String, &'static str)>, Failure> {
    runtime(operation)?.block_on(async {
        let store = connect(kubeconfig, timeout, operation).await?;
        let installed = asked(operation, store.install_definitions(timeout)).await?;
        let word = |installed| match installed {
            Installed::Created => "created",
            Installed::Updated => "configured",
            Installed::Unchanged => "unchanged",
        };
        Ok(installed.into_iter().map(|(name, installed)| (name, word(installed))).collect())
    })
}

fn runtime(operation: &str) -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("{operation}: start a runtime: {error}")))
}

async fn connect(kubeconfig: &Path, timeout: Duration, operation: &str) -> Result<KubernetesStore, Failure> {
    let default = Timeouts::default();
    let timeouts = Timeouts {
        connect: default.connect.min(timeout),
        request: default.request.min(timeout),
        list: default.list.min(timeout),
        ..default
    };
    let options = Options { kubeconfig: Some(kubeconfig.to_owned()), timeouts, ..Options::default() };
    KubernetesStore::connect(options).await.map_err(|error| {
        Failure::new(Exit::Unreachable, format!("{operation}: {error}"))
            .with_next("is it the right file? see --kubeconfig; --socket asks this node's agent instead")
    })
}

async fn serve(store: &KubernetesStore, operation: &str, request: &Request) -> Result<Reply, Failure> {
    match request {
        Request::Apply(request) => apply::serve(store, operation, request).await.map(Reply::Applied),
        Request::Get(request) => get::objects(store, operation, request).await.map(Reply::Objects),
        Request::Delete(request) => delete::serve(store, operation, request).await.map(Reply::Applied),
        Request::PoolsExport => get::ranges(store, operation).await.map(Reply::Pools),
        Request::IpamCheck => check::serve(store, operation).await.map(Reply::IpamChecked),
        _ => Err(needs_agent(operation)),
    }
}

/// What only the node itself knows.
pub(crate) fn needs_agent(operation: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{operation}: only a node's agent knows that"))
        .with_next("run it on the node, with --socket instead of --kubeconfig")
}

/// What the store says, as a failure of a command.
fn failed(operation: &str, error: &StoreError) -> Failure {
    let message = format!("{operation}: {error}");
    match error {
        StoreError::NotFound { .. } => Failure::new(Exit::NotFound, message),
        StoreError::Unavailable { .. } => Failure::new(Exit::TryAgain, message).with_next(
            "is the API server up, and may you do that? `kubectl auth can-i` tells; a change may have been made: look \
             with `poolwardctl get`",
        ),
        StoreError::Conflict { .. } | StoreError::AlreadyExists { .. } => {
            Failure::new(Exit::Failed, message).with_next("somebody else was faster: run it again")
        }
        StoreError::Expired { .. } | StoreError::Internal { .. } => Failure::new(Exit::Failed, message),
    }
}

/// Awaits something of the store for a command.
async fn asked<T>(operation: &str, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, Failure> {
    work.await.map_err(|error| failed(operation, &error))
}
