//! Which pools serve a workload that names none, found quickly among hundreds.
//!
//! This is derived from the pools when their table is made, and says nothing that
//! [`choose_pools`](crate::choose_pools) does not say too, slowly and with a reason for each pool that does not serve:
//!
//! 1. Pools that no selector can open, such as disabled ones, are left out from the start.
//! 2. Of the others those are looked at whose `namespaceSelector` needs a value that the namespace has, or needs none.
//! 3. Of those both selectors are asked.

use std::collections::BTreeMap;

use model::Labels;

use crate::pool::Pool;
use crate::selector::{Question, Vocabulary};

/// The pools of one family, in the order they are tried, as indexes of a [`PoolTable`](crate::PoolTable).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfFamily {
    all: Vec<usize>,
    /// Those that only selectors can keep from a workload, with these selectors, to be asked together.
    open: Vec<OpenPool>,
    of_nodes: Vocabulary,
    of_namespaces: Vocabulary,
    /// Places in `open` by a value that a namespace must have, one of several perhaps.
    by_value: BTreeMap<(usize, u32), Vec<usize>>,
    /// Those that need no such value.
    by_none: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OpenPool {
    index: usize,
    node: Question,
    namespace: Question,
}

impl OfFamily {
    /// Adds a pool that is tried after all others so far.
    pub(crate) fn push(&mut self, index: usize, pool: &Pool) {
        self.all.push(index);
        if !pool.is_open() {
            return;
        }
        let place = self.open.len();
        let node = self.of_nodes.question(&pool.node_selector);
        let namespace = self.of_namespaces.question(&pool.namespace_selector);
        match namespace.needs_one_of() {
            Some(values) => values.into_iter().for_each(|value| {
                self.by_value.entry(value).or_default().push(place);
            }),
            None => self.by_none.push(place),
        }
        self.open.push(OpenPool { index, node, namespace });
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.all.iter().copied()
    }

    /// Indexes of those that serve without being asked for by name.
    pub(crate) fn serving<'a>(
        &'a self,
        node_labels: &'a Labels,
        namespace_labels: &'a Labels,
    ) -> impl Iterator<Item = usize> + 'a {
        let node = self.of_nodes.read(node_labels);
        let namespace = self.of_namespaces.read(namespace_labels);
        let mut places = self.by_none.clone();
        places.extend(namespace.pairs().filter_map(|pair| self.by_value.get(&pair)).flatten());
        places.sort_unstable();
        places.dedup();
        let open = places.into_iter().filter_map(|place| self.open.get(place));
        let serves = move |pool: &&OpenPool| pool.namespace.holds(&namespace) && pool.node.holds(&node);
        open.filter(serves).map(|pool| pool.index)
    }
}

#[cfg(test)]
mod tests {
    use model::{Family, TagId};
    use proptest::prelude::*;

    use crate::allocator::{ClusterView, Settings};
    use crate::choice::choose_pools;
    use crate::claim::ForeignBlocks;
    use crate::pool::{AssignmentMode, Pool, PoolSpec, PoolTable};
    use crate::request::FamilyRequest;
    use crate::reservation::Reservations;

    fn selector() -> impl Strategy<Value = String> {
        let test = (0..2u8, "[xy]", 0..10u8).prop_map(|(key, text, kind)| match kind {
            0 => format!("has(k{key})"),
            1 | 2 => format!("k{key} == '{text}'"),
            3 => format!("k{key} != '{text}'"),
            4 => format!("k{key} in {{'{text}', 'z'}}"),
            5 => format!("k{key} not in {{'{text}', 'z'}}"),
            6 => format!("k{key} contains '{text}'"),
            7 => format!("k{key} starts with '{text}'"),
            8 => format!("k{key} ends with '{text}'"),
            _ => "all()".to_owned(),
        });
        test.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4)
                    .prop_map(|parts| format!("({})", parts.join(" && "))),
                prop::collection::vec(inner.clone(), 1..4)
                    .prop_map(|parts| format!("({})", parts.join(" || "))),
                inner.prop_map(|part| format!("!({part})")),
            ]
        })
    }

    fn labels() -> impl Strategy<Value = model::Labels> {
        prop::collection::btree_map("k[012]", "[xyz]{0,2}", 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a10_the_quick_way_finds_the_pools_that_the_one_with_reasons_finds(
            pools in prop::collection::vec((selector(), selector(), 0..32u8, -1..2i32), 0..16),
            node_labels in labels(),
            namespace_labels in labels(),
        ) {
            let pool = |(index, (node, namespace, kind, priority)): (usize, (String, String, u8, i32))| {
                // Most pools are open; each kind of closed one is among them now and then.
                let cidr = if kind % 8 == 7 { "fd00::/120" } else { "10.0.0.0/24" };
                let mut spec = PoolSpec::new(format!("p{index}").parse().unwrap(), cidr.parse().unwrap());
                spec.node_selector = node.parse().unwrap();
                spec.namespace_selector = namespace.parse().unwrap();
                spec.priority = priority;
                spec.tag = TagId::new(1).filter(|_| kind != 0);
                spec.disabled = kind == 1;
                spec.terminating = kind == 2;
                spec.not_admitted = (kind == 3).then(|| "overlap".to_owned());
                spec.allowed_uses.workload = kind != 4;
                spec.assignment_mode =
                    if kind == 5 { AssignmentMode::Manual } else { AssignmentMode::Automatic };
                Pool::new(spec).unwrap()
            };
            let pools = PoolTable::new(pools.into_iter().enumerate().map(pool));
            let view = ClusterView {
                pools: &pools,
                reservations: &Reservations::default(),
                foreign: &ForeignBlocks::default(),
                node: &"n".parse().unwrap(),
                node_labels: &node_labels,
                settings: &Settings::default(),
            };
            for family in [Family::V4, Family::V6] {
                let slow = choose_pools(&view, family, &FamilyRequest::default(), &namespace_labels).unwrap();
                let quick: Vec<&Pool> = pools.serving(family, &node_labels, &namespace_labels).collect();
                prop_assert_eq!(quick, slow.eligible);
            }
        }
    }
}
