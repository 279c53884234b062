//! Machines and agents: crashes, starts, reboots, and Nodes that come and go.

use std::sync::Arc;

use ipam::mutant::{self, Mutant};
use ipam::protocol::Keeper;

use super::{Who, fresh_copies, observe, pods};
use crate::config::Net;
use crate::state::{Agent, Broken, Look, State};

/// An agent dies. With `sent`, its write is under way and lives on.
pub(super) fn crash(net: &Net, state: &mut State, who: Who, sent: bool) {
    let machine = &mut state.machines[usize::from(who.machine)];
    if usize::from(who.agent) >= machine.agents.len() {
        return;
    }
    let dead = machine.agents.remove(usize::from(who.agent));
    machine.saved = Some(dead.copies);
    if machine.agents.is_empty() {
        machine.gc = None;
    }
    if let Some(Look::Decided(decision)) = dead.look.filter(|_| sent) {
        state.late.extend(decision.write.clone());
        state.drop_void();
    }
    if state.machine(who.machine).agents.is_empty() {
        pods::hang_up(net, state, who.machine);
    }
}

/// An agent starts, under the journal's lock.
pub(super) fn start(net: &Net, state: &mut State, index: u8, away: bool) {
    let fresh = fresh_copies(state);
    let uid = state.nodes[usize::from(index)];
    let machine = &mut state.machines[usize::from(index)];
    let copies = match machine.saved.take() {
        Some(saved) if away => saved,
        _ => fresh,
    };
    let keeper = match (&machine.disk, uid) {
        (Some(disk), _) => {
            if replayed(disk) != summary(disk) {
                state.broken = Some(Broken::Replay);
            }
            let mut keeper = disk.after_restart();
            if let Some(uid) = uid.filter(|_| !away) {
                keeper.set_identity(net.id(index, uid));
            }
            keeper.set_store_away(away);
            keeper
        }
        (None, Some(uid)) => Keeper::new(net.id(index, uid)),
        (None, None) => return,
    };
    state.left.away -= u8::from(away);
    machine.lives |= 1 << net.life(keeper.me()).1;
    machine.disk = Some(Arc::new(keeper.after_restart()));
    machine.agents.push(Agent { keeper: Arc::new(keeper), copies, away, look: None, retiring: None });
    let who = Who { machine: index, agent: 0 };
    pods::finish_interrupted(net, state, who);
    observe(net, state, who);
}

type Summary = (Vec<ipam::protocol::Fact>, Vec<ipam::Allocation>);

fn summary(keeper: &Keeper) -> Summary {
    (keeper.facts(), keeper.ipam().allocations().collect())
}

/// What the journal's records bring back of blocks, loans and allocations.
fn replayed(disk: &Keeper) -> Summary {
    let mut keeper = Keeper::new(disk.me().clone());
    for fact in disk.facts() {
        // What does not fit is missing, and so found.
        let _ = keeper.apply(&fact);
    }
    for allocation in disk.ipam().allocations() {
        let addresses: Vec<_> = allocation.addresses.iter().map(|held| held.address).collect();
        let _ = keeper.ipam_mut().restore(&allocation.handle, &addresses, allocation.since);
    }
    summary(&keeper)
}

/// An agent that started without the store reaches it: the cache is not ownership, so all is confirmed anew.
pub(super) fn reach(net: &Net, state: &mut State, who: Who) {
    let fresh = fresh_copies(state);
    if let Some(agent) = who.agent_in(state) {
        agent.away = false;
        agent.copies = fresh;
        Arc::make_mut(&mut agent.keeper).set_store_away(false);
    }
    identity(net, state, who);
    observe(net, state, who);
}

/// A second agent starts beside the first, as if there were no lock.
pub(super) fn second(net: &Net, state: &mut State, index: u8) {
    state.left.seconds -= 1;
    let copies = fresh_copies(state);
    let machine = &mut state.machines[usize::from(index)];
    if let Some(disk) = &machine.disk {
        let keeper = Arc::new(disk.after_restart());
        machine.agents.push(Agent { keeper, copies, away: false, look: None, retiring: None });
        observe(net, state, Who { machine: index, agent: 1 });
    }
}

pub(super) fn off(net: &Net, state: &mut State, index: u8) {
    state.left.offs -= 1;
    let machine = &mut state.machines[usize::from(index)];
    // Whatever was sent is lost or late in the network, which the budget of lost answers bounds.
    machine.agents.clear();
    machine.on = false;
    machine.lives = 0;
    machine.gc = None;
    machine.saved = None;
    if !mutant::on(Mutant::EarlierBoot) {
        machine.disk = None;
    }
    pods::end_all(net, state, index);
}

pub(super) fn on(state: &mut State, index: u8) {
    state.left.ons -= 1;
    let copies = fresh_copies(state);
    let machine = &mut state.machines[usize::from(index)];
    machine.on = true;
    if mutant::on(Mutant::EarlierBoot) && machine.disk.is_some() {
        // The snapshot beside the journal outlives the boot as well.
        machine.saved = Some(copies);
    }
}

pub(super) fn register(state: &mut State, index: u8) {
    let machine = &mut state.machines[usize::from(index)];
    machine.last_uid += 1;
    state.nodes[usize::from(index)] = Some(machine.last_uid);
}

/// The agent learns the UID of its Node.
pub(super) fn identity(net: &Net, state: &mut State, who: Who) {
    let Some(uid) = state.nodes[usize::from(who.machine)] else { return };
    let me = net.id(who.machine, uid);
    let machine = &mut state.machines[usize::from(who.machine)];
    machine.lives |= 1 << uid;
    if let Some(disk) = &mut machine.disk {
        Arc::make_mut(disk).set_identity(me.clone());
    }
    if let Some(agent) = machine.agents.get_mut(usize::from(who.agent)) {
        Arc::make_mut(&mut agent.keeper).set_identity(me);
    }
}
