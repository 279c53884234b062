//! The kinds of objects that people name, and which `apiVersion`s they come under.

use std::fmt;
use std::str::FromStr;

use super::fields::nearest;
use crate::resource::{IpBlock, IpPool, IpReservation, IpamConfig, Namespace, NodeAddresses, Pod, Resource};

/// A kind of object that can be read by name; most can be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A pool of addresses.
    IpPool,
    /// Ranges that are not handed out automatically.
    IpReservation,
    /// A block of a pool.
    IpBlock,
    /// How addresses are given, in the whole cluster.
    IpamConfig,
    /// What a node has given out.
    NodeAddresses,
    /// A namespace.
    Namespace,
    /// A pod.
    Pod,
}

impl Kind {
    /// Every kind, in the order of listings.
    pub const ALL: [Self; 7] = [
        Self::IpPool,
        Self::IpReservation,
        Self::IpBlock,
        Self::IpamConfig,
        Self::NodeAddresses,
        Self::Namespace,
        Self::Pod,
    ];

    /// `kind` in manifests: `IPPool`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IpPool => IpPool::KIND,
            Self::IpReservation => IpReservation::KIND,
            Self::IpBlock => IpBlock::KIND,
            Self::IpamConfig => IpamConfig::KIND,
            Self::NodeAddresses => NodeAddresses::KIND,
            Self::Namespace => Namespace::KIND,
            Self::Pod => Pod::KIND,
        }
    }

    /// What commands and messages call it: `ippool`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::IpPool => "ippool",
            Self::IpReservation => "ipreservation",
            Self::IpBlock => "ipblock",
            Self::IpamConfig => "ipamconfig",
            Self::NodeAddresses => "nodeaddresses",
            Self::Namespace => "namespace",
            Self::Pod => "pod",
        }
    }

    /// Other words for it on the command line.
    fn other_words(self) -> &'static [&'static str] {
        match self {
            Self::IpPool => &["ippools", "pool", "pools", "ipp"],
            Self::IpReservation => &["ipreservations", "reservation", "reservations"],
            Self::IpBlock => &["ipblocks", "block", "blocks"],
            Self::IpamConfig => &["ipamconfigs", "ipamcfg"],
            Self::NodeAddresses => &["nodeaddress", "nodeaddr"],
            Self::Namespace => &["namespaces", "ns"],
            Self::Pod => &["pods", "po"],
        }
    }

    /// The `apiVersion`s under which manifests of the kind are accepted.
    pub(super) fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::IpPool | Self::IpReservation => {
                &[crate::resource::API_VERSION, "projectcalico.org/v3", "crd.projectcalico.org/v1"]
            }
            Self::IpBlock | Self::IpamConfig | Self::NodeAddresses => &[crate::resource::API_VERSION],
            Self::Namespace | Self::Pod => &["v1"],
        }
    }

    /// Whether objects of the kind live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        self == Self::Pod
    }

    /// By the exact `kind` of a manifest.
    pub(super) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Kind {
    type Err = String;

    /// Reads what people type: `ippool`, `ippools`, `IPPool`, `pool`, `ns`…
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let found = Self::ALL
            .into_iter()
            .find(|kind| kind.word() == lower || kind.other_words().contains(&lower.as_str()));
        found.ok_or_else(|| {
            let words = Self::ALL.map(Self::word);
            match nearest(&lower, &words) {
                Some(near) => format!("{text:?} is not a kind of object; did you mean {near}?"),
                None => format!("{text:?} is not a kind of object: expected one of {}", words.join(", ")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_the_words_people_type() {
        let check =
            |text: &str, expected: Option<Kind>| assert_eq!(text.parse::<Kind>().ok(), expected, "{text}");
        check("ippool", Some(Kind::IpPool));
        check("IPPools", Some(Kind::IpPool));
        check("ns", Some(Kind::Namespace));
        check("po", Some(Kind::Pod));
        check("ippoool", None);
        assert_eq!(
            "ippoool".parse::<Kind>().unwrap_err(),
            "\"ippoool\" is not a kind of object; did you mean ippool?"
        );
        for kind in Kind::ALL {
            check(kind.word(), Some(kind));
            assert_eq!(Kind::by_name(kind.name()), Some(kind));
        }
    }
}
