//! `ipam show` and `ipam release`.

use std::net::IpAddr;

use ipam::AddressState;
use model::{BootTime, Handle};
use rpc::{
    AddressUsage, BlockUsage, ErrorCode, IpamReleaseReply, IpamReleaseRequest, IpamReply, IpamShowRequest,
    PoolUsage, Usage,
};
use store::Store;

use super::Operator;
use crate::answer::{Answer, internal, invalid, refuse, try_again};
use crate::node::ledger::{Ledger, LedgerError};
use crate::node::world::View;

impl<S: Store> Operator<S> {
    /// Serves an `ipam show`.
    #[must_use]
    pub fn ipam_show(&self, request: &IpamShowRequest) -> IpamReply {
        let view = self.node.world.view();
        let ledger = self.node.ledger();
        let now = self.node.now();
        let asked = |range: model::Cidr| request.address.is_none_or(|address| range.contains(address));
        let pools = view.pools.iter().filter(|pool| asked(pool.cidr)).map(|pool| {
            let usage = ledger.ipam().pool_usage(&view.cluster(), pool, now);
            let foreign = view.foreign.iter().filter(|(block, _)| pool.cidr.covers(block)).count() as u64;
            PoolUsage {
                name: pool.name.to_string(),
                cidr: pool.cidr.to_string(),
                usage: usage_of(&usage.usage),
                blocks: usage.own_blocks + foreign,
                disabled: pool.disabled,
            }
        });
        let blocks = ledger.ipam().blocks().filter(|block| asked(block.cidr())).map(|block| BlockUsage {
            cidr: block.cidr().to_string(),
            pool: block.pool().to_string(),
            node: self.node.config.node_name.to_string(),
            usage: usage_of(&block.usage(&view.reservations, now)),
        });
        IpamReply {
            pools: pools.collect(),
            blocks: blocks.collect(),
            addresses: match request.address {
                Some(address) => vec![self.one_address(&view, &ledger, address, now)],
                None => self.all_used(&ledger),
            },
        }
    }

    fn all_used(&self, ledger: &Ledger) -> Vec<AddressUsage> {
        let node = self.node.config.node_name.to_string();
        let mut used = Vec::new();
        for allocation in ledger.ipam().allocations() {
            for held in allocation.addresses {
                used.push(AddressUsage {
                    address: held.address,
                    state: "used".to_owned(),
                    pool: held.pool.to_string(),
                    block: held.block.to_string(),
                    node: node.clone(),
                    handle: allocation.handle.to_string(),
                    pod: workload_of(ledger, &allocation.handle),
                    note: note_on(&allocation.handle),
                });
            }
        }
        used.sort_by_key(|usage| usage.address);
        used
    }

    fn one_address(&self, view: &View, ledger: &Ledger, address: IpAddr, now: BootTime) -> AddressUsage {
        let (state, pool) = ledger.ipam().address_state(&view.cluster(), address, now);
        let mut usage = AddressUsage {
            address,
            state: String::new(),
            pool: pool.map(|pool| pool.to_string()).unwrap_or_default(),
            block: String::new(),
            node: String::new(),
            handle: String::new(),
            pod: String::new(),
            note: String::new(),
        };
        let mut own_block = |block: Option<model::Cidr>| {
            if let Some(block) = block {
                usage.block = block.to_string();
                usage.node = self.node.config.node_name.to_string();
            }
        };
        match state {
            AddressState::Used { holder, block } => {
                own_block(Some(block));
                usage.state = "used".to_owned();
                usage.pod = workload_of(ledger, &holder);
                usage.note = note_on(&holder);
                usage.handle = holder.to_string();
            }
            AddressState::Cooling { until, block } => {
                own_block(Some(block));
                usage.state = "cooling".to_owned();
                let left_ms = until.as_millis().saturating_sub(now.as_millis());
                usage.note = format!("may be had again in {} s", left_ms.div_ceil(1000));
            }
            AddressState::Reserved { by, block } => {
                own_block(block);
                usage.state = "reserved".to_owned();
                usage.note = format!("by IPReservation {by}");
            }
            AddressState::Free { block } => {
                own_block(Some(block));
                usage.state = "free".to_owned();
            }
            AddressState::Lent { to, block } => {
                own_block(Some(block));
                usage.state = "used".to_owned();
                usage.note = format!("lent to node {to}: only its agent knows more");
            }
            AddressState::OtherNode { node, block } => {
                usage.state = "used".to_owned();
                usage.block = block.to_string();
                usage.node = node.to_string();
                usage.note = "in another node's block: only its agent knows more".to_owned();
            }
            AddressState::Unclaimed => usage.state = "unclaimed".to_owned(),
            AddressState::Outside => usage.state = "outside".to_owned(),
        }
        usage
    }

