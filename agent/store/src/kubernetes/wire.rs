//! Objects, pages and events as the API writes them.
//!
//! Each object is reduced as it is read: of a page of Nodes or Pods nothing else is kept.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::is_own;
use crate::interface::StoreError;
use crate::key::Key;
use crate::resource::Resource;
use crate::rules::{MAX_OBJECT_BYTES, internal};
use crate::versioned::{Revision, Versioned};

/// An annotation that makes a change of a replacement by the same. It is not shown, so that what is read is what was
/// written, and goes with the next change.
pub(super) const TOUCHED: &str = "poolward.io/touched";

/// The path of an object.
pub(super) fn object_path<R: Resource>(key: &Key) -> String {
    format!("{}/{}", collection_path::<R>(key), key.name())
}

/// The path that objects are created under.
pub(super) fn collection_path<R: Resource>(key: &Key) -> String {
    match key.namespace() {
        Some(namespace) => format!("{}/namespaces/{namespace}/{}", group_path::<R>(), R::PLURAL),
        None => list_path::<R>(),
    }
}

/// The path of all objects of the kind.
pub(super) fn list_path<R: Resource>() -> String {
    format!("{}/{}", group_path::<R>(), R::PLURAL)
}

fn group_path<R: Resource>() -> String {
    if is_own::<R>() { format!("/apis/{}", R::API_VERSION) } else { format!("/api/{}", R::API_VERSION) }
}

/// The part of an object that says which state this is.
#[derive(Deserialize)]
struct Identity {
    metadata: IdentityMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdentityMetadata {
    #[serde(default)]
    uid: String,
    resource_version: String,
}

/// Reads one object.
pub(super) fn read_object<R: Resource>(json: &[u8]) -> Result<Versioned<R>, serde_json::Error> {
    let text = std::str::from_utf8(json).map_err(serde::de::Error::custom)?;
    read_text(text)
}

fn read_text<R: Resource>(text: &str) -> Result<Versioned<R>, serde_json::Error> {
    let Identity { metadata } = serde_json::from_str(text)?;
    let revision = read_revision(&metadata.resource_version)?;
    let mut value = R::from_api(text)?;
    value.metadata_mut().annotations.remove(TOUCHED);
    Ok(Versioned { value, uid: metadata.uid, revision })
}

/// A `resourceVersion` is etcd's revision: a number that grows. The API documents it as such since 1.35; servers have
/// always given it.
fn read_revision(text: &str) -> Result<Revision, serde_json::Error> {
    let number = text.parse().map_err(|_| {
        <serde_json::Error as serde::de::Error>::custom(format!("resourceVersion {text:?} is no number"))
    })?;
    Ok(Revision::new(number))
}

/// One page of a list.
pub(super) struct Page<R> {
    pub(super) items: Vec<Versioned<R>>,
    pub(super) revision: Revision,
    /// Where the next one begins; empty after the last.
    pub(super) resume: String,
}

#[derive(Deserialize)]
struct WirePage<'a> {
    metadata: PageMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    resume: String,
}

/// Reads a page of a list.
pub(super) fn read_page<R: Resource>(json: &[u8]) -> Result<Page<R>, serde_json::Error> {
    let text = std::str::from_utf8(json).map_err(serde::de::Error::custom)?;
    let WirePage { metadata, items } = serde_json::from_str(text)?;
    let items = items.unwrap_or_default();
    Ok(Page {
        items: items.into_iter().map(|item| read_text(item.get())).collect::<Result<_, _>>()?,
        revision: read_revision(&metadata.resource_version)?,
        resume: metadata.resume,
    })
}

/// What one line of a watch says.
#[derive(Debug)]
pub(super) enum Line<R> {
    /// Created or replaced.
    Put(Versioned<R>),
    /// Deleted: the last state, with the revision of the deletion.
    Deleted(Versioned<R>),
    /// Nothing happened up to here.
    Bookmark(Revision),
    /// The server gives up, with a code as of HTTP.
    Failed {
        /// The code.
        code: u16,
        /// Why.
        message: String,
    },
}

#[derive(Deserialize)]
struct WireLine<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct WireFailure {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

/// Reads a line of a watch.
pub(super) fn read_line<R: Resource>(line: &str) -> Result<Line<R>, serde_json::Error> {
    let WireLine { kind, object } = serde_json::from_str(line)?;
    Ok(match kind {
        "ADDED" | "MODIFIED" => Line::Put(read_text(object.get())?),
        "DELETED" => Line::Deleted(read_text(object.get())?),
        "BOOKMARK" => {
            let Identity { metadata } = serde_json::from_str(object.get())?;
            Line::Bookmark(read_revision(&metadata.resource_version)?)
        }
        "ERROR" => {
            let WireFailure { code, message } = serde_json::from_str(object.get())?;
            Line::Failed { code, message }
        }
        other => {
            return Err(<serde_json::Error as serde::de::Error>::custom(format!(
                "{other:?} is no kind of event"
            )));
        }
    })
}

/// An object as it is sent: expecting this revision, or new.
pub(super) fn body_of<R: Resource>(
    operation: &'static str,
    key: &Key,
    value: &R,
    expected: Option<Revision>,
) -> Result<Vec<u8>, StoreError> {
    let failed = |reason: String| internal::<R>(operation, key.as_str(), reason);
    let mut body = serde_json::to_value(value).map_err(|error| failed(error.to_string()))?;
    body["apiVersion"] = json!(R::API_VERSION);
    body["kind"] = json!(R::KIND);
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("deletionTimestamp");
        match expected {
            Some(revision) => {
                metadata.insert("resourceVersion".to_owned(), json!(revision.get().to_string()));
            }
            // The server gives one.
            None => drop(metadata.remove("uid")),
        }
    }
    let body = serde_json::to_vec(&body).map_err(|error| failed(error.to_string()))?;
    if body.len() > MAX_OBJECT_BYTES {
        let reason = format!("it has {} bytes, at most {MAX_OBJECT_BYTES} are kept", body.len());
        return Err(failed(reason));
    }
    Ok(body)
}
