//! Arbitrary sequences of operations against a model that is a plain map from address to state.
//!
//! The model knows nothing of queues, runs or bitmaps: it says which addresses may be handed out, and the
//! allocator must hand out one of them, or refuse exactly when there is none.

#![expect(clippy::unwrap_used, reason = "helpers of tests; the lint's exception covers test functions only")]

#[path = "properties/protocol.rs"]
mod protocol;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use model::{BlockSize, BootTime, Cidr, Family, Handle, Labels, NodeName, TagId};
use poolward_ipam::{
    AssignRequest, ClusterView, Decision, ForeignBlocks, NodeIpam, Pool, PoolSpec, PoolTable, RefusalKind,
    Reservations, Settings, Want,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

#[derive(Clone, Debug)]
enum Step {
    /// ADD of this container, with an explicit address for some.
    Assign { container: u8, explicit: Option<u8> },
    /// DEL of this container.
    Free { container: u8 },
    /// Freeing one address in the name of a container.
    FreeAddress { container: u8, offset: u8 },
    /// Time goes by.
    Pass { ms: u64 },
    /// Cooldowns are collected; no decision may depend on it.
    Expire,
    /// Another node claims the block around this address, if nobody has it.
    Rival { offset: u8 },
    /// A known allocation is put back.
    Restore { container: u8, offset: u8 },
    /// A block is given up, if it is idle.
    Release { offset: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..24, prop::option::weighted(0.2, 0u8..40))
            .prop_map(|(container, explicit)| Step::Assign { container, explicit }),
        4 => (0u8..24).prop_map(|container| Step::Free { container }),
        2 => (0u8..24, 0u8..40).prop_map(|(container, offset)| Step::FreeAddress { container, offset }),
        3 => (1u64..800).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Expire),
        1 => (0u8..40).prop_map(|offset| Step::Rival { offset }),
        1 => (0u8..24, 0u8..40).prop_map(|(container, offset)| Step::Restore { container, offset }),
        1 => (0u8..40).prop_map(|offset| Step::Release { offset }),
    ];
    prop::collection::vec(step, 1..120)
}

/// A pool of 32 addresses, the size of its blocks, its cooldown, and reservations around it.
#[derive(Clone, Debug)]
struct Setting {
    family: Family,
    block_bits: u8,
    cooldown_ms: u64,
    reserved: Vec<(u8, u8)>,
}

fn settings() -> impl Strategy<Value = Setting> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let reserved = prop::collection::vec((0u8..34, 0u8..4), 0..4);
    (family, 0u8..=5, prop_oneof![Just(0u64), 1u64..1500], reserved).prop_map(
        |(family, block_bits, cooldown_ms, reserved)| Setting { family, block_bits, cooldown_ms, reserved },
    )
}

/// The whole truth, slowly: who holds which address, and until when freed ones cool.
#[derive(Default)]
struct Simple {
    used: BTreeMap<IpAddr, Handle>,
    cooling: BTreeMap<IpAddr, BootTime>,
    own: BTreeSet<Cidr>,
    foreign: BTreeSet<Cidr>,
}

struct Run {
    pools: PoolTable,
    reservations: Reservations,
    foreign: ForeignBlocks,
    node: NodeName,
    labels: Labels,
    settings: Settings,
    ipam: NodeIpam,
    now: BootTime,
    simple: Simple,
}

impl Run {
    fn new(setting: &Setting) -> Self {
        let (base, bits): (IpAddr, u8) = match setting.family {
            Family::V4 => ("10.0.0.0".parse().unwrap(), 32),
            Family::V6 => ("fd00::".parse().unwrap(), 128),
        };
        let cidr = Cidr::containing(base, bits - 5).unwrap();
        let mut spec = PoolSpec::new("p".parse().unwrap(), cidr);
        spec.block_size = BlockSize::new(setting.family, u32::from(bits - setting.block_bits)).unwrap();
        spec.tag = TagId::new(1);
        spec.cooldown = Duration::from_millis(setting.cooldown_ms);
        let wide = Cidr::containing(base, bits - 8).unwrap();
        let reserved = setting.reserved.iter().map(|&(offset, host_bits)| {
            (
                "r".to_owned(),
                Cidr::containing(wide.nth(u128::from(offset)).unwrap(), bits - host_bits).unwrap(),
            )
        });
        Self {
            pools: PoolTable::new([Pool::new(spec).unwrap()]),
            reservations: Reservations::new(reserved),
            foreign: ForeignBlocks::default(),
            node: "node-1".parse().unwrap(),
            labels: Labels::new(),
            settings: Settings::default(),
            ipam: NodeIpam::new(),
            now: BootTime::from_millis(1),
            simple: Simple::default(),
        }
    }

