//! Manifests from YAML to checked objects: what is accepted, and what is refused with what, where and why.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use poolward_store::manifest::{
    Document, Kind, Object, Validated, parse_yaml, pool_of, to_manifest, validate,
};
use poolward_store::resource::{IpBlock, IpBlockSpec, IpPool, IpamConfigSpec, Metadata, Resource};
use poolward_store::{Key, Revision, Versioned};
use serde_json::{Value, json};

fn documents(text: &str) -> Vec<Document> {
    parse_yaml("pools.yaml", text).unwrap()
}

fn accepted(text: &str) -> Vec<Validated> {
    validate(&documents(text)).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
}

/// The errors of a text, without the leading file name.
fn refused(text: &str) -> Vec<String> {
    let errors = validate(&documents(text)).expect_err(text);
    errors.iter().map(|error| error.to_string().strip_prefix("pools.yaml, ").unwrap().to_owned()).collect()
}

fn pool(spec: &str) -> String {
    format!("{{apiVersion: poolward.io/v1, kind: IPPool, metadata: {{name: a}}, spec: {{{spec}}}}}")
}

fn only_pool(text: &str) -> (IpPool, ipam::Pool) {
    match accepted(text).remove(0).object {
        Object::Pool(pool) => *pool,
        other => panic!("{other:?}"),
    }
}

/// The walkthrough as it was once published, and as this project runs it.
const WALKTHROUGH: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: external-pool
spec:
  cidr: 192.168.255.0/26
  blockSize: 29
  ipipMode: Always
  natOutgoing: true
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: internal-pool
spec:
  cidr: 192.168.255.64/26
  blockSize: 29
  ipipMode: Always
  natOutgoing: true
---
apiVersion: v1
kind: Namespace
metadata:
  name: external-ns
  annotations:
    cni.projectcalico.org/ipv4pools: '[\"external-pool\"]'
---
apiVersion: v1
kind: Pod
metadata:
  name: nginx
  namespace: external-ns
  uid: 7a1e
  creationTimestamp: null
  labels: {app: nginx}
spec:
  nodeName: node-1
  containers: [{name: nginx, image: nginx, ports: [{containerPort: 80}]}]
status: {phase: Running}
";

#[test]
fn the_settings_of_the_cluster_are_checked_as_the_schema_would() {
    let config = |name: &str, spec: &str| {
        format!("{{apiVersion: poolward.io/v1, kind: IPAMConfig, metadata: {{name: {name}}}, spec: {spec}}}")
    };
    let accepted = accepted(&config("default", "{strictAffinity: true, maxBlocksPerNode: 4}"));
    let Object::IpamConfig(read) = &accepted[0].object else { panic!("{accepted:?}") };
    let expected =
        IpamConfigSpec { strict_affinity: true, max_blocks_per_node: Some(4), ..IpamConfigSpec::default() };
    assert_eq!(read.spec, expected);
    let check = |name: &str, spec: &str, expected: &str| {
        let refused = refused(&config(name, spec));
        assert!(refused.len() == 1 && refused[0].contains(expected), "{spec}: {refused:?}");
    };
    check("mine", "{}", "metadata.name: \"mine\": there is one of this kind in a cluster: expected default");
    check("default", "{maxBlocksPerNode: 0}", "spec.maxBlocksPerNode: 0: expected a whole number from 1");
    check("default", "{atBlockLimit: Wait}", "spec.atBlockLimit: \"Wait\": expected Fail or Borrow");
    check("default", "{goneAfterSeconds: 5}", "spec.goneAfterSeconds: 5: expected a whole number from 30");
    check(
        "default",
        "{strictAfinity: true}",
        "spec.strictAfinity: true: unknown field; did you mean strictAffinity?",
    );
}

