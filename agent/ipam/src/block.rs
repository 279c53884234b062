//! One block of addresses: which ordinal is handed out next, and which ones are not to be had.
//!
//! The queue of a block, front to back:
//!
//! ```text
//!   never used, in order          freed, in the order they were      cooling, by the time it ends
//!   fresh, fresh+1, ... n-1   |   7, 3, ...                      |   (t1, 5), (t2, 0), ...
//!   without plucked ones
//! ```
//! A cooling ordinal whose time is over counts as part of the queue without having been moved, so that
//! decisions need not change anything. Reserved ordinals are stepped over and keep their place. An untouched
//! block costs no memory beyond its own fields, whatever its size.
//!
//! Which blocks exist and whose they are is not decided here.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use model::{BootTime, Cidr, Handle, NodeName, PoolName};

use crate::accounting::Usage;
use crate::reservation::Reservations;

/// The most addresses a block may have: /20 and /116.
pub(crate) const MAX_BLOCK_ADDRESSES: u32 = 4096;

/// A block that belongs to this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    cidr: Cidr,
    pool: PoolName,
    /// False while its ownership is in doubt: it keeps what it has and hands out nothing.
    serving: bool,
    size: u16,
    /// The lowest ordinal that was never taken. All below have left the fresh part.
    fresh: u16,
    /// Bits of ordinals above `fresh` that left the fresh part out of turn. Empty while there is none.
    plucked: Vec<u64>,
    freed: VecDeque<u16>,
    cooling: VecDeque<(BootTime, u16)>,
    used: Holders,
    /// Ordinals lent to other nodes. Out of the queue as if they were held.
    lent: BTreeMap<u16, NodeName>,
}

/// Who holds which ordinal, by ordinal: two words each, up to the highest one that is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Holders {
    by_ordinal: Vec<Option<Handle>>,
    count: u16,
}

impl Holders {
    fn get(&self, ordinal: u16) -> Option<&Handle> {
        self.by_ordinal.get(usize::from(ordinal))?.as_ref()
    }

    /// Lowest first.
    fn iter(&self) -> impl Iterator<Item = (u16, &Handle)> + '_ {
        (0..).zip(&self.by_ordinal).filter_map(|(ordinal, holder)| Some((ordinal, holder.as_ref()?)))
    }

    fn insert(&mut self, ordinal: u16, holder: Handle) {
        let index = usize::from(ordinal);
        if self.by_ordinal.len() <= index {
            self.by_ordinal.resize(index + 1, None);
        }
        if let Some(place) = self.by_ordinal.get_mut(index) {
            self.count += u16::from(place.replace(holder).is_none());
        }
    }

    /// Whether it was held.
    fn remove(&mut self, ordinal: u16) -> bool {
        let taken = self.by_ordinal.get_mut(usize::from(ordinal)).and_then(Option::take);
        self.count -= u16::from(taken.is_some());
        // Two blocks with the same holders are equal, whatever they held before.
        while let Some(None) = self.by_ordinal.last() {
            self.by_ordinal.pop();
        }
        taken.is_some()
    }
}

/// The state of one ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrdinalState<'a> {
    /// In the queue.
    Free,
    /// Held.
    Used(&'a Handle),
    /// Lent to another node, which alone knows who holds it.
    Lent(&'a NodeName),
    /// Freed a short while ago.
    Cooling {
        /// When it may be had again.
        until: BootTime,
    },
}

/// Why an ordinal cannot be taken or given back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrdinalError {
    /// Not in this block.
    #[error("{address} is not in block {block}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The block.
        block: Cidr,
    },
    /// Somebody holds it.
    #[error("{address} is held by {holder}")]
    Held {
        /// The address.
        address: IpAddr,
        /// By whom.
        holder: Handle,
    },
    /// It is lent to another node.
    #[error("{address} is lent to node {borrower}")]
    Lent {
        /// The address.
        address: IpAddr,
        /// To whom.
        borrower: NodeName,
    },
    /// It was freed a short while ago.
    #[error("{address} is cooling until {} ms after boot", until.as_millis())]
    Cooling {
        /// The address.
        address: IpAddr,
        /// When it may be had again.
        until: BootTime,
    },
}

