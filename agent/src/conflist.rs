//! Telling the container runtime that pods can be started: its list of plugins (the conflist).
//!
//! A runtime without one calls the node's network not ready, and so does the kubelet the node. So the agent writes it
//! once an ADD would be answered with an address, which is what CNI's STATUS tells, and not before. It is never removed by
//! an agent: not at its end, nor when it is replaced, for the node would flap. It goes when the node is cleaned up.

use std::sync::Arc;
use std::time::Duration;

use rpc::RpcError;
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{AddressSource, CniConfig};
use crate::files::{self, Placed};
use crate::node::Node;
use crate::pods::Pods;

/// How often it is asked whether pods can get addresses, until they can.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How often a file that cannot be written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Everybody may read it, as runtimes and people expect.
const MODE: u32 = 0o644;

/// Writes the list once pods can get addresses, or returns when `stop` fires.
pub async fn follow<S: Store>(node: Arc<Node<S>>, stop: CancellationToken) {
    let Some(cni) = node.config.cni.clone() else { return };
    let pods = Pods::new(node);
    let mut told = None;
    loop {
        let status = match cni.addresses {
            AddressSource::Pools => pods.status(),
            AddressSource::NodeRanges => pods.status_delegated(),
        };
        let pause = match status {
            Ok(()) if write(&cni) => return,
            Ok(()) => RETRY_INTERVAL,
            Err(error) => {
                tell(&mut told, error);
                LOOK_INTERVAL
            }
        };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Whether it is there now.
fn write(cni: &CniConfig) -> bool {
    let path = cni.conflist_path.display();
    match files::place(&cni.conflist_path, cni.conflist.as_bytes(), MODE) {
        Ok(Placed::Written) => info!(%path, "pods can get addresses: the runtime is told"),
        Ok(Placed::Unchanged) => info!(%path, "pods can get addresses; the runtime knows already"),
        Err(error) => {
            warn!(%path, %error, "the runtime's list of plugins cannot be written: the node stays not ready");
            return false;
        }
    }
    true
}

/// Says why the node waits, once for each reason.
fn tell(told: &mut Option<String>, error: RpcError) {
    if told.as_ref() != Some(&error.message) {
        warn!(reason = error.message, "pods cannot get addresses yet: the runtime is told once they can");
        *told = Some(error.message);
    }
}
