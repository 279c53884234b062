//! What must hold in every state, judged by what is true of pods and the store and not by what agents think.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipam::check::{Member, Snapshot, Strength, check};

use crate::config::Net;
use crate::settle;
use crate::state::{Broken, Stage, State};

/// A property: its name, and whether it holds.
pub type Check = (&'static str, fn(&Net, &State) -> bool);

/// All of them.
pub const CHECKS: [Check; 12] = [
    ("one holder for each address", one_holder),
    ("answered ADDs are remembered", remembered),
    ("what failed or ended leaves nothing", nothing_left),
    ("only owner or borrower hands out", |_, state| state.broken != Some(Broken::NotTheirs)),
    ("no address inside its cooldown", |_, state| state.broken != Some(Broken::Cooling)),
    ("freeing needs the holder", |_, state| state.broken != Some(Broken::FreedForOther)),
    ("only admitted pools, none overlapping", admitted),
    ("the pool the namespace selects", |_, state| state.broken != Some(Broken::WrongPool)),
    ("a DEL is the end of its pod", |_, state| state.broken != Some(Broken::AfterDel)),
    ("facts fit, and the journal replays", |_, state| {
        !matches!(state.broken, Some(Broken::Unfit | Broken::Replay))
    }),
    ("what always holds, by ipam::check", always),
    ("settles once faults stop", settle::settles),
];

/// No address has two holders, in the whole cluster.
fn one_holder(_: &Net, state: &State) -> bool {
    let mut holders: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for pod in state.pods.iter().filter(|pod| matches!(pod.stage, Stage::Given | Stage::Up)) {
        if let Some(address) = pod.address {
            *holders.entry(address).or_default() += 1;
        }
    }
    holders.values().all(|count| *count == 1)
}

/// Every pod whose ADD was answered is in its node's journal with its address, and was not cut off. Where agents of
/// gone nodes may run on, cutting off is what remains to be done.
fn remembered(net: &Net, state: &State) -> bool {
    state.pods.iter().enumerate().all(|(index, pod)| match pod.stage {
        Stage::Up => {
            let disk = state.machine(net.config.pods[index]).disk.as_ref();
            pod.address.is_none_or(|address| {
                disk.is_some_and(|disk| disk.ipam().holder_of(address) == Some(&net.handles[index]))
            })
        }
        Stage::CutOff => !net.config.gone_is_off,
        _ => true,
    })
}

/// Nothing is held for a pod that has ended or whose ADD has failed, where an agent runs.
fn nothing_left(net: &Net, state: &State) -> bool {
    state.pods.iter().enumerate().all(|(index, pod)| {
        let machine = state.machine(net.config.pods[index]);
        let over = matches!(pod.stage, Stage::Unborn | Stage::Asked | Stage::Gone | Stage::CutOff);
        !over
            || machine.agents.is_empty()
            || machine.disk.iter().all(|disk| disk.ipam().held_by(&net.handles[index]).is_empty())
    })
}

/// No two entries of the registry share an address, and nothing was handed out of a pool without one.
fn admitted(_: &Net, state: &State) -> bool {
    let entries: Vec<_> = state.pools.registry.entries().collect();
    let overlap = entries
        .iter()
        .enumerate()
        .any(|(index, one)| entries[index + 1..].iter().any(|other| one.cidr.overlaps(&other.cidr)));
    !overlap && state.broken != Some(Broken::NotAdmitted)
}

/// What `poolwardctl ipam check` would say of every agent and the store, as far as it holds while things are under way.
/// Without the assumption about gone nodes, what is looked for is the duplicate that comes of that.
fn always(net: &Net, state: &State) -> bool {
    if !net.config.gone_is_off {
        return true;
    }
    let agents = state.machines.iter().flat_map(|machine| &machine.agents);
    let snapshot = Snapshot {
        blocks: state.objects.iter().map(|(block, seen)| (*block, &seen.object)).collect(),
        registry: Some(&state.pools.registry),
        pools: None,
        nodes: None,
        members: agents.map(|agent| Member::of(&agent.keeper)).collect(),
        live: None,
        unreadable: Vec::new(),
    };
    check(&snapshot, Strength::Always).is_empty()
}
