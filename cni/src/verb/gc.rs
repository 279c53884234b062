//! GC: the agent frees the attachments of this network that the runtime no longer knows.

use rpc::{GcRequest, Reply, Request};

use crate::agent;
use crate::config::Config;
use crate::env::Env;
use crate::error::{CniError, Code};

/// `called_at_boot_ms` is when the plugin started: the runtime's list is older than that, so an attachment made
/// since is not in it and must not be freed.
pub(crate) fn run(env: &Env, config: &Config, called_at_boot_ms: u64) -> Result<(), CniError> {
    let valid = config.valid_attachments()?;
    let request = Request::CniGc(GcRequest { network: config.name.clone(), valid, called_at_boot_ms });
    match agent::ask(env.verb, config, &request, None)? {
        Reply::Collected(collected) if collected.errors.is_empty() => Ok(()),
        Reply::Collected(collected) => {
            let error = CniError::new(
                Code::Internal,
                format!(
                    "GC: network {}: {} attachments freed, {} not",
                    config.name,
                    collected.freed.len(),
                    collected.errors.len()
                ),
            );
            Err(collected.errors.into_iter().fold(error, CniError::detail))
        }
        _ => Err(agent::unexpected(env.verb)),
    }
}
