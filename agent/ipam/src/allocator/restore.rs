//! Rebuilding the state after a start: from the journal, or from what the kernel still shows.

use std::net::IpAddr;

use model::{BootTime, Cidr, Family, Handle};

use super::{ApplyError, NodeIpam};

impl NodeIpam {
    /// Puts a known allocation back, cooling or not; what the handle holds already is no error. All addresses
    /// or, on an error, none.
    ///
    /// # Errors
    /// An address is in no block of this node, another handle holds it, or the handle would have two of one
    /// family.
    pub fn restore(
        &mut self,
        handle: &Handle,
        addresses: &[IpAddr],
        since: BootTime,
    ) -> Result<(), ApplyError> {
        // Everything is checked before anything changes.
        let mut held = self.held_or_new(handle, since);
        let mut missing = Vec::new();
        for &address in addresses {
            match held.of(Family::of(address)) {
                Some(other) if other == address => continue,
                Some(other) => {
                    return Err(ApplyError::HolderHas { handle: handle.clone(), address, held: other });
                }
                None => {}
            }
            let block = self.block_around(address).ok_or(ApplyError::NoBlock { address })?;
            // At the end of time nothing cools any more: only a holder stands in the way.
            block
                .check_take(address, BootTime::from_millis(u64::MAX))
                .map_err(|source| ApplyError::Ordinal { handle: handle.clone(), source })?;
            held.set(address);
            missing.push(address);
        }
        for address in missing {
            if let Some(block) = self.block_around_mut(address) {
                block.restore(address, handle);
            }
        }
        self.record_held(handle, held);
        Ok(())
    }

    /// Puts a known cooldown back. An address that is held, or cools already, is left as it is.
    ///
    /// # Errors
    /// The address is in no block of this node.
    pub fn restore_cooling(&mut self, address: IpAddr, until: BootTime) -> Result<(), ApplyError> {
        let block = self.block_around_mut(address).ok_or(ApplyError::NoBlock { address })?;
        block.cool_free(address, until);
        Ok(())
    }

    /// Makes every address that nobody is known to hold cooling until `until` at least, in one block.
    ///
    /// For when the journal of a block is lost: an address that seems free may be in use by a workload that
    /// has not been found yet. Found ones are put back by [`NodeIpam::restore`] all the same.
    ///
    /// # Errors
    /// Not a block of this node.
    pub fn cool_unproven(&mut self, cidr: &Cidr, until: BootTime) -> Result<(), ApplyError> {
        let block = self.blocks.get_mut(cidr).ok_or(ApplyError::UnknownBlock { block: *cidr })?;
        block.cool_all(until);
        Ok(())
    }

    /// [`NodeIpam::cool_unproven`] for all blocks.
    pub fn cool_all_unproven(&mut self, until: BootTime) {
        for block in self.blocks.values_mut() {
            block.cool_all(until);
        }
    }
}
