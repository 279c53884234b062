//! Reading the fields of an object one by one, collecting everything that is wrong on the way.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::error::ManifestError;

/// What was found wrong with, or worth saying of, one object.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The document.
    pub(super) source: String,
    /// Kind and name, as soon as they are known.
    pub(super) object: String,
    pub(super) errors: Vec<ManifestError>,
    pub(super) warnings: Vec<String>,
    refused: BTreeSet<String>,
}

impl Findings {
    pub(super) fn of(source: &str) -> Self {
        Self { source: source.to_owned(), ..Self::default() }
    }

    /// Notes an error at `path`. A field that was refused already is left alone: what follows from its being
    /// wrong is no news.
    pub(super) fn refuse(&mut self, path: &str, value: Option<&Value>, reason: impl Into<String>) {
        if self.refused.insert(path.to_owned()) {
            self.errors.push(ManifestError {
                source: self.source.clone(),
                object: self.object.clone(),
                path: path.to_owned(),
                value: value.map(shown).unwrap_or_default(),
                reason: reason.into(),
            });
        }
    }

    pub(super) fn warn(&mut self, path: &str, text: &str) {
        self.warnings.push(format!("{}: {}: {path}: {text}", self.source, self.object));
    }
}

/// A value as compact JSON, cut after 80 characters.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// A mapping whose keys are read by name. A key whose value is null counts as left out.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'static str,
}

impl<'a> Fields<'a> {
    /// The top of a document.
    pub(super) fn top(map: &'a Map<String, Value>) -> Self {
        Self { map, path: "" }
    }

    /// The mapping under a key; `None` if it is left out or something else. `path` is the key's whole path.
    pub(super) fn inside(
        &self,
        findings: &mut Findings,
        key: &str,
        path: &'static str,
    ) -> Option<Fields<'a>> {
        match self.value(key)? {
            Value::Object(map) => Some(Fields { map, path }),
            other => {
                findings.refuse(path, Some(other), "expected a mapping");
                None
            }
        }
    }

    /// The path of a key in here.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, if it is there and not null.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Notes an error at a key in here, with the value that is there.
    pub(super) fn refuse(&self, findings: &mut Findings, key: &str, reason: impl Into<String>) {
        findings.refuse(&self.path_of(key), self.value(key), reason);
    }

    fn typed<T>(
        &self,
        findings: &mut Findings,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let read = read(self.value(key)?);
        if read.is_none() {
            self.refuse(findings, key, format!("expected {expected}"));
        }
        read
    }

    /// A text.
    pub(super) fn text(&self, findings: &mut Findings, key: &str) -> Option<&'a str> {
        self.typed(findings, key, "a text", Value::as_str)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, findings: &mut Findings, key: &str) -> Option<bool> {
        self.typed(findings, key, "true or false", Value::as_bool)
    }

    /// A whole number within a range.
    pub(super) fn number<T: TryFrom<i64>>(
        &self,
        findings: &mut Findings,
        key: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<T> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.typed(findings, key, &expected, |value| {
            value.as_i64().filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok())
        })
    }

    /// A list; left out is empty. Each item comes with its path.
    pub(super) fn items(&self, findings: &mut Findings, key: &str) -> Vec<(String, &'a Value)> {
        let items = self.typed(findings, key, "a list", Value::as_array);
        let path = self.path_of(key);
        items.into_iter().flatten().enumerate().map(|(i, item)| (format!("{path}[{i}]"), item)).collect()
    }

    /// A mapping from text to text; left out is empty.
    pub(super) fn texts_by_key(&self, findings: &mut Findings, key: &str) -> BTreeMap<String, String> {
        let map = self.typed(findings, key, "a mapping from text to text", Value::as_object);
        let path = self.path_of(key);
        let mut texts = BTreeMap::new();
        for (name, value) in map.into_iter().flatten() {
            if let Some(text) = value.as_str() {
                texts.insert(name.clone(), text.to_owned());
            } else {
                let reason = "expected a text (put numbers, true and false in quotes)";
                findings.refuse(&format!("{path}.{name}"), Some(value), reason);
            }
        }
        texts
    }

    /// Refuses every key that is not one of `known` (or `ignored`), naming the nearest one.
    pub(super) fn refuse_unknown(&self, findings: &mut Findings, known: &[&str], ignored: &[&str]) {
        for (key, value) in self.map {
            if known.contains(&key.as_str()) || ignored.contains(&key.as_str()) {
                continue;
            }
            let reason = match nearest(key, known) {
                Some(near) => format!("unknown field; did you mean {near}?"),
                None => format!("unknown field: expected one of {}", known.join(", ")),
            };
            findings.refuse(&self.path_of(&shown_key(key)), Some(value), reason);
        }
    }
}

/// A key as part of a path: as it is if it is a plain word.
fn shown_key(key: &str) -> String {
    let plain = key.len() <= 80 && key.chars().all(|c| c.is_ascii_graphic());
    if plain { key.to_owned() } else { shown(&Value::String(key.to_owned())) }
}

/// The word that `text` was probably meant to be: at most a third of it differs, not counting case, `-` and `_`.
pub(super) fn nearest<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    // Longer than any word we know; also bounds the work below.
    if text.len() > 64 {
        return None;
    }
    let plain = |text: &str| -> Vec<char> {
        text.chars().filter(|c| !"-_".contains(*c)).map(|c| c.to_ascii_lowercase()).collect()
    };
    let text = plain(text);
    let allowed = (text.len() / 3).clamp(1, 3);
    words
        .iter()
        .map(|word| (distance(&text, &plain(word)), *word))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// Insertions, deletions and replacements that make one text the other (Levenshtein).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_far_ones_are_not_guessed() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(nearest(text, &["blockSize", "natOutgoing", "cidr", "disabled"]), expected, "{text}");
        };
        check("blocksize", Some("blockSize"));
        check("nat-outgoing", Some("natOutgoing"));
        check("natOutgoin", Some("natOutgoing"));
        check("cdir", None);
        check("cidrs", Some("cidr"));
        check("colour", None);
        check("", None);
        check(&"x".repeat(10_000), None);
    }

    #[test]
    fn distances_are_counted_in_single_changes() {
        let check = |a: &str, b: &str, expected: usize| {
            let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            assert_eq!((distance(&a, &b), distance(&b, &a)), (expected, expected));
        };
        check("", "abc", 3);
        check("kitten", "sitting", 3);
        check("abc", "abc", 0);
        check("abc", "acb", 2);
    }
}
