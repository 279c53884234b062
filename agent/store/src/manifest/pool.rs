//! `IPPool`: from fields to text to the pure type.

use std::time::Duration;

use ipam::{AllowedUses, AssignmentMode, Pool, PoolSpec, Selector};
use model::{BlockSize, Cidr, Dscp, Family, IpipMode};
use serde_json::{Value, json};

use super::dscp::dscp_of_name;
use super::error::ManifestError;
use super::fields::{Fields, Findings};
use crate::resource::{IpPool, IpPoolSpec, Metadata, Resource};

const KNOWN: [&str; 14] = [
    "allowedUses",
    "assignmentMode",
    "blockSize",
    "cidr",
    "cooldownSeconds",
    "disableBGPExport",
    "disabled",
    "dscp",
    "ipipMode",
    "namespaceSelector",
    "natOutgoing",
    "nodeSelector",
    "priority",
    "vxlanMode",
];

/// The longest cooldown: a day. Longer ones would only empty the pool.
const MAX_COOLDOWN_SECONDS: i64 = 86_400;

/// The pure pool of a stored object, with the object's uid; not admitted, without a tag.
///
/// # Errors
/// Everything that is wrong with it; nothing if it was read by [`super::validate`].
pub fn pool_of(object: &IpPool) -> Result<Pool, Vec<ManifestError>> {
    let mut findings = Findings::of("stored object");
    findings.object = format!("{} {}", IpPool::KIND, object.metadata.name);
    let pool = convert(&mut findings, &object.metadata, &object.spec);
    pool.filter(|_| findings.errors.is_empty()).ok_or(findings.errors)
}

/// Reads `spec`, fills in what was left out, and converts. `None` if anything is wrong.
pub(super) fn read(findings: &mut Findings, top: &Fields<'_>, metadata: Metadata) -> Option<(IpPool, Pool)> {
    let Some(fields) = top.inside(findings, "spec", "spec") else {
        findings.refuse("spec", None, "missing: a pool needs at least spec.cidr");
        return None;
    };
    fields.refuse_unknown(findings, &KNOWN, &[]);
    let spec = read_spec(findings, &fields);
    let pool = convert(findings, &metadata, &spec);
    pool.filter(|_| findings.errors.is_empty())
        .map(|pool| (IpPool { metadata, spec, ..IpPool::default() }, pool))
}

fn read_spec(findings: &mut Findings, fields: &Fields<'_>) -> IpPoolSpec {
    let left_out = IpPoolSpec::default();
    let cidr = fields.text(findings, "cidr").unwrap_or_default();
    if fields.value("cidr").is_none() {
        fields.refuse(findings, "cidr", "missing: expected ADDRESS/LENGTH such as 10.0.0.0/26");
    }
    let block_size = fields.number(findings, "blockSize", 0..=128);
    let mut text = |key, left_out| {
        let text = fields.text(findings, key).filter(|text| !text.trim().is_empty());
        text.map_or(left_out, str::to_owned)
    };
    let ipip_mode = text("ipipMode", left_out.ipip_mode);
    let node_selector = text("nodeSelector", left_out.node_selector);
    let namespace_selector = text("namespaceSelector", left_out.namespace_selector);
    let assignment_mode = text("assignmentMode", left_out.assignment_mode);
    refuse_unsupported(findings, fields);
    IpPoolSpec {
        block_size: block_size.unwrap_or_else(|| default_block_size(cidr)),
        cidr: cidr.to_owned(),
        ipip_mode,
        nat_outgoing: fields.boolean(findings, "natOutgoing").unwrap_or_default(),
        disabled: fields.boolean(findings, "disabled").unwrap_or_default(),
        node_selector,
        namespace_selector,
        allowed_uses: read_allowed_uses(findings, fields).unwrap_or(left_out.allowed_uses),
        assignment_mode,
        priority: fields.number(findings, "priority", i32::MIN.into()..=i32::MAX.into()).unwrap_or_default(),
        dscp: read_dscp(findings, fields),
        cooldown_seconds: fields
            .number(findings, "cooldownSeconds", 0..=MAX_COOLDOWN_SECONDS)
            .unwrap_or_default(),
    }
}

/// What Calico has and Poolward has not.
fn refuse_unsupported(findings: &mut Findings, fields: &Fields<'_>) {
    match fields.text(findings, "vxlanMode") {
        None | Some("" | "Never") => {}
        Some(_) => {
            fields.refuse(
                findings,
                "vxlanMode",
                "VXLAN is not supported: expected Never; ipipMode encapsulates",
            );
        }
    }
    if fields.boolean(findings, "disableBGPExport").is_some() {
        findings.warn("spec.disableBGPExport", "has no effect: no routes are exported by BGP here");
    }
}

/// A range smaller than the default block is one block.
fn default_block_size(cidr: &str) -> u32 {
    match cidr.parse::<Cidr>() {
        Ok(cidr) => u32::from(BlockSize::default_of(cidr.family()).prefix_len().max(cidr.prefix_len())),
        Err(_) => IpPoolSpec::default().block_size,
    }
}

