//! The binary against a real API server: what takes nothing but objects, with the operator's own rights.
#![expect(clippy::unwrap_used, reason = "helpers of tests end the test")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::{ControlPlane, ControlPlaneOptions};
use serde_json::Value;

const POOL: &str = "{apiVersion: poolward.io/v1, kind: IPPool, metadata: {name: NAME}, spec: {cidr: CIDR}}";

struct Ctl<'a> {
    kubeconfig: &'a Path,
}

impl Ctl<'_> {
    /// Exit code, and what it printed on either stream.
    fn run(&self, line: &str, stdin: &str) -> (i32, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_poolwardctl"))
            .args(["--kubeconfig".as_ref(), self.kubeconfig.as_os_str()])
            .args(line.split_whitespace())
            .env_remove("POOLWARD_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    fn check(&self, line: &str, stdin: &str, exit: i32, expected: &str) {
        let (code, text) = self.run(line, stdin);
        assert!(code == exit && text.contains(expected), "{line}: {code}\n{text}");
    }
}

fn pool(name: &str, cidr: &str) -> String {
    POOL.replace("NAME", name).replace("CIDR", cidr)
}

#[test]
fn an_operator_works_with_objects_and_with_no_more_than_the_rights_of_the_file() {
    let control_plane = ControlPlane::start(&ControlPlaneOptions::default()).unwrap();
    let kubeconfig = control_plane.kubeconfig();
    let ctl = Ctl { kubeconfig: &kubeconfig };

    ctl.check("get pools", "", 5, "are Poolward's custom resource definitions installed?");
    ctl.check("crds apply", "", 0, "ippools.poolward.io created");
    ctl.check("crds apply", "", 0, "ippools.poolward.io unchanged");

    let both = format!("{}\n---\n{}", pool("a", "10.0.0.0/24"), pool("b", "10.0.1.0/24"));
    ctl.check("apply -f - --dry-run", &both, 0, "ippool/a created (dry run");
    ctl.check("get pool a", "", 3, "does not exist");
    ctl.check("apply -f -", &both, 0, "ippool/b created");
    ctl.check("apply -f -", &both, 0, "ippool/b unchanged");
    let changed = pool("a", "10.0.0.0/24, natOutgoing: true");
    ctl.check("apply -f -", &changed, 0, "ippool/a configured");
    ctl.check("apply -f -", &pool("c", "10.0.2.1/24"), 1, "host bits");
    ctl.check("apply -f -", "{apiVersion: v1, kind: Namespace, metadata: {name: ns}}", 1, "kubectl");

    let (_, text) = ctl.run("get pool a -o json", "");
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&shown["spec"]["natOutgoing"], &shown["metadata"]["finalizers"]),
        (&true.into(), &Value::Null)
    );
    let (_, text) = ctl.run("get pools -o yaml", "");
    ctl.check("apply -f -", &text, 0, "ippool/a unchanged");
    ctl.check("get namespaces", "", 0, "kube-system");
    ctl.check("pools export", "", 0, "10.0.1.0/24");
    ctl.check("ipam check", "", 0, "");

    // The settings of the cluster.
    let settings = "{apiVersion: poolward.io/v1, kind: IPAMConfig, metadata: {name: default}, spec: {strictAffinity: true}}";
    ctl.check("apply -f -", settings, 0, "ipamconfig/default created");
    ctl.check("apply -f -", &settings.replace("default", "other"), 1, "expected default");
    ctl.check("get ipamconfig", "", 0, "strictAffinity=true");
    ctl.check("delete ipamconfig default", "", 0, "ipamconfig/default deleted");

    // What only a node knows is not asked of the server.
    ctl.check("status", "", 2, "only a node's agent knows that");
    ctl.check("ipam show", "", 2, "only a node's agent knows that");

    // A pool is marked, and goes when agents let go of it.
    ctl.check("delete pool a", "", 0, "ippool/a terminating");
    ctl.check("get pool a", "", 0, "10.0.0.0/24");
    ctl.check("apply -f -", &changed, 1, "is being deleted");

    // Somebody without rights is told so.
    let nobody = control_plane.add_identity("nobody", &[]).unwrap();
    Ctl { kubeconfig: &nobody }.check("get pools", "", 5, "nobody");
    Ctl { kubeconfig: Path::new("/nonexistent") }.check("get pools", "", 4, "/nonexistent");
}
