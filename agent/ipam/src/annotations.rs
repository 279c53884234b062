//! Which pools a pod asks for: from annotations and network configuration, by precedence.
//!
//! An annotation's value is a JSON array of strings, as Calico has it: `["external-pool"]`. Whether the pools
//! exist and may serve is decided later, in [`choose_pools`](crate::choose_pools). What else annotations may ask for is
//! in [`wishes`].

pub mod wishes;

use std::collections::BTreeMap;

use model::Family;

use crate::request::{PoolSource, RequestedPools};

/// The longest annotation value accepted, in bytes.
pub const MAX_VALUE_LEN: usize = 8192;

/// The most pools one annotation may name.
pub const MAX_POOLS: usize = 64;

/// The annotation keys for a family, Calico's first. Both mean the same.
#[must_use]
pub fn pool_keys(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => ["cni.projectcalico.org/ipv4pools", "poolward.io/ipv4pools"],
        Family::V6 => ["cni.projectcalico.org/ipv6pools", "poolward.io/ipv6pools"],
    }
}

/// Where pools may be named.
#[derive(Clone, Copy, Debug)]
pub struct PoolSources<'a> {
    /// Annotations of the pod.
    pub pod: &'a BTreeMap<String, String>,
    /// Annotations of its namespace.
    pub namespace: &'a BTreeMap<String, String>,
    /// `ipam.ipv4_pools` of the network configuration; `None` or empty: not asked.
    pub network_v4: Option<&'a [String]>,
    /// `ipam.ipv6_pools` of the network configuration; `None` or empty: not asked.
    pub network_v6: Option<&'a [String]>,
}

/// Annotations that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// A value is not a list of pools.
    #[error("{on} annotation {key}: {reason}")]
    Malformed {
        /// `pod` or `namespace`.
        on: &'static str,
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Both keys are there and differ.
    #[error("{on} annotations {first} and {second} differ: set only one of them, or both alike")]
    Contradiction {
        /// `pod` or `namespace`.
        on: &'static str,
        /// One key.
        first: &'static str,
        /// The other key.
        second: &'static str,
    },
}

/// The pools asked for in one family: the pod's annotation beats its namespace's, which beats the network
/// configuration; `None` where none of them names any, and then selectors decide.
///
/// A source that is beaten is not read, so what is wrong with it does not matter.
///
/// # Errors
/// The annotation that counts is malformed or names no pool, or both of its keys are there and differ.
pub fn requested_pools(
    sources: &PoolSources<'_>,
    family: Family,
) -> Result<Option<RequestedPools>, AnnotationError> {
    let source_of = [PoolSource::PodAnnotation as fn(String) -> PoolSource, PoolSource::NamespaceAnnotation];
    for ((on, annotations), source) in
        [("pod", sources.pod), ("namespace", sources.namespace)].into_iter().zip(source_of)
    {
        if let Some((key, entries)) = from_annotations(annotations, on, family)? {
            return Ok(Some(RequestedPools { entries, source: source(key.to_owned()) }));
        }
    }
    let network = match family {
        Family::V4 => sources.network_v4,
        Family::V6 => sources.network_v6,
    };
    Ok(network.filter(|entries| !entries.is_empty()).map(|entries| RequestedPools {
        entries: entries.to_vec(),
        source: PoolSource::NetworkConfiguration,
    }))
}

