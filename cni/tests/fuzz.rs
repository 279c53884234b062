//! Whatever stands in the environment and on standard input, the plugin ends with a well-formed CNI error: no
//! panic, no signal, nothing else on standard output. No agent listens, so nothing succeeds but VERSION.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod support;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::{NETNS, Outcome, Run};

const VERBS: [&str; 5] = ["ADD", "DEL", "CHECK", "GC", "STATUS"];
const ABSENT: &str = "/nonexistent/agent.sock";

fn verbs() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&VERBS[..])
}

/// Any JSON value, shallow.
fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        proptest::sample::select(&["eth0", NETNS, "1.1.0", "10.0.0.1/32", "true", ABSENT][..])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(keys(), inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The keys that mean something somewhere, and others.
fn keys() -> impl Strategy<Value = String> {
    let known = [
        "cniVersion",
        "name",
        "type",
        "mtu",
        "ipam",
        "prevResult",
        "runtimeConfig",
        "capabilities",
        "args",
        "dns",
        "logLevel",
        "timeoutMs",
        "cni.dev/valid-attachments",
        "ipv4_pools",
        "assign_ipv4",
        "interfaces",
        "ips",
        "routes",
        "address",
        "interface",
        "sandbox",
        "containerID",
        "ifname",
        "nameservers",
        "mac",
    ];
    prop_oneof![4 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,8}"]
}

/// Bytes that the kernel takes as the value of a variable.
fn variables() -> impl Strategy<Value = OsString> {
    prop_oneof![
        vec(1_u8.., 0..60).prop_map(OsString::from_vec),
        ".{0,40}".prop_map(|text: String| OsString::from(text.replace('\0', ""))),
        proptest::sample::select(
            &["", "c0ffee", "eth0", NETNS, "A=1;B=2", "IgnoreUnknown=1", "K8S_POD_NAME=a;;"][..]
        )
        .prop_map(OsString::from),
    ]
}

fn is_a_cni_error(outcome: &Outcome) -> u32 {
    outcome.failure().0
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_bytes_on_standard_input(verb in verbs(), bytes in vec(any::<u8>(), 0..200)) {
        let code = is_a_cni_error(&Run::new(verb, Path::new(ABSENT)).stdin(bytes).run());
        prop_assert!([1, 6, 7].contains(&code), "{}", code);
    }

    #[test]
    fn any_bytes_to_version(bytes in vec(any::<u8>(), 0..40)) {
        let empty = bytes.iter().all(u8::is_ascii_whitespace);
        let outcome = Run::new("VERSION", Path::new(ABSENT)).stdin(bytes).run();
        if empty {
            prop_assert_eq!(&outcome.success()["cniVersion"], "1.1.0");
        } else {
            prop_assert!([6, 7].contains(&is_a_cni_error(&outcome)));
        }
    }

    #[test]
    fn any_object_as_configuration(verb in verbs(), map in btree_map(keys(), json_values(), 0..8)) {
        let mut map: Map<String, Value> = map.into_iter().collect();
        // The real agent of a developer's machine must not hear of it.
        map.insert("agentSocket".to_owned(), ABSENT.into());
        let bytes = Value::Object(map).to_string().into_bytes();
        is_a_cni_error(&Run::new(verb, Path::new(ABSENT)).stdin(bytes).run());
    }

    #[test]
    fn a_good_configuration_with_one_odd_key(verb in verbs(), key in keys(), value in json_values()) {
        let run = Run::new(verb, Path::new(ABSENT)).config(json!({key: value}));
        is_a_cni_error(&run.run());
    }

    #[test]
    fn a_good_configuration_cut_or_damaged(verb in verbs(), at in 0_usize..400, byte in proptest::option::of(any::<u8>())) {
        let whole = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "poolward", "agentSocket": ABSENT, "mtu": 1400,
            "ipam": {"ipv4_pools": ["a"], "assign_ipv4": "true"}, "cni.dev/valid-attachments": [],
            "prevResult": {"interfaces": [{"name": "eth1", "sandbox": NETNS}],
                "ips": [{"address": "10.0.0.1/32", "interface": 0}], "routes": [{"dst": "0.0.0.0/0"}]},
        });
        let mut bytes = whole.to_string().into_bytes();
        let at = at % bytes.len();
        match byte {
            Some(byte) => bytes[at] = byte,
            None => bytes.truncate(at),
        }
        // Without the key the plugin would ask the agent of this machine, if there is one.
        prop_assume!(String::from_utf8_lossy(&bytes).contains("\"agentSocket\"") || serde_json::from_slice::<Value>(&bytes).is_err());
        is_a_cni_error(&Run::new(verb, Path::new(ABSENT)).stdin(bytes).run());
    }

    #[test]
    fn any_environment(
        verb in prop_oneof![4 => verbs().prop_map(OsString::from), 1 => variables()],
        id in variables(), netns in variables(), ifname in variables(), args in variables(), path in variables(),
    ) {
        prop_assume!(verb != "VERSION" && !verb.is_empty());
        let run = Run::new("ADD", Path::new(ABSENT))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", ifname)
            .env("CNI_ARGS", args)
            .env("CNI_PATH", path);
        is_a_cni_error(&run.run());
    }
}
