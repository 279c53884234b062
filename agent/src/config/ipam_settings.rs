//! The `ipam` part of the configuration.

use std::time::Duration;

use ipam::{AtBlockLimit, Graces, Settings};
use store::resource::{IpamConfigSpec, MAX_GRACE_SECONDS};

use super::raw::{RawIpam, Spanned};
use super::{ConfigError, Key};

/// Shorter ones would take the blocks of nodes whose machines have hardly noticed.
const MIN_GONE_AFTER_SECONDS: u32 = 30;

/// The settings of the whole cluster, as an `IPAMConfig` says them.
///
/// # Errors
/// A value that does not fit its field; the server's schema lets none such through.
pub fn of_cluster(spec: &IpamConfigSpec) -> Result<Settings, String> {
    let defaults = Settings::default();
    let grace = |field: &str, seconds: u32, least: u32| {
        if (least..=MAX_GRACE_SECONDS).contains(&seconds) {
            Ok(Duration::from_secs(seconds.into()))
        } else {
            Err(format!("spec.{field}: expected {least} to {MAX_GRACE_SECONDS} seconds, found {seconds}"))
        }
    };
    if spec.max_blocks_per_node == Some(0) {
        return Err("spec.maxBlocksPerNode: expected at least 1".to_owned());
    }
    Ok(Settings {
        strict_affinity: spec.strict_affinity,
        auto_allocate_blocks: spec.auto_allocate_blocks,
        enforce_selectors_on_request: spec.enforce_selectors_on_request,
        max_blocks_per_node: spec.max_blocks_per_node,
        at_block_limit: match spec.at_block_limit.as_str() {
            "Fail" => AtBlockLimit::Fail,
            "Borrow" => AtBlockLimit::Borrow,
            other => return Err(format!("spec.atBlockLimit: {other:?} is none of Fail, Borrow")),
        },
        graces: Graces {
            release_after: grace("releaseAfterSeconds", spec.release_after_seconds, 0)?,
            return_after: grace("returnAfterSeconds", spec.return_after_seconds, 0)?,
            gone_after: grace("goneAfterSeconds", spec.gone_after_seconds, MIN_GONE_AFTER_SECONDS)?,
            ..defaults.graces
        },
    })
}

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
            if (least..=u64::from(MAX_GRACE_SECONDS)).contains(seconds) {
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
        gone_after: grace(
            "ipam.goneAfterSeconds",
            raw.gone_after_seconds.as_ref(),
            defaults.graces.gone_after,
            MIN_GONE_AFTER_SECONDS.into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_says_nothing_has_the_defaults_and_mistakes_name_their_field() {
        assert_eq!(of_cluster(&IpamConfigSpec::default()), Ok(Settings::default()));
        let check = |change: fn(&mut IpamConfigSpec), expected: &str| {
            let mut spec = IpamConfigSpec::default();
            change(&mut spec);
            let error = of_cluster(&spec).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        };
        check(|spec| spec.at_block_limit = "fail".to_owned(), "spec.atBlockLimit");
        check(|spec| spec.gone_after_seconds = 29, "spec.goneAfterSeconds");
        check(|spec| spec.release_after_seconds = u32::MAX, "spec.releaseAfterSeconds");
        check(|spec| spec.max_blocks_per_node = Some(0), "spec.maxBlocksPerNode");
    }
}
