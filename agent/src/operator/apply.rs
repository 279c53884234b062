//! `apply`: creating and changing objects, all or none.
//!
//! 1. Every document is checked, and every mistake is told at once.
//! 2. Pools are tried against the registry: a pool that could not be admitted is refused before anything is written.
//! 3. Objects are written in order. When one fails, those before it are put back.
//! 4. The node has seen the new objects, and the kernel the new pools, before the reply goes out.

use ipam::Candidate;
use rpc::{ApplyReply, ApplyRequest, ErrorCode, ObjectResult, RpcError};
use store::manifest::{self, Kind, ManifestError, Object, Validated};
use store::resource::{IpPool, IpReservation, Namespace, Pod, Resource};
use store::{Key, Revision, Store, StoreError, Versioned};
use tracing::{error, info};

use super::Operator;
use crate::answer::{Answer, internal, invalid, refuse, try_again};
use crate::node::admission::decide_admissions;
use crate::node::mirror::Mirror;
use crate::node::world::World;
use crate::pods::INVENTED_UID_PREFIX;
use crate::random::Random;

/// A change of one object that was checked and not made.
#[derive(Debug)]
struct Write<R> {
    key: Key,
    before: Option<Versioned<R>>,
    after: R,
}

/// A change of any kind of object.
#[derive(Debug)]
enum AnyWrite {
    Pool(Box<Write<IpPool>>),
    Reservation(Write<IpReservation>),
    Namespace(Write<Namespace>),
    Pod(Write<Pod>),
}

/// The same for each kind, with the kind's copy.
macro_rules! each {
    ($any:expr, $world:expr, |$write:ident, $mirror:ident| $body:expr) => {
        match $any {
            AnyWrite::Pool($write) => {
                let $mirror = &$world.pools;
                $body
            }
            AnyWrite::Reservation($write) => {
                let $mirror = &$world.reservations;
                $body
            }
            AnyWrite::Namespace($write) => {
                let $mirror = &$world.namespaces;
                $body
            }
            AnyWrite::Pod($write) => {
                let $mirror = &$world.pods;
                $body
            }
        }
    };
}

impl<R: Resource> Write<R> {
    fn plan(mirror: &Mirror<R>, key: &Key, mut after: R, invented: impl FnOnce() -> String) -> Self {
        let before = mirror.get(key);
        let metadata = after.metadata_mut();
        if metadata.uid.is_empty() {
            metadata.uid = before.as_ref().map_or_else(invented, |before| before.uid.clone());
        }
        // What the store and others keep in it is no manifest's business.
        if let Some(before) = before.as_ref().map(|before| before.value.metadata()) {
            metadata.finalizers.clone_from(&before.finalizers);
            metadata.deletion_timestamp.clone_from(&before.deletion_timestamp);
            metadata.owner_references.clone_from(&before.owner_references);
        }
        Self { key: key.clone(), before, after }
    }

    fn outcome(&self) -> &'static str {
        match &self.before {
            None => "created",
            Some(before) if before.value == self.after => "unchanged",
            Some(_) => "configured",
        }
    }

    /// The revision it is in force at; `None` if nothing was to be done.
    async fn exec<S: Store>(&self, store: &S) -> Result<Option<Revision>, StoreError> {
        let Some(before) = &self.before else {
            return store.create(self.after.clone()).await.map(|created| Some(created.revision));
        };
        if before.value == self.after {
            return Ok(None);
        }
        if before.uid == self.after.metadata().uid {
            return store
                .compare_and_swap(before.revision, self.after.clone())
                .await
                .map(|now| Some(now.revision));
        }
        // Another object under the same name, such as a pod that was made anew.
        store.compare_and_delete::<R>(&self.key, before.revision).await?;
        match store.create(self.after.clone()).await {
            Ok(created) => Ok(Some(created.revision)),
            Err(error) => {
                store.create(before.value.clone()).await?;
                Err(error)
            }
        }
    }

    async fn undo<S: Store>(&self, store: &S, written: Revision) -> Result<(), StoreError> {
        match &self.before {
            Some(before) if before.uid == self.after.metadata().uid => {
                store.compare_and_swap(written, before.value.clone()).await.map(drop)
            }
            Some(before) => {
                store.compare_and_delete::<R>(&self.key, written).await?;
                store.create(before.value.clone()).await.map(drop)
            }
            None => store.compare_and_delete::<R>(&self.key, written).await.map(drop),
        }
    }
}

