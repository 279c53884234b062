//! What a pod's annotations ask for besides pools: families, addresses, a hardware address, further sources.
//!
//! | key | on | value |
//! |---|---|---|
//! | `ipFamilies` | pod, namespace | JSON array of `"IPv4"`, `"IPv6"` |
//! | `ipAddrs` | pod | JSON array of addresses, at most one of each family |
//! | `hwAddr` | pod | `02:00:00:00:00:01`; unicast |
//! | `allowedSourcePrefixes` | pod | JSON array of CIDRs or addresses |
//!
//! Each exists under both prefixes, and both mean the same. Whether an address can be had, and whether the node lets
//! pods send from other sources at all, is decided elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{Cidr, Family, Mac};

use super::{AnnotationError, Nouns, parse_texts};
use crate::request::Want;

/// The most prefixes that one pod may send from besides its own addresses.
pub const MAX_SOURCE_PREFIXES: usize = 16;

/// Families, Calico's key first.
pub const FAMILIES_KEYS: [&str; 2] = ["cni.projectcalico.org/ipFamilies", "poolward.io/ipFamilies"];

/// Addresses.
pub const ADDRESSES_KEYS: [&str; 2] = ["cni.projectcalico.org/ipAddrs", "poolward.io/ipAddrs"];

/// The hardware address.
pub const MAC_KEYS: [&str; 2] = ["cni.projectcalico.org/hwAddr", "poolward.io/hwAddr"];

/// Further sources.
pub const SOURCES_KEYS: [&str; 2] =
    ["cni.projectcalico.org/allowedSourcePrefixes", "poolward.io/allowedSourcePrefixes"];

/// Keys that mean something on a pod and nothing on a namespace.
pub const POD_ONLY_KEYS: [[&str; 2]; 3] = [ADDRESSES_KEYS, MAC_KEYS, SOURCES_KEYS];

/// A value, and the key that it was under.
pub type Keyed<T> = (&'static str, T);

/// See the module. What is not asked for is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Exactly these families.
    pub families: Option<Keyed<Families>>,
    /// Exactly these addresses.
    pub addresses: Option<Keyed<Addresses>>,
    /// The hardware address of the pod's interface.
    pub mac: Option<Keyed<Mac>>,
    /// What the pod may send from besides its own addresses.
    pub sources: Option<Keyed<Vec<Cidr>>>,
}

/// Which families are asked for: one at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    fn set(&mut self, family: Family) -> bool {
        let slot = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        std::mem::replace(slot, true)
    }
}

