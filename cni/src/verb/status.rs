//! STATUS: whether an ADD would be served.

use rpc::Request;

use crate::agent;
use crate::config::Config;
use crate::env::Env;
use crate::error::CniError;

/// Asks the agent. A configuration that no ADD could be served with is refused here, with its own code.
pub(crate) fn run(env: &Env, config: &Config) -> Result<(), CniError> {
    config.options()?;
    config.dns()?;
    let reply = agent::ask(env.verb, config, &Request::CniStatus, None)?;
    agent::expect_done(env.verb, &reply)
}
