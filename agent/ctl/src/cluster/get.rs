//! `get` and `pools export` from the API server.

use model::{MarkLayout, TagId};
use rpc::{GetReply, GetRequest, PoolRange, PoolsExportReply};
use serde_json::{Value, json};
use store::kubernetes::KubernetesStore;
use store::manifest::{Kind, pool_of, to_manifest};
use store::resource::{
    IpBlock, IpPool, IpPoolRegistry, IpReservation, IpamConfig, Namespace, NodeAddresses, Pod, Resource,
};
use store::{Key, Store};

use super::asked;
use crate::exit::{Exit, Failure};

/// Objects as manifests.
pub(super) async fn objects(
    store: &KubernetesStore,
    operation: &str,
    request: &GetRequest,
) -> Result<GetReply, Failure> {
    let kind: Kind = request.kind.parse().map_err(|error| usage(operation, error))?;
    let key: Option<Key> =
        request.name.as_deref().map(str::parse).transpose().map_err(|error| usage(operation, error))?;
    let key = key.as_ref();
    let mut objects = match kind {
        Kind::IpPool => manifests::<IpPool>(store, operation, key).await?,
        Kind::IpReservation => manifests::<IpReservation>(store, operation, key).await?,
        Kind::IpBlock => manifests::<IpBlock>(store, operation, key).await?,
        Kind::IpamConfig => manifests::<IpamConfig>(store, operation, key).await?,
        Kind::NodeAddresses => manifests::<NodeAddresses>(store, operation, key).await?,
        Kind::Namespace => manifests::<Namespace>(store, operation, key).await?,
        Kind::Pod => manifests::<Pod>(store, operation, key).await?,
    };
    if let Some(key) = key.filter(|_| objects.is_empty()) {
        return Err(absent(operation, kind, key));
    }
    if kind == Kind::IpPool {
        let registry = registry(store, operation).await?;
        for object in &mut objects {
            add_tag(&registry, object);
        }
    }
    Ok(GetReply { objects })
}

/// The ranges of all pools. Marks are those of the default mask, which agents may be configured away from.
pub(super) async fn ranges(store: &KubernetesStore, operation: &str) -> Result<PoolsExportReply, Failure> {
    let registry = registry(store, operation).await?;
    let marks = MarkLayout::DEFAULT;
    let mut pools = Vec::new();
    for object in asked(operation, store.list::<IpPool>()).await?.items {
        // A pool that does not read is served by nobody.
        let Ok(pool) = pool_of(&object.value) else { continue };
        let entry = registry.entry(&pool.name).filter(|entry| entry.uid == object.uid);
        let tag = entry.map(|entry| entry.tag);
        pools.push(PoolRange {
            name: pool.name.to_string(),
            cidr: pool.cidr.to_string(),
            tag: tag.map_or(0, TagId::get),
            mark: tag.map_or(0, |tag| marks.mark(tag, pool.nat_outgoing).value),
            mark_mask: marks.mask(),
            dscp: pool.dscp.map(model::Dscp::get),
            nat_outgoing: pool.nat_outgoing,
            disabled: pool.disabled,
        });
    }
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(PoolsExportReply { pools })
}

/// The registry, read live; none is an empty one.
pub(super) async fn registry(store: &KubernetesStore, operation: &str) -> Result<ipam::Registry, Failure> {
    let key = Key::named(IpPoolRegistry::NAME).map_err(|error| usage(operation, error))?;
    let stored = asked(operation, store.get::<IpPoolRegistry>(&key)).await?;
    let read = stored.map(|stored| store::registry_of(&stored.value)).transpose();
    read.map(Option::unwrap_or_default).map_err(|error| {
        let message = format!("{operation}: the stored pool registry does not read: {error}");
        Failure::new(Exit::Failed, message)
    })
}

async fn manifests<R: Resource>(
    store: &KubernetesStore,
    operation: &str,
    key: Option<&Key>,
) -> Result<Vec<Value>, Failure> {
    Ok(match key {
        Some(key) => asked(operation, store.get::<R>(key)).await?.iter().map(to_manifest).collect(),
        None => asked(operation, store.list::<R>()).await?.items.iter().map(to_manifest).collect(),
    })
}

/// As an agent shows a pool: its tag, and whether it is being deleted.
fn add_tag(registry: &ipam::Registry, object: &mut Value) {
    let name = object["metadata"]["name"].as_str().and_then(|name| name.parse().ok());
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let entry = name.and_then(|name| registry.entry(&name)).filter(|entry| entry.uid == uid);
    if let Some(entry) = entry {
        object["status"]["tag"] = json!(entry.tag.get());
        object["status"]["terminating"] = json!(entry.terminating);
    }
}

pub(super) fn absent(operation: &str, kind: Kind, key: &Key) -> Failure {
    Failure::new(Exit::NotFound, format!("{operation}: {kind} {key} does not exist"))
}

pub(super) fn usage(operation: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format!("{operation}: {error}"))
}
