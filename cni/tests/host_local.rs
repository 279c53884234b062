//! The plugin with `ipam.type: host-local`, against a fake agent and a fake `host-local` that writes down how it is called.
//!
//! What the real ones do with each other is shown in the tier `netns`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]
#![expect(dead_code, reason = "helpers are shared, and not every file of tests uses all of them")]

#[path = "support/agent.rs"]
mod agent;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use agent::{Answer, FakeAgent, refusal};
use rpc::{AddReply, AddressReply, ErrorCode, InterfaceReply, PodCidrsReply, Reply, Request};
use serde_json::{Value, json};
use support::Run;

/// A directory with a `host-local` of our own.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    /// `script` is what it does after it has written its verb and its input down.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host-local");
        let log = dir.path().join("log");
        let text = format!(
            "#!/bin/sh\nexec 3>>{log}\necho \"$CNI_COMMAND $CNI_CONTAINERID\" >&3\n/bin/cat >&3\necho >&3\n{script}\n",
            log = log.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn giving(address: &str) -> Self {
        Self::new(&format!(
            "test $CNI_COMMAND = DEL || echo '{{\"cniVersion\": \"1.0.0\", \"ips\": [{{\"address\": \"{address}\"}}]}}'"
        ))
    }

    fn path(&self) -> String {
        self.dir.path().to_str().unwrap().to_owned()
    }

    /// Verb and container of each call, and its configuration.
    fn calls(&self) -> Vec<(String, Value)> {
        let log: PathBuf = self.dir.path().join("log");
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        lines.chunks(2).map(|call| (call[0].to_owned(), serde_json::from_str(call[1]).unwrap())).collect()
    }

    fn verbs(&self) -> Vec<String> {
        self.calls().into_iter().map(|(verb, _)| verb).collect()
    }
}

fn added(address: &str) -> Answer {
    Answer::Reply(Reply::Added(AddReply {
        host: InterfaceReply { name: "pw0123456789abc".into(), mac: "0a:00:00:00:00:01".into() },
        pod: InterfaceReply { name: "eth0".into(), mac: "0a:00:00:00:00:02".into() },
        addresses: vec![AddressReply {
            address: address.parse().unwrap(),
            gateway: "169.254.1.1".parse().unwrap(),
            pool: "cluster".into(),
        }],
        mtu_bytes: 1480,
    }))
}

fn ranges() -> Answer {
    let cidrs = vec!["10.244.3.0/24".into(), "fd44:3::/112".into()];
    Answer::Reply(Reply::PodCidrs(PodCidrsReply { cidrs }))
}

fn not_found() -> Answer {
    Answer::Reply(refusal(ErrorCode::NotFound))
}

fn run(verb: &str, agent: &FakeAgent, fake: &Fake) -> Run {
    let ipam = json!({"type": "host-local", "subnet": "usePodCidr", "dataDir": "/nowhere"});
    Run::new(verb, &agent.path)
        .env("CNI_PATH", format!("/nonexistent:{}", fake.path()))
        .config(json!({"ipam": ipam}))
}

#[test]
fn an_add_hands_the_address_of_the_other_plugin_to_the_agent() {
    let agent = FakeAgent::start_with(vec![not_found(), ranges(), added("10.244.3.7")]);
    let fake = Fake::giving("10.244.3.7/24");
    let result = run("ADD", &agent, &fake).run().success();
    assert_eq!(result["ips"][0]["address"], "10.244.3.7/32");
    let Request::CniAddDelegated(first) = agent.heard().request else { panic!("not asked for what it had") };
    assert!(first.addresses.is_empty());
    assert_eq!(agent.heard().request, Request::PodCidrs);
    let heard = agent.heard();
    let Request::CniAddDelegated(second) = &heard.request else { panic!("{heard:?}") };
    assert_eq!(second.addresses, ["10.244.3.7".parse::<std::net::IpAddr>().unwrap()]);
    assert!(heard.fd_inode.is_some());
    let calls = fake.calls();
    assert_eq!(fake.verbs(), ["ADD c0ffee"]);
    let config = &calls[0].1;
    assert_eq!(
        config["ipam"],
        json!({"type": "host-local", "subnet": "10.244.3.0/24", "dataDir": "/nowhere"})
    );
    // The newest that the standard plugins of distributions speak.
    assert_eq!(config["cniVersion"], "1.0.0");
}

#[test]
fn what_was_added_before_is_answered_without_the_other_plugin() {
    let agent = FakeAgent::start(added("10.244.3.7"));
    let fake = Fake::giving("10.244.3.8/24");
    assert_eq!(run("ADD", &agent, &fake).run().success()["ips"][0]["address"], "10.244.3.7/32");
    assert!(fake.verbs().is_empty());
}

