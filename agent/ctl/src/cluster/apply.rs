//! `apply` to the API server.
//!
//! 1. Every document is checked, and every mistake is told at once.
//! 2. Pools are tried against the registry as it is now: one that could not be admitted is refused before anything is
//!    written. Agents admit them afterwards; of two operators at once, the later pool is then shown as not admitted.
//! 3. Objects are written in order. When one fails, those before it are put back.

use std::collections::BTreeMap;

use model::{MarkLayout, PoolName};
use rpc::{ApplyReply, ApplyRequest, ObjectResult};
use store::Store;
use store::change::{AnyWrite, KnownPool, Write, decide_refusals, exec_all};
use store::kubernetes::KubernetesStore;
use store::manifest::{self, Object, Validated};
use store::resource::IpPool;

use super::{asked, failed, get};
use crate::exit::{Exit, Failure};

pub(super) async fn serve(
    store: &KubernetesStore,
    operation: &str,
    request: &ApplyRequest,
) -> Result<ApplyReply, Failure> {
    let document = |document: &rpc::Document| manifest::Document {
        source: document.source.clone(),
        body: document.body.clone(),
    };
    let documents: Vec<manifest::Document> = request.documents.iter().map(document).collect();
    let validated = manifest::validate(&documents).map_err(|errors| {
        Failure::new(Exit::Failed, format!("{operation}: nothing was applied"))
            .with_details(errors.iter().map(ToString::to_string).collect())
    })?;
    let pools = pools(store, operation).await?;
    check_admissions(store, operation, &validated, &pools).await?;
    let mut reply = ApplyReply::default();
    let mut writes = Vec::new();
    for mut object in validated {
        reply.warnings.append(&mut object.warnings);
        let write = plan(store, operation, object).await?;
        reply.results.push(ObjectResult {
            kind: write.kind().word().to_owned(),
            name: write.key().to_string(),
            outcome: write.outcome().to_owned(),
        });
        writes.push(write);
    }
    if !request.dry_run {
        exec_all(store, &writes).await.map_err(|error| {
            let failure = failed(operation, &error.error);
            let what = if error.left.is_empty() { "nothing was applied" } else { "applied in part" };
            Failure { message: format!("{} ({what})", failure.message), details: error.left, ..failure }
        })?;
    }
    Ok(reply)
}

async fn pools(store: &KubernetesStore, operation: &str) -> Result<BTreeMap<PoolName, KnownPool>, Failure> {
    let stored = asked(operation, store.list::<IpPool>()).await?.items;
    let known = stored.into_iter().filter_map(|pool| {
        let terminating = pool.value.metadata.is_being_deleted();
        Some((pool.value.metadata.name.parse().ok()?, KnownPool { uid: pool.uid, terminating }))
    });
    Ok(known.collect())
}

async fn check_admissions(
    store: &KubernetesStore,
    operation: &str,
    objects: &[Validated],
    pools: &BTreeMap<PoolName, KnownPool>,
) -> Result<(), Failure> {
    if !objects.iter().any(|object| matches!(object.object, Object::Pool(_))) {
        return Ok(());
    }
    let registry = get::registry(store, operation).await?;
    let known = |name: &PoolName| {
        let mut known = pools.get(name)?.clone();
        known.terminating |= registry.entry(name).is_some_and(|entry| entry.terminating);
        Some(known)
    };
    let refusals = decide_refusals(objects, &registry, MarkLayout::DEFAULT.max_tag_id(), known);
    if refusals.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{operation}: nothing was applied")).with_details(refusals))
}

/// From what is there now to what a manifest says. Uids are the server's to give.
async fn plan(store: &KubernetesStore, operation: &str, validated: Validated) -> Result<AnyWrite, Failure> {
    let key = &validated.key;
    match validated.object {
        Object::Pool(pool) => {
            let before = asked(operation, store.get(key)).await?;
            Ok(AnyWrite::of_pool(key, before, pool.0, String::new))
        }
        Object::Reservation(object, _) => {
            let before = asked(operation, store.get(key)).await?;
            Ok(AnyWrite::Reservation(Write::plan(key, before, object, String::new)))
        }
        Object::IpamConfig(object) => {
            let before = asked(operation, store.get(key)).await?;
            Ok(AnyWrite::IpamConfig(Write::plan(key, before, object, String::new)))
        }
        Object::Namespace(_) | Object::Pod(_) => {
            let message =
                format!("{operation}: {}: namespaces and pods belong to Kubernetes", validated.source);
            Err(Failure::new(Exit::Failed, message).with_next("apply them with kubectl"))
        }
    }
}
