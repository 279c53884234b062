//! Values of arguments: kinds, times, names of sets.

use std::ffi::OsStr;
use std::time::Duration;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use store::manifest::Kind;

/// Reads kinds as `store` knows them, short names and plurals included, and offers shells the full names.
#[derive(Clone, Copy, Debug)]
pub(super) struct KindParser;

impl TypedValueParser for KindParser {
    type Value = Kind;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Kind, clap::Error> {
        value.to_string_lossy().parse().map_err(|reason: String| {
            clap::Error::raw(ErrorKind::InvalidValue, format!("{reason}\n")).with_cmd(command)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Kind::ALL.into_iter().map(|kind| PossibleValue::new(kind.word()))))
    }
}

/// The longest wait that can be asked for.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// `30`, `30s`, `500ms`, `2m`: 1 ms to an hour.
pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let expected =
        || format!("expected a number of seconds, or 500ms, 30s, 2m; at most {}s", MAX_TIMEOUT.as_secs());
    let (digits, unit_ms) = if let Some(digits) = text.strip_suffix("ms") {
        (digits, 1)
    } else if let Some(digits) = text.strip_suffix('s') {
        (digits, 1_000)
    } else if let Some(digits) = text.strip_suffix('m') {
        (digits, 60_000)
    } else {
        (text, 1_000)
    };
    let number: u64 = digits.parse().map_err(|_| expected())?;
    let timeout = Duration::from_millis(number.saturating_mul(unit_ms));
    if timeout.is_zero() || timeout > MAX_TIMEOUT { Err(expected()) } else { Ok(timeout) }
}

/// What nft takes for the name of a set, with room for `_ipv4` in the kernel's 255 bytes; shorter for people.
pub(super) fn parse_set_name(text: &str) -> Result<String, String> {
    let ok = (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if ok {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 64 letters, digits or '_', not beginning with a digit".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        for (text, ms) in [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("2m", 120_000)] {
            assert_eq!(parse_timeout(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1", "0", "0ms", "61m", "1.5s", "18446744073709551615m"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_sets_are_what_nft_takes() {
        for name in ["poolward", "_x", "a1", &"a".repeat(64)] {
            assert_eq!(parse_set_name(name).as_deref(), Ok(name));
        }
        for name in ["", "1a", "a-b", "a b", "a;flush ruleset", "ä", &"a".repeat(65)] {
            assert!(parse_set_name(name).is_err(), "{name:?}");
        }
    }
}