impl AnyWrite {
    fn plan(world: &World, random: &Random, validated: Validated) -> (Kind, Self) {
        let key = &validated.key;
        let kind = validated.object.kind();
        let uuid = || random.uuid();
        let write = match validated.object {
            Object::Pool(pool) => {
                let mut write = Write::plan(&world.pools, key, pool.0, uuid);
                // A pool is the same one whatever uid its manifest was exported with.
                if let Some(before) = &write.before {
                    write.after.metadata.uid.clone_from(&before.uid);
                    write.after.status.clone_from(&before.value.status);
                }
                Self::Pool(Box::new(write))
            }
            Object::Reservation(object, _) => {
                Self::Reservation(Write::plan(&world.reservations, key, object, uuid))
            }
            Object::Namespace(object) => Self::Namespace(Write::plan(&world.namespaces, key, object, uuid)),
            Object::Pod(object) => Self::Pod(Write::plan(&world.pods, key, object, || {
                format!("{INVENTED_UID_PREFIX}{}", uuid())
            })),
        };
        (kind, write)
    }
}

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
        let world = &self.node.world;
        let mut reply = ApplyReply::default();
        let mut writes = Vec::new();
        for mut object in validated {
            reply.warnings.append(&mut object.warnings);
            let name = object.key.to_string();
            let (kind, write) = AnyWrite::plan(world, &self.node.surroundings.random, object);
            let outcome = each!(&write, world, |write, _mirror| write.outcome());
            reply.results.push(ObjectResult {
                kind: kind.word().to_owned(),
                name,
                outcome: outcome.to_owned(),
            });
            writes.push(write);
        }
        if request.dry_run {
            return Ok(reply);
        }
        self.write_all(&writes).await?;
        if writes.iter().any(|write| matches!(write, AnyWrite::Pool(_) | AnyWrite::Reservation(_))) {
            world.refresh();
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
        let (mut candidates, mut errors) = (Vec::new(), Vec::new());
        for object in objects {
            let Object::Pool(pool) = &object.object else { continue };
            let (name, pool) = (&pool.1.name, &pool.1);
            let known = view.pools.by_name(name);
            if known.is_some_and(|known| known.terminating) {
                errors
                    .push(format!("{}: pool {name} is being deleted: wait until it is gone", object.source));
            }
            let uid = known.map_or_else(|| "new".to_owned(), |known| known.uid.clone());
            candidates.push(Candidate {
                name: name.clone(),
                uid,
                cidr: pool.cidr,
                block_size: pool.block_size,
            });
        }
        let max_tag_id = self.node.config.mark_layout.max_tag_id();
        let (_, refusals) = decide_admissions(&view.registry, &candidates, max_tag_id);
        for object in objects {
            let Object::Pool(pool) = &object.object else { continue };
            if let Some(refusal) = refusals.get(&pool.1.name) {
                errors.push(format!("{}: {refusal}", object.source));
            }
        }
        let Some(first) = errors.first() else { return Ok(()) };
        let mut refusal = invalid(format!("nothing was applied: {first}"));
        refusal.details = errors.split_off(1);
        Err(refusal)
    }

    async fn write_all(&self, writes: &[AnyWrite]) -> Answer<()> {
        let (store, world) = (&self.node.store, &self.node.world);
        let mut written = Vec::new();
        for write in writes {
            let done = each!(write, world, |write, _mirror| write.exec(store).await);
            match done {
                Ok(None) => {}
                Ok(Some(revision)) => written.push((write, revision)),
                Err(error) => {
                    let left = self.put_back(written).await;
                    return Err(write_refusal(&error, left));
                }
            }
        }
        for (write, revision) in written {
            each!(write, world, |_write, mirror| mirror.reached(revision).await);
        }
        Ok(())
    }

    /// What could not be put back.
    async fn put_back(&self, written: Vec<(&AnyWrite, Revision)>) -> Vec<String> {
        let (store, world) = (&self.node.store, &self.node.world);
        let mut left = Vec::new();
        for (write, revision) in written.into_iter().rev() {
            let undone =
                each!(write, world, |write, _mirror| (&write.key, write.undo(store, revision).await));
            if let (key, Err(failure)) = undone {
                error!(%key, %failure, "an object written by an apply that failed stays");
                left.push(format!("{key} was written and could not be put back: {failure}"));
            }
        }
        left
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
