//! The plugin as a runtime runs it, against a fake agent on a unix socket.
//!
//! The fake answers what it is told to; it proves nothing about the agent. The network namespace is the test's
//! own, which `CNI_NETNS_OVERRIDE` allows, so that no privilege is needed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "support/agent.rs"]
mod agent;
mod support;

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use agent::{Answer, FakeAgent, refusal};
use rpc::frame::version_refusal;
use rpc::{
    AddReply, AddressReply, Attachment, CheckRequest, DelRequest, ErrorCode, GcReply, GcRequest,
    InterfaceReply, NetworkOptions, PodRef, Reply, Request, RpcError, ValidAttachment,
};
use serde_json::{Value, json};
use support::{NETNS, Outcome, Run};

fn added() -> Reply {
    let address = |address: &str, gateway: &str| AddressReply {
        address: address.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        pool: "external-pool".into(),
    };
    Reply::Added(AddReply {
        host: InterfaceReply { name: "pw0123456789abc".into(), mac: "0a:00:00:00:00:01".into() },
        pod: InterfaceReply { name: "eth0".into(), mac: "0a:00:00:00:00:02".into() },
        addresses: vec![address("10.0.0.1", "169.254.1.1"), address("fd00::1", "fe80::1")],
        mtu_bytes: 1480,
    })
}

fn result_of(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": "pw0123456789abc", "mac": "0a:00:00:00:00:01"},
            {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": NETNS},
        ],
        "ips": [
            {"version": "4", "address": "10.0.0.1/32", "gateway": "169.254.1.1", "interface": 1},
            {"version": "6", "address": "fd00::1/128", "gateway": "fe80::1", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
    })
}

/// The result of 1.1.0: no family, but MTUs.
fn newest_result() -> Value {
    let mut result = result_of("1.1.0");
    result["ips"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|ip| drop(ip.as_object_mut().unwrap().remove("version")));
    result["interfaces"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|interface| interface["mtu"] = 1480.into());
    result
}

/// Success of a verb that prints nothing.
fn succeeds_silently(outcome: &Outcome) {
    assert_eq!(
        (outcome.code, outcome.stdout.is_empty(), outcome.stderr.is_empty()),
        (Some(0), true, true),
        "{outcome:?}"
    );
}

fn attachment() -> Attachment {
    Attachment { container_id: "c0ffee".into(), ifname: "eth0".into(), network: "net".into() }
}

#[test]
fn add_passes_on_what_the_runtime_said_and_the_open_namespace() {
    let agent = FakeAgent::start(Answer::Reply(added()));
    let outcome = Run::new("ADD", &agent.path)
        .env(
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=external-ns;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=c0ffee;\
             K8S_POD_UID=1-2;X=y",
        )
        .config(json!({"mtu": 1400, "ipam": {"type": "poolward-ipam", "ipv4_pools": ["a"], "assign_ipv6": "true"}}))
        .run();
    assert_eq!(outcome.success(), newest_result());
    let heard = agent.heard();
    let Request::CniAdd(request) = &heard.request else { panic!("{heard:?}") };
    assert_eq!(request.attachment, attachment());
    assert_eq!(request.netns_path, NETNS);
    assert_eq!(
        request.pod,
        PodRef { namespace: "external-ns".into(), name: "web-1".into(), uid: "1-2".into() }
    );
    assert_eq!(
        request.options,
        NetworkOptions {
            ipv4_pools: Some(vec!["a".into()]),
            assign_ipv6: Some(true),
            mtu_bytes: Some(1400),
            ..NetworkOptions::default()
        }
    );
    let own = std::fs::metadata(NETNS).map(|meta| std::os::unix::fs::MetadataExt::ino(&meta)).unwrap();
    assert_eq!(heard.fd_inode, Some(own), "the descriptor is the namespace");
}

