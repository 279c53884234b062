//! From documents to checked objects, all or none.

use std::collections::BTreeMap;

use ipam::Pool;
use model::Cidr;
use serde_json::{Value, json};

use super::error::ManifestError;
use super::fields::{Fields, Findings, nearest};
use super::kinds::Kind;
use super::yaml::Document;
use super::{ipam_config, metadata, pool, reservation, workload};
use crate::key::Key;
use crate::resource::{IpPool, IpReservation, IpamConfig, Namespace, Pod, Resource};

/// The most objects that are applied at once.
const MAX_OBJECTS: usize = 10_000;

/// An object that is right by itself, and beside the others it came with.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Where it stands, for messages: `pools.yaml, document 2 (line 14)`.
    pub source: String,
    /// What it is stored under.
    pub key: Key,
    /// The object.
    pub object: Object,
    /// What was accepted but has no effect here, for people; each names document, object and field.
    pub warnings: Vec<String>,
}

/// An object as it is stored, and what it means.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A pool. Everything a manifest may leave out is filled in; uid and tag are not known yet.
    Pool(Box<(IpPool, Pool)>),
    /// A reservation and its ranges.
    Reservation(IpReservation, Vec<Cidr>),
    /// How addresses are given.
    IpamConfig(IpamConfig),
    /// A namespace.
    Namespace(Namespace),
    /// A pod.
    Pod(Pod),
}

impl Object {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pool(_) => Kind::IpPool,
            Self::Reservation(..) => Kind::IpReservation,
            Self::IpamConfig(_) => Kind::IpamConfig,
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
        }
    }
}

/// Checks the objects of these documents. In order:
///
/// 1. Lists (`kind: List`, `IPPoolList`…) are unwrapped, one level.
/// 2. Every object is read: apiVersion and kind, then metadata and spec, unknown fields refused.
/// 3. No object may come twice, and no two pools may overlap.
///
/// # Errors
/// Everything that is wrong with any of them, in the order of the documents.
pub fn validate(documents: &[Document]) -> Result<Vec<Validated>, Vec<ManifestError>> {
    let mut errors = Vec::new();
    let mut objects = Vec::new();
    let mut count = 0;
    for document in documents {
        let mut findings = Findings::of(&document.source);
        for item in unwrap_list(&mut findings, document) {
            count += 1;
            if count > MAX_OBJECTS {
                findings.refuse(
                    "",
                    None,
                    format!("too many objects: at most {MAX_OBJECTS} are applied at once"),
                );
                findings.errors.append(&mut errors);
                return Err(findings.errors);
            }
            let mut findings = Findings::of(&item.source);
            objects.extend(read_object(&mut findings, &item));
            errors.append(&mut findings.errors);
        }
        errors.append(&mut findings.errors);
    }
    refuse_duplicates(&objects, &mut errors);
    refuse_overlaps(&objects, &mut errors);
    if errors.is_empty() { Ok(objects) } else { Err(errors) }
}

/// An object and where it stands.
struct Item<'a> {
    source: String,
    body: &'a Value,
    /// The kind and apiVersion that an `IPPoolList` gives items which do not say theirs.
    of_list: Option<(&'a str, &'a Value)>,
}

fn unwrap_list<'a>(findings: &mut Findings, document: &'a Document) -> Vec<Item<'a>> {
    let kind = document.body.get("kind").and_then(Value::as_str).unwrap_or_default();
    let Some(of_kind) = kind.strip_suffix("List") else {
        return vec![Item { source: document.source.clone(), body: &document.body, of_list: None }];
    };
    let Value::Object(map) = &document.body else { return Vec::new() };
    let fields = Fields::top(map);
    findings.object = kind.to_owned();
    fields.refuse_unknown(findings, &["apiVersion", "kind", "metadata", "items"], &[]);
    if fields.value("items").is_none() {
        fields.refuse(findings, "items", "missing: expected a list of objects");
    }
    let of_list = (!of_kind.is_empty()).then(|| (of_kind, &document.body["apiVersion"]));
    let items = fields.items(findings, "items").into_iter();
    items.map(|(path, body)| Item { source: format!("{}, {path}", document.source), body, of_list }).collect()
}

