//! The result of an ADD: read from `prevResult`, extended by what was made, written in the version asked for.
//!
//! The versions differ in little: up to 0.4.0 each address says its family (`version`); since 1.1.0 interfaces
//! have `mtu`, `socketPath` and `pciID`, and routes have `mtu`, `advmss`, `priority`, `table` and `scope`. Keys
//! that no version knows are passed through.

use std::net::IpAddr;

use rpc::AddReply;
use serde_json::{Map, Value, json};

use crate::config::SpecVersion;
use crate::error::{CniError, Code, quote};
use crate::json::{Object, wrong};

/// A result, free of versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CniResult {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    routes: Vec<Map<String, Value>>,
    dns: Option<Map<String, Value>>,
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
struct Interface {
    name: String,
    sandbox: String,
    /// The whole object.
    object: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
struct Ip {
    address: IpAddr,
    /// Index into the interfaces.
    interface: Option<usize>,
    /// The whole object.
    object: Map<String, Value>,
}

/// Interface keys since 1.1.0.
const INTERFACE_KEYS_1_1: [&str; 3] = ["mtu", "socketPath", "pciID"];
/// Route keys since 1.1.0.
const ROUTE_KEYS_1_1: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

impl CniResult {
    /// Reads a `prevResult` of any version spoken; one without `cniVersion` is of the configuration's.
    pub(crate) fn parse(object: &Object<'_>) -> Result<Self, CniError> {
        if let Some(text) = object.string("cniVersion")?
            && SpecVersion::parse(text).is_none()
        {
            let supported = SpecVersion::ALL.map(SpecVersion::as_str).join(", ");
            return Err(CniError::new(
                Code::IncompatibleVersion,
                format!(
                    "network configuration: {}: {}: not supported; supported are {supported}",
                    object.path_of("cniVersion"),
                    quote(text)
                ),
            ));
        }
        let objects = |key: &str| -> Result<Vec<Object<'_>>, CniError> {
            let items = object.list(key)?.unwrap_or_default();
            items.into_iter().map(|(path, value)| Object::at(path, value)).collect()
        };
        let interfaces: Vec<Interface> =
            objects("interfaces")?.iter().map(Interface::parse).collect::<Result<_, _>>()?;
        let ips =
            objects("ips")?.iter().map(|ip| Ip::parse(ip, interfaces.len())).collect::<Result<_, _>>()?;
        let routes = objects("routes")?.iter().map(|route| route.map().clone()).collect();
        let dns = object.object("dns")?.map(|dns| dns.map().clone()).filter(|dns| !dns.is_empty());
        let mut rest = object.map().clone();
        rest.retain(|key, value| {
            !["cniVersion", "interfaces", "ips", "routes", "dns"].contains(&key.as_str()) && !value.is_null()
        });
        Ok(Self { interfaces, ips, routes, dns, rest })
    }

    /// Whether an interface of that name is in a container.
    pub(crate) fn has_container_interface(&self, name: &str) -> bool {
        self.interfaces.iter().any(|interface| interface.name == name && !interface.sandbox.is_empty())
    }

    /// All addresses, whosever.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.ips.iter().map(|ip| ip.address).collect()
    }

    /// The addresses of the container's interface of that name.
    pub(crate) fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        let is_it = |index: usize| {
            self.interfaces
                .get(index)
                .is_some_and(|interface| interface.name == name && !interface.sandbox.is_empty())
        };
        self.ips.iter().filter(|ip| ip.interface.is_some_and(is_it)).map(|ip| ip.address).collect()
    }

    /// Adds what an ADD made, behind what is there.
    pub(crate) fn append(&mut self, added: &AddReply, sandbox: &str) {
        let interface = |name: &str, mac: &str, sandbox: &str| {
            let mut object = Map::new();
            object.insert("name".to_owned(), name.into());
            if !mac.is_empty() {
                object.insert("mac".to_owned(), mac.into());
            }
            object.insert("mtu".to_owned(), added.mtu_bytes.into());
            if !sandbox.is_empty() {
                object.insert("sandbox".to_owned(), sandbox.into());
            }
            Interface { name: name.to_owned(), sandbox: sandbox.to_owned(), object }
        };
        self.interfaces.push(interface(&added.host.name, &added.host.mac, ""));
        self.interfaces.push(interface(&added.pod.name, &added.pod.mac, sandbox));
        let pod_index = self.interfaces.len() - 1;
        for address in &added.addresses {
            let (host_len, any) = if address.address.is_ipv4() { (32, "0.0.0.0/0") } else { (128, "::/0") };
            let mut object = Map::new();
            object.insert("address".to_owned(), format!("{}/{host_len}", address.address).into());
            object.insert("gateway".to_owned(), address.gateway.to_string().into());
            object.insert("interface".to_owned(), pod_index.into());
            self.ips.push(Ip { address: address.address, interface: Some(pod_index), object });
            let mut route = Map::new();
            route.insert("dst".to_owned(), any.into());
            route.insert("gw".to_owned(), address.gateway.to_string().into());
            self.routes.push(route);
        }
    }

    /// Puts the configuration's `dns` in the place of an earlier plugin's, as the reference plugins do.
    pub(crate) fn set_dns(&mut self, dns: Option<Map<String, Value>>) {
        if dns.is_some() {
            self.dns = dns;
        }
    }

    /// The object for standard output.
    pub(crate) fn to_json(&self, version: SpecVersion) -> Value {
        let mut result = self.rest.clone();
        result.insert("cniVersion".to_owned(), version.as_str().into());
        let without = |object: &Map<String, Value>, keys: &[&str]| {
            let mut object = object.clone();
            if version < SpecVersion::V1_1_0 {
                object.retain(|key, _| !keys.contains(&key.as_str()));
            }
            Value::Object(object)
        };
        let interfaces = self.interfaces.iter().map(|i| without(&i.object, &INTERFACE_KEYS_1_1)).collect();
        result.insert("interfaces".to_owned(), Value::Array(interfaces));
        result.insert("ips".to_owned(), self.ips.iter().map(|ip| ip.to_json(version)).collect());
        let routes = self.routes.iter().map(|route| without(route, &ROUTE_KEYS_1_1)).collect();
        result.insert("routes".to_owned(), Value::Array(routes));
        if let Some(dns) = &self.dns {
            result.insert("dns".to_owned(), Value::Object(dns.clone()));
        }
        Value::Object(result)
    }
}

