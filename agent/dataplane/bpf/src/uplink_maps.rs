//! The maps of the uplinks, in terms of the model: ranges, peers, uplink rules, path MTUs.
//!
//! One entry at a time: 20,000 ranges are written in some 40 ms, which leaves nothing for batches to win.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData};
use ebpf_common::layout;
use ebpf_common::{MAX_UPLINKS, PeerEntry, PeerKey, RemoteEntry, UplinkEntry, map_name};
use model::Cidr;

use crate::error::{BpfError, Context};
use crate::maps::{MapSizes, refused, take, was_there};

/// Who serves a range.
///
/// Ranges of the node itself belong into the map as well, with its own address and without encapsulation: then nobody
/// else is believed to send from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RemoteRange {
    /// The node's address on the underlay.
    pub node: Ipv4Addr,
    /// Whether packets to the range are encapsulated.
    pub encapsulate: bool,
}

/// What is known of another node: it may send encapsulated packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerRule {
    /// Its own address out of a pool, which it may send from whoever has the block around it.
    pub inner: Option<Ipv4Addr>,
}

/// What is done at an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UplinkRule {
    /// Source of outer headers, and the only destination that they are accepted for.
    pub local: Ipv4Addr,
    /// Whether outer headers are taken away; `false` where the kernel's ipip device does that: they are only checked.
    pub decapsulate: bool,
}

/// What the way to a node was said to carry by a router whose message could not be passed on to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// The greatest outer packet.
    pub mtu_bytes: u32,
    /// When that was said, by `CLOCK_BOOTTIME`.
    pub at_boot: Duration,
}

/// The maps, open.
pub(crate) struct UplinkMaps {
    sizes: MapSizes,
    uplinks: Array<MapData, UplinkEntry>,
    remote: LpmTrie<MapData, [u8; 4], RemoteEntry>,
    peers: HashMap<MapData, PeerKey, PeerEntry>,
    path_mtus: HashMap<MapData, PeerKey, layout::PathMtu>,
}

impl UplinkMaps {
    /// Takes the maps out of a loaded object.
    pub(crate) fn take(programs: &mut Ebpf, sizes: MapSizes) -> Result<Self, BpfError> {
        Ok(Self {
            sizes,
            uplinks: take(programs, map_name::UPLINKS)?,
            remote: take(programs, map_name::REMOTE)?,
            peers: take(programs, map_name::PEERS)?,
            path_mtus: take(programs, map_name::PATH_MTUS)?,
        })
    }

    pub(crate) fn set_range(&mut self, cidr: Cidr, range: RemoteRange) -> Result<(), BpfError> {
        let key = key_of(cidr)?;
        self.remote
            .insert(&key, remote_entry(cidr, range), 0)
            .or_else(|error| refused(error, map_name::REMOTE, self.sizes.max_remote_ranges, &cidr))
    }

    pub(crate) fn remove_range(&mut self, cidr: Cidr) -> Result<bool, BpfError> {
        let key = key_of(cidr)?;
        was_there(self.remote.remove(&key)).kernel(|| format!("removing remote range {cidr}"))
    }

    pub(crate) fn fetch_ranges(&self) -> Result<BTreeMap<Cidr, RemoteRange>, BpfError> {
        let mut ranges = BTreeMap::new();
        for entry in &self.remote {
            let (key, entry) = entry.kernel(|| "reading the remote ranges".to_owned())?;
            let prefix_len = u8::try_from(key.prefix_len()).ok();
            // Only keys that this crate wrote can be here.
            if let Some(cidr) =
                prefix_len.and_then(|len| Cidr::containing(IpAddr::from(Ipv4Addr::from(key.data())), len))
            {
                let range = RemoteRange { node: entry.node.into(), encapsulate: entry.encapsulates() };
                ranges.insert(cidr, range);
            }
        }
        Ok(ranges)
    }

    pub(crate) fn set_peer(&mut self, node: Ipv4Addr, rule: PeerRule) -> Result<(), BpfError> {
        let flags = if rule.inner.is_some() { PeerEntry::HAS_INNER } else { 0 };
        let inner = rule.inner.map(|address| address.octets()).unwrap_or_default();
        self.peers
            .insert(PeerKey { address: node.octets() }, PeerEntry { inner, flags }, 0)
            .or_else(|error| refused(error, map_name::PEERS, self.sizes.max_peers, &node))
    }

    /// Forgets what its path carries, too.
    pub(crate) fn remove_peer(&mut self, node: Ipv4Addr) -> Result<bool, BpfError> {
        let key = PeerKey { address: node.octets() };
        let removed = was_there(self.peers.remove(&key)).kernel(|| format!("removing peer {node}"))?;
        self.remove_path_mtu(node)?;
        Ok(removed)
    }

    pub(crate) fn fetch_peers(&self) -> Result<BTreeMap<Ipv4Addr, PeerRule>, BpfError> {
        let entries = self.peers.iter().map(|entry| {
            entry.map(|(key, peer)| {
                let inner = (peer.flags & PeerEntry::HAS_INNER != 0).then(|| peer.inner.into());
                (key.address.into(), PeerRule { inner })
            })
        });
        entries.collect::<Result<_, _>>().kernel(|| "reading the peers".to_owned())
    }

