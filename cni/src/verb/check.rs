//! CHECK: the agent compares address, routes, neighbour, veth, program and map entry; the plugin says what
//! `prevResult` promises.

use std::os::fd::AsFd;

use rpc::{CheckRequest, Request};

use crate::agent;
use crate::config::Config;
use crate::env::Env;
use crate::error::{CniError, Code, quote};
use crate::host_local::HostLocal;
use crate::netns;

/// Asks the agent, with the addresses of this very interface in `prevResult`; those of other plugins' interfaces
/// are not ours to check.
pub(crate) fn run(env: &Env, config: &Config) -> Result<(), CniError> {
    let attachment = env.attachment(&config.name)?;
    let invalid = |why: String| CniError::new(Code::InvalidConfig, format!("network configuration: {why}"));
    let result =
        config.prev_result()?.ok_or_else(|| invalid("prevResult: missing, but required by CHECK".into()))?;
    if !result.has_container_interface(&attachment.ifname) {
        let ifname = quote(&attachment.ifname);
        return Err(invalid(format!(
            "prevResult.interfaces: no interface {ifname} of a container (CNI_IFNAME)"
        )));
    }
    let expected_addresses = result.addresses_of(&attachment.ifname);
    if expected_addresses.is_empty() {
        let ifname = quote(&attachment.ifname);
        return Err(invalid(format!("prevResult.ips: no address of the interface {ifname}")));
    }
    let netns = netns::open(env)?;
    let request = Request::CniCheck(CheckRequest { attachment, expected_addresses });
    let reply = agent::ask(env.verb, config, &request, Some(netns.as_fd()))?;
    agent::expect_done(env.verb, &reply)?;
    if config.uses_host_local()? { HostLocal::prepare(env, config)?.call(env.verb) } else { Ok(()) }
}
