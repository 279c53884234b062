//! The node's own address.

use model::IpipMode;

use super::*;
use crate::allocator::InnerDecision;
use crate::pool::AllowedUses;

const TUNNEL: AllowedUses = AllowedUses { workload: false, tunnel: true };
const WORKLOAD: AllowedUses = AllowedUses { workload: true, tunnel: false };

fn wrapped(spec: PoolSpec) -> PoolSpec {
    with(spec, |spec| spec.ipip_mode = IpipMode::Always)
}

impl World {
    fn decide_inner(&self) -> InnerDecision {
        self.ipam.decide_inner(&self.view(), &Handle::of_node(), self.now)
    }

    /// Takes the node's own address; which pool it is of.
    fn take_inner(&mut self) -> String {
        loop {
            match self.decide_inner() {
                InnerDecision::Claim(claim) => self.ipam.apply_claim(claim.cidr, &claim.pool).unwrap(),
                InnerDecision::Assign(assignment) => {
                    let pool = assignment.pool.to_string();
                    self.ipam.apply_assign(&Handle::of_node(), &[assignment], self.now).unwrap();
                    self.assert_adds_up();
                    return pool;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn n1_a_node_needs_an_address_of_its_own_while_any_ipv4_pool_may_be_encapsulated() {
    let check = |pools: Vec<PoolSpec>, needed: bool| {
        let world = World::new(pools);
        assert_eq!(world.decide_inner() != InnerDecision::NotNeeded, needed);
    };
    check(vec![], false);
    check(vec![pool("a", "10.0.0.0/24", 26)], false);
    check(vec![wrapped(pool("a", "10.0.0.0/24", 26))], true);
    check(vec![wrapped(with(pool("a", "10.0.0.0/24", 26), |spec| spec.disabled = true))], true);
    check(vec![wrapped(pool("a", "fd00::/112", 122))], false);
}

#[test]
fn n2_tunnel_pools_come_first_then_those_behind_nat_then_the_others_and_trusted_ones_never() {
    let plain = || pool("plain", "10.0.0.0/24", 26);
    let natted = || with(pool("natted", "10.1.0.0/24", 26), |spec| spec.nat_outgoing = true);
    let tunnel = || with(pool("tunnel", "10.2.0.0/24", 26), |spec| spec.allowed_uses = TUNNEL);
    let trusted = || wrapped(with(pool("trusted", "10.3.0.0/24", 26), |spec| spec.allowed_uses = WORKLOAD));
    let check = |pools: Vec<PoolSpec>, expected: &str| {
        assert_eq!(World::new(pools).take_inner(), expected);
    };
    check(vec![plain(), natted(), tunnel(), trusted()], "tunnel");
    check(vec![plain(), natted(), trusted()], "natted");
    check(vec![plain(), trusted()], "plain");
    assert_eq!(World::new([trusted()]).decide_inner(), InnerDecision::NoPool);
    let not_ready = with(plain(), |spec| spec.tag = None);
    assert_eq!(World::new([not_ready, trusted()]).decide_inner(), InnerDecision::NotYet);
}

#[test]
fn n3_it_stays_until_it_is_not_needed_or_its_pool_may_not_give_it_any_more() {
    let mut world = World::new([wrapped(pool("a", "10.0.0.0/24", 26))]);
    world.take_inner();
    let InnerDecision::Keep(address) = world.decide_inner() else { panic!("{:?}", world.decide_inner()) };
    // A tag that the kernel does not know yet, as at a start, changes nothing.
    world.set_pools(|spec| spec.tag = None);
    assert_eq!(world.decide_inner(), InnerDecision::Keep(address));
    let check = |change: fn(&mut PoolSpec)| {
        let mut world = World::new([wrapped(pool("a", "10.0.0.0/24", 26))]);
        world.take_inner();
        world.set_pools(change);
        assert_eq!(world.decide_inner(), InnerDecision::Return(address));
        world.ipam.apply_free(&Handle::of_node(), &world.pools, world.now);
        assert!(!matches!(world.decide_inner(), InnerDecision::Assign(_)));
    };
    check(|spec| spec.ipip_mode = IpipMode::Never);
    check(|spec| spec.allowed_uses = WORKLOAD);
    check(|spec| spec.disabled = true);
    check(|spec| spec.terminating = true);
}

#[test]
fn n4_a_pool_that_is_full_makes_way_for_the_next() {
    let small = with(pool("tunnel", "10.2.0.0/30", 30), |spec| spec.allowed_uses = TUNNEL);
    let mut world = World::new([small, wrapped(pool("a", "10.0.0.0/24", 26))]);
    world.foreign.insert(cidr("10.2.0.0/30"), "node-2".parse().unwrap());
    assert_eq!(world.take_inner(), "a");
    let small = with(wrapped(pool("tunnel", "10.2.0.0/30", 30)), |spec| spec.allowed_uses = TUNNEL);
    let mut world = World::new([small]);
    world.foreign.insert(cidr("10.2.0.0/30"), "node-2".parse().unwrap());
    assert!(matches!(world.decide_inner(), InnerDecision::Borrow(_)), "{:?}", world.decide_inner());
    world.settings.strict_affinity = true;
    assert_eq!(world.decide_inner(), InnerDecision::Full);
}
