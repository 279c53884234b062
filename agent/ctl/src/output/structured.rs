//! JSON and YAML for programs: the same value in both.

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Pretty JSON, ended by a line feed.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| failure("JSON", &error))
}

/// YAML, ended by a line feed.
///
/// The value goes through JSON first, so that both formats hold exactly the same fields.
pub(crate) fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    let value = serde_json::to_value(value).map_err(|error| failure("YAML", &error))?;
    let mut text = serde_saphyr::to_string(&value).map_err(|error| failure("YAML", &error))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn failure(format: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("write output as {format}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that a careless printer turns into something else.
    #[test]
    fn yaml_brings_every_value_back() {
        let value = serde_json::json!({
            "cidr": "10.0.0.0/26",
            "v6": "fd00::/112",
            "strings": ["no", "on", "~", "null", "true", "1", "1e3", "0x10", "", " a", "a: b", "# c", "- d", "a\nb", "*x", "2001:db8::1"],
            "annotations": { "cni.projectcalico.org/ipv4pools": "[\"external-pool\"]" },
            "numbers": [0, -1, 18_446_744_073_709_551_615_u64],
            "truth": [true, false, null],
            "empty": { "list": [], "map": {} },
        });
        let text = yaml(&value).unwrap();
        let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, value, "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json(&value).unwrap()).unwrap(), value);
    }
}
