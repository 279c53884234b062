//! A kernel for unit tests: it keeps what operations say and can be told to fail at any of them.
//!
//! It proves in which order operations come, and that what is done is taken back. It cannot prove that the real
//! kernel accepts an operation, that what hangs on an interface goes with it as it does here, what travels together
//! and is carried out although an earlier part failed, or anything about time and packets. Each of its rules is
//! anchored once in the privileged tests of this crate (`tests/dataplane`).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard};

use bpf::PoolCounters;
use model::TagId;

use super::{Failure, Kernel, KernelError, Place, PodSide};
use crate::object::{Link, NatState, Neighbour, Programs, Route, RouteTarget, Sysctl};
use crate::op::{Op, Outcome, VethEnds};

/// What the fake holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) routes: BTreeSet<Route>,
    pub(crate) neighbours: BTreeSet<Neighbour>,
    pub(crate) programs: Programs,
    pub(crate) nat: Option<crate::object::NatTable>,
    pub(crate) sysctls: BTreeMap<Sysctl, u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Fake {
    state: Mutex<State>,
    /// Every operation asked for, in order.
    log: Mutex<Vec<Op>>,
    /// How many operations from now on succeed before one fails, for each failure to come.
    failures: Mutex<BTreeSet<usize>>,
}

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The operations so many places from now fail.
    pub(crate) fn fail_at(&self, places: &[usize]) {
        *self.failures.lock().unwrap() = places.iter().copied().collect();
    }

    pub(crate) fn take_log(&self) -> Vec<Op> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    fn exec_one(&self, place: Place<'_>, op: &Op) -> Result<Outcome, KernelError> {
        self.log.lock().unwrap().push(op.clone());
        let mut failures = self.failures.lock().unwrap();
        let fails = failures.remove(&0);
        *failures = failures.iter().map(|place| place - 1).collect();
        if fails {
            return Err(KernelError::other(op.to_string(), "told to fail"));
        }
        if matches!(place, Place::Pod(_)) {
            return Ok(Outcome::Done);
        }
        let mut state = self.state();
        match op {
            Op::CreateVeth(spec) => {
                let ifindex = state.links.keys().last().unwrap_or(&100) + 1;
                let link = Link {
                    ifindex,
                    ifname: spec.host_ifname.clone(),
                    alias: spec.alias.clone(),
                    mac: Some(spec.host_mac),
                    mtu_bytes: spec.mtu_bytes,
                    veth: true,
                    peer_ifindex: Some(2),
                    up: false,
                    operational: false,
                };
                state.links.insert(ifindex, link);
                return Ok(Outcome::Created(VethEnds { host_ifindex: ifindex, pod_ifindex: 2 }));
            }
            Op::DeleteLink { ifindex, .. } => {
                state.links.remove(ifindex);
                state
                    .routes
                    .retain(|r| !matches!(r.target, RouteTarget::Link { ifindex: on, .. } if on == *ifindex));
                state.neighbours.retain(|neighbour| neighbour.ifindex != *ifindex);
                state.programs.unsettled.remove(ifindex);
                state.programs.attached.remove(ifindex);
                state.programs.pinned.remove(ifindex);
            }
            Op::SetLinkUp { ifindex, .. } => {
                if let Some(link) = state.links.get_mut(ifindex) {
                    link.up = true;
                }
            }
            Op::AwaitCarrier { ifindex, .. } => {
                if let Some(link) = state.links.get_mut(ifindex) {
                    link.operational = true;
                }
            }
            Op::AddRoute { route, .. } => {
                state.routes.insert(*route);
            }
            Op::DeleteRoute(route) => {
                state.routes.remove(route);
            }
            Op::SetNeighbour(neighbour) => {
                state.neighbours.insert(*neighbour);
            }
            Op::Attach { ifindex } => {
                state.programs.attached.insert(*ifindex);
                state.programs.pinned.insert(*ifindex);
            }
            Op::Settle { ifindex } => {
                state.programs.unsettled.remove(ifindex);
                state.programs.attached.insert(*ifindex);
            }
            Op::Detach { ifindex } => {
                state.programs.unsettled.remove(ifindex);
                state.programs.attached.remove(ifindex);
                state.programs.pinned.remove(ifindex);
            }
            Op::SetEndpoint { ifindex, endpoint } => {
                state.programs.endpoints.insert(*ifindex, *endpoint);
            }
            Op::RemoveEndpoint { ifindex } => {
                state.programs.endpoints.remove(ifindex);
            }
            Op::SetPool { cidr, entry } => {
                state.programs.pools.insert(*cidr, *entry);
                state.programs.counted.insert(entry.tag);
            }
            Op::RemovePool { cidr } => {
                state.programs.pools.remove(cidr);
            }
            Op::ForgetTag(tag) => {
                state.programs.counted.remove(tag);
            }
            Op::SetMarks(_) => state.programs.marks_ok = true,
            Op::ReplaceNat(table) => state.nat = Some(table.clone()),
            Op::RemoveNat => state.nat = None,
            Op::SetSysctl { sysctl, value } => {
                state.sysctls.insert(sysctl.clone(), *value);
            }
            Op::AddAddress { .. } => {
                return Err(KernelError::other(op.to_string(), "the node gets no addresses"));
            }
        }
        Ok(Outcome::Done)
    }
}

