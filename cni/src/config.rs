//! The network configuration on standard input.
//!
//! What every verb needs is checked by [`Config::parse`]; what one verb needs is checked when it asks, so that
//! a DEL never fails for the sake of a key that only ADD uses. Unknown keys are accepted, since runtimes and
//! plugins of the same chain add theirs, but not inside `ipam`, where a misspelt key would choose another pool.

mod ipam;

use std::path::PathBuf;
use std::time::Duration;

use model::MIN_MTU_BYTES;
use rpc::client::{CALL_TIMEOUT, DEFAULT_SOCKET_PATH};
use rpc::{NetworkOptions, ValidAttachment};
use serde_json::{Map, Value};

use crate::error::{CniError, Code, quote, quote_json};
use crate::host_local;
use crate::json::{Object, show, wrong};
use crate::result::CniResult;
use crate::verb::ipam::NAME as IPAM_NAME;

pub(crate) use self::ipam::IpamOptions;

/// The largest configuration read. A GC lists every attachment of a node.
pub(crate) const MAX_STDIN_BYTES: u64 = 1024 * 1024;

/// The specification versions spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SpecVersion {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl SpecVersion {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest: what is said where the runtime's own is not known.
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

/// Keys of `ipam` that choose pools and families.
const CHOICE_KEYS: [&str; 5] = ["type", "ipv4_pools", "ipv6_pools", "assign_ipv4", "assign_ipv6"];

/// A configuration whose version, name and way to the agent are good.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    root: Map<String, Value>,
    /// `cniVersion`.
    pub(crate) version: SpecVersion,
    /// `name`.
    pub(crate) name: String,
    /// `agentSocket`.
    pub(crate) agent_socket: PathBuf,
    /// `timeoutMs`: how long the agent may take.
    pub(crate) timeout: Duration,
    /// `logLevel` is `debug`: one line on standard error for each call.
    pub(crate) debug: bool,
}

/// The JSON object that the bytes are.
pub(crate) fn decode(stdin: &[u8]) -> Result<Map<String, Value>, CniError> {
    let error =
        |why: String| CniError::new(Code::Decode, format!("network configuration on standard input: {why}"));
    if stdin.iter().all(u8::is_ascii_whitespace) {
        return Err(error("empty, expected a JSON object".to_owned()));
    }
    match serde_json::from_slice(stdin) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(error(format!("expected a JSON object, found {}", show(&other)))),
        Err(source) => Err(error(format!("not JSON: {source}"))),
    }
}

/// The version that the configuration asks for.
pub(crate) fn version(root: &Map<String, Value>) -> Result<SpecVersion, CniError> {
    // The specification gave configurations without the key the version 0.1.0.
    let text = Object::root(root).string("cniVersion")?.unwrap_or("0.1.0");
    SpecVersion::parse(text).ok_or_else(|| {
        let supported = SpecVersion::ALL.map(SpecVersion::as_str).join(", ");
        let error = CniError::new(
            Code::IncompatibleVersion,
            format!(
                "network configuration: cniVersion {}: not supported; supported are {supported}",
                quote(text)
            ),
        );
        if root.contains_key("cniVersion") {
            error
        } else {
            error.detail("without the key, cniVersion is 0.1.0")
        }
    })
}

