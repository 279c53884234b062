//! ADD: the agent makes the interface and assigns its addresses; the plugin checks what the runtime said before
//! anything is made, opens the namespace, and writes the result.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use rpc::{AddDelegatedRequest, AddReply, AddRequest, ErrorCode, Reply, Request};
use serde_json::Value;

use crate::agent;
use crate::config::Config;
use crate::env::Env;
use crate::error::{CniError, Code, quote};
use crate::host_local::HostLocal;
use crate::netns;

/// 1. Check everything that can be wrong with the call, so that nothing is made in vain.
/// 2. Open the namespace.
/// 3. Ask the agent, with the addresses that another plugin gives if that is configured. The same call again gets the
///    same answer.
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
    let add = AddRequest { attachment, netns_path: env.netns.clone(), pod, options };
    let added = if config.uses_host_local()? {
        delegated(env, config, &add, netns.as_fd())?
    } else {
        added_of(env, agent::ask(env.verb, config, &Request::CniAdd(add), Some(netns.as_fd()))?)?
    };
    result.append(&added, &env.netns);
    result.set_dns(dns);
    Ok(result.to_json(config.version))
}

/// 1. What was added before is answered as it was: the other plugin would refuse to give twice.
/// 2. Addresses from the other plugin, and the rest from the agent; if that fails, they are given back.
fn delegated(
    env: &Env,
    config: &Config,
    add: &AddRequest,
    netns: BorrowedFd<'_>,
) -> Result<AddReply, CniError> {
    let ask = |addresses: Vec<IpAddr>| {
        let request = Request::CniAddDelegated(AddDelegatedRequest { add: add.clone(), addresses });
        agent::ask_raw(env.verb, config, &request, Some(netns))
    };
    match ask(Vec::new())? {
        Reply::Error(error) if error.code == ErrorCode::NotFound => {}
        reply => return added_of(env, agent::refused(env.verb, reply)?),
    }
    let host_local = HostLocal::prepare(env, config)?;
    let addresses = host_local.add()?;
    let added = ask(addresses)
        .and_then(|reply| agent::refused(env.verb, reply))
        .and_then(|reply| added_of(env, reply));
    added.map_err(|error| host_local.take_back(error))
}

fn added_of(env: &Env, reply: Reply) -> Result<AddReply, CniError> {
    match reply {
        Reply::Added(added) if !added.addresses.is_empty() => Ok(added),
        _ => Err(agent::unexpected(env.verb)),
    }
}
