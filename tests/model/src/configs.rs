//! The named configurations.

use ipam::mutant::Mutant;

use crate::config::{Budget, Config, Copying, PoolDef};

const ONE_BLOCK_OF_TWO: PoolDef =
    PoolDef { name: "main", cidr: "10.0.0.0/31", block_len: 31, team: None, from_start: true };
const TWO_BLOCKS_OF_TWO: PoolDef =
    PoolDef { name: "main", cidr: "10.0.0.0/30", block_len: 31, team: None, from_start: true };
const TWO_BLOCKS_OF_FOUR: PoolDef =
    PoolDef { name: "main", cidr: "10.0.0.0/29", block_len: 30, team: None, from_start: true };

const BASE: Config = Config {
    name: "",
    about: "",
    machines: &["n0", "n1"],
    started: 2,
    pools: &[TWO_BLOCKS_OF_TWO],
    pods: &[0, 1],
    strict: false,
    max_blocks: None,
    budget: Budget {
        ticks: 0,
        lost: 0,
        twice: 0,
        crashes: 0,
        away: 0,
        relists: 0,
        offs: 0,
        ons: 0,
        node_deletes: 0,
        node_creates: 0,
        give_ups: 0,
        dels: 0,
        vanishes: 0,
        gcs: 0,
        releases: 0,
        pool_adds: 0,
        pool_deletes: 0,
        pool_switches: 0,
        relabels: 0,
        clocks: 0,
        seconds: 0,
    },
    copying: Copying::Fresh,
    split_read: false,
    split_answer: false,
    split_add: false,
    look_at_once: false,
    look_anywhere: false,
    gone_is_off: true,
    metadata: false,
    settle_steps: 120,
};

