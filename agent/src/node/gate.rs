//! One request at a time for each handle, in order of arrival; a DEL cancels the ADDs before it.
//!
//! Who may run and who is cancelled is decided in `ipam` ([`Line`]); here they wait, and are told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipam::{Line, Visit};
use model::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The gates of all handles with a request under way or waiting. One for the agent.
#[derive(Clone, Debug, Default)]
pub struct Gates {
    slots: Arc<Mutex<HashMap<Handle, Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    line: Line,
    /// Who left, or came: look again.
    moved: Arc<Notify>,
    /// How ADDs are told that they are cancelled, by their number in the line.
    adds: Vec<(u64, CancellationToken)>,
}

/// A request's place in the line of its handle; leaving the line is dropping it.
#[derive(Debug)]
pub struct Place {
    gates: Gates,
    handle: Handle,
    moved: Arc<Notify>,
    number: u64,
}

/// The turn itself: while it lives, no other request of this handle runs.
#[derive(Debug)]
pub struct Turn {
    _place: Place,
}

impl Gates {
    /// Queues an ADD. It must watch `cancel`, which fires when a DEL queues behind it or its client hangs up.
    pub fn queue_add(&self, handle: &Handle, cancel: &CancellationToken) -> Place {
        self.queue(handle, Visit::Add, Some(cancel))
    }

    /// Queues a DEL: every ADD before it is cancelled.
    pub fn queue_del(&self, handle: &Handle) -> Place {
        self.queue(handle, Visit::Del, None)
    }

    /// Queues a request that only looks.
    pub fn queue_check(&self, handle: &Handle) -> Place {
        self.queue(handle, Visit::Look, None)
    }

    fn queue(&self, handle: &Handle, visit: Visit, cancel: Option<&CancellationToken>) -> Place {
        let mut slots = self.lock();
        let slot = slots.entry(handle.clone()).or_default();
        let number = slot.line.arrive(visit);
        slot.adds.extend(cancel.map(|cancel| (number, cancel.clone())));
        for (_, add) in slot.adds.iter().filter(|(number, _)| slot.line.is_cancelled(*number)) {
            add.cancel();
        }
        Place { gates: self.clone(), handle: handle.clone(), moved: slot.moved.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Handle, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until every request before this one has ended.
    pub async fn turn(self) -> Turn {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            // From here on nobody who leaves is missed.
            moved.as_mut().enable();
            if self.has_turn() {
                break;
            }
            moved.await;
        }
        Turn { _place: self }
    }

    fn has_turn(&self) -> bool {
        self.gates.lock().get(&self.handle).is_some_and(|slot| slot.line.has_turn(self.number))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut slots = self.gates.lock();
        if let Some(slot) = slots.get_mut(&self.handle) {
            slot.line.leave(self.number);
            slot.adds.retain(|(number, _)| *number != self.number);
            slot.moved.notify_waiters();
            if slot.line.is_empty() {
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
        let ended = CancellationToken::new();
        let add = gates.queue_add(&handle("a"), &ended);
        // Somebody behind it, so that the line lives on.
        let keep = gates.queue_check(&handle("a"));
        drop(add.turn().await);
        drop(gates.queue_del(&handle("a")));
        assert!(!ended.is_cancelled());
        drop(keep);
        assert!(gates.lock().is_empty());
    }
}
