//! The snapshot beside the journal: what this node last knew of the cluster, so that an agent that is started again in
//! the same boot goes on while the store does not answer (rule 9 of `docs/design/ipam.md`).
//!
//! One line in the journal's format, replaced as a whole. It is knowledge, not truth: a file that does not read, is of
//! another boot or of another node, counts as none, and the start waits for the store.

use std::io::Write;
use std::path::{Path, PathBuf};

use model::Labels;
use serde::{Deserialize, Serialize};
use store::resource::{IpBlock, IpPool, IpPoolRegistry, IpReservation, IpamConfig, Namespace, Pod};
use store::{Revision, Versioned};

use super::Owner;
use super::file::{decode, line};

const FORMAT: &str = "poolward-snapshot";
const VERSION: u32 = 1;

/// The greatest file that is written or read: hundreds of pods with all their annotations are far less.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What this node last knew of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    /// UID of this node's Node object.
    pub node_uid: String,
    /// This node's labels.
    pub node_labels: Labels,
    /// All pools.
    pub pools: Vec<ObjectRecord<IpPool>>,
    /// The registry.
    pub registry: Vec<ObjectRecord<IpPoolRegistry>>,
    /// All reservations.
    pub reservations: Vec<ObjectRecord<IpReservation>>,
    /// Blocks that concern this node.
    pub blocks: Vec<ObjectRecord<IpBlock>>,
    /// Settings of the whole cluster, if there are any.
    pub ipam_config: Vec<ObjectRecord<IpamConfig>>,
    /// This node's pods.
    pub pods: Vec<ObjectRecord<Pod>>,
    /// Their namespaces, as the copy has them.
    pub namespaces: Vec<ObjectRecord<Namespace>>,
    /// And as they were read after each pod had appeared.
    pub fresh: Vec<FreshRecord>,
}

/// A namespace that was read after a pod of it had appeared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FreshRecord {
    /// The pod, `NAMESPACE/NAME`.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// Its namespace; `None`: there was none.
    pub namespace: Option<ObjectRecord<Namespace>>,
}

/// An object of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectRecord<R> {
    /// Its UID.
    pub uid: String,
    /// Which of its states this is.
    pub revision: u64,
    /// The object.
    pub object: R,
}

impl<R: Clone> From<&Versioned<R>> for ObjectRecord<R> {
    fn from(object: &Versioned<R>) -> Self {
        Self { uid: object.uid.clone(), revision: object.revision.get(), object: object.value.clone() }
    }
}

impl<R> From<ObjectRecord<R>> for Versioned<R> {
    fn from(record: ObjectRecord<R>) -> Self {
        Self { value: record.object, uid: record.uid, revision: Revision::new(record.revision) }
    }
}

/// The line in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<S> {
    snapshot: String,
    version: u32,
    node: String,
    boot_id: String,
    /// When an agent of this node was last known to run, in milliseconds of `CLOCK_BOOTTIME`.
    alive_at_ms: u64,
    content: S,
}

/// Why a snapshot was not written.
#[derive(Debug, thiserror::Error)]
#[error("write snapshot {path}: {reason}")]
pub struct SnapshotError {
    path: PathBuf,
    reason: String,
}

/// Where it lies. One for each agent, which holds the journal's lock.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    owner: Owner,
}

impl SnapshotFile {
    /// The snapshot beside the journal in `dir`.
    #[must_use]
    pub fn new(dir: &Path, owner: Owner) -> Self {
        Self { path: dir.join("snapshot"), owner }
    }

    /// What an earlier agent of this boot knew, and when it was last known to run; `None`: there is none.
    ///
    /// # Errors
    /// There is one that is of no use; the text says why.
    pub fn read(&self) -> Result<Option<(Snapshot, u64)>, String> {
        let length = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
            Ok(meta) => meta.len(),
        };
        if length > MAX_FILE_BYTES {
            return Err(format!("{length} bytes are more than the {MAX_FILE_BYTES} a snapshot may have"));
        }
        let bytes = std::fs::read(&self.path).map_err(|error| error.to_string())?;
        let stored: Stored<Snapshot> = decode(&bytes)?;
        if stored.snapshot != FORMAT || stored.version != VERSION {
            return Err(format!("it is a {:?} of version {}", stored.snapshot, stored.version));
        }
        if stored.node != self.owner.node {
            return Err(format!("it belongs to node {:?}, this is {:?}", stored.node, self.owner.node));
        }
        let of_this_boot = stored.boot_id == self.owner.boot_id;
        Ok(of_this_boot.then_some((stored.content, stored.alive_at_ms)))
    }

    /// Replaces it, atomically.
    ///
    /// # Errors
    /// It is too large, or the file system is full or gone; the old one stays.
    pub fn write(&self, snapshot: &Snapshot, alive_at_ms: u64) -> Result<(), SnapshotError> {
        let failed = |reason: String| SnapshotError { path: self.path.clone(), reason };
        let stored = Stored {
            snapshot: FORMAT.to_owned(),
            version: VERSION,
            node: self.owner.node.clone(),
            boot_id: self.owner.boot_id.clone(),
            alive_at_ms,
            content: snapshot,
        };
        let text = line(&stored).map_err(|error| failed(error.to_string()))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(failed(format!("{} bytes are more than {MAX_FILE_BYTES}", text.len())));
        }
        let next = self.path.with_extension("next");
        let write = || {
            let mut file = std::fs::File::create(&next)?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&next, &self.path)
        };
        write().map_err(|error: std::io::Error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use store::resource::Metadata;

    use super::*;

    fn owner(boot_id: &str) -> Owner {
        Owner { node: "n".to_owned(), boot_id: boot_id.to_owned() }
    }

    fn snapshot() -> Snapshot {
        let namespace = ObjectRecord {
            uid: "u".to_owned(),
            revision: 7,
            object: Namespace { metadata: Metadata::named("default") },
        };
        let fresh = FreshRecord {
            pod: "default/web".to_owned(),
            uid: "p".to_owned(),
            namespace: Some(namespace.clone()),
        };
        Snapshot {
            node_uid: "uid-1".to_owned(),
            namespaces: vec![namespace],
            fresh: vec![fresh],
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_snapshot_comes_back_in_its_boot_and_in_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(dir.path(), owner("boot-1"));
        assert_eq!(file.read(), Ok(None));
        file.write(&snapshot(), 4711).unwrap();
        assert_eq!(file.read(), Ok(Some((snapshot(), 4711))));
        assert_eq!(SnapshotFile::new(dir.path(), owner("boot-2")).read(), Ok(None));
        let other = Owner { node: "m".to_owned(), boot_id: "boot-1".to_owned() };
        assert!(SnapshotFile::new(dir.path(), other).read().unwrap_err().contains("belongs to node \"n\""));
    }

    #[test]
    fn whatever_is_cut_or_changed_in_it_makes_it_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(dir.path(), owner("boot-1"));
        file.write(&snapshot(), 1).unwrap();
        let path = dir.path().join("snapshot");
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() - 1 {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(file.read().is_err(), "{cut} of {} bytes", whole.len());
        }
        for at in 0..whole.len() - 1 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(file.read().is_err(), "byte {at} changed");
        }
    }
}
