//! Which pools may exist beside each other, and which tag id each one has.
//!
//! There is one registry value for the whole cluster. Every change to it is decided here, as a new value, and
//! made by compare-and-swap in the store; a loser reads again and decides again. What a pool does once it is
//! admitted is not decided here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{BlockSize, Cidr, PoolName, TagId};

/// A pool that asks to be admitted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Its name.
    pub name: PoolName,
    /// UID of its object.
    pub uid: String,
    /// Its range.
    pub cidr: Cidr,
    /// The size of its blocks.
    pub block_size: BlockSize,
}

/// A pool that was admitted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryEntry {
    /// Its name.
    pub name: PoolName,
    /// UID of its object; another UID under the same name is another pool.
    pub uid: String,
    /// Its range.
    pub cidr: Cidr,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// Its tag id.
    pub tag: TagId,
    /// Being deleted: the entry stays until its last block is gone.
    pub terminating: bool,
}

/// All admitted pools, and the tag ids that pools had which are gone.
///
/// A tag id of a pool that is gone may still be carried by packets, firewall rules and counters somewhere. So
/// it is retired, and allotted again only when every other id is taken or retired: then the one that was
/// retired longest ago.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Registry {
    entries: BTreeMap<PoolName, RegistryEntry>,
    /// Longest retired first.
    retired: VecDeque<TagId>,
}

/// A registry value that was read and cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Two entries of one name.
    #[error("registry: pool {0} has two entries")]
    Name(PoolName),
    /// A tag id stands twice.
    #[error("registry: tag id {0} is allotted twice")]
    Tag(TagId),
}

/// A candidate that was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The registry with it; equal to the old one when the pool was admitted before.
    pub registry: Registry,
    /// Its tag id.
    pub tag: TagId,
}

/// Why a candidate is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionRefusal {
    /// It shares addresses with a pool that was admitted before.
    #[error("CIDR {cidr} of pool {name} overlaps {other_cidr} of pool {other}, which was admitted before")]
    Overlap {
        /// The candidate.
        name: PoolName,
        /// Its range.
        cidr: Cidr,
        /// The pool in its way.
        other: PoolName,
        /// That one's range.
        other_cidr: Cidr,
    },
    /// Its range is not the one it was admitted with.
    #[error("cidr of pool {name} was {admitted} when it was admitted and cannot become {asked}")]
    CidrChanged {
        /// The pool.
        name: PoolName,
        /// The range it was admitted with.
        admitted: Cidr,
        /// The range it has now.
        asked: Cidr,
    },
    /// Its block size is not the one it was admitted with.
    #[error("blockSize of pool {name} was {admitted} when it was admitted and cannot become {asked}")]
    BlockSizeChanged {
        /// The pool.
        name: PoolName,
        /// The prefix length it was admitted with.
        admitted: u8,
        /// The prefix length it has now.
        asked: u8,
    },
    /// An earlier pool of the same name still has blocks.
    #[error("an earlier pool named {name} ({cidr}) still has blocks: wait until it is gone")]
    NameTaken {
        /// The name.
        name: PoolName,
        /// The earlier pool's range.
        cidr: Cidr,
    },
    /// All tag ids are allotted.
    #[error("no tag id is left for pool {name}: all {max_tag_id} of the mark layout are allotted")]
    NoTag {
        /// The candidate.
        name: PoolName,
        /// The greatest tag id of the layout.
        max_tag_id: u16,
    },
}

impl Registry {
    /// A registry as it was stored.
    ///
    /// # Errors
    /// Two entries of one name, or a tag id that stands twice among entries and retired ids.
    pub fn from_parts(
        entries: impl IntoIterator<Item = RegistryEntry>,
        retired: impl IntoIterator<Item = TagId>,
    ) -> Result<Self, RegistryError> {
        let (mut registry, mut tags) = (Self::default(), BTreeSet::new());
        for entry in entries {
            if !tags.insert(entry.tag) {
                return Err(RegistryError::Tag(entry.tag));
            }
            if let Some(twice) = registry.entries.insert(entry.name.clone(), entry) {
                return Err(RegistryError::Name(twice.name));
            }
        }
        for tag in retired {
            if !tags.insert(tag) {
                return Err(RegistryError::Tag(tag));
            }
            registry.retired.push_back(tag);
        }
        Ok(registry)
    }