#[test]
fn what_the_agent_refuses_is_given_back() {
    let refused = Answer::Reply(refusal(ErrorCode::Invalid));
    let agent = FakeAgent::start_with(vec![not_found(), ranges(), refused]);
    let fake = Fake::giving("10.244.3.7/24");
    let (code, message) = run("ADD", &agent, &fake).run().failure();
    assert!(code != 11 && message.contains("no free address"), "{code} {message}");
    assert_eq!(fake.verbs(), ["ADD c0ffee", "DEL c0ffee"]);
}

#[test]
fn results_that_cannot_be_wired_are_given_back() {
    let check = |ips: &str, word: &str| {
        let agent = FakeAgent::start_with(vec![not_found(), ranges()]);
        let fake = Fake::new(&format!("test $CNI_COMMAND = DEL || echo '{{\"ips\": {ips}}}'"));
        let (_, message) = run("ADD", &agent, &fake).run().failure();
        assert!(message.contains(word), "{ips}: {message}");
        assert_eq!(fake.verbs(), ["ADD c0ffee", "DEL c0ffee"], "{ips}");
    };
    check("[]", "0 addresses");
    check("[{\"address\": \"10.0.0.1/24\"}, {\"address\": \"10.0.0.2/24\"}]", "2 addresses");
    check("[{\"address\": \"here\"}]", "result of host-local.ips[0].address");
}

#[test]
fn an_add_that_was_cut_short_before_is_taken_back_first() {
    let agent = FakeAgent::start_with(vec![not_found(), ranges(), added("10.244.3.7")]);
    // As the real one does for a container that has an address already.
    let fake = Fake::new(
        "here=$(/usr/bin/dirname $0)\nif test $CNI_COMMAND = DEL; then /usr/bin/touch $here/free; exit 0; fi\n\
         if ! test -e $here/free; then echo '{\"code\": 999, \"msg\": \"duplicate allocation\"}'; exit 1; fi\n\
         echo '{\"ips\": [{\"address\": \"10.244.3.7/24\"}]}'",
    );
    run("ADD", &agent, &fake).run().success();
    assert_eq!(fake.verbs(), ["ADD c0ffee", "DEL c0ffee", "ADD c0ffee"]);
}

#[test]
fn failures_of_the_other_plugin_are_told_in_its_words() {
    let check = |script: &str, word: &str| {
        let agent = FakeAgent::start_with(vec![not_found(), ranges()]);
        let (code, message) = run("ADD", &agent, &Fake::new(script)).run().failure();
        assert!(code == 105 && message.contains(word), "{script}: {code} {message}");
    };
    check("echo '{\"code\": 5, \"msg\": \"range is full\"}'; exit 1", "range is full");
    check("exit 3", "does not say why");
    check("test $CNI_COMMAND = DEL || echo garbage", "no JSON");

    let agent = FakeAgent::start_with(vec![not_found()]);
    let nowhere = run("ADD", &agent, &Fake::giving("10.244.3.7/24")).env("CNI_PATH", "/nonexistent");
    let (code, message) = nowhere.run().failure();
    assert!(code == 4 && message.contains("no such plugin"), "{code} {message}");

    let agent =
        FakeAgent::start_with(vec![not_found(), Answer::Reply(Reply::PodCidrs(PodCidrsReply::default()))]);
    let (code, message) = run("ADD", &agent, &Fake::giving("10.244.3.7/24")).run().failure();
    assert!(code == 11 && message.contains("usePodCidr"), "{code} {message}");
}

#[test]
fn a_del_takes_the_interface_first_and_needs_nobody_to_know_the_range() {
    let agent = FakeAgent::start(Answer::Reply(Reply::Done));
    let fake = Fake::giving("10.244.3.7/24");
    let outcome = run("DEL", &agent, &fake).run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(matches!(agent.heard().request, Request::CniDel(_)));
    let calls = fake.calls();
    assert_eq!((calls[0].0.as_str(), &calls[0].1["ipam"]["subnet"]), ("DEL c0ffee", &json!("0.0.0.0/0")));

    // While the agent is away nothing is given back: the pod may still use its address.
    let nobody = FakeAgent::start_with(Vec::new());
    fs::remove_file(&nobody.path).unwrap();
    let (code, _) = run("DEL", &nobody, &fake).run().failure();
    assert_eq!((code, fake.verbs().len()), (11, 1));
}
