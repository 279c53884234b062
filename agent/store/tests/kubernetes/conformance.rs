//! The suite that every implementation passes.

use poolward_store::conformance::{self, Promises};
use poolward_store::resource::{IpPool, IpReservation};

use crate::cluster::{Cluster, clear};

/// What the API server keeps is not a number of changes, it gives every uid, and pools are ours while Pods are not.
const PROMISES: Promises = Promises {
    history_len: None,
    keeps_given_uids: false,
    writes_core_kinds: false,
    deletes_in_one_change: false,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_on_an_api_server_conforms() {
    let cluster = Cluster::start().await;
    let store = &cluster.store;
    conformance::run_all(PROMISES, async || {
        clear::<IpPool>(store).await;
        clear::<IpReservation>(store).await;
        store.clone()
    })
    .await;
}