fn read_object(findings: &mut Findings, item: &Item<'_>) -> Option<Validated> {
    let Value::Object(map) = item.body else {
        findings.refuse(
            "",
            Some(item.body),
            "expected an object: a mapping with apiVersion, kind and metadata",
        );
        return None;
    };
    let top = Fields::top(map);
    let kind = read_kind(findings, &top, item.of_list)?;
    findings.object = match item.body["metadata"]["name"].as_str() {
        Some(name) => format!("{} {name}", kind.name()),
        None => kind.name().to_owned(),
    };
    let known: &[&str] = match kind {
        Kind::Namespace => &["apiVersion", "kind", "metadata"],
        _ => &["apiVersion", "kind", "metadata", "spec"],
    };
    // A status is what others observe; a namespace's spec holds finalizers.
    let ignored: &[&str] = if kind == Kind::Namespace { &["spec", "status"] } else { &["status"] };
    top.refuse_unknown(findings, known, ignored);
    let metadata = metadata::read(findings, &top, kind);
    let object = match kind {
        Kind::IpPool => pool::read(findings, &top, metadata).map(|pool| Object::Pool(Box::new(pool))),
        Kind::IpReservation => reservation::read(findings, &top, metadata)
            .map(|(object, ranges)| Object::Reservation(object, ranges)),
        Kind::IpamConfig => ipam_config::read(findings, &top, metadata).map(Object::IpamConfig),
        Kind::Namespace => workload::read_namespace(findings, metadata).map(Object::Namespace),
        Kind::Pod => workload::read_pod(findings, &top, metadata).map(Object::Pod),
        Kind::IpBlock | Kind::NodeAddresses => {
            let what = if kind == Kind::IpBlock { "blocks" } else { "addresses of nodes" };
            let reason = format!("{what} are written by agents and cannot be applied");
            findings.refuse("kind", Some(&json!(kind.name())), reason);
            None
        }
    }?;
    let key =
        key_of(&object).map_err(|error| findings.refuse("metadata.name", None, error.to_string())).ok()?;
    let warnings = std::mem::take(&mut findings.warnings);
    Some(Validated { source: item.source.clone(), key, object, warnings })
}

fn key_of(object: &Object) -> Result<Key, crate::key::KeyError> {
    match object {
        Object::Pool(pool) => pool.0.key(),
        Object::Reservation(object, _) => object.key(),
        Object::IpamConfig(object) => object.key(),
        Object::Namespace(object) => object.key(),
        Object::Pod(object) => object.key(),
    }
}

fn read_kind(findings: &mut Findings, top: &Fields<'_>, of_list: Option<(&str, &Value)>) -> Option<Kind> {
    let name = match (top.text(findings, "kind"), of_list) {
        (Some(name), _) => name,
        (None, Some((name, _))) if top.value("kind").is_none() => name,
        (None, _) => {
            top.refuse(
                findings,
                "kind",
                "missing: expected IPPool, IPReservation, IPAMConfig, Namespace or Pod",
            );
            return None;
        }
    };
    let Some(kind) = Kind::by_name(name) else {
        let reason = match nearest(name, &Kind::ALL.map(Kind::name)) {
            Some(near) => format!("unknown kind; did you mean {near}?"),
            None => "unknown kind: expected IPPool, IPReservation, IPAMConfig, Namespace or Pod".to_owned(),
        };
        findings.refuse("kind", Some(&json!(name)), reason);
        return None;
    };
    findings.object = kind.name().to_owned();
    let accepted = kind.api_versions();
    let version = top.value("apiVersion").or(of_list.map(|(_, version)| version)).unwrap_or(&Value::Null);
    if !version.as_str().is_some_and(|version| accepted.contains(&version)) {
        let value = (!version.is_null()).then_some(version);
        let missing = if version.is_null() { "missing: " } else { "" };
        findings.refuse("apiVersion", value, format!("{missing}expected {}", accepted.join(" or ")));
        return None;
    }
    Some(kind)
}

fn refuse_duplicates(objects: &[Validated], errors: &mut Vec<ManifestError>) {
    let mut seen: BTreeMap<(Kind, &Key), &str> = BTreeMap::new();
    for object in objects {
        if let Some(first) = seen.insert((object.object.kind(), &object.key), &object.source) {
            let reason = format!("the same object stands in {first} already");
            errors.push(beside(object, "metadata.name", object.key.name(), reason));
        }
    }
}

/// Ranges nest or are disjoint, so in order of range those that are open form a stack of ever smaller ones, and
/// the innermost of them is the one to name.
fn refuse_overlaps(objects: &[Validated], errors: &mut Vec<ManifestError>) {
    let mut pools: Vec<(Cidr, usize)> = Vec::new();
    for (place, object) in objects.iter().enumerate() {
        if let Object::Pool(pool) = &object.object {
            pools.push((pool.1.cidr, place));
        }
    }
    pools.sort_unstable();
    let mut open: Vec<(Cidr, usize)> = Vec::new();
    for (cidr, place) in pools {
        while open.last().is_some_and(|(outer, _)| !outer.covers(&cidr)) {
            open.pop();
        }
        // The same pool twice is refused as a duplicate.
        if let Some((other_cidr, other)) = open.last()
            && objects[*other].key != objects[place].key
        {
            let (later, earlier) = (&objects[place.max(*other)], &objects[place.min(*other)]);
            let (later_cidr, earlier_cidr) =
                if place > *other { (cidr, *other_cidr) } else { (*other_cidr, cidr) };
            let reason = format!(
                "{later_cidr} overlaps {earlier_cidr} of IPPool {} in {}: pools may not share addresses",
                earlier.key, earlier.source
            );
            errors.push(beside(later, "spec.cidr", &later_cidr.to_string(), reason));
        }
        open.push((cidr, place));
    }
}

/// An error that shows only beside other objects.
fn beside(object: &Validated, path: &str, value: &str, reason: String) -> ManifestError {
    ManifestError {
        source: object.source.clone(),
        object: format!("{} {}", object.object.kind().name(), object.key),
        path: path.to_owned(),
        value: value.to_owned(),
        reason,
    }
}
