//! What this node has given to whom: the allocator's state, the pods, and the journal that outlives both.
//!
//! No change is told to anybody before it is in the journal: an assignment is made here first, to see that it fits,
//! and taken back if the journal does not take it; a free is written first. There is one ledger for each agent, behind one
//! mutex; nothing in it waits for anything but the tmpfs the journal lies on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipam::{ApplyError, Assignment, FreeError, NodeIpam, PoolTable};
use model::{BootTime, Cidr, Handle, PoolName};
use tracing::warn;

use super::pod::{Pod, RecordError, Wired};
use crate::journal::{Journal, JournalError, NetnsId, Record};

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    ipam: NodeIpam,
    pods: BTreeMap<Handle, Pod>,
    /// The nonce of each block this node has claimed, by the journal of this boot.
    nonces: BTreeMap<Cidr, String>,
    journal: Journal,
}

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The journal does not take it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It does not fit what is there.
    #[error(transparent)]
    Apply(Box<ApplyError>),
    /// Somebody else holds the address.
    #[error(transparent)]
    Free(Box<FreeError>),
    /// The handle holds nothing.
    #[error("{0} holds no address on this node")]
    Unknown(Handle),
}

impl From<ApplyError> for LedgerError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(Box::new(error))
    }
}

impl From<FreeError> for LedgerError {
    fn from(error: FreeError) -> Self {
        Self::Free(Box::new(error))
    }
}

/// A block of this node, as the store says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnBlock {
    /// Its range.
    pub cidr: Cidr,
    /// Its pool.
    pub pool: PoolName,
    /// The nonce of its claim.
    pub nonce: String,
}

impl Ledger {
    /// Rebuilds the state from this node's blocks and the records of the journal, in their order. Gives back what
    /// did not fit at the end, for people: an allocation of a block that this node has no more is history if it was
    /// freed later.
    pub fn replay(
        journal: Journal,
        blocks: &[OwnBlock],
        records: &[Record],
        now: BootTime,
    ) -> (Self, Vec<String>) {
        let mut ledger =
            Self { ipam: NodeIpam::new(), pods: BTreeMap::new(), nonces: BTreeMap::new(), journal };
        let mut problems = Vec::new();
        for block in blocks {
            if let Err(error) = ledger.ipam.apply_claim(block.cidr, &block.pool) {
                problems.push(error.to_string());
            }
        }
        let mut unplaced = BTreeMap::new();
        for record in records {
            if let Err(error) = ledger.replay_one(record, &mut unplaced) {
                problems.push(error.to_string());
            }
        }
        problems.extend(unplaced.into_values().map(|error| error.to_string()));
        ledger.ipam.apply_expire(now);
        (ledger, problems)
    }

    fn replay_one(
        &mut self,
        record: &Record,
        unplaced: &mut BTreeMap<(Handle, IpAddr), ApplyError>,
    ) -> Result<(), RecordError> {
        let handle_of =
            |record| Handle::try_from(record).map_err(|error| RecordError::new("a handle", error));
        match record {
            Record::Claim { block, nonce, .. } => {
                let cidr = block.parse().map_err(|error| RecordError::new(block, error))?;
                self.nonces.insert(cidr, nonce.clone());
            }
            Record::Assign(assign) => {
                let pod = Pod::from_record(assign)?;
                let handle = pod.handle().clone();
                for address in pod.identity.addresses() {
                    match self.ipam.restore(&handle, &[address], pod.since) {
                        Ok(()) => {}
                        Err(error @ ApplyError::NoBlock { .. }) => {
                            unplaced.insert((handle.clone(), address), error);
                        }
                        Err(error) => return Err(RecordError::new(&handle, error)),
                    }
                }
                self.pods.insert(handle, pod);
            }
            Record::Commit(wired) => {
                if let Some(pod) = self.pods.get_mut(&handle_of(&wired.handle)?) {
                    pod.wired = Some(Wired {
                        host_mac: wired.host_mac.clone(),
                        pod_mac: wired.pod_mac.clone(),
                        mtu_bytes: wired.mtu_bytes,
                        at: BootTime::from_millis(wired.at_ms),
                    });
                }
            }
            Record::Free { handle, at_ms, cooling } => {
                let handle = handle_of(handle)?;
                self.ipam.apply_free(&handle, &PoolTable::default(), BootTime::from_millis(*at_ms));
                self.pods.remove(&handle);
                unplaced.retain(|(holder, _), _| *holder != handle);
                self.replay_cooling(cooling);
            }
            Record::FreeAddress { handle, address, at_ms, cooling } => {
                let handle = handle_of(handle)?;
                let at = BootTime::from_millis(*at_ms);
                let freed = self.ipam.apply_free_address(&handle, *address, &PoolTable::default(), at);
                freed.map_err(|error| RecordError::new(&handle, error))?;
                self.forget_address(&handle, *address);
                unplaced.remove(&(handle, *address));
                self.replay_cooling(cooling);
            }
            Record::Queue { freed, cooling, .. } => {
                // In this order, and free at once.
                let free_now: Vec<_> = freed.iter().map(|address| (*address, 0)).collect();
                self.replay_cooling(&free_now);
                self.replay_cooling(cooling);
            }
        }
        Ok(())
    }

