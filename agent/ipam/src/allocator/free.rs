//! Taking back: always by the holder's identity, never by an address alone.

use std::net::IpAddr;

use model::{BootTime, Family, Handle};

use super::{Assignment, NodeIpam};
use crate::mutant::{self, Mutant};
use crate::pool::PoolTable;

/// What was asked to be freed, by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeItem {
    /// The holder.
    pub handle: Handle,
    /// Only this address of it; `None`: all.
    pub address: Option<IpAddr>,
}

/// What is freed: addresses that were held and now are not. Empty when there was nothing to free, which is a
/// success.
pub type Freed = Vec<Assignment>;

/// Why an address is not freed. It stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreeError {
    /// Somebody else holds it.
    #[error("cannot free {address} for {handle}: it is held by {holder}")]
    OtherHolder {
        /// The address.
        address: IpAddr,
        /// Who asked.
        handle: Handle,
        /// Who holds it.
        holder: Handle,
    },
}

impl NodeIpam {
    /// What freeing everything of a handle would free: all families and blocks; nothing for an unknown handle.
    #[must_use]
    pub fn decide_free(&self, handle: &Handle) -> Freed {
        self.held_by(handle)
    }

    /// What freeing one address of a handle would free: nothing when nobody holds it.
    ///
    /// # Errors
    /// Somebody else holds it.
    pub fn decide_free_address(&self, handle: &Handle, address: IpAddr) -> Result<Freed, FreeError> {
        if let Some(holder) = self.holder_of(address)
            && holder != handle
        {
            if mutant::on(Mutant::FreeWithoutHolder) {
                return self.decide_free_address(&holder.clone(), address);
            }
            return Err(FreeError::OtherHolder { address, handle: handle.clone(), holder: holder.clone() });
        }
        Ok(self.held_by(handle).into_iter().filter(|held| held.address == address).collect())
    }

    /// What each item of a batch would free, decided by itself.
    ///
    /// # Errors
    /// Each item has its own result; one that fails changes nothing for the others.
    #[must_use]
    pub fn decide_free_batch(&self, items: &[FreeItem]) -> Vec<Result<Freed, FreeError>> {
        items.iter().map(|item| self.decide_item(item)).collect()
    }

    /// Frees everything of a handle. Each address may be had again at the tail of its block, after its pool's
    /// cooldown; a pool that is gone has none.
    pub fn apply_free(&mut self, handle: &Handle, pools: &PoolTable, now: BootTime) -> Freed {
        let freed = self.decide_free(handle);
        self.give_back(handle, &freed, pools, now);
        freed
    }

    /// Frees one address of a handle, as [`NodeIpam::apply_free`] does.
    ///
    /// # Errors
    /// Somebody else holds it; it stays.
    pub fn apply_free_address(
        &mut self,
        handle: &Handle,
        address: IpAddr,
        pools: &PoolTable,
        now: BootTime,
    ) -> Result<Freed, FreeError> {
        let freed = self.decide_free_address(handle, address)?;
        let holder = match self.holder_of(address).filter(|_| mutant::on(Mutant::FreeWithoutHolder)) {
            Some(holder) => holder.clone(),
            None => handle.clone(),
        };
        self.give_back(&holder, &freed, pools, now);
        Ok(freed)
    }

    /// Frees a batch, item after item: what an earlier one freed is nothing to a later one.
    ///
    /// # Errors
    /// Each item has its own result; one that fails changes nothing for the others.
    pub fn apply_free_batch(
        &mut self,
        items: &[FreeItem],
        pools: &PoolTable,
        now: BootTime,
    ) -> Vec<Result<Freed, FreeError>> {
        items
            .iter()
            .map(|item| {
                let freed = self.decide_item(item)?;
                self.give_back(&item.handle, &freed, pools, now);
                Ok(freed)
            })
            .collect()
    }

    fn decide_item(&self, item: &FreeItem) -> Result<Freed, FreeError> {
        match item.address {
            Some(address) => self.decide_free_address(&item.handle, address),
            None => Ok(self.decide_free(&item.handle)),
        }
    }

    fn give_back(&mut self, handle: &Handle, freed: &[Assignment], pools: &PoolTable, now: BootTime) {
        for Assignment { pool, address, .. } in freed {
            let mut cooldown = pools.by_name(pool).map(|pool| pool.cooldown).unwrap_or_default();
            if mutant::on(Mutant::NoCooldown) {
                cooldown = std::time::Duration::ZERO;
            }
            if let Some(block) = self.block_around_mut(*address) {
                block.give_back(*address, now, now.after(cooldown));
            }
            debug_assert_eq!(
                self.holders.get(handle).and_then(|held| held.of(Family::of(*address))),
                Some(*address)
            );
            self.forget_held(handle, *address);
        }
    }
}
