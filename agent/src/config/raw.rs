//! What may be written in the configuration file. Unknown keys are refused.

use std::path::PathBuf;

use model::Labels;
use serde::Deserialize;
pub(super) use serde_saphyr::Spanned;

use super::ConfigError;

/// The file as written: every value still as its author typed it, with its line.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Raw {
    pub(super) node_name: Option<Spanned<String>>,
    pub(super) node_labels: Labels,
    pub(super) socket_path: Option<Spanned<PathBuf>>,
    pub(super) state_dir: Option<Spanned<PathBuf>>,
    pub(super) store: Option<RawStore>,
    pub(super) store_path: Option<Spanned<PathBuf>>,
    pub(super) bpf_pin_dir: Option<Spanned<PathBuf>>,
    pub(super) bpf_shared_mark: Option<Spanned<PathBuf>>,
    pub(super) sysctl_dir: Option<Spanned<PathBuf>>,
    pub(super) mark_mask: Option<Spanned<String>>,
    pub(super) route_protocol: Option<Spanned<u64>>,
    pub(super) uplink: Option<Spanned<String>>,
    pub(super) node_ip: Option<Spanned<String>>,
    pub(super) encap_backend: Option<Spanned<String>>,
    pub(super) mtu_bytes: Option<Spanned<u64>>,
    pub(super) attach_mode: Option<Spanned<String>>,
    pub(super) max_pods: Option<Spanned<u64>>,
    pub(super) max_pools: Option<Spanned<u64>>,
    pub(super) resync_seconds: Option<Spanned<u64>>,
    pub(super) publish_seconds: Option<Spanned<u64>>,
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Option<Spanned<Vec<String>>>,
    pub(super) leak_grace_seconds: Option<Spanned<u64>>,
    pub(super) allow_source_prefixes: Option<Spanned<String>>,
    pub(super) on_locked: Option<Spanned<String>>,
    pub(super) cni: Option<RawCni>,
    pub(super) ipam: Option<RawIpam>,
    pub(super) log: Option<RawLog>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RawIpam {
    pub(super) strict_affinity: Option<bool>,
    pub(super) auto_allocate_blocks: Option<bool>,
    pub(super) enforce_selectors_on_request: Option<bool>,
    pub(super) max_blocks_per_node: Option<Spanned<u64>>,
    pub(super) at_block_limit: Option<Spanned<String>>,
    pub(super) release_after_seconds: Option<Spanned<u64>>,
    pub(super) return_after_seconds: Option<Spanned<u64>>,
    pub(super) gone_after_seconds: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RawStore {
    #[serde(rename = "type")]
    pub(super) kind: Option<Spanned<String>>,
    pub(super) kubeconfig: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RawCni {
    pub(super) conflist_path: Option<Spanned<PathBuf>>,
    pub(super) conflist: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) level: Option<String>,
    pub(super) format: Option<Spanned<String>>,
}

impl Raw {
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map(|at| format!(", line {}", at.line())).unwrap_or_default();
            let text = error.to_string();
            // The place is said already.
            let what = text.split(" at line ").next().unwrap_or(&text).to_owned();
            ConfigError { place: format!("configuration {file}{line}"), what }
        })
    }
}