fn from_annotations(
    annotations: &BTreeMap<String, String>,
    on: &'static str,
    family: Family,
) -> Result<Option<(&'static str, Vec<String>)>, AnnotationError> {
    let mut found: Option<(&'static str, Vec<String>)> = None;
    for key in pool_keys(family) {
        let Some(value) = annotations.get(key) else { continue };
        let entries =
            parse_pool_list(value).map_err(|reason| AnnotationError::Malformed { on, key, reason })?;
        match &found {
            Some((first, earlier)) if *earlier != entries => {
                return Err(AnnotationError::Contradiction { on, first, second: key });
            }
            Some(_) => {}
            None => found = Some((key, entries)),
        }
    }
    Ok(found)
}

/// Parses a JSON array (RFC 8259) of 1 to [`MAX_POOLS`] strings that are not empty.
///
/// # Errors
/// The reason, with the column counted in characters from 1.
pub fn parse_pool_list(text: &str) -> Result<Vec<String>, String> {
    parse_texts(text, &Nouns { one: "pool", many: "pools", example: "pool-a", max_count: MAX_POOLS })
}

/// What a list is of, for messages, and how long it may be.
struct Nouns {
    one: &'static str,
    many: &'static str,
    example: &'static str,
    max_count: usize,
}

/// Parses a JSON array of 1 to so many strings that are not empty.
fn parse_texts(text: &str, nouns: &Nouns) -> Result<Vec<String>, String> {
    let Nouns { one, many, example, max_count } = nouns;
    if text.len() > MAX_VALUE_LEN {
        return Err(format!("{} bytes are too long: at most {MAX_VALUE_LEN} are accepted", text.len()));
    }
    let mut reader = Reader { rest: text, column: 1 };
    reader.require('[', &format!("'[', as in [\"{example}\"]"))?;
    reader.skip_blanks();
    if reader.rest.starts_with(']') {
        return Err(format!("names no {one}: expected at least one, as in [\"{example}\"]"));
    }
    let mut entries = Vec::new();
    loop {
        reader.skip_blanks();
        let column = reader.column;
        let entry = reader.string()?;
        if entry.is_empty() {
            return Err(format!("at column {column}: a {one} cannot be empty"));
        }
        if entries.len() == *max_count {
            return Err(format!("at column {column}: more than {max_count} {many}"));
        }
        entries.push(entry);
        reader.skip_blanks();
        match reader.peek() {
            Some(',') => reader.step(),
            Some(']') => break,
            _ => return Err(reader.expected("',' or ']'")),
        }
    }
    reader.step();
    reader.skip_blanks();
    if reader.rest.is_empty() { Ok(entries) } else { Err(reader.expected("nothing after ']'")) }
}

struct Reader<'a> {
    rest: &'a str,
    column: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn step(&mut self) {
        let mut chars = self.rest.chars();
        if chars.next().is_some() {
            self.rest = chars.as_str();
            self.column += 1;
        }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.step();
        }
    }

    fn expected(&self, what: &str) -> String {
        match self.peek() {
            Some(found) => format!("at column {}: expected {what}, found {found:?}", self.column),
            None => format!("at column {}: expected {what}, found the end", self.column),
        }
    }

    fn require(&mut self, wanted: char, what: &str) -> Result<(), String> {
        self.skip_blanks();
        if self.peek() != Some(wanted) {
            return Err(self.expected(what));
        }
        self.step();
        Ok(())
    }

    fn string(&mut self) -> Result<String, String> {
        self.require('"', "a string in double quotes")?;
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return Err(self.expected("'\"'")),
                Some('"') => {
                    self.step();
                    return Ok(text);
                }
                Some('\\') => {
                    self.step();
                    text.push(self.escape()?);
                }
                Some(c) if c < ' ' => return Err(self.expected("no control character in a string")),
                Some(c) => {
                    self.step();
                    text.push(c);
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let decoded = match self.peek() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                self.step();
                return self.unicode_escape();
            }
            _ => return Err(self.expected("an escape of JSON")),
        };
        self.step();
        Ok(decoded)
    }

    /// `\uXXXX`, or two of them that make up one character beyond the first 65,536.
    fn unicode_escape(&mut self) -> Result<char, String> {
        let column = self.column;
        let high = self.four_digits()?;
        let code = if (0xd800..0xdc00).contains(&high) && self.rest.starts_with("\\u") {
            self.step();
            self.step();
            let low = self.four_digits()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(format!("at column {column}: half of a surrogate pair"));
            }
            0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
        } else {
            high
        };
        char::from_u32(code).ok_or_else(|| format!("at column {column}: half of a surrogate pair"))
    }

    fn four_digits(&mut self) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else {
                return Err(self.expected("four hexadecimal digits"));
            };
            code = code * 16 + digit;
            self.step();
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALICO: &str = "cni.projectcalico.org/ipv4pools";
    const OURS: &str = "poolward.io/ipv4pools";

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn c5_the_pod_beats_its_namespace_which_beats_the_network_configuration() {
        let check = |pod: &[(&str, &str)], namespace: &[(&str, &str)], network: &[&str], expected: &str| {
            let network: Vec<String> = network.iter().map(|text| (*text).to_owned()).collect();
            let sources = PoolSources {
                pod: &map(pod),
                namespace: &map(namespace),
                network_v4: Some(&network),
                network_v6: None,
            };
            let found = match requested_pools(&sources, Family::V4) {
                Ok(Some(pools)) => format!("{} from {}", pools.entries.join(" "), pools.source),
                Ok(None) => "none".to_owned(),
                Err(error) => error.to_string(),
            };
            assert_eq!(found, expected);
        };
        let (a, b) = ((CALICO, r#"["a"]"#), (CALICO, r#"["b", "10.0.0.0/24"]"#));
        check(&[a], &[b], &["c"], &format!("a from pod annotation {CALICO}"));
        check(&[], &[b], &["c"], &format!("b 10.0.0.0/24 from namespace annotation {CALICO}"));
        check(&[], &[], &["c", "d"], "c d from the network configuration");
        check(&[], &[], &[], "none");
        check(&[("poolward.io/ipv6pools", r#"["six"]"#)], &[], &[], "none");
        // Within one object both keys may be there if they say the same.
        check(&[(OURS, r#"["a"]"#)], &[b], &[], &format!("a from pod annotation {OURS}"));
        check(&[a, (OURS, r#"[ "a" ]"#)], &[], &[], &format!("a from pod annotation {CALICO}"));
        let differ = "differ: set only one of them, or both alike";
        check(&[a, (OURS, r#"["b"]"#)], &[], &[], &format!("pod annotations {CALICO} and {OURS} {differ}"));
        check(
            &[],
            &[a, (OURS, r#"["b"]"#)],
            &[],
            &format!("namespace annotations {CALICO} and {OURS} {differ}"),
        );
        // A malformed annotation fails by key and reason, unless it is beaten and so not read.
        let reason = "at column 1: expected '[', as in [\"pool-a\"], found 'a'";
        check(&[(CALICO, "a")], &[b], &[], &format!("pod annotation {CALICO}: {reason}"));
        check(&[], &[(OURS, "a")], &["c"], &format!("namespace annotation {OURS}: {reason}"));
        check(&[a], &[(OURS, "a")], &[], &format!("a from pod annotation {CALICO}"));
    }

    #[test]
    fn each_family_has_its_own_keys() {
        let pod = map(&[(CALICO, r#"["a"]"#), ("cni.projectcalico.org/ipv6pools", r#"["b"]"#)]);
        let sources = PoolSources { pod: &pod, namespace: &map(&[]), network_v4: None, network_v6: None };
        for (family, expected) in [(Family::V4, "a"), (Family::V6, "b")] {
            assert_eq!(requested_pools(&sources, family).unwrap().unwrap().entries, [expected]);
        }
    }

    #[test]
    fn a_list_of_pools_is_strict_json() {
        let check = |text: &str, expected: Result<&[&str], &str>| {
            let found = parse_pool_list(text);
            let found = found.as_ref().map(|entries| entries.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(found.as_deref().map_err(|error| error.as_str()), expected, "{text}");
        };
        check(r#"["a"]"#, Ok(&["a"]));
        check(" [ \"a\" ,\n\t\"b\" ]\r\n", Ok(&["a", "b"]));
        check(r#"["\u0061\n\"\\\/\b\f\r\t", "\ud83d\ude00é"]"#, Ok(&["a\n\"\\/\u{8}\u{c}\r\t", "😀é"]));
        check("", Err("at column 1: expected '[', as in [\"pool-a\"], found the end"));
        check("[]", Err("names no pool: expected at least one, as in [\"pool-a\"]"));
        check(r#"[""]"#, Err("at column 2: a pool cannot be empty"));
        check(r#"["a",]"#, Err("at column 6: expected a string in double quotes, found ']'"));
        check(r#"["a" "b"]"#, Err("at column 6: expected ',' or ']', found '\"'"));
        check(r#"["a"] x"#, Err("at column 7: expected nothing after ']', found 'x'"));
        check(r#"["a"#, Err("at column 4: expected '\"', found the end"));
        check("['a']", Err("at column 2: expected a string in double quotes, found '\\''"));
        check("[1]", Err("at column 2: expected a string in double quotes, found '1'"));
        check(r#"["\x"]"#, Err("at column 4: expected an escape of JSON, found 'x'"));
        check(r#"["\u00g0"]"#, Err("at column 7: expected four hexadecimal digits, found 'g'"));
        check(r#"["\ud83d"]"#, Err("at column 5: half of a surrogate pair"));
        check(r#"["\ud83d\u0041"]"#, Err("at column 5: half of a surrogate pair"));
        check(r#"["\udc00"]"#, Err("at column 5: half of a surrogate pair"));
        check("[\"a\nb\"]", Err("at column 4: expected no control character in a string, found '\\n'"));
    }

    #[test]
    fn a_list_of_pools_is_bounded() {
        let list = |count: usize| format!("[{}]", vec!["\"p\""; count].join(","));
        assert_eq!(parse_pool_list(&list(64)).unwrap().len(), 64);
        assert_eq!(parse_pool_list(&list(65)).unwrap_err(), "at column 258: more than 64 pools");
        let long = format!("[\"{}\"]", "x".repeat(MAX_VALUE_LEN));
        assert_eq!(parse_pool_list(&long).unwrap_err(), "8196 bytes are too long: at most 8192 are accepted");
    }
}
