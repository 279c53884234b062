//! What is written beside the journal for the next agent of this boot, and what this one makes of it at its start.
//!
//! Where the store is one that can be away, a start must not need it (rule 9): the last snapshot says what there is, the
//! journal what is ours, and the store is read when it answers. Whether blocks may serve until then is decided by how
//! long nobody of this node was there to be told that they were taken ([`may_serve`]; docs/adr/0009).

use std::time::Duration;

use model::BootTime;
use store::{Key, Store, Versioned};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Node;
use crate::journal::{FreshRecord, ObjectRecord, Snapshot, SnapshotFile};

/// Changes that come together are written together.
const DEBOUNCE: Duration = Duration::from_millis(300);

/// The longest between two signs of life.
const MAX_HEARTBEAT: Duration = Duration::from_secs(30);

/// What an earlier agent of this boot left.
#[derive(Debug)]
pub struct Memory {
    /// What it knew.
    pub snapshot: Snapshot,
    /// For how long nobody was there since.
    pub absent_for: Duration,
}

impl Memory {
    /// Reads it; a snapshot that is of no use is none.
    #[must_use]
    pub fn read(file: &SnapshotFile, now: BootTime) -> Option<Self> {
        match file.read() {
            Ok(Some((snapshot, alive_at_ms))) => {
                let absent_for = Duration::from_millis(now.as_millis().saturating_sub(alive_at_ms));
                info!(pods = snapshot.pods.len(), absent_s = absent_for.as_secs(), "the snapshot is read");
                Some(Self { snapshot, absent_for })
            }
            Ok(None) => None,
            Err(reason) => {
                warn!(reason, "the snapshot beside the journal cannot be used");
                None
            }
        }
    }
}

/// Whether blocks that are this boot's by the journal may serve before the store has answered.
///
/// They may be taken only from a node that has been gone for the grace. An agent that runs learns of that, or is cut
/// off, and goes on by the assumption that such a node is off. So does one that is started again, unless nobody was
/// there for so long that the blocks may have been taken under the eyes of a store that answered.
#[must_use]
pub fn may_serve(absent_for: Duration, gone_after: Duration) -> bool {
    absent_for < gone_after
}

impl<S: Store> Node<S> {
    /// What the next agent should know.
    fn snapshot(&self) -> Snapshot {
        let view = self.world.view();
        let concerned = view.objects.values().filter(|seen| {
            let ledger = self.ledger();
            ledger.keeper().tenure(&seen.object.cidr).is_some()
                || ledger.keeper().borrows().any(|(_, borrow)| borrow.block == seen.object.cidr)
        });
        let blocks = concerned.map(|seen| ObjectRecord {
            uid: String::new(),
            revision: seen.revision.0,
            object: store::block_resource(&seen.object, None),
        });
        let name = self.config.node_name.as_str();
        let pods: Vec<ObjectRecord<_>> = {
            let pods = self.world.pods.read();
            let here = pods.values().filter(|pod| {
                let node = &pod.value.spec.node_name;
                node.is_empty() || node == name
            });
            here.map(ObjectRecord::from).collect()
        };
        let namespaces = self.world.namespaces.read();
        let of_pods = namespaces.values().filter(|namespace| {
            let name = &namespace.value.metadata.name;
            pods.iter().any(|pod| pod.object.metadata.namespace == *name)
        });
        Snapshot {
            node_uid: view.me.uid.clone(),
            node_labels: view.labels.as_ref().clone(),
            pools: self.world.pools.read().values().map(ObjectRecord::from).collect(),
            registry: self.world.registry.read().values().map(ObjectRecord::from).collect(),
            reservations: self.world.reservations.read().values().map(ObjectRecord::from).collect(),
            ipam_config: self.world.ipam_config.read().values().map(ObjectRecord::from).collect(),
            blocks: blocks.collect(),
            namespaces: of_pods.map(ObjectRecord::from).collect(),
            fresh: self.fresh.records(),
            pods,
        }
    }

    /// Writes the snapshot whenever it changes, and now and then as a sign of life, until `stop` fires; then once more.
    pub async fn follow_memory(&self, stop: &CancellationToken) {
        if !self.config.store.is_shared() {
            return;
        }
        let file = {
            let ledger = self.ledger();
            SnapshotFile::new(&self.config.state_dir, ledger.owner().clone())
        };
        let heartbeat = MAX_HEARTBEAT.min(self.world.view().settings.graces.gone_after / 4);
        let (mut views, mut pods) = (self.world.changes(), self.world.pods.changes());
        let mut namespaces = self.world.namespaces.changes();
        let (mut written, mut written_at, mut told) = (None, Instant::now(), false);
        loop {
            views.mark_unchanged();
            pods.mark_unchanged();
            namespaces.mark_unchanged();
            let snapshot = self.snapshot();
            if written.as_ref() != Some(&snapshot) || written_at.elapsed() >= heartbeat || stop.is_cancelled()
            {
                match file.write(&snapshot, self.now().as_millis()) {
                    Ok(()) => (written, written_at, told) = (Some(snapshot), Instant::now(), false),
                    Err(error) if !told => {
                        told = true;
                        warn!(%error, "a start while the store is away would not know what this agent knows");
                    }
                    Err(_) => {}
                }
            }
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => continue,
                _ = views.changed() => {}
                _ = pods.changed() => {}
                _ = namespaces.changed() => {}
                () = self.fresh.changed() => {}
                () = tokio::time::sleep(heartbeat) => continue,
            }
            let _ = stop.run_until_cancelled(tokio::time::sleep(DEBOUNCE)).await;
        }
    }

    /// What an earlier agent had read of namespaces.
    pub(super) fn remember_fresh(&self, records: Vec<FreshRecord>) {
        for FreshRecord { pod, uid, namespace } in records {
            if let Ok(key) = pod.parse::<Key>() {
                self.fresh.note(key, uid, namespace.map(Versioned::from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_serve_before_the_store_answers_only_if_nobody_could_have_taken_them() {
        let check = |absent_s: u64, expected: bool| {
            let absent_for = Duration::from_secs(absent_s);
            assert_eq!(may_serve(absent_for, Duration::from_secs(600)), expected, "{absent_s} s");
        };
        check(0, true);
        check(599, true);
        check(600, false);
        check(86_400, false);
    }
}
