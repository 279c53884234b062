//! From text to documents.

use serde_json::Value;
use serde_saphyr::Spanned;

use super::error::YamlError;

/// The longest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// One document of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it stands, for messages: `pools.yaml, document 2 (line 14)`.
    pub source: String,
    /// The document itself.
    pub body: Value,
}

/// Reads the documents of a YAML (or JSON) text. Empty documents are left out and not counted.
///
/// YAML 1.2: only `true` and `false` are booleans. Refused: a key that stands twice in one mapping, unknown
/// tags, numbers that are not finite.
///
/// # Errors
/// [`YamlError`] with line and column: not YAML, longer than [`MAX_MANIFEST_BYTES`], nested deeper than 64, or
/// made of more than 250,000 values once its aliases are followed.
pub fn parse_yaml(source_name: &str, text: &str) -> Result<Vec<Document>, YamlError> {
    if text.len() > MAX_MANIFEST_BYTES {
        return Err(YamlError {
            source_name: source_name.to_owned(),
            line: None,
            column: None,
            reason: format!("the text has {} bytes, at most {MAX_MANIFEST_BYTES} are read", text.len()),
        });
    }
    let documents: Vec<Spanned<Value>> = serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|error| told(source_name, &error))?;
    let numbered = documents.into_iter().zip(1..);
    Ok(numbered
        .map(|(document, number)| Document {
            source: format!("{source_name}, document {number} (line {})", document.referenced.line()),
            body: document.value,
        })
        .collect())
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            max_nodes: 250_000,
            max_documents: 10_000,
            max_anchors: 1_000,
            max_aliases: 1_000,
            max_merge_keys: 1_000,
            max_total_scalar_bytes: 2 * MAX_MANIFEST_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::Reject,
        with_snippet: false,
    }
}

fn told(source_name: &str, error: &serde_saphyr::Error) -> YamlError {
    let location = error.location();
    // The library ends its text with the place (several, with aliases), which is said in our own words.
    let text = error.to_string();
    let reason = text.find(" at line ").map_or(text.as_str(), |at| &text[..at]).to_owned();
    YamlError {
        source_name: source_name.to_owned(),
        line: location.map(|location| location.line()),
        column: location.map(|location| location.column()),
        reason,
    }
}