impl Interface {
    fn parse(object: &Object<'_>) -> Result<Self, CniError> {
        let name = object.string("name")?.unwrap_or_default();
        if name.is_empty() {
            return Err(wrong(&object.path_of("name"), "a string that is not empty", &name.into()));
        }
        let sandbox = object.string("sandbox")?.unwrap_or_default();
        Ok(Self { name: name.to_owned(), sandbox: sandbox.to_owned(), object: object.map().clone() })
    }
}

impl Ip {
    fn parse(object: &Object<'_>, interface_count: usize) -> Result<Self, CniError> {
        let text = object.string("address")?.unwrap_or_default();
        let address = parse_cidr(text).ok_or_else(|| {
            wrong(&object.path_of("address"), "an address with its prefix length", &text.into())
        })?;
        let interface = match object.map().get("interface").filter(|value| !value.is_null()) {
            None => None,
            Some(value) => {
                let index = value.as_u64().and_then(|index| usize::try_from(index).ok());
                let index = index.filter(|index| *index < interface_count).ok_or_else(|| {
                    let expected = format!("an index into the {interface_count} interfaces");
                    wrong(&object.path_of("interface"), &expected, value)
                })?;
                Some(index)
            }
        };
        Ok(Self { address, interface, object: object.map().clone() })
    }

    fn to_json(&self, version: SpecVersion) -> Value {
        let mut object = self.object.clone();
        if version <= SpecVersion::V0_4_0 {
            object.insert("version".to_owned(), json!(if self.address.is_ipv4() { "4" } else { "6" }));
        } else {
            object.remove("version");
        }
        Value::Object(object)
    }
}

/// The address of a CIDR; host bits may be set.
fn parse_cidr(text: &str) -> Option<IpAddr> {
    let (address, prefix_len) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix_len: u8 = prefix_len.parse().ok()?;
    (prefix_len <= if address.is_ipv4() { 32 } else { 128 }).then_some(address)
}

#[cfg(test)]
mod tests {
    use rpc::{AddressReply, InterfaceReply};

    use super::*;

    fn added() -> AddReply {
        AddReply {
            host: InterfaceReply { name: "pw0123".into(), mac: "0a:00:00:00:00:01".into() },
            pod: InterfaceReply { name: "eth0".into(), mac: "0a:00:00:00:00:02".into() },
            addresses: vec![
                AddressReply {
                    address: "10.0.0.1".parse().unwrap(),
                    gateway: "169.254.1.1".parse().unwrap(),
                    pool: "p4".into(),
                },
                AddressReply {
                    address: "fd00::1".parse().unwrap(),
                    gateway: "fe80::1".parse().unwrap(),
                    pool: "p6".into(),
                },
            ],
            mtu_bytes: 1480,
        }
    }

    fn parse(value: &Value) -> Result<CniResult, CniError> {
        CniResult::parse(&Object::at("prevResult".into(), value)?)
    }

