//! The agent's life: lock, journal, kernel, store, serve, stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use dataplane::{Dataplane, Settings};
use store::Store;
use store::embedded::{EmbeddedStore, OpenOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bpffs;
use crate::clock;
use crate::config::{Config, OnLocked, StoreConfig};
use crate::conflist;
use crate::journal::{Journal, Loaded, Lock, LockError, Owner};
use crate::node::Node;
use crate::node::environment::Environment;
use crate::pods::Pods;
use crate::server::Server;
use crate::service::AgentService;

/// How often a waiting agent looks whether the lock is free.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// How often pools that are being deleted are looked at.
const RETIRE_INTERVAL: Duration = Duration::from_secs(5);

/// Runs the agent until SIGTERM or SIGINT. What it made in the kernel stays.
///
/// # Errors
/// It cannot start: the text says what failed and why. [`LockError::Held`] is in the chain when another agent of this
/// node runs.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let Some(lock) = take_lock(&config, &stop).await? else { return Ok(()) };
    let owner = Owner {
        node: config.node_name.to_string(),
        boot_id: clock::boot_id().context("read the boot id (is /proc mounted?)")?,
    };
    let (journal, loaded) = Journal::open(lock, &config.state_dir, owner)?;
    if let Some(mark) = &config.bpf_shared_mark {
        bpffs::require_mark(mark)?;
    }
    let settings = settings_of(&config);
    let dataplane = Arc::new(
        tokio::task::spawn_blocking(move || Dataplane::open(settings))
            .await?
            .context("open the dataplane")?,
    );
    let opened = Opened { dataplane, journal, loaded };
    match config.store.clone() {
        StoreConfig::Embedded { path } => {
            let store = open_embedded(&path).await?;
            serve(config, store, opened, stop).await
        }
        #[cfg(feature = "kubernetes")]
        StoreConfig::Kubernetes { kubeconfig } => {
            let store = open_kubernetes(kubeconfig.as_deref(), &config).await?;
            serve(config, store, opened, stop).await
        }
        #[cfg(not(feature = "kubernetes"))]
        StoreConfig::Kubernetes { .. } => {
            anyhow::bail!(
                "open the store: this agent was compiled without `kubernetes`, and store.type asks for it"
            )
        }
    }
}

/// What is opened whatever the store is.
struct Opened {
    dataplane: Arc<Dataplane>,
    journal: Journal,
    loaded: Loaded,
}

/// From the store on: the same for every kind of it.
async fn serve<S: Store>(
    config: Config,
    store: S,
    opened: Opened,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let socket_path = config.socket_path.clone();
    info!(node = %config.node_name, socket = %socket_path.display(), "starting");
    // The watches outlive the last request: it may wait for what they show.
    let followers = CancellationToken::new();
    let _end_watches = followers.clone().drop_guard();
    let Opened { dataplane, journal, loaded } = opened;
    let starting = Node::start(Environment::real(), config, store, dataplane, journal, loaded, &followers);
    // It may have to wait, for the store or for the Node object.
    let Some(node) = stop.run_until_cancelled(starting).await else { return Ok(()) };
    let node = node?;
    let server = Server::bind(&socket_path)?;
    let summary = node.reconciler.summary();
    info!(
        pods = node.ledger().pods().count(),
        planned = summary.first_planned_count,
        errors = summary.last_errors.len(),
        "serving"
    );
    let tending = tokio::spawn(tend(node.clone(), stop.clone()));
    server.serve(Arc::new(AgentService::new(&node)), stop.clone()).await;
    // The last request has ended; nothing else may change state from here on.
    let _ = tending.await;
    info!("stopped; pods and their traffic go on");
    Ok(())
}

/// Everything a node does beside answering requests, until `stop` fires and what is under way has ended.
pub async fn tend<S: Store>(node: Arc<Node<S>>, stop: CancellationToken) {
    let pods = Pods::new(node.clone());
    let reconciling = node.reconciler.clone().follow(node.config.resync, stop.clone());
    tokio::join!(
        reconciling,
        retire_now_and_then(&node, &stop),
        node.follow_upkeep(&stop),
        node.follow_inner(&stop),
        node.follow_memory(&stop),
        node.follow_admission(&stop),
        node.follow_contact(&stop),
        node.follow_conditions(&stop),
        node.follow_publishing(&stop),
        node.follow_freshness(&stop),
        node.follow_policies(&stop),
        pods.follow_leaks(&stop),
        conflist::follow(node.clone(), stop.clone())
    );
}

/// Takes the programs off, under the lock: not while an agent runs.
///
/// # Errors
/// An agent of this node runs, or the kernel would not.
pub fn unload(config: &Config) -> anyhow::Result<()> {
    let _lock = Lock::try_acquire(&config.state_dir)?;
    dataplane::unload_programs(&config.bpf_pin_dir)?;
    info!(pins = %config.bpf_pin_dir.display(), "programs, maps and pins are off");
    Ok(())
}

/// What the dataplane is opened with.
pub(crate) fn settings_of(config: &Config) -> Settings {
    Settings {
        marks: config.mark_layout,
        route_protocol: config.route_protocol,
        uplink: config.uplink.clone(),
        attach_mode: config.attach_mode,
        encap_backend: config.encap_backend,
        max_pods: config.max_pods,
        max_pools: config.max_pools,
        sysctl_dir: config.sysctl_dir.clone(),
        ..Settings::new(config.bpf_pin_dir.clone())
    }
}

/// Fires on SIGTERM and SIGINT.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let fire = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "stopping");
        fire.cancel();
    });
    Ok(stop)
}

/// The lock, or nothing if a signal came while waiting for it.
async fn take_lock(config: &Config, stop: &CancellationToken) -> Result<Option<Lock>, LockError> {
    let mut told = false;
    loop {
        match Lock::try_acquire(&config.state_dir) {
            Ok(lock) => return Ok(Some(lock)),
            Err(LockError::Held { path, holder }) if config.on_locked == OnLocked::Wait => {
                if !told {
                    warn!(lock = %path.display(), holder, "another agent of this node runs; waiting until it ends");
                    told = true;
                }
            }
            Err(error) => return Err(error),
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOCK_POLL)).await.is_none() {
            return Ok(None);
        }
    }
}

async fn open_embedded(path: &Path) -> anyhow::Result<EmbeddedStore> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("make the store's directory {}", dir.display()))?;
    }
    Ok(EmbeddedStore::open(path, OpenOptions::default()).await?)
}

async fn retire_now_and_then<S: Store>(node: &Node<S>, stop: &CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(RETIRE_INTERVAL)).await.is_some() {
        node.retire_all().await;
    }
}

/// Asks the server nothing: that it is away is the node's business.
#[cfg(feature = "kubernetes")]
async fn open_kubernetes(
    kubeconfig: Option<&Path>,
    config: &Config,
) -> anyhow::Result<store::kubernetes::KubernetesStore> {
    let options = store::kubernetes::Options {
        kubeconfig: kubeconfig.map(Path::to_owned),
        node_name: Some(config.node_name.clone()),
        ..store::kubernetes::Options::default()
    };
    store::kubernetes::KubernetesStore::connect(options).await.context("open the store")
}
