//! A machine whose kernel is in memory: what simulations of whole agents run on.
//!
//! The machine outlives the agents that run on it one after the other, as a kernel does. It can fail operations, take
//! an agent's hands off at any operation (a crash in the middle of a wiring), lose a pod's namespace, and reboot.
//! What it cannot prove is said where its rules are (`kernel/fake.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bpf::PoolCounters;
use model::TagId;

use crate::events::Events;
use crate::kernel::fake::{Fake, State};
use crate::kernel::{Failure, Kernel, KernelError, Place, PodSide, RouteTable};
use crate::object::{
    FoundNexthop, Hop, Link, LinkAddress, NatState, Neighbour, PathMtu, Programs, Route, Sysctl,
};
use crate::op::{Op, Outcome};
use crate::{Dataplane, KernelPod, Settings};

/// One machine. Clones are the same one.
#[derive(Clone, Default)]
pub struct FakeMachine {
    kernel: Arc<Fake>,
}

/// Says of each operation whether it fails.
pub type Faults = Box<dyn FnMut(&dyn fmt::Display) -> bool + Send>;

impl fmt::Debug for FakeMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeMachine")
    }
}

impl FakeMachine {
    /// A machine that has just booted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What an agent that starts now opens. Its [`Lifeline`] ends the agent's influence on the machine.
    #[must_use]
    pub fn open(&self, settings: Settings) -> (Dataplane, Lifeline) {
        let life = Lifeline { left: Arc::new(AtomicU64::new(u64::MAX)) };
        let kernel = Held { fake: self.kernel.clone(), life: life.clone() };
        (Dataplane::with_kernel(Arc::new(kernel), settings), life)
    }

    /// From now on `fails` is asked about every operation before it is carried out; `None`: all succeed.
    pub fn set_faults(&self, fails: Option<Faults>) {
        self.kernel.set_oracle(fails);
    }

    /// All interfaces of ours, by number.
    #[must_use]
    pub fn interfaces(&self) -> Vec<KernelPod> {
        self.kernel.state().links.values().cloned().filter_map(KernelPod::of_link).collect()
    }

    /// A pod's namespace is gone, and with it the pair; `false` if there was no interface of that name.
    pub fn lose_pod(&self, host_ifname: &str) -> bool {
        let mut state = self.kernel.state();
        let found = state.links.values().find(|link| link.ifname == host_ifname).map(|link| link.ifindex);
        if let Some(ifindex) = found {
            state.remove_link(ifindex);
        }
        drop(state);
        self.kernel.tell();
        found.is_some()
    }

    /// Everything is as after a boot.
    pub fn reboot(&self) {
        *self.kernel.state() = State::default();
    }
}

/// Whether an agent is alive as the machine sees it. Clones speak of the same agent.
#[derive(Clone, Debug)]
pub struct Lifeline {
    /// Operations that are still carried out.
    left: Arc<AtomicU64>,
}

impl Lifeline {
    /// After so many more operations of this agent none is carried out any more, nor undone.
    pub fn cut_after(&self, op_count: u64) {
        self.left.store(op_count, Ordering::Relaxed);
    }

    /// Whether the agent has come to its last operation.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Whether one more operation is carried out.
    fn spend(&self) -> bool {
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
            u64::MAX => Some(u64::MAX),
            left => left.checked_sub(1),
        });
        spent.is_ok()
    }

    fn check(&self) -> Result<(), KernelError> {
        if self.is_cut() { Err(KernelError::other("ask the kernel", "the agent is dead")) } else { Ok(()) }
    }
}

/// The machine's kernel in one agent's hands.
struct Held {
    fake: Arc<Fake>,
    life: Lifeline,
}

impl Kernel for Held {
    fn exec(
        &self,
        place: Place<'_>,
        netns: Option<BorrowedFd<'_>>,
        ops: &[Op],
    ) -> Result<Vec<Outcome>, Failure> {
        let mut done = Vec::new();
        for op in ops {
            if !self.life.spend() {
                return Err(Failure { done, error: KernelError::other(op.to_string(), "the agent is dead") });
            }
            match self.fake.exec(place, netns, std::slice::from_ref(op)) {
                Ok(outcomes) => done.extend(outcomes),
                Err(Failure { error, .. }) => return Err(Failure { done, error }),
            }
        }
        Ok(done)
    }

