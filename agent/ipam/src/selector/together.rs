//! The selectors of many pools, asked together.
//!
//! A request asks some hundred selectors about one set of labels, and most of them ask for the same few keys. So the
//! labels are looked up once for each key, values that selectors compare with are numbered, and what is left for each
//! selector is to compare numbers. Selectors that need one of some values are found by the values that there are. The
//! answers are those of [`Selector::matches`], always.

use std::collections::BTreeMap;

use model::Labels;

use super::{Node, Selector};

/// The keys and values that selectors speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    keys: BTreeMap<String, Key>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    index: usize,
    /// Numbers of the values that are compared with, from [`FIRST`] on.
    values: BTreeMap<String, u32>,
}

/// The number of no value: the label is missing.
const MISSING: u32 = 0;
/// The number of all values that no selector compares with.
const OTHER: u32 = 1;
const FIRST: u32 = 2;

/// A selector in the words of a [`Vocabulary`]. Keys are their indexes, values their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    All,
    Has(usize),
    Equals(usize, u32),
    In(usize, Box<[u32]>),
    Contains(usize, Box<str>),
    StartsWith(usize, Box<str>),
    EndsWith(usize, Box<str>),
    Not(Box<Question>),
    And(Box<[Question]>),
    Or(Box<[Question]>),
}

/// Labels in the words of a [`Vocabulary`]: the number and text of each key's value.
#[derive(Debug)]
pub(crate) struct Known<'a>(Vec<(u32, &'a str)>);

impl Vocabulary {
    /// A selector in these words, of which there may be more afterwards.
    pub(crate) fn question(&mut self, selector: &Selector) -> Question {
        self.translate(&selector.root)
    }

    fn translate(&mut self, node: &Node) -> Question {
        let negated = |question| Question::Not(Box::new(question));
        match node {
            Node::All => Question::All,
            Node::Has(key) => Question::Has(self.key(key).index),
            Node::Equals(key, text) => self.equals(key, text),
            Node::Differs(key, text) => negated(self.equals(key, text)),
            Node::In(key, set) => self.is_in(key, set),
            Node::NotIn(key, set) => negated(self.is_in(key, set)),
            Node::Contains(key, text) => Question::Contains(self.key(key).index, text.as_str().into()),
            Node::StartsWith(key, text) => Question::StartsWith(self.key(key).index, text.as_str().into()),
            Node::EndsWith(key, text) => Question::EndsWith(self.key(key).index, text.as_str().into()),
            Node::Not(node) => negated(self.translate(node)),
            Node::And(nodes) => Question::And(nodes.iter().map(|node| self.translate(node)).collect()),
            Node::Or(nodes) => Question::Or(nodes.iter().map(|node| self.translate(node)).collect()),
        }
    }

    fn key(&mut self, key: &str) -> &mut Key {
        let index = self.keys.len();
        self.keys.entry(key.to_owned()).or_insert_with(|| Key { index, values: BTreeMap::new() })
    }

    fn equals(&mut self, key: &str, text: &str) -> Question {
        let key = self.key(key);
        Question::Equals(key.index, key.number(text))
    }

    fn is_in<'a>(&mut self, key: &str, set: impl IntoIterator<Item = &'a String>) -> Question {
        let key = self.key(key);
        Question::In(key.index, set.into_iter().map(|text| key.number(text)).collect())
    }

    /// Labels in these words.
    pub(crate) fn read<'a>(&self, labels: &'a Labels) -> Known<'a> {
        let mut known = vec![(MISSING, ""); self.keys.len()];
        for (name, key) in &self.keys {
            if let (Some(text), Some(place)) = (labels.get(name), known.get_mut(key.index)) {
                *place = (key.values.get(text).copied().unwrap_or(OTHER), text);
            }
        }
        Known(known)
    }
}

impl Key {
    fn number(&mut self, text: &str) -> u32 {
        let next = u32::try_from(self.values.len()).unwrap_or(u32::MAX).saturating_add(FIRST);
        *self.values.entry(text.to_owned()).or_insert(next)
    }
}

impl Known<'_> {
    /// The number of the value of a key.
    fn number(&self, key: usize) -> u32 {
        self.0.get(key).map_or(MISSING, |(number, _)| *number)
    }

    /// The value of a key, if there is one.
    fn text(&self, key: usize) -> Option<&str> {
        self.0.get(key).filter(|(number, _)| *number != MISSING).map(|(_, text)| *text)
    }

    /// Each key with the number of its value.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.0.iter().map(|(number, _)| *number).enumerate()
    }
}

impl Question {
    /// Keys and numbers of which labels must have one for this to hold; `None` when there is no such list.
    pub(crate) fn needs_one_of(&self) -> Option<Vec<(usize, u32)>> {
        match self {
            Self::Equals(key, number) => Some(vec![(*key, *number)]),
            Self::In(key, numbers) => Some(numbers.iter().map(|number| (*key, *number)).collect()),
            // Each part has to hold, so any list will do.
            Self::And(questions) => questions.iter().filter_map(Self::needs_one_of).min_by_key(Vec::len),
            Self::Or(questions) => {
                let lists: Option<Vec<_>> = questions.iter().map(Self::needs_one_of).collect();
                lists.map(|lists| lists.concat())
            }
            Self::All
            | Self::Has(_)
            | Self::Contains(..)
            | Self::StartsWith(..)
            | Self::EndsWith(..)
            | Self::Not(_) => None,
        }
    }

    /// As [`Selector::matches`] answers for the same labels.
    pub(crate) fn holds(&self, known: &Known<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Has(key) => known.number(*key) != MISSING,
            Self::Equals(key, number) => known.number(*key) == *number,
            Self::In(key, numbers) => numbers.contains(&known.number(*key)),
            Self::Contains(key, part) => known.text(*key).is_some_and(|text| text.contains(&**part)),
            Self::StartsWith(key, part) => known.text(*key).is_some_and(|text| text.starts_with(&**part)),
            Self::EndsWith(key, part) => known.text(*key).is_some_and(|text| text.ends_with(&**part)),
            Self::Not(question) => !question.holds(known),
            Self::And(questions) => questions.iter().all(|question| question.holds(known)),
            Self::Or(questions) => questions.iter().any(|question| question.holds(known)),
        }
    }
}
