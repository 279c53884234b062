//! The selector language of Calico: conditions on labels, as in `nodeSelector` and `namespaceSelector`.
//!
//! ```text
//! or      = and { "||" and }
//! and     = unary { "&&" unary }
//! unary   = "!" unary | "(" or ")" | "all()" | "has(" key ")" | key test
//! test    = "==" text | "!=" text | "in" set | "not in" set
//!         | "contains" text | "starts with" text | "ends with" text
//! set     = "{" [ text { "," text } ] "}"
//! text    = "'" ... "'" | '"' ... '"'            (no escapes)
//! key     = letters, digits, '_', '.', '/', '-'
//! ```
//! The empty text selects everything, as `all()` does. A missing label makes `!=` and `not in` true and every
//! other test false. `global()`, which Calico has for policies, is refused: pools select by the labels of
//! nodes and namespaces, and neither is ever "global".

mod lexer;
mod parser;
mod together;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use model::Labels;

pub(crate) use together::{Question, Vocabulary};

/// The longest selector accepted, in bytes.
pub const MAX_SELECTOR_LEN: usize = 4096;

/// How deep parentheses and negations may nest.
pub const MAX_SELECTOR_DEPTH: u32 = 32;

/// A condition on labels, with the text it was written as.
#[derive(Clone, Debug)]
pub struct Selector {
    text: String,
    root: Node,
}

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Longer than [`MAX_SELECTOR_LEN`].
    #[error("selector of {len} bytes is too long: at most {MAX_SELECTOR_LEN} are accepted")]
    TooLong {
        /// Bytes given.
        len: usize,
    },
    /// Something else was expected at a place.
    #[error("at column {column}: {problem}")]
    At {
        /// Counted in characters from 1.
        column: usize,
        /// What is wrong there, and what was expected.
        problem: String,
    },
}