impl Kernel for Fake {
    fn exec(
        &self,
        place: Place<'_>,
        _netns: Option<BorrowedFd<'_>>,
        ops: &[Op],
    ) -> Result<Vec<Outcome>, Failure> {
        let mut done = Vec::new();
        for op in ops {
            match self.exec_one(place, op) {
                Ok(outcome) => done.push(outcome),
                Err(error) => return Err(Failure { done, error }),
            }
        }
        Ok(done)
    }

    fn fetch_links(&self) -> Result<Vec<Link>, KernelError> {
        Ok(self.state().links.values().cloned().collect())
    }

    fn fetch_link(&self, ifname: &str) -> Result<Option<Link>, KernelError> {
        Ok(self.state().links.values().find(|link| link.ifname == ifname).cloned())
    }

    fn fetch_routes(&self, protocol: Option<u8>, _ifindex: Option<u32>) -> Result<Vec<Route>, KernelError> {
        let matches = |route: &&Route| protocol.is_none_or(|wanted| route.protocol == wanted);
        Ok(self.state().routes.iter().filter(matches).copied().collect())
    }

    fn fetch_neighbours(&self, _ifindex: Option<u32>) -> Result<Vec<Neighbour>, KernelError> {
        Ok(self.state().neighbours.iter().copied().collect())
    }

    fn fetch_programs(&self) -> Result<Programs, KernelError> {
        Ok(self.state().programs.clone())
    }

    fn fetch_nat(&self) -> Result<NatState, KernelError> {
        Ok(self.state().nat.clone().map_or(NatState::Absent, NatState::Intact))
    }

    fn fetch_sysctl(&self, sysctl: &Sysctl) -> Result<Option<u8>, KernelError> {
        Ok(Some(self.state().sysctls.get(sysctl).copied().unwrap_or(0)))
    }

    fn fetch_pod_side(&self, _netns: BorrowedFd<'_>, _ifname: &str) -> Result<PodSide, KernelError> {
        Ok(PodSide::default())
    }

    fn is_own_namespace(&self, _netns: BorrowedFd<'_>) -> Result<bool, KernelError> {
        Ok(false)
    }

    fn fetch_drops(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        Ok(BTreeMap::new())
    }

    fn fetch_pool_counters(&self) -> Result<BTreeMap<TagId, PoolCounters>, KernelError> {
        Ok(BTreeMap::new())
    }

    fn uses_tcx(&self) -> bool {
        true
    }

    fn remove_programs(&self) -> Result<(), KernelError> {
        self.state().programs = Programs::default();
        Ok(())
    }
}