/// All configurations that must hold.
#[must_use]
pub fn all() -> Vec<Config> {
    vec![
        Config {
            name: "claims",
            about: "two nodes race for one block; a reply is lost, and lands late or twice",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            budget: Budget { lost: 1, twice: 1, ticks: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "size",
            about: "three nodes, two blocks of four addresses: one of them borrows or is handed a block",
            machines: &["n0", "n1", "n2"],
            started: 3,
            pools: &[TWO_BLOCKS_OF_FOUR],
            pods: &[0, 1, 2],
            look_at_once: true,
            ..BASE
        },
        Config {
            name: "crashes",
            about: "an agent crashes between any two effects, and starts again",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            split_read: true,
            split_answer: true,
            split_add: false,
            budget: Budget { crashes: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "loans",
            about: "a borrower asks, gives up and gives back; replies are lost",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            budget: Budget { lost: 1, give_ups: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "returns",
            about: "loans that are held are given back, and the owner's block becomes empty",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            budget: Budget { dels: 2, ticks: 3, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "drain",
            about: "a pool is deleted while an address of it is lent",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            budget: Budget { dels: 1, ticks: 1, pool_deletes: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "lenders",
            about: "two borrowers ask one owner for its last address",
            machines: &["n0", "n1", "n2"],
            started: 3,
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1, 2],
            look_at_once: true,
            budget: Budget { give_ups: 1, lost: 0, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "release",
            about: "surplus blocks are released and handed over while others ask for loans of them",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            budget: Budget { lost: 1, dels: 1, ticks: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "gone",
            about: "a node goes for good, and its block with a loan is reclaimed",
            machines: &["n0", "n1", "n2"],
            started: 2,
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1, 2],
            budget: Budget { offs: 1, node_deletes: 1, ticks: 2, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "again",
            about: "a node is registered anew under its name, with a reboot or without one",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            budget: Budget { offs: 1, ons: 1, node_deletes: 1, node_creates: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "replaced",
            about: "another machine takes a node's name while the first one runs on",
            machines: &["n0", "n0"],
            started: 1,
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 0, 1],
            budget: Budget { offs: 1, ons: 1, node_deletes: 1, node_creates: 1, ticks: 2, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "stale",
            about: "copies of blocks, pools and nodes are old, each kind by itself",
            pools: &[ONE_BLOCK_OF_TWO],
            started: 1,
            pods: &[1, 1],
            copying: Copying::StaleByKind,
            look_at_once: true,
            budget: Budget { ons: 1, node_creates: 1, ticks: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "overlap",
            about: "two pools that overlap are made; agents admit them by old copies",
            pools: &[
                PoolDef { name: "one", cidr: "10.0.0.0/31", block_len: 31, team: None, from_start: false },
                PoolDef { name: "two", cidr: "10.0.0.0/30", block_len: 31, team: None, from_start: false },
            ],
            pods: &[0],
            copying: Copying::Stale,
            look_at_once: true,
            budget: Budget { pool_adds: 2, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "retire",
            about: "a pool is deleted while claims are under way, and made again under its name; copies are old",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0],
            copying: Copying::Stale,
            budget: Budget { pool_adds: 1, pool_deletes: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "disable",
            about: "a pool is disabled and enabled again, and its blocks drain meanwhile",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            budget: Budget { pool_switches: 2, ticks: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "pods",
            about: "ADD, DEL, GC and release by address cross each other",
            machines: &["n0"],
            started: 1,
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 0, 0],
            split_add: true,
            budget: Budget {
                dels: 1,
                vanishes: 1,
                gcs: 1,
                releases: 1,
                ticks: 1,
                clocks: 1,
                seconds: 1,
                ..BASE.budget
            },
            ..BASE
        },
        Config {
            name: "away",
            about: "an agent starts while the store is away, and reaches it later",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            budget: Budget { crashes: 1, away: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "reboot",
            about: "a machine reboots while the store is away, and another node claims meanwhile",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            look_at_once: true,
            budget: Budget { offs: 1, ons: 1, away: 1, relists: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "old",
            about: "copies of everything are old while blocks change hands",
            pools: &[ONE_BLOCK_OF_TWO],
            pods: &[0, 1],
            copying: Copying::Stale,
            look_at_once: true,
            budget: Budget { ..BASE.budget },
            ..BASE
        },
        Config {
            name: "metadata",
            about: "the namespace's label changes while a pod's ADD is under way",
            machines: &["n0"],
            started: 1,
            pools: &[
                PoolDef { name: "a", cidr: "10.0.0.0/31", block_len: 31, team: Some(0), from_start: true },
                PoolDef { name: "b", cidr: "10.0.0.2/31", block_len: 31, team: Some(1), from_start: true },
            ],
            pods: &[0, 0],
            metadata: true,
            budget: Budget { relabels: 2, dels: 1, ..BASE.budget },
            ..BASE
        },
    ]
}

/// Without the assumption that a node that is gone for the grace is off or fenced: an address with two holders.
#[must_use]
pub fn unfenced() -> Config {
    Config {
        name: "unfenced",
        about: "a node is gone for the grace, and its machine runs on",
        gone_is_off: false,
        settle_steps: 0,
        pools: &[ONE_BLOCK_OF_TWO],
        pods: &[0, 1],
        budget: Budget { node_deletes: 1, ticks: 2, ..BASE.budget },
        ..BASE
    }
}

/// The configurations in which a mutant shows itself, the likeliest first.
#[must_use]
pub fn for_mutant(mutant: Mutant) -> Vec<Config> {
    let names: &[&str] = match mutant {
        Mutant::GcFreesUnlisted
        | Mutant::FreeWithoutHolder
        | Mutant::NoCooldown
        | Mutant::SecondAgent
        | Mutant::DelOvertakesAdd
        | Mutant::WallClock => &["pods"],
        Mutant::UnansweredClaimWins => &["claims"],
        Mutant::ReclaimFromCache => &["stale"],
        Mutant::ReleaseWithLoan => &["drain"],
        Mutant::InheritByName | Mutant::RehomeWithoutNonce => &["replaced", "again"],
        Mutant::GrantBeforeJournal => &["crashes", "loans"],
        Mutant::GrantTwice => &["lenders"],
        Mutant::ReleaseSettledByRead => &["release", "loans"],
        Mutant::AdmitFromStaleCopy => &["overlap"],
        Mutant::ClaimWithoutReread => &["retire"],
        Mutant::ServeFromList => &["again"],
        Mutant::UnansweredGrantVoid | Mutant::GiveUpSilently => &["loans"],
        Mutant::StaleMetadata => &["metadata"],
        Mutant::EarlierBoot => &["reboot"],
    };
    names.iter().filter_map(|name| all().into_iter().find(|config| config.name == *name)).collect()
}