/// An empty list is one left out, as in Calico.
fn read_allowed_uses(findings: &mut Findings, fields: &Fields<'_>) -> Option<Vec<String>> {
    let mut uses = Vec::new();
    for (path, item) in fields.items(findings, "allowedUses") {
        match item.as_str() {
            Some(text) if uses.iter().any(|used| used == text) => {
                findings.refuse(&path, Some(item), "stands here twice");
            }
            Some(text) => uses.push(text.to_owned()),
            None => findings.refuse(&path, Some(item), "expected Workload or Tunnel"),
        }
    }
    (!uses.is_empty()).then_some(uses)
}

/// A number, a name, or a number in quotes.
fn read_dscp(findings: &mut Findings, fields: &Fields<'_>) -> Option<u8> {
    let value = fields.value("dscp")?;
    let read = match value {
        Value::String(text) => dscp_of_name(text).or_else(|| text.parse().ok()),
        other => other.as_u64().and_then(|number| u8::try_from(number).ok()),
    };
    if read.is_none_or(|number| number > 63) {
        fields.refuse(findings, "dscp", "expected 0 to 63, or a name such as EF, AF41 or CS1");
    }
    read
}

/// Checks what the fields mean. Errors of fields that could not even be read are known already.
fn convert(findings: &mut Findings, metadata: &Metadata, spec: &IpPoolSpec) -> Option<Pool> {
    let name = parsed(findings, "metadata.name", &metadata.name);
    let cidr: Option<Cidr> = parsed(findings, "spec.cidr", &spec.cidr);
    let block_size = cidr.and_then(|cidr| {
        // Left out by whoever wrote the object without this code.
        let prefix_len = if spec.block_size == 0 { default_block_size(&spec.cidr) } else { spec.block_size };
        block_size_of(findings, cidr, prefix_len)
    });
    let ipip_mode: Option<IpipMode> = parsed(findings, "spec.ipipMode", &spec.ipip_mode);
    if let (Some(cidr), Some(mode)) = (cidr, ipip_mode)
        && cidr.family() == Family::V6
        && mode.may_encapsulate()
    {
        let reason = "IPIP carries IPv4 only: expected Never for an IPv6 pool";
        findings.refuse("spec.ipipMode", Some(&json!(spec.ipip_mode)), reason);
    }
    let node_selector: Option<Selector> = parsed(findings, "spec.nodeSelector", &spec.node_selector);
    let namespace_selector: Option<Selector> =
        parsed(findings, "spec.namespaceSelector", &spec.namespace_selector);
    let allowed_uses = allowed_uses_of(findings, &spec.allowed_uses);
    let assignment_mode = assignment_mode_of(findings, &spec.assignment_mode);
    let dscp = spec.dscp.map(|number| Dscp::new(number.into())).transpose();
    if let Err(error) = &dscp {
        findings.refuse("spec.dscp", Some(&json!(spec.dscp)), error.to_string());
    }
    let pool = PoolSpec {
        uid: metadata.uid.clone(),
        block_size: block_size?,
        ipip_mode: ipip_mode?,
        nat_outgoing: spec.nat_outgoing,
        disabled: spec.disabled,
        node_selector: node_selector?,
        namespace_selector: namespace_selector?,
        allowed_uses,
        assignment_mode: assignment_mode?,
        priority: spec.priority,
        dscp: dscp.ok()?,
        cooldown: Duration::from_secs(spec.cooldown_seconds.into()),
        ..PoolSpec::new(name?, cidr?)
    };
    Pool::new(pool).map_err(|error| findings.refuse("spec", None, error.to_string())).ok()
}

fn parsed<T>(findings: &mut Findings, path: &str, text: &str) -> Option<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| findings.refuse(path, Some(&json!(text)), error.to_string())).ok()
}

fn block_size_of(findings: &mut Findings, cidr: Cidr, prefix_len: u32) -> Option<BlockSize> {
    let checked = BlockSize::new(cidr.family(), prefix_len);
    let refusal = match &checked {
        Err(error) => error.to_string(),
        Ok(size) if size.prefix_len() < cidr.prefix_len() => {
            let least = cidr.prefix_len();
            format!("a block of /{prefix_len} is larger than the pool {cidr}: expected {least} or more")
        }
        Ok(size) => return Some(*size),
    };
    findings.refuse("spec.blockSize", Some(&json!(prefix_len)), refusal);
    None
}

fn allowed_uses_of(findings: &mut Findings, texts: &[String]) -> AllowedUses {
    let mut uses = AllowedUses { workload: false, tunnel: false };
    for (i, text) in texts.iter().enumerate() {
        let reason = match text.as_str() {
            "Workload" => {
                uses.workload = true;
                continue;
            }
            "Tunnel" => {
                uses.tunnel = true;
                continue;
            }
            "LoadBalancer" | "HostSecondaryInterface" => {
                "this use is not supported: expected Workload or Tunnel"
            }
            _ => "expected Workload or Tunnel",
        };
        findings.refuse(&format!("spec.allowedUses[{i}]"), Some(&json!(text)), reason);
    }
    uses
}

fn assignment_mode_of(findings: &mut Findings, text: &str) -> Option<AssignmentMode> {
    match text {
        "Automatic" => Some(AssignmentMode::Automatic),
        "Manual" => Some(AssignmentMode::Manual),
        _ => {
            findings.refuse("spec.assignmentMode", Some(&json!(text)), "expected Automatic or Manual");
            None
        }
    }
}
