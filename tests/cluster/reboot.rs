//! A node that was switched off and on again: nothing of before is left, it is not ready before its agent is, and its pods are back.

use std::collections::BTreeSet;

use harness::cluster::{DEFAULT_POOL, PORT, PodOptions};
use serde_json::Value;

use crate::reach::who;
use crate::site::{NODES_COUNT, site, wait_until};

/// As deploy/overlays/lab names it.
const AGENT_IMAGE: &str = "localhost/poolward:dev";

#[test]
fn after_a_reboot_a_nodes_pods_are_back_and_no_address_of_before_is_held() {
    let mut site = site();
    let namespace = site.namespace("reboot", &[]);
    let number = NODES_COUNT;
    let names: Vec<String> = (0..4).map(|count| format!("pod-{count}")).collect();
    let on =
        |name, node| PodOptions { namespace: &namespace, name, node: Some(node), ..PodOptions::default() };
    let mut options: Vec<_> = names.iter().map(|name| on(name, number)).collect();
    options.push(on("elsewhere", 1));
    let before = site.pods(&options);
    let elsewhere = before.last().unwrap();

    let node = site.cluster.workers[usize::from(number) - 1].name.clone();
    let boot_of = |node: &Value| node["status"]["nodeInfo"]["bootID"].as_str().unwrap_or_default().to_owned();
    let first_boot = boot_of(&site.kubectl().json(&["get", "node", &node]).unwrap());
    // So that its agent does not come back at once: the manifests of the lab say that nothing is pulled.
    site.cluster.worker(number).unwrap().ctr(&["images", "rm", AGENT_IMAGE]).unwrap();
    site.cluster.reboot(number).unwrap();
    let mut seen = Value::Null;
    wait_until("the node has reported that it was started again and has no network", || {
        seen = site.kubectl().json(&["get", "node", &node]).unwrap();
        let conditions = seen["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
        let is_told =
            ready["message"].as_str().is_some_and(|message| message.contains("NetworkPluginNotReady"));
        boot_of(&seen) != first_boot && ready["status"] == "False" && is_told
    });
    site.cluster.worker(number).unwrap().import_images(&harness::image_archive().unwrap()).unwrap();
    // Their objects say that they are ready until the kubelet has looked.
    let restarts = |name: &str| {
        let pod = site.kubectl().json(&["get", "pod", "--namespace", &namespace, name]).unwrap();
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
    };
    wait_until("all pods were started again", || names.iter().all(|name| restarts(name) > 0));
    let after: Vec<_> = names.iter().map(|name| site.ready(&namespace, name)).collect();
    for pod in &after {
        assert!(DEFAULT_POOL.contains(pod.address), "{pod:?}");
        site.assert_holder(pod);
        let seen = who(&site, elsewhere, &format!("{}:{PORT}", pod.address));
        assert_eq!(seen, Ok((pod.name.clone(), elsewhere.address.to_string())), "{pod:?}");
    }
    // Whoever held an address before and got another one holds the old one no more.
    let held: BTreeSet<_> = after.iter().map(|pod| pod.address).collect();
    for pod in before.iter().filter(|pod| pod.namespace == namespace && pod.name != "elsewhere") {
        if !held.contains(&pod.address) {
            site.wait_until_free(pod);
        }
    }
    site.delete_at_once(&namespace);
    site.assert_consistent();
}
