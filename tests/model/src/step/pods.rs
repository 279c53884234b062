//! Pods: ADD, DEL, GC and release by address, as `agent/src/pods` and `agent/src/operator` do them.

use std::net::IpAddr;

use ipam::protocol::{Fact, LoanState, Next};
use ipam::{Assignment, Line, MetadataKnown, MetadataStep, Visit, is_leaked, next_metadata_step};
use model::BootTime;

use super::{Who, both, now_of, observe, record, request_of};
use crate::action::pods_of;
use crate::config::Net;
use crate::state::{Broken, Stage, State};

/// The UID of every pod's object, as runtime and API server have it.
const POD_UID: &str = "uid";

/// What `ipam` says is to be read before the pool of a pod is chosen.
pub(super) fn metadata_step(state: &State, pod: u8) -> MetadataStep {
    let known = MetadataKnown {
        pod_uid: Some(POD_UID),
        pod_read_live: false,
        namespace: true,
        namespace_read_live: state.pods[usize::from(pod)].read_live,
    };
    next_metadata_step(&known, POD_UID)
}

/// An ADD arrives and goes through its first round at once: nothing that could happen in between matters to it.
pub(super) fn add(net: &Net, state: &mut State, pod: u8) {
    let teams = 1 << state.team;
    let asked = &mut state.pods[usize::from(pod)];
    asked.stage = Stage::Asked;
    // It appeared now, or at an earlier try.
    asked.teams |= teams;
    let who = Who { machine: net.config.pods[usize::from(pod)], agent: 0 };
    assign(net, state, who, pod);
}

/// One round of an ADD: addresses, or a step of the protocol that must come first.
pub(super) fn assign(net: &Net, state: &mut State, who: Who, pod: u8) {
    let Some(agent) = who.agent_of(state) else { return };
    let Some(request) = request_of(net, state, agent, pod) else {
        // The namespace is read live; without the store the ADD waits.
        if !agent.away {
            let team = state.team;
            state.pods[usize::from(pod)].read_live = true;
            if let Some(agent) = who.agent_in(state) {
                agent.copies.team = team;
            }
        }
        return;
    };
    let copies = &agent.copies;
    let view = net.view(who.machine, &copies.objects, &copies.pools);
    let now = now_of(state, who.machine);
    match agent.keeper.decide_next(&net.cluster(&view), &request, now, state.fresh_nonce(who.machine)) {
        Ok(Next::Assign(assignments)) => {
            for assignment in &assignments {
                check_truth(net, state, who, pod, assignment);
            }
            let handle = &request.handle;
            let given =
                both(state, who, |keeper| keeper.ipam_mut().apply_assign(handle, &assignments, now).is_ok());
            if !given {
                state.broken = Some(Broken::Unfit);
            }
            if state.pods[usize::from(pod)].teams & AFTER_DEL != 0 {
                state.broken = Some(Broken::AfterDel);
            }
            let young = state.machine(who.machine).gc.is_some();
            let given = &mut state.pods[usize::from(pod)];
            given.stage = Stage::Given;
            given.address = assignments.first().map(|assignment| assignment.address);
            given.young |= young;
            // Whoever has got its address waits for no loan any more.
            nobody_waits(net, state, who, pod);
            observe(net, state, who);
            if !net.config.split_add {
                commit(net, state, pod);
            }
        }
        Ok(Next::Start { facts, .. }) => drop(record(net, state, who, &facts, None)),
        Ok(Next::Held(_) | Next::Wait { .. }) => {}
        // The ADD fails, and nothing of it is left; the runtime may ask again.
        Err(_) => {
            state.pods[usize::from(pod)].stage = Stage::Unborn;
            nobody_waits(net, state, who, pod);
        }
    }
}