    fn pool(&self) -> &Pool {
        self.pools.iter().next().unwrap()
    }

    /// An address of the pool, or a little beyond it.
    fn address(&self, offset: u8) -> IpAddr {
        let wide = Cidr::containing(self.pool().cidr.network(), self.pool().cidr.prefix_len() - 3).unwrap();
        wide.nth(u128::from(offset)).unwrap()
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

    fn cools(&self, address: IpAddr) -> bool {
        self.simple.cooling.get(&address).is_some_and(|&until| until > self.now)
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        (0..32).filter_map(|offset| self.pool().cidr.nth(offset))
    }

    fn is_foreign(&self, address: IpAddr) -> bool {
        self.simple.foreign.iter().any(|block| block.contains(address))
    }

    /// Whether automatic assignment may hand an address out, claims included.
    fn is_to_be_had(&self, address: IpAddr) -> bool {
        !self.simple.used.contains_key(&address)
            && !self.cools(address)
            && !self.is_foreign(address)
            && !self.reservations.contains(address)
    }

    fn step(&mut self, step: &Step) -> TestCaseResult {
        match *step {
            Step::Assign { container, explicit } => self.assign(&handle(container), explicit)?,
            Step::Free { container } => {
                let handle = handle(container);
                let expected: BTreeSet<IpAddr> =
                    self.simple.used.iter().filter(|(_, held)| **held == handle).map(|(at, _)| *at).collect();
                let freed = self.ipam.apply_free(&handle, &self.pools, self.now);
                prop_assert_eq!(
                    freed.iter().map(|one| one.address).collect::<BTreeSet<_>>(),
                    expected.clone()
                );
                self.gone(expected);
            }
            Step::FreeAddress { container, offset } => {
                let (handle, address) = (handle(container), self.address(offset));
                let outcome = self.ipam.apply_free_address(&handle, address, &self.pools, self.now);
                match self.simple.used.get(&address) {
                    Some(holder) if *holder != handle => prop_assert!(outcome.is_err()),
                    Some(_) => {
                        prop_assert_eq!(outcome.map(|freed| freed.len()), Ok(1));
                        self.gone([address].into());
                    }
                    None => prop_assert_eq!(outcome, Ok(Vec::new())),
                }
            }
            Step::Pass { ms } => self.now = self.now.after(Duration::from_millis(ms)),
            Step::Expire => self.ipam.apply_expire(self.now),
            Step::Rival { offset } => {
                if let Some(block) = self.pool().block_of(self.address(offset))
                    && !self.simple.own.contains(&block)
                {
                    self.foreign.insert(block, "node-2".parse().unwrap());
                    self.simple.foreign.insert(block);
                }
            }
            Step::Restore { container, offset } => self.restore(handle(container), self.address(offset))?,
            Step::Release { offset } => {
                let Some(block) = self.pool().block_of(self.address(offset)) else { return Ok(()) };
                let idle = block_addresses(&block)
                    .all(|address| !self.simple.used.contains_key(&address) && !self.cools(address));
                let released = self.ipam.apply_release(&block, self.now).is_ok();
                prop_assert_eq!(released, idle && self.simple.own.contains(&block));
                if released {
                    self.simple.own.remove(&block);
                }
            }
        }
        self.check()
    }

    fn assign(&mut self, handle: &Handle, explicit: Option<u8>) -> TestCaseResult {
        let explicit = explicit.map(|offset| self.address(offset));
        let held: Vec<IpAddr> =
            self.simple.used.iter().filter(|(_, holder)| *holder == handle).map(|(at, _)| *at).collect();
        let mut request = AssignRequest::new(handle.clone(), Labels::new());
        let (wanted, other) = match self.pool().family() {
            Family::V4 => (&mut request.v4, &mut request.v6),
            Family::V6 => (&mut request.v6, &mut request.v4),
        };
        (wanted.address, other.want) = (explicit, Want::No);
        // One claim for each block at most, then an answer.
        for _ in 0..=32 {
            let decision = self.ipam.decide_assign(&self.view(), &request, self.now);
            match decision {
                Ok(Decision::Claim(claim)) => {
                    prop_assert!(self.pool().has_block(&claim.cidr));
                    for block in [claim.cidr].iter().chain(&claim.alternatives) {
                        let taken = self.simple.own.contains(block) || self.simple.foreign.contains(block);
                        prop_assert!(!taken, "{} is claimed already", block);
                        prop_assert!(explicit.is_some() || !self.reservations.covers(block));
                    }
                    prop_assert_eq!(self.ipam.apply_claim(claim.cidr, &claim.pool), Ok(()));
                    self.simple.own.insert(claim.cidr);
                }
                Ok(Decision::Borrow(borrow)) => {
                    prop_assert!(self.simple.foreign.contains(&borrow.block));
                    // The owner refuses.
                    let refused = borrow.address.map_or(borrow.block, Cidr::host);
                    self.ipam.apply_avoid(refused, BootTime::from_millis(u64::MAX));
                }
                Ok(Decision::Held(again)) => {
                    prop_assert_eq!(again.iter().map(|one| one.address).collect::<Vec<_>>(), held);
                    return Ok(());
                }
                Ok(Decision::Assign(given)) => {
                    prop_assert_eq!(given.len(), 1);
                    let address = given[0].address;
                    prop_assert!(held.is_empty());
                    prop_assert!(!self.simple.used.contains_key(&address), "{} twice", address);
                    prop_assert!(!self.cools(address), "{} cools", address);
                    match explicit {
                        Some(asked) => prop_assert_eq!(address, asked),
                        None => prop_assert!(self.is_to_be_had(address)),
                    }
                    prop_assert!(
                        self.simple.own.contains(&given[0].block) && given[0].block.contains(address)
                    );
                    prop_assert_eq!(self.ipam.apply_assign(handle, &given, self.now), Ok(()));
                    self.simple.cooling.remove(&address);
                    self.simple.used.insert(address, handle.clone());
                    return Ok(());
                }
                Err(refusal) => {
                    prop_assert!(!refusal.to_string().is_empty());
                    match explicit {
                        Some(asked) => prop_assert!(
                            !held.is_empty()
                                || !self.pool().cidr.contains(asked)
                                || self.is_foreign(asked)
                                || self.cools(asked)
                                || self.simple.used.contains_key(&asked),
                            "{}",
                            refusal
                        ),
                        None => {
                            let left: Vec<IpAddr> =
                                self.addresses().filter(|&at| self.is_to_be_had(at)).collect();
                            prop_assert!(left.is_empty(), "{} though {:?} are to be had", refusal, left);
                            let exhausted = matches!(refusal.kind(), RefusalKind::Exhausted { .. });
                            prop_assert!(exhausted, "{}", refusal);
                        }
                    }
                    return Ok(());
                }
            }
        }
        Err(TestCaseError::fail("more claims than blocks"))
    }

    fn restore(&mut self, handle: Handle, address: IpAddr) -> TestCaseResult {
        let outcome = self.ipam.restore(&handle, &[address], self.now);
        let owned = self.simple.own.iter().any(|block| block.contains(address));
        let has_other = self.simple.used.iter().any(|(at, holder)| *holder == handle && *at != address);
        let held_by_other = self.simple.used.get(&address).is_some_and(|holder| *holder != handle);
        prop_assert_eq!(outcome.is_ok(), owned && !has_other && !held_by_other);
        if outcome.is_ok() {
            self.simple.cooling.remove(&address);
            self.simple.used.insert(address, handle);
        }
        Ok(())
    }

    fn gone(&mut self, addresses: BTreeSet<IpAddr>) {
        let until = self.now.after(self.pool().cooldown);
        for address in addresses {
            self.simple.used.remove(&address);
            self.simple.cooling.insert(address, until);
        }
    }

    /// The allocator says of everything what the map says.
    fn check(&self) -> TestCaseResult {
        let held: BTreeMap<IpAddr, Handle> = self
            .ipam
            .allocations()
            .flat_map(|one| one.addresses.into_iter().map(move |held| (held.address, one.handle.clone())))
            .collect();
        prop_assert_eq!(&held, &self.simple.used);
        let from_blocks: BTreeMap<IpAddr, Handle> = self
            .ipam
            .blocks()
            .flat_map(|block| block.holders().map(|(at, holder)| (at, holder.clone())).collect::<Vec<_>>())
            .collect();
        prop_assert_eq!(&from_blocks, &self.simple.used);
        for block in self.ipam.blocks() {
            let usage = block.usage(&self.reservations, self.now);
            prop_assert!(usage.adds_up(), "{}: {}", block.cidr(), usage);
            let expected = self.count(block_addresses(&block.cidr()));
            prop_assert_eq!(
                [usage.used, usage.cooling, usage.reserved, usage.free],
                expected,
                "{}",
                block.cidr()
            );
        }
        let seen = self.ipam.pool_usage(&self.view(), self.pool(), self.now);
        prop_assert!(seen.usage.adds_up(), "{}", seen);
        let (foreign, rest): (Vec<IpAddr>, Vec<IpAddr>) =
            self.addresses().partition(|&at| self.is_foreign(at));
        prop_assert_eq!(seen.elsewhere, foreign.len() as u128);
        let [used, cooling, reserved, free] = self.count(rest.into_iter());
        let expected = [used + seen.elsewhere, cooling, reserved, free];
        prop_assert_eq!(
            [seen.usage.used, seen.usage.cooling, seen.usage.reserved, seen.usage.free],
            expected
        );
        Ok(())
    }

    /// Used, cooling, reserved, free.
    fn count(&self, addresses: impl Iterator<Item = IpAddr>) -> [u128; 4] {
        let mut counts = [0; 4];
        for address in addresses {
            let state = if self.simple.used.contains_key(&address) {
                0
            } else if self.cools(address) {
                1
            } else if self.reservations.contains(address) {
                2
            } else {
                3
            };
            counts[state] += 1;
        }
        counts
    }
}

fn handle(container: u8) -> Handle {
    Handle::new(&format!("c{container}"), "eth0").unwrap()
}

fn block_addresses(block: &Cidr) -> impl Iterator<Item = IpAddr> + use<> {
    let block = *block;
    (0..block.size()).filter_map(move |offset| block.nth(offset))
}

/// Hands out until nothing is left: the queue as it stands, at a time when nothing cools any more.
fn drain(run: &Run) -> Vec<IpAddr> {
    let (mut ipam, far) = (run.ipam.clone(), run.now.after(Duration::from_secs(3600)));
    let mut order = Vec::new();
    for n in 0..64 {
        let handle = Handle::new(&format!("drain{n}"), "eth0").unwrap();
        let request = AssignRequest::new(handle.clone(), Labels::new());
        let mut view = run.view();
        let settings = Settings { auto_allocate_blocks: false, ..Settings::default() };
        view.settings = &settings;
        let Ok(Decision::Assign(given)) = ipam.decide_assign(&view, &request, far) else { break };
        ipam.apply_assign(&handle, &given, far).unwrap();
        order.extend(given.iter().map(|one| one.address));
    }
    order
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_allocator_agrees_with_a_plain_map(setting in settings(), steps in steps()) {
        let mut run = Run::new(&setting);
        for step in &steps {
            run.step(step)?;
        }
    }

    #[test]
    fn expiry_never_changes_what_is_handed_out(setting in settings(), steps in steps(), ms in 0u64..3000) {
        let mut run = Run::new(&setting);
        for step in &steps {
            run.step(step)?;
        }
        run.now = run.now.after(Duration::from_millis(ms));
        let before = drain(&run);
        run.ipam.apply_expire(run.now);
        prop_assert_eq!(drain(&run), before);
    }

    #[test]
    fn assign_then_free_is_the_identity_up_to_fifo_order(setting in settings(), steps in steps()) {
        let mut run = Run::new(&setting);
        for step in &steps {
            run.step(step)?;
        }
        let request = AssignRequest::new(Handle::new("new", "eth0").unwrap(), Labels::new());
        let (before, queue) = (run.ipam.clone(), drain(&run));
        if let Ok(Decision::Assign(given)) = run.ipam.decide_assign(&run.view(), &request, run.now) {
            run.ipam.apply_assign(&request.handle, &given, run.now).unwrap();
            let freed = run.ipam.apply_free(&request.handle, &run.pools, run.now);
            prop_assert_eq!(&freed, &given);
            prop_assert!(run.ipam.allocations().eq(before.allocations()));
            // The one address went to the tail of its block; the order of all others is untouched.
            let without = |order: &[IpAddr]| -> Vec<IpAddr> {
                order.iter().copied().filter(|at| *at != given[0].address).collect()
            };
            let after = drain(&run);
            prop_assert_eq!(without(&after), without(&queue));
            prop_assert_eq!(after.len(), queue.len());
            let in_block: Vec<IpAddr> = after.into_iter().filter(|at| given[0].block.contains(*at)).collect();
            if run.pool().cooldown.is_zero() && !before.blocks().any(|block| block.cooling().count() > 0) {
                prop_assert_eq!(in_block.last(), Some(&given[0].address));
            }
        }
    }
}
