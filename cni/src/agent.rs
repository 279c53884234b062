//! Asking the agent: one connection, one request, and what its failures mean to the runtime.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rpc::client::{CONNECT_TIMEOUT, Client};
use rpc::{ErrorCode, Reply, Request};

use crate::config::Config;
use crate::env::Verb;
use crate::error::{CniError, Code, from_agent, from_client};

/// STATUS is asked every few seconds, and an agent that takes longer than this is not available.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// The agent's answer; its refusals are errors, save that what a DEL does not find is what it wants.
pub(crate) fn ask(
    verb: Verb,
    config: &Config,
    request: &Request,
    fd: Option<BorrowedFd<'_>>,
) -> Result<Reply, CniError> {
    refused(verb, ask_raw(verb, config, request, fd)?)
}

/// The agent's answer, refusals as well.
pub(crate) fn ask_raw(
    verb: Verb,
    config: &Config,
    request: &Request,
    fd: Option<BorrowedFd<'_>>,
) -> Result<Reply, CniError> {
    let timeout = if verb == Verb::Status { config.timeout.min(STATUS_TIMEOUT) } else { config.timeout };
    Client::connect(&config.agent_socket, CONNECT_TIMEOUT.min(timeout))
        .and_then(|client| client.call(request, fd, timeout))
        .map_err(|error| from_client(verb, &error))
}

/// Refusals as errors.
pub(crate) fn refused(verb: Verb, reply: Reply) -> Result<Reply, CniError> {
    match reply {
        Reply::Error(error) if verb == Verb::Del && error.code == ErrorCode::NotFound => Ok(Reply::Done),
        Reply::Error(error) => Err(from_agent(verb, error)),
        reply => Ok(reply),
    }
}

/// Only [`Reply::Done`] will do.
pub(crate) fn expect_done(verb: Verb, reply: &Reply) -> Result<(), CniError> {
    if *reply == Reply::Done { Ok(()) } else { Err(unexpected(verb)) }
}

/// The refusal of an answer to another question.
pub(crate) fn unexpected(verb: Verb) -> CniError {
    let code = if verb == Verb::Status { Code::NotAvailable } else { Code::Protocol };
    CniError::new(code, format!("{}: the agent's reply does not belong to this request", verb.as_str()))
        .detail("plugin and agent have to be of the same release")
}
