//! Telling the container runtime that pods can be started: its list of plugins (the conflist).
//!
//! A runtime without one calls the node's network not ready, and so does the kubelet the node. So the agent writes it
//! once an ADD would be answered with an address, which is what CNI's STATUS tells, and not before. It is never removed by
//! an agent: not at its end, nor when it is replaced, for the node would flap. It goes when the node is cleaned up, and,
//! since it says what holds for this boot alone, with a reboot:
//!
//! ```text
//! /etc/cni/net.d/10-poolward.conflist -> /run/poolward/10-poolward.conflist
//! ```
//!
//! The runtime's directory lasts and holds a link; the list is in the agent's state directory, a tmpfs. A runtime that finds
//! a link to nothing has no network (containerd, which then does not fall back to another list either), so a
//! node that has been switched on is not ready before its agent is.

use std::io;
use std::path::{Path, PathBuf};
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
    let state_dir = node.config.state_dir.clone();
    let pods = Pods::new(node);
    let mut told = None;
    loop {
        let status = match cni.addresses {
            AddressSource::Pools => pods.status(),
            AddressSource::NodeRanges => pods.status_delegated(),
        };
        let pause = match status {
            Ok(()) if write(&cni, &state_dir) => return,
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

/// Where the list itself is, to which the runtime's directory has a link.
pub fn file_behind(cni: &CniConfig, state_dir: &Path) -> PathBuf {
    // The configuration has seen to it that there is a name.
    state_dir.join(cni.conflist_path.file_name().unwrap_or_default())
}

/// Whether it is there now.
fn write(cni: &CniConfig, state_dir: &Path) -> bool {
    let path = cni.conflist_path.display();
    match place(cni, state_dir) {
        Ok(Placed::Written) => info!(%path, "pods can get addresses: the runtime is told"),
        Ok(Placed::Unchanged) => info!(%path, "pods can get addresses; the runtime knows already"),
        Err(error) => {
            warn!(%path, %error, "the runtime's list of plugins cannot be written: the node stays not ready");
            return false;
        }
    }
    true
}

/// The list first, then the link, which is what the runtime watches.
fn place(cni: &CniConfig, state_dir: &Path) -> io::Result<Placed> {
    let file = file_behind(cni, state_dir);
    let is_new = files::place(&file, cni.conflist.as_bytes(), MODE)? == Placed::Written;
    files::place_link(&cni.conflist_path, &file, is_new)
}

/// Says why the node waits, once for each reason.
fn tell(told: &mut Option<String>, error: RpcError) {
    if told.as_ref() != Some(&error.message) {
        warn!(reason = error.message, "pods cannot get addresses yet: the runtime is told once they can");
        *told = Some(error.message);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_runtime_has_a_link_to_a_list_that_a_reboot_takes_away() {
        let dir = tempfile::tempdir().unwrap();
        let (state_dir, lists) = (dir.path().join("run"), dir.path().join("net.d"));
        fs::create_dir(&state_dir).unwrap();
        fs::create_dir(&lists).unwrap();
        let mut cni = CniConfig {
            conflist_path: lists.join("1.conflist"),
            conflist: "one".into(),
            addresses: AddressSource::Pools,
        };
        let read = |cni: &CniConfig| fs::read_to_string(&cni.conflist_path).unwrap();
        // As releases before this one have left it.
        fs::write(&cni.conflist_path, "one").unwrap();
        assert_eq!(place(&cni, &state_dir).unwrap(), Placed::Written);
        assert_eq!(
            (read(&cni).as_str(), fs::read_link(&cni.conflist_path).unwrap()),
            ("one", file_behind(&cni, &state_dir))
        );
        assert_eq!(place(&cni, &state_dir).unwrap(), Placed::Unchanged);
        // Another list is news for who watches the directory of the link alone.
        cni.conflist = "two".into();
        assert_eq!(place(&cni, &state_dir).unwrap(), Placed::Written);
        assert_eq!(read(&cni), "two");
        fs::remove_dir_all(&state_dir).unwrap();
        fs::create_dir(&state_dir).unwrap();
        assert!(!cni.conflist_path.exists(), "it outlives a reboot");
        assert_eq!(place(&cni, &state_dir).unwrap(), Placed::Written);
        assert_eq!(read(&cni), "two");
    }
}