/// At most one address of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Addresses {
    /// The one of a family.
    #[must_use]
    pub fn of(self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// Reads them. Only families may be asked for by the namespace, and the pod's word beats its namespace's.
///
/// # Errors
/// A value that counts is malformed, both of its keys are there and differ, or the pod asks for an address of a family
/// that it does not want.
pub fn wishes(
    pod: &BTreeMap<String, String>,
    namespace: &BTreeMap<String, String>,
) -> Result<Wishes, AnnotationError> {
    let families_of_pod = one(pod, "pod", FAMILIES_KEYS, families)?;
    let addresses = one(pod, "pod", ADDRESSES_KEYS, addresses)?;
    if let (Some((families_key, wanted)), Some((key, named))) = (families_of_pod, addresses) {
        for family in [Family::V4, Family::V6] {
            if let Some(address) = named.of(family).filter(|_| !wanted.has(family)) {
                let reason = format!("names {address}, but {families_key} leaves {family} out");
                return Err(AnnotationError::Malformed { on: "pod", key, reason });
            }
        }
    }
    let families = match families_of_pod {
        None => one(namespace, "namespace", FAMILIES_KEYS, families)?,
        own => own,
    };
    let mac = one(pod, "pod", MAC_KEYS, hardware_address)?;
    let sources = one(pod, "pod", SOURCES_KEYS, prefixes)?;
    Ok(Wishes { families, addresses, mac, sources })
}

/// How much a family is wanted.
///
/// 1. A named address is required.
/// 2. Families that are named are required, and the others not wanted.
/// 3. The network configuration decides (`assign`).
/// 4. A family whose pools are named is required.
/// 5. Where an address of the other family is named, this one is not wanted, as Calico has it.
/// 6. Otherwise as pools exist.
#[must_use]
pub fn want_of(wishes: &Wishes, family: Family, assign: Option<bool>, pools_named: bool) -> Want {
    let named = wishes.addresses.is_some_and(|(_, addresses)| addresses.of(family).is_some());
    match (&wishes.families, assign) {
        _ if named => Want::Required,
        (Some((_, families)), _) if families.has(family) => Want::Required,
        (Some(_), _) | (None, Some(false)) => Want::No,
        (None, Some(true)) => Want::Required,
        (None, None) if pools_named => Want::Required,
        (None, None) if wishes.addresses.is_some() => Want::No,
        (None, None) => Want::AsPoolsExist,
    }
}

/// The value under either key.
fn one<T: PartialEq>(
    annotations: &BTreeMap<String, String>,
    on: &'static str,
    keys: [&'static str; 2],
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<Keyed<T>>, AnnotationError> {
    let mut found: Option<Keyed<T>> = None;
    for key in keys {
        let Some(text) = annotations.get(key) else { continue };
        let value = parse(text).map_err(|reason| AnnotationError::Malformed { on, key, reason })?;
        match &found {
            Some((first, earlier)) if *earlier != value => {
                return Err(AnnotationError::Contradiction { on, first, second: key });
            }
            Some(_) => {}
            None => found = Some((key, value)),
        }
    }
    Ok(found)
}

fn families(text: &str) -> Result<Families, String> {
    let mut families = Families::default();
    for name in parse_texts(text, &Nouns { one: "family", many: "families", example: "IPv4", max_count: 2 })?
    {
        let family = match name.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return Err(format!("{name:?}: expected \"IPv4\" or \"IPv6\"")),
        };
        if families.set(family) {
            return Err(format!("names {name} twice"));
        }
    }
    Ok(families)
}

fn addresses(text: &str) -> Result<Addresses, String> {
    let mut addresses = Addresses::default();
    let nouns = Nouns { one: "address", many: "addresses", example: "10.0.0.9", max_count: 2 };
    for text in parse_texts(text, &nouns)? {
        let address: IpAddr = text.parse().map_err(|_| format!("{text:?}: expected an IP address"))?;
        let slot = if address.is_ipv4() { &mut addresses.v4 } else { &mut addresses.v6 };
        if slot.replace(address).is_some() {
            return Err(format!("{address}: a second {} address", Family::of(address)));
        }
    }
    Ok(addresses)
}

fn hardware_address(text: &str) -> Result<Mac, String> {
    let mac: Mac = text.parse().map_err(|error: model::MacError| error.to_string())?;
    if mac.is_unicast() { Ok(mac) } else { Err(format!("{mac}: expected a unicast address")) }
}

fn prefixes(text: &str) -> Result<Vec<Cidr>, String> {
    let nouns =
        Nouns { one: "prefix", many: "prefixes", example: "192.0.2.0/24", max_count: MAX_SOURCE_PREFIXES };
    let mut prefixes = Vec::new();
    for text in parse_texts(text, &nouns)? {
        let prefix = match text.parse::<IpAddr>() {
            Ok(address) => Cidr::host(address),
            Err(_) => text.parse().map_err(|error| format!("{text:?}: {error}"))?,
        };
        if !prefixes.contains(&prefix) {
            prefixes.push(prefix);
        }
    }
    prefixes.sort_unstable();
    Ok(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn values_are_read_and_what_is_wrong_names_its_key() {
        let check = |pod: &[(&str, &str)], expected: Result<fn(&Wishes) -> bool, &str>| {
            let found = wishes(&map(pod), &map(&[]));
            match (&found, expected) {
                (Ok(found), Ok(holds)) => assert!(holds(found), "{pod:?}: {found:?}"),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().ends_with(words), "{pod:?}: {error}");
                    assert!(error.to_string().contains(pod[0].0), "{pod:?}: {error}");
                }
                _ => panic!("{pod:?}: {found:?}"),
            }
        };
        let [families, ours] = FAMILIES_KEYS;
        check(&[], Ok(|wishes| *wishes == Wishes::default()));
        check(&[(families, r#"["IPv4", "IPv6"]"#)], Ok(|w| w.families.is_some_and(|(_, f)| f.v4 && f.v6)));
        check(&[(ours, r#"["IPv6"]"#)], Ok(|w| w.families.is_some_and(|(_, f)| !f.v4 && f.v6)));
        check(&[(families, r#"["IPv5"]"#)], Err("\"IPv5\": expected \"IPv4\" or \"IPv6\""));
        check(&[(families, r#"["IPv4", "IPv4"]"#)], Err("names IPv4 twice"));
        check(&[(families, "[]")], Err("names no family: expected at least one, as in [\"IPv4\"]"));
        check(&[(families, r#"["IPv4"]"#), (ours, r#"["IPv6"]"#)], Err("or both alike"));

        let [addresses, _] = ADDRESSES_KEYS;
        check(
            &[(addresses, r#"["10.0.0.9", "fd00::9"]"#)],
            Ok(|w| {
                w.addresses.is_some_and(|(_, a)| a.of(Family::V4).is_some() && a.of(Family::V6).is_some())
            }),
        );
        check(&[(addresses, r#"["10.0.0.9", "10.0.0.8"]"#)], Err("10.0.0.8: a second IPv4 address"));
        check(&[(addresses, r#"["10.0.0.9/32"]"#)], Err("expected an IP address"));
        check(&[(addresses, "10.0.0.9")], Err("as in [\"10.0.0.9\"], found '1'"));
        check(
            &[(addresses, r#"["10.0.0.9"]"#), (families, r#"["IPv6"]"#)],
            Err("names 10.0.0.9, but cni.projectcalico.org/ipFamilies leaves IPv4 out"),
        );

        let [mac, _] = MAC_KEYS;
        check(&[(mac, "1c:0c:0a:c0:ff:ee")], Ok(|w| w.mac.is_some_and(|(_, mac)| mac.is_unicast())));
        check(&[(mac, "1d:0c:0a:c0:ff:ee")], Err("expected a unicast address"));
        check(&[(mac, "1c0c0ac0ffee")], Err("as in 02:00:00:00:00:01"));

        let [sources, _] = SOURCES_KEYS;
        check(
            &[(sources, r#"["192.0.2.0/24", "2001:db8::1", "192.0.2.0/24"]"#)],
            Ok(|w| w.sources.as_ref().is_some_and(|(_, prefixes)| prefixes.len() == 2)),
        );
        check(&[(sources, r#"["192.0.2.1/24"]"#)], Err("192.0.2.0/24"));
    }

    #[test]
    fn only_families_may_be_the_namespaces_and_the_pods_beat_them() {
        let namespace = map(&[(FAMILIES_KEYS[0], r#"["IPv6"]"#), (MAC_KEYS[0], "no address at all")]);
        let found = wishes(&map(&[]), &namespace).unwrap();
        assert_eq!(found.families, Some((FAMILIES_KEYS[0], Families { v4: false, v6: true })));
        assert_eq!(found.mac, None);
        let pod = map(&[(FAMILIES_KEYS[1], r#"["IPv4"]"#)]);
        let found = wishes(&pod, &map(&[(FAMILIES_KEYS[0], "beaten, so not read")])).unwrap();
        assert_eq!(found.families, Some((FAMILIES_KEYS[1], Families { v4: true, v6: false })));
        // A namespace's families do not stand against an address that its pod names.
        let pod = map(&[(ADDRESSES_KEYS[0], r#"["10.0.0.9"]"#)]);
        let found = wishes(&pod, &namespace).unwrap();
        assert_eq!(want_of(&found, Family::V4, None, false), Want::Required);
        assert_eq!(want_of(&found, Family::V6, None, false), Want::Required);
    }

    #[test]
    fn how_much_a_family_is_wanted_follows_an_order() {
        let check = |pod: &[(&str, &str)], assign: Option<bool>, pools_named: bool, v4: Want, v6: Want| {
            let found = wishes(&map(pod), &map(&[])).unwrap();
            let wanted = [Family::V4, Family::V6].map(|family| want_of(&found, family, assign, pools_named));
            assert_eq!(wanted, [v4, v6], "{pod:?} {assign:?} {pools_named}");
        };
        let four = (FAMILIES_KEYS[0], r#"["IPv4"]"#);
        let nine = (ADDRESSES_KEYS[0], r#"["10.0.0.9"]"#);
        check(&[], None, false, Want::AsPoolsExist, Want::AsPoolsExist);
        check(&[], None, true, Want::Required, Want::Required);
        check(&[], Some(false), true, Want::No, Want::No);
        check(&[four], Some(false), false, Want::Required, Want::No);
        check(&[four], Some(true), true, Want::Required, Want::No);
        check(&[nine], None, false, Want::Required, Want::No);
        check(&[nine], None, true, Want::Required, Want::Required);
        check(&[nine], Some(false), false, Want::Required, Want::No);
        check(&[nine], Some(true), false, Want::Required, Want::Required);
        check(&[nine, four], None, false, Want::Required, Want::No);
    }
}
