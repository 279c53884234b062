//! What people do to pools, and what agents do about it: admission and retiring, as `agent/src/node` does them.

use std::sync::Arc;

use ipam::Registry;
use ipam::mutant::{self, Mutant};
use model::TagId;

use super::Who;
use crate::action::Action;
use crate::config::{MAX_TAG_ID, Net};
use crate::state::{Pod, Stage, State};

/// A person changes something.
pub(super) fn change(state: &mut State, action: &Action) {
    let left = &mut state.left;
    match *action {
        Action::PoolAdd(pool) => {
            left.pool_adds -= 1;
            let object = &mut Arc::make_mut(&mut state.pools).objects[usize::from(pool)];
            (object.exists, object.deleting, object.disabled) = (true, false, false);
            object.uid += 1;
        }
        Action::PoolDelete(pool) => {
            left.pool_deletes -= 1;
            Arc::make_mut(&mut state.pools).objects[usize::from(pool)].deleting = true;
        }
        Action::PoolSwitch(pool) => {
            left.pool_switches -= 1;
            let object = &mut Arc::make_mut(&mut state.pools).objects[usize::from(pool)];
            object.disabled = !object.disabled;
        }
        Action::Relabel => {
            left.relabels -= 1;
            state.team = 1 - state.team;
            let there = |pod: &&mut Pod| pod.teams != 0 && matches!(pod.stage, Stage::Unborn | Stage::Asked);
            for pod in state.pods.iter_mut().filter(there) {
                pod.teams |= 1 << state.team;
            }
        }
        _ => {}
    }
}

/// An agent asks for admission of a pool that its copies show as waiting, by compare-and-swap on the live registry.
pub(super) fn admit(net: &Net, state: &mut State, who: Who, pool: u8) {
    let Some(agent) = who.agent_of(state) else { return };
    let uid = agent.copies.pools.objects[usize::from(pool)].uid;
    let Some(candidate) = net.candidate(usize::from(pool), uid) else { return };
    let live = &state.pools.registry;
    let admitted = if mutant::on(Mutant::AdmitFromStaleCopy) {
        // What the copy would admit goes in, whatever else is there by now.
        let ok = agent.copies.pools.registry.admit(&candidate, MAX_TAG_ID);
        ok.ok().and_then(|admitted| {
            let tag = (1..=MAX_TAG_ID).filter_map(TagId::new).find(|tag| {
                live.entries().all(|entry| entry.tag != *tag) && live.retired().all(|old| old != *tag)
            })?;
            let mut entry = admitted.registry.entry(&candidate.name)?.clone();
            entry.tag = tag;
            let others = live.entries().filter(|other| other.name != candidate.name).cloned();
            Registry::from_parts(others.chain([entry]), live.retired()).ok()
        })
    } else {
        live.admit(&candidate, MAX_TAG_ID).ok().map(|admitted| admitted.registry)
    };
    if let Some(registry) = admitted {
        Arc::make_mut(&mut state.pools).registry = registry;
    }
}

/// The entry of a pool that is being deleted is marked.
pub(super) fn terminate(net: &Net, state: &mut State, pool: u8) {
    let registry = &state.pools.registry;
    let name = &net.pool_names[usize::from(pool)];
    let marked = registry.entry(name).and_then(|entry| registry.terminate(name, &entry.uid));
    if let Some(registry) = marked {
        Arc::make_mut(&mut state.pools).registry = registry;
    }
}

/// No block was left: the pool's object goes, and its entry.
pub(super) fn retire(net: &Net, state: &mut State, who: Who) {
    let Some(pool) = who.agent_in(state).and_then(|agent| agent.retiring.take()) else { return };
    let name = &net.pool_names[usize::from(pool)];
    let registry = &state.pools.registry;
    let removed = registry.entry(name).and_then(|entry| registry.remove(name, &entry.uid));
    let pools = Arc::make_mut(&mut state.pools);
    if pools.objects[usize::from(pool)].deleting {
        pools.objects[usize::from(pool)].exists = false;
        pools.objects[usize::from(pool)].deleting = false;
    }
    if let Some(registry) = removed {
        pools.registry = registry;
    }
}
