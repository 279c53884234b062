//! What a node does about its blocks and loans without being asked: whenever what it knows has changed, and now and
//! then.
//!
//! What is to be done is decided in `ipam::protocol`; each block is then seen to by [`Node::attend`].

use std::time::Duration;

use ipam::protocol::Phase;
use model::Cidr;
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Node;
use super::attend::AttendError;
use super::mirror::Relisted;

/// How often things that only time changes are looked at: graces, cooldowns.
const INTERVAL: Duration = Duration::from_secs(5);

/// Changes that come together are answered together.
const DEBOUNCE: Duration = Duration::from_millis(20);

impl<S: Store> Node<S> {
    /// Asks for a round soon, and does not wait.
    pub fn want_upkeep(&self) {
        self.upkeep_wanted.notify_one();
    }

    /// Sees to every block that wants it, and claims ahead of need. Each block is seen to by itself: one that fails
    /// does not keep the others; but when the store does not answer, the round ends.
    ///
    /// # Errors
    /// The first failure.
    pub async fn upkeep(&self) -> Result<(), AttendError> {
        let view = self.world.view();
        let now = self.now();
        let plan = {
            let mut ledger = self.ledger();
            let keeper = ledger.keeper_mut();
            // A Node object that is gone does not make this another node; one with another UID does.
            let registered = view.nodes.as_ref().is_none_or(|nodes| nodes.contains(&view.me));
            if registered && *keeper.me() != view.me {
                warn!(before = %keeper.me(), now = %view.me, "this node was registered anew");
                keeper.set_identity(view.me.clone());
            }
            // Before anything else: what a list that was read anew does not show as ours serves nothing.
            match self.world.blocks.take_relisted() {
                None => {}
                Some(Relisted { went_back: true }) => {
                    warn!("the store was restored from a backup: every block is read again before it serves");
                    keeper.unconfirm();
                }
                Some(Relisted { went_back: false }) => {
                    keeper.unconfirm_unless_shown(|block| self.world.blocks.kept().get(block));
                }
            }
            keeper.observe(&view.around(), now);
            keeper.decide_upkeep(&view.cluster(), &view.around(), now)
        };
        let mut blocks: Vec<_> = plan.attend.into_iter().map(|attention| attention.block).collect();
        for claim in plan.claims {
            let mut ledger = self.ledger();
            if let Some(fact) = ledger.keeper().decide_claim(&view.cluster(), &claim, self.nonce()) {
                debug!(block = %claim.cidr, pool = %claim.pool, "claiming ahead of need");
                ledger.note(&[fact], now)?;
                blocks.push(claim.cidr);
            }
        }
        let mut first = Ok(());
        for block in blocks {
            if let Err(error) = self.attend(block).await {
                warn!(%error, "seen to later");
                let stop = error.is_unavailable();
                first = first.and(Err(error));
                if stop {
                    return first;
                }
            }
        }
        for block in self.wished_gone() {
            if let Err(error) = self.release_if_empty(block).await {
                warn!(%error, "seen to later");
                first = first.and(Err(error));
            }
        }
        if first.is_ok() {
            self.announce_or_later().await;
            self.ledger().keeper_mut().set_store_away(false);
        }
        first
    }

    /// Own blocks that nothing is in use of and whose objects somebody has deleted.
    fn wished_gone(&self) -> Vec<Cidr> {
        let deleted = self.world.blocks.kept().deleted();
        let (ledger, now) = (self.ledger(), self.now());
        let is_empty = |cidr: &Cidr| {
            let owned = ledger.keeper().tenure(cidr).is_some_and(|tenure| tenure.phase == Phase::Owned);
            owned && ledger.ipam().block(cidr).is_some_and(|block| block.is_idle(now))
        };
        deleted.into_iter().filter(is_empty).collect()
    }

    /// Rounds whenever there is a cause, until `stop` fires.
    pub async fn follow_upkeep(&self, stop: &CancellationToken) {
        let mut views = self.world.changes();
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.upkeep_wanted.notified() => {}
                _ = views.changed() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
            views.mark_unchanged();
            // Already told; the next round is never more than an interval away.
            let _ = self.upkeep().await;
        }
    }
}
