//! What a decision, a pair of assign and free, and a byte of the allocator's state cost. Prints JSON.
//!
//! * `decide_ns`: `NodeIpam::decide_assign` with 250 pools, 1,000 nodes and 20,000 blocks of theirs known. No pool but
//!   the last serves the request, so the selectors of all have to be looked at. A sample is a batch of decisions for
//!   pods of different namespaces; percentiles are of batches, per decision. `decide_ns_no_foreign_blocks` is the
//!   same without any foreign block, its batches between those of the former.
//! * `claim_ns`: the same when the node owns no block and the answer is which one to claim.
//! * `journal_pairs_per_s`: assign, commit and free through the agent's ledger, with a write to a journal on tmpfs each,
//!   on one core; `node_pods_count` other pods stay, so that the rewrites of the journal have something to write.
//! * `bytes_*`: what is asked of the heap and not given back; what the heap itself adds is in `*_with_malloc`, for
//!   glibc's chunks.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot measure shall end"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ipam::protocol::{Fact, NodeId, Nonce};
use ipam::{
    AssignRequest, Assignment, ClusterView, Decision, ForeignBlocks, NodeIpam, Pool, PoolSpec, PoolTable,
    Reservations, Settings,
};
use model::{BootTime, Cidr, Handle, Identity, Labels, NodeName, PoolName, TagId, Workload};
use poolward_agent::journal::{Journal, Lock, NetnsId, Owner};
use poolward_agent::node::ledger::Ledger;
use poolward_agent::node::pod::{Pod, Wired};
use serde_json::json;

const POOLS_COUNT: u32 = 250;
const NODES_COUNT: u32 = 1_000;
const FOREIGN_COUNT: u32 = 20_000;
const NAMESPACES_COUNT: u32 = 16;
/// Decisions of a sample, so that reading the clock does not count.
const BATCH: u32 = 256;
const SAMPLES: usize = 2_001;
const ALLOCATIONS_COUNT: u32 = 16_384;
const PAIRS_PER_SAMPLE: u32 = 5_000;
const PAIR_SAMPLES: usize = 21;
const NODE_PODS_COUNT: u8 = 110;
const NOW: BootTime = BootTime::from_millis(1_000_000);

/// The system's allocator, counting what is out.
struct Counting;

/// Bytes asked for and not given back.
static ASKED: AtomicUsize = AtomicUsize::new(0);
/// Bytes of glibc's chunks for them.
static CHUNKS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static HEAP: Counting = Counting;

