//! Whatever an agent has written into its journal, the next one finds: random histories of the ledger, with restarts
//! at any point.
//!
//! These histories are too short for the file to be rewritten; that is among the ledger's own tests.

#![expect(clippy::unwrap_used, reason = "helpers of tests; the lint's exception covers test functions only")]

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipam::protocol::{Fact, NodeId, Nonce};
use ipam::{Allocation, Assignment, Pool, PoolSpec, PoolTable, Reservations};
use model::{BootTime, Cidr, Handle, Identity, Workload};
use poolward_agent::journal::{Journal, Loaded, Lock, NetnsId, Owner};
use poolward_agent::node::ledger::Ledger;
use poolward_agent::node::pod::{Pod, Wired};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

#[derive(Clone, Debug)]
enum Op {
    Add { container: u8, both: bool },
    Commit { container: u8, netns: u8 },
    Free { container: u8 },
    FreeAddress { container: u8, of: u8 },
    Pass { ms: u64 },
    SetCooldown { ms: u64 },
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let container = 0u8..8;
    let op = prop_oneof![
        8 => (container.clone(), any::<bool>()).prop_map(|(container, both)| Op::Add { container, both }),
        3 => (container.clone(), 0u8..3).prop_map(|(container, netns)| Op::Commit { container, netns }),
        5 => container.clone().prop_map(|container| Op::Free { container }),
        3 => (container.clone(), container).prop_map(|(container, of)| Op::FreeAddress { container, of }),
        3 => (1u64..800).prop_map(|ms| Op::Pass { ms }),
        1 => prop_oneof![Just(0u64), 1u64..1500].prop_map(|ms| Op::SetCooldown { ms }),
        2 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 0..80)
}

struct Run {
    dir: tempfile::TempDir,
    /// `None` only while one agent has ended and the next has not begun.
    ledger: Option<Ledger>,
    pools: PoolTable,
    now: BootTime,
}

/// All that a restart has to keep.
type Kept = (Vec<Pod>, Vec<Allocation>, Vec<(Cidr, Vec<IpAddr>, Vec<(IpAddr, BootTime)>)>);

fn kept(ledger: &Ledger, now: BootTime) -> Kept {
    // What has cooled long enough is in the queue, whether or not it was moved there.
    let mut ipam = ledger.ipam().clone();
    ipam.apply_expire(now);
    let queues = ipam.blocks().map(|b| (b.cidr(), b.freed().collect(), b.cooling().collect())).collect();
    (ledger.pods().cloned().collect(), ipam.allocations().collect(), queues)
}

/// What a node notes whose claims of all blocks are confirmed; the same again changes nothing.
fn claims() -> Vec<Fact> {
    let blocks = [("10.0.0.0/30", "p"), ("10.0.0.4/30", "p"), ("fd00::/125", "six")];
    let facts = blocks.map(|(cidr, pool)| {
        let (block, pool) = (cidr.parse().unwrap(), pool.parse().unwrap());
        let claiming = Fact::Claiming { block, pool, pool_uid: "u".into(), nonce: Nonce(1) };
        [claiming, Fact::Owned { block }, Fact::Confirmed { block }]
    });
    facts.into_iter().flatten().collect()
}

fn pools(cooldown_ms: u64) -> PoolTable {
    let pool = |(name, cidr): (&str, &str)| {
        let mut spec = PoolSpec::new(name.parse().unwrap(), cidr.parse().unwrap());
        spec.cooldown = Duration::from_millis(cooldown_ms);
        Pool::new(spec).unwrap()
    };
    PoolTable::new([("p", "10.0.0.0/26"), ("six", "fd00::/122")].map(pool))
}

fn start(dir: &Path, now: BootTime) -> (Ledger, Vec<String>) {
    let owner = Owner { node: "node-1".into(), boot_id: "boot-1".into() };
    let (journal, loaded) = Journal::open(Lock::try_acquire(dir).unwrap(), dir, owner).unwrap();
    let records = match loaded {
        Loaded::Records { records, dropped_bytes: 0 } => records,
        Loaded::Fresh => Vec::new(),
        other => unreachable!("{other:?}"),
    };
    let me = NodeId { name: "node-1".parse().unwrap(), uid: String::new() };
    let (mut ledger, problems) = Ledger::replay(journal, me, &records, now);
    ledger.note(&claims(), now).unwrap();
    (ledger, problems)
}

