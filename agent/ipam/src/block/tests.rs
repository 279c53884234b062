//! The queue of one block.

use super::*;

fn block(cidr: &str) -> Block {
    Block::new(cidr.parse().unwrap(), "p".parse().unwrap()).unwrap()
}

fn holder(name: &str) -> Handle {
    Handle::new(name, "eth0").unwrap()
}

fn at(ms: u64) -> BootTime {
    BootTime::from_millis(ms)
}

fn reserved(cidrs: &[&str]) -> Reservations {
    Reservations::new(cidrs.iter().map(|text| ("r".to_owned(), text.parse().unwrap())))
}

/// Takes what is next, and says its ordinal.
fn take_next(block: &mut Block, reservations: &Reservations, now: BootTime) -> Option<u32> {
    let address = block.peek(reservations, now)?;
    assert_eq!(block.check_take(address, now), Ok(()));
    block.take(address, &holder("c"), now);
    assert_eq!(block.state(address, now), Some(OrdinalState::Used(&holder("c"))));
    assert!(block.usage(reservations, now).adds_up());
    block.cidr.offset_of(address).map(|offset| u32::try_from(offset).unwrap())
}

fn take_all(block: &mut Block, reservations: &Reservations, now: BootTime) -> Vec<u32> {
    std::iter::from_fn(|| take_next(block, reservations, now)).collect()
}

fn free(block: &mut Block, ordinal: u32, now: BootTime, until: BootTime) {
    let address = block.cidr.nth(u128::from(ordinal)).unwrap();
    block.give_back(address, now, until);
    assert!(block.usage(&Reservations::default(), now).adds_up());
}

#[test]
fn a3_a_fresh_block_hands_out_ordinal_0_then_1_and_every_address_once() {
    for (cidr, size) in [
        ("10.0.0.0/32", 1),
        ("10.0.0.0/30", 4),
        ("10.0.0.0/26", 64),
        ("10.0.0.0/20", 4096),
        ("fd00::/116", 4096),
    ] {
        let mut block = block(cidr);
        let order = take_all(&mut block, &Reservations::default(), at(0));
        assert_eq!(order, (0..size).collect::<Vec<_>>(), "{cidr}");
    }
}

#[test]
fn a4_freed_ordinals_go_to_the_tail() {
    let check = |cidr: &str, steps: usize, expected: &[u32]| {
        let mut block = block(cidr);
        let none = Reservations::default();
        let order: Vec<u32> = (0..steps)
            .filter_map(|_| {
                let ordinal = take_next(&mut block, &none, at(0))?;
                free(&mut block, ordinal, at(0), at(0));
                Some(ordinal)
            })
            .collect();
        assert_eq!(order, expected, "{cidr}");
    };
    check("10.0.0.0/30", 5, &[0, 1, 2, 3, 0]);
    check("10.0.0.0/32", 3, &[0, 0, 0]);
    check("fd00::/127", 5, &[0, 1, 0, 1, 0]);
}

#[test]
fn a4_freed_ordinals_come_in_the_order_they_were_freed() {
    let mut block = block("10.0.0.0/29");
    let none = Reservations::default();
    assert_eq!(take_all(&mut block, &none, at(0)).len(), 8);
    for ordinal in [5, 0, 7, 2] {
        free(&mut block, ordinal, at(0), at(0));
    }
    assert_eq!(take_all(&mut block, &none, at(0)), [5, 0, 7, 2]);
}

#[test]
fn f5_a_cooling_ordinal_is_neither_free_nor_used_and_joins_the_tail_when_it_is_over() {
    let mut block = block("10.0.0.0/30");
    let none = Reservations::default();
    assert_eq!(take_all(&mut block, &none, at(0)), [0, 1, 2, 3]);
    free(&mut block, 2, at(100), at(1100));
    free(&mut block, 0, at(200), at(700));
    free(&mut block, 3, at(300), at(300));
    let check = |block: &Block, now: u64, free: u128, cooling: u128, next: Option<&str>| {
        let usage = block.usage(&none, at(now));
        assert_eq!((usage.used, usage.free, usage.cooling), (1, free, cooling), "at {now}");
        assert_eq!(block.peek(&none, at(now)).map(|at| at.to_string()).as_deref(), next, "at {now}");
    };
    check(&block, 300, 1, 2, Some("10.0.0.3"));
    check(&block, 700, 2, 1, Some("10.0.0.3"));
    check(&block, 1100, 3, 0, Some("10.0.0.3"));
    let mut later = block.clone();
    assert_eq!(take_all(&mut later, &none, at(1099)), [3, 0]);
    let usage = later.usage(&none, at(1100));
    assert_eq!((usage.used, usage.free, usage.cooling), (3, 1, 0));
    // Decisions at a later time need no expiry to have run, and expiry changes none of them.
    let mut expired = block.clone();
    expired.expire(at(1100));
    assert_eq!(take_all(&mut expired, &none, at(1100)), take_all(&mut block, &none, at(1100)));
}

#[test]
fn an_ordinal_freed_without_cooldown_stands_behind_those_that_cooled_before() {
    let mut block = block("10.0.0.0/31");
    let none = Reservations::default();
    assert_eq!(take_all(&mut block, &none, at(0)), [0, 1]);
    free(&mut block, 1, at(10), at(20));
    free(&mut block, 0, at(30), at(30));
    assert_eq!(take_all(&mut block, &none, at(30)), [1, 0]);
}

