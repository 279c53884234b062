//! What may happen to a node.

use proptest::prelude::*;

/// The longest history.
pub(crate) const MAX_LENGTH: u32 = 800;

/// How many containers there are at most.
pub(crate) const CONTAINERS: u8 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    V4,
    V6,
    Both,
    AsPoolsExist,
    V4AndPerhapsV6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    On,
    Disabled,
    NotAdmittedYet,
    OfOtherNamespaces,
    Gone,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// An ADD; of a container that holds addresses as well.
    Assign {
        container: u8,
        families: Families,
    },
    /// An ADD with an address by name.
    AssignExplicit {
        container: u8,
        address: u8,
    },
    Free {
        container: u8,
    },
    /// With its holder's identity or another's.
    FreeAddress {
        container: u8,
        address: u8,
    },
    FreeBatch {
        items: Vec<(u8, Option<u8>)>,
    },
    Pass {
        ms: u64,
    },
    Expire,
    /// The next block of a pool is claimed ahead of need.
    ClaimNext {
        pool: u8,
    },
    Release {
        address: u8,
    },
    /// The block turns out to be another node's.
    Lose {
        address: u8,
    },
    RivalClaims {
        address: u8,
    },
    RivalReleases {
        address: u8,
    },
    Serve {
        address: u8,
        serving: bool,
    },
    /// The allocator is rebuilt from what is known.
    Restart,
    Reserve {
        addresses: Vec<(u8, u8)>,
    },
    SetPool {
        pool: u8,
        standing: Standing,
        cooldown_ms: u64,
    },
    AutoAllocate {
        on: bool,
    },
}

/// A history.
pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (container, address, pool) = (0..CONTAINERS, any::<u8>(), 0u8..3);
    let families = prop_oneof![
        1 => Just(Families::V4),
        1 => Just(Families::V6),
        1 => Just(Families::Both),
        3 => Just(Families::AsPoolsExist),
        1 => Just(Families::V4AndPerhapsV6),
    ];
    let standing = prop_oneof![
        6 => Just(Standing::On),
        1 => Just(Standing::Disabled),
        1 => Just(Standing::NotAdmittedYet),
        1 => Just(Standing::OfOtherNamespaces),
        1 => Just(Standing::Gone),
    ];
    let op = prop_oneof![
        20 => (container.clone(), families).prop_map(|(container, families)| Op::Assign { container, families }),
        5 => (container.clone(), address)
            .prop_map(|(container, address)| Op::AssignExplicit { container, address }),
        10 => container.clone().prop_map(|container| Op::Free { container }),
        6 => (container.clone(), address).prop_map(|(container, address)| Op::FreeAddress { container, address }),
        2 => prop::collection::vec((container, prop::option::of(address)), 1..5)
            .prop_map(|items| Op::FreeBatch { items }),
        5 => (1u64..800).prop_map(|ms| Op::Pass { ms }),
        1 => Just(Op::Expire),
        2 => pool.clone().prop_map(|pool| Op::ClaimNext { pool }),
        2 => address.prop_map(|address| Op::Release { address }),
        1 => address.prop_map(|address| Op::Lose { address }),
        1 => address.prop_map(|address| Op::RivalClaims { address }),
        2 => address.prop_map(|address| Op::RivalReleases { address }),
        2 => (address, prop::bool::weighted(0.7)).prop_map(|(address, serving)| Op::Serve { address, serving }),
        1 => Just(Op::Restart),
        1 => prop::collection::vec((address, 0u8..3), 0..4).prop_map(|addresses| Op::Reserve { addresses }),
        2 => (pool, standing, prop_oneof![Just(0u64), 1u64..1500])
            .prop_map(|(pool, standing, cooldown_ms)| Op::SetPool { pool, standing, cooldown_ms }),
        1 => prop::bool::weighted(0.8).prop_map(|on| Op::AutoAllocate { on }),
    ];
    prop::collection::vec(op, 0..=MAX_LENGTH as usize)
}
