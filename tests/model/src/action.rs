//! What may happen next, one thing at a time.

use std::collections::{BTreeMap, BTreeSet};

use ipam::mutant::{self, Mutant};
use ipam::protocol::{Next, NodeId, Surroundings};
use model::Cidr;

use crate::config::{Copying, Net};
use crate::state::{Agent, Look, Stage, State};
use crate::step::{Who, now_of, request_of};

/// A kind of objects that is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All of them at one moment.
    All,
    /// Blocks.
    Blocks,
    /// Pools and registry.
    Pools,
    /// Node objects.
    Nodes,
}

/// Something that happens. Machines, pools and pods by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// An agent's copies are brought up to date.
    Sync(Who, Kind),
    /// An agent reads a block live, to look at it.
    Read(Who, Cidr),
    /// It reads what else it needs, decides, and journals; it may crash after so many durable facts.
    Decide(Who, Option<usize>),
    /// The store gets its write, and answers.
    Write(Who),
    /// Its write has no answer: it may land later, or never.
    Lose(Who),
    /// The answer arrives, and is journalled; the agent may crash after so many durable facts.
    Answer(Who, Option<usize>),
    /// An unanswered write lands.
    Land(usize),
    /// An unanswered write lands, and will land again.
    LandTwice(usize),
    /// An agent starts to claim a block of this pool ahead of need.
    ClaimAhead(Who, u8),
    /// A pod's ADD is asked for.
    Add(u8),
    /// An agent goes on with an ADD.
    Assign(Who, u8),
    /// A pod is wired, and its ADD answered.
    Commit(Who, u8),
    /// The runtime gives up on an ADD.
    GiveUp(u8),
    /// A pod's DEL is asked for.
    Del(u8),
    /// An agent carries a DEL out.
    Remove(Who, u8),
    /// A pod ends, and nobody tells.
    Vanish(u8),
    /// The runtime lists its pods and calls GC.
    GcCall(u8),
    /// GC looks at a pod.
    Gc(Who, u8),
    /// GC is through.
    GcEnd(u8),
    /// A person looks up the address of a pod, to release it.
    LookUp(u8),
    /// The release is sent.
    Release(Who),
    /// An agent dies; `true`: its write is under way.
    Crash(Who, bool),
    /// An agent starts; `true`: the store is not to be reached.
    Start(u8, bool),
    /// An agent that started without the store reaches it.
    Reach(Who),
    /// An agent reads a list anew.
    Relist(Who),
    /// A second agent starts beside the first.
    Second(u8),
    /// A machine is switched off.
    Off(u8),
    /// A machine is switched on.
    On(u8),
    /// A Node object is deleted.
    NodeDelete(u8),
    /// A Node object is made, with a new UID.
    NodeCreate(u8),
    /// An agent sees that its machine was registered anew.
    Identity(Who),
    /// Time passes.
    Tick,
    /// A wall clock is set forward.
    Clock(u8),
    /// A person makes a pool.
    PoolAdd(u8),
    /// A person deletes a pool.
    PoolDelete(u8),
    /// A person disables a pool, or enables it again.
    PoolSwitch(u8),
    /// The namespace gets another label.
    Relabel,
    /// An agent asks the registry to admit a pool.
    Admit(Who, u8),
    /// An agent marks a pool's entry terminating.
    Terminate(Who, u8),
    /// An agent lists blocks live and finds none of a terminating pool.
    FindNone(Who, u8),
    /// It removes the pool and its entry.
    Retire(Who),
}

