//! A look at a block: read, decide, journal, write, journal.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipam::mutant::{self, Mutant};
use ipam::protocol::{BlockDecision, Live, NodeId, Surroundings, WriteOutcome};
use model::Cidr;

use super::{Who, now_of, observe, record};
use crate::action::node_ids;
use crate::config::Net;
use crate::state::{Look, State};

/// Reads the block live. Where nothing else is to be read, it is decided at the same moment, unless the configuration
/// wants to see what may happen in between.
pub(super) fn read(net: &Net, state: &mut State, who: Who, block: Cidr) {
    observe(net, state, who);
    let Some(agent) = who.agent_of(state) else { return };
    let copies = &agent.copies;
    let view = net.view(who.machine, &copies.objects, &copies.pools);
    let nodes = node_ids(net, &copies.nodes);
    let around = Surroundings { objects: &copies.objects, nodes: Some(&nodes) };
    let now = now_of(state, who.machine);
    let attention = agent.keeper.attention(&around, &block, &net.cluster(&view), now);
    let nothing_else = !attention.registry && attention.check_gone.is_empty();
    let at_once = net.config.look_at_once || nothing_else && !net.config.split_read;
    let look = Look::Read {
        block,
        seen: state.objects.get(&block).cloned().map(Arc::new),
        registry: attention.registry,
        check_gone: attention.check_gone.into_iter().collect(),
    };
    if let Some(agent) = who.agent_in(state) {
        agent.look = Some(look);
    }
    if at_once {
        decide(net, state, who, None);
    }
    if net.config.look_at_once && state.left.lost == 0 {
        write(net, state, who);
    }
}

/// What would be decided now.
#[must_use]
pub fn decide_only(net: &Net, state: &State, who: Who) -> Option<BlockDecision> {
    let agent = who.agent_of(state)?;
    let Some(Look::Read { block, seen, registry, check_gone }) = &agent.look else { return None };
    let there = |id: &NodeId| {
        let (machine, uid) = net.life(id);
        let nodes = if mutant::on(Mutant::ReclaimFromCache) { &agent.copies.nodes } else { &state.nodes };
        nodes[usize::from(machine)] == Some(uid)
    };
    let gone: BTreeSet<NodeId> = check_gone.iter().filter(|id| !there(id)).cloned().collect();
    let live =
        Live { block: seen.as_deref(), registry: registry.then_some(&state.pools.registry), gone: &gone };
    let view = net.view(who.machine, &agent.copies.objects, &agent.copies.pools);
    let now = now_of(state, who.machine);
    Some(agent.keeper.decide_block(&net.cluster(&view), block, &live, now, state.fresh_nonce(who.machine)))
}

/// Reads what else is needed, decides, and journals what must be known before the write.
pub(super) fn decide(net: &Net, state: &mut State, who: Who, crash: Option<usize>) {
    let Some(decision) = decide_only(net, state, who) else { return };
    if let Some(agent) = who.agent_in(state) {
        agent.look = decision.write.is_some().then(|| Look::Decided(Arc::new(decision.clone())));
    }
    if record(net, state, who, &decision.before, crash) {
        observe(net, state, who);
    }
}

/// The store gets the write. The answer arrives at the same moment, unless the configuration wants to see what may happen
/// in between.
pub(super) fn write(net: &Net, state: &mut State, who: Who) {
    let Some(Look::Decided(decision)) = who.agent_of(state).and_then(|agent| agent.look.clone()) else {
        return;
    };
    let Some(write) = &decision.write else { return };
    let outcome = state.make(write);
    if let Some(agent) = who.agent_in(state) {
        agent.look = Some(Look::Answered(decision, outcome));
    }
    if !net.config.split_answer {
        answer(net, state, who, None);
    }
}

/// The answer arrives.
pub(super) fn answer(net: &Net, state: &mut State, who: Who, crash: Option<usize>) {
    let Some(agent) = who.agent_in(state) else { return };
    let Some(Look::Answered(decision, outcome)) = agent.look.take() else { return };
    if record(net, state, who, &decision.settle(outcome), crash) {
        observe(net, state, who);
    }
}

/// No answer arrives. The write may land later.
pub(super) fn lose(net: &Net, state: &mut State, who: Who) {
    let Some(agent) = who.agent_in(state) else { return };
    let Some(Look::Decided(decision)) = agent.look.take() else { return };
    state.left.lost -= 1;
    state.late.extend(decision.write.clone());
    state.drop_void();
    record(net, state, who, &decision.settle(WriteOutcome::Unanswered), None);
}

/// A block is claimed ahead of need.
pub(super) fn claim_ahead(net: &Net, state: &mut State, who: Who, pool: u8) {
    let Some(agent) = who.agent_of(state) else { return };
    let copies = &agent.copies;
    let view = net.view(who.machine, &copies.objects, &copies.pools);
    let nodes = node_ids(net, &copies.nodes);
    let around = Surroundings { objects: &copies.objects, nodes: Some(&nodes) };
    let upkeep = agent.keeper.decide_upkeep(&net.cluster(&view), &around, now_of(state, who.machine));
    let name = &net.pool_names[usize::from(pool)];
    let claim = upkeep.claims.iter().find(|claim| claim.pool == *name);
    let fact = claim.and_then(|claim| {
        agent.keeper.decide_claim(&net.cluster(&view), claim, state.fresh_nonce(who.machine))
    });
    if let Some(fact) = fact {
        record(net, state, who, &[fact], None);
    }
}
