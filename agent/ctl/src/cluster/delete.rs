//! `delete` at the API server.
//!
//! A pool is only marked, as by `kubectl delete`: agents see the mark, retire the pool and let go of it when its last
//! block is released. Reservations go at once.

use rpc::{ApplyReply, DeleteRequest, ObjectResult};
use store::kubernetes::KubernetesStore;
use store::manifest::Kind;
use store::resource::{IpPool, IpReservation, IpamConfig, Resource};
use store::{Key, Store};

use super::asked;
use super::get::{absent, usage};
use crate::exit::{Exit, Failure};

pub(super) async fn serve(
    store: &KubernetesStore,
    operation: &str,
    request: &DeleteRequest,
) -> Result<ApplyReply, Failure> {
    let kind: Kind = request.kind.parse().map_err(|error| usage(operation, error))?;
    let key: Key = request.name.parse().map_err(|error| usage(operation, error))?;
    let outcome = match kind {
        Kind::IpPool => {
            let there = asked(operation, store.get::<IpPool>(&key)).await?;
            let there = there.ok_or_else(|| absent(operation, kind, &key))?;
            let gone = asked(operation, store.request_deletion::<IpPool>(&key, &there)).await?;
            if gone { "deleted" } else { "terminating" }
        }
        Kind::IpReservation => delete_at_once::<IpReservation>(store, operation, kind, &key).await?,
        Kind::IpamConfig => delete_at_once::<IpamConfig>(store, operation, kind, &key).await?,
        Kind::NodeAddresses => {
            let message = format!("{operation}: what a node has given out is its agent's to say");
            return Err(Failure::new(Exit::Failed, message));
        }
        Kind::IpBlock => {
            let message = format!("{operation}: blocks are released by the agents that own them");
            return Err(Failure::new(Exit::Failed, message));
        }
        Kind::Namespace | Kind::Pod => {
            let message = format!("{operation}: namespaces and pods belong to Kubernetes");
            return Err(Failure::new(Exit::Failed, message).with_next("delete it with kubectl"));
        }
    };
    let result =
        ObjectResult { kind: kind.word().to_owned(), name: key.to_string(), outcome: outcome.to_owned() };
    Ok(ApplyReply { results: vec![result], warnings: Vec::new() })
}

async fn delete_at_once<R: Resource>(
    store: &KubernetesStore,
    operation: &str,
    kind: Kind,
    key: &Key,
) -> Result<&'static str, Failure> {
    let there = asked(operation, store.get::<R>(key)).await?;
    let there = there.ok_or_else(|| absent(operation, kind, key))?;
    asked(operation, store.compare_and_delete::<R>(key, there.revision)).await?;
    Ok("deleted")
}
