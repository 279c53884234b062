//! What can be wrong with a manifest.

use std::fmt;

/// The text is not YAML that is accepted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    /// The file, or whatever else the text is from.
    pub source_name: String,
    /// Line, from 1; absent where the whole text is meant.
    pub line: Option<u64>,
    /// Column, from 1; absent where the whole text is meant.
    pub column: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source_name)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ", line {line}, column {column}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for YamlError {}

/// One thing that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The document: `pools.yaml, document 2 (line 14)`.
    pub source: String,
    /// The object as far as it says what it is: `IPPool external-pool`; may be empty.
    pub object: String,
    /// The field: `spec.blockSize`; empty where the whole document is meant.
    pub path: String,
    /// The value found there as compact JSON, cut after 80 characters; empty where there is none.
    pub value: String,
    /// What is wrong with it and what is expected.
    pub reason: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        for part in [&self.object, &self.path, &self.value, &self.reason] {
            // Reasons that begin with the value do not need it twice.
            let told = std::ptr::eq(part, &self.value)
                && self.reason.trim_start_matches('"').starts_with(self.value.trim_matches('"'));
            if !part.is_empty() && !told {
                write!(f, ": {part}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ManifestError {}