#[test]
fn the_walkthrough_is_accepted_as_it_stands() {
    let objects = accepted(WALKTHROUGH);
    let listed: Vec<_> =
        objects.iter().map(|o| (o.object.kind(), o.key.as_str(), o.source.as_str())).collect();
    assert_eq!(
        listed,
        [
            (Kind::IpPool, "external-pool", "pools.yaml, document 1 (line 2)"),
            (Kind::IpPool, "internal-pool", "pools.yaml, document 2 (line 12)"),
            (Kind::Namespace, "external-ns", "pools.yaml, document 3 (line 22)"),
            (Kind::Pod, "external-ns/nginx", "pools.yaml, document 4 (line 29)"),
        ]
    );
    assert!(objects.iter().all(|object| object.warnings.is_empty()));
    let Object::Pool(pool) = &objects[0].object else { panic!("{:?}", objects[0]) };
    let (wire, pure) = pool.as_ref();
    assert_eq!((wire.spec.block_size, pure.block_size.prefix_len(), pure.nat_outgoing), (29, 29, true));
    assert_eq!((pure.cidr.to_string(), pure.ipip_mode), ("192.168.255.0/26".into(), model::IpipMode::Always));
    let Object::Pod(pod) = &objects[3].object else { panic!("{:?}", objects[3]) };
    assert_eq!((pod.metadata.uid.as_str(), pod.spec.node_name.as_str()), ("7a1e", "node-1"));
}

#[test]
fn what_a_manifest_leaves_out_is_filled_in() {
    let (wire, pure) = only_pool(&pool("cidr: 10.0.0.0/16"));
    let expected = json!({
        "cidr": "10.0.0.0/16", "blockSize": 26, "ipipMode": "Never", "natOutgoing": false, "disabled": false,
        "nodeSelector": "all()", "namespaceSelector": "all()", "allowedUses": ["Workload", "Tunnel"],
        "assignmentMode": "Automatic", "priority": 0, "cooldownSeconds": 0,
    });
    assert_eq!(serde_json::to_value(&wire.spec).unwrap(), expected);
    assert_eq!(pure, pool_of(&wire).unwrap());
    for (cidr, block_size) in [("10.0.0.0/28", 28), ("fd00::/64", 122), ("fd00::/126", 126)] {
        assert_eq!(only_pool(&pool(&format!("cidr: '{cidr}'"))).0.spec.block_size, block_size, "{cidr}");
    }
}

#[test]
fn every_field_of_a_pool_reaches_the_pure_pool() {
    let (_, pure) = only_pool(&pool(
        "cidr: 10.0.0.0/24, blockSize: 28, ipipMode: CrossSubnet, vxlanMode: Never, natOutgoing: true, \
         disabled: true, nodeSelector: \"rack == 'a'\", namespaceSelector: has(team), allowedUses: [Tunnel], \
         assignmentMode: Manual, priority: -3, dscp: AF41, cooldownSeconds: 60",
    ));
    assert_eq!((pure.cidr.to_string(), pure.block_size.prefix_len()), ("10.0.0.0/24".into(), 28));
    assert_eq!(
        (pure.ipip_mode, pure.nat_outgoing, pure.disabled),
        (model::IpipMode::CrossSubnet, true, true)
    );
    assert_eq!((pure.node_selector.as_str(), pure.namespace_selector.as_str()), ("rack == 'a'", "has(team)"));
    assert_eq!((pure.allowed_uses.workload, pure.allowed_uses.tunnel), (false, true));
    assert_eq!((pure.assignment_mode, pure.priority), (ipam::AssignmentMode::Manual, -3));
    assert_eq!((pure.dscp.map(model::Dscp::get), pure.cooldown.as_secs()), (Some(34), 60));
    for (text, expected) in [("46", 46), ("'46'", 46), ("ef", 46), ("0", 0), ("CS1", 8), ("63", 63)] {
        let (wire, _) = only_pool(&pool(&format!("cidr: 10.0.0.0/24, dscp: {text}")));
        assert_eq!(wire.spec.dscp, Some(expected), "{text}");
    }
}

