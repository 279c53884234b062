//! As the IPAM of another main plugin: this program under the name `poolward-ipam`.
//!
//! The main plugin passes its own configuration on; of that only `ipam`, `name`, `dns` and the keys about the agent are
//! looked at. DEL, GC, STATUS and VERSION are as ever.

use std::os::fd::AsFd;

use rpc::{AddRequest, AssignedReply, CheckRequest, IpamAddRequest, Reply, Request};
use serde_json::{Map, Value, json};

use crate::agent;
use crate::config::{Config, IpamOptions, SpecVersion};
use crate::env::Env;
use crate::error::{CniError, Code};
use crate::netns;

/// The name of this program as an IPAM plugin: `ipam.type`.
pub(crate) const NAME: &str = "poolward-ipam";

/// ADD: the agent assigns, the main plugin makes the interface.
pub(crate) fn add(env: &Env, config: &Config) -> Result<Value, CniError> {
    let attachment = env.attachment(&config.name)?;
    let pod = env.pod()?;
    let options = config.ipam_options()?;
    let dns = config.dns()?;
    let netns = netns::open(env)?;
    let add = AddRequest { attachment, netns_path: env.netns.clone(), pod, options: options.network.clone() };
    let IpamOptions { on_link, subnets, gateways, .. } = options.clone();
    let request = IpamAddRequest { add, on_link, subnets, gateways };
    match agent::ask(env.verb, config, &Request::CniIpamAdd(request), Some(netns.as_fd()))? {
        Reply::Assigned(assigned) if !assigned.addresses.is_empty() => {
            Ok(result(&assigned, &options, dns, config.version))
        }
        _ => Err(agent::unexpected(env.verb)),
    }
}

/// CHECK: the addresses in `prevResult` are those that the agent has for this attachment.
pub(crate) fn check(env: &Env, config: &Config) -> Result<(), CniError> {
    let attachment = env.attachment(&config.name)?;
    let result = config.prev_result()?.ok_or_else(|| {
        CniError::new(
            Code::InvalidConfig,
            "network configuration: prevResult: missing, but required by CHECK",
        )
    })?;
    let expected_addresses = result.addresses_of(&attachment.ifname);
    let netns = netns::open(env)?;
    let request = Request::CniCheck(CheckRequest { attachment, expected_addresses });
    let reply = agent::ask(env.verb, config, &request, Some(netns.as_fd()))?;
    agent::expect_done(env.verb, &reply)
}

/// The abbreviated result of the specification (section 5): no interfaces.
fn result(
    assigned: &AssignedReply,
    options: &IpamOptions,
    dns: Option<Map<String, Value>>,
    version: SpecVersion,
) -> Value {
    let mut ips = Vec::new();
    let mut defaults = Vec::new();
    for address in &assigned.addresses {
        let mut ip = json!({"address": format!("{}/{}", address.address, address.prefix_len)});
        if version <= SpecVersion::V0_4_0 {
            ip["version"] = json!(if address.address.is_ipv4() { "4" } else { "6" });
        }
        if let Some(gateway) = address.gateway {
            ip["gateway"] = json!(gateway.to_string());
            let any = if address.address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            defaults.push(json!({"dst": any, "gw": gateway.to_string()}));
        }
        ips.push(ip);
    }
    let routes = options.routes.clone().unwrap_or(Value::Array(defaults));
    let mut result = json!({"cniVersion": version.as_str(), "ips": ips, "routes": routes});
    if let Some(dns) = dns {
        result["dns"] = Value::Object(dns);
    }
    result
}

#[cfg(test)]
mod tests {
    use rpc::AssignedAddress;

    use super::*;

    #[test]
    fn a_result_has_addresses_and_routes_and_no_interfaces() {
        let address = |text: &str, prefix_len, gateway: Option<&str>| AssignedAddress {
            address: text.parse().unwrap(),
            prefix_len,
            gateway: gateway.map(|text| text.parse().unwrap()),
            pool: "p".into(),
        };
        let check = |addresses: Vec<AssignedAddress>,
                     routes: Option<Value>,
                     version: SpecVersion,
                     expected: Value| {
            let options = IpamOptions { routes, ..IpamOptions::default() };
            assert_eq!(result(&AssignedReply { addresses }, &options, None, version), expected);
        };
        check(
            vec![address("10.0.0.9", 32, Some("169.254.1.1"))],
            None,
            SpecVersion::V1_0_0,
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.9/32", "gateway": "169.254.1.1"}],
                "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]}),
        );
        check(
            vec![address("10.0.0.9", 24, None), address("fd00::9", 64, Some("fd00::1"))],
            Some(json!([{"dst": "192.0.2.0/24"}])),
            SpecVersion::V0_4_0,
            json!({"cniVersion": "0.4.0", "ips": [{"address": "10.0.0.9/24", "version": "4"},
                {"address": "fd00::9/64", "gateway": "fd00::1", "version": "6"}],
                "routes": [{"dst": "192.0.2.0/24"}]}),
        );
    }
}
