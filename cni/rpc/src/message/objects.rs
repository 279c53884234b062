//! Pools and other objects, for `poolwardctl`.

use serde::{Deserialize, Serialize};

/// Objects to create or change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyRequest {
    /// In the order of the files.
    pub documents: Vec<Document>,
    /// Check only.
    #[serde(default)]
    pub dry_run: bool,
}

/// One document of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Where it stands, for messages: `pools.yaml, document 2`.
    pub source: String,
    /// The document itself.
    pub body: serde_json::Value,
}

/// What became of each document or object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyReply {
    /// One per document, in order.
    pub results: Vec<ObjectResult>,
    /// What was accepted but has no effect here, for people.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What became of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectResult {
    /// `ippool`, `ipreservation`, `ipblock`, `namespace` or `pod`.
    pub kind: String,
    /// Name, or `namespace/name`.
    pub name: String,
    /// `created`, `configured`, `unchanged`, `deleted` or `terminating`.
    pub outcome: String,
}

/// Which objects to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetRequest {
    /// `ippool`, `ipreservation`, `ipblock`, `namespace` or `pod`.
    pub kind: String,
    /// One by name (`namespace/name` for pods), or all.
    #[serde(default)]
    pub name: Option<String>,
}

/// Objects as manifests, with `status` where there is one: a pool's may say `tag` (its tag id), `terminating`
/// (`true` once it is deleted while blocks are left) and `conditions` (`type`, `status`, `reason`, as in
/// Kubernetes; `Allocatable=False` when it is not admitted).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetReply {
    /// In order of name.
    pub objects: Vec<serde_json::Value>,
}

/// Which object to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteRequest {
    /// `ippool`, `ipreservation`, `namespace` or `pod`.
    pub kind: String,
    /// Its name (`namespace/name` for pods).
    pub name: String,
}