    /// Addresses of blocks that this node has no more are history.
    fn replay_cooling(&mut self, cooling: &[(IpAddr, u64)]) {
        for (address, until_ms) in cooling {
            let _ = self.ipam.restore_cooling(*address, BootTime::from_millis(*until_ms));
        }
    }

    /// Puts back pods that were found in the kernel although the journal does not know them, makes every other
    /// address unavailable until `until`, and writes all of it to the journal at once. Gives back what did not fit.
    ///
    /// # Errors
    /// The journal does not take it; it stays as it was, and the next start finds it so.
    pub fn rebuild(&mut self, found: Vec<Pod>, until: BootTime) -> Result<Vec<String>, LedgerError> {
        let mut problems = Vec::new();
        for pod in found {
            let addresses: Vec<IpAddr> = pod.identity.addresses().collect();
            match self.ipam.restore(pod.handle(), &addresses, pod.since) {
                Ok(()) => drop(self.pods.insert(pod.handle().clone(), pod)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        self.ipam.cool_all_unproven(until);
        self.journal.rewrite(&self.records())?;
        Ok(problems)
    }

    /// The allocator's state, for decisions.
    #[must_use]
    pub fn ipam(&self) -> &NodeIpam {
        &self.ipam
    }

    /// The pod of a handle.
    #[must_use]
    pub fn pod(&self, handle: &Handle) -> Option<&Pod> {
        self.pods.get(handle)
    }

    /// All pods, by handle.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Whether this boot's journal has a claim of this block with this nonce.
    #[must_use]
    pub fn has_nonce(&self, cidr: &Cidr, nonce: &str) -> bool {
        self.nonces.get(cidr).is_some_and(|own| own == nonce)
    }

    /// Remembers that a block is about to be claimed, whatever comes of it, and says with which nonce: `fresh`, or
    /// that of an earlier attempt whose outcome is not known.
    ///
    /// # Errors
    /// The journal does not take it.
    pub fn intend_claim(
        &mut self,
        cidr: Cidr,
        pool: &PoolName,
        fresh: String,
    ) -> Result<String, LedgerError> {
        if let Some(nonce) = self.nonces.get(&cidr) {
            return Ok(nonce.clone());
        }
        let record = Record::Claim { block: cidr.to_string(), pool: pool.to_string(), nonce: fresh.clone() };
        self.journal.append(&[record])?;
        self.nonces.insert(cidr, fresh.clone());
        Ok(fresh)
    }

    /// Takes a block that the store has given to this node.
    ///
    /// # Errors
    /// It overlaps another one of this node.
    pub fn add_block(&mut self, cidr: Cidr, pool: &PoolName) -> Result<(), LedgerError> {
        Ok(self.ipam.apply_claim(cidr, pool)?)
    }

    /// Stops or resumes handing out addresses of a block.
    ///
    /// # Errors
    /// No block of this node.
    pub fn set_serving(&mut self, cidr: &Cidr, serving: bool) -> Result<(), LedgerError> {
        Ok(self.ipam.apply_serving(cidr, serving)?)
    }

    /// Gives an empty block up, and forgets its history.
    ///
    /// # Errors
    /// An address of it is held or cooling.
    pub fn drop_block(&mut self, cidr: &Cidr, now: BootTime) -> Result<(), LedgerError> {
        self.ipam.apply_release(cidr, now)?;
        self.nonces.remove(cidr);
        if let Err(error) = self.journal.rewrite(&self.records()) {
            warn!(block = %cidr, %error, "the journal keeps the history of a block that is gone");
        }
        Ok(())
    }

    /// Gives addresses to a pod that holds none.
    ///
    /// # Errors
    /// The journal does not take it, or an address is not to be had: nothing is changed.
    pub fn assign(&mut self, pod: Pod, assignments: &[Assignment], now: BootTime) -> Result<(), LedgerError> {
        // Tried on the real state first: what does not fit must not be written.
        self.ipam.apply_assign(pod.handle(), assignments, now)?;
        if let Err(error) = self.journal.append(&[Record::Assign(pod.to_assign_record())]) {
            // Nobody was told: back to the queue, without a cooldown.
            self.ipam.apply_free(pod.handle(), &PoolTable::default(), now);
            return Err(error.into());
        }
        self.pods.insert(pod.handle().clone(), pod);
        Ok(())
    }

    /// Marks a pod as wired: from here on the runtime may have been told.
    ///
    /// # Errors
    /// The handle holds nothing, or the journal does not take it.
    pub fn commit(&mut self, handle: &Handle, wired: Wired, netns: NetnsId) -> Result<(), LedgerError> {
        let pod = self.pods.get_mut(handle).ok_or_else(|| LedgerError::Unknown(handle.clone()))?;
        let before = (pod.wired.replace(wired), pod.netns.replace(netns));
        let mut records = Vec::new();
        if before.1 != pod.netns {
            records.push(Record::Assign(pod.to_assign_record()));
        }
        records.extend(pod.to_wired_record().map(Record::Commit));
        if let Err(error) = self.journal.append(&records) {
            (pod.wired, pod.netns) = before;
            return Err(error.into());
        }
        Ok(())
    }

    /// Frees everything of a handle; nothing to free is no error.
    ///
    /// # Errors
    /// The journal does not take it: everything stays held.
    pub fn free(
        &mut self,
        handle: &Handle,
        pools: &PoolTable,
        now: BootTime,
    ) -> Result<Vec<IpAddr>, LedgerError> {
        let leaving = self.ipam.decide_free(handle);
        if leaving.is_empty() {
            // A pod all of whose addresses went one by one.
            self.pods.remove(handle);
            return Ok(Vec::new());
        }
        let cooling = cooling_of(&leaving, pools, now);
        self.journal.append(&[Record::Free { handle: handle.into(), at_ms: now.as_millis(), cooling }])?;
        let freed = self.ipam.apply_free(handle, pools, now);
        self.pods.remove(handle);
        self.tidy(now);
        Ok(freed.into_iter().map(|assignment| assignment.address).collect())
    }

    /// Frees one address of a handle; one that nobody holds is no error.
    ///
    /// # Errors
    /// Somebody else holds it, or the journal does not take it: it stays held.
    pub fn free_address(
        &mut self,
        handle: &Handle,
        address: IpAddr,
        pools: &PoolTable,
        now: BootTime,
    ) -> Result<Vec<IpAddr>, LedgerError> {
        let leaving = self.ipam.decide_free_address(handle, address)?;
        if leaving.is_empty() {
            return Ok(Vec::new());
        }
        let cooling = cooling_of(&leaving, pools, now);
        let record = Record::FreeAddress { handle: handle.into(), address, at_ms: now.as_millis(), cooling };
        self.journal.append(&[record])?;
        self.ipam.apply_free_address(handle, address, pools, now)?;
        self.forget_address(handle, address);
        self.tidy(now);
        Ok(vec![address])
    }

    fn forget_address(&mut self, handle: &Handle, address: IpAddr) {
        if let Some(pod) = self.pods.get_mut(handle) {
            pod.remove_address(address);
            if pod.pools.is_empty() {
                self.pods.remove(handle);
            }
        }
    }

    /// Rewrites the journal when it has grown enough. A failure costs nothing but length.
    fn tidy(&mut self, now: BootTime) {
        if self.journal.wants_rewrite() {
            self.ipam.apply_expire(now);
            if let Err(error) = self.journal.rewrite(&self.records()) {
                warn!(%error, "the journal stays long");
            }
        }
    }

    /// The whole state as the shortest list of records that brings it back.
    fn records(&self) -> Vec<Record> {
        let claims = self.ipam.blocks().filter_map(|block| {
            let nonce = self.nonces.get(&block.cidr())?.clone();
            Some(Record::Claim { block: block.cidr().to_string(), pool: block.pool().to_string(), nonce })
        });
        let queues = self.ipam.blocks().map(|block| Record::Queue {
            block: block.cidr().to_string(),
            freed: block.freed().collect(),
            cooling: block.cooling().map(|(address, until)| (address, until.as_millis())).collect(),
        });
        let queues = queues.filter(
            |queue| !matches!(queue, Record::Queue { freed, cooling, .. } if freed.is_empty() && cooling.is_empty()),
        );
        let pods = self.pods.values().flat_map(|pod| {
            let assign = Record::Assign(pod.to_assign_record());
            std::iter::once(assign).chain(pod.to_wired_record().map(Record::Commit))
        });
        claims.chain(queues).chain(pods).collect()
    }
}

/// Which of these cool after they are freed, and until when.
fn cooling_of(leaving: &[Assignment], pools: &PoolTable, now: BootTime) -> Vec<(IpAddr, u64)> {
    let until = |assignment: &Assignment| {
        let cooldown = pools.by_name(&assignment.pool).map(|pool| pool.cooldown).unwrap_or_default();
        (!cooldown.is_zero()).then(|| (assignment.address, now.after(cooldown).as_millis()))
    };
    leaving.iter().filter_map(until).collect()
}

#[cfg(test)]
mod tests;