/// Whether this address may be given to this pod, by what is true and not by what the agent thinks.
fn check_truth(net: &Net, state: &mut State, who: Who, pod: u8, assignment: &Assignment) {
    let Some(agent) = who.agent_of(state) else { return };
    let address = assignment.address;
    let around = state.objects.values().find(|seen| seen.object.cidr.contains(address));
    let theirs = around.is_some_and(|seen| {
        let object = &seen.object;
        let owned = agent.keeper.tenure(&object.cidr).is_some_and(|tenure| tenure.nonce == object.nonce);
        let borrowed = object.loans.iter().any(|loan| {
            loan.state == LoanState::Granted { address }
                && agent.keeper.borrows().any(|(nonce, _)| nonce == loan.nonce)
        });
        let name = &net.names[usize::from(who.machine)];
        owned && object.owner.name == *name || borrowed
    });
    let entry = state.pools.registry.entry(&assignment.pool);
    let admitted = entry.is_some_and(|entry| {
        around.is_none_or(|seen| seen.object.pool_uid == entry.uid) && entry.cidr.contains(address)
    });
    let def = net.pool_names.iter().position(|name| *name == assignment.pool);
    let team = def.and_then(|index| net.config.pools[index].team);
    let selected = team.is_none_or(|team| state.pods[usize::from(pod)].teams & (1 << team) != 0);
    let cooled = state.ended.get(&address).is_none_or(|(at, _)| *at < state.tick);
    // Without the assumption about gone nodes, what is looked for is what comes of that.
    let broken = if !theirs && net.config.gone_is_off {
        Broken::NotTheirs
    } else if !admitted {
        Broken::NotAdmitted
    } else if !selected && net.config.metadata {
        Broken::WrongPool
    } else if !cooled {
        Broken::Cooling
    } else {
        return;
    };
    // The ground truth of live pods is judged apart; two holders of one address is the graver thing.
    if !taken_twice(state, pod, address) {
        state.broken = Some(broken);
    }
}

fn taken_twice(state: &State, pod: u8, address: IpAddr) -> bool {
    (0u8..).zip(&state.pods).any(|(other, held)| {
        other != pod && held.address == Some(address) && matches!(held.stage, Stage::Given | Stage::Up)
    })
}

pub(super) fn commit(net: &Net, state: &mut State, pod: u8) {
    let machine = net.config.pods[usize::from(pod)];
    let young = state.machine(machine).gc.is_some();
    let pod = &mut state.pods[usize::from(pod)];
    pod.stage = Stage::Up;
    pod.young |= young;
}

fn nobody_waits(net: &Net, state: &mut State, who: Who, pod: u8) {
    let handle = net.handles[usize::from(pod)].clone();
    record(net, state, who, &[Fact::GaveUp { handle }], None);
}

/// The runtime hangs up on an ADD that has no address yet.
pub(super) fn give_up(net: &Net, state: &mut State, pod: u8) {
    state.left.give_ups -= 1;
    let machine = net.config.pods[usize::from(pod)];
    state.pods[usize::from(pod)].stage = Stage::Unborn;
    for agent in 0..state.machine(machine).agents.len() {
        nobody_waits(net, state, Who { machine, agent: u8::try_from(agent).unwrap_or(0) }, pod);
    }
}

/// Frees everything of a pod, in the journal first. Its interface is gone by then.
fn free(net: &Net, state: &mut State, who: Who, pod: u8) {
    let handle = &net.handles[usize::from(pod)];
    let Some(agent) = who.agent_of(state) else { return };
    let (pools, now) = (net.table(&agent.copies.pools), now_of(state, who.machine));
    both(state, who, |keeper| {
        keeper.ipam_mut().apply_free(handle, &pools, now);
        true
    });
    observe(net, state, who);
}

/// The pod ends: the address may be had again after its cooldown.
fn end(net: &Net, state: &mut State, pod: u8, stage: Stage) {
    let machine = net.config.pods[usize::from(pod)];
    let tick = state.tick;
    let pod = &mut state.pods[usize::from(pod)];
    pod.stage = stage;
    pod.young = false;
    if let Some(address) = pod.address.take() {
        state.ended.insert(address, (tick, machine));
    }
}

/// DEL: ADDs before it are cancelled and taken back, the interface goes, then the address.
pub(super) fn remove(net: &Net, state: &mut State, who: Who, pod: u8) {
    let stage = state.pods[usize::from(pod)].stage;
    state.pods[usize::from(pod)].del_asked = false;
    // The handle's line, as the gate has it: an ADD under way, then this DEL.
    let mut line = Line::default();
    let add = (stage == Stage::Asked).then(|| line.arrive(Visit::Add));
    let del = line.arrive(Visit::Del);
    if let Some(add) = add.filter(|add| line.is_cancelled(*add)) {
        // It sees so at its next step, takes itself back, and leaves.
        nobody_waits(net, state, who, pod);
        line.leave(add);
    }
    if !line.has_turn(del) {
        // It waits, and is asked again.
        state.pods[usize::from(pod)].del_asked = true;
        return;
    }
    if add.is_some_and(|add| line.has(add)) {
        // There is nothing yet, so the DEL is answered; the ADD goes on behind its back.
        state.pods[usize::from(pod)].teams |= AFTER_DEL;
        return;
    }
    free(net, state, who, pod);
    end(net, state, pod, Stage::Gone);
}

/// The bit of [`Pod::teams`](crate::state::Pod::teams) that says that a DEL was answered while an ADD was under way.
pub(crate) const AFTER_DEL: u8 = 1 << 7;

