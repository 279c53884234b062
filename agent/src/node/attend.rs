//! Looking at one block: read live, decide, write it down, write it to the store, and again until nothing is to do.
//!
//! The one interpreter of the allocation protocol's decisions (`ipam::protocol`), for whoever asks: an ADD that needs a
//! block, upkeep, the deletion of a pool. One look at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipam::protocol::{
    Attention, BlockDecision, Fact, Live, NodeId, Nonce, ObjectRevision, Seen, Write, WriteOutcome,
};
use model::Cidr;
use store::resource::{self, IpBlock, IpPoolRegistry};
use store::retry::{Patience, RetryError, Tries};
use store::{Key, KeyError, Store, StoreError, Versioned};
use tracing::{info, warn};

use super::Node;
use super::admission::{RegistryReadError, registry_of};
use super::ledger::LedgerError;
use super::world::View;

/// How many steps one look may take: no block has more than a few ahead of it.
const MAX_STEPS: usize = 12;

/// Why a look ended before all was done. The next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum AttendError {
    /// The store, or others who kept changing the block.
    #[error("block {block}: {source}")]
    Store {
        /// The block.
        block: Cidr,
        /// Why.
        source: Box<RetryError<String>>,
    },
    /// The registry of pools does not read.
    #[error(transparent)]
    Registry(#[from] RegistryReadError),
    /// The journal does not take it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The registry's own name; never seen.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// More steps than any block should take.
    #[error("block {0}: still not at rest after {MAX_STEPS} steps")]
    Restless(Cidr),
}

impl AttendError {
    /// Whether the store did not answer, so that other blocks need not be tried either.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Store { source, .. } if matches!(**source, RetryError::Unavailable(_)))
    }
}

/// What a look at a block found in the store.
struct Fetched {
    stored: Option<Versioned<IpBlock>>,
    seen: Option<Seen>,
    registry: Option<ipam::Registry>,
    gone: BTreeSet<NodeId>,
}

impl<S: Store> Node<S> {
    /// Looks at a block until nothing is to be done about it.
    ///
    /// # Errors
    /// See [`AttendError`]. A write that was not answered is settled by the next look.
    pub async fn attend(&self, block: Cidr) -> Result<(), AttendError> {
        self.attend_within(block, Arc::clone).await
    }

    /// Releases a block that somebody wishes gone (its object is marked as deleted), if nothing of it is in use: as if
    /// its pool were disabled, for this look alone.
    ///
    /// # Errors
    /// As [`Node::attend`].
    pub async fn release_if_empty(&self, block: Cidr) -> Result<(), AttendError> {
        self.attend_within(block, |view| Arc::new(view.without_pool_of(&block))).await
    }

    async fn attend_within(
        &self,
        block: Cidr,
        within: impl Fn(&Arc<View>) -> Arc<View>,
    ) -> Result<(), AttendError> {
        let _turn = self.attending.lock().await;
        let mut tries = Tries::new(Patience::default());
        for _ in 0..MAX_STEPS {
            let (attention, view) = {
                let view = within(&self.world.view());
                let ledger = self.ledger();
                let attention =
                    ledger.keeper().attention(&view.around(), &block, &view.cluster(), self.now());
                (attention, view)
            };
            let fetched = self.fetch(&attention).await?;
            let decision = {
                let mut ledger = self.ledger();
                let (now, fresh) = (self.now(), self.nonce());
                let live = Live {
                    block: fetched.seen.as_ref(),
                    registry: fetched.registry.as_ref(),
                    gone: &fetched.gone,
                };
                let decision = ledger.keeper().decide_block(&view.cluster(), &block, &live, now, fresh);
                let cut_off = ledger.note(&decision.before, now)?;
                drop(ledger);
                self.tell(&decision.before, &cut_off);
                decision
            };
            if decision.is_empty() {
                return Ok(());
            }
            if let Err(reason) = self.write(&decision, fetched.stored.as_ref()).await? {
                let failed = |source| AttendError::Store { block, source: Box::new(source) };
                tries.again(&self.store, reason).await.map_err(failed)?;
            }
        }
        Err(AttendError::Restless(block))
    }