fn handle(container: u8) -> Handle {
    Handle::new(&format!("c{container}"), "eth0").unwrap()
}

impl Run {
    fn new() -> Self {
        let (dir, now) = (tempfile::tempdir().unwrap(), BootTime::from_millis(1));
        let ledger = Some(start(dir.path(), now).0);
        Self { dir, ledger, pools: pools(0), now }
    }

    fn step(&mut self, op: &Op) -> TestCaseResult {
        let now = self.now;
        let Some(ledger) = &mut self.ledger else { return Err(TestCaseError::fail("no agent")) };
        match *op {
            Op::Add { container, both } => add(ledger, &handle(container), both, now)?,
            Op::Commit { container, netns } => {
                let is_known = ledger.pod(&handle(container)).is_some();
                let wired = Wired {
                    host_mac: format!("02:00:00:00:00:{container:02x}"),
                    pod_mac: "02:00:00:00:00:02".into(),
                    mtu_bytes: 1480,
                    nsid: None,
                    at: now,
                };
                let netns = NetnsId { dev: 4, ino: netns.into() };
                prop_assert_eq!(ledger.commit(&handle(container), wired, netns).is_ok(), is_known);
            }
            Op::Free { container } => {
                let held = ledger.ipam().held_by(&handle(container)).len();
                let freed = ledger.free(&handle(container), &self.pools, now);
                prop_assert_eq!(freed.map(|freed| freed.len()).ok(), Some(held));
                prop_assert!(ledger.pod(&handle(container)).is_none());
            }
            Op::FreeAddress { container, of } => {
                let Some(held) = ledger.ipam().held_by(&handle(of)).pop() else { return Ok(()) };
                let freed = ledger.free_address(&handle(container), held.address, &self.pools, now);
                prop_assert_eq!(freed.is_ok(), container == of);
            }
            Op::Pass { ms } => self.now = now.after(Duration::from_millis(ms)),
            Op::SetCooldown { ms } => self.pools = pools(ms),
            Op::Restart => self.restart()?,
        }
        Ok(())
    }

    fn restart(&mut self) -> TestCaseResult {
        let before = self.ledger.take().map(|ledger| kept(&ledger, self.now));
        let (ledger, problems) = start(self.dir.path(), self.now);
        prop_assert_eq!(problems, Vec::<String>::new());
        prop_assert_eq!(Some(kept(&ledger, self.now)), before);
        self.ledger = Some(ledger);
        Ok(())
    }
}

/// Gives a pod the addresses that are next, if it holds none and there are any.
fn add(ledger: &mut Ledger, handle: &Handle, both: bool, now: BootTime) -> TestCaseResult {
    let next = |pool: &str| {
        let pool = pool.parse().unwrap();
        ledger.ipam().blocks_of(&pool).find_map(|block| {
            let address = block.peek(&Reservations::default(), now)?;
            Some(Assignment { pool: pool.clone(), block: block.cidr(), address })
        })
    };
    let given: Vec<Assignment> = next("p").into_iter().chain(both.then(|| next("six")).flatten()).collect();
    if given.is_empty() {
        return Ok(());
    }
    let (mut ipv4, mut ipv6) = (None, None);
    for assignment in &given {
        match assignment.address {
            IpAddr::V4(v4) => ipv4 = Some(v4),
            IpAddr::V6(v6) => ipv6 = Some(v6),
        }
    }
    if ledger.pod(handle).is_some() {
        // A pod that has been added is answered from what it holds.
        return Ok(());
    }
    let pod = Pod {
        identity: Identity {
            handle: handle.clone(),
            ipv4,
            ipv6,
            network: "pods".into(),
            workload: Workload::default(),
            extras: model::Extras::default(),
        },
        pools: given.iter().map(|assignment| assignment.pool.clone()).collect(),
        netns: Some(NetnsId { dev: 4, ino: 5 }),
        since: now,
        foreign_interface: false,
        wired: None,
    };
    prop_assert!(ledger.assign(pod, &given, now).is_ok());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_finds_what_the_journal_was_told(ops in ops()) {
        let mut run = Run::new();
        for op in &ops {
            run.step(op)?;
        }
        run.restart()?;
    }
}
