//! What a restart finds, and what a change that fails leaves.

use std::path::Path;
use std::time::Duration;

use ipam::protocol::Nonce;
use ipam::{Pool, PoolSpec};
use model::{Cidr, Identity, Workload};

use super::*;
use crate::journal::{Loaded, Lock, Owner};

const NOW: BootTime = BootTime::from_millis(1_000_000);

fn pools(cooldown_s: u64) -> PoolTable {
    let mut spec = PoolSpec::new("p".parse().unwrap(), "10.0.0.0/26".parse().unwrap());
    spec.cooldown = Duration::from_secs(cooldown_s);
    PoolTable::new([Pool::new(spec).unwrap()])
}

fn me() -> NodeId {
    NodeId { name: "node-1".parse().unwrap(), uid: String::new() }
}

fn block() -> Cidr {
    "10.0.0.0/29".parse().unwrap()
}

/// What a node notes that has claimed the block.
fn claim() -> [Fact; 3] {
    let (block, pool) = (block(), "p".parse().unwrap());
    [
        Fact::Claiming { block, pool, pool_uid: "u".into(), nonce: Nonce(7) },
        Fact::Owned { block },
        Fact::Confirmed { block },
    ]
}

/// The ledger that an agent started on this directory has.
fn start(dir: &Path) -> Ledger {
    let (journal, loaded) = reopen(dir);
    let records = match loaded {
        Loaded::Records { records, .. } => records,
        Loaded::Fresh => Vec::new(),
        other => panic!("{other:?}"),
    };
    let (mut ledger, problems) = Ledger::replay(journal, me(), &records, NOW);
    assert_eq!(problems, [""; 0]);
    if ledger.keeper().tenure(&block()).is_none() {
        ledger.note(&claim(), NOW).unwrap();
    }
    ledger
}

fn reopen(dir: &Path) -> (Journal, Loaded) {
    let owner = Owner { node: "node-1".into(), boot_id: "boot-1".into() };
    Journal::open(Lock::try_acquire(dir).unwrap(), dir, owner).unwrap()
}

/// What an agent that starts after this one finds.
fn open(dir: &Path, ledger: Ledger) -> Loaded {
    drop(ledger);
    reopen(dir).1
}

fn handle(id: &str) -> Handle {
    Handle::new(id, "eth0").unwrap()
}

fn give(ledger: &mut Ledger, id: &str, last_octet: u8) {
    give_to(ledger, handle(id), last_octet);
}

fn give_to(ledger: &mut Ledger, handle: Handle, last_octet: u8) {
    let address = [10, 0, 0, last_octet];
    let pod = Pod {
        identity: Identity {
            handle,
            ipv4: Some(address.into()),
            ipv6: None,
            network: "pods".into(),
            workload: Workload::default(),
            extras: model::Extras::default(),
        },
        pools: vec!["p".parse().unwrap()],
        netns: Some(NetnsId { dev: 4, ino: 5 }),
        since: NOW,
        foreign_interface: false,
        wired: None,
    };
    let assignment = Assignment { pool: "p".parse().unwrap(), block: block(), address: address.into() };
    ledger.assign(pod, &[assignment], NOW).unwrap();
}

fn wired() -> Wired {
    Wired {
        host_mac: "02:00:00:00:00:01".into(),
        pod_mac: "02:00:00:00:00:02".into(),
        mtu_bytes: 1480,
        nsid: None,
        at: NOW,
    }
}

/// What a restart finds is what there was, whether or not the journal was rewritten before.
fn check_restart(change: impl Fn(&mut Ledger)) -> Ledger {
    let mut last = None;
    for rewritten in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = start(dir.path());
        change(&mut ledger);
        if rewritten {
            let records = ledger.records();
            ledger.journal.rewrite(&records).unwrap();
        }
        let (ipam, pods) = (ledger.ipam().clone(), ledger.pods.clone());
        drop(ledger);
        let again = start(dir.path());
        assert_eq!(again.pods, pods, "rewritten: {rewritten}");
        let holders = |ipam: &NodeIpam| ipam.allocations().collect::<Vec<_>>();
        assert_eq!(holders(again.ipam()), holders(&ipam), "rewritten: {rewritten}");
        let queue = |ipam: &NodeIpam| {
            let block = ipam.block(&block()).unwrap();
            (block.freed().collect::<Vec<_>>(), block.cooling().collect::<Vec<_>>())
        };
        assert_eq!(queue(again.ipam()), queue(&ipam), "rewritten: {rewritten}");
        last = Some(again);
    }
    last.unwrap()
}

