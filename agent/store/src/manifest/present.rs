//! Objects as manifests again.

use serde_json::{Map, Value, json};

use crate::resource::Resource;
use crate::versioned::Versioned;

/// The manifest of an object: `apiVersion`, `kind`, `metadata` with uid and `resourceVersion`, and `spec` where
/// the kind has one. Applying it again changes nothing.
#[must_use]
pub fn to_manifest<R: Resource>(object: &Versioned<R>) -> Value {
    // Maps with text keys, texts, numbers and lists: what serde_json always can write down.
    let parts = serde_json::to_value(&object.value).unwrap_or_default();
    let mut manifest = Map::new();
    manifest.insert("apiVersion".to_owned(), json!(R::API_VERSION));
    manifest.insert("kind".to_owned(), json!(R::KIND));
    if let Value::Object(parts) = parts {
        manifest.extend(parts);
    }
    if let Some(Value::Object(metadata)) = manifest.get_mut("metadata") {
        for of_the_store in ["finalizers", "deletionTimestamp", "ownerReferences"] {
            metadata.remove(of_the_store);
        }
        metadata.insert("uid".to_owned(), json!(object.uid));
        metadata.insert("resourceVersion".to_owned(), json!(object.revision.get().to_string()));
    }
    Value::Object(manifest)
}
