//! A node that was switched off and on again: nothing of before is left, and its pods are back.

use std::collections::BTreeSet;

use crate::pods::{PORT, PodOptions};
use crate::reach::who;
use crate::site::{DEFAULT_POOL, NODES_COUNT, site, wait_until};

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

    site.cluster.reboot(number).unwrap();
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
