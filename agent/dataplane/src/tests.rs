//! Wiring, unwiring and reconciling against the fake kernel: order, and what is taken back.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use model::{Cidr, Handle, Identity, TagId, Workload};

use crate::kernel::fake::{Fake, State};
use crate::op::Op;
use crate::{Dataplane, DesiredState, PodWiring, Pool, Report, Settings};

mod routing;

fn wiring(number: u8) -> PodWiring {
    PodWiring {
        identity: Identity {
            handle: Handle::new(&format!("c{number}"), "eth0").unwrap(),
            ipv4: Some([10, 0, 0, number].into()),
            ipv6: Some(format!("fd00::{number}").parse().unwrap()),
            network: "n".into(),
            workload: Workload::default(),
            extras: model::Extras::default(),
        },
        mtu_bytes: 1500,
    }
}

fn dataplane() -> (Dataplane, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    (Dataplane::with_kernel(fake.clone(), Settings::new("/nowhere".into())), fake)
}

fn desired(dataplane: &Dataplane, pods: &[&PodWiring]) -> DesiredState {
    let pool = |cidr: &str, tag, nat_outgoing| Pool {
        cidr: cidr.parse().unwrap(),
        tag: TagId::new(tag).unwrap(),
        nat_outgoing,
        dscp: None,
    };
    DesiredState {
        since: dataplane.epoch(),
        sweep: true,
        pools: vec![pool("10.0.0.0/24", 1, true), pool("fd00::/112", 2, false)],
        own_blocks: vec!["10.0.0.0/29".parse().unwrap()],
        closed_ranges: vec!["10.0.0.0/24".parse().unwrap()],
        peers: Vec::new(),
        remote_ranges: Vec::new(),
        underlay_ipv4: None,
        inner_ipv4: None,
        pods: pods.iter().map(|wiring| wiring.identity.clone()).collect(),
        forward_ipv4: true,
        forward_ipv6: true,
    }
}

fn at(log: &[Op], found: impl Fn(&Op) -> bool) -> usize {
    log.iter().position(found).unwrap_or_else(|| panic!("not in {log:#?}"))
}

#[test]
fn the_hosts_end_goes_up_only_when_it_is_guarded() {
    let (dataplane, fake) = dataplane();
    let netns = File::open("/dev/null").unwrap();
    dataplane.wire(&wiring(1), netns.as_fd()).unwrap();
    let log = fake.take_log();
    let up = at(&log, |op| matches!(op, Op::SetLinkUp { ifname, .. } if ifname.starts_with("pw")));
    assert!(at(&log, |op| matches!(op, Op::SetEndpoint { .. })) < up);
    assert!(at(&log, |op| matches!(op, Op::Attach { .. })) < up);
    let route = at(
        &log,
        |op| matches!(op, Op::AddRoute { route, .. } if route.destination == Cidr::host(IpAddr::from([10, 0, 0, 1]))),
    );
    assert!(up < route);
}

#[test]
fn whatever_operation_fails_everything_before_it_is_taken_back() {
    // Which namespace a descriptor shows is its inode to the fake.
    let (netns, other_netns) = (File::open("/dev/null").unwrap(), File::open("/dev/zero").unwrap());
    let operation_count = {
        let (dataplane, fake) = dataplane();
        dataplane.wire(&wiring(1), netns.as_fd()).unwrap();
        fake.take_log().len()
    };
    assert!(operation_count >= 15, "{operation_count}");
    for failing in 0..operation_count {
        let (dataplane, fake) = dataplane();
        dataplane.wire(&wiring(9), other_netns.as_fd()).unwrap();
        let without_switches = |state: &State| State { sysctls: Default::default(), ..state.clone() };
        let before = without_switches(&fake.state());
        fake.take_log();
        fake.fail_at(&[failing]);
        let error = dataplane.wire(&wiring(1), netns.as_fd()).unwrap_err().to_string();
        assert!(error.contains("told to fail"), "{error}");
        assert_eq!(without_switches(&fake.state()), before, "operation {failing} failed");
        dataplane.wire(&wiring(1), netns.as_fd()).unwrap();
    }
}

#[test]
fn taking_back_goes_on_when_it_fails_and_says_so() {
    let (dataplane, fake) = dataplane();
    let netns = File::open("/dev/null").unwrap();
    dataplane.wire(&wiring(1), netns.as_fd()).unwrap();
    let operations = fake.take_log();
    dataplane.unwire(&wiring(1).identity.handle).unwrap();
    fake.take_log();
    // The last operation fails, and then the first of taking back.
    fake.fail_at(&[operations.len() - 1, operations.len()]);
    let error = dataplane.wire(&wiring(1), netns.as_fd()).unwrap_err().to_string();
    assert!(error.contains("could not be taken back") && error.contains("told to fail"), "{error}");
    assert!(fake.state().links.is_empty() && fake.state().programs.endpoints.is_empty(), "the rest was");
}

#[test]
fn unwiring_goes_on_and_returns_every_error() {
    let (dataplane, fake) = dataplane();
    let netns = File::open("/dev/null").unwrap();
    let handle = wiring(1).identity.handle;
    dataplane.wire(&wiring(1), netns.as_fd()).unwrap();
    fake.take_log();
    fake.fail_at(&[0]);
    let errors = dataplane.unwire(&handle).unwrap_err();
    assert_eq!(errors.len(), 1);
    let log = fake.take_log();
    assert!(matches!(log[0], Op::RemoveEndpoint { .. }), "nothing may leave any more, first of all: {log:?}");
    assert!(fake.state().links.is_empty(), "the interface went all the same");
}