    #[test]
    fn each_version_has_its_shape() {
        let check = |version: SpecVersion, expected: Value| {
            let mut result = CniResult::default();
            result.append(&added(), "/run/netns/a");
            assert_eq!(result.to_json(version), expected, "{version:?}");
            assert_eq!(parse(&expected).unwrap().to_json(version), expected, "{version:?} read back");
        };
        let old = |version: &str| {
            json!({
                "cniVersion": version,
                "interfaces": [
                    {"name": "pw0123", "mac": "0a:00:00:00:00:01"},
                    {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": "/run/netns/a"},
                ],
                "ips": [
                    {"version": "4", "address": "10.0.0.1/32", "gateway": "169.254.1.1", "interface": 1},
                    {"version": "6", "address": "fd00::1/128", "gateway": "fe80::1", "interface": 1},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
            })
        };
        check(SpecVersion::V0_3_1, old("0.3.1"));
        check(SpecVersion::V0_4_0, old("0.4.0"));
        let new = |version: &str, mtu: bool| {
            let mut value = old(version);
            for ip in value["ips"].as_array_mut().unwrap() {
                ip.as_object_mut().unwrap().remove("version");
            }
            if mtu {
                for interface in value["interfaces"].as_array_mut().unwrap() {
                    interface["mtu"] = 1480.into();
                }
            }
            value
        };
        check(SpecVersion::V1_0_0, new("1.0.0", false));
        check(SpecVersion::V1_1_0, new("1.1.0", true));
    }

    #[test]
    fn ours_goes_behind_an_earlier_plugins_with_its_own_indexes() {
        let earlier = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "br0", "mtu": 9000, "socketPath": "/s", "pciID": "0"},
                {"name": "net9", "sandbox": "/run/netns/a", "custom": 1},
            ],
            "ips": [{"address": "192.168.1.9/24", "interface": 1}, {"address": "fd09::9/64", "interface": null}],
            "routes": [{"dst": "192.168.0.0/16", "mtu": 1400, "priority": 7, "table": 1, "scope": 0, "advmss": 1}],
            "dns": {"domain": "old"},
            "keep": [1],
        });
        let mut result = parse(&earlier).unwrap();
        assert!(result.has_container_interface("net9") && !result.has_container_interface("br0"));
        result.append(&added(), "/run/netns/a");
        let newest = result.to_json(SpecVersion::V1_1_0);
        assert_eq!(newest["interfaces"][0], earlier["interfaces"][0]);
        assert_eq!(newest["routes"][0], earlier["routes"][0]);
        assert_eq!((&newest["keep"], &newest["dns"]), (&earlier["keep"], &earlier["dns"]));
        assert_eq!(newest["ips"][2]["interface"], 3);
        assert_eq!(result.addresses_of("eth0").len(), 2);
        assert_eq!(result.addresses_of("net9"), ["192.168.1.9".parse::<IpAddr>().unwrap()]);
        assert!(result.addresses_of("pw0123").is_empty());

        let old = result.to_json(SpecVersion::V0_4_0);
        assert_eq!(old["interfaces"][0], json!({"name": "br0"}));
        assert_eq!(old["interfaces"][1], json!({"name": "net9", "sandbox": "/run/netns/a", "custom": 1}));
        assert_eq!(old["ips"][0], json!({"address": "192.168.1.9/24", "interface": 1, "version": "4"}));
        assert_eq!(old["ips"][1]["version"], "6");
        assert_eq!(old["routes"][0], json!({"dst": "192.168.0.0/16"}));
    }

    #[test]
    fn an_old_result_becomes_a_new_one() {
        let old = json!({"cniVersion": "0.3.1", "interfaces": [{"name": "e", "sandbox": "s"}],
            "ips": [{"version": "4", "address": "10.0.0.9/24", "interface": 0}], "dns": {}});
        let new = parse(&old).unwrap().to_json(SpecVersion::V1_0_0);
        assert_eq!(new["ips"], json!([{"address": "10.0.0.9/24", "interface": 0}]));
        assert_eq!((new.get("dns"), &new["routes"]), (None, &json!([])));
    }

    #[test]
    fn the_configurations_dns_wins_over_an_earlier_one() {
        let dns = |domain: &str| json!({"domain": domain}).as_object().cloned();
        let mut result = parse(&json!({"dns": dns("old")})).unwrap();
        result.set_dns(None);
        assert_eq!(result.to_json(SpecVersion::NEWEST)["dns"], json!({"domain": "old"}));
        result.set_dns(dns("new"));
        assert_eq!(result.to_json(SpecVersion::NEWEST)["dns"], json!({"domain": "new"}));
    }

    #[test]
    fn a_broken_earlier_result_is_refused_by_path() {
        let check = |value: Value, expected: &str| {
            let error = parse(&value).unwrap_err().line();
            assert_eq!(error, format!("network configuration: prevResult{expected}"));
        };
        check(json!([]), ": expected an object, found a list of 0");
        check(json!({"interfaces": {}}), ".interfaces: expected a list, found an object with 0 keys");
        check(json!({"interfaces": [1]}), ".interfaces[0]: expected an object, found 1");
        check(
            json!({"interfaces": [{}]}),
            ".interfaces[0].name: expected a string that is not empty, found \"\"",
        );
        for address in ["", "10.0.0.1", "10.0.0.1/33", "fd00::/129", "x/1", "10.0.0.1/-1"] {
            check(
                json!({"ips": [{"address": address}]}),
                &format!(".ips[0].address: expected an address with its prefix length, found {address:?}"),
            );
        }
        for index in [json!(0), json!(-1), json!("0"), json!(1.5)] {
            let error = parse(&json!({"ips": [{"address": "10.0.0.1/32", "interface": index}]})).unwrap_err();
            assert!(error.line().contains("prevResult.ips[0].interface: expected an index into the 0"));
        }
        let error = parse(&json!({"cniVersion": "0.2.0"})).unwrap_err();
        assert_eq!(error.parts().0, Code::IncompatibleVersion);
    }
}
