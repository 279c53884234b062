//! Typed access to JSON objects whose errors name the key by its whole path. `null` is the same as absent, as
//! the reference library writes empty lists.

use serde_json::{Map, Value};

use crate::error::{CniError, Code, quote};

/// A JSON object and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Object<'a> {
    /// The outermost object.
    pub(crate) fn root(map: &'a Map<String, Value>) -> Self {
        Self { map, path: String::new() }
    }

    /// The object that `value` is, standing at `path`.
    pub(crate) fn at(path: String, value: &'a Value) -> Result<Self, CniError> {
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            _ => Err(wrong(&path, "an object", value)),
        }
    }

    /// The path of one of its keys.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Its keys and values.
    pub(crate) fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A text.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>, CniError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.path_of(key), "a string", other)),
        }
    }

    /// A truth value, as JSON or, as Calico takes it, as text.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, CniError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(other) => Err(wrong(&self.path_of(key), "true or false", other)),
        }
    }

    /// A whole number from `min` to `max`.
    pub(crate) fn whole_number(&self, key: &str, min: u32, max: u32) -> Result<Option<u32>, CniError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (min..=max).contains(number))
            .map(Some)
            .ok_or_else(|| wrong(&self.path_of(key), &format!("a whole number from {min} to {max}"), value))
    }

    /// A list, with the path of each item.
    pub(crate) fn list(&self, key: &str) -> Result<Option<Vec<(String, &'a Value)>>, CniError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let path = self.path_of(key);
                Ok(Some(items.iter().enumerate().map(|(i, item)| (format!("{path}[{i}]"), item)).collect()))
            }
            Some(other) => Err(wrong(&self.path_of(key), "a list", other)),
        }
    }

    /// A list of texts.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<String>>, CniError> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        let text = |(path, item): (String, &Value)| match item {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            _ => Err(wrong(&path, "a string that is not empty", item)),
        };
        items.into_iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// An object.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, CniError> {
        self.get(key).map(|value| Self::at(self.path_of(key), value)).transpose()
    }
}

/// The refusal of a value by its path.
pub(crate) fn wrong(path: &str, expected: &str, found: &Value) -> CniError {
    CniError::new(
        Code::InvalidConfig,
        format!("network configuration: {path}: expected {expected}, found {}", show(found)),
    )
}

/// A value as it may stand in a message.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quote(text),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(map) => format!("an object with {} keys", map.len()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map() -> Map<String, Value> {
        let value = json!({
            "text": "a", "yes": true, "no": "false", "seven": 7, "big": 4_294_967_296_u64, "half": 0.5,
            "list": ["a", "b"], "mixed": ["a", 1], "holes": [""], "inner": {"text": 1}, "null": null,
        });
        value.as_object().unwrap().clone()
    }

    #[test]
    fn values_of_the_right_type_are_read_and_null_is_absent() {
        let map = map();
        let root = Object::root(&map);
        assert_eq!(root.string("text"), Ok(Some("a")));
        assert_eq!((root.boolean("yes"), root.boolean("no")), (Ok(Some(true)), Ok(Some(false))));
        assert_eq!(root.whole_number("seven", 7, 7), Ok(Some(7)));
        assert_eq!(root.strings("list"), Ok(Some(vec!["a".to_owned(), "b".to_owned()])));
        for key in ["null", "absent"] {
            assert_eq!(root.string(key), Ok(None));
            assert_eq!(root.boolean(key), Ok(None));
            assert_eq!(root.whole_number(key, 0, 1), Ok(None));
            assert_eq!(root.strings(key), Ok(None));
            assert!(root.object(key).unwrap().is_none());
        }
    }

    #[test]
    fn values_of_a_wrong_type_are_refused_by_their_path() {
        let map = map();
        let root = Object::root(&map);
        let inner = root.object("inner").unwrap().unwrap();
        let check = |found: Option<CniError>, expected: &str| {
            assert_eq!(found.map(|e| e.line()), Some(format!("network configuration: {expected}")));
        };
        check(inner.string("text").err(), "inner.text: expected a string, found 1");
        check(root.boolean("text").err(), "text: expected true or false, found \"a\"");
        check(root.whole_number("seven", 8, 9).err(), "seven: expected a whole number from 8 to 9, found 7");
        check(root.whole_number("half", 0, 9).err(), "half: expected a whole number from 0 to 9, found 0.5");
        check(
            root.whole_number("big", 0, 9).err(),
            "big: expected a whole number from 0 to 9, found 4294967296",
        );
        check(root.strings("mixed").err(), "mixed[1]: expected a string that is not empty, found 1");
        check(root.strings("holes").err(), "holes[0]: expected a string that is not empty, found \"\"");
        check(root.list("inner").err(), "inner: expected a list, found an object with 1 keys");
        check(root.object("list").err(), "list: expected an object, found a list of 2");
    }
}