pub(super) fn vanish(net: &Net, state: &mut State, pod: u8) {
    state.left.vanishes -= 1;
    end(net, state, pod, Stage::Vanished);
}

/// The runtime lists the pods it knows: those whose ADD was answered and that live.
pub(super) fn gc_call(net: &Net, state: &mut State, machine: u8) {
    state.left.gcs -= 1;
    let mut listed = 0;
    for (pod, stage) in pods_of(net, state, machine) {
        state.pods[usize::from(pod)].young = false;
        if stage == Stage::Up {
            listed |= 1 << pod;
        }
    }
    state.machines[usize::from(machine)].gc = Some(listed);
}

/// GC looks at a pod that is not listed, in its turn: its ADD has ended.
pub(super) fn gc(net: &Net, state: &mut State, who: Who, pod: u8) {
    let Some(agent) = who.agent_of(state) else { return };
    let now = &state.pods[usize::from(pod)];
    let (stage, young) = (now.stage, now.young);
    let holds = !agent.keeper.ipam().held_by(&net.handles[usize::from(pod)]).is_empty();
    let call = BootTime::from_millis(1);
    let since = if young { call } else { BootTime::default() };
    if !holds || !is_leaked(since, false, call) {
        return;
    }
    free(net, state, who, pod);
    // One that lives is not over: the journal has forgotten it.
    if stage == Stage::Vanished {
        state.pods[usize::from(pod)].stage = Stage::Gone;
    }
}

pub(super) fn gc_end(net: &Net, state: &mut State, machine: u8) {
    state.machines[usize::from(machine)].gc = None;
    for (pod, _) in pods_of(net, state, machine) {
        state.pods[usize::from(pod)].young = false;
    }
}

/// A person looks up who holds an address whose pod is gone.
pub(super) fn look_up(net: &Net, state: &mut State, pod: u8) {
    let machine = net.config.pods[usize::from(pod)];
    let Some(agent) = state.machine(machine).agents.first() else { return };
    let held = agent.keeper.ipam().held_by(&net.handles[usize::from(pod)]);
    if let Some(held) = held.first() {
        state.left.releases -= 1;
        state.to_release = Some((pod, held.address));
    }
}

/// The release by address arrives, maybe long after the look-up.
pub(super) fn release(net: &Net, state: &mut State, who: Who) {
    let Some((pod, address)) = state.to_release.take() else { return };
    let handle = &net.handles[usize::from(pod)];
    let Some(agent) = who.agent_of(state) else { return };
    let holder = agent.keeper.ipam().holder_of(address).cloned();
    if agent.keeper.ipam().decide_free_address(handle, address).is_err() {
        return;
    }
    let (pools, now) = (net.table(&agent.copies.pools), now_of(state, who.machine));
    both(state, who, |keeper| keeper.ipam_mut().apply_free_address(handle, address, &pools, now).is_ok());
    let after = who.agent_of(state).and_then(|agent| agent.keeper.ipam().holder_of(address).cloned());
    if after != holder && holder.as_ref() != Some(handle) {
        state.broken = Some(Broken::FreedForOther);
    } else if after != holder && state.pods[usize::from(pod)].stage == Stage::Vanished {
        state.pods[usize::from(pod)].stage = Stage::Gone;
    }
    observe(net, state, who);
}

/// What a crash cut short is finished at the next start: a pod that was given an address and never promised to the
/// runtime is taken down.
pub(super) fn finish_interrupted(net: &Net, state: &mut State, who: Who) {
    for (pod, stage) in pods_of(net, state, who.machine) {
        if stage == Stage::Given {
            free(net, state, who, pod);
            end(net, state, pod, Stage::Unborn);
        }
    }
}

/// Everything on a machine ends with its power.
pub(super) fn end_all(net: &Net, state: &mut State, machine: u8) {
    for (pod, stage) in pods_of(net, state, machine) {
        let pod = &mut state.pods[usize::from(pod)];
        pod.address = None;
        pod.young = false;
        pod.del_asked = false;
        pod.stage = if matches!(stage, Stage::Unborn | Stage::Asked) { Stage::Unborn } else { Stage::Gone };
    }
    // A cooldown does not outlive the boot it was counted in.
    state.ended.retain(|_, (_, of)| *of != machine);
    let mine = |(pod, _): (u8, IpAddr)| net.config.pods[usize::from(pod)] == machine;
    if state.to_release.is_some_and(mine) {
        state.to_release = None;
    }
}

/// Requests die with the agent that served them.
pub(super) fn hang_up(net: &Net, state: &mut State, machine: u8) {
    for (pod, stage) in pods_of(net, state, machine) {
        if stage == Stage::Asked {
            state.pods[usize::from(pod)].stage = Stage::Unborn;
        }
    }
}
