//! The binary as a user or a script meets it: what it prints, asks and returns, against a fake agent.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests end the test")]

mod fake_agent;

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fake_agent::{Answer, FakeAgent};
use rpc::{
    AddressUsage, ApplyReply, DeleteRequest, ErrorCode, GetReply, GetRequest, IpamReleaseReply,
    IpamReleaseRequest, IpamReply, IpamShowRequest, NodeStatusReply, ObjectResult, PoolRange, PoolUsage,
    PoolsExportReply, Reply, Request, RpcError, Usage, VersionReply,
};
use serde_json::{Value, json};

fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poolwardctl"));
    command
        .args(line.split_whitespace())
        .env_remove("NO_COLOR")
        .env_remove("POOLWARD_SOCKET")
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null());
    command
}

/// What one run left behind.
#[derive(Debug)]
struct Ran {
    exit: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { exit: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

fn run(agent: &FakeAgent, line: &str) -> Ran {
    command(line).env("POOLWARD_SOCKET", agent.socket()).output().unwrap().into()
}

fn run_with_stdin(agent: &FakeAgent, line: &str, stdin: &str) -> Ran {
    let mut child = command(line)
        .env("POOLWARD_SOCKET", agent.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

fn pool_object(name: &str, cidr: &str) -> Value {
    let (block_size, ipip_mode) = if cidr.contains(':') { (122, "Never") } else { (29, "Always") };
    json!({
        "apiVersion": "poolward.io/v1", "kind": "IPPool", "metadata": {"name": name},
        "spec": {"cidr": cidr, "blockSize": block_size, "ipipMode": ipip_mode, "natOutgoing": false},
    })
}

fn held(address: &str, handle: &str) -> AddressUsage {
    AddressUsage {
        address: address.parse().unwrap(),
        state: "used".into(),
        pool: "external-pool".into(),
        block: "192.0.2.0/29".into(),
        node: "node-1".into(),
        handle: handle.into(),
        pod: "external-ns/web-1".into(),
        note: String::new(),
    }
}

fn error(code: ErrorCode, message: &str) -> Reply {
    Reply::Error(RpcError { code, message: message.into(), details: vec!["a reason".into()] })
}

/// Two pools, one pod, and an agent that is ready.
fn world(request: &Request) -> Answer {
    let outcome = |kind: &str, name: &str, outcome: &str| ObjectResult {
        kind: kind.into(),
        name: name.into(),
        outcome: outcome.into(),
    };
    Answer::Reply(match request {
        Request::Apply(apply) => {
            let result = |document: &rpc::Document| {
                let text = |pointer: &str| {
                    document.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
                };
                outcome(&text("/kind").to_lowercase(), text("/metadata/name"), "created")
            };
            let results = apply.documents.iter().map(result).collect();
            Reply::Applied(ApplyReply { results, warnings: vec!["spec.vxlanMode has no effect here".into()] })
        }
        Request::Get(GetRequest { kind, name }) => match (kind.as_str(), name.as_deref()) {
            ("ippool", None) => Reply::Objects(GetReply {
                objects: vec![pool_object("external-pool", "192.0.2.0/26"), pool_object("six", "fd00::/112")],
            }),
            ("ippool", Some("external-pool")) => {
                Reply::Objects(GetReply { objects: vec![pool_object("external-pool", "192.0.2.0/26")] })
            }
            (_, None) => Reply::Objects(GetReply::default()),
            (kind, Some(name)) => error(ErrorCode::NotFound, &format!("there is no {kind} {name:?}")),
        },
        Request::Delete(DeleteRequest { kind, name }) if name == "gone" => {
            error(ErrorCode::NotFound, &format!("there is no {kind} {name:?}"))
        }
        Request::Delete(DeleteRequest { kind, name }) => {
            Reply::Applied(ApplyReply { results: vec![outcome(kind, name, "deleted")], warnings: vec![] })
        }
        Request::IpamShow(IpamShowRequest { address }) => {
            let all = vec![held("192.0.2.1", "c1/eth0"), held("fd00::1", "c1/eth0")];
            let one = |ip: IpAddr| match all.iter().find(|usage| usage.address == ip) {
                Some(usage) => usage.clone(),
                None => AddressUsage {
                    address: ip,
                    state: "free".into(),
                    handle: String::new(),
                    ..held("::", "")
                },
            };
            let usage = Usage { size: 64, used: 1, free: 60, cooling: 1, reserved: 2 };
            Reply::Ipam(IpamReply {
                pools: vec![PoolUsage {
                    name: "external-pool".into(),
                    cidr: "192.0.2.0/26".into(),
                    usage,
                    blocks: 1,
                    disabled: false,
                }],
                blocks: vec![],
                addresses: address.map_or_else(|| all.clone(), |ip| vec![one(ip)]),
            })
        }
        Request::IpamRelease(release) => Reply::Released(IpamReleaseReply {
            freed: release.address.map_or_else(|| vec!["192.0.2.1".parse().unwrap()], |ip| vec![ip]),
        }),
        Request::IpamCheck => Reply::IpamChecked(rpc::IpamCheckReply { blocks: 2, ..Default::default() }),
        Request::PoolsExport => Reply::Pools(PoolsExportReply {
            pools: vec![
                PoolRange {
                    name: "external-pool".into(),
                    cidr: "192.0.2.0/26".into(),
                    tag: 1,
                    ..PoolRange::default()
                },
                PoolRange {
                    name: "internal-pool".into(),
                    cidr: "192.0.2.64/26".into(),
                    nat_outgoing: true,
                    ..PoolRange::default()
                },
            ],
        }),
        Request::NodeStatus => Reply::Node(Box::new(NodeStatusReply {
            node: "node-1".into(),
            ready: true,
            version: "0.1.0".into(),
            ..NodeStatusReply::default()
        })),
        Request::Version => Reply::Version(VersionReply { version: "0.1.0".into(), protocol: 1, schema: 1 }),
        _ => panic!("poolwardctl has no business with {request:?}"),
    })
}

fn manifest(agent: &FakeAgent, name: &str, documents: &[Value]) -> String {
    let path = agent.dir().join(name);
    let texts: Vec<String> = documents.iter().map(ToString::to_string).collect();
    std::fs::write(&path, texts.join("\n---\n")).unwrap();
    path.display().to_string()
}

#[test]
fn every_command_asks_one_thing_and_shows_the_answer() {
    let agent = FakeAgent::start(world);
    let check = |line: &str, request: Request, parts: &[&str]| {
        let ran = run(&agent, line);
        assert_eq!((ran.exit, ran.stderr.as_str()), (0, ""), "{line}: {ran:?}");
        assert_eq!(agent.asked(), [request], "{line}");
        for part in parts {
            assert!(ran.stdout.contains(part), "{line}: no {part:?} in {}", ran.stdout);
        }
        assert!(!ran.stdout.contains('\u{1b}'), "{line}: colours in a pipe");
    };
    let get = |kind: &str, name: Option<&str>| {
        Request::Get(GetRequest { kind: kind.into(), name: name.map(str::to_owned) })
    };
    let delete =
        |kind: &str, name: &str| Request::Delete(DeleteRequest { kind: kind.into(), name: name.into() });
    let show = |address: Option<&str>| {
        Request::IpamShow(IpamShowRequest { address: address.map(|address| address.parse().unwrap()) })
    };
    check("get pools", get("ippool", None), &["NAME ", "external-pool   192.0.2.0/26", "fd00::/112"]);
    check("get IPPool external-pool", get("ippool", Some("external-pool")), &["192.0.2.0/26"]);
    check("delete pool a", delete("ippool", "a"), &["ippool/a deleted\n"]);
    check(
        "delete pod web -n external-ns",
        delete("pod", "external-ns/web"),
        &["pod/external-ns/web deleted\n"],
    );
    check("ipam show", show(None), &["POOL ", " 64 ", "1%"]);
    check(
        "ipam show --show-blocks --show-addresses",
        show(None),
        &["no blocks", "external-ns/web-1", "c1/eth0"],
    );
    check("ipam show --ip fd00::1", show(Some("fd00::1")), &["used", "external-ns/web-1"]);
    check("ipam check", Request::IpamCheck, &["no violation: 2 blocks, 0 addresses checked\n"]);
    check("pools export", Request::PoolsExport, &["\n192.0.2.0/26\n", "# left out: internal-pool"]);
    check("pools export --include-nat", Request::PoolsExport, &["\n192.0.2.0/25\n"]);
    check("pools export --format nft", Request::PoolsExport, &["set poolward_ipv4 {", "\t\t192.0.2.0/26\n"]);
    check("status", Request::NodeStatus, &["Ready:      yes"]);
    check("version", Request::Version, &["poolwardctl:", "agent:"]);
}

#[test]
fn programs_get_the_same_fields_in_json_and_yaml() {
    let agent = FakeAgent::start(world);
    let pools = manifest(&agent, "pools.yaml", &[pool_object("a", "192.0.2.0/26")]);
    let check = |line: &str, pointer: &str, expected: Value| {
        let json = run(&agent, &format!("{line} -o json"));
        let yaml = run(&agent, &format!("-o yaml {line}"));
        assert_eq!((json.exit, yaml.exit), (0, 0), "{line}: {json:?} {yaml:?}");
        let from_json: Value = serde_json::from_str(&json.stdout).unwrap();
        let from_yaml: Value = serde_saphyr::from_str(&yaml.stdout).unwrap();
        assert_eq!(from_json, from_yaml, "{line}");
        assert_eq!(from_json.pointer(pointer), Some(&expected), "{line}: {pointer} in {from_json}");
    };
    check(&format!("apply -f {pools}"), "/results/0/outcome", json!("created"));
    check(&format!("apply -f {pools} --dry-run"), "/dryRun", json!(true));
    check("get pools", "/items/1/spec/cidr", json!("fd00::/112"));
    check("get pods", "/items", json!([]));
    check("get pool external-pool", "/spec/blockSize", json!(29));
    check("delete pool a", "/results/0/name", json!("a"));
    check("ipam show", "/pools/0/cooling", json!(1));
    check("ipam show --ip 192.0.2.1", "/addresses/0/handle", json!("c1/eth0"));
    check("ipam release --ip 192.0.2.1 --yes", "/freed/0", json!("192.0.2.1"));
    check("ipam release --ip 192.0.2.9 --yes", "/freed", json!([]));
    check("ipam check", "/violations", json!([]));
    check("pools export", "/ipv4/0", json!("192.0.2.0/26"));
    check("pools export", "/leftOut/0/name", json!("internal-pool"));
    check("status", "/ready", json!(true));
    check("version", "/agent/schema", json!(1));
    check("version --client", "/client/protocol", json!(1));
}

#[test]
fn exit_codes_are_those_of_the_help() {
    let check = |code, exit, next: &str| {
        let agent = FakeAgent::start(move |_| Answer::Reply(error(code, "no luck")));
        let ran = run(&agent, "get pools");
        assert_eq!((ran.exit, ran.stdout.as_str()), (exit, ""), "{code:?}");
        assert!(ran.stderr.starts_with("error: get pools: no luck\n  a reason\n"), "{}", ran.stderr);
        assert!(ran.stderr.contains(next), "{}", ran.stderr);
    };
    check(ErrorCode::Conflict, 1, "");
    check(ErrorCode::Internal, 1, "next: look into the agent's log");
    check(ErrorCode::NotFound, 3, "");
    check(ErrorCode::TryAgain, 5, "next: run the same command again");

    let agent = FakeAgent::start(world);
    for (line, exit) in [
        ("get pool nothing", 3),
        ("delete pool gone", 3),
        ("delete pool gone --ignore-not-found", 0),
        ("delete pool gone a", 3),
        ("pools export --pool nothing", 3),
        ("get nodes", 2),
        ("get pools -n default", 2),
        ("delete block 192.0.2.0/29", 2),
        ("pools export --format nft -o yaml", 2),
        ("ipam release --handle nonsense", 2),
        ("apply -f /nonexistent/pools.yaml", 1),
        ("version --client", 0),
    ] {
        let ran = run(&agent, line);
        assert_eq!(ran.exit, exit, "{line}: {ran:?}");
        assert_eq!(exit == 0, ran.stderr.is_empty(), "{line}: {ran:?}");
    }
}

#[test]
fn a_check_that_found_something_says_so_by_the_exit_code_in_every_format() {
    let agent = FakeAgent::start(|_| {
        let violation = rpc::IpamViolation { kind: "live-unknown".into(), ..Default::default() };
        let reply = rpc::IpamCheckReply { violations: vec![violation], ..Default::default() };
        Answer::Reply(Reply::IpamChecked(reply))
    });
    for format in ["table", "json", "yaml"] {
        let ran = run(&agent, &format!("ipam check -o {format}"));
        assert_eq!((ran.exit, ran.stderr.as_str()), (1, ""), "{format}");
        assert!(ran.stdout.contains("live-unknown"), "{format}: {}", ran.stdout);
    }
}

#[test]
fn an_agent_that_is_not_ready_is_shown_and_told_by_the_exit_code() {
    let agent = FakeAgent::start(|_| {
        let not_ready_reasons = vec!["no pool".to_owned()];
        Answer::Reply(Reply::Node(Box::new(NodeStatusReply {
            not_ready_reasons,
            ..NodeStatusReply::default()
        })))
    });
    let ran = run(&agent, "status");
    assert_eq!((ran.exit, ran.stderr.as_str()), (5, ""));
    assert!(ran.stdout.contains("no pool"), "{}", ran.stdout);
}

#[test]
fn an_agent_that_is_absent_or_silent_is_an_error_with_a_next_step() {
    let absent = command("--socket /nonexistent/agent.sock get pools").output().unwrap();
    let absent = Ran::from(absent);
    assert_eq!((absent.exit, absent.stdout.as_str()), (4, ""));
    for part in
        ["error: get pools: connect to the agent at /nonexistent/agent.sock", "next: is the agent running"]
    {
        assert!(absent.stderr.contains(part), "{}", absent.stderr);
    }
    let check = |line: &str, answer: fn() -> Answer, exit, part: &str| {
        let agent = FakeAgent::start(move |_| answer());
        let ran = run(&agent, line);
        assert_eq!((ran.exit, ran.stdout.as_str()), (exit, ""), "{ran:?}");
        assert!(ran.stderr.contains(part) && ran.stderr.contains("\nnext: "), "{}", ran.stderr);
    };
    let silence = || Answer::Silence(Duration::from_millis(400));
    check("get pools --timeout 100ms", silence, 5, "no answer within 100 ms");
    check("get pools", || Answer::HangUp, 5, "closed the connection");
    check("get pools", || Answer::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), 1, "not Poolward's");
    check("get pools", || Answer::Reply(Reply::Done), 1, "an answer to something else");
    check("get pools", || Answer::Reply(error(ErrorCode::Version, "speaks 2")), 1, "speaks 2");
}

#[test]
fn version_shows_this_side_even_without_an_agent() {
    let ran = Ran::from(command("--socket /nonexistent/agent.sock version").output().unwrap());
    assert_eq!(ran.exit, 4);
    assert!(ran.stdout.starts_with("poolwardctl: ") && !ran.stdout.contains("agent:"), "{}", ran.stdout);
}

#[test]
fn mistakes_in_two_documents_are_both_told_and_nothing_is_sent() {
    let agent = FakeAgent::start(world);
    let mut wide = pool_object("wide", "192.0.2.0/26");
    wide["spec"]["blockSize"] = json!(33);
    let path = manifest(
        &agent,
        "pools.yaml",
        &[pool_object("a", "192.0.2.1/26"), pool_object("ok", "10.0.0.0/26"), wide],
    );
    let ran = run(&agent, &format!("apply -f {path}"));
    assert_eq!((ran.exit, ran.stdout.as_str()), (1, ""), "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines[0], "error: apply manifests: 2 mistakes found; nothing was sent");
    for (line, parts) in [
        (lines[1], ["pools.yaml, document 1", "IPPool a", "spec.cidr", "192.0.2.1/26 has host bits set"]),
        (lines[2], ["pools.yaml, document 3", "IPPool wide", "spec.blockSize", "33"]),
    ] {
        for part in parts {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
    assert!(lines[3].starts_with("next: "), "{}", ran.stderr);
    assert_eq!(agent.asked(), []);
}

#[test]
fn manifests_come_from_files_directories_and_standard_input_in_one_request() {
    let agent = FakeAgent::start(world);
    let dir = agent.dir().join("manifests");
    std::fs::create_dir(&dir).unwrap();
    manifest(&agent, "manifests/2.yaml", &[pool_object("b", "10.0.1.0/26")]);
    manifest(&agent, "manifests/1.json", &[pool_object("a", "10.0.0.0/26")]);
    manifest(&agent, "manifests/README", &[json!("not a manifest")]);
    let calico = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: c\nspec:\n  cidr: 10.0.2.0/26\n  blockSize: 29\n";
    let ran = run_with_stdin(&agent, &format!("apply -f {} -f -", dir.display()), calico);
    assert_eq!(
        (ran.exit, ran.stdout.as_str()),
        (0, "ippool/a created\nippool/b created\nippool/c created\n"),
        "{ran:?}"
    );
    assert_eq!(ran.stderr, "warning: spec.vxlanMode has no effect here\n");
    let asked = agent.asked();
    let [Request::Apply(apply)] = asked.as_slice() else { panic!("{asked:?}") };
    let sources: Vec<&str> = apply.documents.iter().map(|document| document.source.as_str()).collect();
    assert!(
        sources[0].contains("1.json, document 1") && sources[2].starts_with("standard input, document 1"),
        "{sources:?}"
    );
}

#[test]
fn what_get_prints_can_be_applied_again() {
    let agent = FakeAgent::start(world);
    for format in ["json", "yaml"] {
        let printed = run(&agent, &format!("get pools -o {format}"));
        let ran = run_with_stdin(&agent, "apply -f - --dry-run", &printed.stdout);
        assert_eq!(ran.exit, 0, "{ran:?}");
        let asked = agent.asked();
        assert!(matches!(asked.last(), Some(Request::Apply(apply)) if apply.dry_run), "{asked:?}");
    }
}

#[test]
fn delete_by_manifest_goes_backwards_and_each_object_stands_for_itself() {
    let agent = FakeAgent::start(world);
    let documents = [("a", "10.0.0.0/26"), ("gone", "10.0.1.0/26"), ("c", "10.0.2.0/26")]
        .map(|(name, cidr)| pool_object(name, cidr));
    let path = manifest(&agent, "pools.yaml", &documents);
    let ran = run(&agent, &format!("delete -f {path}"));
    assert_eq!((ran.exit, ran.stdout.as_str()), (3, "ippool/c deleted\nippool/a deleted\n"), "{ran:?}");
    assert!(
        ran.stderr.starts_with("error: delete: 1 of 3 objects not deleted\n  delete ippool gone"),
        "{}",
        ran.stderr
    );
    let ran = run(&agent, &format!("delete -f {path} --ignore-not-found"));
    assert_eq!((ran.exit, ran.stderr.as_str()), (0, ""), "{ran:?}");
}

#[test]
fn a_release_shows_the_holder_and_sends_it_only_when_confirmed() {
    let agent = FakeAgent::start(world);
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let looked_up = Request::IpamShow(IpamShowRequest { address: Some(address) });

    let ran = run(&agent, "ipam release --ip 192.0.2.1");
    assert_eq!((ran.exit, ran.stdout.as_str()), (2, ""), "{ran:?}");
    assert!(ran.stderr.contains("external-ns/web-1") && ran.stderr.contains("--yes"), "{}", ran.stderr);
    assert_eq!(agent.asked(), std::slice::from_ref(&looked_up));

    let ran = run(&agent, "ipam release --ip 192.0.2.1 --yes --force");
    assert_eq!((ran.exit, ran.stdout.as_str()), (0, "192.0.2.1 released\n"), "{ran:?}");
    let release = IpamReleaseRequest { handle: "c1/eth0".into(), address: Some(address), force: true };
    assert_eq!(agent.asked(), [looked_up, Request::IpamRelease(release)]);

    let ran = run(&agent, "ipam release --handle c1/eth0 --yes");
    assert_eq!(ran.exit, 0, "{ran:?}");
    let release = IpamReleaseRequest { handle: "c1/eth0".into(), address: None, force: false };
    assert_eq!(agent.asked().last(), Some(&Request::IpamRelease(release)));

    for nothing in ["--ip 192.0.2.9", "--handle c9/eth0"] {
        let ran = run(&agent, &format!("ipam release {nothing}"));
        assert_eq!(ran.exit, 0, "{ran:?}");
        assert!(ran.stdout.contains("nothing to release"), "{ran:?}");
        assert_eq!(agent.asked().len(), 1, "only looked up");
    }
}

#[test]
fn an_empty_list_says_what_to_do_and_leaves_standard_output_empty() {
    let agent = FakeAgent::start(|request| {
        Answer::Reply(match request {
            Request::Get(_) => Reply::Objects(GetReply::default()),
            Request::PoolsExport => Reply::Pools(PoolsExportReply::default()),
            _ => Reply::Ipam(IpamReply::default()),
        })
    });
    for line in ["get pools", "get reservations", "get blocks", "get ns", "get pods", "ipam show"] {
        let ran = run(&agent, line);
        assert_eq!((ran.exit, ran.stdout.as_str()), (0, ""), "{line}");
        assert!(ran.stderr.starts_with("no ") && ran.stderr.contains("\nnext: "), "{line}: {}", ran.stderr);
    }
    let ran = run(&agent, "pools export --format nft");
    assert!(
        ran.stdout.contains("set poolward_ipv6 {") && ran.stderr.starts_with("warning: there are no pools"),
        "{ran:?}"
    );
}

#[test]
fn a_closed_pipe_is_no_error() {
    let many = |_: &Request| {
        let objects =
            (0..5_000).map(|number| pool_object(&format!("pool-{number}"), "10.0.0.0/26")).collect();
        Answer::Reply(Reply::Objects(GetReply { objects }))
    };
    let agent = FakeAgent::start(many);
    for line in
        ["get pools", "get pools -o json", "get pools -o yaml", "completions bash", "--help", "get --help"]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = command(line)
            .env("POOLWARD_SOCKET", agent.socket())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(reader);
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!((ran.exit, ran.stderr.as_str()), (0, ""), "{line}");
    }
}

#[test]
fn help_and_completions_ask_nobody() {
    let agent = FakeAgent::start(world);
    for line in [
        "--help",
        "-h",
        "apply --help",
        "get --help",
        "delete --help",
        "ipam --help",
        "ipam show --help",
        "ipam release --help",
        "pools --help",
        "pools export --help",
        "status --help",
        "version --help",
        "completions --help",
    ] {
        let ran = run(&agent, line);
        assert_eq!((ran.exit, ran.stderr.as_str()), (0, ""), "{line}");
        assert_eq!(line.contains("--help"), ran.stdout.contains("Exit codes:"), "{line}: {}", ran.stdout);
    }
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&agent, &format!("completions {shell}"));
        assert_eq!(ran.exit, 0);
        assert!(ran.stdout.contains("poolwardctl") && ran.stdout.contains("ignore-not-found"), "{shell}");
    }
    assert_eq!(agent.asked(), []);
}
