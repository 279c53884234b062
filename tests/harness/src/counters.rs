//! Reads counters that nft keeps for the elements of a set.

use anyhow::{Context, Result};
use serde_json::Value;

/// One element of a set and what nft counted for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedElement {
    /// The parts of the element as text, in the order of the set's type; numbers in decimal.
    pub key: Vec<String>,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The elements in the answer of `nft -j list set`; an empty set has none.
///
/// # Errors
/// The answer holds no set, or an element without a counter.
pub fn counted_elements(listed: &Value) -> Result<Vec<CountedElement>> {
    let objects =
        listed.get("nftables").and_then(Value::as_array).context("nft's answer has no \"nftables\"")?;
    let set = objects.iter().find_map(|object| object.get("set")).context("nft's answer has no set")?;
    let elements = set.get("elem").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    elements.iter().map(counted_element).collect()
}

fn counted_element(element: &Value) -> Result<CountedElement> {
    let count = |what: &str| {
        element
            .pointer(&format!("/elem/counter/{what}"))
            .and_then(Value::as_u64)
            .with_context(|| format!("element {element} has no counter of {what}"))
    };
    let value = element.pointer("/elem/val").with_context(|| format!("element {element} has no value"))?;
    let parts =
        value.get("concat").and_then(Value::as_array).map_or(std::slice::from_ref(value), Vec::as_slice);
    let text = |part: &Value| part.as_str().map_or_else(|| part.to_string(), str::to_owned);
    Ok(CountedElement {
        key: parts.iter().map(text).collect(),
        packets: count("packets")?,
        bytes: count("bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(elements: &str) -> Value {
        serde_json::from_str(&format!(
            r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}}, {{"set": {{"family": "inet", "name": "seen",
            "table": "t", "type": ["ipv4_addr", "mark"], "handle": 2{elements}}}}}]}}"#
        ))
        .unwrap()
    }

    #[test]
    fn concatenated_and_single_keys_are_read() {
        let both = listed(
            r#", "elem": [{"elem": {"val": {"concat": ["10.0.0.1", 65536]}, "counter": {"packets": 4, "bytes": 254}}},
            {"elem": {"val": "10.0.0.2", "counter": {"packets": 0, "bytes": 0}}}]"#,
        );
        let element = |key: &[&str], packets, bytes| CountedElement {
            key: key.iter().map(|part| (*part).to_owned()).collect(),
            packets,
            bytes,
        };
        assert_eq!(
            counted_elements(&both).unwrap(),
            [element(&["10.0.0.1", "65536"], 4, 254), element(&["10.0.0.2"], 0, 0)]
        );
        assert_eq!(counted_elements(&listed("")).unwrap(), []);
    }

    #[test]
    fn what_is_no_counted_set_is_refused() {
        assert!(counted_elements(&serde_json::json!({"nftables": []})).is_err());
        assert!(counted_elements(&serde_json::json!({})).is_err());
        assert!(counted_elements(&listed(r#", "elem": ["10.0.0.1"]"#)).is_err());
    }
}
