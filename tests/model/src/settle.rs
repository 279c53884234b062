//! That everything comes to rest: from every state, once the faults stop.
//!
//! Stateright's `eventually` is sound on acyclic graphs alone, and this one has cycles. So it is checked as a property of
//! each state: from there, a fair and deterministic course of the same actions must come to rest within
//! `settle_steps`, and what it comes to rest in must be in order:
//!
//! 1. Unanswered writes are lost for good. (That they land is another state of the same search, and checked there.)
//! 2. Agents that are down start, with the store in reach; a machine that runs without a Node is registered; pods that
//!    ended without a DEL are collected; requests that wait for nothing but somebody else's address are given up.
//! 3. Agents take turns, one chore each. When nobody has one, time passes.
//! 4. At rest is a state in which nobody has a chore, now and for as long as every grace lasts.
//!
//! States on the way are shared by many states, so the number of steps from each is kept.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::PoisonError;

use ipam::protocol::{BorrowPhase, LoanState, Phase};

use crate::action::{Action, chores};
use crate::config::Net;
use crate::state::{Stage, State};
use crate::step::{self, Who};

/// How many ticks nobody must have anything to do: one more than the longest chain of graces.
const QUIET_TICKS: u8 = 3;

/// Time does not go on for ever in a state's counter.
const LAST_TICK: u8 = 200;

/// The property.
pub fn settles(net: &Net, state: &State) -> bool {
    state.broken.is_some()
        || net.config.settle_steps == 0
        || steps_to_rest(net, state).is_some_and(|steps| steps <= net.config.settle_steps)
}

/// How many steps it takes; `None` if it does not come to rest, or not in order.
fn steps_to_rest(net: &Net, state: &State) -> Option<u16> {
    let mut current = Calm { state: calmed(net, state), turn: 0, quiet: 0 };
    let mut way = Vec::new();
    let rest = loop {
        let key = current.key();
        if let Some(&known) = net.settled.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            break known;
        }
        way.push(key);
        if way.len() > usize::from(net.config.settle_steps) {
            return None;
        }
        if !current.step(net) {
            return None;
        }
        if current.quiet > QUIET_TICKS {
            if problem(net, &current.state).is_some() {
                return None;
            }
            break 0;
        }
    };
    let mut settled = net.settled.lock().unwrap_or_else(PoisonError::into_inner);
    let mut steps = rest;
    for key in way.into_iter().rev() {
        steps = steps.saturating_add(1);
        settled.insert(key, steps);
    }
    Some(steps)
}

/// The way to rest from a state, for people: each step, and what is not in order at its end.
#[must_use]
pub fn explain(net: &Net, state: &State) -> Vec<String> {
    let mut current = Calm { state: calmed(net, state), turn: 0, quiet: 0 };
    let mut lines = Vec::new();
    for _ in 0..net.config.settle_steps {
        let (action, ..) = current.choose(net);
        lines.push(format!("  settling:{}", crate::checker::describe(net, &current.state, &action)));
        if !current.step(net) {
            lines.push(format!("  this breaks: {:?}", current.state.broken));
            return lines;
        }
        if current.quiet > QUIET_TICKS {
            let problem = problem(net, &current.state);
            lines.push(problem.unwrap_or_else(|| "  it is in order, but took too long".to_owned()));
            return lines;
        }
    }
    lines.push(format!("  not at rest after {} steps", net.config.settle_steps));
    lines
}

struct Calm {
    state: State,
    /// Whose turn it is.
    turn: u8,
    /// For how many ticks nobody has had a chore.
    quiet: u8,
}

impl Calm {
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.state, self.turn, self.quiet).hash(&mut hasher);
        hasher.finish()
    }

    /// The next action, what it leads to, and the machine after it; a tick when nobody has a chore.
    fn choose(&self, net: &Net) -> (Action, Option<State>, u8) {
        let count = u8::try_from(self.state.machines.len()).unwrap_or(1);
        for offset in 0..count {
            let machine = (self.turn + offset) % count;
            let who = Who { machine, agent: 0 };
            let Some(agent) = who.agent_of(&self.state) else { continue };
            for pod in crate::action::pods_of(net, &self.state, machine) {
                let action = match pod {
                    (pod, Stage::Given) => Action::Commit(who, pod),
                    (pod, Stage::Asked) => Action::Assign(who, pod),
                    _ => continue,
                };
                let next = step::next(net, &self.state, &action);
                if next.is_some() {
                    return (action, next, machine + 1);
                }
            }
            for action in chores(net, &self.state, who, agent) {
                // A look that finds nothing to do is none.
                let next = step::next(net, &self.state, &action);
                if next.is_some() {
                    return (action, next, machine + 1);
                }
            }
        }
        (Action::Tick, None, 0)
    }

    /// Makes one step; `false` if it breaks something.
    fn step(&mut self, net: &Net) -> bool {
        let (action, next, turn) = self.choose(net);
        if action == Action::Tick {
            // Whoever still waits has been refused.
            if let Some(pod) = self.state.pods.iter().position(|pod| pod.stage == Stage::Asked) {
                self.state.left.give_ups = 1;
                if let Some(next) =
                    step::next(net, &self.state, &Action::GiveUp(u8::try_from(pod).unwrap_or(0)))
                {
                    self.state = next;
                }
                self.quiet = 0;
                return true;
            }
            if self.state.tick >= LAST_TICK {
                return false;
            }
            step::tick(net, &mut self.state);
            self.state.ended.clear();
            self.quiet += 1;
        } else {
            self.state = next.unwrap_or_else(|| self.state.clone());
            self.quiet = 0;
        }
        step::refresh(net, &mut self.state);
        self.turn = turn;
        self.state.broken.is_none()
    }
}

