//! What this node has given to whom: the allocator's state, the pods, and the journal that outlives both.
//!
//! No change is told to anybody before it is in the journal: an assignment is made here first, to see that it fits,
//! and taken back if the journal does not take it; a free is written first. There is one ledger for each agent, behind one
//! mutex; nothing in it waits for anything but the tmpfs the journal lies on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipam::protocol::{CutOff, Fact, Keeper, NodeId};
use ipam::{ApplyError, Assignment, FreeError, NodeIpam, PoolTable};
use model::{BootTime, Handle};
use tracing::{error, warn};

use super::pod::{Pod, RecordError, Wired};
use crate::journal::{Journal, JournalError, NetnsId, Owner, Record, fact_of, record_of};

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    keeper: Keeper,
    pods: BTreeMap<Handle, Pod>,
    /// The node's own address, in the form of a pod that is never wired; not among the pods.
    inner: Option<Pod>,
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

impl Ledger {
    /// Rebuilds the state from the records of the journal, in their order. Gives back what did not fit at the end, for
    /// people: an allocation of a block that this node has no more is history if it was freed later.
    pub fn replay(journal: Journal, me: NodeId, records: &[Record], now: BootTime) -> (Self, Vec<String>) {
        let mut ledger = Self { keeper: Keeper::new(me), pods: BTreeMap::new(), inner: None, journal };
        let mut problems = Vec::new();
        let mut unplaced = BTreeMap::new();
        for record in records {
            if let Err(error) = ledger.replay_one(record, &mut unplaced) {
                problems.push(error.to_string());
            }
        }
        problems.extend(unplaced.into_values().map(|error| error.to_string()));
        ledger.keeper.ipam_mut().apply_expire(now);
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
            Record::Protocol(record) => {
                let fact = fact_of(record).map_err(|error| RecordError::new("the protocol", error))?;
                let cut_off =
                    self.keeper.apply(&fact).map_err(|error| RecordError::new("the protocol", error))?;
                self.forget_cut_off(&cut_off);
            }
            Record::Assign(assign) => {
                let pod = Pod::from_record(assign)?;
                let handle = pod.handle().clone();
                // Of what another plugin gave the allocator knows nothing.
                let own = pod.identity.addresses().filter(|_| !pod.identity.extras.delegated);
                for address in own {
                    match self.keeper.ipam_mut().restore(&handle, &[address], pod.since) {
                        Ok(()) => {}
                        Err(error @ ApplyError::NoBlock { .. }) => {
                            unplaced.insert((handle.clone(), address), error);
                        }
                        Err(error) => return Err(RecordError::new(&handle, error)),
                    }
                }
                self.remember(pod);
            }
            Record::Commit(wired) => {
                if let Some(pod) = self.pods.get_mut(&handle_of(&wired.handle)?) {
                    pod.wired = Some(Wired {
                        host_mac: wired.host_mac.clone(),
                        pod_mac: wired.pod_mac.clone(),
                        mtu_bytes: wired.mtu_bytes,
                        nsid: wired.nsid,
                        at: BootTime::from_millis(wired.at_ms),
                    });
                }
            }
            Record::Free { handle, at_ms, cooling } => {
                let handle = handle_of(handle)?;
                let at = BootTime::from_millis(*at_ms);
                self.keeper.ipam_mut().apply_free(&handle, &PoolTable::default(), at);
                self.forget(&handle);
                unplaced.retain(|(holder, _), _| *holder != handle);
                self.replay_cooling(cooling);
            }
            Record::FreeAddress { handle, address, at_ms, cooling } => {
                let handle = handle_of(handle)?;
                let at = BootTime::from_millis(*at_ms);
                let ipam = self.keeper.ipam_mut();
                let freed = ipam.apply_free_address(&handle, *address, &PoolTable::default(), at);
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
            let until = BootTime::from_millis(*until_ms);
            let _ = self.keeper.ipam_mut().restore_cooling(*address, until);
        }
    }

