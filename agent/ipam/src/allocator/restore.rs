//! Rebuilding the state after a start: from the journal, or from what the kernel still shows.

use std::net::IpAddr;
use std::sync::Arc;

use model::{BootTime, Cidr, Family, Handle};

use super::{ApplyError, Held, NodeIpam};

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
        let shared = Arc::new(handle.clone());
        let mut held = self.holders.get(handle).copied().unwrap_or(Held { since, ..Held::default() });
        let mut undo = Vec::new();
        let outcome = addresses.iter().try_for_each(|&address| {
            match held.of(Family::of(address)) {
                Some(other) if other == address => return Ok(()),
                Some(other) => {
                    return Err(ApplyError::HolderHas { handle: handle.clone(), address, held: other });
                }
                None => {}
            }
            let block = self.block_around_mut(address).ok_or(ApplyError::NoBlock { address })?;
            undo.push(block.clone());
            block
                .restore(address, &shared)
                .map_err(|source| ApplyError::Ordinal { handle: handle.clone(), source })?;
            held.set(address);
            Ok(())
        });
        if let Err(error) = outcome {
            // Back to front, so that the oldest copy of a block is the last one put back.
            for block in undo.into_iter().rev() {
                self.blocks.insert(block.cidr(), block);
            }
            return Err(error);
        }
        if !held.is_empty() {
            self.holders.insert(shared, held);
        }
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