    /// All entries, by name.
    pub fn entries(&self) -> impl Iterator<Item = &RegistryEntry> + '_ {
        self.entries.values()
    }

    /// Retired tag ids, the longest retired first.
    pub fn retired(&self) -> impl Iterator<Item = TagId> + '_ {
        self.retired.iter().copied()
    }

    /// The entry of a name.
    #[must_use]
    pub fn entry(&self, name: &PoolName) -> Option<&RegistryEntry> {
        self.entries.get(name)
    }

    /// Decides whether a pool is admitted.
    ///
    /// 1. A pool that is admitted already stays so, if its range and block size are what they were.
    /// 2. A name whose earlier pool is not gone yet has to wait.
    /// 3. A range that overlaps an entry's is refused, terminating or not: its blocks may still be there.
    /// 4. It gets the lowest tag id that no pool has or had; when there is none, the longest retired one.
    ///
    /// # Errors
    /// The refusal names what stands in the way.
    pub fn admit(&self, candidate: &Candidate, max_tag_id: u16) -> Result<Admitted, AdmissionRefusal> {
        let Candidate { name, uid, cidr, block_size } = candidate.clone();
        if let Some(entry) = self.entries.get(&name) {
            return if entry.uid != uid {
                Err(AdmissionRefusal::NameTaken { name, cidr: entry.cidr })
            } else if entry.cidr != cidr {
                Err(AdmissionRefusal::CidrChanged { name, admitted: entry.cidr, asked: cidr })
            } else if entry.block_size != block_size {
                let (admitted, asked) = (entry.block_size.prefix_len(), block_size.prefix_len());
                Err(AdmissionRefusal::BlockSizeChanged { name, admitted, asked })
            } else {
                Ok(Admitted { registry: self.clone(), tag: entry.tag })
            };
        }
        if let Some(entry) = self.entries.values().find(|entry| entry.cidr.overlaps(&cidr)) {
            let (other, other_cidr) = (entry.name.clone(), entry.cidr);
            return Err(AdmissionRefusal::Overlap { name, cidr, other, other_cidr });
        }
        let mut registry = self.clone();
        let Some(tag) = registry.allot(max_tag_id) else {
            return Err(AdmissionRefusal::NoTag { name, max_tag_id });
        };
        let entry = RegistryEntry { name: name.clone(), uid, cidr, block_size, tag, terminating: false };
        registry.entries.insert(name, entry);
        Ok(Admitted { registry, tag })
    }

    /// The registry with a pool marked as being deleted; `None` when there is no such pool or it is marked
    /// already.
    #[must_use]
    pub fn terminate(&self, name: &PoolName, uid: &str) -> Option<Self> {
        self.entries.get(name).filter(|entry| entry.uid == uid && !entry.terminating)?;
        let mut registry = self.clone();
        registry.entries.get_mut(name)?.terminating = true;
        Some(registry)
    }

    /// The registry without a pool that is being deleted, once its last block is gone; its tag id is retired.
    /// `None` when there is no such pool or it is not being deleted.
    #[must_use]
    pub fn remove(&self, name: &PoolName, uid: &str) -> Option<Self> {
        let entry = self.entries.get(name).filter(|entry| entry.uid == uid && entry.terminating)?;
        let mut registry = self.clone();
        registry.retired.push_back(entry.tag);
        registry.entries.remove(name);
        Some(registry)
    }

    fn allot(&mut self, max_tag_id: u16) -> Option<TagId> {
        let taken: BTreeSet<TagId> =
            self.entries.values().map(|entry| entry.tag).chain(self.retired.iter().copied()).collect();
        let unused = (1..=max_tag_id).filter_map(TagId::new).find(|tag| !taken.contains(tag));
        unused.or_else(|| {
            let index = self.retired.iter().position(|tag| tag.get() <= max_tag_id)?;
            self.retired.remove(index)
        })
    }
}

#[cfg(test)]
mod tests {
    use model::Family;

    use super::*;

    fn candidate(name: &str, uid: &str, cidr: &str, block_len: u32) -> Candidate {
        let cidr: Cidr = cidr.parse().unwrap();
        let block_size = BlockSize::new(cidr.family(), block_len).unwrap();
        Candidate { name: name.parse().unwrap(), uid: uid.to_owned(), cidr, block_size }
    }

    fn admitted(max_tag_id: u16, pools: &[(&str, &str)]) -> Registry {
        pools.iter().fold(Registry::default(), |registry, (name, cidr)| {
            registry.admit(&candidate(name, "u", cidr, 28), max_tag_id).unwrap().registry
        })
    }

