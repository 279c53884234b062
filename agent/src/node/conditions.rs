//! The status of pools: whether a pool hands out addresses, and why not, written by whoever comes first.

use std::time::Duration;

use ipam::{AdmissionRefusal, Candidate, Pool, Registry};
use store::resource::{Condition, IpPool};
use store::{Store, StoreError, Versioned};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Node;

/// What the condition is about.
const ALLOCATABLE: &str = "Allocatable";

/// How long a node waits at most before it writes a status that it finds wrong: by then another one mostly has.
const MAX_JITTER_MS: u64 = 2000;

/// What is so of a pool in the whole cluster; what one node's kernel does not know yet is no part of it. In words of the
/// condition: status, reason, message.
#[must_use]
pub fn allocatable_of(
    pool: &Pool,
    registry: &Registry,
    max_tag_id: u16,
) -> (&'static str, &'static str, String) {
    let Some(entry) = registry.entry(&pool.name).filter(|entry| entry.uid == pool.uid) else {
        let candidate = Candidate {
            name: pool.name.clone(),
            uid: pool.uid.clone(),
            cidr: pool.cidr,
            block_size: pool.block_size,
        };
        return match registry.admit(&candidate, max_tag_id) {
            Ok(_) => ("False", "Pending", "it is not admitted yet".to_owned()),
            Err(refusal) => ("False", reason_of(&refusal), refusal.to_string()),
        };
    };
    if pool.terminating || entry.terminating {
        let message = "it is being deleted, and goes with its last block".to_owned();
        ("False", "Terminating", message)
    } else if let Some(reason) = &pool.not_admitted {
        ("False", "Changed", reason.clone())
    } else if pool.disabled {
        ("False", "Disabled", "it is disabled".to_owned())
    } else {
        ("True", "Admitted", String::new())
    }
}

fn reason_of(refusal: &AdmissionRefusal) -> &'static str {
    match refusal {
        AdmissionRefusal::Overlap { .. } => "CIDROverlap",
        AdmissionRefusal::CidrChanged { .. } => "CIDRChanged",
        AdmissionRefusal::BlockSizeChanged { .. } => "BlockSizeChanged",
        AdmissionRefusal::NameTaken { .. } => "NameTaken",
        AdmissionRefusal::NoTag { .. } => "NoTag",
    }
}

/// The object with this condition; `None`: it has it already.
fn with_condition(
    object: &IpPool,
    (status, reason, message): &(&'static str, &'static str, String),
    now: String,
) -> Option<IpPool> {
    let before = object.status.conditions.iter().find(|condition| condition.kind == ALLOCATABLE);
    if before.is_some_and(|before| {
        before.status == *status && before.reason == *reason && before.message == *message
    }) {
        return None;
    }
    let since = match before {
        Some(before) if before.status == *status => before.last_transition_time.clone(),
        _ => now,
    };
    let condition = Condition {
        kind: ALLOCATABLE.to_owned(),
        status: (*status).to_owned(),
        reason: (*reason).to_owned(),
        message: message.clone(),
        last_transition_time: since,
        observed_generation: 0,
    };
    let mut after = object.clone();
    after.status.conditions.retain(|condition| condition.kind != ALLOCATABLE);
    after.status.conditions.push(condition);
    Some(after)
}

impl<S: Store> Node<S> {
    /// Writes what is so of pools where it is not said yet, until `stop` fires.
    pub async fn follow_conditions(&self, stop: &CancellationToken) {
        if !self.config.store.is_shared() {
            return;
        }
        let mut views = self.world.changes();
        loop {
            views.mark_unchanged();
            if self.world.is_complete() && !self.unsaid().is_empty() {
                let jitter = Duration::from_millis(self.store.random() % MAX_JITTER_MS);
                if stop.run_until_cancelled(tokio::time::sleep(jitter)).await.is_none() {
                    return;
                }
                for (object, after) in self.unsaid() {
                    if let Err(error) = self.say(&object, after).await {
                        debug!(%error, "a pool's status is written later, or by another node");
                    }
                }
            }
            if !matches!(stop.run_until_cancelled(views.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    }

    /// Pools whose status does not say what is so, and as it should be.
    fn unsaid(&self) -> Vec<(Versioned<IpPool>, IpPool)> {
        let view = self.world.view();
        let max_tag_id = self.config.mark_layout.max_tag_id();
        let now = self.environment.clock.wall_time_text();
        let pools = self.world.pools.read();
        let unsaid = pools.values().filter_map(|object| {
            let pool = view.pools.by_name(&object.value.metadata.name.parse().ok()?)?;
            let allocatable = allocatable_of(pool, &view.registry, max_tag_id);
            let after = with_condition(&object.value, &allocatable, now.clone())?;
            Some((object.clone(), after))
        });
        unsaid.collect()
    }

    async fn say(&self, object: &Versioned<IpPool>, after: IpPool) -> Result<(), StoreError> {
        let said = self.store.compare_and_swap_status(object.revision, after).await?;
        self.world.pools.reached(said.revision).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_only_when_it_says_something_else() {
        let object = IpPool::default();
        let said = |object: &IpPool, status, reason, now: &str| {
            with_condition(object, &(status, reason, String::new()), now.to_owned())
        };
        let first = said(&object, "False", "Pending", "t1").unwrap();
        assert_eq!(first.status.conditions[0].last_transition_time, "t1");
        assert_eq!(said(&first, "False", "Pending", "t2"), None);
        let second = said(&first, "False", "CIDROverlap", "t2").unwrap();
        assert_eq!(second.status.conditions[0].last_transition_time, "t1", "the status is the same");
        let third = said(&second, "True", "Admitted", "t3").unwrap();
        assert_eq!(third.status.conditions.len(), 1);
        assert_eq!(third.status.conditions[0].last_transition_time, "t3");
    }

    #[test]
    fn a_pool_is_told_why_it_hands_out_nothing() {
        let pool = |name: &str, cidr: &str, uid: &str| {
            let spec = ipam::PoolSpec::new(name.parse().unwrap(), cidr.parse().unwrap());
            Pool::new(ipam::PoolSpec { uid: uid.to_owned(), ..spec }).unwrap()
        };
        let first = pool("a", "10.0.0.0/24", "u1");
        let candidate = Candidate {
            name: first.name.clone(),
            uid: first.uid.clone(),
            cidr: first.cidr,
            block_size: first.block_size,
        };
        let registry = Registry::default().admit(&candidate, 100).unwrap().registry;
        let check = |pool: &Pool, expected: (&str, &str)| {
            let (status, reason, _) = allocatable_of(pool, &registry, 100);
            assert_eq!((status, reason), expected);
        };
        check(&first, ("True", "Admitted"));
        check(&pool("b", "10.0.0.128/25", "u2"), ("False", "CIDROverlap"));
        check(&pool("c", "10.1.0.0/24", "u3"), ("False", "Pending"));
        check(&pool("a", "10.2.0.0/24", "u4"), ("False", "NameTaken"));
        let disabled = Pool::new(ipam::PoolSpec { disabled: true, ..first.into_spec() }).unwrap();
        check(&disabled, ("False", "Disabled"));
    }
}
