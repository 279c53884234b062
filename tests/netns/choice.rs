//! Which pool a pod is given, and what it is told when it gets none (A1, A7, A9, A10, C5).

use serde_json::{Value, json};

use crate::kernel::{agreed, traces};
use crate::manifest::{namespace, pod, pool};
use crate::site::{Node, Pod, Site};

const CALICO: &str = "cni.projectcalico.org/ipv4pools";
const OURS: &str = "poolward.io/ipv4pools";

/// Pools that only differ in their names, and in what order they would be tried.
fn node_with_pools(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[
        pool("first", "10.65.0.0/28", "blockSize: 29, priority: 1"),
        pool("second", "10.65.1.0/28", "blockSize: 29, priority: 2"),
        pool("third", "10.65.2.0/28", "blockSize: 29, priority: 3"),
        pool("off", "10.65.3.0/28", "blockSize: 29, disabled: true"),
        pool("elsewhere", "10.65.4.0/28", "blockSize: 29, nodeSelector: zone == 'b'"),
        pool("for-blue", "10.65.5.0/28", "blockSize: 29, priority: 9, namespaceSelector: team == 'blue'"),
        pool("manual", "10.65.6.0/28", "blockSize: 29, priority: 0, assignmentMode: Manual"),
        pool("tunnels", "10.65.7.0/28", "blockSize: 29, allowedUses: [Tunnel]"),
    ]);
    node
}

/// The pool that a pod got.
fn pool_of(node: &Node<'_>, pod: &Pod) -> String {
    node.address_state(pod.address())["pool"].as_str().unwrap().to_owned()
}

#[test]
fn the_pods_annotation_beats_its_namespaces_which_beats_the_network_which_beats_selectors() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let mut count = 0;
    let mut check =
        |on_pod: &[(&str, &str)], on_namespace: &[(&str, &str)], in_network: &[&str], expected: &str| {
            count += 1;
            let (ns, name) = (format!("ns{count}"), format!("p{count}"));
            node.apply(&[namespace(&ns, on_namespace), pod(&ns, &name, on_pod)]);
            let mut added = Pod::of(&ns, &name);
            let cni = node.cni().with_config(|config| {
                if !in_network.is_empty() {
                    config["ipam"] = json!({"ipv4_pools": in_network});
                }
            });
            added.result = cni.add(&added.attachment).unwrap().ok().unwrap();
            assert_eq!(pool_of(&node, &added), expected, "{on_pod:?} {on_namespace:?} {in_network:?}");
            node.del(&added);
        };
    check(&[], &[], &[], "first");
    check(&[], &[], &["third"], "third");
    check(&[], &[(CALICO, "[\"second\"]")], &["third"], "second");
    check(&[(CALICO, "[\"third\"]")], &[(CALICO, "[\"second\"]")], &["first"], "third");
    check(&[(OURS, "[\"third\"]")], &[(CALICO, "[\"second\"]")], &[], "third");
    check(&[(OURS, "[\"third\"]"), (CALICO, "[\"third\"]")], &[], &[], "third");
    check(&[(CALICO, "[\"second\", \"third\"]")], &[], &[], "second");
    // A pool may be named by its range, as Calico has it.
    check(&[(CALICO, "[\"10.65.2.0/28\"]")], &[], &[], "third");
    // What is beaten is not read.
    check(&[(CALICO, "[\"third\"]")], &[(CALICO, "[\"absent\"]")], &["absent"], "third");
    // A manual pool serves who asks for it.
    check(&[(CALICO, "[\"manual\"]")], &[], &[], "manual");
}

#[test]
fn selectors_see_the_labels_of_the_namespace() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let blue =
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: blue, labels: {team: blue}}\n".to_owned();
    node.apply(&[
        blue,
        pod("blue", "a", &[(CALICO, "[\"for-blue\"]")]),
        pool("first", "10.65.0.0/28", "blockSize: 29, priority: 1, namespaceSelector: team != 'blue'"),
        pod("blue", "b", &[]),
    ]);
    assert_eq!(pool_of(&node, &node.add_pod("blue", "a")), "for-blue");
    assert_eq!(pool_of(&node, &node.add_pod("blue", "b")), "second", "first does not want blue");
}

/// Here objects come by `poolwardctl`, which refuses what no ADD could follow.
#[test]
fn malformed_annotations_are_refused_with_key_and_reason_before_any_add_meets_them() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let check = |annotations: &[(&str, &str)], words: &[&str]| {
        for manifest in [pod("n", "p", annotations), namespace("n", annotations)] {
            let said = node.apply_refused(&[manifest]);
            for word in annotations.iter().map(|(key, _)| key).chain(words) {
                assert!(said.contains(word), "{word:?} is not in {said}");
            }
        }
    };
    for key in [CALICO, OURS] {
        check(&[(key, "first")], &["expected '['"]);
        check(&[(key, "[\"first\"")], &["expected ',' or ']'"]);
        check(&[(key, "[]")], &["annotations"]);
        check(&[(key, "[1]")], &["annotations"]);
        check(&[(key, "{\"a\": 1}")], &["expected '['"]);
    }
    check(&[(CALICO, "[\"first\"]"), (OURS, "[\"second\"]")], &["differs"]);
}

