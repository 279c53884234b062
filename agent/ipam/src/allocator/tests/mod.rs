//! Behaviours of a whole node, each test named by the behaviour it pins down.

mod assign;
mod explicit;
mod free;
mod inner;
mod restore;
mod selection;

use std::time::Duration;

use model::{BlockSize, BootTime, Cidr, Handle, Labels, NodeName, PoolName, TagId};

use super::{ClusterView, Decision, NodeIpam, Settings};
use crate::claim::ForeignBlocks;
use crate::pool::{Pool, PoolSpec, PoolTable};
use crate::refusal::Refusal;
use crate::request::{AssignRequest, PoolSource, RequestedPools};
use crate::reservation::Reservations;

/// One node and everything around it, with the agent's loop of decide, claim, decide again, apply.
struct World {
    pools: PoolTable,
    reservations: Reservations,
    foreign: ForeignBlocks,
    node: NodeName,
    node_labels: Labels,
    settings: Settings,
    ipam: NodeIpam,
    now: BootTime,
    claims: usize,
}

impl World {
    fn new(pools: impl IntoIterator<Item = PoolSpec>) -> Self {
        Self {
            pools: PoolTable::new(pools.into_iter().map(|spec| Pool::new(spec).unwrap())),
            reservations: Reservations::default(),
            foreign: ForeignBlocks::default(),
            node: "node-1".parse().unwrap(),
            node_labels: Labels::new(),
            settings: Settings::default(),
            ipam: NodeIpam::new(),
            now: BootTime::from_millis(1000),
            claims: 0,
        }
    }

    fn reserve(mut self, cidrs: &[&str]) -> Self {
        self.reservations =
            Reservations::new(cidrs.iter().map(|text| ("kept".to_owned(), text.parse().unwrap())));
        self
    }

    fn set_pools(&mut self, change: impl Fn(&mut PoolSpec)) {
        let changed: Vec<Pool> = self
            .pools
            .iter()
            .map(|pool| {
                let mut spec = pool.clone().into_spec();
                change(&mut spec);
                Pool::new(spec).unwrap()
            })
            .collect();
        self.pools = PoolTable::new(changed);
    }

    fn view(&self) -> ClusterView<'_> {
        ClusterView {
            pools: &self.pools,
            reservations: &self.reservations,
            foreign: &self.foreign,
            node: &self.node,
            node_labels: &self.node_labels,
            settings: &self.settings,
        }
    }

    fn decide(&self, request: &AssignRequest) -> Result<Decision, Refusal> {
        self.ipam.decide_assign(&self.view(), request, self.now)
    }

    /// Serves a request to its end: addresses as text, or the refusal.
    fn serve(&mut self, request: &AssignRequest) -> Result<Vec<String>, Refusal> {
        let text = |held: &[super::Assignment]| held.iter().map(|one| one.address.to_string()).collect();
        loop {
            match self.decide(request)? {
                Decision::Claim(claim) => {
                    self.ipam.apply_claim(claim.cidr, &claim.pool).unwrap();
                    self.claims += 1;
                }
                // Nobody is there to ask: as an owner that refuses.
                Decision::Borrow(borrow) => {
                    self.ipam.apply_avoid(
                        borrow.address.map_or(borrow.block, Cidr::host),
                        BootTime::from_millis(u64::MAX),
                    );
                }
                Decision::Held(held) => return Ok(text(&held)),
                Decision::Assign(assignments) => {
                    self.ipam.apply_assign(&request.handle, &assignments, self.now).unwrap();
                    self.assert_adds_up();
                    return Ok(text(&assignments));
                }
            }
        }
    }

    fn add(&mut self, container: &str) -> Result<Vec<String>, Refusal> {
        self.serve(&request(container))
    }

    fn free(&mut self, container: &str) -> usize {
        let freed = self.ipam.apply_free(&handle(container), &self.pools, self.now).len();
        self.assert_adds_up();
        freed
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
    }

    fn claim(&mut self, block: &str, pool: &str) {
        self.ipam.apply_claim(cidr(block), &name(pool)).unwrap();
    }

    fn assert_adds_up(&self) {
        let view = self.view();
        for pool in self.pools.iter() {
            let usage = self.ipam.pool_usage(&view, pool, self.now).usage;
            assert!(usage.adds_up() && usage.size == pool.cidr.size(), "pool {}: {usage}", pool.name);
        }
        for block in self.ipam.blocks() {
            let usage = block.usage(&self.reservations, self.now);
            assert!(usage.adds_up() && usage.size == block.cidr().size(), "block {}: {usage}", block.cidr());
        }
    }
}

fn handle(container: &str) -> Handle {
    Handle::new(container, "eth0").unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn name(text: &str) -> PoolName {
    text.parse().unwrap()
}

fn request(container: &str) -> AssignRequest {
    AssignRequest::new(handle(container), Labels::new())
}

fn asking_for(container: &str, pools: &[&str]) -> AssignRequest {
    let mut request = request(container);
    request.v4.pools = Some(RequestedPools {
        entries: pools.iter().map(|text| (*text).to_owned()).collect(),
        source: PoolSource::PodAnnotation("poolward.io/ipv4pools".to_owned()),
    });
    request
}

fn at_address(container: &str, address: &str) -> AssignRequest {
    let mut request = request(container);
    request.v4.address = Some(address.parse().unwrap());
    request
}

/// An admitted pool.
fn pool(name: &str, cidr: &str, block_len: u32) -> PoolSpec {
    let mut spec = PoolSpec::new(name.parse().unwrap(), cidr.parse().unwrap());
    spec.block_size = BlockSize::new(spec.cidr.family(), block_len).unwrap();
    spec.tag = TagId::new(1);
    spec
}

/// The pool changed.
fn with(mut spec: PoolSpec, change: impl FnOnce(&mut PoolSpec)) -> PoolSpec {
    change(&mut spec);
    spec
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
