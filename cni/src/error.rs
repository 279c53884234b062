//! What the runtime is told when a verb fails: the error object of the CNI specification 1.1.0, section 5.
//!
//! Which failure has which code is decided here and nowhere else, in [`from_agent`] and [`from_client`].

use rpc::client::ClientError;
use rpc::{ErrorCode, RpcError};
use serde_json::{Value, json};

use crate::config::SpecVersion;
use crate::env::Verb;

/// Error codes: those of the specification by their numbers, ours from 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The configuration's version is not spoken here, or does not have the verb.
    IncompatibleVersion = 1,
    /// A field that is known to ask for something that is not done here.
    UnsupportedField = 2,
    /// CHECK of an attachment that does not exist.
    UnknownContainer = 3,
    /// `CNI_*` variables, or what they point at.
    InvalidEnvironment = 4,
    /// Reading or opening failed.
    Io = 5,
    /// Not JSON.
    Decode = 6,
    /// JSON, but not a configuration of ours.
    InvalidConfig = 7,
    /// Not now: the agent is down, slow or of another release, or no address is free. All of these heal without
    /// a change of the request: agents come back and addresses are freed.
    TryAgain = 11,
    /// STATUS only: ADD cannot be served.
    NotAvailable = 50,
    /// STATUS only: nor are existing pods safe.
    LimitedConnectivity = 51,
    /// The kernel or the store failed the agent.
    Internal = 100,
    /// Somebody else holds or has changed what was asked for.
    Conflict = 101,
    /// CHECK found a difference.
    CheckFailed = 102,
    /// A DEL of the same attachment cancelled it.
    Cancelled = 103,
    /// What answers on the agent's socket is not the agent, or is broken.
    Protocol = 104,
    /// The plugin that gives the addresses failed.
    Delegate = 105,
}

/// The longest `msg`, in characters; what a configuration holds may be quoted in it.
const MAX_MSG_CHARS: usize = 1000;

/// Why a verb failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    code: Code,
    msg: String,
    details: Vec<String>,
}

impl CniError {
    /// `msg` says what, where and why in one line.
    pub(crate) fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: Vec::new() }
    }

    /// Adds a line: a reason, or what to do next.
    pub(crate) fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    #[cfg(test)]
    pub(crate) fn parts(&self) -> (Code, &str) {
        (self.code, &self.msg)
    }

    /// The number for the runtime.
    pub(crate) fn number(&self) -> u32 {
        self.code as u32
    }

    /// One line, whatever was quoted in it.
    pub(crate) fn line(&self) -> String {
        self.msg.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MSG_CHARS).collect()
    }

    /// The object for standard output.
    pub(crate) fn to_json(&self, version: SpecVersion) -> Value {
        let mut object = json!({
            "cniVersion": version.as_str(),
            "code": self.number(),
            "msg": self.line(),
        });
        if let (false, Some(map)) = (self.details.is_empty(), object.as_object_mut()) {
            map.insert("details".to_owned(), self.details.join("\n").into());
        }
        object
    }
}

/// A text as it may stand in a message: quoted, on one line, and not longer than a line.
pub(crate) fn quote(text: &str) -> String {
    match shorten(text) {
        (start, false) => format!("{start:?}"),
        (start, true) => format!("{start:?}..."),
    }
}

/// A JSON value as it may stand in a message: as it was written, and not longer than a line.
pub(crate) fn quote_json(value: &Value) -> String {
    match shorten(&value.to_string()) {
        (start, false) => start,
        (start, true) => format!("{start}..."),
    }
}

/// The start of a text, and whether there was more.
fn shorten(text: &str) -> (String, bool) {
    const MAX_CHARS: usize = 80;
    let start: String = text.chars().take(MAX_CHARS).collect();
    let more = start.len() < text.len();
    (start, more)
}

/// The CNI error for a refusal by the agent.
pub(crate) fn from_agent(verb: Verb, error: RpcError) -> CniError {
    let (code, next) = match (verb, error.code) {
        (Verb::Status, ErrorCode::NotReadyLimited) => (Code::LimitedConnectivity, None),
        (Verb::Status, _) => (Code::NotAvailable, None),
        (Verb::Check, ErrorCode::NotFound) => (Code::UnknownContainer, None),
        (_, ErrorCode::Invalid | ErrorCode::NotFound) => (Code::InvalidConfig, None),
        (_, ErrorCode::Conflict) => (Code::Conflict, None),
        (_, ErrorCode::Exhausted) => (
            Code::TryAgain,
            Some("add a pool or free addresses; `poolwardctl ipam show` tells how full they are"),
        ),
        (_, ErrorCode::TryAgain | ErrorCode::NotReady | ErrorCode::NotReadyLimited) => (Code::TryAgain, None),
        (_, ErrorCode::CheckFailed) => (Code::CheckFailed, None),
        (_, ErrorCode::Cancelled) => (Code::Cancelled, None),
        (_, ErrorCode::Internal) => (Code::Internal, None),
        (_, ErrorCode::Version) => (Code::TryAgain, Some(SAME_RELEASE)),
    };
    let mut details = error.details;
    details.extend(next.map(str::to_owned));
    CniError { code, msg: format!("{}: {}", verb.as_str(), error.message), details }
}

