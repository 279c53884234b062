//! CNI ADD with addresses that another IPAM plugin gave (`host-local`), and our dataplane.
//!
//! Such addresses are in no block. They are tagged, masqueraded and routed by the pool that covers the node's own range
//! (`spec.podCIDRs`), and that pool must hand out nothing itself (`disabled: true`): two who give from one range would
//! give one address twice.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use model::{Cidr, Extras, Handle, PoolName};
use rpc::{AddDelegatedRequest, AddReply, ErrorCode, PodCidrsReply};
use store::Store;
use tokio_util::sync::CancellationToken;

use super::Pods;
use super::add::{Begun, identity_of, kept_nothing};
use super::metadata::Wanted;
use crate::answer::{Answer, invalid, refuse, try_again};
use crate::node::pod::Pod;
use crate::node::remote::delegated_pool;

impl<S: Store> Pods<S> {
    /// The ranges that the cluster gave this node, by this node's copy of its Node object.
    #[must_use]
    pub fn pod_cidrs(&self) -> PodCidrsReply {
        PodCidrsReply { cidrs: self.node.pod_cidrs().iter().map(ToString::to_string).collect() }
    }

    /// Serves an ADD with addresses that another plugin gave.
    ///
    /// # Errors
    /// Refused or failed: nothing of it is left. [`ErrorCode::NotFound`] without addresses for what was not added.
    pub async fn add_delegated(
        &self,
        request: AddDelegatedRequest,
        netns: Option<OwnedFd>,
        cancel: CancellationToken,
    ) -> Answer<AddReply> {
        let AddDelegatedRequest { add, mut addresses } = request;
        let Begun { handle, netns, turn: _turn } = self.begin(&add, netns, &cancel).await?;
        let held = self.node.ledger().pod(&handle).filter(|pod| pod.identity.extras.delegated).cloned();
        match held {
            Some(pod) if addresses.is_empty() => addresses = pod.identity.addresses().collect(),
            None if addresses.is_empty() => {
                return Err(refuse(ErrorCode::NotFound, format!("{handle} was not added before")));
            }
            _ => {}
        }
        // IPv4 first, as everywhere.
        addresses.sort_unstable();
        if let Some(reply) = self.held_already(&handle, &netns, Some(&addresses)).await? {
            return Ok(reply);
        }
        let pools =
            addresses.iter().map(|address| self.pool_for(*address)).collect::<Answer<Vec<PoolName>>>()?;
        let wanted = self.assign_request(&handle, &add.pod, &add.options).await?;
        refuse_choices(&handle, &wanted)?;
        let mut identity = identity_of(&handle, &add, Extras { delegated: true, ..wanted.extras });
        for address in &addresses {
            let twice = match address {
                IpAddr::V4(v4) => identity.ipv4.replace(*v4).is_some(),
                IpAddr::V6(v6) => identity.ipv6.replace(*v6).is_some(),
            };
            if twice {
                return Err(invalid(format!("{address}: a second address of one family")));
            }
        }
        let since = self.node.now();
        let pod =
            Pod { identity, pools, netns: Some(netns.id()), since, foreign_interface: false, wired: None };
        self.node.ledger().take_in(pod.clone()).map_err(|error| kept_nothing(&error))?;
        let made = self.wire_and_commit(&pod, &add, &netns, &cancel).await;
        if made.is_err() {
            self.take_back(&handle).await;
        }
        made
    }

    /// The pool by which an address is tagged.
    fn pool_for(&self, address: IpAddr) -> Answer<PoolName> {
        let view = self.node.world.view();
        let own = self.node.pod_cidrs();
        let range = own.iter().find(|cidr| cidr.contains(address)).copied();
        // Others have a way to it only if it is in a range that they know to be this node's.
        let range = match range {
            Some(range) => range,
            None if self.node.config.store.is_shared() => {
                return Err(invalid(format!(
                    "address {address} is in none of this node's pod CIDRs ({}): other nodes would have no way to it",
                    own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                )));
            }
            None => Cidr::host(address),
        };
        let covering = view.pools.by_address(address);
        let Some(pool) = delegated_pool(&range, &view.pools) else {
            let mut error = match covering {
                Some(pool) if pool.cidr.covers(&range) => invalid(format!(
                    "pool {} covers {range}, which another plugin gives addresses from, and hands out addresses itself",
                    pool.name
                )),
                _ => invalid(format!("no pool covers {range}: packets of {address} would have no tag")),
            };
            error.details.push(format!("apply an IPPool whose cidr covers {range}, with disabled: true"));
            return Err(error);
        };
        if pool.tag.is_none() || pool.terminating {
            return Err(try_again(format!("pool {} is not admitted, or being deleted", pool.name)));
        }
        let in_block = self.node.ledger().ipam().blocks().any(|block| block.cidr().contains(address));
        if in_block || view.foreign.owner_of(address).is_some() {
            return Err(refuse(
                ErrorCode::Conflict,
                format!("address {address} is in a block of pool {}: it may be another pod's", pool.name),
            ));
        }
        Ok(pool.name.clone())
    }
}

/// A pod that names a pool or an address never gets another one.
fn refuse_choices(handle: &Handle, wanted: &Wanted) -> Answer<()> {
    let request = &wanted.request;
    let pools = [&request.v4, &request.v6].into_iter().find_map(|family| family.pools.as_ref());
    let asked = match (wanted.address_key, pools) {
        (Some(key), _) => format!("pod annotation {key}"),
        (None, Some(pools)) => pools.source.to_string(),
        (None, None) => return Ok(()),
    };
    Err(invalid(format!("{handle}: {asked} cannot be followed: another plugin gives the addresses here")))
}
