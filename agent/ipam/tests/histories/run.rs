//! A node and the trivial model beside it, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use model::{BlockSize, BootTime, Cidr, Family, Handle, Labels, NodeName, TagId};
use poolward_ipam::{
    AssignRequest, ClusterView, Decision, FamilyRequest, ForeignBlocks, FreeItem, NodeIpam, Pool, PoolSpec,
    PoolTable, Refusal, RefusalKind, Reservations, Settings, Want, choose_pools,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::ops::{CONTAINERS, Families, Op, Standing};

/// Name, range and length of blocks of each pool, in the order they are tried.
pub(crate) type Shape = [(&'static str, &'static str, u32); 3];

/// The whole truth, slowly.
#[derive(Default)]
struct Truth {
    holders: BTreeMap<IpAddr, Handle>,
    cooling: BTreeMap<IpAddr, BootTime>,
    /// Own blocks, with their pool and whether they serve.
    own: BTreeMap<Cidr, (usize, bool)>,
    foreign: BTreeSet<Cidr>,
}

/// What stands where, and how a pool is set at the moment.
struct PoolSetting {
    cidr: Cidr,
    block_len: u8,
    standing: Standing,
    cooldown_ms: u64,
}

/// See the module.
pub(crate) struct Run {
    names: [&'static str; 3],
    settings_of_pools: Vec<PoolSetting>,
    addresses: Vec<IpAddr>,
    handles: Vec<Handle>,
    pools: PoolTable,
    reservations: Reservations,
    foreign: ForeignBlocks,
    node: NodeName,
    labels: Labels,
    settings: Settings,
    ipam: NodeIpam,
    now: BootTime,
    truth: Truth,
}

impl Run {
    /// A node that owns nothing yet.
    pub(crate) fn new(shape: &Shape) -> Self {
        let settings_of_pools: Vec<PoolSetting> = shape
            .iter()
            .map(|&(_, cidr, block_len)| PoolSetting {
                cidr: cidr.parse().unwrap(),
                block_len: u8::try_from(block_len).unwrap(),
                standing: Standing::On,
                cooldown_ms: 0,
            })
            .collect();
        let of_pools = settings_of_pools
            .iter()
            .flat_map(|pool| (0..pool.cidr.size()).filter_map(|offset| pool.cidr.nth(offset)));
        let outside = ["10.0.9.9", "fd99::9"].map(|text| text.parse().unwrap());
        let addresses = of_pools.chain(outside).collect();
        let mut run = Self {
            names: [shape[0].0, shape[1].0, shape[2].0],
            settings_of_pools,
            addresses,
            handles: (0..CONTAINERS).map(|n| Handle::new(&format!("c{n}"), "eth0").unwrap()).collect(),
            pools: PoolTable::default(),
            reservations: Reservations::default(),
            foreign: ForeignBlocks::default(),
            node: "node-1".parse().unwrap(),
            labels: Labels::new(),
            // Nobody to borrow from: other nodes' blocks are only in the way here.
            settings: Settings { strict_affinity: true, ..Settings::default() },
            ipam: NodeIpam::new(),
            now: BootTime::from_millis(1),
            truth: Truth::default(),
        };
        run.set_pools();
        run
    }

    fn set_pools(&mut self) {
        let pool = |(name, setting): (&&str, &PoolSetting)| {
            let mut spec = PoolSpec::new(name.parse().unwrap(), setting.cidr);
            spec.block_size = BlockSize::new(setting.cidr.family(), u32::from(setting.block_len)).unwrap();
            spec.tag = TagId::new(1).filter(|_| setting.standing != Standing::NotAdmittedYet);
            spec.disabled = setting.standing == Standing::Disabled;
            if setting.standing == Standing::OfOtherNamespaces {
                spec.namespace_selector = "team == 'other'".parse().unwrap();
            }
            spec.cooldown = Duration::from_millis(setting.cooldown_ms);
            (setting.standing != Standing::Gone).then(|| Pool::new(spec).unwrap())
        };
        self.pools = PoolTable::new(self.names.iter().zip(&self.settings_of_pools).filter_map(pool));
    }

    fn view(&self) -> ClusterView<'_> {
        ClusterView {
            pools: &self.pools,
            reservations: &self.reservations,
            foreign: &self.foreign,
            node: &self.node,
            node_labels: &self.labels,
            settings: &self.settings,
        }
    }

    fn address(&self, index: u8) -> IpAddr {
        self.addresses[usize::from(index) % self.addresses.len()]
    }

    fn handle(&self, container: u8) -> Handle {
        self.handles[usize::from(container)].clone()
    }

    fn pool_around(&self, address: IpAddr) -> Option<usize> {
        self.settings_of_pools.iter().position(|pool| pool.cidr.contains(address))
    }

    /// The block around an address, and its pool.
    fn block_around(&self, address: IpAddr) -> Option<(Cidr, usize)> {
        let pool = self.pool_around(address)?;
        Some((Cidr::containing(address, self.settings_of_pools[pool].block_len)?, pool))
    }

    fn is_on(&self, pool: usize) -> bool {
        self.settings_of_pools[pool].standing == Standing::On
    }

    fn cools(&self, address: IpAddr) -> bool {
        self.truth.cooling.get(&address).is_some_and(|&until| until > self.now)
    }

    fn held_by(&self, handle: &Handle) -> Vec<IpAddr> {
        self.truth.holders.iter().filter(|(_, holder)| *holder == handle).map(|(at, _)| *at).collect()
    }

    /// Whether an address can be given to somebody who names it: neither held nor cooling, its pool serves, and its
    /// block is ours and serves, or is nobody's and may be claimed.
    fn can_be_named(&self, address: IpAddr) -> bool {
        let Some((block, pool)) = self.block_around(address) else { return false };
        let is_open = match self.truth.own.get(&block) {
            Some((_, serving)) => *serving,
            None => !self.truth.foreign.contains(&block) && self.settings.auto_allocate_blocks,
        };
        let is_taken = self.truth.holders.contains_key(&address) || self.cools(address);
        self.is_on(pool) && is_open && !is_taken
    }

    /// The addresses that may be handed out to who names none: those of the first pool that has any.
    fn to_be_had(&self, family: Family) -> BTreeSet<IpAddr> {
        let of_pool = |pool: &PoolSetting| -> BTreeSet<IpAddr> {
            let may = |address: &IpAddr| {
                pool.cidr.contains(*address)
                    && !self.reservations.contains(*address)
                    && self.can_be_named(*address)
            };
            self.addresses.iter().copied().filter(may).collect()
        };
        let pools = self.settings_of_pools.iter().filter(|pool| pool.cidr.family() == family);
        pools.map(of_pool).find(|had| !had.is_empty()).unwrap_or_default()
    }

    fn has_pool(&self, family: Family, standing: Standing) -> bool {
        let of_family = |pool: &&PoolSetting| pool.cidr.family() == family;
        self.settings_of_pools.iter().filter(of_family).any(|pool| pool.standing == standing)
    }

    /// Carries an operation out on both sides.
    pub(crate) fn step(&mut self, op: &Op) -> TestCaseResult {
        match *op {
            Op::Assign { container, families } => self.assign(&self.handle(container), families)?,
            Op::AssignExplicit { container, address } => {
                self.assign_explicit(&self.handle(container), self.address(address))?;
            }
            Op::Free { container } => {
                let handle = self.handle(container);
                let freed = self.ipam.apply_free(&handle, &self.pools, self.now);
                let freed: BTreeSet<IpAddr> = freed.iter().map(|one| one.address).collect();
                let held: BTreeSet<IpAddr> = self.held_by(&handle).into_iter().collect();
                prop_assert_eq!(&freed, &held);
                self.forget(held);
            }
            Op::FreeAddress { container, address } => {
                let (handle, address) = (self.handle(container), self.address(address));
                let outcome = self.ipam.apply_free_address(&handle, address, &self.pools, self.now);
                let freed = outcome.map(|freed| freed.into_iter().map(|one| one.address).collect()).ok();
                prop_assert_eq!(freed, self.free_item(&handle, Some(address)));
            }
            Op::FreeBatch { ref items } => {
                let items: Vec<FreeItem> = items
                    .iter()
                    .map(|&(container, address)| FreeItem {
                        handle: self.handle(container),
                        address: address.map(|address| self.address(address)),
                    })
                    .collect();
                let outcomes = self.ipam.apply_free_batch(&items, &self.pools, self.now);
                prop_assert_eq!(outcomes.len(), items.len());
                for (item, outcome) in items.iter().zip(outcomes) {
                    let freed = outcome.map(|freed| freed.into_iter().map(|one| one.address).collect()).ok();
                    prop_assert_eq!(freed, self.free_item(&item.handle, item.address));
                }
            }
            Op::Pass { ms } => self.now = self.now.after(Duration::from_millis(ms)),
            Op::Expire => self.ipam.apply_expire(self.now),
            Op::Restart => self.restart()?,
            Op::Reserve { ref addresses } => {
                let prefix = |&(address, host_bits): &(u8, u8)| {
                    let address = self.address(address);
                    let bits = Family::of(address).address_bits();
                    ("r".to_owned(), Cidr::containing(address, bits - host_bits).unwrap())
                };
                self.reservations = Reservations::new(addresses.iter().map(prefix));
            }
            Op::SetPool { pool, standing, cooldown_ms } => {
                let setting = &mut self.settings_of_pools[usize::from(pool)];
                (setting.standing, setting.cooldown_ms) = (standing, cooldown_ms);
                self.set_pools();
            }
            Op::AutoAllocate { on } => self.settings.auto_allocate_blocks = on,
            Op::ClaimNext { pool } => self.claim_next(usize::from(pool))?,
            Op::Release { address }
            | Op::Lose { address }
            | Op::RivalClaims { address }
            | Op::RivalReleases { address }
            | Op::Serve { address, .. } => {
                if let Some((block, _)) = self.block_around(self.address(address)) {
                    self.change_block(op, block)?;
                }
            }
        }
        self.check()
    }

    /// What freeing an item frees, and frees it in the map; `None`: it is another's.
    fn free_item(&mut self, handle: &Handle, address: Option<IpAddr>) -> Option<Vec<IpAddr>> {
        let freed = match address {
            None => self.held_by(handle),
            Some(address) => match self.truth.holders.get(&address) {
                Some(holder) if holder != handle => return None,
                Some(_) => vec![address],
                None => Vec::new(),
            },
        };
        self.forget(freed.iter().copied());
        Some(freed)
    }

    fn forget(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            self.truth.holders.remove(&address);
            let setting = &self.settings_of_pools[self.pool_around(address).unwrap()];
            if setting.standing != Standing::Gone {
                let until = self.now.after(Duration::from_millis(setting.cooldown_ms));
                self.truth.cooling.insert(address, until);
            }
        }
    }

    fn claim_next(&mut self, pool: usize) -> TestCaseResult {
        let name = self.names[pool].parse().unwrap();
        let Some(setting) = self.pools.by_name(&name) else { return Ok(()) };
        let claim = self.ipam.next_claim(&self.view(), setting, self.now);
        let unclaimed = |address: &&IpAddr| {
            let Some((block, of)) = self.block_around(**address) else { return false };
            let is_taken = self.truth.own.contains_key(&block) || self.truth.foreign.contains(&block);
            of == pool && !is_taken && !self.reservations.contains(**address)
        };
        prop_assert_eq!(claim.is_some(), self.addresses.iter().any(|address| unclaimed(&address)));
        if let Some(claim) = claim {
            self.claim(claim.cidr, pool)?;
        }
        Ok(())
    }

    fn claim(&mut self, block: Cidr, pool: usize) -> TestCaseResult {
        prop_assert!(!self.truth.foreign.contains(&block), "{} is another node's", block);
        prop_assert_eq!(self.block_around(block.network()), Some((block, pool)));
        prop_assert_eq!(self.ipam.apply_claim(block, &self.names[pool].parse().unwrap()), Ok(()));
        prop_assert_eq!(self.truth.own.insert(block, (pool, true)), None, "claimed twice");
        Ok(())
    }

    fn change_block(&mut self, op: &Op, block: Cidr) -> TestCaseResult {
        let is_own = self.truth.own.contains_key(&block);
        let inside = |address: &IpAddr| block.contains(*address);
        match *op {
            Op::Release { .. } => {
                let is_idle = !self.truth.holders.keys().any(inside)
                    && !self.truth.cooling.keys().any(|at| inside(at) && self.cools(*at));
                let released = self.ipam.apply_release(&block, self.now).is_ok();
                prop_assert_eq!(released, is_own && is_idle);
                if released {
                    self.truth.own.remove(&block);
                }
            }
            Op::Lose { .. } => {
                let lost: BTreeMap<IpAddr, Handle> =
                    self.ipam.apply_loss(&block).into_iter().map(|(handle, at)| (at, handle)).collect();
                let held = self.truth.holders.iter().filter(|(at, _)| inside(at));
                prop_assert_eq!(&lost, &held.map(|(at, holder)| (*at, holder.clone())).collect());
                self.truth.holders.retain(|at, _| !inside(at));
                self.truth.cooling.retain(|at, _| !inside(at));
                if self.truth.own.remove(&block).is_some() {
                    self.truth.foreign.insert(block);
                    self.foreign.insert(block, "node-2".parse().unwrap());
                }
            }
            Op::RivalClaims { .. } if !is_own => {
                self.foreign.insert(block, "node-3".parse().unwrap());
                self.truth.foreign.insert(block);
            }
            Op::RivalReleases { .. } => {
                prop_assert_eq!(self.foreign.remove(&block).is_some(), self.truth.foreign.remove(&block));
            }
            Op::Serve { serving, .. } => {
                prop_assert_eq!(self.ipam.apply_serving(&block, serving).is_ok(), is_own);
                if let Some(own) = self.truth.own.get_mut(&block) {
                    own.1 = serving;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What a start of the agent does with the journal's knowledge.
    fn restart(&mut self) -> TestCaseResult {
        self.ipam = NodeIpam::new();
        for (block, (pool, serving)) in &self.truth.own {
            prop_assert_eq!(self.ipam.apply_claim(*block, &self.names[*pool].parse().unwrap()), Ok(()));
            prop_assert_eq!(self.ipam.apply_serving(block, *serving), Ok(()));
        }
        for (address, holder) in &self.truth.holders {
            prop_assert_eq!(self.ipam.restore(holder, &[*address], self.now), Ok(()));
        }
        for (address, until) in self.truth.cooling.iter().filter(|(_, until)| **until > self.now) {
            prop_assert_eq!(self.ipam.restore_cooling(*address, *until), Ok(()));
        }
        Ok(())
    }

    fn assign(&mut self, handle: &Handle, families: Families) -> TestCaseResult {
        let mut request = AssignRequest::new(handle.clone(), Labels::new());
        (request.v4.want, request.v6.want) = match families {
            Families::V4 => (Want::Required, Want::No),
            Families::V6 => (Want::No, Want::Required),
            Families::Both => (Want::Required, Want::Required),
            Families::AsPoolsExist => (Want::AsPoolsExist, Want::AsPoolsExist),
            Families::V4AndPerhapsV6 => (Want::Required, Want::IfPossible),
        };
        let held = self.held_by(handle);
        let expected = self.expected(&request);
        match self.serve(&request)? {
            Ok(given) if !held.is_empty() => prop_assert_eq!(given, held),
            Ok(given) => {
                let Some(expected) = expected else {
                    return Err(TestCaseError::fail(format!("{given:?} though none is to be had")));
                };
                prop_assert_eq!(given.len(), expected.len());
                for (address, one_of) in given.iter().zip(expected) {
                    prop_assert!(one_of.contains(address), "{} is none of {:?}", address, one_of);
                }
                self.truth.holders.extend(given.into_iter().map(|address| (address, handle.clone())));
            }
            Err(refusal) => {
                prop_assert!(held.is_empty() && expected.is_none(), "{}, not {:?}", refusal, expected);
            }
        }
        Ok(())
    }

    /// For each family that gets an address, of which it is one; `None`: a refusal.
    fn expected(&self, request: &AssignRequest) -> Option<Vec<BTreeSet<IpAddr>>> {
        let mut expected = Vec::new();
        for family in [Family::V4, Family::V6] {
            let had = self.to_be_had(family);
            match request.of(family).want {
                Want::No => {}
                _ if !had.is_empty() => expected.push(had),
                Want::IfPossible => {}
                Want::AsPoolsExist
                    if !self.has_pool(family, Standing::On)
                        && !self.has_pool(family, Standing::NotAdmittedYet) => {}
                Want::AsPoolsExist | Want::Required => return None,
            }
        }
        (!expected.is_empty()).then_some(expected)
    }

    fn assign_explicit(&mut self, handle: &Handle, address: IpAddr) -> TestCaseResult {
        let mut request = AssignRequest::new(handle.clone(), Labels::new());
        let (wanted, other) = match Family::of(address) {
            Family::V4 => (&mut request.v4, &mut request.v6),
            Family::V6 => (&mut request.v6, &mut request.v4),
        };
        (wanted.want, wanted.address, other.want) = (Want::Required, Some(address), Want::No);
        let held = self.held_by(handle);
        let can_be_had = if held.is_empty() { self.can_be_named(address) } else { held.contains(&address) };
        let holder = self.truth.holders.get(&address).filter(|holder| *holder != handle).cloned();
        match self.serve(&request)? {
            Ok(given) => {
                prop_assert!(can_be_had, "{} is not to be had", address);
                prop_assert_eq!(&given, &if held.is_empty() { vec![address] } else { held });
                self.truth.holders.insert(address, handle.clone());
            }
            Err(refusal) => {
                prop_assert!(!can_be_had, "{}", refusal);
                if let RefusalKind::AddressHeld { holder: named, .. } = refusal.kind() {
                    prop_assert_eq!(Some(named), holder.as_ref());
                }
            }
        }
        Ok(())
    }

    /// The agent's loop: decide, claim, decide again, apply. A refusal must come before anything was claimed.
    fn serve(&mut self, request: &AssignRequest) -> Result<Result<Vec<IpAddr>, Refusal>, TestCaseError> {
        let addresses = |given: &[poolward_ipam::Assignment]| given.iter().map(|one| one.address).collect();
        // Both families at most need a block, once each.
        for claims_count in 0..=2 {
            match self.ipam.decide_assign(&self.view(), request, self.now) {
                Ok(Decision::Claim(claim)) => {
                    prop_assert!(self.settings.auto_allocate_blocks);
                    let pool = self.names.iter().position(|name| *name == claim.pool.as_str());
                    self.claim(claim.cidr, pool.unwrap())?;
                }
                Ok(Decision::Borrow(borrow)) => {
                    return Err(TestCaseError::fail(format!("borrowing is off: {borrow:?}")));
                }
                Ok(Decision::Held(held)) => return Ok(Ok(addresses(&held))),
                Ok(Decision::Assign(given)) => {
                    prop_assert_eq!(self.ipam.apply_assign(&request.handle, &given, self.now), Ok(()));
                    return Ok(Ok(addresses(&given)));
                }
                Err(refusal) => {
                    prop_assert_eq!(claims_count, 0, "refused after a claim: {}", refusal);
                    return Ok(Err(refusal));
                }
            }
        }
        Err(TestCaseError::fail("more claims than families"))
    }

    /// The allocator holds what the map holds, from both sides, and its counts are the map's.
    fn check(&self) -> TestCaseResult {
        let held: BTreeMap<IpAddr, Handle> = self
            .ipam
            .allocations()
            .flat_map(|one| one.addresses.into_iter().map(move |held| (held.address, one.handle.clone())))
            .collect();
        prop_assert_eq!(&held, &self.truth.holders);
        let blocks: Vec<Cidr> = self.ipam.blocks().map(poolward_ipam::Block::cidr).collect();
        prop_assert!(blocks.iter().eq(self.truth.own.keys()));
        for block in self.ipam.blocks() {
            let cidr = block.cidr();
            let inside = self.truth.holders.range(cidr.network()..=cidr.last());
            let inside = inside.map(|(address, holder)| (*address, holder));
            prop_assert!(block.holders().eq(inside), "{}", cidr);
            let cooling = self.truth.cooling.range(cidr.network()..=cidr.last());
            let cooling = cooling.filter(|(_, until)| **until > self.now).count();
            let usage = block.usage(&self.reservations, self.now);
            prop_assert!(usage.adds_up(), "{}: {}", cidr, usage);
            prop_assert_eq!(usage.cooling, cooling as u128, "{}", cidr);
        }
        // The quick way to the pools that serve is the same as the one that gives reasons.
        let view = self.view();
        for family in [Family::V4, Family::V6] {
            let choice = choose_pools(&view, family, &FamilyRequest::default(), &self.labels).unwrap();
            let quick = self.pools.serving(family, &self.labels, &self.labels);
            prop_assert!(quick.eq(choice.eligible), "{}", family);
        }
        Ok(())
    }
}