/// The state when the faults stop.
fn calmed(net: &Net, state: &State) -> State {
    let mut calm = state.clone();
    calm.left = crate::config::Budget::default();
    calm.late.clear();
    calm.to_release = None;
    calm.ended.clear();
    for machine in 0..u8::try_from(calm.machines.len()).unwrap_or(0) {
        let number = usize::from(machine);
        if !calm.machines[number].on {
            // Somebody deletes what is left of it in the end.
            calm.nodes[number] = None;
            continue;
        }
        if net.is_name_taken(&calm.nodes, machine) {
            // Another machine goes by its name by now: this one is switched off in the end.
            calm.left.offs = 1;
            calm = step::next(net, &calm, &Action::Off(machine)).unwrap_or(calm);
            continue;
        }
        if calm.nodes[number].is_none() {
            calm.left.node_creates = 1;
            calm = step::next(net, &calm, &Action::NodeCreate(machine)).unwrap_or(calm);
        }
        if calm.machines[number].agents.is_empty() {
            calm = step::next(net, &calm, &Action::Start(machine, false)).unwrap_or(calm);
        }
        let who = Who { machine, agent: 0 };
        if who.agent_of(&calm).is_some_and(|agent| agent.away) {
            calm = step::next(net, &calm, &Action::Reach(who)).unwrap_or(calm);
        }
        calm.machines[number].saved = None;
        calm.machines[number].gc = Some(0);
        for (pod, stage) in crate::action::pods_of(net, &calm, machine) {
            let action = match stage {
                Stage::Vanished => Action::Gc(who, pod),
                _ if calm.pods[usize::from(pod)].del_asked => Action::Remove(who, pod),
                _ => continue,
            };
            calm = step::next(net, &calm, &action).unwrap_or(calm);
        }
        calm.machines[number].gc = None;
    }
    for pod in &mut calm.pods {
        pod.young = false;
        pod.teams = 3;
    }
    step::refresh(net, &mut calm);
    calm
}

/// What is not in order at rest: everything that is free must be assignable, no block a gone node's, and nothing
/// half-way.
fn problem(net: &Net, state: &State) -> Option<String> {
    if state.machines.iter().all(|machine| machine.agents.is_empty()) {
        return None;
    }
    for (block, seen) in state.objects.iter() {
        let (machine, uid) = net.life(&seen.object.owner);
        let owner = Who { machine, agent: 0 }.agent_of(state);
        let Some(owner) = owner.filter(|_| state.nodes[usize::from(machine)] == Some(uid)) else {
            return Some(format!("  {block} belongs to {}, which is gone", seen.object.owner));
        };
        let Some(tenure) = owner.keeper.tenure(block) else {
            return Some(format!("  {block} belongs to {}, which does not know it", seen.object.owner));
        };
        let serving = owner.keeper.ipam().block(block).is_some_and(ipam::Block::is_serving);
        if tenure.phase != Phase::Owned || tenure.nonce != seen.object.nonce || !serving {
            return Some(format!("  {block} is half-way: {tenure:?}"));
        }
        let mut lent: BTreeMap<_, _> =
            tenure.lent.iter().map(|(nonce, lent)| (*nonce, lent.address)).collect();
        for loan in &seen.object.loans {
            let LoanState::Granted { address } = loan.state else {
                return Some(format!("  a loan of {block} is half-way: {loan:?}"));
            };
            let (machine, _) = net.life(&loan.borrower);
            let borrower = Who { machine, agent: 0 }.agent_of(state);
            let holds = borrower.is_some_and(|borrower| {
                borrower.keeper.borrows().any(|(nonce, borrow)| {
                    nonce == loan.nonce && borrow.phase == BorrowPhase::Holding { address }
                })
            });
            if !holds || lent.remove(&loan.nonce) != Some(address) {
                return Some(format!("  a loan of {block} is nobody's: {loan:?}"));
            }
        }
        if !lent.is_empty() {
            return Some(format!("  {block} lends what nobody borrows: {lent:?}"));
        }
    }
    of_agents(net, state)
}

fn of_agents(net: &Net, state: &State) -> Option<String> {
    let mut used = 0;
    for machine in &state.machines {
        for agent in &machine.agents {
            for (block, tenure) in agent.keeper.tenures() {
                if !state.objects.contains_key(block) {
                    return Some(format!("  {} holds on to {block}: {tenure:?}", agent.keeper.me()));
                }
            }
            for (_, borrow) in agent.keeper.borrows() {
                if !matches!(borrow.phase, BorrowPhase::Holding { .. }) {
                    return Some(format!("  {} holds on to a loan: {borrow:?}", agent.keeper.me()));
                }
            }
            used += agent.keeper.ipam().allocations().count();
            for block in agent.keeper.ipam().blocks() {
                if block.cooling().count() > 0 {
                    return Some(format!("  {} cools for ever", block.cidr()));
                }
            }
        }
    }
    let there = state.pods.iter().filter(|pod| pod.stage == Stage::Up).count();
    if used != there {
        return Some(format!("  {used} addresses are held, and {there} pods live"));
    }
    for (object, name) in state.pools.objects.iter().zip(&net.pool_names) {
        let blocks = state.objects.values().any(|seen| seen.object.pool == *name);
        if object.deleting && !blocks {
            return Some(format!("  pool {name} is deleted, has no block, and stays"));
        }
    }
    None
}
