//! The configurations as stateright checks them, and what comes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::action::{self, Action};
use crate::config::{Config, Net};
use crate::state::{Machine, Pod, PoolObject, Pools, Stage, State};
use crate::step;
use crate::{settle, truth};

/// A configuration, as stateright wants it.
#[derive(Clone, Debug)]
pub struct Cluster(pub Arc<Net>);

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![start(&self.0)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // After the search, traces are made by the same steps.
        if !self.0.searched.load(Ordering::Relaxed) && Instant::now() > self.0.deadline {
            self.0.cut_short.store(true, Ordering::Relaxed);
            return;
        }
        action::all(&self.0, state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        step::next(&self.0, state, &action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! property {
            ($($index:literal),*) => {
                vec![$(Property::always(truth::CHECKS[$index].0, |cluster: &Self, state: &State| {
                    (truth::CHECKS[$index].1)(&cluster.0, state)
                })),*]
            };
        }
        property!(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    }
}

/// The state a configuration starts in.
fn start(net: &Net) -> State {
    let config = &net.config;
    let mut pools = Pools::default();
    for (index, def) in config.pools.iter().enumerate() {
        let uid = u8::from(def.from_start);
        pools.objects.push(PoolObject { exists: def.from_start, uid, ..PoolObject::default() });
        if let Some(candidate) = net.candidate(index, uid).filter(|_| def.from_start)
            && let Ok(admitted) = pools.registry.admit(&candidate, crate::config::MAX_TAG_ID)
        {
            pools.registry = admitted.registry;
        }
    }
    let count = config.machines.len();
    let machine = |index: usize| Machine {
        on: index < config.started,
        lives: 0,
        last_uid: u8::from(index < config.started),
        disk: None,
        saved: None,
        agents: Vec::new(),
        gc: None,
        wall: 0,
    };
    let mut state = State {
        objects: Arc::default(),
        pools: Arc::new(pools),
        nodes: (0..count).map(|index| (index < config.started).then_some(1)).collect(),
        team: 0,
        late: Vec::new(),
        machines: (0..count).map(machine).collect(),
        pods: config.pods.iter().map(|_| unborn()).collect(),
        tick: 0,
        left: config.budget,
        ended: std::collections::BTreeMap::new(),
        to_release: None,
        broken: None,
    };
    for index in 0..config.started {
        let action = Action::Start(u8::try_from(index).unwrap_or(0), false);
        state = step::next(net, &state, &action).unwrap_or(state);
    }
    state
}

fn unborn() -> Pod {
    Pod { stage: Stage::Unborn, address: None, young: false, teams: 0, read_live: false, del_asked: false }
}

/// What checking a configuration came to.
#[derive(Debug)]
pub struct Report {
    /// States that were reached, with those reached again.
    pub states: usize,
    /// States that differ.
    pub unique: usize,
    /// Steps from the start to the farthest.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Whether every state was seen.
    pub exhausted: bool,
    /// The greatest number of steps any state took to settle.
    pub settle_steps: u16,
    /// What does not hold.
    pub violation: Option<Violation>,
}

/// A property that does not hold, and how that came about.
#[derive(Debug)]
pub struct Violation {
    /// The property.
    pub property: &'static str,
    /// How many steps there are.
    pub steps: usize,
    /// The steps, for people.
    pub trace: Vec<String>,
}

/// Checks a configuration, breadth first, until something does not hold, every state was seen, or `limit` is over.
#[must_use]
pub fn check(config: Config, threads: usize, limit: Duration) -> Report {
    let net = Arc::new(Net::new(config, limit));
    let started = Instant::now();
    let checker =
        Cluster(net.clone()).checker().threads(threads).finish_when(HasDiscoveries::Any).spawn_bfs().join();
    let took = started.elapsed();
    net.searched.store(true, Ordering::Relaxed);
    let violation = truth::CHECKS.iter().find_map(|(property, _)| {
        let path = checker.discovery(property)?;
        let mut trace = Vec::new();
        let mut last = None;
        for (state, action) in path.into_vec() {
            trace.extend(action.map(|action| describe(&net, &state, &action)));
            last = Some(state);
        }
        let steps = trace.len();
        if *property == "settles once faults stop" {
            trace.extend(last.iter().flat_map(|state| settle::explain(&net, state)));
        }
        Some(Violation { property, steps, trace })
    });
    let settle_steps = {
        let settled = net.settled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        settled.values().copied().max().unwrap_or(0)
    };
    Report {
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        took,
        exhausted: violation.is_none() && !net.cut_short.load(Ordering::Relaxed),
        settle_steps,
        violation,
    }
}

/// A step for people: what happens, and what an agent made of it.
#[must_use]
pub fn describe(net: &Net, before: &State, action: &Action) -> String {
    let mut line = format!("  {action:?}");
    let Some(after) = step::next(net, before, action) else { return line };
    for (old, new) in before.machines.iter().zip(&after.machines) {
        for (old, new) in old.agents.iter().zip(&new.agents) {
            if old.look != new.look
                && let Some(crate::state::Look::Decided(decision)) = &new.look
            {
                line += &format!("\n      {decision:?}");
            }
            let (was, is) = (old.keeper.facts(), new.keeper.facts());
            for fact in is.iter().filter(|fact| !was.contains(fact)) {
                line += &format!("\n      {} + {fact:?}", new.keeper.me());
            }
            for fact in was.iter().filter(|fact| !is.contains(fact)) {
                line += &format!("\n      {} - {fact:?}", new.keeper.me());
            }
        }
    }
    for (block, seen) in after.objects.iter() {
        if before.objects.get(block) != Some(seen) {
            line += &format!("\n      store: {:?}", seen.object);
        }
    }
    for block in before.objects.keys().filter(|block| !after.objects.contains_key(block)) {
        line += &format!("\n      store: no {block}");
    }
    line
}
