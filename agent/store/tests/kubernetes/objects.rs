//! Finalizers, foreign metadata, status, and objects of Kubernetes.

use std::net::{IpAddr, Ipv4Addr};

use futures::StreamExt as _;
use harness::BoundPod;
use poolward_store::kubernetes::{KubernetesStore, Options};
use poolward_store::resource::{
    Condition, IpBlock, IpPool, IpReservation, Metadata, Node, PROTECT_FINALIZER, Pod, Resource,
};
use poolward_store::{Store, StoreError};
use serde_json::json;

use crate::cluster::{Cluster, STEP, key, pool, reservation};

fn block() -> IpBlock {
    let mut block = IpBlock { metadata: Metadata::named("10-0-0-0-26"), ..IpBlock::default() };
    block.spec.cidr = "10.0.0.0/26".to_owned();
    block
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_deletes_stays_marked_until_it_is_let_go_of() {
    let cluster = Cluster::start().await;
    let (store, kubectl) = (&cluster.store, cluster.kubectl());
    let block_key = key("10-0-0-0-26");

    let made = store.create(block()).await.unwrap();
    assert_eq!(made.value.metadata.finalizers, [PROTECT_FINALIZER]);
    kubectl.run(&["delete", "ipblock", "10-0-0-0-26", "--wait=false"]).unwrap();
    let marked = store.get::<IpBlock>(&block_key).await.unwrap().unwrap();
    assert!(marked.value.metadata.is_being_deleted() && !made.value.metadata.is_being_deleted());
    assert_eq!((&marked.uid, &marked.value.spec), (&made.uid, &made.value.spec));

    // It can still be written: its node goes on, and the mark stays.
    let mut changed = marked.value.clone();
    changed.spec.node = "node-1".to_owned();
    let changed = store.compare_and_swap(marked.revision, changed).await.unwrap();
    assert!(changed.value.metadata.is_being_deleted() && changed.value.metadata.is_protected());
    let exists = store.create(block()).await;
    assert!(matches!(exists, Err(StoreError::AlreadyExists { actual, .. }) if actual == changed.revision));

    let gone = store.compare_and_delete::<IpBlock>(&block_key, changed.revision).await.unwrap();
    assert!(gone > changed.revision);
    assert_eq!(store.get::<IpBlock>(&block_key).await.unwrap(), None);

    // Others may hold on to it as well: then it is not gone, and nobody can say when it will be.
    let mut held = block();
    held.metadata.finalizers = vec!["example.com/theirs".to_owned()];
    let held = store.create(held).await.unwrap();
    let pending = store.compare_and_delete::<IpBlock>(&block_key, held.revision).await;
    assert!(matches!(&pending, Err(StoreError::Unavailable { reason, .. }) if reason.contains("theirs")));
    let marked = store.get::<IpBlock>(&block_key).await.unwrap().unwrap();
    assert!(marked.value.metadata.is_being_deleted());
    assert_eq!(marked.value.metadata.finalizers, ["example.com/theirs"]);
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    kubectl.run(&["patch", "ipblock", "10-0-0-0-26", "--type=merge", "-p", patch]).unwrap();
    let absent = store.compare_and_delete::<IpBlock>(&block_key, marked.revision).await;
    assert!(matches!(absent, Err(StoreError::Conflict { actual: None, .. })), "{absent:?}");
}

/// The state that a crash between the two requests of a deletion leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_cut_short_is_completed_or_undone() {
    let cluster = Cluster::start().await;
    let (store, kubectl) = (&cluster.store, cluster.kubectl());
    let first = store.create(pool("a", 1)).await.unwrap();
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    kubectl.run(&["patch", "ippool", "a", "--type=merge", "-p", patch]).unwrap();
    let stale = store.compare_and_delete::<IpPool>(&key("a"), first.revision).await;
    let bare = store.get::<IpPool>(&key("a")).await.unwrap().unwrap();
    assert_eq!(
        stale,
        Err(StoreError::Conflict {
            operation: "delete",
            kind: "IPPool",
            key: key("a"),
            expected: first.revision,
            actual: Some(bare.revision),
        })
    );
    assert!(!bare.value.metadata.is_protected());

    // Undone: any replacement gives the finalizer back.
    let kept = store.compare_and_swap(bare.revision, bare.value.clone()).await.unwrap();
    assert!(kept.value.metadata.is_protected());

    // Completed: another try goes on from there.
    kubectl.run(&["patch", "ippool", "a", "--type=merge", "-p", patch]).unwrap();
    let bare = store.get::<IpPool>(&key("a")).await.unwrap().unwrap();
    store.compare_and_delete::<IpPool>(&key("a"), bare.revision).await.unwrap();
    assert_eq!(store.get::<IpPool>(&key("a")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_wrote_into_an_object_survives_our_writes() {
    let cluster = Cluster::start().await;
    let (store, kubectl) = (&cluster.store, cluster.kubectl());
    let owner = store.create(reservation("owner", &["10.0.0.0/30"])).await.unwrap();
    store.create(pool("a", 1)).await.unwrap();
    let owner = json!({
        "apiVersion": "poolward.io/v1", "kind": "IPReservation", "name": "owner", "uid": owner.uid, "controller": true,
    });
    let metadata = json!({
        "labels": {"team": "x"}, "annotations": {"note": "y"}, "ownerReferences": [owner],
        "finalizers": [PROTECT_FINALIZER, "example.com/theirs"],
    });
    let patch = json!({"metadata": metadata}).to_string();
    kubectl.run(&["patch", "ippool", "a", "--type=merge", "-p", &patch]).unwrap();
    let created = kubectl.json(&["get", "ippool", "a"]).unwrap()["metadata"]["creationTimestamp"].clone();

    let mut there = store.get::<IpPool>(&key("a")).await.unwrap().unwrap();
    there.value.spec.priority = 7;
    let swapped = store.compare_and_swap(there.revision, there.value.clone()).await.unwrap();
    there.value.status.conditions =
        vec![Condition { kind: "Allocatable".into(), status: "True".into(), ..Condition::default() }];
    // The status has a path of its own: neither write touches the other's part.
    there.value.spec.priority = 99;
    let status = store.compare_and_swap_status(swapped.revision, there.value.clone()).await.unwrap();
    assert_eq!((status.value.spec.priority, &status.value.status), (7, &there.value.status));
    let mut last = status.value.clone();
    last.status.conditions.clear();
    last.spec.priority = 8;
    let last = store.compare_and_swap(status.revision, last).await.unwrap();
    assert_eq!((last.value.spec.priority, &last.value.status), (8, &there.value.status));
    let stale = store.compare_and_swap_status(swapped.revision, there.value.clone()).await;
    assert!(matches!(stale, Err(StoreError::Conflict { actual: Some(_), .. })), "{stale:?}");

    let now = kubectl.json(&["get", "ippool", "a"]).unwrap()["metadata"].clone();
    for (field, expected) in metadata.as_object().unwrap() {
        assert_eq!(&now[field], expected, "{field}");
    }
    assert_eq!(now["creationTimestamp"], created);
    let table = kubectl.run(&["get", "ippool", "a", "--no-headers"]).unwrap();
    assert!(table.contains("True"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_pods_are_read_reduced_and_never_written() {
    let cluster = Cluster::start().await;
    let control_plane = &cluster.control_plane;
    let address = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let uid = control_plane.create_node("node-1", &[address(1), address(2)]).unwrap();
    let node = cluster.store.get::<Node>(&key("node-1")).await.unwrap().unwrap();
    assert_eq!((node.uid, node.value.addresses), (uid, vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()]));
    assert_eq!(node.value.metadata.labels["kubernetes.io/hostname"], "node-1");

    // Only this node's pods are listed and watched; any can be read.
    let options = Options {
        kubeconfig: Some(control_plane.kubeconfig()),
        node_name: Some("node-1".parse().unwrap()),
        ..Options::default()
    };
    let scoped = KubernetesStore::connect(options).await.unwrap();
    let annotations =
        &[("poolward.io/pool", "a"), ("kubectl.kubernetes.io/last-applied-configuration", "{}")];
    let pod = |node: &'static str, name: &'static str| {
        let pod = BoundPod { node, namespace: "default", name, annotations };
        control_plane.create_pod(&pod).unwrap()
    };
    let mine = pod("node-1", "mine");
    pod("node-2", "theirs");
    let list = scoped.list::<Pod>().await.unwrap();
    assert_eq!(list.items.iter().map(|pod| pod.uid.as_str()).collect::<Vec<_>>(), [mine.as_str()]);
    let reduced = &list.items[0].value;
    assert_eq!((reduced.spec.node_name.as_str(), reduced.metadata.annotations.len()), ("node-1", 1));
    assert_eq!(cluster.store.list::<Pod>().await.unwrap().items.len(), 2);
    assert!(scoped.get::<Pod>(&key("default/theirs")).await.unwrap().is_some());
    let mut events = scoped.watch::<Pod>(list.revision).await.unwrap();
    pod("node-2", "their-other");
    let second = pod("node-1", "second");
    let event = tokio::time::timeout(STEP, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.object().uid, second);

    let written = cluster.store.create(Node { metadata: Metadata::named("node-3"), ..Node::default() }).await;
    assert!(matches!(written, Err(StoreError::Internal { .. })), "{written:?}");
    let absent = cluster.store.get::<IpReservation>(&key("none")).await;
    assert_eq!(absent, Ok(None));
    assert_eq!(<Pod as Resource>::PLURAL, "pods");
}
