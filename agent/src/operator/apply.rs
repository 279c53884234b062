//! `apply`: creating and changing objects, all or none.
//!
//! 1. Every document is checked, and every mistake is told at once.
//! 2. Pools are tried against the registry: a pool that could not be admitted is refused before anything is written.
//! 3. Objects are written in order. When one fails, those before it are put back.
//! 4. The node has seen the new objects, and the kernel the new pools, before the reply goes out.

use model::PoolName;
use rpc::{ApplyReply, ApplyRequest, ErrorCode, ObjectResult, RpcError};
use store::change::{AnyWrite, KnownPool, Write, decide_refusals, exec_all};
use store::manifest::{self, ManifestError, Object, Validated};
use store::{Store, StoreError};
use tracing::{error, info};

use super::Operator;
use crate::answer::{Answer, internal, invalid, refuse, try_again};
use crate::pods::INVENTED_UID_PREFIX;

impl<S: Store> Operator<S> {
    /// Serves an apply.
    ///
    /// # Errors
    /// [`ErrorCode::Invalid`] with every mistake in its details; or the store failed, and what had been written was
    /// put back.
    pub async fn apply(&self, request: ApplyRequest) -> Answer<ApplyReply> {
        let documents: Vec<manifest::Document> = request
            .documents
            .into_iter()
            .map(|document| manifest::Document { source: document.source, body: document.body })
            .collect();
        let validated = manifest::validate(&documents).map_err(|errors| mistakes(&errors))?;
        let _turn = self.writing.lock().await;
        self.check_admissions(&validated)?;
        let mut reply = ApplyReply::default();
        let mut writes = Vec::new();
        for mut object in validated {
            reply.warnings.append(&mut object.warnings);
            let write = self.plan(object);
            reply.results.push(ObjectResult {
                kind: write.kind().word().to_owned(),
                name: write.key().to_string(),
                outcome: write.outcome().to_owned(),
            });
            writes.push(write);
        }
        if request.dry_run {
            return Ok(reply);
        }
        self.write_all(&writes).await?;
        if writes.iter().any(|write| {
            matches!(write, AnyWrite::Pool(_) | AnyWrite::Reservation(_) | AnyWrite::IpamConfig(_))
        }) {
            self.node.world.refresh();
            let admitted = self.node.admit_waiting().await;
            admitted.map_err(|error| {
                try_again(format!("the objects are stored, but pools wait to be admitted: {error}"))
            })?;
            let errors = self.node.reconciler.run().await;
            reply.warnings.extend(
                errors
                    .into_iter()
                    .map(|error| format!("applied, but the kernel is not in step yet: {error}")),
            );
        }
        info!(objects = writes.len(), "applied");
        Ok(reply)
    }

    /// Refuses pools that could not be admitted, before anything is written.
    fn check_admissions(&self, objects: &[Validated]) -> Answer<()> {
        let view = self.node.world.view();
        let known = |name: &PoolName| {
            let known = view.pools.by_name(name)?;
            Some(KnownPool { uid: known.uid.clone(), terminating: known.terminating })
        };
        let max_tag_id = self.node.config.mark_layout.max_tag_id();
        let mut errors = decide_refusals(objects, &view.registry, max_tag_id, known);
        let Some(first) = errors.first() else { return Ok(()) };
        let mut refusal = invalid(format!("nothing was applied: {first}"));
        refusal.details = errors.split_off(1);
        Err(refusal)
    }

    /// From this node's copies to what a manifest says.
    fn plan(&self, validated: Validated) -> AnyWrite {
        let (world, random, key) = (&self.node.world, &self.node.environment.random, &validated.key);
        let uuid = || random.uuid();
        match validated.object {
            Object::Pool(pool) => AnyWrite::of_pool(key, world.pools.get(key), pool.0, uuid),
            Object::Reservation(object, _) => {
                AnyWrite::Reservation(Write::plan(key, world.reservations.get(key), object, uuid))
            }
            Object::IpamConfig(object) => {
                AnyWrite::IpamConfig(Write::plan(key, world.ipam_config.get(key), object, uuid))
            }
            Object::Namespace(object) => {
                AnyWrite::Namespace(Write::plan(key, world.namespaces.get(key), object, uuid))
            }
            Object::Pod(object) => AnyWrite::Pod(Write::plan(key, world.pods.get(key), object, || {
                format!("{INVENTED_UID_PREFIX}{}", uuid())
            })),
        }
    }

    /// Writes all or none, and waits until this node's copies have seen it.
    async fn write_all(&self, writes: &[AnyWrite]) -> Answer<()> {
        let world = &self.node.world;
        let written = exec_all(&self.node.store, writes).await.map_err(|failed| {
            for left in &failed.left {
                error!(%left, "an object written by an apply that failed stays");
            }
            write_refusal(&failed.error, failed.left)
        })?;
        for (write, revision) in writes.iter().zip(written) {
            let Some(revision) = revision else { continue };
            match write {
                AnyWrite::Pool(_) => world.pools.reached(revision).await,
                AnyWrite::Reservation(_) => world.reservations.reached(revision).await,
                AnyWrite::IpamConfig(_) => world.ipam_config.reached(revision).await,
                AnyWrite::Namespace(_) => world.namespaces.reached(revision).await,
                AnyWrite::Pod(_) => world.pods.reached(revision).await,
            }
        }
        Ok(())
    }
}

fn mistakes(errors: &[ManifestError]) -> RpcError {
    let count = errors.len();
    let plural = if count == 1 { "mistake" } else { "mistakes" };
    RpcError {
        code: ErrorCode::Invalid,
        message: format!("nothing was applied: {count} {plural}"),
        details: errors.iter().map(ToString::to_string).collect(),
    }
}

fn write_refusal(error: &StoreError, left: Vec<String>) -> RpcError {
    let message = if left.is_empty() {
        format!("nothing was applied: {error}")
    } else {
        format!("applied in part: {error}")
    };
    let mut refusal = match error {
        StoreError::Conflict { .. } | StoreError::AlreadyExists { .. } => {
            refuse(ErrorCode::Conflict, message)
        }
        StoreError::Unavailable { .. } => try_again(message),
        StoreError::NotFound { .. } | StoreError::Expired { .. } | StoreError::Internal { .. } => {
            internal(message)
        }
    };
    refusal.details = left;
    refusal
}
