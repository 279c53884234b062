//! What each action does. The decisions are those of `ipam`, called as the agent's shell calls them; what stands here is
//! what a shell, a store, a runtime and people do around them.

pub mod look;
mod machines;
mod people;
mod pods;

use std::sync::Arc;

use ipam::AssignRequest;
use ipam::mutant::{self, Mutant};
use ipam::protocol::{Fact, Keeper, Surroundings};
use model::BootTime;

use crate::action::{Action, Kind, node_ids};
use crate::config::{Copying, Net};
use crate::state::{Agent, Broken, Copies, Stage, State};

/// An agent: the machine it runs on, and which of its agents it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// The machine.
    pub machine: u8,
    /// The agent.
    pub agent: u8,
}

impl Who {
    /// The agent in this state.
    #[must_use]
    pub fn agent_of(self, state: &State) -> Option<&Agent> {
        state.machine(self.machine).agents.get(usize::from(self.agent))
    }

    fn agent_in(self, state: &mut State) -> Option<&mut Agent> {
        state.machines[usize::from(self.machine)].agents.get_mut(usize::from(self.agent))
    }
}

/// The time an agent's decisions are told: by the boot's clock, which nobody sets.
#[must_use]
pub fn now_of(state: &State, machine: u8) -> BootTime {
    let wall = if mutant::on(Mutant::WallClock) { state.machine(machine).wall } else { 0 };
    Net::time(state.tick + wall)
}

/// The request of a pod, by what its agent knows of the namespace; `None`: that has to be read first.
#[must_use]
pub fn request_of(net: &Net, state: &State, agent: &Agent, pod: u8) -> Option<AssignRequest> {
    let handle = net.handles[usize::from(pod)].clone();
    let team = if net.config.metadata {
        match pods::metadata_step(state, pod) {
            ipam::MetadataStep::Use => agent.copies.team,
            _ => return None,
        }
    } else {
        0
    };
    Some(AssignRequest::new(handle, net.labels[usize::from(team)].clone()))
}

/// What the store says now.
pub(crate) fn fresh_copies(state: &State) -> Copies {
    Copies {
        objects: state.objects.clone(),
        pools: state.pools.clone(),
        nodes: state.nodes.clone(),
        team: state.team,
    }
}

/// The state after an action; `None` when it changes nothing.
#[must_use]
pub fn next(net: &Net, before: &State, action: &Action) -> Option<State> {
    let mut state = before.clone();
    let s = &mut state;
    match *action {
        Action::Sync(who, kind) => sync(net, s, who, kind),
        Action::Read(who, block) => look::read(net, s, who, block),
        Action::Decide(who, crash) => look::decide(net, s, who, crash),
        Action::Write(who) => look::write(net, s, who),
        Action::Lose(who) => look::lose(net, s, who),
        Action::Answer(who, crash) => look::answer(net, s, who, crash),
        Action::Land(index) => {
            let write = s.late.remove(index);
            s.make(&write);
        }
        Action::LandTwice(index) => {
            let write = s.late[index].clone();
            s.left.twice -= 1;
            s.make(&write);
        }
        Action::ClaimAhead(who, pool) => look::claim_ahead(net, s, who, pool),
        Action::Add(pod) => pods::add(net, s, pod),
        Action::Assign(who, pod) => pods::assign(net, s, who, pod),
        Action::Commit(_, pod) => pods::commit(net, s, pod),
        Action::GiveUp(pod) => pods::give_up(net, s, pod),
        Action::Del(pod) => {
            s.left.dels -= 1;
            s.pods[usize::from(pod)].del_asked = true;
        }
        Action::Remove(who, pod) => pods::remove(net, s, who, pod),
        Action::Vanish(pod) => pods::vanish(net, s, pod),
        Action::GcCall(machine) => pods::gc_call(net, s, machine),
        Action::Gc(who, pod) => pods::gc(net, s, who, pod),
        Action::GcEnd(machine) => pods::gc_end(net, s, machine),
        Action::LookUp(pod) => pods::look_up(net, s, pod),
        Action::Release(who) => pods::release(net, s, who),
        Action::Crash(who, sent) => {
            s.left.crashes -= 1;
            machines::crash(net, s, who, sent);
        }
        Action::Start(machine, away) => machines::start(net, s, machine, away),
        Action::Reach(who) => machines::reach(net, s, who),
        Action::Relist(who) => {
            s.left.relists -= 1;
            who.agent_in(s).map(|agent| Arc::make_mut(&mut agent.keeper).unconfirm())?;
        }
        Action::Second(machine) => machines::second(net, s, machine),
        Action::Off(machine) => machines::off(net, s, machine),
        Action::On(machine) => machines::on(s, machine),
        Action::NodeDelete(machine) => {
            s.left.node_deletes -= 1;
            s.nodes[usize::from(machine)] = None;
        }
        Action::NodeCreate(machine) => {
            s.left.node_creates -= 1;
            machines::register(s, machine);
        }
        Action::Identity(who) => machines::identity(net, s, who),
        Action::Tick => {
            s.left.ticks -= 1;
            tick(net, s);
        }
        Action::Clock(machine) => {
            s.left.clocks -= 1;
            s.machines[usize::from(machine)].wall += 1;
        }
        Action::PoolAdd(_) | Action::PoolDelete(_) | Action::PoolSwitch(_) | Action::Relabel => {
            people::change(s, action);
        }
        Action::Admit(who, pool) => people::admit(net, s, who, pool),
        Action::Terminate(_, pool) => people::terminate(net, s, pool),
        Action::FindNone(who, pool) => {
            who.agent_in(s)?.retiring = Some(pool);
        }
        Action::Retire(who) => people::retire(net, s, who),
    }
    if net.config.copying == Copying::Fresh {
        refresh(net, s);
    }
    (state != *before).then_some(state)
}

