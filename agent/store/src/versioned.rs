//! Revisions, and objects as the store gives them.

use std::fmt;

/// A moment in the store's history: one number over all objects, growing with every change. Zero is before
/// the first change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// Before the first change.
    pub const ZERO: Self = Self(0);

    /// A revision read back from where it was written down.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision of the change after this one.
    #[cfg(feature = "client")]
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An object and which of its states this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The object.
    pub value: T,
    /// Its uid: stays for the life of the object, and differs from that of any other object that had or will
    /// have the same name.
    pub uid: String,
    /// The change that made this state; what a compare-and-swap expects.
    pub revision: Revision,
}