/// A chunk has eight bytes before its content and a multiple of 16 bytes, 32 at least.
fn chunk(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

// SAFETY: everything is passed on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(layout.size(), Ordering::Relaxed);
        CHUNKS.fetch_add(chunk(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ASKED.fetch_sub(layout.size(), Ordering::Relaxed);
        CHUNKS.fetch_sub(chunk(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) };
    }
}

/// Bytes that `make` leaves on the heap, for each of `count`: asked for, and with what malloc adds.
fn bytes_per<T>(count: u32, make: impl FnOnce() -> T) -> (f64, f64) {
    let before = (ASKED.load(Ordering::Relaxed), CHUNKS.load(Ordering::Relaxed));
    let made = black_box(make());
    let after = (ASKED.load(Ordering::Relaxed), CHUNKS.load(Ordering::Relaxed));
    drop(made);
    let per = |before: usize, after: usize| {
        let grown = u32::try_from(after - before).expect("less than 4 GiB");
        f64::from(grown) / f64::from(count)
    };
    (per(before.0, after.0), per(before.1, after.1))
}

fn main() {
    let tmpfs = tmpfs();
    let (decide, without, claim) = decisions();
    let pairs = journal_pairs(&tmpfs);
    let allocation = bytes_per_allocation();
    let (foreign, foreign_v6) = (bytes_per_foreign_block(false), bytes_per_foreign_block(true));
    let measured = json!({
        "decide_ns": percentiles(decide),
        "decide_ns_no_foreign_blocks": percentiles(without),
        "claim_ns": percentiles(claim),
        "journal_pairs_per_s": percentiles(pairs),
        "journal_dir": tmpfs.display().to_string(),
        "node_pods_count": NODE_PODS_COUNT,
        "bytes_per_allocation": allocation.0,
        "bytes_per_allocation_with_malloc": allocation.1,
        "bytes_per_foreign_block": foreign.0,
        "bytes_per_foreign_block_with_malloc": foreign.1,
        "bytes_per_foreign_block_ipv6": foreign_v6.0,
    });
    println!("{measured:#}");
}

fn percentiles(mut samples: Vec<f64>) -> serde_json::Value {
    samples.sort_by(f64::total_cmp);
    let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
    json!({ "p10": at(10), "p50": at(50), "p90": at(90) })
}

// Decisions.

/// Everything a decision looks at.
struct World {
    pools: PoolTable,
    reservations: Reservations,
    foreign: ForeignBlocks,
    node: NodeName,
    node_labels: Labels,
    settings: Settings,
}

impl World {
    fn new(foreign: ForeignBlocks) -> Self {
        Self {
            pools: PoolTable::new((0..POOLS_COUNT).map(pool)),
            reservations: Reservations::new([("gateways".to_owned(), cidr("10.0.0.0/30"))]),
            foreign,
            node: "node-0500.example.org".parse().unwrap(),
            node_labels: node_labels(),
            settings: Settings::default(),
        }
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
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn pool_name(index: u32) -> PoolName {
    format!("pool-{index:03}").parse().unwrap()
}

/// The `index`th /16 from 10.0.0.0 on, or a /112.
fn pool_cidr(index: u32, is_v6: bool) -> Cidr {
    if is_v6 {
        return cidr(&format!("fd00:0:0:{index:x}::/64"));
    }
    cidr(&format!("{}.{}.0.0/16", 10 + index / 250, index % 250))
}

/// One of the pools of many teams. The last one serves all teams that have none of their own; each of the others is
/// passed over by one selector or the other, in the ways that people write them.
fn pool(index: u32) -> Pool {
    let mut spec = PoolSpec::new(pool_name(index), pool_cidr(index, false));
    spec.tag = TagId::new(1);
    let is_last = index == POOLS_COUNT - 1;
    let node_selector = match index % 4 {
        _ if is_last => "has(topology.kubernetes.io/zone)".to_owned(),
        0 => "all()".to_owned(),
        1 => "topology.kubernetes.io/zone in {'west-1a', 'west-1b'}".to_owned(),
        2 => "topology.kubernetes.io/zone == 'west-1a' && !has(node-role.kubernetes.io/control-plane)"
            .to_owned(),
        _ => format!("rack == 'r{index}'"),
    };
    let namespace_selector = match index % 5 {
        _ if is_last => "env in {'test', 'production'} && team != 'team-249'".to_owned(),
        0 => format!("team == 'team-{index}' || kubernetes.io/metadata.name == 'own-{index}'"),
        1 => format!("team in {{'team-{index}', 'group-{index}'}}"),
        2 => format!("has(team) && team == 'team-{index}' && env == 'production'"),
        3 => format!("kubernetes.io/metadata.name starts with 'team-{index}-'"),
        _ => format!("team == 'team-{index}'"),
    };
    spec.node_selector = node_selector.parse().unwrap();
    spec.namespace_selector = namespace_selector.parse().unwrap();
    Pool::new(spec).unwrap()
}

/// As a cloud's kubelet labels its node.
fn node_labels() -> Labels {
    [
        ("beta.kubernetes.io/arch", "amd64"),
        ("beta.kubernetes.io/instance-type", "m6i.2xlarge"),
        ("beta.kubernetes.io/os", "linux"),
        ("failure-domain.beta.kubernetes.io/region", "west-1"),
        ("failure-domain.beta.kubernetes.io/zone", "west-1a"),
        ("kubernetes.io/arch", "amd64"),
        ("kubernetes.io/hostname", "node-0500.example.org"),
        ("kubernetes.io/os", "linux"),
        ("node-role.kubernetes.io/worker", ""),
        ("node.kubernetes.io/instance-type", "m6i.2xlarge"),
        ("rack", "r7000"),
        ("topology.kubernetes.io/region", "west-1"),
        ("topology.kubernetes.io/zone", "west-1a"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Pods of several namespaces, none of a team with a pool of its own.
fn requests() -> Vec<AssignRequest> {
    (0..NAMESPACES_COUNT)
        .map(|index| {
            let labels = [
                ("env", "production".to_owned()),
                ("kubernetes.io/metadata.name", format!("shop-{index}")),
                ("owner", format!("owner-{index}@example.org")),
                ("pod-security.kubernetes.io/enforce", "baseline".to_owned()),
                ("team", format!("team-1{index:03}")),
            ];
            let labels = labels.map(|(key, value)| (key.to_owned(), value)).into();
            AssignRequest::new(handle(u64::from(index) + 1_000_000), labels)
        })
        .collect()
}

/// Container ids as runtimes make them: 64 hexadecimal digits that do not sort by age.
fn handle(index: u64) -> Handle {
    let mixed = |salt: u64| {
        let mut bits = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt;
        bits = (bits ^ (bits >> 31)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        bits ^ (bits >> 32)
    };
    let id: String = (0..4).map(|salt| format!("{:016x}", mixed(salt * 0x1234_5678_9abc_def1))).collect();
    Handle::new(&id, "eth0").unwrap()
}

/// Blocks of other nodes, spread over all pools as the order of claims spreads them.
fn foreign_blocks(is_v6: bool) -> ForeignBlocks {
    let mut foreign = ForeignBlocks::default();
    let mut index = 0u32;
    let mut seen = BTreeSet::new();
    while seen.len() < FOREIGN_COUNT as usize {
        index += 1;
        let pool = pool_cidr(index % POOLS_COUNT, is_v6);
        let place = index.wrapping_mul(0x9e37_79b1) >> 22;
        let Some(at) = pool.nth(u128::from(place) * 64) else { continue };
        let Some(block) = Cidr::containing(at, if is_v6 { 122 } else { 26 }) else { continue };
        if seen.insert(block) {
            let node = index % NODES_COUNT;
            foreign.insert(block, format!("node-{node:04}.example.org").parse().unwrap());
        }
    }
    foreign
}

fn decisions() -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (full, empty) = (World::new(foreign_blocks(false)), World::new(ForeignBlocks::default()));
    let requests = requests();
    let mut owner = NodeIpam::new();
    let view = full.view();
    // A node with some pods: a few full blocks, and one with room.
    let mut next = 0;
    while owner.blocks().count() < 3 {
        let request = AssignRequest { handle: handle(next), ..requests[0].clone() };
        match owner.decide_assign(&view, &request, NOW).unwrap() {
            Decision::Claim(claim) => owner.apply_claim(claim.cidr, &claim.pool).unwrap(),
            Decision::Assign(given) => {
                owner.apply_assign(&request.handle, &given, NOW).unwrap();
                next += 1;
            }
            Decision::Held(_) | Decision::Borrow(_) => {
                unreachable!("every handle is new, and blocks are left")
            }
        }
    }
    let newcomer = NodeIpam::new();
    let last = pool_name(POOLS_COUNT - 1);
    for request in &requests {
        let pool = match owner.decide_assign(&view, request, NOW) {
            Ok(Decision::Assign(given)) => given[0].pool.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(pool, last, "all selectors must be looked at");
        assert!(matches!(newcomer.decide_assign(&view, request, NOW), Ok(Decision::Claim(_))));
    }
    let time = |ipam: &NodeIpam, world: &World| {
        let view = world.view();
        let begun = Instant::now();
        for index in 0..BATCH {
            let request = &requests[(index % NAMESPACES_COUNT) as usize];
            black_box(black_box(ipam).decide_assign(black_box(&view), request, NOW).unwrap());
        }
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH)
    };
    let mut samples = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        samples.0.push(time(&owner, &full));
        samples.1.push(time(&owner, &empty));
        samples.2.push(time(&newcomer, &full));
    }
    samples
}

// The journal.

/// A directory of ours on a tmpfs, removed at the end of the measurement.
fn tmpfs() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let is_tmpfs = |dir: &str| {
        mounts.lines().any(|line| {
            let mut fields = line.split(' ').skip(1);
            fields.next() == Some(dir) && fields.next() == Some("tmpfs")
        })
    };
    let dir = ["/run", "/dev/shm"].into_iter().find(|dir| is_tmpfs(dir)).expect("neither is a tmpfs");
    PathBuf::from(dir)
}

fn journal_pairs(tmpfs: &Path) -> Vec<f64> {
    let dir = tempfile::tempdir_in(tmpfs).unwrap();
    let owner = Owner { node: "node-0500.example.org".into(), boot_id: "boot".into() };
    let (journal, _) = Journal::open(Lock::try_acquire(dir.path()).unwrap(), dir.path(), owner).unwrap();
    let me = NodeId { name: "node-1".parse().unwrap(), uid: String::new() };
    let (mut ledger, _) = Ledger::replay(journal, me, &[], NOW);
    for block in ["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26"].map(cidr) {
        let claiming = Fact::Claiming { block, pool: pool_name(0), pool_uid: "u".into(), nonce: Nonce(1) };
        ledger.note(&[claiming, Fact::Owned { block }, Fact::Confirmed { block }], NOW).unwrap();
    }
    let pools = PoolTable::new([Pool::new(PoolSpec::new(pool_name(0), cidr("10.0.0.0/16"))).unwrap()]);
    let reservations = Reservations::default();
    for index in 0..NODE_PODS_COUNT {
        add(&mut ledger, &reservations, u64::from(index));
    }
    let mut next = 1_000;
    let mut samples = Vec::new();
    for _ in 0..PAIR_SAMPLES {
        let begun = Instant::now();
        for _ in 0..PAIRS_PER_SAMPLE {
            let handle = add(&mut ledger, &reservations, next);
            assert_eq!(ledger.free(&handle, &pools, NOW).unwrap().len(), 1);
            next += 1;
        }
        samples.push(f64::from(PAIRS_PER_SAMPLE) / begun.elapsed().as_secs_f64());
    }
    samples
}

/// What an ADD does to the ledger: the address that is next, the assignment, the wired interface.
fn add(ledger: &mut Ledger, reservations: &Reservations, index: u64) -> Handle {
    let handle = handle(index);
    let mut free = ledger.ipam().blocks().filter_map(|block| {
        let address = block.peek(reservations, NOW)?;
        Some(Assignment { pool: block.pool().clone(), block: block.cidr(), address })
    });
    let assignment = free.next().expect("room");
    drop(free);
    let std::net::IpAddr::V4(ipv4) = assignment.address else { unreachable!("an IPv4 block") };
    let netns = NetnsId { dev: 4, ino: 4_026_532_000 + index };
    let pod = Pod {
        identity: Identity {
            handle: handle.clone(),
            ipv4: Some(ipv4),
            ipv6: None,
            network: "k8s-pod-network".into(),
            workload: Workload {
                namespace: "shop".into(),
                pod: "web-6d4b75cb6d-hx8vz".into(),
                uid: "7f1c1b1e-1c54-4a5c-8c9e-0d4b1a0a7a1b".into(),
            },
            extras: model::Extras::default(),
        },
        pools: vec![assignment.pool.clone()],
        netns: Some(netns),
        since: NOW,
        foreign_interface: false,
        wired: None,
    };
    ledger.assign(pod, &[assignment], NOW).unwrap();
    let wired = Wired {
        host_mac: "02:00:00:00:00:01".into(),
        pod_mac: "02:00:00:00:00:02".into(),
        mtu_bytes: 1480,
        nsid: None,
        at: NOW.after(Duration::from_millis(20)),
    };
    ledger.commit(&handle, wired, netns).unwrap();
    handle
}

// Memory.

/// Everything the allocator keeps for an allocation, in blocks that are there already.
fn bytes_per_allocation() -> (f64, f64) {
    let pool = pool_name(0);
    let mut ipam = NodeIpam::new();
    let mut addresses = Vec::new();
    for block in 0..ALLOCATIONS_COUNT / 64 {
        let at = cidr("10.0.0.0/8").nth(u128::from(block) * 64).unwrap();
        let block = Cidr::containing(at, 26).unwrap();
        ipam.apply_claim(block, &pool).unwrap();
        addresses.extend((0..64).filter_map(|ordinal| Some((block, block.nth(ordinal)?))));
    }
    bytes_per(ALLOCATIONS_COUNT, move || {
        for (index, &(block, address)) in addresses.iter().enumerate() {
            let assignment = Assignment { pool: pool.clone(), block, address };
            ipam.apply_assign(&handle(index as u64), &[assignment], NOW).unwrap();
        }
        assert_eq!(ipam.holder_count(), ALLOCATIONS_COUNT as usize);
        // Both were there before.
        (ipam, pool, addresses)
    })
}

fn bytes_per_foreign_block(is_v6: bool) -> (f64, f64) {
    bytes_per(FOREIGN_COUNT, || foreign_blocks(is_v6))
}
