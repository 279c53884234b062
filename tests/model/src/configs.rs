//! The named configurations.

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
            budget: Budget { lost: 1, twice: 1, ticks: 1, dels: 1, ..BASE.budget },
            ..BASE
        },
        Config {
            name: "size",
            about: "three nodes, two blocks of four addresses",
            machines: &["n0", "n1", "n2"],
            started: 3,
            pools: &[TWO_BLOCKS_OF_FOUR],
            pods: &[0, 1, 2],
            budget: Budget { ..BASE.budget },
            ..BASE
        },
    ]
}
