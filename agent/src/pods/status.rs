//! CNI STATUS: can a pod be added now?

use ipam::Pool;
use model::Cidr;
use rpc::ErrorCode;
use store::Store;

use super::Pods;
use crate::answer::{Answer, refuse};
use crate::node::remote::delegated_pool;

impl<S: Store> Pods<S> {
    /// Serves a STATUS.
    ///
    /// # Errors
    /// [`ErrorCode::NotReadyLimited`] when the kernel is not as it should be, which pods that exist may feel as
    /// well; [`ErrorCode::NotReady`] when no pool has an address for anybody.
    pub fn status(&self) -> Answer<()> {
        self.require_kernel()?;
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

    /// Serves a STATUS where another IPAM plugin gives the addresses, out of the node's own ranges: whether it has any is
    /// that plugin's to say, and whether its pods would have a tag and a way to them is ours.
    ///
    /// # Errors
    /// As [`Pods::status`]; [`ErrorCode::NotReady`] when the node has no range, or none that a pool covers.
    pub fn status_delegated(&self) -> Answer<()> {
        self.require_kernel()?;
        let pools = &self.node.world.view().pools;
        let ranges = self.node.pod_cidrs();
        let mut details = Vec::new();
        let mut is_served = |range: &Cidr| {
            let why = match delegated_pool(range, pools) {
                Some(pool) if pool.tag.is_some() && !pool.terminating => return true,
                Some(pool) => format!("pool {} is not admitted, or being deleted", pool.name),
                None => format!("{range}: no pool covers it that hands out nothing itself (disabled: true)"),
            };
            details.push(why);
            false
        };
        if ranges.iter().any(&mut is_served) {
            return Ok(());
        }
        let why = if ranges.is_empty() {
            "the cluster gave this node no range (spec.podCIDRs)"
        } else {
            "no pool covers the ranges that the cluster gave this node"
        };
        let mut error = refuse(ErrorCode::NotReady, format!("no address can be given: {why}"));
        error.details = details;
        Err(error)
    }

    fn require_kernel(&self) -> Answer<()> {
        let summary = self.node.reconciler.summary();
        let Some(first) = summary.last_errors.first() else { return Ok(()) };
        let mut error =
            refuse(ErrorCode::NotReadyLimited, format!("the kernel is not as it should be: {first}"));
        error.details = summary.last_errors;
        Err(error)
    }
}