/// What an agent itself would do next, whoever makes it do so.
#[must_use]
pub fn chores(net: &Net, state: &State, who: Who, agent: &Agent) -> Vec<Action> {
    let mut chores = Vec::new();
    if agent.away {
        return chores;
    }
    match &agent.look {
        Some(Look::Read { .. }) => chores.push(Action::Decide(who, None)),
        Some(Look::Decided(_)) => chores.push(Action::Write(who)),
        Some(Look::Answered(..)) => chores.push(Action::Answer(who, None)),
        None => {
            let copies = &agent.copies;
            let view = net.view(who.machine, &copies.objects, &copies.pools);
            let cluster = net.cluster(&view);
            let (nodes, now) = (node_ids(net, &copies.nodes), now_of(state, who.machine));
            let around = Surroundings { objects: &copies.objects, nodes: Some(&nodes) };
            let upkeep = agent.keeper.decide_upkeep(&cluster, &around, now);
            let mut blocks: BTreeSet<Cidr> = upkeep.attend.iter().map(|attention| attention.block).collect();
            for (pod, _) in waiting(net, state, who.machine) {
                if let Some(request) = request_of(net, state, agent, pod)
                    && let Ok(Next::Wait { block }) =
                        agent.keeper.decide_next(&cluster, &request, now, state.fresh_nonce(who.machine))
                {
                    blocks.insert(block);
                }
            }
            chores.extend(blocks.into_iter().map(|block| Action::Read(who, block)));
            for claim in upkeep.claims {
                let pool = net.pool_names.iter().position(|name| *name == claim.pool);
                chores.extend(pool.map(|pool| Action::ClaimAhead(who, u8::try_from(pool).unwrap_or(0))));
            }
        }
    }
    let me = agent.keeper.me();
    if state.nodes[usize::from(who.machine)].is_some_and(|uid| net.id(who.machine, uid) != *me) {
        chores.push(Action::Identity(who));
    }
    chores.extend(pool_chores(state, net, who, agent));
    chores
}

fn pool_chores(state: &State, net: &Net, who: Who, agent: &Agent) -> Vec<Action> {
    let mut chores = Vec::new();
    for (index, name) in net.pool_names.iter().enumerate() {
        let pool = u8::try_from(index).unwrap_or(0);
        let (copy, live) = (&agent.copies.pools, &state.pools);
        let known = copy.objects[index];
        if known.exists && !known.deleting && copy.registry.entry(name).is_none() {
            chores.push(Action::Admit(who, pool));
        }
        let object = live.objects[index];
        if let Some(entry) = live.registry.entry(name) {
            let over = object.deleting || !object.exists;
            if over && !entry.terminating {
                chores.push(Action::Terminate(who, pool));
            } else if entry.terminating && agent.retiring.is_none() {
                let left = state.objects.values().any(|seen| seen.object.pool == *name);
                if !left {
                    chores.push(Action::FindNone(who, pool));
                }
            }
        } else if object.exists && object.deleting && agent.retiring.is_none() {
            // Never admitted: nothing can be left of it.
            chores.push(Action::FindNone(who, pool));
        }
    }
    if agent.retiring.is_some() {
        chores.push(Action::Retire(who));
    }
    chores
}

/// Pods of a machine whose ADD waits for an address.
pub fn waiting(net: &Net, state: &State, machine: u8) -> impl Iterator<Item = (u8, Stage)> + use<> {
    pods_of(net, state, machine).filter(|(_, stage)| *stage == Stage::Asked)
}

/// Pods of a machine.
pub fn pods_of(net: &Net, state: &State, machine: u8) -> impl Iterator<Item = (u8, Stage)> + use<> {
    let stages: Vec<(u8, Stage)> = (0u8..)
        .zip(net.config.pods)
        .filter(|(_, of)| **of == machine)
        .map(|(pod, _)| (pod, state.pods[usize::from(pod)].stage))
        .collect();
    stages.into_iter()
}

/// Node objects, as identities.
#[must_use]
pub fn node_ids(net: &Net, nodes: &[Option<u8>]) -> BTreeSet<NodeId> {
    (0u8..).zip(nodes).filter_map(|(machine, uid)| Some(net.id(machine, (*uid)?))).collect()
}