    pub(crate) fn set_uplink(&mut self, ifindex: u32, rule: UplinkRule) -> Result<(), BpfError> {
        let entries = self.uplink_entries()?;
        let flags = if rule.decapsulate { UplinkEntry::DECAPSULATE } else { 0 };
        let entry = UplinkEntry { ifindex, local: rule.local.octets(), flags, reserved: 0 };
        let Some(at) = slot_of(&entries, ifindex).or_else(|| slot_of(&entries, 0)) else {
            return Err(BpfError::MapFull {
                name: map_name::UPLINKS,
                max_entries: MAX_UPLINKS,
                key: ifindex.to_string(),
            });
        };
        // A free element becomes one with an index last: nobody acts on half of it.
        if slot_of(&entries, ifindex).is_none() {
            self.write_uplink(at, UplinkEntry { ifindex: 0, ..entry })?;
        }
        self.write_uplink(at, entry)
    }

    pub(crate) fn remove_uplink(&mut self, ifindex: u32) -> Result<bool, BpfError> {
        let Some(at) = slot_of(&self.uplink_entries()?, ifindex).filter(|_| ifindex != 0) else {
            return Ok(false);
        };
        self.write_uplink(at, UplinkEntry::default())?;
        Ok(true)
    }

    pub(crate) fn fetch_uplinks(&self) -> Result<BTreeMap<u32, UplinkRule>, BpfError> {
        let used = self.uplink_entries()?.into_iter().filter(|entry| entry.ifindex != 0);
        let rules = used.map(|entry| {
            let rule = UplinkRule { local: entry.local.into(), decapsulate: entry.decapsulates() };
            (entry.ifindex, rule)
        });
        Ok(rules.collect())
    }

    fn uplink_entries(&self) -> Result<Vec<UplinkEntry>, BpfError> {
        let entries: Result<_, _> = self.uplinks.iter().collect();
        entries.kernel(|| "reading the uplink rules".to_owned())
    }

    fn write_uplink(&mut self, at: u32, entry: UplinkEntry) -> Result<(), BpfError> {
        self.uplinks.set(at, entry, 0).kernel(|| format!("writing element {at} of {}", map_name::UPLINKS))
    }

    pub(crate) fn fetch_path_mtus(&self) -> Result<BTreeMap<Ipv4Addr, PathMtu>, BpfError> {
        let entries = self.path_mtus.iter().map(|entry| {
            entry.map(|(key, value)| {
                let at_boot = Duration::from_nanos(value.at_boot_ns);
                (key.address.into(), PathMtu { mtu_bytes: value.mtu_bytes, at_boot })
            })
        });
        entries.collect::<Result<_, _>>().kernel(|| "reading the path MTUs".to_owned())
    }

    pub(crate) fn remove_path_mtu(&mut self, node: Ipv4Addr) -> Result<bool, BpfError> {
        let removed = self.path_mtus.remove(&PeerKey { address: node.octets() });
        was_there(removed).kernel(|| format!("removing the path MTU to {node}"))
    }
}

/// Where the rule of an interface lies; with 0, a free element.
fn slot_of(entries: &[UplinkEntry], ifindex: u32) -> Option<u32> {
    (0..).zip(entries).find(|(_, entry)| entry.ifindex == ifindex).map(|(at, _)| at)
}

fn key_of(cidr: Cidr) -> Result<Key<[u8; 4]>, BpfError> {
    match cidr.network() {
        IpAddr::V4(at) => Ok(Key::new(u32::from(cidr.prefix_len()), at.octets())),
        IpAddr::V6(_) => Err(BpfError::NotIpv4 { cidr }),
    }
}

fn remote_entry(cidr: Cidr, range: RemoteRange) -> RemoteEntry {
    let encapsulate = if range.encapsulate { RemoteEntry::ENCAPSULATE } else { 0 };
    let single = if cidr.prefix_len() == 32 { RemoteEntry::SINGLE } else { 0 };
    RemoteEntry { node: range.node.octets(), flags: encapsulate | single }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_one_address_says_so_to_the_programs() {
        let check = |cidr: &str, encapsulate, expected| {
            let node = Ipv4Addr::new(192, 0, 2, 1);
            let entry = remote_entry(cidr.parse().unwrap(), RemoteRange { node, encapsulate });
            assert_eq!((entry.is_single(), entry.encapsulates()), expected, "{cidr}");
            assert_eq!(entry.node, [192, 0, 2, 1]);
        };
        check("10.0.0.0/26", true, (false, true));
        check("10.0.0.0/26", false, (false, false));
        check("10.0.0.7/32", true, (true, true));
        check("10.0.0.6/31", false, (false, false));
    }

    #[test]
    fn a_range_of_the_other_family_is_refused() {
        let error = key_of("fd00::/112".parse().unwrap()).err().unwrap();
        assert_eq!(error.to_string(), "fd00::/112 is not an IPv4 range: only those are encapsulated");
    }
}