impl Config {
    /// Checks what every verb but VERSION needs.
    pub(crate) fn parse(root: Map<String, Value>) -> Result<Self, CniError> {
        let version = version(&root)?;
        let object = Object::root(&root);
        let name = object.string("name")?.unwrap_or_default();
        if name.is_empty() {
            return Err(invalid("name: missing, but required"));
        }
        let name_ok = name.len() <= 253
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !name_ok {
            return Err(invalid(&format!(
                "name: {}: expected 1 to 253 letters, digits, '_', '.' or '-', starting with a letter or digit",
                quote(name)
            )));
        }
        let agent_socket = PathBuf::from(object.string("agentSocket")?.unwrap_or(DEFAULT_SOCKET_PATH));
        if !agent_socket.is_absolute() {
            let text = agent_socket.to_string_lossy();
            return Err(invalid(&format!("agentSocket: {}: expected an absolute path", quote(&text))));
        }
        let timeout = object
            .whole_number("timeoutMs", 100, 600_000)?
            .map_or(CALL_TIMEOUT, |ms| Duration::from_millis(ms.into()));
        let debug = match object.string("logLevel")?.unwrap_or("info").to_ascii_lowercase().as_str() {
            "debug" | "trace" => true,
            "info" | "warn" | "warning" | "error" | "none" => false,
            other => {
                return Err(invalid(&format!(
                    "logLevel: {}: expected debug, info, warning or error",
                    quote(other)
                )));
            }
        };
        let name = name.to_owned();
        Ok(Self { version, name, agent_socket, timeout, debug, root })
    }

    /// What ADD is asked to do.
    pub(crate) fn options(&self) -> Result<NetworkOptions, CniError> {
        let root = Object::root(&self.root);
        Self::refuse_capabilities(&root)?;
        for key in ["capabilities", "args"] {
            root.object(key)?;
        }
        if let Some(kind) = root.string("type")?
            && (kind.is_empty() || kind.contains(['/', '\\']))
        {
            return Err(invalid(&format!("type: {}: expected a file name", quote(kind))));
        }
        // Calico writes 0 for "find it out".
        let mtu_bytes = match root.whole_number("mtu", 0, 65_535)? {
            None | Some(0) => None,
            Some(mtu) if mtu >= MIN_MTU_BYTES => Some(mtu),
            Some(mtu) => {
                return Err(invalid(&format!("mtu: expected 0 or {MIN_MTU_BYTES} to 65535, found {mtu}")));
            }
        };
        let mut options = NetworkOptions { mtu_bytes, ..NetworkOptions::default() };
        let Some(ipam) = root.object("ipam")? else { return Ok(options) };
        match ipam.string("type")? {
            // What stands there is that plugin's business.
            Some(host_local::NAME) => return Ok(options),
            None | Some("" | IPAM_NAME) => {}
            Some(kind) => {
                return Err(unsupported("ipam.type", &kind.into()).detail(
                    "leave ipam.type out, or write \"poolward-ipam\", for addresses from pools; \"host-local\" is the \
                     only other plugin that may give them",
                ));
            }
        }
        refuse_other_keys(&ipam, &CHOICE_KEYS)?;
        choose(&ipam, &mut options)?;
        Ok(options)
    }

    /// Whether another plugin gives the addresses.
    pub(crate) fn uses_host_local(&self) -> Result<bool, CniError> {
        let ipam = Object::root(&self.root).object("ipam")?;
        Ok(ipam.map(|ipam| ipam.string("type")).transpose()?.flatten() == Some(host_local::NAME))
    }

    /// All of it.
    pub(crate) fn root(&self) -> &Map<String, Value> {
        &self.root
    }

    /// `runtimeConfig` holds what the runtime wants done by this very plugin, because its configuration declared
    /// the capability. Silence would look like success.
    fn refuse_capabilities(root: &Object<'_>) -> Result<(), CniError> {
        refuse_runtime_keys(
            root,
            &["ips", "mac", "ipRanges", "portMappings", "bandwidth", "deviceID", "infinibandGUID"],
        )
    }

    /// `dns`, which is passed on into the result.
    pub(crate) fn dns(&self) -> Result<Option<Map<String, Value>>, CniError> {
        let Some(dns) = Object::root(&self.root).object("dns")? else { return Ok(None) };
        dns.string("domain")?;
        for key in ["nameservers", "search", "options"] {
            dns.strings(key)?;
        }
        Ok((!dns.map().is_empty()).then(|| dns.map().clone()))
    }

    /// `prevResult`.
    pub(crate) fn prev_result(&self) -> Result<Option<CniResult>, CniError> {
        Object::root(&self.root).object("prevResult")?.map(|object| CniResult::parse(&object)).transpose()
    }