#[test]
fn each_version_gets_its_own_shape() {
    let check = |version: &str, expected: Value| {
        let agent = FakeAgent::start(Answer::Reply(added()));
        let outcome = Run::new("ADD", &agent.path).config(json!({"cniVersion": version})).run();
        assert_eq!(outcome.success(), expected, "{version}");
    };
    check("0.3.1", result_of("0.3.1"));
    check("0.4.0", result_of("0.4.0"));
    let mut one = newest_result();
    one["cniVersion"] = "1.0.0".into();
    one["interfaces"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|i| drop(i.as_object_mut().unwrap().remove("mtu")));
    check("1.0.0", one);
    check("1.1.0", newest_result());
}

#[test]
fn add_behind_another_plugin_extends_its_result() {
    let agent = FakeAgent::start(Answer::Reply(added()));
    let earlier = json!({
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "br0"}, {"name": "net9", "sandbox": NETNS}],
        "ips": [{"version": "4", "address": "192.168.1.9/24", "interface": 1}],
        "routes": [{"dst": "192.168.0.0/16"}],
        "dns": {"domain": "old"},
    });
    let outcome =
        Run::new("ADD", &agent.path).config(json!({"prevResult": earlier, "dns": {"domain": "new"}})).run();
    let result = outcome.success();
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
    assert_eq!(result["ips"][0], json!({"address": "192.168.1.9/24", "interface": 1}));
    assert_eq!(result["ips"][1], json!({"address": "10.0.0.1/32", "gateway": "169.254.1.1", "interface": 3}));
    assert_eq!(result["routes"].as_array().unwrap().len(), 3);
    assert_eq!(result["dns"], json!({"domain": "new"}));
}

#[test]
fn a_call_that_is_wrong_is_refused_before_the_agent_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let check = |run: Run, code: u32, expected: &str| {
        let (found, msg) = run.run().failure();
        assert_eq!(found, code, "{msg}");
        assert!(msg.contains(expected), "{msg}");
        let heard = listener.accept();
        assert!(heard.is_err(), "the agent was asked in spite of {msg}");
    };
    let add = || Run::new("ADD", &path);
    check(add().config(json!({"cniVersion": "0.2.0"})), 1, "supported are 0.3.1, 0.4.0, 1.0.0, 1.1.0");
    check(add().config(json!({"ipam": {"pools": ["a"]}})), 2, "ipam.pools=[\"a\"]");
    check(add().env("CNI_COMMAND", "INSTALL"), 4, "CNI_COMMAND=\"INSTALL\"");
    check(add().env("CNI_CONTAINERID", ""), 4, "CNI_CONTAINERID: not set");
    check(add().env("CNI_IFNAME", "sixteen-letters-"), 4, "CNI_IFNAME");
    check(add().env("CNI_ARGS", "FOO=1"), 4, "CNI_ARGS: unknown: \"FOO=1\"");
    check(add().env("CNI_NETNS", "/no/such"), 4, "CNI_NETNS=\"/no/such\": open: No such file");
    check(add().env("CNI_NETNS", "/etc/passwd"), 4, "not a network namespace");
    check(add().env("CNI_NETNS_OVERRIDE", ""), 4, "the plugin's own network namespace");
    check(
        add().config(json!({"prevResult": {"interfaces": [{"name": "eth0", "sandbox": NETNS}]}})),
        4,
        "CNI_IFNAME=\"eth0\": an earlier plugin",
    );
    check(add().stdin(b"{".to_vec()), 6, "not JSON");
    check(add().stdin(Vec::new()), 6, "empty");
    check(add().stdin(vec![b' '; (1 << 20) + 1]), 7, "longer than 1048576 bytes");
    check(add().config(json!({"name": "a/b"})), 7, "name: \"a/b\"");
    check(add().config(json!({"prevResult": {"ips": 1}})), 7, "prevResult.ips: expected a list");
    check(Run::new("CHECK", &path).config(json!({"cniVersion": "0.3.1"})), 1, "CHECK exists since 0.4.0");
    check(Run::new("CHECK", &path), 7, "prevResult: missing, but required by CHECK");
    check(
        Run::new("CHECK", &path).config(json!({"prevResult": {}})),
        7,
        "no interface \"eth0\" of a container",
    );
    check(
        Run::new("CHECK", &path)
            .config(json!({"prevResult": {"interfaces": [{"name": "eth0", "sandbox": NETNS}]}})),
        7,
        "no address of the interface \"eth0\"",
    );
    check(Run::new("GC", &path).config(json!({"cniVersion": "1.0.0"})), 1, "GC exists since 1.1.0");
    check(Run::new("GC", &path), 7, "cni.dev/valid-attachments: missing");
    check(Run::new("STATUS", &path).config(json!({"cniVersion": "0.4.0"})), 1, "STATUS exists since 1.1.0");
    check(Run::new("STATUS", &path).config(json!({"mtu": "big"})), 7, "mtu: expected a whole number");
}