    /// Serves an `ipam release`.
    ///
    /// # Errors
    /// The handle does not hold the address, or its interface exists and `force` is not given.
    pub async fn ipam_release(&self, request: &IpamReleaseRequest) -> Answer<IpamReleaseReply> {
        let (container_id, ifname) = request.handle.rsplit_once('/').ok_or_else(|| {
            invalid(format!(
                "handle {:?}: expected CONTAINER-ID/INTERFACE, as `ipam show` prints it",
                request.handle
            ))
        })?;
        let handle = Handle::new(container_id, ifname).map_err(invalid)?;
        if handle.is_of_node() {
            return Err(invalid(
                "the node needs this address itself: take Tunnel out of its pool's allowedUses",
            ));
        }
        // An ADD under way is cancelled and taken back first, as by a DEL.
        let _turn = self.node.gates.queue_del(&handle).turn().await;
        if let Some(address) = request.address {
            let decided = self.node.ledger().ipam().decide_free_address(&handle, address);
            decided.map_err(|error| refuse(ErrorCode::Conflict, error))?;
        }
        let reading = self.node.dataplane.clone();
        let interfaces =
            self.node.blocking(move || reading.fetch_pods()).await.map_err(internal)?.map_err(internal)?;
        let wired = interfaces.iter().any(|interface| interface.host_ifname == handle.host_ifname());
        if wired && !request.force {
            let message = format!("{handle} is in use: its interface {} exists", handle.host_ifname());
            let mut refusal = refuse(ErrorCode::Conflict, message);
            refusal.details.push("delete the pod, or take its interface off as well with --force".to_owned());
            return Err(refusal);
        }
        let is_foreign = self.node.ledger().pod(&handle).is_some_and(|pod| pod.foreign_interface);
        if is_foreign && !request.force {
            let message =
                format!("{handle} may be in use: its interface is another plugin's, and not seen here");
            let mut refusal = refuse(ErrorCode::Conflict, message);
            refusal
                .details
                .push("delete the pod, or free its addresses all the same with --force".to_owned());
            return Err(refusal);
        }
        if wired {
            let (dataplane, taken_off) = (self.node.dataplane.clone(), handle.clone());
            let unwired = self.node.blocking(move || dataplane.unwire(&taken_off)).await.map_err(internal)?;
            unwired.map_err(|errors| {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                try_again(format!("take {handle} off: {}", lines.join("; ")))
            })?;
        }
        let view = self.node.world.view();
        let mut ledger = self.node.ledger();
        let now = self.node.now();
        // With the interface gone, none of its addresses is of use to anybody.
        let freed = match request.address.filter(|_| !wired) {
            Some(address) => ledger.free_address(&handle, address, &view.pools, now),
            None => ledger.free(&handle, &view.pools, now),
        };
        let freed = freed.map_err(|error| match error {
            LedgerError::Free(error) => refuse(ErrorCode::Conflict, error),
            error => internal(error),
        })?;
        Ok(IpamReleaseReply { freed })
    }
}

fn workload_of(ledger: &Ledger, handle: &Handle) -> String {
    let workload =
        ledger.pod(handle).map(|pod| &pod.identity.workload).filter(|workload| !workload.pod.is_empty());
    workload.map(ToString::to_string).unwrap_or_default()
}

fn note_on(holder: &Handle) -> String {
    let note =
        if holder.is_of_node() { "the node's own, for what it sends to encapsulated pools" } else { "" };
    note.to_owned()
}

fn usage_of(usage: &ipam::Usage) -> Usage {
    let count = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
    Usage {
        size: count(usage.size),
        used: count(usage.used),
        free: count(usage.free),
        cooling: count(usage.cooling),
        reserved: count(usage.reserved),
    }
}