    fn fetch_links(&self) -> Result<Vec<Link>, KernelError> {
        self.life.check()?;
        self.fake.fetch_links()
    }

    fn fetch_link(&self, ifname: &str) -> Result<Option<Link>, KernelError> {
        self.life.check()?;
        self.fake.fetch_link(ifname)
    }

    fn fetch_routes(&self, protocol: u8, ifindex: u32) -> Result<Vec<Route>, KernelError> {
        self.life.check()?;
        self.fake.fetch_routes(protocol, ifindex)
    }

    fn fetch_table(&self, protocol: u8) -> Result<RouteTable, KernelError> {
        self.life.check()?;
        self.fake.fetch_table(protocol)
    }

    fn fetch_nexthops(&self) -> Result<Vec<FoundNexthop>, KernelError> {
        self.life.check()?;
        self.fake.fetch_nexthops()
    }

    fn fetch_hops(&self, addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, Hop>, KernelError> {
        self.life.check()?;
        self.fake.fetch_hops(addresses)
    }

    fn fetch_addresses(&self) -> Result<Vec<LinkAddress>, KernelError> {
        self.life.check()?;
        self.fake.fetch_addresses()
    }

    fn fetch_neighbours(&self, ifindex: Option<u32>) -> Result<Vec<Neighbour>, KernelError> {
        self.life.check()?;
        self.fake.fetch_neighbours(ifindex)
    }

    fn fetch_programs(&self) -> Result<Programs, KernelError> {
        self.life.check()?;
        self.fake.fetch_programs()
    }

    fn fetch_nat(&self) -> Result<NatState, KernelError> {
        self.life.check()?;
        self.fake.fetch_nat()
    }

    fn fetch_sysctl(&self, sysctl: &Sysctl) -> Result<Option<u8>, KernelError> {
        self.life.check()?;
        self.fake.fetch_sysctl(sysctl)
    }

    fn fetch_pod_side(&self, netns: BorrowedFd<'_>, ifname: &str) -> Result<PodSide, KernelError> {
        self.life.check()?;
        self.fake.fetch_pod_side(netns, ifname)
    }

    fn is_own_namespace(&self, netns: BorrowedFd<'_>) -> Result<bool, KernelError> {
        self.life.check()?;
        self.fake.is_own_namespace(netns)
    }

    fn name_namespace(&self, netns: BorrowedFd<'_>) -> Result<Option<u32>, KernelError> {
        self.life.check()?;
        self.fake.name_namespace(netns)
    }

    fn fetch_namespaces(&self) -> Result<BTreeSet<u32>, KernelError> {
        self.life.check()?;
        self.fake.fetch_namespaces()
    }

    fn fetch_drops(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        self.life.check()?;
        self.fake.fetch_drops()
    }

    fn fetch_pool_counters(&self) -> Result<BTreeMap<TagId, PoolCounters>, KernelError> {
        self.life.check()?;
        self.fake.fetch_pool_counters()
    }

    fn uses_tcx(&self) -> bool {
        self.fake.uses_tcx()
    }

    fn has_tunnels(&self) -> Result<bool, KernelError> {
        self.life.check()?;
        self.fake.has_tunnels()
    }

    fn decapsulates_well(&self) -> bool {
        self.fake.decapsulates_well()
    }

    fn fetch_path_mtus(&self) -> Result<BTreeMap<Ipv4Addr, PathMtu>, KernelError> {
        self.life.check()?;
        self.fake.fetch_path_mtus()
    }

    fn fetch_uptime(&self) -> Duration {
        self.fake.fetch_uptime()
    }

    fn open_events(&self) -> Result<Events, KernelError> {
        self.life.check()?;
        self.fake.open_events()
    }

    fn remove_programs(&self) -> Result<(), KernelError> {
        self.life.check()?;
        self.fake.remove_programs()
    }
}
