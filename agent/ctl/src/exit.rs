//! How a command ends: the exit code for scripts, and what a failure says to people.
//!
//! It does not print; [`crate::output`] does.

use rpc::client::ClientError;
use rpc::frame::{FrameError, Kind};
use rpc::{ErrorCode, RpcError};

/// What the exit code says. Documented in `--help`: the numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Refused, or failed in a way that the same command meets again.
    Failed = 1,
    /// The command line itself is wrong.
    Usage = 2,
    /// What it speaks of does not exist.
    NotFound = 3,
    /// The agent cannot be reached.
    Unreachable = 4,
    /// Not now; the same command may work later.
    TryAgain = 5,
}

/// What every page of help says about exit codes.
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  done
  1  refused or failed, or a check found something; the same command fails again until something is changed
  2  the command line is wrong
  3  the object or address does not exist
  4  the agent cannot be reached
  5  not now (agent not ready, no answer in time); the same command may work later";

/// Why a command did not do what it was asked: one line, details below it, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// Operation, object, cause; one line.
    pub(crate) message: String,
    /// One line each.
    pub(crate) details: Vec<String>,
    /// What to do next; one line, or nothing.
    pub(crate) next: Option<String>,
}

impl Failure {
    /// A failure without details.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), next: None }
    }

    /// The same with details.
    pub(crate) fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// The same with a next step.
    pub(crate) fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// What the agent refused. `operation` says what was asked: `delete pool "a"`.
    pub(crate) fn from_agent(operation: &str, error: RpcError) -> Self {
        let (exit, next) = match error.code {
            ErrorCode::NotFound => (Exit::NotFound, None),
            ErrorCode::TryAgain | ErrorCode::NotReady | ErrorCode::NotReadyLimited | ErrorCode::Cancelled => {
                (
                    Exit::TryAgain,
                    Some(
                        "run the same command again in a while; `poolwardctl status` says what it waits for",
                    ),
                )
            }
            ErrorCode::Version => (
                Exit::Failed,
                Some("use the poolwardctl of the agent's release; `poolwardctl version` shows both"),
            ),
            ErrorCode::Internal => {
                (Exit::Failed, Some("look into the agent's log; `poolwardctl status` shows what else fails"))
            }
            ErrorCode::Invalid | ErrorCode::Conflict | ErrorCode::Exhausted | ErrorCode::CheckFailed => {
                (Exit::Failed, None)
            }
        };
        Self {
            exit,
            message: format!("{operation}: {}", error.message),
            details: error.details,
            next: next.map(str::to_owned),
        }
    }

    /// What went wrong between this process and the agent.
    pub(crate) fn from_client(operation: &str, error: &ClientError) -> Self {
        let message = format!("{operation}: {error}");
        match error {
            ClientError::Absent { .. } => {
                let message = message.strip_suffix(": is the agent running?").unwrap_or(&message);
                Self::new(Exit::Unreachable, message).with_next(
                    "is the agent running on this node? try `pgrep -a poolward-agent`; if it listens elsewhere, say \
                     where with --socket or POOLWARD_SOCKET",
                )
            }
            ClientError::Timeout { .. } => Self::new(Exit::TryAgain, message).with_next(
                "the agent may still do it: look with `poolwardctl get` or `poolwardctl status`, or wait longer \
                 with --timeout",
            ),
            ClientError::Lost { .. } => Self::new(Exit::TryAgain, message).with_next(
                "the agent ended or restarted and may have done it: look with `poolwardctl get`, then run the same \
                 command again",
            ),
            ClientError::Version { .. } => Self::new(Exit::Failed, message)
                .with_next("use the poolwardctl of the agent's release; `poolwardctl version --client` shows this one's"),
            ClientError::Protocol { source: FrameError::TooLong { kind: Kind::Request, .. }, .. } => {
                Self::new(Exit::Failed, message).with_next("give fewer manifests at once")
            }
            ClientError::Protocol { .. } => {
                Self::new(Exit::Failed, message).with_next("is that the agent's socket? see --socket")
            }
            ClientError::Io { source, .. } => {
                let next = if source.kind() == std::io::ErrorKind::PermissionDenied {
                    "the socket belongs to root: try again with sudo"
                } else {
                    "is that the agent's socket? see --socket"
                };
                Self::new(Exit::Unreachable, message).with_next(next)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_the_agent_has_the_exit_code_that_help_promises() {
        let check = |code, exit| {
            let error = RpcError { code, message: "no".into(), details: vec!["why".into()] };
            let failure = Failure::from_agent("get pools", error);
            assert_eq!(failure.exit, exit, "{code:?}");
            assert_eq!((failure.message.as_str(), failure.details.len()), ("get pools: no", 1));
        };
        check(ErrorCode::Invalid, Exit::Failed);
        check(ErrorCode::Conflict, Exit::Failed);
        check(ErrorCode::Exhausted, Exit::Failed);
        check(ErrorCode::CheckFailed, Exit::Failed);
        check(ErrorCode::Internal, Exit::Failed);
        check(ErrorCode::Version, Exit::Failed);
        check(ErrorCode::NotFound, Exit::NotFound);
        check(ErrorCode::TryAgain, Exit::TryAgain);
        check(ErrorCode::NotReady, Exit::TryAgain);
        check(ErrorCode::NotReadyLimited, Exit::TryAgain);
        check(ErrorCode::Cancelled, Exit::TryAgain);
    }

    #[test]
    fn every_trouble_on_the_way_has_its_exit_code_and_a_next_step() {
        let path = || std::path::PathBuf::from("/run/x.sock");
        let io = |kind: std::io::ErrorKind| std::io::Error::from(kind);
        let check = |error: &ClientError, exit, next: &str| {
            let failure = Failure::from_client("status", error);
            assert_eq!(failure.exit, exit, "{error}");
            assert!(failure.next.as_deref().unwrap_or_default().contains(next), "{failure:?}");
        };
        check(
            &ClientError::Absent { path: path(), source: io(std::io::ErrorKind::NotFound) },
            Exit::Unreachable,
            "is the agent running",
        );
        check(
            &ClientError::Timeout { operation: "await reply", path: path(), after_ms: 5 },
            Exit::TryAgain,
            "--timeout",
        );
        check(
            &ClientError::Lost {
                operation: "await reply",
                path: path(),
                source: io(std::io::ErrorKind::UnexpectedEof),
            },
            Exit::TryAgain,
            "restarted",
        );
        check(
            &ClientError::Version { path: path(), reason: "it speaks 2".into() },
            Exit::Failed,
            "version --client",
        );
        let too_long = FrameError::TooLong { kind: Kind::Request, len_bytes: 5 << 20 };
        check(
            &ClientError::Protocol { operation: "send", path: path(), source: too_long },
            Exit::Failed,
            "fewer manifests",
        );
        check(
            &ClientError::Io {
                operation: "connect",
                path: path(),
                source: io(std::io::ErrorKind::PermissionDenied),
            },
            Exit::Unreachable,
            "sudo",
        );
    }
}
