//! DEL: as forgiving as the specification wants it. The namespace may be gone, `prevResult` may be missing or
//! broken, the attachment may never have been made; none of these is looked at. Only the agent being away is an
//! error, and one that can be tried again: addresses must not be forgotten.

use rpc::{DelRequest, Reply, Request};

use crate::agent;
use crate::config::Config;
use crate::env::Env;
use crate::error::CniError;
use crate::host_local::HostLocal;

/// Asks the agent, which takes an unknown attachment for one that is gone already.
pub(crate) fn run(env: &Env, config: &Config) -> Result<(), CniError> {
    let request = Request::CniDel(DelRequest { attachment: env.attachment(&config.name)? });
    let reply: Reply = agent::ask(env.verb, config, &request, None)?;
    agent::expect_done(env.verb, &reply)?;
    // Only now: nobody can use the addresses any more.
    if config.uses_host_local().unwrap_or(false) {
        HostLocal::prepare(env, config)?.call(env.verb)
    } else {
        Ok(())
    }
}
