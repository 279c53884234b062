//! What is kept of Node objects: who there is and under which addresses; of this node's own, all of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use ipam::protocol::NodeId;
use model::{Cidr, NodeName};
use store::resource::Node;
use store::{Store, Versioned};
use tracing::warn;

use super::mirror::Keep;

/// The nodes. One for each agent, in the copy of the kind.
#[derive(Debug)]
pub struct NodeTable {
    own_name: NodeName,
    inner: RwLock<Known>,
}

/// What is known of nodes at one moment.
#[derive(Debug, Default)]
pub struct Known {
    /// Every node, by name.
    pub rows: BTreeMap<NodeName, NodeRow>,
    /// This node's own object; `None`: there is none.
    pub own: Option<Versioned<Node>>,
    /// Counts changes of anything that is kept.
    pub generation: u64,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRow {
    /// UID of its object.
    pub uid: String,
    /// Its first IPv4 address of type `InternalIP`.
    pub ipv4: Option<Ipv4Addr>,
    /// Its first IPv6 one.
    pub ipv6: Option<Ipv6Addr>,
    /// The ranges that the cluster gave it for its pods.
    pub pod_cidrs: Vec<Cidr>,
}

/// What the copy was told of one node.
#[derive(Debug)]
pub struct Told {
    name: NodeName,
    row: NodeRow,
    own: Option<Versioned<Node>>,
}

impl NodeTable {
    /// Without nodes.
    #[must_use]
    pub fn new(own_name: NodeName) -> Self {
        Self { own_name, inner: RwLock::default() }
    }

    /// What is known now.
    pub fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Known) -> bool) {
        let mut known = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if change(&mut known) {
            known.generation += 1;
        }
    }
}

impl<S: Store> super::Node<S> {
    /// The ranges that the cluster gave this node for its pods: by its Node object, or where there is none by the
    /// configuration.
    pub fn pod_cidrs(&self) -> Vec<Cidr> {
        if !self.config.store.is_shared() {
            return self.config.pod_cidrs.clone();
        }
        let known = self.world.nodes.kept().read();
        known.rows.get(&self.config.node_name).map(|row| row.pod_cidrs.clone()).unwrap_or_default()
    }
}

impl Known {
    /// Who a node is, by the object it has now.
    #[must_use]
    pub fn id(&self, name: &NodeName) -> Option<NodeId> {
        self.rows.get(name).map(|row| NodeId { name: name.clone(), uid: row.uid.clone() })
    }

    fn insert(&mut self, told: Told) -> bool {
        let Told { name, row, own } = told;
        // Kubelets write their Node objects every few minutes; hardly ever is anything of it news.
        let mut news = false;
        if let Some(own) = own {
            let told = |node: &Versioned<Node>| (node.value.metadata.labels.clone(), node.uid.clone());
            news = self.own.as_ref().map(told) != Some(told(&own));
            self.own = Some(own);
        }
        if self.rows.get(&name) != Some(&row) {
            self.rows.insert(name, row);
            news = true;
        }
        news
    }
}

impl Keep<Node> for NodeTable {
    type Row = Told;

    fn row(&self, mut object: Versioned<Node>) -> Option<Told> {
        let name: NodeName = match object.value.metadata.name.parse() {
            Ok(name) => name,
            Err(error) => {
                warn!(%error, "a node is passed over");
                return None;
            }
        };
        let read = |address: &String| {
            let read = address.parse();
            if read.is_err() {
                warn!(%name, address, "what is said to be an address of a node is none");
            }
            read.ok()
        };
        let addresses: Vec<IpAddr> = object.value.addresses.iter().filter_map(read).collect();
        // What is no range is nobody's.
        let pod_cidrs = object.value.pod_cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
        let row = NodeRow {
            pod_cidrs,
            uid: object.uid.clone(),
            ipv4: addresses.iter().find_map(|address| match address {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(_) => None,
            }),
            ipv6: addresses.iter().find_map(|address| match address {
                IpAddr::V6(v6) => Some(*v6),
                IpAddr::V4(_) => None,
            }),
        };
        let own = (name == self.own_name).then(|| {
            // Kept for its labels; annotations of nodes are many and change often.
            object.value.metadata.annotations.clear();
            object
        });
        Some(Told { name, row, own })
    }

    fn replace(&self, rows: Vec<Told>) {
        self.change(|known| {
            let before = std::mem::take(&mut known.rows);
            let own_before = known.own.take();
            for told in rows {
                known.insert(told);
            }
            let labels =
                |own: &Option<Versioned<Node>>| own.as_ref().map(|own| own.value.metadata.labels.clone());
            known.rows != before || labels(&known.own) != labels(&own_before)
        });
    }

    fn put(&self, told: Told) {
        self.change(|known| known.insert(told));
    }

    fn remove(&self, told: Told) {
        self.change(|known| {
            if told.name == self.own_name {
                known.own = None;
            }
            known.rows.remove(&told.name).is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use store::Revision;
    use store::resource::Metadata;

    use super::*;

    fn node(name: &str, uid: &str, addresses: &[&str], revision: u64) -> Versioned<Node> {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        let value = Node { metadata: Metadata::named(name), addresses, pod_cidrs: Vec::new() };
        Versioned { value, uid: uid.to_owned(), revision: Revision::new(revision) }
    }

    #[test]
    fn only_what_is_kept_is_news() {
        let table = NodeTable::new("a".parse().unwrap());
        let check = |object: Versioned<Node>, news: bool| {
            let before = table.read().generation;
            table.put(table.row(object.clone()).unwrap());
            assert_eq!(table.read().generation > before, news, "{object:?}");
        };
        check(node("a", "u1", &["10.0.0.1", "fd00::1"], 1), true);
        check(node("a", "u1", &["10.0.0.1", "fd00::1"], 2), false);
        check(node("b", "u2", &["fd00::2", "10.0.0.2", "10.0.0.3"], 3), true);
        check(node("b", "u2", &["fd00::2", "10.0.0.2", "10.0.0.9"], 4), false);
        check(node("b", "u2", &["10.0.0.3"], 5), true);
        let mut labelled = node("a", "u1", &["10.0.0.1", "fd00::1"], 6);
        labelled.value.metadata.labels.insert("zone".to_owned(), "x".to_owned());
        check(labelled, true);
        let mut with_range = node("b", "u2", &["10.0.0.3"], 7);
        with_range.value.pod_cidrs = vec!["10.244.1.0/24".to_owned(), "no range".to_owned()];
        check(with_range, true);
        assert_eq!(table.read().rows[&"b".parse().unwrap()].pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
        let known = table.read();
        let row = &known.rows[&"b".parse().unwrap()];
        assert_eq!((row.ipv4, row.ipv6), (Some("10.0.0.3".parse().unwrap()), None));
        assert!(known.own.as_ref().is_some_and(|own| own.value.metadata.labels.contains_key("zone")));
    }
}