#[test]
fn reconciling_brings_the_desired_state_about_and_then_plans_nothing() {
    let (dataplane, fake) = dataplane();
    let netns = File::open("/dev/null").unwrap();
    let run = |pods: &[&PodWiring]| -> Report { dataplane.reconcile(&desired(&dataplane, pods)) };
    assert!(run(&[]).errors.is_empty());
    let log = fake.take_log();
    let pool = at(&log, |op| matches!(op, Op::SetPool { .. }));
    assert!(
        at(&log, |op| matches!(op, Op::ReplaceNat(_))) < pool,
        "a pool asks for NAT once there is a rule for it"
    );
    assert!(at(&log, |op| matches!(op, Op::SetMarks(_))) < pool);
    assert_eq!(run(&[]).planned, [""; 0]);
    dataplane.wire(&wiring(1), netns.as_fd()).unwrap();
    assert_eq!(run(&[&wiring(1)]).planned, [""; 0]);
    let report = run(&[&wiring(1), &wiring(2)]);
    assert_eq!((report.planned.len(), report.missing), (0, vec![wiring(2).identity.handle]));
    assert!(!run(&[]).planned.is_empty(), "a pod that is not desired is taken off");
    assert!(fake.state().links.is_empty());
    assert_eq!(run(&[]).planned, [""; 0]);
}

#[test]
fn a_pool_is_ready_once_its_tag_and_the_nat_it_asks_for_are_in_the_kernel() {
    let cidrs = |report: Report| -> Option<Vec<String>> {
        report.ready_pools.map(|pools| pools.iter().map(|pool| pool.cidr.to_string()).collect())
    };
    let (reference, fake) = dataplane();
    assert_eq!(cidrs(reference.reconcile(&desired(&reference, &[]))).unwrap(), ["10.0.0.0/24", "fd00::/112"]);
    let log = fake.take_log();
    let check = |failing: &dyn Fn(&Op) -> bool, expected: &[&str]| {
        let (dataplane, fake) = dataplane();
        fake.fail_at(&[at(&log, failing)]);
        let report = dataplane.reconcile(&desired(&dataplane, &[]));
        assert_eq!(report.errors.len(), 1);
        assert_eq!(cidrs(report).unwrap(), expected);
    };
    check(&|op| matches!(op, Op::SetMarks(_)), &[]);
    check(
        &|op| matches!(op, Op::SetPool { cidr, .. } if cidr.family() == model::Family::V6),
        &["10.0.0.0/24"],
    );
    check(&|op| matches!(op, Op::AddRoute { .. }), &["10.0.0.0/24", "fd00::/112"]);
    // What the failed table keeps from its turn is one group with it.
    let (dataplane, fake) = dataplane();
    fake.fail_at(&[at(&log, |op| matches!(op, Op::ReplaceNat(_)))]);
    let ready = cidrs(dataplane.reconcile(&desired(&dataplane, &[]))).unwrap();
    assert!(!ready.contains(&"10.0.0.0/24".to_owned()), "{ready:?}");
}

#[test]
fn a_group_that_fails_does_not_keep_others_from_their_work() {
    let (dataplane, fake) = dataplane();
    let (netns, other_netns) = (File::open("/dev/null").unwrap(), File::open("/dev/zero").unwrap());
    let (a, b) = (wiring(1), wiring(2));
    assert!(dataplane.reconcile(&desired(&dataplane, &[])).errors.is_empty());
    dataplane.wire(&a, netns.as_fd()).unwrap();
    dataplane.wire(&b, other_netns.as_fd()).unwrap();
    let state = desired(&dataplane, &[&a, &b]);
    fake.state().programs.endpoints.clear();
    fake.state().programs.attached.clear();
    fake.state().programs.pinned.clear();
    fake.fail_at(&[0]);
    let report = dataplane.reconcile(&state);
    assert_eq!((report.planned.len(), report.errors.len()), (4, 1), "{report:?}");
    let programs = fake.state().programs.clone();
    assert_eq!(
        (programs.endpoints.len(), programs.attached.len()),
        (1, 1),
        "one pod failed at its first step"
    );
}

#[test]
fn an_old_program_is_replaced_where_it_runs_and_a_missing_one_is_attached_quickly() {
    let (dataplane, fake) = dataplane();
    let netns = File::open("/dev/null").unwrap();
    assert!(dataplane.reconcile(&desired(&dataplane, &[])).errors.is_empty());
    let ifindex = dataplane.wire(&wiring(1), netns.as_fd()).unwrap().host_ifindex;
    let check = |pinned: bool, unsettled: bool, expected: Op| {
        {
            let programs = &mut fake.state().programs;
            programs.attached.clear();
            programs.pinned = pinned.then_some(ifindex).into_iter().collect();
            programs.unsettled = unsettled.then_some(ifindex).into_iter().collect();
        }
        fake.take_log();
        let report = dataplane.reconcile(&desired(&dataplane, &[&wiring(1)]));
        assert!(report.errors.is_empty(), "{report:?}");
        assert_eq!(fake.take_log(), [expected]);
    };
    check(false, false, Op::Attach { ifindex });
    check(true, true, Op::Attach { ifindex });
    check(true, false, Op::Settle { ifindex });
}