#[derive(Clone, Debug)]
enum Node {
    All,
    Has(String),
    Equals(String, String),
    Differs(String, String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

impl Selector {
    /// The selector that every set of labels satisfies.
    #[must_use]
    pub fn all() -> Self {
        Self { text: "all()".to_owned(), root: Node::All }
    }

    /// Whether labels satisfy it. The empty set is an ordinary set of labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.root.matches(labels)
    }

    /// The text as written; empty where it was written empty.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Node {
    /// Recursion is bounded by [`MAX_SELECTOR_DEPTH`].
    fn matches(&self, labels: &Labels) -> bool {
        let value = |key: &String| labels.get(key);
        match self {
            Self::All => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Equals(key, text) => value(key) == Some(text),
            Self::Differs(key, text) => value(key) != Some(text),
            Self::In(key, set) => value(key).is_some_and(|v| set.contains(v)),
            Self::NotIn(key, set) => !value(key).is_some_and(|v| set.contains(v)),
            Self::Contains(key, text) => value(key).is_some_and(|v| v.contains(text.as_str())),
            Self::StartsWith(key, text) => value(key).is_some_and(|v| v.starts_with(text.as_str())),
            Self::EndsWith(key, text) => value(key).is_some_and(|v| v.ends_with(text.as_str())),
            Self::Not(node) => !node.matches(labels),
            Self::And(nodes) => nodes.iter().all(|node| node.matches(labels)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(labels)),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR_LEN {
            return Err(SelectorError::TooLong { len: text.len() });
        }
        Ok(Self { text: text.to_owned(), root: parser::parse(text)? })
    }
}

impl Default for Selector {
    fn default() -> Self {
        Self::all()
    }
}

impl PartialEq for Selector {
    /// Two selectors are equal when they were written alike.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Selector {}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_means_what_it_means_in_calico() {
        let labels: Labels = [("zone", "west"), ("tier", "db-1"), ("a.b/c-d_e", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let check = |text: &str, labels: &Labels, expected: bool| {
            let selector = text.parse::<Selector>().unwrap();
            assert_eq!(selector.matches(labels), expected, "{text}");
            let mut words = Vocabulary::default();
            // Others that were translated before and after make no difference.
            words.question(&"zone == 'other' || tier in {'x', 'db-1'}".parse().unwrap());
            let question = words.question(&selector);
            words.question(&"zone == 'west' || none == 'y'".parse().unwrap());
            assert_eq!(question.holds(&words.read(labels)), expected, "{text}, together with others");
        };
        for (text, expected) in [
            ("", true),
            ("  ", true),
            ("all()", true),
            (" all ( ) ", true),
            ("!all()", false),
            ("has(zone)", true),
            ("has(none)", false),
            ("!has(none)", true),
            ("has(a.b/c-d_e)", true),
            ("zone == 'west'", true),
            ("zone==\"west\"", true),
            ("zone == 'east'", false),
            ("none == ''", false),
            ("a.b/c-d_e == ''", true),
            ("zone != 'west'", false),
            ("zone != 'east'", true),
            ("none != 'x'", true),
            ("zone in {'east', 'west'}", true),
            ("zone in {}", false),
            ("none in {'x'}", false),
            ("zone not in {'west'}", false),
            ("zone not  in {'east'}", true),
            ("none not in {'x'}", true),
            ("tier contains 'b-'", true),
            ("tier starts with 'db'", true),
            ("tier starts with '1'", false),
            ("tier ends with '1'", true),
            ("none contains ''", false),
            ("zone == 'west' && tier == 'x' || has(tier)", true),
            ("has(tier) || zone == 'x' && zone == 'y'", true),
            ("(has(tier) || zone == 'x') && zone == 'y'", false),
            ("!(has(none) || has(zone))", false),
            ("!!has(zone)", true),
            ("! has(zone) && all()", false),
        ] {
            check(text, &labels, expected);
        }
        check("zone != 'west' && zone not in {'west'} && !has(zone)", &Labels::new(), true);
    }

    #[test]
    fn labels_may_be_called_like_words_of_the_language() {
        let labels: Labels = [("in".to_owned(), "has".to_owned()), ("all".to_owned(), "x".to_owned())].into();
        for text in ["in in {'has'}", "has(in)", "all == 'x'", "not != 'x'", "has(has) || has(all)"] {
            assert!(text.parse::<Selector>().unwrap().matches(&labels), "{text}");
        }
    }

    #[test]
    fn a_malformed_selector_is_refused_at_its_column() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Selector>().unwrap_err().to_string(), expected, "{text}");
        };
        check(
            "zone",
            "at column 5: expected ==, !=, in, not in, contains, starts with or ends with, found the end",
        );
        check("zone = 'x'", "at column 6: expected '==', found '='");
        check("zone == west", "at column 9: expected a quoted text, found \"west\"");
        check("zone == 'west", "at column 9: this text has no closing '");
        check("zone in 'x'", "at column 9: expected '{', found \"x\"");
        check("zone in {'x'", "at column 13: expected ',' or '}', found the end");
        check("zone not 'x'", "at column 10: expected in after not, found \"x\"");
        check("zone starts 'x'", "at column 13: expected with after starts, found \"x\"");
        check("has()", "at column 5: expected a label's key, found ')'");
        check("has(a", "at column 6: expected ')', found the end");
        check("all(x)", "at column 5: expected ')', found \"x\"");
        check("some(x)", "at column 1: \"some\" is no function: expected has(KEY) or all()");
        check("all() all()", "at column 7: expected &&, || or the end, found \"all\"");
        check("all() &&", "at column 9: expected a condition, found the end");
        check("all() & all()", "at column 7: expected '&&', found '&'");
        check("all() | all()", "at column 7: expected '||', found '|'");
        check("(all()", "at column 7: expected ')', found the end");
        check("ä == 'x'", "at column 1: 'ä' cannot stand here");
        check("a == 'ä' && ?", "at column 13: '?' cannot stand here");
        check(
            "global()",
            "at column 1: global() selects objects outside namespaces, which pools never do: leave it out",
        );
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let long = format!("a == '{}'", "x".repeat(MAX_SELECTOR_LEN));
        assert!(matches!(long.parse::<Selector>(), Err(SelectorError::TooLong { .. })));
        let nested = |depth: usize| format!("{}all(){}", "(".repeat(depth), ")".repeat(depth));
        assert!(nested(32).parse::<Selector>().is_ok());
        for deep in [nested(33), "(".repeat(4000), "!".repeat(4000)] {
            let error = deep.parse::<Selector>().unwrap_err().to_string();
            assert_eq!(error, "at column 33: nested deeper than 32 levels");
        }
    }

    #[test]
    fn a_selector_is_shown_as_it_was_written() {
        for text in ["", "all()", " zone=='x'  ||has( a )"] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
    }
}