#[test]
fn bad_fields_of_a_pool_are_refused_with_field_value_and_reason() {
    let check = |spec: &str, expected: &[&str]| {
        let expected: Vec<_> =
            expected.iter().map(|error| format!("document 1 (line 1): IPPool a: {error}")).collect();
        assert_eq!(refused(&pool(spec)), expected, "{spec}");
    };
    check("", &["spec.cidr: missing: expected ADDRESS/LENGTH such as 10.0.0.0/26"]);
    check("cidr: 10.0.0.1/26", &["spec.cidr: 10.0.0.1/26 has host bits set: the network is 10.0.0.0/26"]);
    let syntax = "is not a CIDR: expected ADDRESS/LENGTH such as 10.0.0.0/26 or fd00::/112";
    check("cidr: 10.0.0.0", &[&format!("spec.cidr: \"10.0.0.0\" {syntax}")]);
    check("cidr: 10", &["spec.cidr: 10: expected a text"]);
    let ipv4 = "is not a block size for IPv4: expected 20 to 32";
    for size in [19, 33, 122] {
        check(&format!("cidr: 10.0.0.0/8, blockSize: {size}"), &[&format!("spec.blockSize: {size} {ipv4}")]);
    }
    let ipv6 = "is not a block size for IPv6: expected 116 to 128";
    for size in [115, 26] {
        check(&format!("cidr: 'fd00::/64', blockSize: {size}"), &[&format!("spec.blockSize: {size} {ipv6}")]);
    }
    check(
        "cidr: 10.0.0.0/8, blockSize: 300",
        &["spec.blockSize: 300: expected a whole number from 0 to 128"],
    );
    check(
        "cidr: 10.0.0.0/8, blockSize: '26'",
        &["spec.blockSize: \"26\": expected a whole number from 0 to 128"],
    );
    check(
        "cidr: 10.0.0.0/27, blockSize: 26",
        &["spec.blockSize: 26: a block of /26 is larger than the pool 10.0.0.0/27: expected 27 or more"],
    );
    check(
        "cidr: 10.0.0.0/24, ipipMode: Sometimes",
        &["spec.ipipMode: \"Sometimes\" is not an ipipMode: expected Never, CrossSubnet or Always"],
    );
    check(
        "cidr: 'fd00::/64', ipipMode: Always",
        &["spec.ipipMode: \"Always\": IPIP carries IPv4 only: expected Never for an IPv6 pool"],
    );
    check(
        "cidr: 10.0.0.0/24, vxlanMode: Always",
        &["spec.vxlanMode: \"Always\": VXLAN is not supported: expected Never; ipipMode encapsulates"],
    );
    check("cidr: 10.0.0.0/24, natOutgoing: yes", &["spec.natOutgoing: \"yes\": expected true or false"]);
    check(
        "cidr: 10.0.0.0/24, nodeSelector: rack = a",
        &["spec.nodeSelector: \"rack = a\": at column 6: expected '==', found '='"],
    );
    check(
        "cidr: 10.0.0.0/24, allowedUses: [Workload, LoadBalancer, Workload, 3]",
        &[
            "spec.allowedUses[2]: \"Workload\": stands here twice",
            "spec.allowedUses[3]: 3: expected Workload or Tunnel",
            "spec.allowedUses[1]: \"LoadBalancer\": this use is not supported: expected Workload or Tunnel",
        ],
    );
    check(
        "cidr: 10.0.0.0/24, assignmentMode: automatic",
        &["spec.assignmentMode: \"automatic\": expected Automatic or Manual"],
    );
    let dscp = "expected 0 to 63, or a name such as EF, AF41 or CS1";
    for value in ["64", "-1", "\"AF44\"", "1.5", "[46]"] {
        check(&format!("cidr: 10.0.0.0/24, dscp: {value}"), &[&format!("spec.dscp: {value}: {dscp}")]);
    }
    check(
        "cidr: 10.0.0.0/24, cooldownSeconds: 90000",
        &["spec.cooldownSeconds: 90000: expected a whole number from 0 to 86400"],
    );
}