#[test]
fn a11_reserved_ordinals_are_skipped_and_keep_their_place() {
    let check = |cidrs: &[&str], expected: &[u32], then: &[u32]| {
        let mut block = block("10.0.0.0/29");
        assert_eq!(take_all(&mut block, &reserved(cidrs), at(0)), expected, "{cidrs:?}");
        // When the reservation is gone, what it kept back is still in front of what was freed since.
        free(&mut block, expected[0], at(0), at(0));
        let then: Vec<u32> = then.iter().copied().chain([expected[0]]).collect();
        assert_eq!(take_all(&mut block, &Reservations::default(), at(0)), then, "{cidrs:?}");
    };
    check(&["10.0.0.0/31"], &[2, 3, 4, 5, 6, 7], &[0, 1]);
    check(&["10.0.0.6/31"], &[0, 1, 2, 3, 4, 5], &[6, 7]);
    check(&["10.0.0.2/32", "10.0.0.4/31"], &[0, 1, 3, 6, 7], &[2, 4, 5]);
}

#[test]
fn a_named_ordinal_leaves_the_queue_wherever_it_stands() {
    let mut block = block("10.0.0.0/29");
    let none = Reservations::default();
    let take = |block: &mut Block, ordinal: u32| {
        let address = block.cidr.nth(u128::from(ordinal)).unwrap();
        block.take(address, &holder("named"), at(0));
    };
    for ordinal in [1, 2, 5] {
        take(&mut block, ordinal);
    }
    free(&mut block, 2, at(0), at(0));
    free(&mut block, 1, at(0), at(0));
    take(&mut block, 2);
    assert_eq!(take_all(&mut block, &none, at(0)), [0, 3, 4, 6, 7, 1]);
}

#[test]
fn named_ordinals_across_many_words_of_the_bitmap_are_never_handed_out_again() {
    let mut block = block("10.0.0.0/20");
    let named: Vec<u32> =
        (0..4096).filter(|ordinal| ordinal % 3 != 0 || (640..1300).contains(ordinal)).collect();
    for ordinal in &named {
        let address = block.cidr.nth(u128::from(*ordinal)).unwrap();
        block.take(address, &holder("named"), at(0));
    }
    let rest = take_all(&mut block, &Reservations::default(), at(0));
    let expected: Vec<u32> = (0..4096).filter(|ordinal| !named.contains(ordinal)).collect();
    assert_eq!(rest, expected);
}

#[test]
fn u1_a_reserved_address_counts_once_whatever_else_it_is() {
    let mut block = block("10.0.0.0/29");
    let reservations = reserved(&["10.0.0.0/30", "10.0.0.0/31", "10.0.0.7/32"]);
    let check = |block: &Block, now: u64, expected: [u128; 4]| {
        let usage = block.usage(&reservations, at(now));
        assert!(usage.adds_up(), "{usage}");
        assert_eq!([usage.used, usage.free, usage.cooling, usage.reserved], expected, "{usage}");
    };
    check(&block, 0, [0, 3, 0, 5]);
    for address in ["10.0.0.0", "10.0.0.5"] {
        block.take(address.parse().unwrap(), &holder("c"), at(0));
    }
    check(&block, 0, [2, 2, 0, 4]);
    block.give_back("10.0.0.0".parse().unwrap(), at(0), at(50));
    check(&block, 49, [1, 2, 1, 4]);
    check(&block, 50, [1, 2, 0, 5]);
}

#[test]
fn what_is_not_known_to_be_held_cools_and_can_still_be_restored() {
    let mut block = block("10.0.0.0/30");
    let none = Reservations::default();
    take_next(&mut block, &none, at(0));
    take_next(&mut block, &none, at(0));
    free(&mut block, 1, at(0), at(9000));
    block.cool_all(at(5000));
    assert_eq!(block.usage(&none, at(100)).cooling, 3);
    block.restore("10.0.0.3".parse().unwrap(), &holder("found"));
    assert_eq!(block.usage(&none, at(100)).used, 2);
    assert_eq!(block.peek(&none, at(4999)), None);
    assert_eq!(take_all(&mut block, &none, at(5000)), [2]);
    assert_eq!(take_all(&mut block, &none, at(9000)), [1], "a longer cooldown is not cut short");
}

#[test]
fn a_block_that_does_not_serve_hands_out_nothing_and_keeps_what_it_has() {
    let mut block = block("10.0.0.0/30");
    take_next(&mut block, &Reservations::default(), at(0));
    block.set_serving(false);
    assert_eq!(block.peek(&Reservations::default(), at(0)), None);
    assert_eq!(block.used_count(), 1);
}

#[test]
fn a_block_of_more_than_4096_addresses_does_not_exist() {
    for (cidr, ok) in [("10.0.0.0/20", true), ("10.0.0.0/19", false), ("fd00::/116", true), ("::/0", false)] {
        assert_eq!(Block::new(cidr.parse().unwrap(), "p".parse().unwrap()).is_some(), ok, "{cidr}");
    }
}