const SAME_RELEASE: &str = "plugin and agent have to be of the same release: this heals when an upgrade ends";

/// The CNI error for a call that got no answer.
pub(crate) fn from_client(verb: Verb, error: &ClientError) -> CniError {
    let (code, next) = match error {
        ClientError::Absent { .. } => (
            Code::TryAgain,
            "start the agent on this node, or name its socket in `agentSocket`; then try again",
        ),
        ClientError::Timeout { .. } | ClientError::Lost { .. } => {
            (Code::TryAgain, "the same call again is safe; the agent's log on this node says what held it up")
        }
        ClientError::Version { .. } => (Code::TryAgain, SAME_RELEASE),
        ClientError::Protocol { .. } => (
            Code::Protocol,
            "check that `agentSocket` is the socket of Poolward's agent, of the same release",
        ),
        ClientError::Io { .. } => (Code::Io, "check `agentSocket` and the permissions of the plugin"),
    };
    // The specification gives STATUS its own codes: whatever keeps the agent from answering keeps it from
    // serving an ADD, and 11 would mean that STATUS itself should be asked again.
    let code = if verb == Verb::Status { Code::NotAvailable } else { code };
    CniError::new(code, format!("{}: {error}", verb.as_str())).detail(next)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use rpc::frame::FrameError;

    use super::*;

    #[test]
    fn every_refusal_of_the_agent_has_its_code() {
        let check = |verb, code, expected: u32| {
            let error = RpcError { code, message: "pool full".into(), details: vec!["a".into()] };
            let cni = from_agent(verb, error);
            assert_eq!(cni.number(), expected, "{verb:?} {code:?}");
            assert_eq!(cni.line(), format!("{}: pool full", verb.as_str()));
            assert_eq!(cni.details[0], "a");
        };
        for verb in [Verb::Add, Verb::Del, Verb::Gc] {
            check(verb, ErrorCode::Invalid, 7);
            check(verb, ErrorCode::Conflict, 101);
            check(verb, ErrorCode::Exhausted, 11);
            check(verb, ErrorCode::TryAgain, 11);
            check(verb, ErrorCode::NotReady, 11);
            check(verb, ErrorCode::NotReadyLimited, 11);
            check(verb, ErrorCode::CheckFailed, 102);
            check(verb, ErrorCode::Cancelled, 103);
            check(verb, ErrorCode::Internal, 100);
            check(verb, ErrorCode::Version, 11);
        }
        check(Verb::Add, ErrorCode::NotFound, 7);
        check(Verb::Check, ErrorCode::NotFound, 3);
        check(Verb::Check, ErrorCode::CheckFailed, 102);
        check(Verb::Status, ErrorCode::NotReady, 50);
        check(Verb::Status, ErrorCode::NotReadyLimited, 51);
        check(Verb::Status, ErrorCode::TryAgain, 50);
        check(Verb::Status, ErrorCode::Internal, 50);
    }

    #[test]
    fn every_failure_to_reach_the_agent_has_its_code_and_says_what_to_do() {
        let path = || PathBuf::from("/run/a.sock");
        let check = |error: ClientError, expected: u32| {
            let cni = from_client(Verb::Del, &error);
            assert_eq!(cni.number(), expected, "{error}");
            assert!(cni.line().starts_with("DEL: ") && cni.line().contains("/run/a.sock"), "{}", cni.line());
            assert_eq!(cni.details.len(), 1);
            assert_eq!(from_client(Verb::Status, &error).number(), 50);
        };
        let io = || io::Error::from(io::ErrorKind::NotFound);
        check(ClientError::Absent { path: path(), source: io() }, 11);
        check(ClientError::Timeout { operation: "await", path: path(), after_ms: 5 }, 11);
        check(ClientError::Lost { operation: "await", path: path(), source: io() }, 11);
        check(ClientError::Version { path: path(), reason: "2, not 1".into() }, 11);
        check(
            ClientError::Protocol {
                operation: "await",
                path: path(),
                source: FrameError::Magic { found: *b"HTTP" },
            },
            104,
        );
        check(ClientError::Io { operation: "connect", path: path(), source: io() }, 5);
    }

    #[test]
    fn the_object_has_the_shape_of_the_specification() {
        let error = CniError::new(Code::InvalidConfig, "two\nlines").detail("why").detail("what next");
        assert_eq!(
            error.to_json(SpecVersion::V0_4_0),
            json!({"cniVersion": "0.4.0", "code": 7, "msg": "two lines", "details": "why\nwhat next"})
        );
        let bare = CniError::new(Code::Io, "x".repeat(5000)).to_json(SpecVersion::V1_1_0);
        assert_eq!(bare["msg"].as_str().map(str::len), Some(MAX_MSG_CHARS));
        assert_eq!(bare.get("details"), None);
    }

    #[test]
    fn quoted_values_stay_short_and_on_one_line() {
        assert_eq!(quote("a\nb"), "\"a\\nb\"");
        assert_eq!(quote(&"é".repeat(81)), format!("\"{}\"...", "é".repeat(80)));
        assert_eq!(quote_json(&json!({"a": ["\n"]})), r#"{"a":["\n"]}"#);
        assert_eq!(quote_json(&"x".repeat(99).into()).len(), 83);
    }
}