#[test]
fn unknown_fields_are_refused_with_the_nearest_known_one() {
    let check = |spec: &str, expected: &str| {
        let errors = refused(&pool(&format!("cidr: 10.0.0.0/24, {spec}")));
        assert_eq!(errors, [format!("document 1 (line 1): IPPool a: {expected}")], "{spec}");
    };
    check("blocksize: 29", "spec.blocksize: 29: unknown field; did you mean blockSize?");
    check("nat-outgoing: true", "spec.nat-outgoing: true: unknown field; did you mean natOutgoing?");
    check("nodeSelektor: all()", "spec.nodeSelektor: \"all()\": unknown field; did you mean nodeSelector?");
    let far = refused(&pool("cidr: 10.0.0.0/24, colour: {a: [1, 2]}")).remove(0);
    assert!(
        far.contains("spec.colour: {\"a\":[1,2]}: unknown field: expected one of allowedUses, "),
        "{far}"
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = "
apiVersion: poolward.io/v1
kind: IPPool
metadata: {name: Bad/Name, labels: {tier: 1}}
spec: {cidr: 10.0.0.1/24, blockSize: 12, natOutgoing: 1}
---
apiVersion: poolward.io/v1
kind: IPPol
metadata: {name: b}
---
- 1
---
apiVersion: v2
kind: Pod
metadata: {name: c}
";
    let name = "expected 1 to 253 lower-case letters, digits, '-' or '.', starting and ending with a letter or digit";
    let expected = [
        format!("document 1 (line 2): IPPool Bad/Name: metadata.name: \"Bad/Name\" is not a valid name: {name}"),
        "document 1 (line 2): IPPool Bad/Name: metadata.labels.tier: 1: expected a text (put numbers, true and \
         false in quotes)"
            .into(),
        "document 1 (line 2): IPPool Bad/Name: spec.natOutgoing: 1: expected true or false".into(),
        "document 1 (line 2): IPPool Bad/Name: spec.cidr: 10.0.0.1/24 has host bits set: the network is 10.0.0.0/24"
            .into(),
        "document 2 (line 7): kind: \"IPPol\": unknown kind; did you mean IPPool?".into(),
        "document 3 (line 11): [1]: expected an object: a mapping with apiVersion, kind and metadata".into(),
        "document 4 (line 13): Pod: apiVersion: \"v2\": expected v1".into(),
    ];
    assert_eq!(refused(text), expected);
}

#[test]
fn names_and_annotations_of_workloads_are_checked() {
    let check = |text: &str, expected: &str| {
        let errors = refused(text);
        assert!(errors.len() == 1 && errors[0].contains(expected), "{text}\n{errors:#?}");
    };
    let pod = |metadata: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{{metadata}}}}}");
    check(&pod("name: a/b"), "metadata.name: \"a/b\" is not a valid name");
    check(&pod("name: ../../etc"), "metadata.name: \"../../etc\" is not a valid name");
    check(&pod("name: a, namespace: b.c"), "metadata.namespace: \"b.c\" is not a valid name of a namespace");
    check(&pod("uid: 1-2"), "metadata.name: missing: an object needs a name");
    check(&pod("name: a, colour: b"), "metadata.colour: \"b\": unknown field");
    check("{apiVersion: v1, kind: Pod}", "metadata: missing");
    check("{kind: Pod, metadata: {name: a}}", "apiVersion: missing: expected v1");
    check("{apiVersion: v1, metadata: {name: a}}", "kind: missing");
    check(
        "{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: b}}",
        "metadata.namespace: \"b\": objects of kind Namespace are in no namespace",
    );
    let key = "cni.projectcalico.org/ipv4pools";
    check(
        &pod(&format!("name: a, annotations: {{{key}: external-pool}}")),
        &format!("metadata.annotations.{key}: \"external-pool\": at column 1: expected '['"),
    );
    check(
        &pod(&format!("name: a, annotations: {{{key}: '[\"a\"]', poolward.io/ipv4pools: '[\"b\"]'}}")),
        &format!("metadata.annotations.poolward.io/ipv4pools: \"[\\\"b\\\"]\": differs from {key}"),
    );
    for (key, value, reason) in [
        ("ipAddrs", "10.0.0.9", "at column 1: expected '['"),
        ("ipFamilies", "[\"IPv5\"]", "expected \"IPv4\" or \"IPv6\""),
        ("hwAddr", "ff:ff:ff:ff:ff:ff", "expected a unicast address"),
        ("allowedSourcePrefixes", "[\"10.0.0.1/24\"]", "10.0.0.0/24"),
    ] {
        let found = refused(&pod(&format!("name: a, annotations: {{poolward.io/{key}: '{value}'}}")));
        let place = format!("metadata.annotations.poolward.io/{key}");
        assert!(found.len() == 1 && found[0].contains(&place) && found[0].contains(reason), "{found:?}");
    }
    let mut objects = accepted(&pod("name: a, annotations: {cni.projectcalico.org/floatingIPs: x}"));
    assert_eq!(objects.remove(0).warnings.len(), 1);
    // What only a pod can ask for is nothing on a namespace.
    let namespace =
        "{apiVersion: v1, kind: Namespace, metadata: {name: a, annotations: {poolward.io/hwAddr: x}}}";
    assert_eq!(accepted(namespace).remove(0).warnings.len(), 1);
    assert_eq!(accepted(&pod("name: a"))[0].key.as_str(), "default/a");
}

