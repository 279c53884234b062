//! The `store` part of the configuration, and `storePath`.

use std::path::PathBuf;

use super::raw::{Raw, Spanned};
use super::{ConfigError, Key};

/// The embedded store's file.
const DEFAULT_PATH: &str = "/var/lib/poolward/store.redb";

/// Where the cluster's objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// A file on this machine, for one node.
    Embedded {
        /// The file.
        path: PathBuf,
    },
    /// Custom resources of a Kubernetes API server, for any number of nodes.
    Kubernetes {
        /// How it is reached; `None`: as a pod of the cluster.
        kubeconfig: Option<PathBuf>,
    },
}

impl StoreConfig {
    /// Whether there may be other nodes.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Kubernetes { .. })
    }
}

/// Checks the part; a key that belongs to the other type is a mistake.
pub(super) fn resolve(raw: &Raw, file: &str) -> Result<StoreConfig, ConfigError> {
    let at = |key: &'static str| Key { file, key };
    let section = raw.store.as_ref();
    let shared = at("store.type").choice(
        section.and_then(|section| section.kind.as_ref()),
        &[("embedded", false), ("kubernetes", true)],
    )?;
    let kubeconfig = section.and_then(|section| section.kubeconfig.as_ref());
    let absolute = |key: &'static str, value: &Spanned<PathBuf>| {
        let path = &value.value;
        let checked = path.is_absolute().then(|| path.clone());
        checked.ok_or_else(|| at(key).error(value, "expected an absolute path"))
    };
    match (shared, kubeconfig, &raw.store_path) {
        (false, None, None) => Ok(StoreConfig::Embedded { path: DEFAULT_PATH.into() }),
        (false, None, Some(path)) => Ok(StoreConfig::Embedded { path: absolute("storePath", path)? }),
        (false, Some(path), _) => {
            Err(at("store.kubeconfig").error(path, "it belongs to store type kubernetes"))
        }
        (true, _, Some(path)) => Err(at("storePath").error(path, "it belongs to store type embedded")),
        (true, None, None) => Ok(StoreConfig::Kubernetes { kubeconfig: None }),
        (true, Some(path), None) => {
            Ok(StoreConfig::Kubernetes { kubeconfig: Some(absolute("store.kubeconfig", path)?) })
        }
    }
}