#[test]
fn a_restart_finds_every_pod_wired_or_not() {
    let again = check_restart(|ledger| {
        give(ledger, "a", 0);
        give(ledger, "b", 1);
        ledger.commit(&handle("a"), wired(), NetnsId { dev: 4, ino: 5 }).unwrap();
    });
    assert_eq!(again.pod(&handle("a")).unwrap().wired, Some(wired()));
    assert_eq!(again.pod(&handle("b")).unwrap().wired, None);
}

#[test]
fn a_restart_keeps_the_order_of_freed_addresses() {
    let again = check_restart(|ledger| {
        for (id, octet) in [("a", 0), ("b", 1), ("c", 2)] {
            give(ledger, id, octet);
        }
        for id in ["b", "a"] {
            ledger.free(&handle(id), &pools(0), NOW).unwrap();
        }
    });
    let freed: Vec<_> = again.ipam().block(&block()).unwrap().freed().map(|a| a.to_string()).collect();
    assert_eq!(freed, ["10.0.0.1", "10.0.0.0"]);
}

#[test]
fn a_restart_keeps_cooldowns() {
    let again = check_restart(|ledger| {
        give(ledger, "a", 0);
        ledger.free(&handle("a"), &pools(60), NOW).unwrap();
    });
    let cooling: Vec<_> = again.ipam().block(&block()).unwrap().cooling().collect();
    assert_eq!(cooling, [([10, 0, 0, 0].into(), NOW.after(Duration::from_secs(60)))]);
}

#[test]
fn the_history_of_a_block_that_is_gone_is_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = start(dir.path());
    give(&mut ledger, "a", 0);
    ledger.free(&handle("a"), &pools(60), NOW).unwrap();
    give(&mut ledger, "b", 1);
    let records = match open(dir.path(), ledger) {
        Loaded::Records { records, .. } => records,
        other => panic!("{other:?}"),
    };
    let (journal, _) = reopen(dir.path());
    let without_block: Vec<Record> =
        records.into_iter().filter(|record| !matches!(record, Record::Protocol(_))).collect();
    let (_, problems) = Ledger::replay(journal, me(), &without_block, NOW);
    assert_eq!(problems, ["10.0.0.1 is in no block of this node"], "only what is still held is a problem");
}

#[test]
fn pods_that_only_the_kernel_knows_are_put_back_and_the_rest_cools() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut before = start(first.path());
    give(&mut before, "a", 0);
    let found = vec![before.pod(&handle("a")).unwrap().clone()];
    let mut ledger = start(second.path());
    let until = NOW.after(Duration::from_secs(120));
    assert_eq!(ledger.rebuild(&[], found, until).unwrap(), [""; 0]);
    drop(ledger);
    let again = start(second.path());
    assert!(again.pod(&handle("a")).is_some());
    assert_eq!(again.ipam().block(&block()).unwrap().cooling().count(), 7);
}

#[test]
fn a_single_address_is_freed_by_its_holder_alone() {
    check_restart(|ledger| {
        give(ledger, "a", 0);
        let address = [10, 0, 0, 0].into();
        let other = ledger.free_address(&handle("b"), address, &pools(0), NOW);
        assert!(matches!(other, Err(LedgerError::Free(_))));
        assert_eq!(ledger.free_address(&handle("a"), address, &pools(0), NOW).unwrap(), [address]);
        assert_eq!(ledger.free_address(&handle("a"), address, &pools(0), NOW).unwrap(), [address; 0]);
        assert!(ledger.pod(&handle("a")).is_none());
    });
}

#[test]
fn an_assignment_that_the_journal_does_not_take_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = start(dir.path());
    // /dev/full refuses every write.
    ledger.journal.break_for_test(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let before = ledger.ipam().block(&block()).unwrap().used_count();
    let pod_count = ledger.pods.len();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| give(&mut ledger, "a", 0)));
    assert!(failed.is_err());
    assert_eq!(ledger.ipam().block(&block()).unwrap().used_count(), before);
    assert_eq!(ledger.pods.len(), pod_count);
}