#[test]
fn objects_are_refused_that_do_not_go_with_each_other() {
    let pools = |list: &[(&str, &str)]| -> String {
        let one = |(name, cidr): &(&str, &str)| {
            format!(
                "{{apiVersion: poolward.io/v1, kind: IPPool, metadata: {{name: {name}}}, spec: {{cidr: '{cidr}'}}}}"
            )
        };
        list.iter().map(one).collect::<Vec<_>>().join("\n---\n")
    };
    let check =
        |list: &[(&str, &str)], expected: &[&str]| assert_eq!(refused(&pools(list)), expected, "{list:?}");
    check(
        &[("a", "10.0.0.0/24"), ("b", "10.0.0.64/26")],
        &[
            "document 2 (line 3): IPPool b: spec.cidr: 10.0.0.64/26 overlaps 10.0.0.0/24 of IPPool a in pools.yaml, \
           document 1 (line 1): pools may not share addresses",
        ],
    );
    check(
        &[("a", "10.0.0.64/26"), ("b", "10.0.0.0/24")],
        &[
            "document 2 (line 3): IPPool b: spec.cidr: 10.0.0.0/24 overlaps 10.0.0.64/26 of IPPool a in pools.yaml, \
           document 1 (line 1): pools may not share addresses",
        ],
    );
    check(
        &[("a", "10.0.0.0/24"), ("a", "10.0.0.0/24")],
        &[
            "document 2 (line 3): IPPool a: metadata.name: a: the same object stands in pools.yaml, document 1 \
           (line 1) already",
        ],
    );
    assert_eq!(
        accepted(&pools(&[("a", "10.0.0.0/25"), ("b", "10.0.0.128/25"), ("c", "fd00::/64")])).len(),
        3
    );
    // A pod and a namespace, or pods of two namespaces, may have one name.
    let workloads = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: a}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: b}}";
    assert_eq!(accepted(workloads).len(), 3);
}

#[test]
fn lists_are_unwrapped_and_their_items_named() {
    let text = "
apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: a}}
- {apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: b}, spec: {cidr: 10.0.0.0/24}}
---
apiVersion: projectcalico.org/v3
kind: IPPoolList
items:
- {metadata: {name: c}, spec: {cidr: 10.0.1.0/24}}
";
    let objects = accepted(text);
    let keys: Vec<_> = objects.iter().map(|object| (object.object.kind(), object.key.as_str())).collect();
    assert_eq!(keys, [(Kind::Namespace, "a"), (Kind::IpPool, "b"), (Kind::IpPool, "c")]);
    assert_eq!(objects[2].source, "pools.yaml, document 2 (line 9), items[0]");
    let nested = "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: []}, 7]}";
    assert_eq!(
        refused(nested),
        [
            "document 1 (line 1), items[0]: kind: \"List\": unknown kind: expected IPPool, IPReservation, IPAMConfig, \
             Namespace or Pod",
            "document 1 (line 1), items[1]: 7: expected an object: a mapping with apiVersion, kind and metadata",
        ]
    );
    let no_items = refused("{apiVersion: v1, kind: List}");
    assert_eq!(no_items, ["document 1 (line 1): List: items: missing: expected a list of objects"]);
}

#[test]
fn reservations_take_ranges_and_single_addresses() {
    let text = |ranges: &str| {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: IPReservation, metadata: {{name: r}}, \
             spec: {{reservedCIDRs: {ranges}}}}}"
        )
    };
    let objects = accepted(&text("[10.0.0.0/30, 10.0.0.9, 'fd00::1']"));
    let Object::Reservation(wire, ranges) = &objects[0].object else { panic!("{objects:?}") };
    assert_eq!(wire.spec.reserved_cidrs, ["10.0.0.0/30", "10.0.0.9/32", "fd00::1/128"]);
    assert_eq!(ranges.len(), 3);
    assert_eq!(
        refused(&text("[10.0.0.1/30, 7]")),
        [
            "document 1 (line 1): IPReservation r: spec.reservedCIDRs[0]: 10.0.0.1/30 has host bits set: the network \
             is 10.0.0.0/30",
            "document 1 (line 1): IPReservation r: spec.reservedCIDRs[1]: 7: expected a range such as \"10.0.0.0/30\"",
        ]
    );
}

#[test]
fn what_has_no_effect_is_accepted_with_a_warning() {
    let objects = accepted(&pool("cidr: 10.0.0.0/24, disableBGPExport: true"));
    let expected = "pools.yaml, document 1 (line 1): IPPool a: spec.disableBGPExport: has no effect: no routes are \
                    exported by BGP here";
    assert_eq!(objects[0].warnings, [expected]);
}

