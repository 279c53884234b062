//! The commands: each asks the agent (or the API server), turns its reply into text, and says how it went.
//!
//! Every command has a `run`, which does I/O, and pure functions that render. What all share stands here.

pub(crate) mod apply;
pub(crate) mod completions;
pub(crate) mod crds;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod ipam;
pub(crate) mod node;
pub(crate) mod pools;
pub(crate) mod status;
pub(crate) mod version;

use std::path::PathBuf;
use std::time::Duration;

use rpc::client::{CONNECT_TIMEOUT, Client};
use rpc::{Reply, Request};

use crate::cluster;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// What every command needs. One per process.
#[derive(Debug)]
pub(crate) struct Context {
    /// The agent's socket.
    pub(crate) socket: PathBuf,
    /// The cluster's API server, where that is to be asked for what it knows.
    pub(crate) cluster: Option<cluster::Access>,
    /// How long to wait for each answer.
    pub(crate) timeout: Duration,
    /// Where and how answers are shown.
    pub(crate) output: Output,
}

impl Context {
    /// Asks the agent one question, or the API server. `operation` is for messages: `get pools`.
    ///
    /// # Errors
    /// It cannot be reached, or refuses; never `Ok(Reply::Error(..))`.
    pub(crate) fn ask(&self, operation: &str, request: &Request) -> Result<Reply, Failure> {
        match &self.cluster {
            Some(access) if cluster::serves(request) => {
                return cluster::ask(&access.kubeconfig, self.timeout, operation, request);
            }
            Some(access) if access.is_explicit => return Err(cluster::needs_agent(operation)),
            _ => {}
        }
        let reply = Client::connect(&self.socket, self.timeout.min(CONNECT_TIMEOUT))
            .and_then(|client| client.call(request, None, self.timeout))
            .map_err(|error| Failure::from_client(operation, &error))?;
        match reply {
            Reply::Error(error) => Err(Failure::from_agent(operation, error)),
            reply => Ok(reply),
        }
    }
}

/// The agent answered something else than what was asked.
fn unexpected(operation: &str, reply: &Reply) -> Failure {
    let text = format!("{reply:?}");
    let name = text.split(['(', ' ', '{']).next().unwrap_or_default();
    Failure::new(Exit::Failed, format!("{operation}: the agent sent an answer to something else ({name})"))
        .with_next("`poolwardctl version` shows whether this command and the agent are of one release")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_something_else_is_named_without_its_contents() {
        let failure = unexpected("get pools", &Reply::Done);
        assert_eq!(failure.message, "get pools: the agent sent an answer to something else (Done)");
        let failure = unexpected("get pools", &Reply::Released(rpc::IpamReleaseReply::default()));
        assert!(failure.message.ends_with("(Released)"), "{failure:?}");
    }
}
