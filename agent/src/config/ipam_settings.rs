//! The `ipam` part of the configuration.

use std::time::Duration;

use ipam::{AtBlockLimit, Graces, Settings};

use super::raw::{RawIpam, Spanned};
use super::{ConfigError, Key};

/// The longest grace: a week.
const MAX_GRACE_SECONDS: u64 = 7 * 86_400;

/// Checks the part; what is left out has its default.
pub(super) fn resolve(raw: Option<&RawIpam>, file: &str) -> Result<Settings, ConfigError> {
    let defaults = Settings::default();
    let Some(raw) = raw else { return Ok(defaults) };
    let at = |key: &'static str| Key { file, key };
    let max_blocks_per_node = at("ipam.maxBlocksPerNode").read(
        raw.max_blocks_per_node.as_ref(),
        defaults.max_blocks_per_node,
        |count| match u32::try_from(*count) {
            Ok(count) if (1..=65_536).contains(&count) => Ok(Some(count)),
            _ => Err("expected 1 to 65536 blocks; leave it out for no limit".to_owned()),
        },
    )?;
    let grace = |key: &'static str, value: Option<&Spanned<u64>>, default: Duration, least: u64| {
        at(key).read(value, default, |seconds| {
            if (least..=MAX_GRACE_SECONDS).contains(seconds) {
                Ok(Duration::from_secs(*seconds))
            } else {
                Err(format!("expected {least} to {MAX_GRACE_SECONDS} seconds"))
            }
        })
    };
    let graces = Graces {
        release_after: grace(
            "ipam.releaseAfterSeconds",
            raw.release_after_seconds.as_ref(),
            defaults.graces.release_after,
            1,
        )?,
        return_after: grace(
            "ipam.returnAfterSeconds",
            raw.return_after_seconds.as_ref(),
            defaults.graces.return_after,
            1,
        )?,
        // Shorter ones would take the blocks of nodes whose machines have hardly noticed.
        gone_after: grace(
            "ipam.goneAfterSeconds",
            raw.gone_after_seconds.as_ref(),
            defaults.graces.gone_after,
            30,
        )?,
        ..defaults.graces
    };
    let at_block_limit = at("ipam.atBlockLimit").choice(
        raw.at_block_limit.as_ref(),
        &[("Fail", AtBlockLimit::Fail), ("Borrow", AtBlockLimit::Borrow)],
    )?;
    Ok(Settings {
        strict_affinity: raw.strict_affinity.unwrap_or(defaults.strict_affinity),
        auto_allocate_blocks: raw.auto_allocate_blocks.unwrap_or(defaults.auto_allocate_blocks),
        enforce_selectors_on_request: raw
            .enforce_selectors_on_request
            .unwrap_or(defaults.enforce_selectors_on_request),
        max_blocks_per_node,
        at_block_limit,
        graces,
    })
}
