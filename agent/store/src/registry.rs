//! The registry of pools between its wire type and the pure one.

use ipam::{Registry, RegistryEntry};
use model::{BlockSize, Cidr, PoolName, TagId};

use crate::resource::{IpPoolRegistry, IpPoolRegistrySpec, RegistryEntry as WireEntry};

/// The pure registry of a stored one.
///
/// # Errors
/// What is wrong with it, naming the entry. Agents write it, so this means that somebody else did.
pub fn registry_of(object: &IpPoolRegistry) -> Result<Registry, String> {
    let entries: Vec<RegistryEntry> = object.spec.entries.iter().map(entry_of).collect::<Result<_, _>>()?;
    let retired: Vec<TagId> =
        object.spec.retired_tags.iter().map(|id| tag_of(*id, "retiredTags")).collect::<Result<_, _>>()?;
    Registry::from_parts(entries, retired).map_err(|error| error.to_string())
}

/// What is stored of a registry.
#[must_use]
pub fn registry_spec(registry: &Registry) -> IpPoolRegistrySpec {
    let entries = registry.entries().map(|entry| WireEntry {
        name: entry.name.to_string(),
        uid: entry.uid.clone(),
        cidr: entry.cidr.to_string(),
        block_size: entry.block_size.prefix_len().into(),
        tag: entry.tag.get(),
        terminating: entry.terminating,
    });
    IpPoolRegistrySpec {
        entries: entries.collect(),
        retired_tags: registry.retired().map(TagId::get).collect(),
    }
}

fn entry_of(wire: &WireEntry) -> Result<RegistryEntry, String> {
    let at = |error: &dyn std::fmt::Display| format!("registry entry {:?}: {error}", wire.name);
    let name: PoolName = wire.name.parse().map_err(|error| at(&error))?;
    let cidr: Cidr = wire.cidr.parse().map_err(|error| at(&error))?;
    let block_size = BlockSize::new(cidr.family(), wire.block_size).map_err(|error| at(&error))?;
    let tag = tag_of(wire.tag, &wire.name)?;
    Ok(RegistryEntry { name, uid: wire.uid.clone(), cidr, block_size, tag, terminating: wire.terminating })
}

fn tag_of(id: u16, at: &str) -> Result<TagId, String> {
    TagId::new(id).ok_or_else(|| format!("registry entry {at:?}: a tag id is never 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(entries: &[(&str, &str, u32, u16)], retired_tags: &[u16]) -> IpPoolRegistry {
        let mut object = IpPoolRegistry::empty();
        object.spec.retired_tags = retired_tags.to_vec();
        object.spec.entries = entries
            .iter()
            .map(|(name, cidr, block_size, tag)| WireEntry {
                name: (*name).to_owned(),
                uid: format!("uid-of-{name}"),
                cidr: (*cidr).to_owned(),
                block_size: *block_size,
                tag: *tag,
                terminating: *tag == 2,
            })
            .collect();
        object
    }

    #[test]
    fn a_registry_comes_back_as_it_was_stored() {
        let object = stored(&[("a", "10.0.0.0/24", 26, 2), ("b", "fd00::/112", 122, 7)], &[5, 3]);
        let json = serde_json::to_string(&object).unwrap();
        let read: IpPoolRegistry = serde_json::from_str(&json).unwrap();
        assert_eq!(registry_spec(&registry_of(&read).unwrap()), object.spec);
        assert_eq!(
            registry_spec(&registry_of(&IpPoolRegistry::empty()).unwrap()),
            IpPoolRegistrySpec::default()
        );
    }

    #[test]
    fn a_registry_that_cannot_be_is_refused() {
        let check = |entries: &[(&str, &str, u32, u16)], retired: &[u16], expected: &str| {
            let error = registry_of(&stored(entries, retired)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(&[("A", "10.0.0.0/24", 26, 1)], &[], "\"A\" is not a valid pool name");
        check(&[("a", "10.0.0.1/24", 26, 1)], &[], "registry entry \"a\": 10.0.0.1/24 has host bits set");
        check(&[("a", "10.0.0.0/24", 19, 1)], &[], "19 is not a block size");
        check(&[("a", "10.0.0.0/24", 26, 0)], &[], "registry entry \"a\": a tag id is never 0");
        check(&[], &[0], "registry entry \"retiredTags\": a tag id is never 0");
        check(&[("a", "10.0.0.0/24", 26, 1)], &[1], "tag id 1 is allotted twice");
        check(&[("a", "10.0.0.0/24", 26, 1), ("a", "10.0.1.0/24", 26, 2)], &[], "pool a has two entries");
    }
}
