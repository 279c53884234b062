//! `ipam check`: whether blocks, addresses and interfaces fit together.
//!
//! The store is read live, the kernel and the ledger as they are. They are not read at one moment, so what is found
//! counts only if a second look a little later finds it again: no ADD or DEL under way is taken for a violation. What
//! is a violation is decided in `ipam::check`; the insides of other nodes are not known here.

use std::time::Duration;

use ipam::check::{LiveHolder, Member, Snapshot, Strength, Violation, check};
use ipam::protocol::BlockObject;
use model::{Cidr, Handle, Identity};
use rpc::{IpamCheckReply, IpamViolation};
use store::resource::{IpBlock, IpPoolRegistry};
use store::{Key, Store};

use super::Operator;
use crate::answer::{Answer, internal, try_again};
use crate::node::admission::registry_of;

/// How long after the first look the second one follows: longer than the kernel work of an ADD or DEL.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What one look found.
struct Look {
    blocks: usize,
    addresses: usize,
    violations: Vec<Violation>,
}

impl<S: Store> Operator<S> {
    /// Serves an `ipam check`.
    ///
    /// # Errors
    /// The store or the kernel does not answer.
    pub async fn ipam_check(&self) -> Answer<IpamCheckReply> {
        let first = self.look().await?;
        let seen_twice = if first.violations.is_empty() {
            first
        } else {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let mut second = self.look().await?;
            second.violations.retain(|violation| first.violations.contains(violation));
            second
        };
        Ok(IpamCheckReply {
            blocks: seen_twice.blocks as u64,
            addresses: seen_twice.addresses as u64,
            violations: seen_twice.violations.iter().map(told).collect(),
        })
    }

    async fn look(&self) -> Answer<Look> {
        let mut unreadable = Vec::new();
        let stored = self.node.store.list::<IpBlock>().await.map_err(try_again)?;
        let mut blocks: Vec<(Cidr, BlockObject)> = Vec::new();
        for block in &stored.items {
            match store::block_of(&block.value) {
                Ok(object) => blocks.push((object.cidr, object)),
                Err(problem) => {
                    unreadable.push((format!("IPBlock {}", block.value.metadata.name), problem));
                }
            }
        }
        let key = Key::named(IpPoolRegistry::NAME).map_err(internal)?;
        let stored = self.node.store.get::<IpPoolRegistry>(&key).await.map_err(try_again)?;
        let registry = match registry_of(stored.as_ref()) {
            Ok(registry) => Some(registry),
            Err(error) => {
                unreadable.push((format!("IPPoolRegistry {}", IpPoolRegistry::NAME), error.to_string()));
                None
            }
        };
        let reading = self.node.dataplane.clone();
        let interfaces =
            self.node.blocking(move || reading.fetch_pods()).await.map_err(internal)?.map_err(internal)?;
        let mut live: Vec<Identity> = Vec::new();
        for interface in interfaces {
            match interface.identity {
                // What another plugin gave is no address of ours.
                Ok(identity) if identity.extras.delegated => {}
                Ok(identity) => live.push(identity),
                Err(error) => {
                    unreadable.push((format!("the alias of {}", interface.host_ifname), error.to_string()));
                }
            }
        }
        let name = &self.node.config.node_name;
        let (view, now) = (self.node.world.view(), self.node.now());
        let ledger = self.node.ledger();
        // Whose interface is another plugin's has none of ours in the kernel: the runtime was told, and so it lives.
        live.extend(ledger.pods().filter(|pod| pod.foreign_interface).map(|pod| pod.identity.clone()));
        let member = Member {
            name,
            ipam: ledger.ipam(),
            keeper: Some(ledger.keeper()),
            view: Some((view.cluster(), now)),
        };
        let in_use = live.iter().flat_map(|identity| {
            let handle = &identity.handle;
            identity.addresses().map(move |address| LiveHolder { address, handle, node: name })
        });
        // Nobody can see in the kernel for whom that one is: the agent itself is its holder.
        let own = ledger.inner_ipv4().map(|address| (Handle::of_node(), address.into()));
        let own = own.iter().map(|(handle, address)| LiveHolder { address: *address, handle, node: name });
        let snapshot = Snapshot {
            blocks: blocks.iter().map(|(name, object)| (*name, object)).collect(),
            registry: registry.as_ref(),
            pools: Some(&view.pools),
            nodes: view.nodes.as_deref(),
            members: vec![member],
            live: Some(in_use.chain(own).collect()),
            unreadable,
        };
        let violations = check(&snapshot, Strength::AtRest);
        Ok(Look { blocks: snapshot.blocks.len(), addresses: ledger.ipam().held().count(), violations })
    }
}

fn told(violation: &Violation) -> IpamViolation {
    IpamViolation {
        kind: violation.word().to_owned(),
        message: violation.to_string(),
        rule: violation.rule().to_owned(),
        remedy: violation.remedy(),
        at_rest: violation.strength() == Strength::AtRest,
    }
}