#[test]
fn del_needs_neither_namespace_nor_result_nor_a_known_attachment() {
    let check = |run: fn(Run) -> Run, answer: Reply| {
        let agent = FakeAgent::start(Answer::Reply(answer));
        succeeds_silently(&run(Run::new("DEL", &agent.path)).run());
        assert_eq!(agent.heard().request, Request::CniDel(DelRequest { attachment: attachment() }));
    };
    check(|run| run, Reply::Done);
    check(|run| run.env("CNI_NETNS", ""), Reply::Done);
    check(|run| run.env("CNI_NETNS", "/gone").env("CNI_ARGS", "garbage"), Reply::Done);
    check(|run| run.config(json!({"prevResult": "garbage", "ipam": {"typo": 1}, "mtu": "x"})), Reply::Done);
    check(|run| run.config(json!({"cniVersion": "0.3.1"})), Reply::Done);
    check(|run| run, refusal(ErrorCode::NotFound));
}

#[test]
fn check_asks_for_the_addresses_of_this_interface_alone() {
    let agent = FakeAgent::start(Answer::Reply(Reply::Done));
    let mut result = newest_result();
    result["interfaces"].as_array_mut().unwrap().push(json!({"name": "net9", "sandbox": NETNS}));
    result["ips"].as_array_mut().unwrap().push(json!({"address": "192.168.1.9/24", "interface": 2}));
    succeeds_silently(&Run::new("CHECK", &agent.path).config(json!({"prevResult": result})).run());
    let heard = agent.heard();
    let expected_addresses: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(
        heard.request,
        Request::CniCheck(CheckRequest { attachment: attachment(), expected_addresses })
    );
    assert!(heard.fd_inode.is_some());
}

#[test]
fn gc_passes_the_list_on_and_the_time_of_the_call() {
    let boot_ms = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap()
    };
    let before = boot_ms();
    let agent = FakeAgent::start(Answer::Reply(Reply::Collected(GcReply::default())));
    let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
    succeeds_silently(&Run::new("GC", &agent.path).config(json!({"cni.dev/valid-attachments": list})).run());
    let Request::CniGc(GcRequest { network, valid, called_at_boot_ms }) = agent.heard().request else {
        panic!("another request")
    };
    assert_eq!(network, "net");
    assert_eq!(valid, [ValidAttachment { container_id: "c1".into(), ifname: "eth0".into() }]);
    assert!((before..=boot_ms()).contains(&called_at_boot_ms));

    let errors = vec!["10.0.0.1: veth: busy".to_owned(), "10.0.0.2: journal: full".to_owned()];
    let agent = FakeAgent::start(Answer::Reply(Reply::Collected(GcReply { freed: vec![], errors })));
    let outcome = Run::new("GC", &agent.path).config(json!({"cni.dev/valid-attachments": null})).run();
    let (code, msg) = outcome.failure();
    assert_eq!((code, msg.as_str()), (100, "GC: network net: 0 attachments freed, 2 not"));
    assert_eq!(outcome.json()["details"], "10.0.0.1: veth: busy\n10.0.0.2: journal: full");
}

