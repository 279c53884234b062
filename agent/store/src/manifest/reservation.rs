//! `IPReservation`: ranges that are not handed out automatically.

use std::net::IpAddr;

use model::Cidr;
use serde_json::json;

use super::error::ManifestError;
use super::fields::{Fields, Findings};
use crate::resource::{IpReservation, IpReservationSpec, Metadata, Resource};

/// The most ranges of one object.
const MAX_RANGES: usize = 10_000;

/// The ranges of a stored object.
///
/// # Errors
/// Everything that is wrong with it; nothing if it was read by [`super::validate`].
pub fn ranges_of(object: &IpReservation) -> Result<Vec<Cidr>, Vec<ManifestError>> {
    let mut findings = Findings::of("stored object");
    findings.object = format!("{} {}", IpReservation::KIND, object.metadata.name);
    let texts = object.spec.reserved_cidrs.iter().enumerate();
    let ranges = texts
        .filter_map(|(i, text)| range_of(&mut findings, &format!("spec.reservedCIDRs[{i}]"), text))
        .collect();
    if findings.errors.is_empty() { Ok(ranges) } else { Err(findings.errors) }
}

/// Reads `spec`. `None` if anything is wrong.
pub(super) fn read(
    findings: &mut Findings,
    top: &Fields<'_>,
    metadata: Metadata,
) -> Option<(IpReservation, Vec<Cidr>)> {
    let Some(fields) = top.inside(findings, "spec", "spec") else {
        findings.refuse("spec", None, "missing: a reservation needs spec.reservedCIDRs");
        return None;
    };
    fields.refuse_unknown(findings, &["reservedCIDRs"], &[]);
    if fields.value("reservedCIDRs").is_none() {
        fields.refuse(findings, "reservedCIDRs", "missing: expected a list of ranges such as 10.0.0.0/30");
    }
    let items = fields.items(findings, "reservedCIDRs");
    if items.len() > MAX_RANGES {
        fields.refuse(findings, "reservedCIDRs", format!("{} ranges: at most {MAX_RANGES} fit", items.len()));
        return None;
    }
    let mut ranges = Vec::new();
    for (path, item) in items {
        match item.as_str() {
            Some(text) => ranges.extend(range_of(findings, &path, text)),
            None => findings.refuse(&path, Some(item), "expected a range such as \"10.0.0.0/30\""),
        }
    }
    if !findings.errors.is_empty() {
        return None;
    }
    let reserved_cidrs = ranges.iter().map(Cidr::to_string).collect();
    Some((IpReservation { metadata, spec: IpReservationSpec { reserved_cidrs } }, ranges))
}

/// A range, or a single address, as Calico takes them.
fn range_of(findings: &mut Findings, path: &str, text: &str) -> Option<Cidr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Cidr::host(address));
    }
    text.parse::<Cidr>().map_err(|error| findings.refuse(path, Some(&json!(text)), error.to_string())).ok()
}