    /// Takes blocks that the store says are ours and the journal does not know, puts back pods that were found in the
    /// kernel, makes every other address unavailable until `until`, and writes all of it to the journal at once. Gives
    /// back what did not fit. The blocks serve nothing before they are adopted by compare-and-swap.
    ///
    /// # Errors
    /// The journal does not take it; it stays as it was, and the next start finds it so.
    pub fn rebuild(
        &mut self,
        blocks: &[Fact],
        found: Vec<Pod>,
        until: BootTime,
    ) -> Result<Vec<String>, LedgerError> {
        let mut problems = Vec::new();
        for fact in blocks {
            if let Err(error) = self.keeper.apply(fact) {
                problems.push(error.to_string());
            }
        }
        for pod in found {
            let delegated = pod.identity.extras.delegated;
            let addresses: Vec<IpAddr> = pod.identity.addresses().filter(|_| !delegated).collect();
            match self.keeper.ipam_mut().restore(pod.handle(), &addresses, pod.since) {
                Ok(()) => drop(self.pods.insert(pod.handle().clone(), pod)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        self.keeper.ipam_mut().cool_all_unproven(until);
        self.journal.rewrite(&self.records())?;
        Ok(problems)
    }

    /// Whose journal it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        self.journal.owner()
    }

    /// The allocator's state, for decisions.
    #[must_use]
    pub fn ipam(&self) -> &NodeIpam {
        self.keeper.ipam()
    }

    /// This node's part in the protocol, for decisions.
    #[must_use]
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// This node's part in the protocol, for what the journal does not keep: observations, identity, confirmation.
    pub fn keeper_mut(&mut self) -> &mut Keeper {
        &mut self.keeper
    }

    /// The pod of a handle.
    #[must_use]
    pub fn pod(&self, handle: &Handle) -> Option<&Pod> {
        self.pods.get(handle)
    }

    /// The node's own address.
    #[must_use]
    pub fn inner_ipv4(&self) -> Option<Ipv4Addr> {
        self.inner.as_ref()?.identity.ipv4
    }

    /// All pods, by handle.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Writes facts down and makes them so. Gives back who is cut off by them; those pods have lost the addresses.
    ///
    /// # Errors
    /// The journal does not take them: nothing is changed.
    pub fn note(&mut self, facts: &[Fact], now: BootTime) -> Result<CutOff, LedgerError> {
        let records: Vec<Record> = facts.iter().filter_map(record_of).map(Record::Protocol).collect();
        if !records.is_empty() {
            self.journal.append(&records)?;
        }
        let mut cut_off = CutOff::new();
        for fact in facts {
            match self.keeper.apply(fact) {
                Ok(holders) => cut_off.extend(holders),
                // Decided on this very state, under one lock.
                Err(problem) => error!(?fact, %problem, "a fact does not fit what this node remembers"),
            }
        }
        self.forget_cut_off(&cut_off);
        self.tidy(now);
        Ok(cut_off)
    }

    fn forget_cut_off(&mut self, cut_off: &CutOff) {
        for (handle, address) in cut_off {
            self.forget_address(handle, *address);
        }
    }

    /// Gives addresses to a pod that holds none.
    ///
    /// # Errors
    /// The journal does not take it, or an address is not to be had: nothing is changed.
    pub fn assign(&mut self, pod: Pod, assignments: &[Assignment], now: BootTime) -> Result<(), LedgerError> {
        // Tried on the real state first: what does not fit must not be written.
        self.keeper.ipam_mut().apply_assign(pod.handle(), assignments, now)?;
        if let Err(error) = self.journal.append(&[Record::Assign(pod.to_assign_record())]) {
            // Nobody was told: back to the queue, without a cooldown.
            self.keeper.ipam_mut().apply_free(pod.handle(), &PoolTable::default(), now);
            return Err(error.into());
        }
        self.remember(pod);
        Ok(())
    }

    /// Takes in a pod whose addresses another plugin gave.
    ///
    /// # Errors
    /// The journal does not take it: nothing is changed.
    pub fn take_in(&mut self, pod: Pod) -> Result<(), LedgerError> {
        self.journal.append(&[Record::Assign(pod.to_assign_record())])?;
        self.remember(pod);
        Ok(())
    }

    fn remember(&mut self, pod: Pod) {
        if pod.handle().is_of_node() {
            self.inner = Some(pod);
        } else {
            self.pods.insert(pod.handle().clone(), pod);
        }
    }

    fn forget(&mut self, handle: &Handle) {
        if handle.is_of_node() {
            self.inner = None;
        } else {
            self.pods.remove(handle);
        }
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
        let leaving = self.ipam().decide_free(handle);
        let known = self.pods.get(handle);
        if leaving.is_empty() && known.is_none_or(|pod| !pod.identity.extras.delegated) {
            // A pod all of whose addresses went one by one.
            self.forget(handle);
            return Ok(Vec::new());
        }
        let cooling = cooling_of(&leaving, pools, now);
        self.journal.append(&[Record::Free { handle: handle.into(), at_ms: now.as_millis(), cooling }])?;
        let freed = self.keeper.ipam_mut().apply_free(handle, pools, now);
        self.forget(handle);
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
        let leaving = self.ipam().decide_free_address(handle, address)?;
        if leaving.is_empty() {
            return Ok(Vec::new());
        }
        let cooling = cooling_of(&leaving, pools, now);
        let record = Record::FreeAddress { handle: handle.into(), address, at_ms: now.as_millis(), cooling };
        self.journal.append(&[record])?;
        self.keeper.ipam_mut().apply_free_address(handle, address, pools, now)?;
        self.forget_address(handle, address);
        self.tidy(now);
        Ok(vec![address])
    }

    fn forget_address(&mut self, handle: &Handle, address: IpAddr) {
        if handle.is_of_node() {
            self.inner = None;
        }
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
            self.keeper.ipam_mut().apply_expire(now);
            if let Err(error) = self.journal.rewrite(&self.records()) {
                warn!(%error, "the journal stays long");
            }
        }
    }

    /// The whole state as the shortest list of records that brings it back.
    fn records(&self) -> Vec<Record> {
        let facts = self.keeper.facts();
        let facts = facts.iter().filter_map(record_of).map(Record::Protocol);
        let queues = self.ipam().blocks().map(|block| Record::Queue {
            block: block.cidr().to_string(),
            freed: block.freed().collect(),
            cooling: block.cooling().map(|(address, until)| (address, until.as_millis())).collect(),
        });
        let queues = queues.filter(
            |queue| !matches!(queue, Record::Queue { freed, cooling, .. } if freed.is_empty() && cooling.is_empty()),
        );
        let pods = self.pods.values().chain(&self.inner).flat_map(|pod| {
            let assign = Record::Assign(pod.to_assign_record());
            std::iter::once(assign).chain(pod.to_wired_record().map(Record::Commit))
        });
        facts.chain(queues).chain(pods).collect()
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
