//! What the view says after changes of the copies, and that it says the same as one that is computed from nothing.

use ipam::protocol::{BlockObject, Loan, LoanState, Nonce};
use store::memory::MemoryStore;
use store::resource::{IpamConfigSpec, Metadata};

use super::*;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn this_node() -> Node {
    Node { name: name("me"), labels: None, marks: MarkLayout::DEFAULT, settings: Settings::default() }
}

async fn put_node(store: &MemoryStore, node: &str, uid: &str) -> Revision {
    let metadata = Metadata { uid: uid.to_owned(), ..Metadata::named(node) };
    store
        .create(resource::Node {
            metadata,
            addresses: vec!["192.0.2.1".to_owned()],
            ..resource::Node::default()
        })
        .await
        .unwrap()
        .revision
}

async fn remove_node(store: &MemoryStore, node: &str) -> Revision {
    let key = Key::named(node).unwrap();
    let there = store.get::<resource::Node>(&key).await.unwrap().unwrap();
    store.compare_and_delete::<resource::Node>(&key, there.revision).await.unwrap()
}

fn block(range: &str, owner: &str, uid: &str, borrower: Option<&str>) -> IpBlock {
    let loan = |borrower: &str| Loan {
        borrower: NodeId { name: name(borrower), uid: format!("uid-{borrower}") },
        nonce: Nonce(9),
        state: LoanState::Granted { address: cidr(range).network() },
    };
    let object = BlockObject {
        cidr: cidr(range),
        pool: "p".parse().unwrap(),
        pool_uid: "u".to_owned(),
        owner: NodeId { name: name(owner), uid: uid.to_owned() },
        nonce: Nonce(1),
        loans: borrower.map(loan).into_iter().collect(),
    };
    store::block_resource(&object, None)
}

/// Foreign blocks and blocks that concern this node, as text.
fn told(view: &View) -> (Vec<String>, Vec<String>) {
    let foreign = view.foreign.iter().map(|(cidr, owner)| format!("{cidr} {owner}"));
    (foreign.collect(), view.objects.keys().map(ToString::to_string).collect())
}

async fn check(world: &World, store: &MemoryStore, foreign: &[&str], objects: &[&str]) {
    world.refresh();
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let expected = (list(foreign), list(objects));
    assert_eq!(told(&world.view()), expected);
    // One that has seen nothing but how it is now.
    let stop = CancellationToken::new();
    let anew = World::start(store, this_node(), None, &stop).await.unwrap();
    assert_eq!(told(&anew.view()), expected, "computed from nothing");
    stop.cancel();
}

#[tokio::test]
async fn the_view_follows_blocks_and_nodes() {
    let (store, stop) = (MemoryStore::new(1000), CancellationToken::new());
    for node in ["me", "a", "b"] {
        put_node(&store, node, &format!("uid-{node}")).await;
    }
    let world = World::start(&store, this_node(), None, &stop).await.unwrap();
    let create = async |block: IpBlock| {
        let made = store.create(block).await.unwrap();
        world.blocks.reached(made.revision).await;
        made
    };
    create(block("10.0.0.0/26", "me", "uid-me", None)).await;
    let of_a = create(block("10.0.0.64/26", "a", "uid-a", None)).await;
    create(block("10.0.0.128/26", "b", "uid-b", None)).await;
    let (a, b) = ("10.0.0.64/26 a", "10.0.0.128/26 b");
    check(&world, &store, &[a, b], &["10.0.0.0/26"]).await;
    // One with a loan may concern this node.
    let lent = block("10.0.0.64/26", "a", "uid-a", Some("b"));
    let swapped = store.compare_and_swap(of_a.revision, lent).await.unwrap();
    world.blocks.reached(swapped.revision).await;
    check(&world, &store, &[a, b], &["10.0.0.0/26", "10.0.0.64/26"]).await;
    // So may one of a node that is gone, until it is back.
    world.nodes.reached(remove_node(&store, "b").await).await;
    check(&world, &store, &[a, b], &["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26"]).await;
    world.nodes.reached(put_node(&store, "b", "uid-b").await).await;
    check(&world, &store, &[a, b], &["10.0.0.0/26", "10.0.0.64/26"]).await;
    // Registered anew, this node's own block is of an earlier life of it.
    remove_node(&store, "me").await;
    world.nodes.reached(put_node(&store, "me", "uid-me-2").await).await;
    let me = "10.0.0.0/26 me";
    check(&world, &store, &[me, a, b], &["10.0.0.0/26", "10.0.0.64/26"]).await;
    assert_eq!(world.view().me.uid, "uid-me-2");
    let gone =
        store.compare_and_delete::<IpBlock>(&Key::of_block(cidr("10.0.0.64/26")), swapped.revision).await;
    world.blocks.reached(gone.unwrap()).await;
    check(&world, &store, &[me, b], &["10.0.0.0/26"]).await;
    stop.cancel();
}

#[tokio::test]
async fn a_node_object_that_goes_leaves_the_node_who_it_was() {
    let (store, stop) = (MemoryStore::new(1000), CancellationToken::new());
    put_node(&store, "me", "uid-me").await;
    put_node(&store, "a", "uid-a").await;
    let world = World::start(&store, this_node(), None, &stop).await.unwrap();
    world.nodes.reached(remove_node(&store, "me").await).await;
    world.refresh();
    assert_eq!(world.view().me.uid, "uid-me");
    stop.cancel();
}

#[tokio::test]
async fn what_the_cluster_says_goes_before_what_the_file_says() {
    let (store, stop) = (MemoryStore::new(1000), CancellationToken::new());
    let world = World::start(&store, this_node(), None, &stop).await.unwrap();
    let spec = IpamConfigSpec { strict_affinity: true, ..IpamConfigSpec::default() };
    let object = IpamConfig { metadata: Metadata::named(IpamConfig::NAME), spec };
    let made = store.create(object.clone()).await.unwrap();
    world.ipam_config.reached(made.revision).await;
    world.refresh();
    assert!(world.view().settings.strict_affinity);
    // What does not read changes nothing.
    let mut wrong = object;
    wrong.spec.at_block_limit = "Never".to_owned();
    let made = store.compare_and_swap(made.revision, wrong).await.unwrap();
    world.ipam_config.reached(made.revision).await;
    world.refresh();
    assert!(world.view().settings.strict_affinity);
    let key = Key::named(IpamConfig::NAME).unwrap();
    let gone = store.compare_and_delete::<IpamConfig>(&key, made.revision).await.unwrap();
    world.ipam_config.reached(gone).await;
    world.refresh();
    assert_eq!(world.view().settings, Settings::default());
    stop.cancel();
}
