//! One request at a time for each handle, in order of arrival; a DEL cancels the ADDs before it.
//!
//! A runtime may send DEL while its ADD is still under way, or ADD again after giving up on the first one. The
//! order here is what keeps an address from being wired after its DEL was answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

/// The gates of all handles with a request under way or waiting. One for the agent.
#[derive(Clone, Debug, Default)]
pub struct Gates {
    slots: Arc<Mutex<HashMap<Handle, Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Passed by one request at a time, first come first served (tokio's mutex is fair).
    turn: Arc<tokio::sync::Mutex<()>>,
    /// ADDs under way or waiting, by visitor.
    adds: Vec<(u64, CancellationToken)>,
    /// Requests that hold or wait for the turn.
    visitors: usize,
    /// Number of the next visitor.
    next: u64,
}

/// A request's place in the line of its handle; leaving the line is dropping it.
#[derive(Debug)]
pub struct Place {
    gates: Gates,
    handle: Handle,
    turn: Arc<tokio::sync::Mutex<()>>,
    visitor: u64,
}

/// The turn itself: while it lives, no other request of this handle runs.
#[derive(Debug)]
pub struct Turn {
    // Dropped in this order: the turn is free before the place is given up.
    _guard: OwnedMutexGuard<()>,
    _place: Place,
}

impl Gates {
    /// Queues an ADD. It must watch `cancel`, which fires when a DEL queues behind it or its client hangs up.
    pub fn queue_add(&self, handle: &Handle, cancel: &CancellationToken) -> Place {
        let mut slots = self.lock();
        let slot = slots.entry(handle.clone()).or_default();
        slot.adds.push((slot.next, cancel.clone()));
        self.place(handle, slot)
    }

    /// Queues a DEL: every ADD before it is cancelled.
    pub fn queue_del(&self, handle: &Handle) -> Place {
        let mut slots = self.lock();
        let slot = slots.entry(handle.clone()).or_default();
        for (_, add) in slot.adds.drain(..) {
            add.cancel();
        }
        self.place(handle, slot)
    }

    /// Queues a request that only looks.
    pub fn queue_check(&self, handle: &Handle) -> Place {
        let mut slots = self.lock();
        let slot = slots.entry(handle.clone()).or_default();
        self.place(handle, slot)
    }

    fn place(&self, handle: &Handle, slot: &mut Slot) -> Place {
        slot.visitors += 1;
        slot.next += 1;
        Place { gates: self.clone(), handle: handle.clone(), turn: slot.turn.clone(), visitor: slot.next - 1 }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Handle, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until every request before this one has ended.
    pub async fn turn(self) -> Turn {
        let guard = self.turn.clone().lock_owned().await;
        Turn { _guard: guard, _place: self }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut slots = self.gates.lock();
        if let Some(slot) = slots.get_mut(&self.handle) {
            slot.visitors -= 1;
            slot.adds.retain(|(visitor, _)| *visitor != self.visitor);
            if slot.visitors == 0 {
                slots.remove(&self.handle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn handle(id: &str) -> Handle {
        Handle::new(id, "eth0").unwrap()
    }

    #[tokio::test]
    async fn a_del_cancels_the_adds_before_it_and_waits_for_them() {
        let gates = Gates::default();
        let (first, second, later) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let turn = gates.queue_add(&handle("a"), &first).turn().await;
        let waiting = gates.queue_add(&handle("a"), &second);
        let del = gates.queue_del(&handle("a"));
        let after = gates.queue_add(&handle("a"), &later);
        assert!(first.is_cancelled() && second.is_cancelled() && !later.is_cancelled());

        let del = tokio::spawn(async move { drop(del.turn().await) });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!del.is_finished(), "the DEL overtook the ADD under way");
        drop(turn);
        drop(waiting);
        del.await.unwrap();
        drop(after.turn().await);
        assert!(gates.lock().is_empty(), "a gate was left behind");
    }

    #[tokio::test]
    async fn requests_of_other_handles_do_not_wait() {
        let gates = Gates::default();
        let _turn = gates.queue_del(&handle("a")).turn().await;
        let other = gates.queue_del(&handle("b")).turn();
        tokio::time::timeout(Duration::from_secs(1), other).await.unwrap();
    }

    #[tokio::test]
    async fn an_add_that_has_ended_is_not_cancelled_by_a_later_del() {
        let gates = Gates::default();
        let keep = gates.queue_check(&handle("a"));
        let ended = CancellationToken::new();
        drop(gates.queue_add(&handle("a"), &ended).turn().await);
        drop(gates.queue_del(&handle("a")));
        assert!(!ended.is_cancelled());
        drop(keep);
        assert!(gates.lock().is_empty());
    }
}