    #[test]
    fn a_pool_that_does_not_fit_is_refused_with_what_stands_in_its_way() {
        let registry = admitted(10, &[("a", "10.0.0.0/24"), ("b", "10.0.1.0/24")]);
        let check = |name, uid, cidr, len, expected: &str| {
            let refusal = registry.admit(&candidate(name, uid, cidr, len), 10).unwrap_err();
            assert_eq!(refusal.to_string(), expected);
        };
        let overlap = "overlaps 10.0.0.0/24 of pool a, which was admitted before";
        check("c", "v", "10.0.0.0/26", 28, &format!("CIDR 10.0.0.0/26 of pool c {overlap}"));
        check("c", "v", "10.0.0.0/16", 28, &format!("CIDR 10.0.0.0/16 of pool c {overlap}"));
        check(
            "a",
            "u",
            "10.0.0.0/24",
            26,
            "blockSize of pool a was 28 when it was admitted and cannot become 26",
        );
        check(
            "a",
            "u",
            "10.0.9.0/24",
            28,
            "cidr of pool a was 10.0.0.0/24 when it was admitted and cannot become 10.0.9.0/24",
        );
        check(
            "a",
            "v",
            "10.0.0.0/24",
            28,
            "an earlier pool named a (10.0.0.0/24) still has blocks: wait until it is gone",
        );
        let full = admitted(2, &[("a", "10.0.0.0/24"), ("b", "10.0.1.0/24")]);
        let refusal = full.admit(&candidate("c", "u", "10.0.2.0/24", 28), 2).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "no tag id is left for pool c: all 2 of the mark layout are allotted"
        );
    }

    #[test]
    fn admitting_again_changes_nothing() {
        let registry = admitted(10, &[("a", "10.0.0.0/24")]);
        let again = registry.admit(&candidate("a", "u", "10.0.0.0/24", 28), 10).unwrap();
        assert_eq!((again.registry, again.tag.get()), (registry, 1));
    }

    #[test]
    fn both_families_are_admitted_beside_each_other() {
        let registry = admitted(10, &[("a", "0.0.0.0/0")]);
        let six = registry.admit(&candidate("six", "u", "::/0", 122), 10).unwrap();
        assert_eq!(six.tag.get(), 2);
        assert_eq!(BlockSize::default_of(Family::V6).prefix_len(), 122);
    }

    #[test]
    fn a_terminating_pool_keeps_its_range_and_tag_until_it_is_removed() {
        let name: PoolName = "a".parse().unwrap();
        let registry = admitted(10, &[("a", "10.0.0.0/24")]);
        assert_eq!(registry.remove(&name, "u"), None, "not terminating yet");
        assert_eq!(registry.terminate(&name, "other uid"), None);
        let terminating = registry.terminate(&name, "u").unwrap();
        assert_eq!(terminating.terminate(&name, "u"), None, "already");
        assert!(terminating.admit(&candidate("b", "u", "10.0.0.0/24", 28), 10).is_err());
        assert!(terminating.admit(&candidate("a", "new", "10.0.0.0/24", 28), 10).is_err());
        let gone = terminating.remove(&name, "u").unwrap();
        assert_eq!(gone.retired().map(TagId::get).collect::<Vec<_>>(), [1]);
        assert_eq!(gone.admit(&candidate("a", "new", "10.0.0.0/24", 28), 10).unwrap().tag.get(), 2);
    }

    #[test]
    fn a_retired_tag_is_reused_only_when_no_other_is_left_the_longest_retired_first() {
        let mut registry = admitted(3, &[("a", "10.0.0.0/24"), ("b", "10.0.1.0/24")]);
        for name in ["b", "a"] {
            let name = name.parse().unwrap();
            registry = registry.terminate(&name, "u").unwrap().remove(&name, "u").unwrap();
        }
        let mut tags = Vec::new();
        for (name, cidr) in [("c", "10.0.2.0/24"), ("d", "10.0.3.0/24"), ("e", "10.0.4.0/24")] {
            let admitted = registry.admit(&candidate(name, "u", cidr, 28), 3).unwrap();
            registry = admitted.registry;
            tags.push(admitted.tag.get());
        }
        assert_eq!(tags, [3, 2, 1]);
        assert!(registry.admit(&candidate("f", "u", "10.0.5.0/24", 28), 3).is_err());
    }

    #[test]
    fn a_stored_registry_with_a_tag_or_a_name_twice_is_refused() {
        let registry = admitted(10, &[("a", "10.0.0.0/24"), ("b", "10.0.1.0/24")]);
        let entries: Vec<RegistryEntry> = registry.entries().cloned().collect();
        let tag = |id| TagId::new(id).unwrap();
        let check =
            |entries: Vec<RegistryEntry>, retired: &[u16], expected: Result<Registry, RegistryError>| {
                assert_eq!(Registry::from_parts(entries, retired.iter().map(|&id| tag(id))), expected);
            };
        check(entries.clone(), &[], Ok(registry));
        check(entries.clone(), &[2], Err(RegistryError::Tag(tag(2))));
        check(entries.clone(), &[3, 3], Err(RegistryError::Tag(tag(3))));
        let mut same_tag = entries.clone();
        same_tag[1].tag = tag(1);
        check(same_tag, &[], Err(RegistryError::Tag(tag(1))));
        let mut same_name = entries;
        same_name[1].name = same_name[0].name.clone();
        check(same_name, &[], Err(RegistryError::Name("a".parse().unwrap())));
    }
}
