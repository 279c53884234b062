//! Any bytes at all: an error or objects, never a panic.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use poolward_store::manifest::{Document, Object};
use poolward_store::manifest::{Kind, parse_yaml, pool_of, validate};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Reads a text as the command line would; errors must be one line that names the source.
fn read(text: &str) {
    match parse_yaml("fuzz", text) {
        Err(error) => assert!(error.to_string().starts_with("fuzz"), "{error}"),
        Ok(documents) => check(&documents),
    }
}

fn check(documents: &[Document]) {
    match validate(documents) {
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(error.to_string().starts_with(&error.source) && !error.reason.is_empty(), "{error}");
            }
        }
        // What is accepted can be converted again after it was stored.
        Ok(objects) => {
            for object in objects {
                if let Object::Pool(pool) = object.object {
                    let (wire, pure) = *pool;
                    let stored = serde_json::from_value(serde_json::to_value(&wire).unwrap()).unwrap();
                    assert_eq!(pool_of(&stored).unwrap(), pure);
                }
            }
        }
    }
}

/// Words that steer random documents into every branch of the checks.
fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "items",
        "name",
        "namespace",
        "uid",
        "labels",
        "annotations",
        "cidr",
        "blockSize",
        "ipipMode",
        "natOutgoing",
        "nodeSelector",
        "allowedUses",
        "priority",
        "dscp",
        "reservedCIDRs",
        "poolward.io/v1",
        "projectcalico.org/v3",
        "v1",
        "IPPool",
        "IPReservation",
        "IPPoolList",
        "List",
        "Namespace",
        "Pod",
        "IPBlock",
        "10.0.0.0/24",
        "10.0.0.1/24",
        "fd00::/64",
        "Always",
        "Never",
        "all()",
        "has(a)",
        "EF",
        "cni.projectcalico.org/ipv4pools",
        "[\"a\"]",
        "a",
        "Workload",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => ".*"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..140i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(word(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn kind_and_version() -> impl Strategy<Value = (String, String)> {
    let kinds: Vec<String> =
        Kind::ALL.iter().flat_map(|kind| [kind.name().to_owned(), format!("{}List", kind.name())]).collect();
    (prop::sample::select(kinds), prop::sample::select(vec!["poolward.io/v1".to_owned(), "v1".to_owned()]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_characters_of_yaml_do_not_panic(text in "[-:{}\\[\\]&*!|>'\"%@`#,? \n\ta-c0-9.<=~]{0,200}") {
        read(&text);
    }

    #[test]
    fn a_damaged_manifest_does_not_panic(at in 0..600usize, byte in any::<u8>(), cut in 0..600usize) {
        const GOOD: &str = "apiVersion: poolward.io/v1\nkind: IPPool\nmetadata: {name: a, labels: {b: c}}\nspec:\n  \
            cidr: 10.0.0.0/24\n  blockSize: 29\n  nodeSelector: \"has(a) && b in {'c'}\"\n  dscp: EF\n---\n\
            apiVersion: v1\nkind: Namespace\nmetadata:\n  name: n\n  annotations:\n    \
            cni.projectcalico.org/ipv4pools: '[\"a\"]'\n---\nkind: List\napiVersion: v1\nitems: [&x {a: 1}, *x]\n";
        let mut bytes = GOOD.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut.max(at));
        read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_objects_do_not_panic(
        (kind, version) in kind_and_version(),
        metadata in value(),
        spec in value(),
        items in prop::collection::vec(value(), 0..4),
    ) {
        let body = json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
        let list = json!({"apiVersion": version, "kind": kind, "items": items});
        let documents = [body, list].map(|body| Document { source: "fuzz".to_owned(), body });
        check(&documents);
        // And again as text, in the form that the command line prints.
        read(&documents[0].body.to_string());
    }
}
