//! Where other nodes reach this one by IPv6, if its Node object does not say.
//!
//! A kubelet that was told or found one address of its node reports one family. Then the blocks of IPv6 say it themselves:
//! everybody reads them anyway, and nobody else needs to know. A node that has no block of IPv6 says nothing: what it
//! borrows has a route only if its Node object tells the address, by its status or an annotation.
//!
//! Not responsible for what others make of it ([`super::remote`]).

use std::net::Ipv6Addr;

use ipam::protocol::NodeId;
use model::Family;
use store::resource::IpBlock;
use store::{Key, Store, StoreError};
use tracing::{debug, info, warn};

use super::Node;

impl<S: Store> Node<S> {
    /// The address to be told; `None`: none is known, or there is nobody or no need to tell.
    async fn address_to_tell(&self) -> Option<Ipv6Addr> {
        if !self.config.store.is_shared() {
            return None;
        }
        let known = self.world.nodes.kept().read().rows.get(&self.config.node_name).map(|row| row.ipv6);
        // Of a node that is not registered it is not known what its object will say.
        if known != Some(None) {
            return None;
        }
        let dataplane = self.dataplane.clone();
        let read = self.blocking(move || dataplane.underlay_ipv6()).await;
        let read =
            read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string()));
        read.unwrap_or_else(|error| {
            debug!(error, "this node's own IPv6 address cannot be read");
            None
        })
    }

    /// A new block, which says the address from the first on: until it does, there is no route to it.
    pub(super) async fn signed(&self, mut block: IpBlock, owner: &NodeId) -> IpBlock {
        let is_ipv6 = store::block_of(&block).is_ok_and(|read| read.cidr.family() == Family::V6);
        if is_ipv6
            && owner.name == self.config.node_name
            && let Some(address) = self.address_to_tell().await
        {
            store::tell_ipv6(&mut block, address);
        }
        block
    }

    /// Has every own block of IPv6 say the address that this node has now.
    ///
    /// # Errors
    /// The store fails; the next round goes on.
    pub(super) async fn announce(&self) -> Result<(), StoreError> {
        let me = self.world.view().me.clone();
        if !self.world.blocks.kept().serves_ipv6(&me) {
            return Ok(());
        }
        let Some(address) = self.address_to_tell().await else { return Ok(()) };
        for cidr in self.world.blocks.kept().telling_otherwise(&me, address) {
            // Between two looks at it, never within one.
            let _turn = self.attending.lock().await;
            let Some(stored) = self.store.get::<IpBlock>(&Key::of_block(cidr)).await? else { continue };
            let mut object = stored.value;
            if !store::block_of(&object).is_ok_and(|read| read.owner == me) {
                continue;
            }
            store::tell_ipv6(&mut object, address);
            match self.store.compare_and_swap(stored.revision, object).await {
                Ok(made) => {
                    info!(block = %cidr, %address, "other nodes are told where this one is");
                    self.world.blocks.reached(made.revision).await;
                }
                // Somebody was quicker; the next round looks again.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The same, in the course of other work: a failure is told and no hindrance.
    pub(super) async fn announce_or_later(&self) {
        if let Err(error) = self.announce().await {
            warn!(%error, "other nodes are told later where this one is");
        }
    }
}
