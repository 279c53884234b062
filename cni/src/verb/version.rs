//! VERSION: which versions of the specification are spoken. Works without an agent.

use serde_json::{Value, json};

use crate::config::{SpecVersion, decode};
use crate::error::CniError;
use crate::json::Object;

/// Says the versions, and `cniVersion` as it came; the newest where it did not come, as when asked by hand.
pub(crate) fn run(stdin: &[u8]) -> Result<Value, CniError> {
    let asked = if stdin.iter().all(u8::is_ascii_whitespace) {
        None
    } else {
        let root = decode(stdin)?;
        Object::root(&root).string("cniVersion")?.map(str::to_owned)
    };
    Ok(json!({
        "cniVersion": asked.as_deref().unwrap_or(SpecVersion::NEWEST.as_str()),
        "supportedVersions": SpecVersion::ALL.map(SpecVersion::as_str),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_listed_and_the_runtimes_own_is_repeated() {
        let check = |stdin: &str, expected: &str| {
            let found = run(stdin.as_bytes()).unwrap();
            assert_eq!(
                found,
                json!({"cniVersion": expected, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
            );
        };
        check("", "1.1.0");
        check("{}", "1.1.0");
        check(r#"{"cniVersion": "1.0.0"}"#, "1.0.0");
        check(r#"{"cniVersion": "2.0.0"}"#, "2.0.0");
        assert_eq!(run(b"x").unwrap_err().number(), 6);
        assert_eq!(run(br#"{"cniVersion": 1}"#).unwrap_err().number(), 7);
    }
}
