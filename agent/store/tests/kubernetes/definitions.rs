//! The definitions: as checked in, as the server takes them, and what they refuse.

use std::collections::BTreeMap;
use std::path::Path;

use poolward_store::Store;
use poolward_store::kubernetes::crd;
use poolward_store::kubernetes::install::Installed;
use poolward_store::resource::{IpPool, IpPoolSpec};
use serde_json::{Value, json};

use crate::cluster::{Cluster, STEP, read};

#[test]
fn the_checked_in_definitions_are_those_of_the_types() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    let mut checked_in = BTreeMap::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        checked_in.insert(name, std::fs::read_to_string(&path).unwrap());
    }
    let made: BTreeMap<String, String> = crd::definitions()
        .into_iter()
        .map(|definition| (definition.file_name.clone(), definition.to_yaml().unwrap()))
        .collect();
    assert!(made == checked_in, "run `cargo xtask codegen`");
}

/// What every server since 1.16 demands of a schema, and the newer ones of a rule.
#[test]
fn every_schema_is_structural_and_every_rule_explains_itself() {
    fn check(path: &str, schema: &Value) {
        assert!(schema["type"].is_string(), "{path}: no single type: {schema}");
        for forbidden in ["$ref", "anyOf", "oneOf", "definitions", "title", "const"] {
            assert!(schema.get(forbidden).is_none(), "{path}: {forbidden}");
        }
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            assert!(rule["message"].as_str().is_some_and(|message| !message.is_empty()), "{path}: {rule}");
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            check(&format!("{path}.{name}"), field);
        }
        if let Some(items) = schema.get("items") {
            check(&format!("{path}[]"), items);
        }
    }
    for definition in crd::definitions() {
        let version = &definition.body["spec"]["versions"][0];
        check(&definition.name, &version["schema"]["openAPIV3Schema"]);
    }
}

fn manifest(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "poolward.io/v1", "kind": "IPPool", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_takes_the_definitions_fills_in_defaults_and_refuses_what_is_wrong() {
    let cluster = Cluster::start().await;
    let again = cluster.store.install_definitions(STEP).await.unwrap();
    assert!(again.iter().all(|(_, installed)| *installed == Installed::Unchanged), "{again:?}");
    let kubectl = cluster.kubectl();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    // What a kubectl before 1.25 does not know (the rules) it takes for a mistake, unless told not to.
    kubectl.run(&["apply", "--validate=false", "-f", dir.to_str().unwrap()]).unwrap();
    let again = cluster.store.install_definitions(STEP).await.unwrap();
    assert!(again.iter().all(|(_, installed)| *installed == Installed::Unchanged), "{again:?}");

    // A manifest that says the least gets everything else, and what nobody knows is dropped.
    kubectl.apply_unchecked(&manifest("a", &json!({"cidr": "10.0.0.0/24", "colour": "red"}))).unwrap();
    let made = read::<IpPool>(&cluster.store, "a").await.unwrap();
    let expected = IpPoolSpec { cidr: "10.0.0.0/24".to_owned(), block_size: 0, ..IpPoolSpec::default() };
    assert_eq!(made.value.spec, expected);
    // It can be written back: what was left out stays so, and it is protected from now on.
    let protected = cluster.store.compare_and_swap(made.revision, made.value).await.unwrap();
    assert_eq!((protected.value.spec, protected.value.metadata.finalizers.len()), (expected, 1));
    let table = kubectl.run(&["get", "ipp"]).unwrap();
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "CIDR", "IPIP", "NAT", "DISABLED", "ALLOCATABLE", "AGE"], "{table}");
    kubectl.run(&["get", "poolward"]).unwrap();

    let check = |spec: Value, field: &str| {
        let refused = kubectl.apply_unchecked(&manifest("b", &spec)).unwrap_err();
        assert!(format!("{refused:#}").contains(field), "{spec}: {refused:#}");
    };
    check(json!({}), "spec.cidr");
    check(json!({"cidr": "10.0.0.0"}), "spec.cidr");
    check(json!({"cidr": "ten/8"}), "spec.cidr");
    check(json!({"cidr": "10.0.0.0/24", "blockSize": 129}), "spec.blockSize");
    check(json!({"cidr": "10.0.0.0/24", "blockSize": "26"}), "spec.blockSize");
    check(json!({"cidr": "10.0.0.0/24", "ipipMode": "Sometimes"}), "spec.ipipMode");
    check(json!({"cidr": "10.0.0.0/24", "dscp": 64}), "spec.dscp");
    check(json!({"cidr": "10.0.0.0/24", "allowedUses": ["Workload", "Workload"]}), "spec.allowedUses");
    check(json!({"cidr": "10.0.0.0/24", "allowedUses": ["LoadBalancer"]}), "spec.allowedUses");
    check(json!({"cidr": "10.0.0.0/24", "assignmentMode": "Never"}), "spec.assignmentMode");
    check(json!({"cidr": "10.0.0.0/24", "cooldownSeconds": -1}), "spec.cooldownSeconds");
}