/// All that may happen in a state.
pub fn all(net: &Net, state: &State, actions: &mut Vec<Action>) {
    if state.broken.is_some() {
        return;
    }
    for machine in 0..u8::try_from(state.machines.len()).unwrap_or(0) {
        for index in 0..state.machine(machine).agents.len() {
            of_agent(net, state, Who { machine, agent: u8::try_from(index).unwrap_or(0) }, actions);
        }
        of_machine(net, state, machine, actions);
    }
    of_pods(net, state, actions);
    of_people(net, state, actions);
    for (index, write) in state.late.iter().enumerate() {
        actions.push(Action::Land(index));
        if state.left.twice > 0 && matches!(write, ipam::protocol::Write::Create(_)) {
            actions.push(Action::LandTwice(index));
        }
    }
    if state.left.ticks > 0 && may_tick(net, state) {
        actions.push(Action::Tick);
    }
}

fn of_agent(net: &Net, state: &State, who: Who, actions: &mut Vec<Action>) {
    let left = &state.left;
    let Some(agent) = who.agent_of(state) else { return };
    let mut chores = chores(net, state, who, agent);
    if net.config.look_anywhere && agent.look.is_none() && !agent.away {
        for block in &net.blocks {
            let read = Action::Read(who, *block);
            if !chores.contains(&read) {
                chores.push(read);
            }
        }
    }
    actions.extend(chores);
    let prefixes = |facts: &[ipam::protocol::Fact]| facts.iter().filter(|fact| fact.is_durable()).count();
    match &agent.look {
        Some(Look::Read { .. }) if left.crashes > 0 => {
            // How many facts there are is found out by deciding.
            let facts = crate::step::look::decide_only(net, state, who)
                .map_or(0, |decision| prefixes(&decision.before));
            actions.extend((1..facts).map(|after| Action::Decide(who, Some(after))));
        }
        Some(Look::Decided(_)) => {
            if left.lost > 0 {
                actions.push(Action::Lose(who));
            }
            if left.crashes > 0 {
                actions.push(Action::Crash(who, true));
            }
        }
        Some(Look::Answered(decision, outcome)) if left.crashes > 0 => {
            let facts = prefixes(&decision.settle(*outcome));
            actions.extend((1..facts).map(|after| Action::Answer(who, Some(after))));
        }
        _ => {}
    }
    if left.crashes > 0 {
        actions.push(Action::Crash(who, false));
    }
    if left.relists > 0 {
        actions.push(Action::Relist(who));
    }
    if agent.away {
        actions.push(Action::Reach(who));
    } else {
        let kinds: &[Kind] = match net.config.copying {
            Copying::Fresh => &[],
            Copying::Stale => &[Kind::All],
            Copying::StaleByKind => &[Kind::Blocks, Kind::Pools, Kind::Nodes],
        };
        actions.extend(kinds.iter().map(|kind| Action::Sync(who, *kind)));
    }
    if state.to_release.is_some_and(|(pod, _)| net.config.pods[usize::from(pod)] == who.machine) {
        actions.push(Action::Release(who));
    }
    for (pod, stage) in pods_of(net, state, who.machine) {
        let del_asked = state.pods[usize::from(pod)].del_asked;
        match stage {
            Stage::Asked => actions.push(Action::Assign(who, pod)),
            Stage::Given if !del_asked => actions.push(Action::Commit(who, pod)),
            _ => {}
        }
        if del_asked {
            actions.push(Action::Remove(who, pod));
        }
        let listed = state.machine(who.machine).gc;
        if listed.is_some_and(|listed| listed & (1 << pod) == 0)
            && matches!(stage, Stage::Up | Stage::Vanished)
        {
            actions.push(Action::Gc(who, pod));
        }
    }
}

