//! A control plane with our definitions, and stores on it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use harness::{ControlPlane, ControlPlaneOptions, Kubectl};
use poolward_store::kubernetes::{KubernetesStore, Options, Timeouts};
use poolward_store::resource::{IpPool, IpReservation, Metadata, Resource};
use poolward_store::{Key, Store, StoreError, Versioned};

/// The longest any single step may take on a machine that is busy with much else.
pub(crate) const STEP: Duration = Duration::from_secs(60);

/// Patience that ends while a test waits.
pub(crate) const SHORT: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    request: Duration::from_secs(3),
    list: Duration::from_secs(5),
    watch_silence: Duration::from_secs(3),
    watch_length: Duration::from_secs(4),
    watch_pause: Duration::from_millis(500),
};

/// A control plane of its own for one test.
pub(crate) struct Cluster {
    pub(crate) control_plane: ControlPlane,
    pub(crate) store: KubernetesStore,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let control_plane = ControlPlane::start(&ControlPlaneOptions::default()).unwrap();
        let store = open(&control_plane.kubeconfig(), Timeouts::default()).await;
        store.install_definitions(STEP).await.unwrap();
        Self { control_plane, store }
    }

    /// Another store on it, with little patience.
    pub(crate) async fn hasty(&self) -> KubernetesStore {
        open(&self.control_plane.kubeconfig(), SHORT).await
    }

    /// A store whose way to the server leads over another address.
    pub(crate) async fn over(&self, address: SocketAddr, timeouts: Timeouts) -> KubernetesStore {
        let text = std::fs::read_to_string(self.control_plane.kubeconfig()).unwrap();
        let server = self.control_plane.server();
        assert!(text.contains(&server), "{text}");
        let path = self.control_plane.dir().join(format!("over-{}.kubeconfig", address.port()));
        std::fs::write(&path, text.replace(&server, &format!("https://{address}"))).unwrap();
        open(&path, timeouts).await
    }

    pub(crate) fn kubectl(&self) -> Kubectl {
        self.control_plane.kubectl().unwrap()
    }
}

pub(crate) async fn open(kubeconfig: &Path, timeouts: Timeouts) -> KubernetesStore {
    let options = Options { kubeconfig: Some(kubeconfig.to_owned()), timeouts, ..Options::default() };
    KubernetesStore::connect(options).await.unwrap()
}

pub(crate) fn key(name: &str) -> Key {
    name.parse().unwrap()
}

pub(crate) fn pool(name: &str, priority: i32) -> IpPool {
    let mut pool = IpPool { metadata: Metadata::named(name), ..IpPool::default() };
    pool.spec.cidr = "10.0.0.0/24".to_owned();
    pool.spec.priority = priority;
    pool
}

pub(crate) fn reservation(name: &str, cidrs: &[&str]) -> IpReservation {
    let mut reservation = IpReservation { metadata: Metadata::named(name), ..IpReservation::default() };
    reservation.spec.reserved_cidrs = cidrs.iter().map(ToString::to_string).collect();
    reservation
}

/// What is there, read as often as it takes: the server may be starting.
pub(crate) async fn read<R: Resource>(store: &KubernetesStore, name: &str) -> Option<Versioned<R>> {
    let deadline = tokio::time::Instant::now() + STEP;
    loop {
        match store.get::<R>(&key(name)).await {
            Ok(there) => return there,
            Err(StoreError::Unavailable { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Deletes every object of the kind.
pub(crate) async fn clear<R: Resource>(store: &KubernetesStore) {
    for object in store.list::<R>().await.unwrap().items {
        store.compare_and_delete::<R>(&object.value.key().unwrap(), object.revision).await.unwrap();
    }
}

pub(crate) fn is_unavailable<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable { .. }))
}
