//! `metadata` of any object.

use super::fields::{Fields, Findings};
use super::kinds::Kind;
use crate::key::Key;
use crate::resource::Metadata;

const KNOWN: [&str; 5] = ["name", "namespace", "uid", "labels", "annotations"];

/// What the API server or a tool writes into objects it gives out; it has no meaning when it comes back.
const IGNORED: [&str; 9] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
];

/// The longest name of a namespace: it is a DNS label.
const MAX_NAMESPACE_LEN: usize = 63;

/// Reads and checks `metadata`. Our own objects get their uid from the store: one in a manifest is ignored.
pub(super) fn read(findings: &mut Findings, top: &Fields<'_>, kind: Kind) -> Metadata {
    let Some(fields) = top.inside(findings, "metadata", "metadata") else {
        findings.refuse("metadata", None, "missing: an object needs at least metadata.name");
        return Metadata::default();
    };
    fields.refuse_unknown(findings, &KNOWN, &IGNORED);
    let uid = fields.text(findings, "uid").unwrap_or_default();
    let keeps_uid = matches!(kind, Kind::Namespace | Kind::Pod);
    Metadata {
        name: name(findings, &fields, kind),
        namespace: namespace(findings, &fields, kind),
        uid: if keeps_uid { uid.to_owned() } else { String::new() },
        labels: fields.texts_by_key(findings, "labels"),
        annotations: fields.texts_by_key(findings, "annotations"),
        ..Metadata::default()
    }
}

fn name(findings: &mut Findings, fields: &Fields<'_>, kind: Kind) -> String {
    let Some(name) = fields.text(findings, "name") else {
        fields.refuse(findings, "name", "missing: an object needs a name");
        return String::new();
    };
    if kind == Kind::Namespace {
        check_namespace(findings, fields, "name", name);
    } else if let Err(error) = Key::named(name) {
        fields.refuse(findings, "name", error.to_string());
    }
    name.to_owned()
}

/// Pods without a namespace are in `default`, as kubectl has it; other objects have none.
fn namespace(findings: &mut Findings, fields: &Fields<'_>, kind: Kind) -> String {
    match fields.text(findings, "namespace") {
        None | Some("") if kind.is_namespaced() => "default".to_owned(),
        None | Some("") => String::new(),
        Some(namespace) if kind.is_namespaced() => {
            check_namespace(findings, fields, "namespace", namespace);
            namespace.to_owned()
        }
        Some(_) => {
            fields.refuse(
                findings,
                "namespace",
                format!("objects of kind {} are in no namespace", kind.name()),
            );
            String::new()
        }
    }
}

fn check_namespace(findings: &mut Findings, fields: &Fields<'_>, key: &str, text: &str) {
    if Key::named(text).is_err() || text.contains('.') || text.len() > MAX_NAMESPACE_LEN {
        let reason = format!(
            "{text:?} is not a valid name of a namespace: expected 1 to {MAX_NAMESPACE_LEN} lower-case letters, digits \
             or '-', starting and ending with a letter or digit"
        );
        fields.refuse(findings, key, reason);
    }
}