/// An address that is in two states, or in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The address.
    pub(crate) address: IpAddr,
    /// The two states, or nothing.
    pub(crate) states: [Option<&'static str>; 2],
}

impl Block {
    /// An untouched block of up to 4,096 addresses; `None` if it would have more.
    #[must_use]
    pub fn new(cidr: Cidr, pool: PoolName) -> Option<Self> {
        let size = u16::try_from(cidr.size()).ok().filter(|&size| u32::from(size) <= MAX_BLOCK_ADDRESSES)?;
        Some(Self {
            cidr,
            pool,
            serving: true,
            size,
            fresh: 0,
            plucked: Vec::new(),
            freed: VecDeque::new(),
            cooling: VecDeque::new(),
            used: Holders::default(),
            lent: BTreeMap::new(),
        })
    }

    /// Its range.
    #[must_use]
    pub fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// The pool it was cut from.
    #[must_use]
    pub fn pool(&self) -> &PoolName {
        &self.pool
    }

    /// Whether it hands out addresses; not while its ownership is in doubt.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.serving
    }

    pub(crate) fn set_serving(&mut self, serving: bool) {
        self.serving = serving;
    }

    /// How many addresses are held.
    #[must_use]
    pub fn used_count(&self) -> u32 {
        u32::from(self.used.count)
    }

    /// How many addresses are lent to other nodes.
    #[must_use]
    pub fn lent_count(&self) -> u32 {
        u32::try_from(self.lent.len()).unwrap_or(u32::MAX)
    }

    /// Every address lent to another node, and to which; lowest first.
    pub fn lent(&self) -> impl Iterator<Item = (IpAddr, &NodeName)> + '_ {
        self.lent.iter().filter_map(|(&ordinal, to)| Some((self.cidr.nth(u128::from(ordinal))?, to)))
    }

    /// Whether nothing of it is held or lent and nothing cools at `now`: it may be released.
    #[must_use]
    pub fn is_idle(&self, now: BootTime) -> bool {
        self.used.count == 0 && self.lent.is_empty() && self.cooling.iter().all(|&(until, _)| until <= now)
    }

    /// Every address held and by whom, lowest first.
    pub fn holders(&self) -> impl Iterator<Item = (IpAddr, &Handle)> + '_ {
        self.used
            .iter()
            .filter_map(|(ordinal, holder)| self.cidr.nth(u128::from(ordinal)).map(|at| (at, holder)))
    }

    /// The address that automatic assignment hands out next; `None` when the block is full, all that is left
    /// is reserved or cooling, or it does not serve.
    ///
    /// Costs a constant, plus one step for each run of taken or reserved ordinals at the front.
    #[must_use]
    pub fn peek(&self, reservations: &Reservations, now: BootTime) -> Option<IpAddr> {
        if self.serving { self.peek_any(reservations, now) } else { None }
    }

    /// As [`Block::peek`], serving or not: what an owner that has just seen that the block is its own may lend.
    #[must_use]
    pub(crate) fn peek_any(&self, reservations: &Reservations, now: BootTime) -> Option<IpAddr> {
        self.peek_fresh(reservations).or_else(|| {
            let expired =
                self.cooling.iter().take_while(|&&(until, _)| until <= now).map(|&(_, ordinal)| ordinal);
            self.freed
                .iter()
                .copied()
                .chain(expired)
                .filter_map(|ordinal| self.cidr.nth(u128::from(ordinal)))
                .find(|&address| !reservations.contains(address))
        })
    }

    fn peek_fresh(&self, reservations: &Reservations) -> Option<IpAddr> {
        let mut ordinal = self.fresh;
        loop {
            ordinal = self.next_unplucked(ordinal)?;
            let address = self.cidr.nth(u128::from(ordinal))?;
            let Some(run) = reservations.run_after(address) else { return Some(address) };
            let next = u128::from(ordinal).saturating_add(run).saturating_add(1);
            ordinal = u16::try_from(next).ok()?;
        }
    }

    /// The state of an address at `now`; `None` outside the block.
    #[must_use]
    pub fn state(&self, address: IpAddr, now: BootTime) -> Option<OrdinalState<'_>> {
        let ordinal = self.ordinal_of(address)?;
        if let Some(holder) = self.used.get(ordinal) {
            return Some(OrdinalState::Used(holder));
        }
        if let Some(borrower) = self.lent.get(&ordinal) {
            return Some(OrdinalState::Lent(borrower));
        }
        let until = self.cooling.iter().find(|&&(until, at)| at == ordinal && until > now);
        Some(until.map_or(OrdinalState::Free, |&(until, _)| OrdinalState::Cooling { until }))
    }

    /// Addresses that are in two states at once, or in none. Costs a step for each address.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut states = vec![None; usize::from(self.size)];
        let mut faults = Vec::new();
        let fresh = (self.fresh..self.size).filter(|&ordinal| !self.is_plucked(ordinal));
        let all = (self.used.iter().map(|(ordinal, _)| (ordinal, "used")))
            .chain(self.lent.keys().map(|&ordinal| (ordinal, "lent")))
            .chain(self.cooling.iter().map(|&(_, ordinal)| (ordinal, "cooling")))
            .chain(self.freed.iter().map(|&ordinal| (ordinal, "free")))
            .chain(fresh.map(|ordinal| (ordinal, "never used")));
        for (ordinal, state) in all {
            let Some(address) = self.cidr.nth(u128::from(ordinal)) else { continue };
            match states.get_mut(usize::from(ordinal)) {
                Some(known @ None) => *known = Some(state),
                Some(known) => faults.push(Fault { address, states: [*known, Some(state)] }),
                None => {}
            }
        }
        for (ordinal, _) in (0..).zip(&states).filter(|(_, state)| state.is_none()) {
            let address = self.cidr.nth(ordinal);
            faults.extend(address.map(|address| Fault { address, states: [None, None] }));
        }
        faults
    }

    /// Breaks the queue, for the tests of `check`: an address cools whatever else it is, or leaves every state.
    #[cfg(test)]
    pub(crate) fn corrupt(&mut self, address: IpAddr, cools: bool) {
        let ordinal = self.ordinal_of(address).unwrap();
        if cools {
            self.cooling.push_back((BootTime::from_millis(u64::MAX), ordinal));
        } else {
            self.leave_queue(ordinal);
        }
    }

    /// Breaks the size, for the tests of `check`.
    #[cfg(test)]
    pub(crate) fn corrupt_size(&mut self, more: u16) {
        self.size += more;
    }

    /// How many addresses are in which state at `now`. What is lent counts as used; so does a reserved address
    /// that is held, and one that cools as cooling.
    #[must_use]
    pub fn usage(&self, reservations: &Reservations, now: BootTime) -> Usage {
        let still_cooling =
            || self.cooling.iter().filter(|&&(until, _)| until > now).map(|&(_, ordinal)| ordinal);
        let used = u128::from(self.used.count) + self.lent.len() as u128;
        let (size, cooling) = (u128::from(self.size), still_cooling().count() as u128);
        let mut reserved = reservations.count_in(&self.cidr);
        if reserved > 0 {
            let held = self.used.iter().map(|(ordinal, _)| ordinal);
            let elsewhere = held.chain(self.lent.keys().copied()).chain(still_cooling()).filter(|&ordinal| {
                self.cidr.nth(u128::from(ordinal)).is_some_and(|address| reservations.contains(address))
            });
            reserved -= elsewhere.count() as u128;
        }
        Usage { size, used, cooling, reserved, free: size - used - cooling - reserved }
    }

    /// Whether an address can be taken at `now`. Reserved ones can: that they are not taken automatically is
    /// [`Block::peek`]'s business.
    ///
    /// # Errors
    /// Outside the block, held, or still cooling.
    pub(crate) fn check_take(&self, address: IpAddr, now: BootTime) -> Result<(), OrdinalError> {
        match self.state(address, now) {
            None => Err(OrdinalError::Outside { address, block: self.cidr }),
            Some(OrdinalState::Used(holder)) => Err(OrdinalError::Held { address, holder: holder.clone() }),
            Some(OrdinalState::Lent(to)) => Err(OrdinalError::Lent { address, borrower: to.clone() }),
            Some(OrdinalState::Cooling { until }) => Err(OrdinalError::Cooling { address, until }),
            Some(OrdinalState::Free) => Ok(()),
        }
    }

    /// Takes an address out of the queue, wherever it stands there, if [`Block::check_take`] allows; otherwise
    /// changes nothing but for what has expired.
    ///
    /// The address that `peek` gave is found at once; another freed one costs a scan of two bytes each.
    pub(crate) fn take(&mut self, address: IpAddr, holder: &Handle, now: BootTime) {
        self.expire(now);
        let Some(ordinal) = self.ordinal_of(address) else { return };
        if self.leave_queue(ordinal) {
            self.used.insert(ordinal, holder.clone());
        }
    }

    /// Takes an address for a holder that is known to have it, cooling or not; changes nothing when it is held.
    pub(crate) fn restore(&mut self, address: IpAddr, holder: &Handle) {
        let Some(ordinal) = self.ordinal_of(address) else { return };
        self.end_cooling(ordinal);
        self.take(address, holder, BootTime::default());
    }

    /// Gives a held address back: to the tail of the queue, after `cooling_until` if that is later than `now`.
    /// An address that is not held is left as it is.
    pub(crate) fn give_back(&mut self, address: IpAddr, now: BootTime, cooling_until: BootTime) {
        self.expire(now);
        let Some(ordinal) = self.ordinal_of(address) else { return };
        if !self.used.remove(ordinal) {
            return;
        }
        self.enqueue(ordinal, now, cooling_until);
    }

    /// Moves a free address to the cooling ones; what is held or cools already is left as it is.
    pub(crate) fn cool_free(&mut self, address: IpAddr, until: BootTime) {
        let Some(ordinal) = self.ordinal_of(address) else { return };
        if self.leave_queue(ordinal) {
            self.cool(ordinal, until);
        }
    }

    /// Lends an address out, cooling or not; what is held or lent already is left as it is.
    pub(crate) fn lend(&mut self, address: IpAddr, borrower: &NodeName) {
        let Some(ordinal) = self.ordinal_of(address) else { return };
        self.end_cooling(ordinal);
        if self.leave_queue(ordinal) {
            self.lent.insert(ordinal, borrower.clone());
        }
    }

    /// Takes a lent address back: to the tail of the queue, as [`Block::give_back`] does.
    pub(crate) fn end_loan(&mut self, address: IpAddr, now: BootTime, cooling_until: BootTime) {
        self.expire(now);
        let Some(ordinal) = self.ordinal_of(address) else { return };
        if self.lent.remove(&ordinal).is_some() {
            self.enqueue(ordinal, now, cooling_until);
        }
    }

    /// Takes over what a smaller block inside this one holds and cools.
    pub(crate) fn absorb(&mut self, small: &Self) {
        for (address, holder) in small.holders() {
            self.restore(address, holder);
        }
        for (address, until) in small.cooling() {
            self.cool_free(address, until);
        }
    }

    fn enqueue(&mut self, ordinal: u16, now: BootTime, cooling_until: BootTime) {
        if cooling_until > now {
            self.cool(ordinal, cooling_until);
        } else {
            self.freed.push_back(ordinal);
        }
    }

    fn end_cooling(&mut self, ordinal: u16) {
        if let Some(index) = self.cooling.iter().position(|&(_, at)| at == ordinal) {
            self.cooling.remove(index);
            self.freed.push_front(ordinal);
        }
    }

    /// Takes an ordinal out of the queue, fresh or freed; `false` if it is held, lent or cools, and so is not in
    /// it.
    fn leave_queue(&mut self, ordinal: u16) -> bool {
        if self.used.get(ordinal).is_some() || self.lent.contains_key(&ordinal) {
            return false;
        }
        if self.is_fresh(ordinal) {
            self.pluck(ordinal);
            return true;
        }
        let index = self.freed.iter().position(|&at| at == ordinal);
        index.is_some_and(|index| self.freed.remove(index).is_some())
    }

    /// Makes every ordinal that is not held cooling until `until` at least.
    pub(crate) fn cool_all(&mut self, until: BootTime) {
        let already: BTreeMap<u16, BootTime> =
            self.cooling.drain(..).map(|(until, at)| (at, until)).collect();
        self.freed = VecDeque::new();
        self.plucked = Vec::new();
        self.fresh = self.size;
        let mut cooling: Vec<(BootTime, u16)> = (0..self.size)
            .filter(|ordinal| self.used.get(*ordinal).is_none() && !self.lent.contains_key(ordinal))
            .map(|ordinal| (already.get(&ordinal).map_or(until, |&earlier| earlier.max(until)), ordinal))
            .collect();
        cooling.sort_by_key(|&(until, _)| until);
        self.cooling = cooling.into();
    }

    /// Moves ordinals whose cooling is over to the tail.
    pub(crate) fn expire(&mut self, now: BootTime) {
        while let Some(&(until, ordinal)) = self.cooling.front() {
            if until > now {
                return;
            }
            self.cooling.pop_front();
            self.freed.push_back(ordinal);
        }
    }

    /// Every address that was freed and may be had again, in the order they will be.
    pub fn freed(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.freed.iter().filter_map(|&ordinal| self.cidr.nth(u128::from(ordinal)))
    }

    /// Every address that cools, with the time it ends; ordered by that time.
    pub fn cooling(&self) -> impl Iterator<Item = (IpAddr, BootTime)> + '_ {
        self.cooling.iter().filter_map(|&(until, ordinal)| Some((self.cidr.nth(u128::from(ordinal))?, until)))
    }

    fn cool(&mut self, ordinal: u16, until: BootTime) {
        // Almost always the last: cooldowns of one pool are alike.
        let index = self.cooling.partition_point(|&(other, _)| other <= until);
        self.cooling.insert(index, (until, ordinal));
    }

    fn ordinal_of(&self, address: IpAddr) -> Option<u16> {
        self.cidr.offset_of(address).and_then(|offset| u16::try_from(offset).ok())
    }

    fn is_fresh(&self, ordinal: u16) -> bool {
        ordinal >= self.fresh && !self.is_plucked(ordinal)
    }

    fn is_plucked(&self, ordinal: u16) -> bool {
        self.plucked.get(usize::from(ordinal / 64)).is_some_and(|word| word & (1 << (ordinal % 64)) != 0)
    }

    /// Takes a fresh ordinal out of the fresh part.
    fn pluck(&mut self, ordinal: u16) {
        if ordinal == self.fresh {
            self.fresh = self.next_unplucked(ordinal + 1).unwrap_or(self.size);
            return;
        }
        let index = usize::from(ordinal / 64);
        if self.plucked.len() <= index {
            self.plucked.resize(index + 1, 0);
        }
        if let Some(word) = self.plucked.get_mut(index) {
            *word |= 1 << (ordinal % 64);
        }
    }

    /// The lowest ordinal from `from` on that was not plucked: whole words at a time.
    fn next_unplucked(&self, from: u16) -> Option<u16> {
        let mut ordinal = from;
        while ordinal < self.size {
            let word = self.plucked.get(usize::from(ordinal / 64)).copied().unwrap_or(0) >> (ordinal % 64);
            let run = u16::try_from(word.trailing_ones()).unwrap_or(64);
            // A word shifted right shows zeros at its end, so a run never reaches into the next word.
            let to_word_end = 64 - ordinal % 64;
            if run < to_word_end {
                let found = ordinal + run;
                return (found < self.size).then_some(found);
            }
            ordinal += to_word_end;
        }
        None
    }
}

#[cfg(test)]
mod tests;
