//! Agents under exactly the role that is shipped (deploy/base/rbac.yaml), as all tests here run them: it lets them do all
//! they have to, and nothing else.

use std::time::Duration;

use harness::{BoundPod, Underlay, wait_until};

use crate::site::{Pod, SOON, Site};

const FORBIDDEN: u64 = 403;

/// What agents were refused so far, of all tests of this run.
fn refused(site: &Site) -> Vec<String> {
    let refused = site.audited().into_iter().filter(|(_, _, code)| *code == FORBIDDEN);
    refused.map(|(verb, resource, _)| format!("{verb} {resource}")).collect()
}

#[test]
fn agents_claim_lend_publish_and_retire_and_are_refused_nothing() {
    let site = Site::new(Underlay::Lan, 3);
    let before = refused(&site);
    let spec = "blockSize: 29, ipipMode: Always, cooldownSeconds: 0";
    site.apply_pools(&[("pods", "10.244.0.0/28", spec)]);
    let nodes: Vec<_> = (1..=3).map(|number| site.start_with(number, "publishSeconds: 1\n")).collect();
    let mut pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    assert_eq!(site.blocks().len(), 2, "the third node has not borrowed: {:?}", site.blocks());
    // A pod of Kubernetes: its namespace is read when it appears.
    site.control_plane(|it| {
        let pod = BoundPod { node: "node-1", namespace: "default", name: "role", annotations: &[] };
        let uid = it.create_pod(&pod).unwrap();
        pods.push(Pod::of(site.at(1), "default", "role", &uid));
    });
    let pod = pods.last_mut().unwrap();
    wait_until(SOON, "the pod of Kubernetes is added", || {
        let answer = nodes[0].cni(&[]).add(&pod.attachment).unwrap();
        pod.result = answer.json;
        answer.code == 0
    });
    wait_until(SOON, "every node has published what it gave out", || {
        let published = site.objects("nodeaddresses");
        published
            .iter()
            .filter(|of_node| of_node["addresses"].as_array().is_some_and(|a| !a.is_empty()))
            .count()
            == 3
    });
    wait_until(SOON, "the pool's status says that it is admitted", || {
        site.objects("ippools")[0]
            .pointer("/status/conditions/0/status")
            .is_some_and(|status| status == "True")
    });
    // The end of a pool: its addresses are freed, its blocks and loans go, and the finalizer last.
    site.kubectl().run(&["delete", "ippool", "pods", "--wait=false"]).unwrap();
    for (number, pod) in [(0, &pods[0]), (1, &pods[1]), (2, &pods[2]), (0, &pods[3])] {
        nodes[number].del(pod);
    }
    wait_until(Duration::from_secs(120), "the pool and its blocks are gone", || {
        site.objects("ippools").is_empty() && site.objects("ipblocks").is_empty()
    });
    assert_eq!(refused(&site)[before.len()..], [] as [String; 0]);
    let served = site.audited();
    for (verb, resource) in [
        ("create", "ipblocks"),
        ("update", "ipblocks"),
        ("delete", "ipblocks"),
        ("update", "ippools"),
        ("update", "ippoolregistries"),
        ("create", "nodeaddresses"),
    ] {
        let seen =
            |request: &&(String, String, u64)| request.0 == verb && request.1 == resource && request.2 < 300;
        assert!(served.iter().any(|request| seen(&request)), "no agent has had to {verb} {resource}");
    }
    for node in &nodes {
        let log = std::fs::read_to_string(node.at.files.log()).unwrap();
        assert!(!log.contains("forbidden"), "{} was refused something:\n{log}", node.at.name);
    }
}

#[test]
fn what_is_not_in_the_role_is_refused_and_the_refusal_is_seen() {
    let site = Site::new(Underlay::Lan, 1);
    let before = refused(&site);
    let agent = site.agents_kubectl();
    let pool = "apiVersion: poolward.io/v1\nkind: IPPool\nmetadata: {name: own}\nspec: {cidr: 10.1.0.0/24}\n";
    let refuse = |args: &[&str], stdin: &str| {
        let error = format!("{:#}", agent.run_with(args, stdin).unwrap_err());
        assert!(error.contains("forbidden"), "{args:?}: {error}");
    };
    refuse(&["create", "-f", "-"], pool);
    refuse(&["get", "secrets", "--all-namespaces"], "");
    refuse(&["get", "customresourcedefinitions"], "");
    refuse(&["delete", "node", "node-1"], "");
    refuse(&["delete", "ippoolregistries", "any"], "");
    refuse(&["get", "nodeaddresses"], "");
    // What the other test relies on.
    let seen = &refused(&site)[before.len()..];
    let expected = ["create ippools", "list secrets", "list customresourcedefinitions", "delete nodes"];
    for request in expected.iter().chain(&["delete ippoolregistries", "list nodeaddresses"]) {
        assert!(seen.iter().any(|seen| seen == request), "{request} is not written down: {seen:?}");
    }
}
