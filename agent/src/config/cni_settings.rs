//! The `cni` part of the configuration: the list of plugins that the runtime is given.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::raw::RawCni;
use super::{ConfigError, Key};

/// What the runtime is told, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// Where the runtime looks: a link to a file of this name in the state directory, once pods can get addresses.
    pub conflist_path: PathBuf,
    /// What it holds.
    pub conflist: String,
    /// Where pods get their addresses from, by what it holds.
    pub addresses: AddressSource,
}

/// Who gives pods their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// We do, out of pools.
    Pools,
    /// The plugin `host-local`, out of the ranges that the cluster gave the node.
    NodeRanges,
}

/// Checks the part. Without a path no file is written: whoever manages the runtime does that.
pub(super) fn resolve(
    raw: Option<&RawCni>,
    socket_path: &Path,
    file: &str,
) -> Result<Option<CniConfig>, ConfigError> {
    let Some(raw) = raw else { return Ok(None) };
    let at = |key: &'static str| Key { file, key };
    let conflist = at("cni.conflist").read(raw.conflist.as_ref(), None, |text| check(text).map(Some))?;
    let Some(path) = &raw.conflist_path else {
        return match &raw.conflist {
            Some(value) => {
                Err(at("cni.conflist").error(value, "it needs cni.conflistPath, where to write it"))
            }
            None => Ok(None),
        };
    };
    let conflist_path = at("cni.conflistPath").read(Some(path), PathBuf::new(), |path: &PathBuf| {
        let is_read = path.extension().is_some_and(|extension| extension == "conflist");
        if path.is_absolute() && is_read {
            Ok(path.clone())
        } else {
            Err("expected an absolute path that ends in .conflist, as runtimes want it".to_owned())
        }
    })?;
    let (conflist, addresses) = conflist.unwrap_or_else(|| (usual(socket_path), AddressSource::Pools));
    Ok(Some(CniConfig { conflist_path, conflist, addresses }))
}

/// Our plugin, and behind it the one for host ports.
fn usual(socket_path: &Path) -> String {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "poolward",
        "plugins": [
            {"type": "poolward", "agentSocket": socket_path},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    format!("{list:#}\n")
}

/// A mistake here would be told by the runtime alone, on every node, in its own words.
fn check(text: &str) -> Result<(String, AddressSource), String> {
    let list: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    for key in ["cniVersion", "name"] {
        if list[key].as_str().is_none_or(str::is_empty) {
            return Err(format!("{key}: expected a text"));
        }
    }
    let plugins = list["plugins"].as_array().filter(|plugins| !plugins.is_empty());
    let plugins = plugins.ok_or("plugins: expected a list of plugins")?;
    if plugins.iter().any(|plugin| plugin["type"].as_str().is_none_or(str::is_empty)) {
        return Err("plugins: each needs a type".to_owned());
    }
    let ours = |kind: &Value| kind.as_str().is_some_and(|kind| kind.starts_with("poolward"));
    if !plugins.iter().any(|plugin| ours(&plugin["type"]) || ours(&plugin["ipam"]["type"])) {
        return Err("plugins: none is of type poolward".to_owned());
    }
    let host_local = |plugin: &Value| plugin["type"] == "poolward" && plugin["ipam"]["type"] == "host-local";
    let addresses =
        if plugins.iter().any(host_local) { AddressSource::NodeRanges } else { AddressSource::Pools };
    Ok((text.to_owned(), addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_list_is_one_that_is_accepted() {
        let text = usual(Path::new("/run/x.sock"));
        assert_eq!(check(&text), Ok((text.clone(), AddressSource::Pools)));
        assert!(text.contains(r#""agentSocket": "/run/x.sock""#), "{text}");
    }

    #[test]
    fn a_list_that_a_runtime_would_refuse_or_that_is_not_about_us_is_a_mistake() {
        let refuse = |text: &str, part: &str| {
            let error = check(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        refuse("{", "not JSON");
        refuse(r#"{"name": "a", "plugins": [{"type": "poolward"}]}"#, "cniVersion");
        refuse(r#"{"cniVersion": "1.0.0", "plugins": [{"type": "poolward"}]}"#, "name");
        refuse(r#"{"cniVersion": "1.0.0", "name": "a", "plugins": []}"#, "list of plugins");
        refuse(r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [{}]}"#, "type");
        refuse(r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "bridge"}]}"#, "poolward");
        let bridge = r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "bridge", "ipam": {"type": "poolward-ipam"}}]}"#;
        assert_eq!(check(bridge).unwrap().1, AddressSource::Pools);
    }

    #[test]
    fn whether_the_addresses_come_from_the_nodes_own_ranges_is_in_the_list() {
        let text = r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [
            {"type": "poolward", "ipam": {"type": "host-local", "subnet": "usePodCidr"}}, {"type": "portmap"}]}"#;
        assert_eq!(check(text).unwrap().1, AddressSource::NodeRanges);
    }
}