#[test]
fn an_object_that_is_printed_can_be_applied_again() {
    let exported = "
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata:
  name: a
  uid: 0b7e9f5e-theirs
  resourceVersion: '12'
  generation: 3
  creationTimestamp: '2026-01-01T00:00:00Z'
  managedFields: [{manager: kubectl}]
  labels: {tier: edge}
spec: {cidr: 10.0.0.0/24, dscp: EF}
";
    let (mut value, _) = only_pool(exported);
    assert_eq!(value.metadata.uid, "", "the uid of another cluster's object is not ours");
    value.metadata.uid = "uid-1".into();
    let stored = Versioned { uid: "uid-1".into(), revision: Revision::new(7), value };
    let printed = to_manifest(&stored);
    assert_eq!(printed["apiVersion"], json!("poolward.io/v1"));
    assert_eq!(
        printed["metadata"],
        json!({"name": "a", "uid": "uid-1", "resourceVersion": "7", "labels": {"tier": "edge"}})
    );
    let (again, _) = only_pool(&serde_json::to_string(&printed).unwrap());
    assert_eq!((again.spec, again.metadata.labels), (stored.value.spec, stored.value.metadata.labels));
}

#[test]
fn blocks_are_printed_but_not_applied() {
    let cidr = "10.0.0.0/26".parse().unwrap();
    let spec = IpBlockSpec {
        cidr: "10.0.0.0/26".into(),
        pool: "a".into(),
        node: "n".into(),
        ..IpBlockSpec::default()
    };
    let block = IpBlock { metadata: Metadata::named(Key::of_block(cidr).as_str()), spec };
    assert_eq!(block.key().unwrap(), Key::of_block(cidr));
    let printed = to_manifest(&Versioned { value: block, uid: "u".into(), revision: Revision::new(1) });
    let document = Document { source: "block".into(), body: printed };
    let errors = validate(&[document]).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "block: IPBlock 10-0-0-0-26: kind: \"IPBlock\": blocks are written by agents and cannot be applied"
    );
}

#[test]
fn stored_objects_that_were_tampered_with_say_so() {
    let mut object = IpPool { metadata: Metadata::named("a"), ..IpPool::default() };
    object.spec.cidr = "10.0.0.1/24".into();
    object.spec.dscp = Some(70);
    let errors: Vec<_> = pool_of(&object).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "stored object: IPPool a: spec.cidr: 10.0.0.1/24 has host bits set: the network is 10.0.0.0/24",
            "stored object: IPPool a: spec.dscp: 70 is not a DSCP: expected 0 to 63",
        ]
    );
}

#[test]
fn bad_yaml_is_refused_with_line_and_column() {
    let check = |text: &str, expected: &str| {
        let error = parse_yaml("pools.yaml", text).expect_err(text).to_string();
        assert!(error.starts_with("pools.yaml") && error.contains(expected), "{text:?}: {error}");
    };
    check("a: 1\nb: [1, 2\nc: 3\n", "pools.yaml, line 3, column 2: illegal placement");
    check("kind: Pod\nkind: IPPool\n", "pools.yaml, line 2, column 1: duplicate mapping key: kind");
    check("a: *unknown\n", "pools.yaml, line 1, column 4: alias references unknown anchor");
    check("a: !secret x\n", "line 1, column");
    check("a: .inf\n", "non-finite");
    check(&"[".repeat(10_000), "pools.yaml, line 1, column");
    check(
        &format!("a: '{}'", "x".repeat(4 * 1024 * 1024)),
        "pools.yaml: the text has 4194309 bytes, at most",
    );
    // Nine doublings of nine: as small as a bomb gets.
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, before) in ('b'..='i').zip('a'..) {
        bomb += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","));
    }
    check(&bomb, "line 6, column 8: alias replay limit exceeded: total_replayed_events=100001 > 100000");
}

#[test]
fn yaml_is_read_as_version_1_2() {
    let check = |text: &str, expected: Value| assert_eq!(documents(text)[0].body, expected, "{text}");
    check("a: yes", json!({"a": "yes"}));
    check("a: true", json!({"a": true}));
    check("a: 1e3", json!({"a": 1000.0}));
    check("{\"a\": [1, null]}", json!({"a": [1, null]}));
    check("base: &b {x: 1}\nmore: {<<: *b, y: 2}", json!({"base": {"x": 1}, "more": {"x": 1, "y": 2}}));
    assert_eq!(documents("---\n# nothing\n---\na: 1\n---\n").len(), 1);
    assert_eq!(documents(""), []);
}