#[test]
fn status_says_whether_an_add_would_be_served() {
    let agent = FakeAgent::start(Answer::Reply(Reply::Done));
    succeeds_silently(&Run::new("STATUS", &agent.path).run());
    assert_eq!(agent.heard().request, Request::CniStatus);
}

#[test]
fn every_refusal_of_the_agent_becomes_its_cni_error() {
    let prev = || json!({"prevResult": newest_result()});
    let check = |verb: &'static str, code: ErrorCode, expected: u32| {
        let agent = FakeAgent::start(Answer::Reply(refusal(code)));
        let mut run = Run::new(verb, &agent.path);
        run = match verb {
            "CHECK" => run.config(prev()),
            "GC" => run.config(json!({"cni.dev/valid-attachments": []})),
            _ => run,
        };
        let outcome = run.run();
        let (found, msg) = outcome.failure();
        assert_eq!((found, msg), (expected, format!("{verb}: no free address")), "{code:?}");
        let details = outcome.json()["details"].as_str().unwrap().to_owned();
        assert!(details.starts_with("external-pool: 0 of 64 free\ninternal-pool: not asked"), "{details}");
    };
    check("ADD", ErrorCode::Invalid, 7);
    check("ADD", ErrorCode::NotFound, 7);
    check("ADD", ErrorCode::Conflict, 101);
    check("ADD", ErrorCode::Exhausted, 11);
    check("ADD", ErrorCode::TryAgain, 11);
    check("ADD", ErrorCode::NotReady, 11);
    check("ADD", ErrorCode::Cancelled, 103);
    check("ADD", ErrorCode::Internal, 100);
    check("DEL", ErrorCode::TryAgain, 11);
    check("DEL", ErrorCode::Internal, 100);
    check("CHECK", ErrorCode::CheckFailed, 102);
    check("CHECK", ErrorCode::NotFound, 3);
    check("GC", ErrorCode::Internal, 100);
    check("STATUS", ErrorCode::NotReady, 50);
    check("STATUS", ErrorCode::NotReadyLimited, 51);
}

#[test]
fn an_agent_that_is_away_hangs_breaks_off_or_is_another_is_told_apart() {
    let check = |answer: Option<Answer>, verb: &'static str, code: u32, expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        let agent = answer.map(FakeAgent::start);
        let path = agent.as_ref().map_or_else(|| dir.path().join("absent.sock"), |agent| agent.path.clone());
        let start = Instant::now();
        let (found, msg) = Run::new(verb, &path).config(json!({"timeoutMs": 200})).run().failure();
        assert_eq!(found, code, "{msg}");
        assert!(msg.starts_with(&format!("{verb}: ")) && msg.contains(expected), "{msg}");
        assert!(msg.contains(path.to_str().unwrap()) || expected.contains("does not belong"), "{msg}");
        assert!(start.elapsed() < Duration::from_secs(10));
    };
    let other = || Some(Answer::Reply(Reply::Error(version_refusal(1))));
    let newer = || Some(Answer::Bytes(b"PWRD\x00\x09\x02\x00\x00\x00\x00\x02{}".to_vec()));
    for (verb, away, protocol) in [("ADD", 11, 104), ("DEL", 11, 104), ("STATUS", 50, 50)] {
        check(None, verb, away, "is the agent running?");
        check(Some(Answer::Hang), verb, away, "no answer within 200 ms");
        check(Some(Answer::Bytes(Vec::new())), verb, away, "closed the connection");
        check(Some(Answer::Bytes(b"PWRD\x00\x01".to_vec())), verb, away, "closed the connection");
        check(other(), verb, away, "version 1 of the request is not spoken here");
        check(newer(), verb, away, "speaks protocol version 9");
        check(Some(Answer::Bytes(b"SSH-2.0-OpenSSH_9".to_vec())), verb, protocol, "not Poolward's");
        let misplaced = Reply::Released(rpc::IpamReleaseReply::default());
        check(Some(Answer::Reply(misplaced)), verb, protocol, "does not belong to this request");
    }
}

