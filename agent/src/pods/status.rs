//! CNI STATUS: can a pod be added now?

use ipam::Pool;
use rpc::ErrorCode;
use store::Store;

use super::Pods;
use crate::answer::{Answer, refuse};

impl<S: Store> Pods<S> {
    /// Serves a STATUS.
    ///
    /// # Errors
    /// [`ErrorCode::NotReadyLimited`] when the kernel is not as it should be, which pods that exist may feel as
    /// well; [`ErrorCode::NotReady`] when no pool has an address for anybody.
    pub fn status(&self) -> Answer<()> {
        let summary = self.node.reconciler.summary();
        if let Some(first) = summary.last_errors.first() {
            let mut error =
                refuse(ErrorCode::NotReadyLimited, format!("the kernel is not as it should be: {first}"));
            error.details = summary.last_errors;
            return Err(error);
        }
        let view = self.node.world.view();
        let ledger = self.node.ledger();
        let now = self.node.now();
        let mut details = Vec::new();
        let has_room = |pool: &Pool| {
            let mine = pool.node_selector.matches(&view.labels);
            let serves = !pool.disabled
                && !pool.terminating
                && pool.tag.is_some()
                && pool.allowed_uses.workload
                && mine;
            if !serves {
                details.push(format!("pool {} does not serve this node's pods", pool.name));
                return false;
            }
            let usage = ledger.ipam().pool_usage(&view.cluster(), pool, now);
            details.push(format!("pool {}: {usage}", pool.name));
            usage.usage.free > 0
        };
        if view.pools.iter().any(has_room) {
            return Ok(());
        }
        let why = if view.pools.is_empty() { "there is no pool" } else { "no pool has an address left" };
        let mut error = refuse(ErrorCode::NotReady, format!("no address can be given: {why}"));
        if view.pools.is_empty() {
            details.push("create one: poolwardctl apply -f POOL.yaml".to_owned());
        }
        error.details = details;
        Err(error)
    }
}
