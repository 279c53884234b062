//! Names of objects: DNS subdomains, as Kubernetes names them. A copy of a name shares its text.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text cannot name an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a valid {what}: expected 1 to 253 lower-case letters, digits, '-' or '.', starting and \
     ending with a letter or digit"
)]
pub struct NameError {
    text: String,
    what: &'static str,
}

/// RFC 1123 subdomain (Kubernetes "object names"): no path separator can pass.
fn check_subdomain(text: &str, what: &'static str) -> Result<(), NameError> {
    let label_ok = |label: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(label.chars().next())
            && edge(label.chars().last())
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if text.len() <= 253 && !text.is_empty() && text.split('.').all(label_ok) {
        Ok(())
    } else {
        Err(NameError { text: text.to_owned(), what })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_subdomain(text, $what)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of a pool.
    PoolName, "pool name"
}
name_type! {
    /// The name of a node.
    NodeName, "node name"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_subdomains() {
        for ok in ["a", "external-pool", "node-1.example.org", "1", &"a".repeat(253)] {
            assert!(ok.parse::<PoolName>().is_ok(), "{ok}");
        }
        for bad in ["", "A", "a/b", "../a", "a.", ".a", "-a", "a-", "a_b", "a b", "a\n", &"a".repeat(254)] {
            assert!(bad.parse::<PoolName>().is_err(), "{bad:?}");
        }
    }
}
