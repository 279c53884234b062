//! STATUS: whether an ADD would be served.

use rpc::Request;

use crate::agent;
use crate::config::Config;
use crate::env::Env;
use crate::error::CniError;

/// The same for the IPAM of another main plugin.
pub(crate) fn run_as_ipam(env: &Env, config: &Config) -> Result<(), CniError> {
    config.ipam_options()?;
    let reply = agent::ask(env.verb, config, &Request::CniStatus, None)?;
    agent::expect_done(env.verb, &reply)
}

/// Asks the agent. A configuration that no ADD could be served with is refused here, with its own code.
pub(crate) fn run(env: &Env, config: &Config) -> Result<(), CniError> {
    config.options()?;
    config.dns()?;
    // Whether `host-local` has an address left is known only when it is asked for one: it serves no STATUS.
    let request = if config.uses_host_local()? { Request::CniStatusDelegated } else { Request::CniStatus };
    let reply = agent::ask(env.verb, config, &request, None)?;
    agent::expect_done(env.verb, &reply)
}
