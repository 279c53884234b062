//! `ipam` where this plugin gives addresses and nothing else, to another main plugin.

use std::net::IpAddr;

use rpc::NetworkOptions;
use serde_json::Value;

use super::{CHOICE_KEYS, Config, choose, invalid, refuse_other_keys, refuse_runtime_keys, unsupported};
use crate::error::{CniError, quote};
use crate::json::Object;
use crate::verb::ipam::NAME as IPAM_NAME;

/// What ADD is asked to do as the IPAM of another main plugin.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct IpamOptions {
    /// Pools and families.
    pub(crate) network: NetworkOptions,
    /// `ipam.prefix` is `pool`, or not there: the whole pool is on the link.
    pub(crate) on_link: bool,
    /// `ipam.subnets`, as they are: what is on the link where a pool is but a part of it.
    pub(crate) subnets: Vec<String>,
    /// `ipam.gateways`: at most one of each family.
    pub(crate) gateways: Option<Vec<IpAddr>>,
    /// `ipam.routes`, as they are: instead of default routes by the gateways.
    pub(crate) routes: Option<Value>,
}

impl Config {
    /// What ADD is asked to do as the IPAM of another main plugin, whose keys besides `ipam` are its own.
    pub(crate) fn ipam_options(&self) -> Result<IpamOptions, CniError> {
        let root = Object::root(&self.root);
        refuse_runtime_keys(&root, &["ips", "ipRanges"])?;
        let Some(ipam) = root.object("ipam")? else {
            return Err(invalid("ipam: missing, but required where this plugin gives the addresses"));
        };
        if let Some(kind) = ipam.string("type")?
            && kind != IPAM_NAME
        {
            return Err(unsupported("ipam.type", &kind.into()).detail("this plugin is \"poolward-ipam\""));
        }
        let keys = [&CHOICE_KEYS[..], &["prefix", "subnets", "gateways", "routes"]].concat();
        refuse_other_keys(&ipam, &keys)?;
        let mut options = IpamOptions::default();
        choose(&ipam, &mut options.network)?;
        options.on_link = match ipam.string("prefix")?.unwrap_or("pool") {
            "host" => false,
            "pool" => true,
            other => return Err(invalid(&format!("ipam.prefix: {}: expected host or pool", quote(other)))),
        };
        options.subnets = ipam.strings("subnets")?.unwrap_or_default();
        if !options.on_link && !options.subnets.is_empty() {
            return Err(invalid("ipam.subnets: with \"prefix\": \"host\" nothing is on the link"));
        }
        let texts = ipam.strings("gateways")?;
        let mut gateways: Vec<IpAddr> = Vec::new();
        for text in texts.iter().flatten() {
            let gateway: IpAddr = text
                .parse()
                .map_err(|_| invalid(&format!("ipam.gateways: {}: expected an IP address", quote(text))))?;
            if gateways.iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
                return Err(invalid(&format!("ipam.gateways: {gateway}: a second one of its family")));
            }
            gateways.push(gateway);
        }
        if !options.on_link && !gateways.is_empty() {
            return Err(invalid("ipam.gateways: with \"prefix\": \"host\" no gateway is on the link"));
        }
        options.gateways = texts.map(|_| gateways);
        let routes = ipam.list("routes")?;
        options.routes = routes.map(|routes| routes.into_iter().map(|(_, route)| route.clone()).collect());
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{check, config};
    use super::*;
    use crate::error::Code;

    #[test]
    fn as_the_ipam_of_another_plugin_only_ipam_counts() {
        let options =
            |ipam: Value| config(&json!({"type": "ptp", "mtu": 9, "ipam": ipam})).unwrap().ipam_options();
        let plain = options(json!({"type": "poolward-ipam"})).unwrap();
        assert!(plain.on_link && plain.gateways.is_none() && plain.routes.is_none());
        let all = json!({"ipv4_pools": ["a"], "prefix": "pool", "subnets": ["10.0.0.0/8"], "gateways": ["10.0.0.1", "fd00::1"],
            "routes": [{"dst": "192.0.2.0/24"}]});
        let found = options(all).unwrap();
        assert_eq!(found.network.ipv4_pools, Some(vec!["a".to_owned()]));
        assert_eq!(found.gateways.map(|gateways| gateways.len()), Some(2));
        assert_eq!(found.subnets, ["10.0.0.0/8"]);
        assert_eq!(found.routes, Some(json!([{"dst": "192.0.2.0/24"}])));
        assert_eq!(options(json!({"gateways": []})).unwrap().gateways, Some(Vec::new()));
        assert!(!options(json!({"prefix": "host"})).unwrap().on_link);

        let refused = |ipam: Value, code: Code, expected: &str| check(options(ipam), code, expected);
        refused(json!({"type": "ptp"}), Code::UnsupportedField, ": ipam.type=\"ptp\": not supported");
        refused(json!({"subnet": "x"}), Code::UnsupportedField, ": ipam.subnet=\"x\": not supported");
        refused(json!({"prefix": 24}), Code::InvalidConfig, ": ipam.prefix: expected a string, found 24");
        refused(json!({"prefix": "24"}), Code::InvalidConfig, ": ipam.prefix: \"24\": expected host or pool");
        refused(
            json!({"gateways": ["10.0.0.1", "10.0.0.2"]}),
            Code::InvalidConfig,
            ": ipam.gateways: 10.0.0.2: a second one of its family",
        );
        refused(
            json!({"prefix": "host", "gateways": ["10.0.0.1"]}),
            Code::InvalidConfig,
            ": ipam.gateways: with \"prefix\": \"host\" no gateway is on the link",
        );
        refused(
            json!({"prefix": "host", "subnets": ["10.0.0.0/8"]}),
            Code::InvalidConfig,
            ": ipam.subnets: with \"prefix\": \"host\" nothing is on the link",
        );
        let missing = config(&json!({"type": "ptp"})).unwrap().ipam_options();
        check(
            missing,
            Code::InvalidConfig,
            ": ipam: missing, but required where this plugin gives the addresses",
        );
    }
}