    /// Reads what the look needs, in the order the protocol wants: the block, the registry, the nodes.
    async fn fetch(&self, attention: &Attention) -> Result<Fetched, AttendError> {
        let block = attention.block;
        let failed = |source: StoreError| AttendError::Store { block, source: Box::new(source.into()) };
        let stored = self.store.get::<IpBlock>(&Key::of_block(block)).await.map_err(failed)?;
        let seen = match &stored {
            None => None,
            Some(stored) => {
                let object = store::block_of(&stored.value).map_err(|reason| AttendError::Store {
                    block,
                    source: Box::new(RetryError::Refused(reason)),
                })?;
                Some(Seen { revision: ObjectRevision(stored.revision.get()), object })
            }
        };
        let registry = if attention.registry {
            let key = Key::named(IpPoolRegistry::NAME)?;
            Some(registry_of(self.store.get(&key).await.map_err(failed)?.as_ref())?)
        } else {
            None
        };
        let mut gone = BTreeSet::new();
        for node in &attention.check_gone {
            if self.is_gone(node).await.map_err(failed)? {
                gone.insert(node.clone());
            }
        }
        Ok(Fetched { stored, seen, registry, gone })
    }

    /// Whether there is no Node object of this UID and, if there is none of the name at all, no pod bound to it. Asked
    /// of the store, live.
    async fn is_gone(&self, node: &NodeId) -> Result<bool, StoreError> {
        let Ok(key) = Key::named(node.name.as_str()) else { return Ok(false) };
        if let Some(there) = self.store.get::<resource::Node>(&key).await? {
            return Ok(there.uid != node.uid);
        }
        Ok(self.store.list_pods_on(&node.name).await?.is_empty())
    }

    /// Makes a decision's write, and writes down what follows. `Err` inside: somebody was quicker.
    async fn write(
        &self,
        decision: &BlockDecision,
        before: Option<&Versioned<IpBlock>>,
    ) -> Result<Result<(), StoreError>, AttendError> {
        let Some(write) = &decision.write else { return Ok(Ok(())) };
        let before_object = before.map(|before| &before.value);
        let made = match (write, before) {
            (Write::Create(object), _) => {
                let object = self.signed(store::block_resource(object, None), &object.owner).await;
                self.store.create(object).await.map(|made| made.revision)
            }
            (Write::Swap { object, .. }, Some(before)) => {
                let object = store::block_resource(object, before_object);
                self.store.compare_and_swap(before.revision, object).await.map(|made| made.revision)
            }
            (Write::Delete { cidr, .. }, Some(before)) => {
                self.store.compare_and_delete::<IpBlock>(&Key::of_block(*cidr), before.revision).await
            }
            // Decided without an object, it can only be a creation.
            (Write::Swap { .. } | Write::Delete { .. }, None) => return Ok(Ok(())),
        };
        let outcome = match &made {
            Ok(_) => WriteOutcome::Made,
            Err(StoreError::Conflict { .. } | StoreError::AlreadyExists { .. }) => WriteOutcome::Conflict,
            Err(_) => WriteOutcome::Unanswered,
        };
        let facts = decision.settle(outcome);
        let cut_off = self.ledger().note(&facts, self.now())?;
        self.tell(&facts, &cut_off);
        match made {
            Ok(revision) => {
                self.world.blocks.reached(revision).await;
                self.world.refresh();
                Ok(Ok(()))
            }
            Err(reason) if outcome == WriteOutcome::Conflict => Ok(Err(reason)),
            Err(source) => Err(AttendError::Store { block: write.cidr(), source: Box::new(source.into()) }),
        }
    }

    /// Says what happened, to people and to whoever waits for it.
    fn tell(&self, facts: &[Fact], cut_off: &ipam::protocol::CutOff) {
        for fact in facts {
            match fact {
                Fact::Owned { block } => info!(%block, "a block is ours"),
                Fact::Dropped { block } => info!(%block, "a block is not ours any more"),
                Fact::Lost { block } => warn!(%block, "a block was taken from this node"),
                Fact::Lent { block, address, borrower, .. } => {
                    info!(%block, %address, to = %borrower.name, "lent");
                }
                Fact::LoanEnded { block, loan, .. } => info!(%block, %loan, "a loan is over"),
                Fact::Borrowed { loan, address } => info!(%loan, %address, "borrowed"),
                Fact::BorrowEnded { loan } => {
                    info!(%loan, "a borrowed address is given back, or was not to be had");
                }
                Fact::BorrowLost { loan } => warn!(%loan, "a borrowed address was taken from this node"),
                _ => {}
            }
        }
        for (handle, address) in cut_off {
            warn!(%handle, %address, "cut off: the address belongs to another node now");
        }
        if !facts.is_empty() {
            self.progress.notify_waiters();
            self.reconciler.want();
        }
    }

    /// A nonce that nobody has seen.
    pub(crate) fn nonce(&self) -> Nonce {
        Nonce(self.environment.random.bits())
    }
}
