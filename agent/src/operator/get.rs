//! `get`: objects as manifests.

use rpc::{ErrorCode, GetReply, GetRequest};
use serde_json::{Value, json};
use store::manifest::{Kind, to_manifest};
use store::resource::{IpBlock, NodeAddresses, Resource};
use store::{Key, Store};

use super::Operator;
use crate::answer::{Answer, invalid, refuse, try_again};
use crate::node::mirror::Mirror;
use crate::node::world::View;

impl<S: Store> Operator<S> {
    /// Serves a get, from this node's copies; of blocks and other nodes' addresses, of which none
    /// are kept, from the store.
    ///
    /// # Errors
    /// An unknown kind, no object of that name, or the store does not answer.
    pub async fn get(&self, request: &GetRequest) -> Answer<GetReply> {
        let kind: Kind = request.kind.parse().map_err(invalid)?;
        let key = request.name.as_deref().map(str::parse::<Key>).transpose().map_err(invalid)?;
        let world = &self.node.world;
        let mut objects = match kind {
            Kind::IpPool => manifests(&world.pools, key.as_ref()),
            Kind::IpReservation => manifests(&world.reservations, key.as_ref()),
            Kind::IpBlock => self.stored::<IpBlock>(key.as_ref()).await?,
            Kind::IpamConfig => manifests(&world.ipam_config, key.as_ref()),
            Kind::NodeAddresses => self.stored::<NodeAddresses>(key.as_ref()).await?,
            Kind::Namespace => manifests(&world.namespaces, key.as_ref()),
            Kind::Pod => manifests(&world.pods, key.as_ref()),
        };
        if let Some(key) = key.filter(|_| objects.is_empty()) {
            return Err(refuse(ErrorCode::NotFound, format!("{kind} {key} does not exist")));
        }
        if kind == Kind::IpPool {
            let view = world.view();
            for object in &mut objects {
                add_pool_status(&view, object);
            }
        }
        Ok(GetReply { objects })
    }
}

impl<S: Store> Operator<S> {
    async fn stored<R: Resource>(&self, key: Option<&Key>) -> Answer<Vec<Value>> {
        let store = &self.node.store;
        Ok(match key {
            Some(key) => store.get::<R>(key).await.map_err(try_again)?.iter().map(to_manifest).collect(),
            None => store.list::<R>().await.map_err(try_again)?.items.iter().map(to_manifest).collect(),
        })
    }
}

fn manifests<R: Resource>(mirror: &Mirror<R>, key: Option<&Key>) -> Vec<Value> {
    let objects = mirror.read();
    match key {
        Some(key) => objects.get(key).map(to_manifest).into_iter().collect(),
        None => objects.values().map(to_manifest).collect(),
    }
}

/// The tag, and whether the pool hands out addresses, as conditions of Kubernetes.
fn add_pool_status(view: &View, object: &mut Value) {
    let name = object["metadata"]["name"].as_str().and_then(|name| name.parse().ok());
    let Some(pool) = name.and_then(|name| view.pools.by_name(&name)) else { return };
    let entry = view.registry.entry(&pool.name).filter(|entry| entry.uid == pool.uid);
    let blocked = match (entry, &pool.not_admitted) {
        (_, Some(reason)) => Some(("NotAdmitted", reason.clone())),
        (None, None) => Some(("Pending", "it is not admitted yet".to_owned())),
        (Some(_), None) if pool.tag.is_none() => {
            Some(("Pending", "the kernel does not know its tag yet".to_owned()))
        }
        (Some(_), None) if pool.terminating => Some(("Terminating", "it is being deleted".to_owned())),
        (Some(_), None) if pool.disabled => Some(("Disabled", "it is disabled".to_owned())),
        (Some(_), None) => None,
    };
    let condition = match &blocked {
        None => json!({"type": "Allocatable", "status": "True", "reason": "Admitted"}),
        Some((reason, message)) => {
            json!({"type": "Allocatable", "status": "False", "reason": reason, "message": message})
        }
    };
    let mut status = json!({"terminating": pool.terminating, "conditions": [condition]});
    if let Some(entry) = entry {
        status["tag"] = json!(entry.tag.get());
    }
    object["status"] = status;
}