    /// `cni.dev/valid-attachments`. Without the key nothing may be collected; `null` is how the reference library
    /// writes an empty list.
    pub(crate) fn valid_attachments(&self) -> Result<Vec<ValidAttachment>, CniError> {
        const KEY: &str = "cni.dev/valid-attachments";
        if !self.root.contains_key(KEY) {
            return Err(invalid(&format!("{KEY}: missing, but required by GC"))
                .detail("an absent list is not taken for an empty one, which would free every address"));
        }
        let items = Object::root(&self.root).list(KEY)?.unwrap_or_default();
        items
            .into_iter()
            .map(|(path, value)| {
                let item = Object::at(path, value)?;
                let text = |key: &str| match item.string(key)? {
                    Some(text) if !text.is_empty() => Ok(text.to_owned()),
                    _ => Err(wrong(&item.path_of(key), "a string that is not empty", &Value::Null)),
                };
                Ok(ValidAttachment { container_id: text("containerID")?, ifname: text("ifname")? })
            })
            .collect()
    }
}

fn refuse_other_keys(ipam: &Object<'_>, known: &[&str]) -> Result<(), CniError> {
    match ipam.map().iter().find(|(key, _)| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some((key, value)) => {
            Err(unsupported(&ipam.path_of(key), value)
                .detail(format!("keys of ipam are {}", known.join(", "))))
        }
    }
}

/// Pools and families.
fn choose(ipam: &Object<'_>, options: &mut NetworkOptions) -> Result<(), CniError> {
    options.ipv4_pools = ipam.strings("ipv4_pools")?;
    options.ipv6_pools = ipam.strings("ipv6_pools")?;
    options.assign_ipv4 = ipam.boolean("assign_ipv4")?;
    options.assign_ipv6 = ipam.boolean("assign_ipv6")?;
    if (options.assign_ipv4, options.assign_ipv6) == (Some(false), Some(false)) {
        return Err(invalid(
            "ipam.assign_ipv4 and ipam.assign_ipv6 are both false: no address is left to give",
        ));
    }
    Ok(())
}

fn refuse_runtime_keys(root: &Object<'_>, keys: &[&str]) -> Result<(), CniError> {
    let Some(runtime) = root.object("runtimeConfig")? else { return Ok(()) };
    for key in keys {
        let Some(value) = runtime.map().get(*key) else { continue };
        let asks_nothing = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if !asks_nothing {
            return Err(unsupported(&runtime.path_of(key), value).detail(format!(
                "remove the capability {key:?} from this plugin's configuration; plugins behind it in the chain, \
                 such as portmap, may have it"
            )));
        }
    }
    Ok(())
}

fn invalid(why: &str) -> CniError {
    CniError::new(Code::InvalidConfig, format!("network configuration: {why}"))
}

