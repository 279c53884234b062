//! `NodeAddresses`: what this node has given to whom, written down in the store for people and tools.
//!
//! Nothing is decided by it and no node watches it. It is written some time after the fact, only when it has changed, and
//! at most once an interval.

use std::collections::BTreeMap;
use std::time::Duration;

use model::Handle;
use store::resource::{Metadata, NodeAddress, NodeAddresses, OwnerReference, Resource};
use store::retry::{self, Decision, Patience, RetryError};
use store::{Key, Store, StoreError, Versioned};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Node;
use super::ledger::Ledger;

impl<S: Store> Node<S> {
    /// Publishes what has changed, once an interval, until `stop` fires.
    pub async fn follow_publishing(&self, stop: &CancellationToken) {
        if !self.config.store.is_shared() {
            return;
        }
        let interval = self.config.publish_interval;
        let (mut published, mut told) = (None, false);
        // Not all nodes in the same moment of the interval, whoever started them together.
        let mut pause =
            interval.mul_f64(0.5) + Duration::from_millis(self.store.random() % 1000).min(interval / 2);
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            pause = interval;
            let addresses = addresses_of(&self.ledger());
            if published.as_ref() == Some(&addresses) {
                continue;
            }
            match self.publish(addresses.clone()).await {
                Ok(()) => (published, told) = (Some(addresses), false),
                Err(error) if !std::mem::replace(&mut told, true) => {
                    warn!(%error, "what this node has given out is published later");
                }
                Err(error) => debug!(%error, "published later"),
            }
        }
    }

    async fn publish(&self, addresses: Vec<NodeAddress>) -> Result<(), RetryError<StoreError>> {
        let name = self.config.node_name.as_str();
        let key = Key::named(name).map_err(|error| {
            RetryError::Refused(StoreError::Internal {
                operation: "publish",
                kind: NodeAddresses::KIND,
                key: name.to_owned(),
                reason: error.to_string(),
            })
        })?;
        let owner_references = self.own_reference();
        let decide = |current: Option<&Versioned<NodeAddresses>>| {
            let mut object = current.map_or_else(
                || NodeAddresses { metadata: Metadata::named(name), addresses: Vec::new() },
                |current| current.value.clone(),
            );
            // It goes with the node.
            object.metadata.owner_references.clone_from(&owner_references);
            object.addresses.clone_from(&addresses);
            Ok::<_, StoreError>(match current {
                Some(current) if current.value == object => Decision::Keep(()),
                _ => Decision::Put(object, ()),
            })
        };
        retry::decide(&self.store, &key, Patience::default(), decide).await.map(drop)
    }

    fn own_reference(&self) -> Vec<OwnerReference> {
        let me = self.world.view().me.clone();
        if me.uid.is_empty() {
            return Vec::new();
        }
        vec![OwnerReference {
            api_version: store::resource::Node::API_VERSION.to_owned(),
            kind: store::resource::Node::KIND.to_owned(),
            name: me.name.to_string(),
            uid: me.uid,
            ..OwnerReference::default()
        }]
    }
}

/// Every address that is held, in order of address.
fn addresses_of(ledger: &Ledger) -> Vec<NodeAddress> {
    let blocks: BTreeMap<_, _> =
        ledger.keeper().borrows().filter_map(|(_, borrow)| Some((borrow.address()?, borrow.block))).collect();
    let pod_of = |handle: &Handle| {
        let workload = ledger.pod(handle).map(|pod| &pod.identity.workload);
        workload.filter(|workload| !workload.pod.is_empty()).map(ToString::to_string).unwrap_or_default()
    };
    let mut addresses = Vec::new();
    for allocation in ledger.ipam().allocations() {
        for held in &allocation.addresses {
            // Of a borrowed address, the block it is out of says more than the address as a block of one.
            let block = blocks.get(&held.address).copied().unwrap_or(held.block);
            let address = NodeAddress {
                address: held.address.to_string(),
                pool: held.pool.to_string(),
                block: block.to_string(),
                handle: allocation.handle.to_string(),
                pod: pod_of(&allocation.handle),
            };
            addresses.push((held.address, address));
        }
    }
    addresses.sort_by_key(|(address, _)| *address);
    addresses.into_iter().map(|(_, address)| address).collect()
}