/// Brings all copies up to date.
pub(crate) fn refresh(net: &Net, state: &mut State) {
    for machine in 0..state.machines.len() {
        for agent in 0..state.machines[machine].agents.len() {
            let who =
                Who { machine: u8::try_from(machine).unwrap_or(0), agent: u8::try_from(agent).unwrap_or(0) };
            sync(net, state, who, Kind::All);
        }
    }
}

fn sync(net: &Net, state: &mut State, who: Who, kind: Kind) {
    let fresh = fresh_copies(state);
    let Some(agent) = who.agent_in(state).filter(|agent| !agent.away) else { return };
    let team = agent.copies.team;
    let before = agent.copies.clone();
    match kind {
        Kind::All => agent.copies = fresh,
        Kind::Blocks => agent.copies.objects = fresh.objects,
        Kind::Pools => agent.copies.pools = fresh.pools,
        Kind::Nodes => agent.copies.nodes = fresh.nodes,
    }
    // The namespace's label is stale in every way of copying: that is what its live read is for.
    if net.config.metadata && kind != Kind::Blocks {
        agent.copies.team = team;
    }
    let fresh = net.config.copying == Copying::Fresh;
    if agent.copies.nodes != before.nodes || !fresh && agent.copies.objects != before.objects {
        observe(net, state, who);
    }
}

/// Time passes for everybody.
pub(crate) fn tick(net: &Net, state: &mut State) {
    state.tick += 1;
    let tick = state.tick;
    state.ended.retain(|_, (at, _)| at.saturating_add(1) > tick);
    for machine in 0..u8::try_from(state.machines.len()).unwrap_or(0) {
        let now = now_of(state, machine);
        if let Some(disk) = &mut state.machines[usize::from(machine)].disk {
            Arc::make_mut(disk).ipam_mut().apply_expire(now);
        }
        for agent in 0..state.machine(machine).agents.len() {
            observe(net, state, Who { machine, agent: u8::try_from(agent).unwrap_or(0) });
        }
    }
}

/// An agent notices what is idle and who is gone.
pub(crate) fn observe(net: &Net, state: &mut State, who: Who) {
    let now = now_of(state, who.machine);
    let Some(agent) = who.agent_in(state) else { return };
    let nodes = node_ids(net, &agent.copies.nodes);
    let around = Surroundings { objects: &agent.copies.objects, nodes: Some(&nodes) };
    Arc::make_mut(&mut agent.keeper).observe(&around, now);
}

/// Journals facts and makes them part of what an agent knows: durable ones go to the journal before anything else sees
/// them. With `crash`, the agent dies after so many durable facts were written, and the rest is lost; says whether it
/// lives.
pub(crate) fn record(net: &Net, state: &mut State, who: Who, facts: &[Fact], crash: Option<usize>) -> bool {
    let machine = &mut state.machines[usize::from(who.machine)];
    let mut unfit = false;
    let durable = facts.iter().filter(|fact| fact.is_durable());
    for fact in durable.take(crash.unwrap_or(usize::MAX)) {
        if let Some(disk) = &mut machine.disk {
            unfit |= Arc::make_mut(disk).apply(fact).is_err();
        }
    }
    if unfit && !mutant::on(Mutant::SecondAgent) {
        state.broken = Some(Broken::Unfit);
    }
    if crash.is_some() {
        state.left.crashes -= 1;
        machines::crash(net, state, who, false);
        return false;
    }
    let mut cut_off = Vec::new();
    if let Some(agent) = who.agent_in(state) {
        let keeper = Arc::make_mut(&mut agent.keeper);
        for fact in facts {
            match keeper.apply(fact) {
                Ok(cut) => cut_off.extend(cut),
                Err(_) => unfit = true,
            }
        }
    }
    if unfit {
        state.broken = Some(Broken::Unfit);
    }
    for (handle, _) in cut_off {
        if let Some(pod) = net.handles.iter().position(|other| *other == handle) {
            let pod = &mut state.pods[pod];
            pod.address = None;
            // One whose ADD was not answered yet fails; an answered one is an outage of its pod.
            pod.stage = if pod.stage == Stage::Given { Stage::Unborn } else { Stage::CutOff };
        }
    }
    true
}

/// Changes the addresses of an agent and of its journal alike.
pub(crate) fn both(state: &mut State, who: Who, change: impl Fn(&mut Keeper) -> bool) -> bool {
    let machine = &mut state.machines[usize::from(who.machine)];
    let on_disk = machine.disk.as_mut().is_none_or(|disk| change(Arc::make_mut(disk)));
    let in_memory = machine
        .agents
        .get_mut(usize::from(who.agent))
        .is_some_and(|agent| change(Arc::make_mut(&mut agent.keeper)));
    in_memory && (on_disk || mutant::on(Mutant::SecondAgent))
}