#[test]
fn an_add_without_addresses_is_no_success() {
    let Reply::Added(mut reply) = added() else { unreachable!() };
    reply.addresses.clear();
    let agent = FakeAgent::start(Answer::Reply(Reply::Added(reply)));
    assert_eq!(Run::new("ADD", &agent.path).run().failure().0, 104);
}

#[test]
fn version_needs_no_agent_and_repeats_the_runtimes_version() {
    let supported = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let check = |stdin: &str, expected: &str| {
        let outcome = Run::new("VERSION", "/absent".as_ref()).stdin(stdin.into()).run();
        assert_eq!(outcome.success(), json!({"cniVersion": expected, "supportedVersions": supported}));
    };
    check("", "1.1.0");
    check(r#"{"cniVersion":"0.4.0"}"#, "0.4.0");
    let (code, msg) = Run::new("VERSION", "/absent".as_ref()).stdin(b"[]".to_vec()).run().failure();
    assert_eq!(code, 6, "{msg}");
}

#[test]
fn errors_speak_the_version_of_the_configuration() {
    let check = |version: &str, expected: &str| {
        let run = Run::new("ADD", "/absent/a.sock".as_ref()).config(json!({"cniVersion": version}));
        assert_eq!(run.run().json()["cniVersion"], expected);
    };
    check("0.3.1", "0.3.1");
    check("1.0.0", "1.0.0");
    check("9.9.9", "1.1.0");
}

#[test]
fn debug_writes_one_line_to_standard_error_and_nothing_is_written_otherwise() {
    let agent = FakeAgent::start(Answer::Reply(Reply::Done));
    let outcome = Run::new("DEL", &agent.path).config(json!({"logLevel": "debug"})).run();
    let text = String::from_utf8(outcome.stderr.clone()).unwrap();
    assert!(text.starts_with("poolward: DEL in ") && text.ends_with(" ms: done\n"), "{text}");
    let agent = FakeAgent::start(Answer::Reply(Reply::Done));
    succeeds_silently(&Run::new("DEL", &agent.path).run());
}

#[test]
fn a_person_is_told_what_this_is_and_what_to_use() {
    let by_hand = |args: &[&str]| -> Outcome {
        let mut command = support::command();
        command.args(args).stdin(Stdio::null()).output().unwrap().into()
    };
    let bare = by_hand(&[]);
    let text = String::from_utf8(bare.stderr.clone()).unwrap();
    assert!(
        text.starts_with("poolward 0.1.0: the CNI plugin") && text.contains("poolwardctl status"),
        "{text}"
    );
    assert_eq!(bare.code, Some(1));
    assert_eq!(bare.json()["msg"], "CNI_COMMAND: not set", "a runtime reads standard output");
    let version = by_hand(&["--version"]);
    assert_eq!((version.code, version.stdout.as_slice()), (Some(0), &b"poolward 0.1.0\n"[..]));
    let help = by_hand(&["--help"]);
    assert_eq!((help.code, String::from_utf8(help.stdout).unwrap()), (Some(0), text));
}

#[test]
fn a_closed_standard_output_ends_it_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = support::command()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{}").unwrap();
    let outcome = child.wait_with_output().unwrap();
    assert_eq!((outcome.status.code(), outcome.stderr), (Some(1), Vec::new()));
}

#[test]
fn details_of_a_refusal_end_with_the_next_step() {
    let error = RpcError { code: ErrorCode::Exhausted, message: "m".into(), details: vec![] };
    let agent = FakeAgent::start(Answer::Reply(Reply::Error(error)));
    let outcome = Run::new("ADD", &agent.path).run();
    assert_eq!(outcome.failure().0, 11);
    assert!(outcome.json()["details"].as_str().unwrap().contains("poolwardctl ipam show"));
}
