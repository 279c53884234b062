//! The node's own address out of a pool: taken when it is needed, kept over restarts, returned when it is not.
//!
//! What is to be done is decided in `ipam`; here it is written down and carried out. Where other nodes' agents read of
//! it: nowhere. It is of an own block, or lent to this node, and both they let in from this node anyway.

use ipam::Assignment;
use ipam::protocol::{Fact, InnerNext, Next};
use model::{Handle, Identity, Workload};
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Node;
use super::ledger::LedgerError;
use super::pod::Pod;

/// How often things that only time changes are looked at: cooldowns, refusals.
const INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

/// How many steps one look may take.
const MAX_STEPS: usize = 16;

/// What a node without such an address is told.
const NO_POOL: &str = "no pool may give this node an address of its own, so what the node itself sends to pods of \
     encapsulated pools is dropped at the other end: add Tunnel to the allowedUses of an IPv4 pool that no firewall \
     trusts, or create a small one with allowedUses [Tunnel]";

/// Why there is no address, as it was told last: it is told once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    /// None.
    #[default]
    None,
    /// No pool may give one.
    NoPool,
    /// Those that may have none left.
    Full,
}

/// What comes next.
enum Step {
    /// Nothing.
    Rest,
    /// Another step.
    Again,
    /// A block is to be seen to first. `started`: by what was just written down.
    LookAt { block: model::Cidr, started: bool },
}

impl Trouble {
    /// For people.
    #[must_use]
    pub fn text(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::NoPool => Some(NO_POOL),
            Self::Full => Some("the pools that may give this node an address of its own have none left"),
        }
    }
}

impl<S: Store> Node<S> {
    /// Takes, keeps or returns the node's own address, as far as that goes now.
    ///
    /// # Errors
    /// The journal does not take it; the next look goes on.
    pub async fn see_to_inner(&self) -> Result<(), LedgerError> {
        let mut looked_at = None;
        for _ in 0..MAX_STEPS {
            let (block, started) = match self.inner_step()? {
                Step::Rest => return Ok(()),
                Step::Again => continue,
                Step::LookAt { block, started } => (block, started),
            };
            // Somebody else's move: what comes of it is a cause to look again.
            if !started && looked_at == Some(block) {
                return Ok(());
            }
            looked_at = Some(block);
            if let Err(error) = self.attend(block).await {
                debug!(%error, "the node's own address waits");
                return Ok(());
            }
        }
        Ok(())
    }

    fn inner_step(&self) -> Result<Step, LedgerError> {
        let holder = Handle::of_node();
        let (view, now) = (self.world.view(), self.now());
        let mut ledger = self.ledger();
        let next = ledger.keeper().decide_next_inner(&view.cluster(), &holder, now, self.nonce());
        let trouble = match &next {
            InnerNext::NoPool => Trouble::NoPool,
            InnerNext::Full => Trouble::Full,
            _ => Trouble::None,
        };
        let before = std::mem::replace(&mut *self.lock_inner_trouble(), trouble);
        if let Some(text) = trouble.text().filter(|_| before != trouble) {
            warn!("{text}");
        }
        match next {
            InnerNext::NotNeeded
            | InnerNext::NotYet
            | InnerNext::NoPool
            | InnerNext::Full
            | InnerNext::Keep(_) => {
                ledger.note(&[Fact::GaveUp { handle: holder }], now)?;
                Ok(Step::Rest)
            }
            InnerNext::Return(address) => {
                ledger.free(&holder, &view.pools, now)?;
                drop(ledger);
                info!(%address, "the node's own address is given back");
                self.reconciler.want();
                self.want_upkeep();
                Ok(Step::Again)
            }
            InnerNext::Step(Next::Assign(assignments)) => {
                ledger.assign(own_pod(&holder, &assignments, now), &assignments, now)?;
                ledger.note(&[Fact::GaveUp { handle: holder }], now)?;
                drop(ledger);
                let address = assignments.first().map(|assignment| assignment.address);
                info!(address = ?address, "the node has an address of its own");
                self.reconciler.want();
                Ok(Step::Rest)
            }
            InnerNext::Step(Next::Held(_)) => Ok(Step::Rest),
            InnerNext::Step(Next::Start { facts, block }) => {
                ledger.note(&facts, now)?;
                Ok(Step::LookAt { block, started: true })
            }
            InnerNext::Step(Next::Wait { block }) => Ok(Step::LookAt { block, started: false }),
        }
    }

    /// Looks whenever there is a cause, until `stop` fires. Where there is no other node, no address is needed.
    pub async fn follow_inner(&self, stop: &CancellationToken) {
        if !self.config.store.is_shared() {
            return;
        }
        let mut views = self.world.changes();
        while !stop.is_cancelled() {
            views.mark_unchanged();
            if let Err(error) = self.see_to_inner().await {
                warn!(%error, "the node's own address waits");
            }
            let progressed = self.progressed();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = progressed => {}
                _ = views.changed() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }
}

fn own_pod(holder: &Handle, assignments: &[Assignment], now: model::BootTime) -> Pod {
    let mut identity = Identity {
        handle: holder.clone(),
        ipv4: None,
        ipv6: None,
        network: String::new(),
        workload: Workload::default(),
        extras: model::Extras::default(),
    };
    for assignment in assignments {
        match assignment.address {
            std::net::IpAddr::V4(v4) => identity.ipv4 = Some(v4),
            std::net::IpAddr::V6(v6) => identity.ipv6 = Some(v6),
        }
    }
    let pools = assignments.iter().map(|assignment| assignment.pool.clone()).collect();
    Pod { identity, pools, netns: None, since: now, foreign_interface: false, wired: None }
}
