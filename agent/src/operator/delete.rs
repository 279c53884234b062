//! `delete`: one object.

use model::PoolName;
use rpc::{ApplyReply, DeleteRequest, ErrorCode, ObjectResult};
use store::manifest::Kind;
use store::resource::Resource;
use store::{Key, Store, StoreError};

use super::Operator;
use crate::answer::{Answer, internal, invalid, refuse, try_again};
use crate::node::mirror::Mirror;
use crate::node::retire::Retired;

impl<S: Store> Operator<S> {
    /// Serves a delete. A pool with addresses in use stays, terminating, until the last one is freed.
    ///
    /// # Errors
    /// An unknown kind, a block (agents own those), or no object of that name.
    pub async fn delete(&self, request: &DeleteRequest) -> Answer<ApplyReply> {
        let kind: Kind = request.kind.parse().map_err(invalid)?;
        let key: Key = request.name.parse().map_err(invalid)?;
        let _turn = self.writing.lock().await;
        let world = &self.node.world;
        let outcome = match kind {
            Kind::IpPool => self.delete_pool(&key).await?,
            Kind::IpReservation => self.delete_object(kind, &world.reservations, &key).await?,
            Kind::IpamConfig => self.delete_object(kind, &world.ipam_config, &key).await?,
            Kind::Namespace => self.delete_object(kind, &world.namespaces, &key).await?,
            Kind::Pod => self.delete_object(kind, &world.pods, &key).await?,
            Kind::NodeAddresses => {
                return Err(invalid(
                    "what a node has given out is its agent's to say, and goes with the node",
                ));
            }
            Kind::IpBlock => {
                return Err(invalid("blocks are released by the agents that own them, once they are empty"));
            }
        };
        let result =
            ObjectResult { kind: kind.word().to_owned(), name: key.to_string(), outcome: outcome.to_owned() };
        Ok(ApplyReply { results: vec![result], warnings: Vec::new() })
    }

    async fn delete_object<R: Resource>(
        &self,
        kind: Kind,
        mirror: &Mirror<R>,
        key: &Key,
    ) -> Answer<&'static str> {
        let object = mirror.get(key).ok_or_else(|| not_found(kind, key))?;
        let deleted = self.node.store.compare_and_delete::<R>(key, object.revision).await;
        let revision = deleted.map_err(|error| match error {
            StoreError::Conflict { .. } => try_again(error),
            StoreError::NotFound { .. } => not_found(kind, key),
            StoreError::Unavailable { .. } => try_again(error),
            StoreError::AlreadyExists { .. } | StoreError::Expired { .. } | StoreError::Internal { .. } => {
                internal(error)
            }
        })?;
        mirror.reached(revision).await;
        self.node.world.refresh();
        Ok("deleted")
    }

    async fn delete_pool(&self, key: &Key) -> Answer<&'static str> {
        let object = self.node.world.pools.get(key).ok_or_else(|| not_found(Kind::IpPool, key))?;
        let name: PoolName = key.as_str().parse().map_err(internal)?;
        // A pool that was never admitted has no entry to mark: it goes at once.
        let view = self.node.world.view();
        if view.registry.entry(&name).is_none_or(|entry| entry.uid != object.uid) {
            return self.delete_object(Kind::IpPool, &self.node.world.pools, key).await;
        }
        let retired = self.node.retire_pool(&name, &object.uid).await.map_err(try_again)?;
        self.node.reconciler.run().await;
        Ok(match retired {
            Retired::Gone => "deleted",
            Retired::Terminating => "terminating",
        })
    }
}

fn not_found(kind: Kind, key: &Key) -> rpc::RpcError {
    refuse(ErrorCode::NotFound, format!("{kind} {key} does not exist"))
}