#[test]
fn a_restart_finds_claims_loans_and_releases_as_they_were() {
    let other: Cidr = "10.0.0.8/29".parse().unwrap();
    let (pool, borrower) =
        ("p".parse().unwrap(), NodeId { name: "node-2".parse().unwrap(), uid: "u2".into() });
    let facts = [
        Fact::Claiming { block: other, pool, pool_uid: "u".into(), nonce: Nonce(8) },
        Fact::Lent { block: block(), loan: Nonce(9), address: [10, 0, 0, 5].into(), borrower },
    ];
    let again = check_restart(|ledger| drop(ledger.note(&facts, NOW).unwrap()));
    assert_eq!(again.keeper().tenure(&other).unwrap().nonce, Nonce(8));
    assert_eq!(again.ipam().block(&block()).unwrap().lent_count(), 1);
    assert!(!again.ipam().block(&block()).unwrap().is_serving(), "nothing is confirmed after a start");
}

#[test]
fn who_is_cut_off_has_no_address_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = start(dir.path());
    give(&mut ledger, "a", 0);
    let cut_off = ledger.note(&[Fact::Lost { block: block() }], NOW).unwrap();
    assert_eq!(cut_off, [(handle("a"), [10, 0, 0, 0].into())]);
    assert!(ledger.pod(&handle("a")).is_none() && ledger.ipam().blocks().next().is_none());
}

#[test]
fn the_nodes_own_address_survives_a_restart_and_is_no_pod() {
    let own: Ipv4Addr = [10, 0, 0, 3].into();
    let mut ledger = check_restart(|ledger| give_to(ledger, Handle::of_node(), 3));
    assert_eq!(ledger.inner_ipv4(), Some(own));
    assert_eq!(ledger.pods().count(), 0);
    assert_eq!(ledger.ipam().holder_of(own.into()), Some(&Handle::of_node()));
    ledger.free(&Handle::of_node(), &pools(0), NOW).unwrap();
    assert_eq!((ledger.inner_ipv4(), ledger.ipam().holder_count()), (None, 0));
    let ledger = check_restart(|ledger| {
        give_to(ledger, Handle::of_node(), 3);
        ledger.free(&Handle::of_node(), &pools(0), NOW).unwrap();
    });
    assert_eq!(ledger.inner_ipv4(), None);
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = start(dir.path());
    give_to(&mut ledger, Handle::of_node(), 3);
    let cut_off = ledger.note(&[Fact::Lost { block: block() }], NOW).unwrap();
    assert_eq!(cut_off, [(Handle::of_node(), own.into())]);
    assert_eq!(ledger.inner_ipv4(), None);
}

#[test]
fn a_pod_whose_addresses_another_plugin_gave_is_in_no_block_and_its_end_is_remembered() {
    let take_in = |ledger: &mut Ledger| {
        let extras = model::Extras { delegated: true, ..model::Extras::default() };
        let pod = Pod {
            identity: Identity {
                handle: handle("d"),
                // In no block of this node, and in one: neither is the allocator's.
                ipv4: Some([10, 0, 0, 2].into()),
                ipv6: Some("fd44::2".parse().unwrap()),
                network: "pods".into(),
                workload: Workload::default(),
                extras,
            },
            pools: vec!["p".parse().unwrap(), "six".parse().unwrap()],
            netns: Some(NetnsId { dev: 4, ino: 5 }),
            since: NOW,
            foreign_interface: false,
            wired: None,
        };
        ledger.take_in(pod).unwrap();
        ledger.commit(&handle("d"), wired(), NetnsId { dev: 4, ino: 5 }).unwrap();
    };
    let ledger = check_restart(take_in);
    assert!(ledger.pod(&handle("d")).is_some_and(|pod| pod.wired.is_some() && pod.identity.extras.delegated));
    assert_eq!(ledger.ipam().holder_count(), 0);
    let ledger = check_restart(|ledger| {
        take_in(ledger);
        assert!(ledger.free(&handle("d"), &pools(0), NOW).unwrap().is_empty());
    });
    assert!(ledger.pod(&handle("d")).is_none());
}