#[test]
fn a_requested_pool_that_cannot_serve_the_pod_is_named_with_the_reason() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let check = |name: &str, words: &[&str]| {
        let value = format!("[\"{name}\"]");
        let mut all = vec![name];
        all.extend(words);
        node.apply(&[namespace("n", &[]), pod("n", "p", &[(CALICO, &value)])]);
        let before = traces(&node);
        let answer = node.add_refused(&Pod::of("n", "p"));
        let said = format!("{} {}", answer.json["msg"], answer.json["details"]);
        for word in all {
            assert!(said.contains(word), "{name}: {word:?} is not in {said}");
        }
        assert_eq!(traces(&node), before, "{name}");
    };
    check("absent", &["exist"]);
    check("off", &["disabled"]);
    check("elsewhere", &["nodeSelector"]);
    check("for-blue", &["namespaceSelector"]);
    check("tunnels", &["allowedUses"]);
}

#[test]
fn a_full_pool_is_named_and_the_next_one_serves_who_did_not_ask() {
    let site = Site::new();
    let node = node_with_pools(&site);
    node.apply(&[namespace("n", &[]), pod("n", "p", &[(CALICO, "[\"first\"]")])]);
    let pods: Vec<Pod> = (0..16).map(|_| node.add_pod("n", "p")).collect();
    assert!(pods.iter().all(|pod| pool_of(&node, pod) == "first"));
    let refused = Pod::of("n", "p");
    let answer = node.add_refused(&refused);
    let said = format!("{} {}", answer.json["msg"], answer.json["details"]);
    assert_eq!(answer.error_code(), Some(11), "an address may be freed any time: {said}");
    assert!(said.contains("first") && said.contains("exhausted"), "{said}");
    assert_eq!(agreed(&node).len(), 16);

    let other = node.add_container("did-not-ask");
    assert_eq!(pool_of(&node, &other), "second");
    node.del(&pods[7]);
    let added = node.cni().add(&refused.attachment).unwrap().ok().unwrap();
    assert_eq!(crate::site::addresses_of(&added), pods[7].addresses(), "the one that was freed");
}

#[test]
fn without_its_namespace_or_its_object_a_pod_is_asked_to_come_again() {
    let site = Site::new();
    let node = node_with_pools(&site);
    let check = |pod: &Pod, word: &str| {
        let answer = node.add_refused(pod);
        assert_eq!(answer.error_code(), Some(11), "{}", answer.json);
        let said = answer.json["msg"].as_str().unwrap();
        assert!(said.contains(word), "{word:?} is not in {said}");
    };
    let unknown = Pod::of("unknown", "p");
    check(&unknown, "namespace unknown");
    node.apply(&[namespace("unknown", &[])]);
    check(&unknown, "pod unknown/p");
    node.apply(&[pod("unknown", "p", &[])]);
    let result: Value = node.cni().add(&unknown.attachment).unwrap().ok().unwrap();
    assert!(!crate::site::addresses_of(&result).is_empty());

    // Another pod under the same name: its annotations may not be these.
    let uid = |last: u8| format!("11111111-2222-3333-4444-5555555555{last:02}");
    let stored = |last| {
        let uid = uid(last);
        format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: unknown, name: p, uid: {uid}}}\n")
    };
    node.apply(&[stored(1)]);
    let mut other = Pod::of("unknown", "p");
    other.attachment.args += &format!(";K8S_POD_UID={}", uid(2));
    check(&other, &uid(1));
    node.apply(&[stored(2)]);
    node.cni().add(&other.attachment).unwrap().ok().unwrap();

    // A static pod: its mirror has a UID of its own, and names the one that the runtime says in an annotation.
    let mirror = |hash: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: unknown, name: static, uid: {}, annotations: \
             {{kubernetes.io/config.mirror: {hash}, {CALICO}: '[\"third\"]'}}}}\n",
            uid(3)
        )
    };
    node.apply(&[mirror("0123456789abcdef0123456789abcdef")]);
    let mut other_file = Pod::of("unknown", "static");
    other_file.attachment.args += ";K8S_POD_UID=fedcba9876543210fedcba9876543210";
    check(&other_file, "0123456789abcdef0123456789abcdef");
    let mut of_file = Pod::of("unknown", "static");
    of_file.attachment.args += ";K8S_POD_UID=0123456789abcdef0123456789abcdef";
    of_file.result = node.cni().add(&of_file.attachment).unwrap().ok().unwrap();
    assert_eq!(pool_of(&node, &of_file), "third");
}
