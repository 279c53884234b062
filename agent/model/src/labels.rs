//! Labels of nodes, namespaces and pods.

use std::collections::BTreeMap;

/// Key to value; an object without labels is the empty set, never an absent one.
pub type Labels = BTreeMap<String, String>;
