//! `IPAMConfig`: how addresses are given, in the whole cluster.

use serde_json::json;

use super::fields::{Fields, Findings};
use crate::resource::{IpamConfig, IpamConfigSpec, MAX_GRACE_SECONDS, Metadata};

const KNOWN: [&str; 8] = [
    "atBlockLimit",
    "autoAllocateBlocks",
    "enforceSelectorsOnRequest",
    "goneAfterSeconds",
    "maxBlocksPerNode",
    "releaseAfterSeconds",
    "returnAfterSeconds",
    "strictAffinity",
];

/// Shorter ones would take the blocks of nodes whose machines have hardly noticed.
const MIN_GONE_AFTER_SECONDS: i64 = 30;

/// The most blocks that a limit can be set to.
const MAX_BLOCKS_PER_NODE: i64 = 65_536;

/// Reads `spec` and fills in what was left out. `None` if anything is wrong.
pub(super) fn read(findings: &mut Findings, top: &Fields<'_>, metadata: Metadata) -> Option<IpamConfig> {
    if metadata.name != IpamConfig::NAME {
        let reason = format!("there is one of this kind in a cluster: expected {}", IpamConfig::NAME);
        findings.refuse("metadata.name", Some(&json!(metadata.name)), reason);
    }
    let Some(fields) = top.inside(findings, "spec", "spec") else {
        findings.refuse("spec", None, "missing: expected a mapping of settings");
        return None;
    };
    fields.refuse_unknown(findings, &KNOWN, &[]);
    let left_out = IpamConfigSpec::default();
    let mut flag = |key, left_out| fields.boolean(findings, key).unwrap_or(left_out);
    let strict_affinity = flag("strictAffinity", left_out.strict_affinity);
    let auto_allocate_blocks = flag("autoAllocateBlocks", left_out.auto_allocate_blocks);
    let enforce_selectors_on_request =
        flag("enforceSelectorsOnRequest", left_out.enforce_selectors_on_request);
    let mut seconds = |key, least, left_out| {
        fields.number(findings, key, least..=i64::from(MAX_GRACE_SECONDS)).unwrap_or(left_out)
    };
    let release_after_seconds = seconds("releaseAfterSeconds", 0, left_out.release_after_seconds);
    let return_after_seconds = seconds("returnAfterSeconds", 0, left_out.return_after_seconds);
    let gone_after_seconds = seconds("goneAfterSeconds", MIN_GONE_AFTER_SECONDS, left_out.gone_after_seconds);
    let max_blocks_per_node = fields.number(findings, "maxBlocksPerNode", 1..=MAX_BLOCKS_PER_NODE);
    let at_block_limit = match fields.text(findings, "atBlockLimit") {
        None => left_out.at_block_limit,
        Some(word @ ("Fail" | "Borrow")) => word.to_owned(),
        Some(_) => {
            fields.refuse(findings, "atBlockLimit", "expected Fail or Borrow");
            return None;
        }
    };
    let spec = IpamConfigSpec {
        strict_affinity,
        auto_allocate_blocks,
        enforce_selectors_on_request,
        max_blocks_per_node,
        at_block_limit,
        release_after_seconds,
        return_after_seconds,
        gone_after_seconds,
    };
    findings.errors.is_empty().then_some(IpamConfig { metadata, spec })
}
