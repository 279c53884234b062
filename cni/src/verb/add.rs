//! ADD: the agent makes the interface and assigns its addresses; the plugin checks what the runtime said before
//! anything is made, opens the namespace, and writes the result.

use std::os::fd::AsFd;

use rpc::{AddRequest, Reply, Request};
use serde_json::Value;

use crate::agent;
use crate::config::Config;
use crate::env::Env;
use crate::error::{CniError, Code, quote};
use crate::netns;

/// 1. Check everything that can be wrong with the call, so that nothing is made in vain.
/// 2. Open the namespace.
/// 3. Ask the agent. The same call again gets the same answer.
/// 4. Put what it made behind what earlier plugins of the chain made.
pub(crate) fn run(env: &Env, config: &Config) -> Result<Value, CniError> {
    let attachment = env.attachment(&config.name)?;
    let pod = env.pod()?;
    let options = config.options()?;
    let dns = config.dns()?;
    let mut result = config.prev_result()?.unwrap_or_default();
    if result.has_container_interface(&attachment.ifname) {
        return Err(CniError::new(
            Code::InvalidEnvironment,
            format!(
                "ADD: CNI_IFNAME={}: an earlier plugin of the chain has made an interface of that name \
                 (prevResult.interfaces)",
                quote(&attachment.ifname)
            ),
        )
        .detail("put this plugin first in the chain, or give the interface another name"));
    }
    let netns = netns::open(env)?;
    let request = Request::CniAdd(AddRequest { attachment, netns_path: env.netns.clone(), pod, options });
    match agent::ask(env.verb, config, &request, Some(netns.as_fd()))? {
        Reply::Added(added) if !added.addresses.is_empty() => {
            result.append(&added, &env.netns);
            result.set_dns(dns);
            Ok(result.to_json(config.version))
        }
        _ => Err(agent::unexpected(env.verb)),
    }
}