/// The specification wants key and value of the field in the message.
fn unsupported(path: &str, value: &Value) -> CniError {
    CniError::new(
        Code::UnsupportedField,
        format!("network configuration: {path}={}: not supported", quote_json(value)),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn config(extra: &Value) -> Result<Config, CniError> {
        let mut root = json!({"cniVersion": "1.1.0", "name": "net", "type": "poolward"});
        root.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        Config::parse(root.as_object().unwrap().clone())
    }

    pub(super) fn check<T: std::fmt::Debug>(found: Result<T, CniError>, code: Code, expected: &str) {
        let error = found.unwrap_err();
        let (found_code, line) = error.parts();
        assert_eq!((found_code, line), (code, format!("network configuration{expected}").as_str()));
    }

    #[test]
    fn host_local_has_keys_of_its_own_and_is_the_only_other_plugin() {
        let host_local =
            config(&json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "x"}]]}})).unwrap();
        assert!(host_local.uses_host_local().unwrap() && host_local.options().is_ok());
        for ipam in
            [json!({}), json!({"type": ""}), json!({"type": "poolward-ipam"}), json!({"type": "static"})]
        {
            assert!(!config(&json!({"ipam": ipam})).unwrap().uses_host_local().unwrap(), "{ipam}");
        }
    }

    #[test]
    fn bytes_that_are_no_object_are_told_apart() {
        check(decode(b" \n"), Code::Decode, " on standard input: empty, expected a JSON object");
        check(decode(b"[1]"), Code::Decode, " on standard input: expected a JSON object, found a list of 1");
        check(
            decode(b"{\"a\":"),
            Code::Decode,
            " on standard input: not JSON: EOF while parsing a value at line 1 column 5",
        );
        assert!(decode(b"\xff").is_err());
        assert!(decode("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn four_versions_are_spoken_and_a_refusal_names_them() {
        for text in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            assert_eq!(config(&json!({"cniVersion": text})).unwrap().version.as_str(), text);
        }
        for text in ["0.1.0", "0.2.0", "0.3.0", "1.2.0", "2.0.0", "1.1", "v1.1.0", ""] {
            check(
                config(&json!({"cniVersion": text})),
                Code::IncompatibleVersion,
                &format!(": cniVersion {text:?}: not supported; supported are 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
            );
        }
        let absent = version(&Map::new()).unwrap_err();
        assert_eq!(absent.parts().0, Code::IncompatibleVersion);
        check(
            config(&json!({"cniVersion": 1})),
            Code::InvalidConfig,
            ": cniVersion: expected a string, found 1",
        );
    }

    #[test]
    fn the_name_follows_the_specification() {
        for name in ["a", "k8s-pod-network", "9.b_c"] {
            assert_eq!(config(&json!({"name": name})).unwrap().name, name);
        }
        check(config(&json!({"name": null})), Code::InvalidConfig, ": name: missing, but required");
        check(config(&json!({"name": ""})), Code::InvalidConfig, ": name: missing, but required");
        for name in ["../a", "a/b", ".a", "-a", "a b", "ä", &"a".repeat(254)] {
            let error = config(&json!({"name": name})).unwrap_err();
            assert!(error.line().contains("name: \"") && error.number() == 7, "{name}: {}", error.line());
        }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = config(&json!({"unknown": {"a": 1}, "capabilities": {"x": true}})).unwrap();
        assert_eq!(config.agent_socket, PathBuf::from("/run/poolward/agent.sock"));
        assert_eq!((config.timeout, config.debug), (Duration::from_secs(60), false));
        assert_eq!(config.options(), Ok(NetworkOptions::default()));
        assert_eq!(config.dns(), Ok(None));
        assert_eq!(config.prev_result(), Ok(None));
    }

    #[test]
    fn wrong_common_keys_are_refused_by_every_verb() {
        let refused = |extra: Value, expected: &str| check(config(&extra), Code::InvalidConfig, expected);
        refused(json!({"agentSocket": "a.sock"}), ": agentSocket: \"a.sock\": expected an absolute path");
        refused(json!({"agentSocket": 1}), ": agentSocket: expected a string, found 1");
        refused(
            json!({"timeoutMs": 99}),
            ": timeoutMs: expected a whole number from 100 to 600000, found 99",
        );
        refused(json!({"logLevel": "loud"}), ": logLevel: \"loud\": expected debug, info, warning or error");
    }

    #[test]
    fn options_are_read_as_calico_writes_them() {
        let options = |extra: Value| config(&extra).unwrap().options().unwrap();
        let full = json!({"mtu": 1400, "ipam": {"type": "poolward-ipam", "ipv4_pools": ["a", "10.0.0.0/26"],
            "ipv6_pools": [], "assign_ipv4": "true", "assign_ipv6": false}});
        assert_eq!(
            options(full),
            NetworkOptions {
                ipv4_pools: Some(vec!["a".into(), "10.0.0.0/26".into()]),
                ipv6_pools: Some(vec![]),
                assign_ipv4: Some(true),
                assign_ipv6: Some(false),
                mtu_bytes: Some(1400),
            }
        );
        assert_eq!(options(json!({"mtu": 0, "ipam": {}})), NetworkOptions::default());
        assert_eq!(options(json!({"runtimeConfig": {"mac": "", "other": 1}})), NetworkOptions::default());
    }

    #[test]
    fn options_that_cannot_be_are_refused_with_key_and_value() {
        let refused = |extra: Value, code: Code, expected: &str| {
            check(config(&extra).unwrap().options(), code, expected);
        };
        let (field, value) = (Code::UnsupportedField, Code::InvalidConfig);
        refused(json!({"ipam": {"ipv4pools": ["a"]}}), field, ": ipam.ipv4pools=[\"a\"]: not supported");
        refused(json!({"ipam": {"type": "static"}}), field, ": ipam.type=\"static\": not supported");
        refused(
            json!({"runtimeConfig": {"mac": "0a:"}}),
            field,
            ": runtimeConfig.mac=\"0a:\": not supported",
        );
        refused(json!({"ipam": []}), value, ": ipam: expected an object, found a list of 0");
        refused(
            json!({"ipam": {"ipv4_pools": "a"}}),
            value,
            ": ipam.ipv4_pools: expected a list, found \"a\"",
        );
        refused(
            json!({"ipam": {"ipv6_pools": [1]}}),
            value,
            ": ipam.ipv6_pools[0]: expected a string that is not empty, found 1",
        );
        refused(
            json!({"ipam": {"assign_ipv4": "yes"}}),
            value,
            ": ipam.assign_ipv4: expected true or false, found \"yes\"",
        );
        refused(
            json!({"ipam": {"assign_ipv4": false, "assign_ipv6": "false"}}),
            value,
            ": ipam.assign_ipv4 and ipam.assign_ipv6 are both false: no address is left to give",
        );
        refused(
            json!({"mtu": "1500"}),
            value,
            ": mtu: expected a whole number from 0 to 65535, found \"1500\"",
        );
        refused(json!({"mtu": 1279}), value, ": mtu: expected 0 or 1280 to 65535, found 1279");
        refused(json!({"args": 1}), value, ": args: expected an object, found 1");
        refused(json!({"capabilities": []}), value, ": capabilities: expected an object, found a list of 0");
        refused(json!({"type": "../poolward"}), value, ": type: \"../poolward\": expected a file name");
    }

    #[test]
    fn dns_is_checked_and_kept_whole() {
        let dns = |extra: Value| config(&extra).unwrap().dns();
        let full =
            json!({"nameservers": ["10.0.0.1"], "domain": "d", "search": ["s"], "options": ["ndots:5"]});
        assert_eq!(dns(json!({"dns": full.clone()})).unwrap().map(Value::Object), Some(full));
        assert_eq!(dns(json!({"dns": {}})), Ok(None));
        check(
            dns(json!({"dns": {"search": "s"}})),
            Code::InvalidConfig,
            ": dns.search: expected a list, found \"s\"",
        );
    }

    #[test]
    fn gc_never_takes_an_absent_list_for_an_empty_one() {
        let list = |extra: Value| config(&extra).unwrap().valid_attachments();
        let one = json!([{"containerID": "c", "ifname": "eth0", "more": 1}]);
        assert_eq!(
            list(json!({"cni.dev/valid-attachments": one})),
            Ok(vec![ValidAttachment { container_id: "c".into(), ifname: "eth0".into() }])
        );
        assert_eq!(list(json!({"cni.dev/valid-attachments": []})), Ok(vec![]));
        assert_eq!(list(json!({"cni.dev/valid-attachments": null})), Ok(vec![]));
        check(
            list(json!({})),
            Code::InvalidConfig,
            ": cni.dev/valid-attachments: missing, but required by GC",
        );
        check(
            list(json!({"cni.dev/valid-attachments": [{"containerID": "c"}]})),
            Code::InvalidConfig,
            ": cni.dev/valid-attachments[0].ifname: expected a string that is not empty, found null",
        );
    }
}
