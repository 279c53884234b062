//! Whatever users write, the parsers answer: with a value that means what was written, or with an error.

use std::collections::BTreeMap;

use model::Labels;
use poolward_ipam::Selector;
use poolward_ipam::annotations::{MAX_POOLS, parse_pool_list};
use proptest::prelude::*;

/// Pieces of the selector language, to get deeper than random characters do.
fn selector_pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "all()",
        "has(",
        "has(a)",
        "global()",
        "a",
        "zone",
        "in",
        "not",
        "not in",
        "starts with",
        "ends with",
        "contains",
        "==",
        "!=",
        "=",
        "!",
        "&&",
        "||",
        "&",
        "(",
        ")",
        "{",
        "}",
        ",",
        "'x'",
        "\"y\"",
        "'",
        "\"",
        " ",
        "{'x','y'}",
        "a == 'x'",
        "ä",
        "\u{0}",
        "\n",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Pieces of JSON arrays of strings.
fn json_pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[", "]", "\"", "\"a\"", ",", "\\", "\\u", "\\ud83d", "\\ude00", "00e9", "n", " ", "\n", "1", "null",
        "ä", "{",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn check_selector(text: &str) -> Result<(), TestCaseError> {
    if let Ok(selector) = text.parse::<Selector>() {
        let labels: Labels = [("a".to_owned(), "x".to_owned()), ("zone".to_owned(), "y".to_owned())].into();
        for labels in [Labels::new(), labels] {
            let negated: Selector = format!("!({text})").parse().unwrap_or_default();
            // The empty text and one of the greatest depth or length cannot stand in parentheses.
            if negated.as_str() != "all()" {
                prop_assert_eq!(negated.matches(&labels), !selector.matches(&labels));
            }
        }
        prop_assert_eq!(selector.to_string(), text);
    }
    Ok(())
}

fn check_list(text: &str) -> Result<(), TestCaseError> {
    if let Ok(entries) = parse_pool_list(text) {
        prop_assert!((1..=MAX_POOLS).contains(&entries.len()));
        prop_assert!(entries.iter().all(|entry| !entry.is_empty()));
    }
    Ok(())
}

/// A JSON string of a text, every character escaped that may be.
fn escaped(text: &str) -> String {
    let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{units}\"")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_selector_never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check_selector(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn the_selector_never_panics_on_its_own_pieces(text in selector_pieces()) {
        check_selector(&text)?;
    }

    #[test]
    fn the_pool_list_never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..900)) {
        check_list(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn the_pool_list_never_panics_on_its_own_pieces(text in json_pieces()) {
        check_list(&text)?;
    }

    #[test]
    fn a_written_pool_list_is_read_back(entries in prop::collection::vec("\\PC{1,20}", 1..20)) {
        let text = format!("[{}]", entries.iter().map(|entry| escaped(entry)).collect::<Vec<_>>().join(" , "));
        prop_assert_eq!(parse_pool_list(&text), Ok(entries));
    }

    #[test]
    fn equality_means_the_same_as_a_map_look_up(
        labels in prop::collection::btree_map("[a-c]", "[xyz]{0,2}", 0..4),
        key in "[a-c]",
        value in "[xyz]{0,2}",
    ) {
        let labels: BTreeMap<String, String> = labels;
        let is = labels.get(&key) == Some(&value);
        for (text, expected) in [
            (format!("{key} == '{value}'"), is),
            (format!("{key} != '{value}'"), !is),
            (format!("{key} in {{'{value}'}}"), is),
            (format!("{key} not in {{'{value}'}}"), !is),
            (format!("has({key}) && {key} == \"{value}\" || !all()"), is),
        ] {
            prop_assert_eq!(text.parse::<Selector>().map(|selector| selector.matches(&labels)), Ok(expected), "{}", text);
        }
    }
}
