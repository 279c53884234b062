//! What an object is called within its kind.

use std::fmt;
use std::str::FromStr;

use model::Cidr;

/// `name`, or `namespace/name` for objects that live in a namespace.
///
/// Every part is a DNS subdomain, so a key never holds a path separator of its own, white space or an empty
/// part, and is at most 507 bytes long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Why a text is not a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A part is not a DNS subdomain.
    #[error(
        "{0:?} is not a valid name: expected 1 to 253 lower-case letters, digits, '-' or '.', starting and ending \
         with a letter or digit"
    )]
    Name(String),
    /// A namespace where none belongs, or none where one is needed.
    #[error("{text:?} is not a name of this kind: expected {expected}")]
    Shape {
        /// The text as given.
        text: String,
        /// `NAME` or `NAMESPACE/NAME`.
        expected: &'static str,
    },
}

impl Key {
    /// The key of an object without a namespace.
    ///
    /// # Errors
    /// The name is not a DNS subdomain.
    pub fn named(name: &str) -> Result<Self, KeyError> {
        check_name(name)?;
        Ok(Self(name.to_owned()))
    }

    /// The key of an object in a namespace.
    ///
    /// # Errors
    /// Either part is not a DNS subdomain.
    pub fn namespaced(namespace: &str, name: &str) -> Result<Self, KeyError> {
        check_name(namespace)?;
        check_name(name)?;
        Ok(Self(format!("{namespace}/{name}")))
    }

    /// The key of the block of this range: its addresses with `-` for `.` and `:`, then the prefix length.
    ///
    /// `10.0.0.64/26` is `10-0-0-64-26`. IPv6 is written with all eight groups (`fd00::40/122` is
    /// `fd00-0-0-0-0-0-0-40-122`), so that the name is a DNS label and two ranges never share one.
    #[must_use]
    pub fn of_block(cidr: Cidr) -> Self {
        let address = match cidr.network() {
            std::net::IpAddr::V4(v4) => v4.octets().map(|part| part.to_string()).join("-"),
            std::net::IpAddr::V6(v6) => v6.segments().map(|part| format!("{part:x}")).join("-"),
        };
        Self(format!("{address}-{}", cidr.prefix_len()))
    }

    /// The whole key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace, or nothing.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.0.split_once('/').map(|(namespace, _)| namespace)
    }

    /// The name without the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }
}

/// RFC 1123 subdomain, as `model` knows it for pools and nodes.
fn check_name(name: &str) -> Result<(), KeyError> {
    match name.parse::<model::PoolName>() {
        Ok(_) => Ok(()),
        Err(_) => Err(KeyError::Name(name.to_owned())),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    /// Reads `name` or `namespace/name`.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text.split_once('/') {
            Some((namespace, name)) => Self::namespaced(namespace, name),
            None => Self::named(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_or_a_namespace_and_a_name() {
        let check = |text: &str, expected: Option<(Option<&str>, &str)>| {
            let key = text.parse::<Key>();
            assert_eq!(key.as_ref().ok().map(|key| (key.namespace(), key.name())), expected, "{text:?}");
        };
        check("external-pool", Some((None, "external-pool")));
        check("default/web-1", Some((Some("default"), "web-1")));
        for bad in ["", "/", "a/", "/a", "a/b/c", "../a", "A", "a b", "a\0"] {
            check(bad, None);
        }
    }

    #[test]
    fn block_names_are_dns_names_and_tell_ranges_apart() {
        let check = |cidr: &str, expected: &str| {
            let key = Key::of_block(cidr.parse().unwrap());
            assert_eq!(key.as_str(), expected);
            assert_eq!(key, expected.parse().unwrap());
        };
        check("10.0.0.64/26", "10-0-0-64-26");
        check("10.0.0.64/29", "10-0-0-64-29");
        check("fd00::40/122", "fd00-0-0-0-0-0-0-40-122");
        check("::/116", "0-0-0-0-0-0-0-0-116");
        check("2001:db8:0:1::/128", "2001-db8-0-1-0-0-0-0-128");
    }
}
