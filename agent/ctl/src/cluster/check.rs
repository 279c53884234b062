//! `ipam check` by the objects alone: blocks, the registry and Nodes. What is inside nodes only their agents know.

use std::collections::BTreeSet;
use std::time::Duration;

use ipam::check::{Snapshot, Strength, Violation, check};
use ipam::protocol::{BlockObject, NodeId};
use model::Cidr;
use rpc::{IpamCheckReply, IpamViolation};
use store::Store;
use store::kubernetes::KubernetesStore;
use store::resource::{IpBlock, Node};

use super::{asked, get};
use crate::exit::Failure;

/// How long after the first look the second one follows: what both see is no change under way.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

pub(super) async fn serve(store: &KubernetesStore, operation: &str) -> Result<IpamCheckReply, Failure> {
    let (mut violations, mut blocks) = look(store, operation).await?;
    if !violations.is_empty() {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let (second, second_blocks) = look(store, operation).await?;
        violations.retain(|violation| second.contains(violation));
        blocks = second_blocks;
    }
    let told = |violation: &Violation| IpamViolation {
        kind: violation.word().to_owned(),
        message: violation.to_string(),
        rule: violation.rule().to_owned(),
        remedy: violation.remedy(),
        at_rest: violation.strength() == Strength::AtRest,
    };
    Ok(IpamCheckReply {
        blocks: blocks as u64,
        addresses: 0,
        violations: violations.iter().map(told).collect(),
    })
}

async fn look(store: &KubernetesStore, operation: &str) -> Result<(Vec<Violation>, usize), Failure> {
    let mut unreadable = Vec::new();
    let mut blocks: Vec<(Cidr, BlockObject)> = Vec::new();
    for block in asked(operation, store.list::<IpBlock>()).await?.items {
        match store::block_of(&block.value) {
            Ok(object) => blocks.push((object.cidr, object)),
            Err(problem) => unreadable.push((format!("IPBlock {}", block.value.metadata.name), problem)),
        }
    }
    let registry = get::registry(store, operation).await?;
    let mut nodes = BTreeSet::new();
    for node in asked(operation, store.list::<Node>()).await?.items {
        match node.value.metadata.name.parse() {
            Ok(name) => drop(nodes.insert(NodeId { name, uid: node.uid })),
            Err(error) => unreadable.push((format!("Node {}", node.value.metadata.name), error.to_string())),
        }
    }
    let snapshot = Snapshot {
        blocks: blocks.iter().map(|(name, object)| (*name, object)).collect(),
        registry: Some(&registry),
        pools: None,
        nodes: Some(&nodes),
        members: Vec::new(),
        live: None,
        unreadable,
    };
    Ok((check(&snapshot, Strength::AtRest), blocks.len()))
}