fn of_machine(net: &Net, state: &State, index: u8, actions: &mut Vec<Action>) {
    let (machine, left) = (state.machine(index), &state.left);
    let node = state.nodes[usize::from(index)];
    if machine.on && machine.agents.is_empty() {
        if node.is_some() {
            actions.push(Action::Start(index, false));
        }
        if left.away > 0 && machine.disk.is_some() && machine.saved.is_some() {
            actions.push(Action::Start(index, true));
        }
    }
    if mutant::on(Mutant::SecondAgent) && left.seconds > 0 && machine.agents.len() == 1 {
        actions.push(Action::Second(index));
    }
    if machine.on && left.offs > 0 {
        actions.push(Action::Off(index));
    }
    if !machine.on && left.ons > 0 {
        actions.push(Action::On(index));
    }
    if left.node_deletes > 0 && node.is_some() {
        actions.push(Action::NodeDelete(index));
    }
    if left.node_creates > 0 && node.is_none() && machine.on && !net.is_name_taken(&state.nodes, index) {
        actions.push(Action::NodeCreate(index));
    }
    if left.clocks > 0 && machine.on && mutant::on(Mutant::WallClock) {
        actions.push(Action::Clock(index));
    }
    if machine.gc.is_some() {
        actions.push(Action::GcEnd(index));
    } else if left.gcs > 0 && !machine.agents.is_empty() && !net.config.pods.is_empty() {
        actions.push(Action::GcCall(index));
    }
}

fn of_pods(net: &Net, state: &State, actions: &mut Vec<Action>) {
    let left = &state.left;
    // Pods of one machine are alike until they are asked for: the lower number comes first.
    let mut next: BTreeMap<u8, u8> = BTreeMap::new();
    for (pod, of) in (0u8..).zip(net.config.pods) {
        let stage = state.pods[usize::from(pod)].stage;
        let unasked = stage == Stage::Unborn && !state.pods[usize::from(pod)].del_asked;
        if unasked && !state.machine(*of).agents.is_empty() {
            next.entry(*of).or_insert(pod);
        }
    }
    actions.extend(next.into_values().map(Action::Add));
    for (pod, of) in (0u8..).zip(net.config.pods) {
        let now = &state.pods[usize::from(pod)];
        if now.stage == Stage::Asked && left.give_ups > 0 && !now.del_asked {
            actions.push(Action::GiveUp(pod));
        }
        let there = matches!(now.stage, Stage::Asked | Stage::Given | Stage::Up);
        if there && left.dels > 0 && !now.del_asked {
            actions.push(Action::Del(pod));
        }
        if now.stage == Stage::Up && left.vanishes > 0 && !now.del_asked {
            actions.push(Action::Vanish(pod));
        }
        let has_agent = !state.machine(*of).agents.is_empty();
        if left.releases > 0 && state.to_release.is_none() && has_agent && now.stage == Stage::Vanished {
            actions.push(Action::LookUp(pod));
        }
    }
}

fn of_people(net: &Net, state: &State, actions: &mut Vec<Action>) {
    let left = &state.left;
    for (pool, object) in (0u8..).zip(&state.pools.objects) {
        if !object.exists && left.pool_adds > 0 {
            actions.push(Action::PoolAdd(pool));
        }
        if object.exists && !object.deleting && left.pool_deletes > 0 {
            actions.push(Action::PoolDelete(pool));
        }
        if object.exists && left.pool_switches > 0 {
            actions.push(Action::PoolSwitch(pool));
        }
    }
    if net.config.metadata && left.relabels > 0 {
        actions.push(Action::Relabel);
    }
}

/// Whether time may pass. A node that is gone for the grace is off or fenced, or goes by another UID by now and has
/// re-homed what it has: so no time passes while a block or loan in the store belongs to a life of this boot whose
/// Node is gone.
#[must_use]
pub fn may_tick(net: &Net, state: &State) -> bool {
    if !net.config.gone_is_off {
        return true;
    }
    let runs_on = |id: &NodeId| {
        let (machine, uid) = net.life(id);
        let there = state.machine(machine);
        state.nodes[usize::from(machine)] != Some(uid) && there.on && there.lives & (1 << uid) != 0
    };
    !state.objects.values().any(|seen| {
        runs_on(&seen.object.owner) || seen.object.loans.iter().any(|loan| runs_on(&loan.borrower))
    })
}
