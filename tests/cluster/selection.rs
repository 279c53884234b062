//! Which pool a pod gets its address from, when a kubelet asks at once: namespaces whose annotation has just changed, pods
//! that come again under their names, pods that no API server has created.

use std::collections::BTreeMap;

use harness::cluster::{DEFAULT_POOL, Pod, PodOptions, Range};
use serde_json::{Value, json};

use crate::site::{EXTERNAL_POOL, NODES_COUNT, Site, site, wait_until};

/// What chooses a pool.
const KEY: &str = "cni.projectcalico.org/ipv4pools";

/// Namespaces that change and get a pod in the same moment, and how often: 200 times in all.
const NAMESPACES_COUNT: usize = 50;
const ROUNDS_COUNT: usize = 4;

fn wish(range: Range) -> String {
    format!("[\"{}\"]", range.pool)
}

fn assert_from(pod: &Pod, range: Range) {
    assert!(range.contains(pod.address), "{pod:?} has an address that is not of {}", range.pool);
}

#[test]
fn a_pod_gets_the_pool_that_its_namespace_was_given_in_the_same_moment() {
    let site = site();
    let kubectl = site.kubectl();
    let names: Vec<String> = (0..NAMESPACES_COUNT).map(|count| format!("moment-{count}")).collect();
    let namespace = |name: &String, annotations: Value| {
        let metadata = json!({"name": name, "annotations": annotations});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    };
    let list = |items: Vec<Value>| json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    kubectl.apply_unchecked(&list(names.iter().map(|name| namespace(name, json!({}))).collect())).unwrap();
    names.iter().for_each(|name| site.wait_for_service_account(name));
    // Its container never starts, which saves the machine much; its network is made all the same.
    let more =
        json!({"containers": [{"name": "main", "image": "localhost/none", "imagePullPolicy": "Never"}]});
    for round in 0..ROUNDS_COUNT {
        // Every namespace goes back and forth, half of them in each direction.
        let range =
            |count: usize| if (count + round).is_multiple_of(2) { EXTERNAL_POOL } else { DEFAULT_POOL };
        let labels = [("moment", format!("round-{round}"))];
        let labels = labels.each_ref().map(|(key, value)| (*key, value.as_str()));
        let mut items = Vec::new();
        for (count, name) in names.iter().enumerate() {
            items.push(namespace(name, json!({KEY: wish(range(count))})));
            // Bound already: not even a scheduler is between the two writes and the kubelet.
            let node = u8::try_from(count % usize::from(NODES_COUNT)).unwrap() + 1;
            let pod =
                PodOptions { namespace: name, name: labels[0].1, node: Some(node), ..PodOptions::default() };
            items.push(PodOptions { labels: &labels, more: more.clone(), ..pod }.object());
        }
        kubectl.apply_unchecked(&list(items)).unwrap();

        let selector = format!("moment={}", labels[0].1);
        let get = ["get", "pods", "--all-namespaces", "--selector", &selector];
        let mut found = BTreeMap::new();
        wait_until("all pods have addresses", || {
            let pods = kubectl.json(&get).unwrap();
            let text = |pod: &Value, path| pod.pointer(path).and_then(Value::as_str).map(str::to_owned);
            let of = |pod: &Value| Some((text(pod, "/metadata/namespace")?, text(pod, "/status/podIP")?));
            found = pods["items"].as_array().unwrap().iter().filter_map(of).collect();
            found.len() == names.len()
        });
        for (count, name) in names.iter().enumerate() {
            let (address, range) = (&found[name], range(count));
            assert!(
                range.contains(address.parse().unwrap()),
                "round {round}, {name}: {address}, not of {}",
                range.pool
            );
        }
        let now = ["--grace-period=0", "--force", "--wait=false"];
        let delete: Vec<&str> = ["delete"].into_iter().chain(get[1..].iter().copied()).chain(now).collect();
        kubectl.run(&delete).unwrap();
    }
}

#[test]
fn a_pod_of_a_stateful_set_gets_the_pool_of_its_new_template_under_its_old_name() {
    let site = site();
    let namespace = site.namespace("again", &[]);
    let kubectl = site.kubectl();
    let set = |range: Range| -> String {
        let pod = PodOptions { namespace: &namespace, ..PodOptions::default() }.object();
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "again", "namespace": namespace},
            "spec": {
                "serviceName": "again", "replicas": 1,
                "updateStrategy": {"type": "OnDelete"},
                "selector": {"matchLabels": {"app": "again"}},
                "template": {
                    "metadata": {"labels": {"app": "again"}, "annotations": {KEY: wish(range)}},
                    "spec": pod["spec"],
                },
            },
        })
        .to_string()
    };
    let mut last = None;
    for range in [DEFAULT_POOL, EXTERNAL_POOL, DEFAULT_POOL] {
        kubectl.apply_unchecked(&set(range)).unwrap();
        let old = last.take();
        if old.is_some() {
            // As when a node is lost: the name is free before the kubelet has taken the old one down.
            site.delete_at_once(&namespace);
        }
        wait_until("the set has made its pod", || {
            let uid = uid_of(&site, &namespace, "again-0");
            uid.is_some() && uid != old
        });
        assert_from(&site.ready(&namespace, "again-0"), range);
        last = uid_of(&site, &namespace, "again-0");
    }
    kubectl.run(&["delete", "statefulset", "--all", "--namespace", &namespace]).unwrap();
    site.delete_at_once(&namespace);
}

fn uid_of(site: &Site, namespace: &str, name: &str) -> Option<String> {
    let pod = site.kubectl().json(&["get", "pod", "--namespace", namespace, name]).ok()?;
    pod.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned)
}

#[test]
fn a_static_pod_gets_the_pool_of_its_manifest_and_its_address_is_free_when_it_goes() {
    let site = site();
    let namespace = site.namespace("static", &[]);
    let annotations = [(KEY, r#"["external"]"#)];
    let worker = site.cluster.worker(2).unwrap();
    let options = PodOptions {
        namespace: &namespace,
        name: "fixed",
        annotations: &annotations,
        ..PodOptions::default()
    };
    worker.add_static_pod("fixed", &options.object().to_string()).unwrap();
    // The mirror that the kubelet makes of it has the node's name behind its own.
    let pod = site.ready(&namespace, "fixed-node-2");
    assert_from(&pod, EXTERNAL_POOL);
    site.assert_holder(&pod);

    worker.remove_static_pod("fixed").unwrap();
    site.wait_until_free(&pod);
    site.assert_consistent();
}

#[test]
fn addresses_of_deleted_pods_are_free_again() {
    let site = site();
    let namespace = site.namespace("freed", &[]);
    let names: Vec<String> = (0..6).map(|count| format!("pod-{count}")).collect();
    let options: Vec<_> = names
        .iter()
        .map(|name| PodOptions { namespace: &namespace, name, ..PodOptions::default() })
        .collect();
    let pods = site.pods(&options);
    for pod in &pods {
        site.assert_holder(pod);
    }
    // Half of them as a person does it, half without waiting for the kubelet.
    let (slowly, _) = names.split_at(3);
    site.delete(&namespace, &slowly.iter().map(String::as_str).collect::<Vec<_>>());
    for pod in &pods[..slowly.len()] {
        site.wait_until_free(pod);
    }
    site.delete_at_once(&namespace);
    for pod in &pods {
        site.wait_until_free(pod);
    }
    site.assert_consistent();
}
