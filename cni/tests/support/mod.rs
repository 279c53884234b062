//! Running the plugin as a runtime does.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// The network namespace of the plugin, which is the one of the test.
pub(crate) const NETNS: &str = "/proc/self/ns/net";

/// The plugin with an empty environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poolward"));
    command.env_clear();
    command
}

/// One call of a runtime: complete and right until it is changed.
pub(crate) struct Run {
    command: Command,
    config: Value,
    stdin: Option<Vec<u8>>,
}

impl Run {
    pub(crate) fn new(verb: &str, agent_socket: &Path) -> Self {
        let mut command = command();
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "c0ffee")
            .env("CNI_NETNS", NETNS)
            .env("CNI_NETNS_OVERRIDE", "true")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin");
        let config =
            json!({"cniVersion": "1.1.0", "name": "net", "type": "poolward", "agentSocket": agent_socket});
        Self { command, config, stdin: None }
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Adds keys to the configuration, or changes them.
    pub(crate) fn config(mut self, extra: Value) -> Self {
        let Value::Object(extra) = extra else { panic!("{extra} is no object") };
        self.config.as_object_mut().unwrap().extend(extra);
        self
    }

    /// Replaces the configuration by these bytes.
    pub(crate) fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = Some(bytes);
        self
    }

    pub(crate) fn run(mut self) -> Outcome {
        let bytes = self.stdin.unwrap_or_else(|| self.config.to_string().into_bytes());
        let mut child =
            self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A plugin that refuses the environment does not read the configuration.
        let _ = child.stdin.take().unwrap().write_all(&bytes);
        child.wait_with_output().unwrap().into()
    }
}

/// What a runtime sees of a call.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self { code: output.status.code(), stdout: output.stdout, stderr: output.stderr }
    }
}

impl Outcome {
    /// Standard output, which is one JSON value and a line break.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "{self:?}");
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn success(&self) -> Value {
        assert_eq!((self.code, self.stderr.is_empty()), (Some(0), true), "{self:?}");
        self.json()
    }

    /// A well-formed error of the specification: its code and message.
    pub(crate) fn failure(&self) -> (u32, String) {
        assert_eq!((self.code, self.stderr.is_empty()), (Some(1), true), "{self:?}");
        let value = self.json();
        let object = value.as_object().unwrap();
        assert!(object.keys().all(|key| ["cniVersion", "code", "msg", "details"].contains(&key.as_str())));
        let version = object["cniVersion"].as_str().unwrap();
        assert!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"].contains(&version), "{value}");
        let msg = object["msg"].as_str().unwrap();
        assert!(!msg.is_empty() && !msg.contains(char::is_control), "{value}");
        assert!(object.get("details").is_none_or(|details| !details.as_str().unwrap().is_empty()), "{value}");
        (u32::try_from(object["code"].as_u64().unwrap()).unwrap(), msg.to_owned())
    }
}
