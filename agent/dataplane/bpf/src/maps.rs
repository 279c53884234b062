//! The maps, in terms of the model: endpoints, pools, counters, settings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{
    Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, PerCpuHashMap,
    PerCpuValues,
};
use ebpf_common::layout;
use ebpf_common::{
    DropReason, EndpointKey, MAX_SOURCES, MAX_UPLINKS, PathMtu, PeerEntry, PeerKey, PoolCounters, PoolEntry,
    RemoteEntry, Settings, SourceKey, TagEntry, TagKey, UplinkEntry, map_name,
};
use model::{Cidr, Dscp, MarkLayout, TagId};

use crate::error::{BpfError, Context};
use crate::pins::PinDir;

/// The addresses that may be sent through one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The pod's IPv4 address, if it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// The pod's IPv6 address, if it has one.
    pub ipv6: Option<Ipv6Addr>,
    /// Further sources, as far as they lie in no pool.
    pub sources: BTreeSet<Cidr>,
}

/// What is done to packets from a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolRule {
    /// The pool's tag, written into the mark.
    pub tag: TagId,
    /// Whether the NAT bit is set too.
    pub nat_outgoing: bool,
    /// The code point packets get, if the pool has one.
    pub dscp: Option<Dscp>,
}

/// Sizes, fixed when a map is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Pods on this node.
    pub max_endpoints: u32,
    /// Prefixes of pools per family, and tags with counters.
    pub max_pools: u32,
    /// Ranges that other nodes serve, and those of this node. Only what is used takes memory.
    pub max_remote_ranges: u32,
    /// Other nodes. Only what is used takes memory.
    pub max_peers: u32,
}

impl Default for MapSizes {
    /// Room for 1,024 pods, 1,024 prefixes of pools, 65,536 ranges and 8,192 nodes.
    fn default() -> Self {
        Self { max_endpoints: 1024, max_pools: 1024, max_remote_ranges: 65_536, max_peers: 8_192 }
    }
}

/// All maps, open.
pub(crate) struct Maps {
    sizes: MapSizes,
    endpoints: HashMap<MapData, EndpointKey, layout::Endpoint>,
    sources: LpmTrie<MapData, SourceKey, u32>,
    pools_v4: LpmTrie<MapData, [u8; 4], PoolEntry>,
    pools_v6: LpmTrie<MapData, [u8; 16], PoolEntry>,
    stats: PerCpuHashMap<MapData, TagKey, PoolCounters>,
    drops: PerCpuArray<MapData, u64>,
    settings: Array<MapData, Settings>,
    tags: HashMap<MapData, TagKey, TagEntry>,
}

/// What a map must be like to be used.
struct Shape {
    name: &'static str,
    kind: MapType,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
}

fn shapes(sizes: MapSizes) -> [Shape; 12] {
    let shape = |name, kind, key_size, value_size, max_entries| Shape {
        name,
        kind,
        key_size,
        value_size,
        max_entries,
    };
    let pool = size_of::<PoolEntry>();
    [
        shape(
            map_name::ENDPOINTS,
            MapType::Hash,
            size_of::<EndpointKey>(),
            size_of::<layout::Endpoint>(),
            sizes.max_endpoints,
        ),
        shape(map_name::SOURCES, MapType::LpmTrie, 4 + size_of::<SourceKey>(), size_of::<u32>(), MAX_SOURCES),
        shape(map_name::POOLS_V4, MapType::LpmTrie, 4 + 4, pool, sizes.max_pools),
        shape(map_name::POOLS_V6, MapType::LpmTrie, 4 + 16, pool, sizes.max_pools),
        shape(
            map_name::POOL_STATS,
            MapType::PerCpuHash,
            size_of::<TagKey>(),
            size_of::<PoolCounters>(),
            sizes.max_pools,
        ),
        shape(map_name::DROPS, MapType::PerCpuArray, 4, size_of::<u64>(), DropReason::COUNT),
        shape(map_name::SETTINGS, MapType::Array, 4, size_of::<Settings>(), 1),
        shape(map_name::TAGS, MapType::Hash, size_of::<TagKey>(), size_of::<TagEntry>(), sizes.max_pools),
        shape(map_name::UPLINKS, MapType::Array, 4, size_of::<UplinkEntry>(), MAX_UPLINKS),
        shape(map_name::REMOTE, MapType::LpmTrie, 4 + 4, size_of::<RemoteEntry>(), sizes.max_remote_ranges),
        shape(map_name::PEERS, MapType::Hash, size_of::<PeerKey>(), size_of::<PeerEntry>(), sizes.max_peers),
        shape(
            map_name::PATH_MTUS,
            MapType::Hash,
            size_of::<PeerKey>(),
            size_of::<PathMtu>(),
            sizes.max_peers,
        ),
    ]
}

/// The maps whose size is configured, with that size.
pub(crate) fn configured_sizes(sizes: MapSizes) -> [(&'static str, u32); 8] {
    [
        (map_name::ENDPOINTS, sizes.max_endpoints),
        (map_name::POOLS_V4, sizes.max_pools),
        (map_name::POOLS_V6, sizes.max_pools),
        (map_name::POOL_STATS, sizes.max_pools),
        (map_name::TAGS, sizes.max_pools),
        (map_name::REMOTE, sizes.max_remote_ranges),
        (map_name::PEERS, sizes.max_peers),
        (map_name::PATH_MTUS, sizes.max_peers),
    ]
}

/// Checks every map that is pinned already: aya would adopt whatever lies there.
pub(crate) fn check_pinned(pins: &PinDir, sizes: MapSizes) -> Result<(), BpfError> {
    for shape in shapes(sizes) {
        let path = pins.map(shape.name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).kernel(|| format!("opening map {}", path.display()))?;
        let kind = info.map_type().kernel(|| format!("reading the type of {}", path.display()))?;
        let found = [
            ("type", kind as u64, shape.kind as u64),
            ("key size", u64::from(info.key_size()), shape.key_size as u64),
            ("value size", u64::from(info.value_size()), shape.value_size as u64),
            ("max_entries", u64::from(info.max_entries()), u64::from(shape.max_entries)),
        ];
        for (what, actual, expected) in found {
            if actual != expected {
                return Err(BpfError::MapMismatch { name: shape.name, path, what, actual, expected });
            }
        }
    }
    Ok(())
}

pub(crate) fn take<T: TryFrom<Map, Error = MapError>>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<T, BpfError> {
    let map = programs.take_map(name).ok_or("not in the object").kernel(|| format!("opening map {name}"))?;
    T::try_from(map).kernel(|| format!("opening map {name}"))
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(crate) fn take(programs: &mut Ebpf, sizes: MapSizes) -> Result<Self, BpfError> {
        Ok(Self {
            sizes,
            endpoints: take(programs, map_name::ENDPOINTS)?,
            sources: take(programs, map_name::SOURCES)?,
            pools_v4: take(programs, map_name::POOLS_V4)?,
            pools_v6: take(programs, map_name::POOLS_V6)?,
            stats: take(programs, map_name::POOL_STATS)?,
            drops: take(programs, map_name::DROPS)?,
            settings: take(programs, map_name::SETTINGS)?,
            tags: take(programs, map_name::TAGS)?,
        })
    }

    /// Sources first: the programs ask for them as soon as the endpoint says so.
    pub(crate) fn set_endpoint(&mut self, ifindex: u32, endpoint: &Endpoint) -> Result<(), BpfError> {
        let found = self.fetch_sources()?.remove(&ifindex).unwrap_or_default();
        // Of an earlier interface of this number, or not wanted any more.
        for source in found.difference(&endpoint.sources) {
            self.remove_source(ifindex, source)?;
        }
        for source in endpoint.sources.difference(&found) {
            let result = self.sources.insert(&source_key(ifindex, source), 1, 0);
            result.or_else(|error| refused(error, map_name::SOURCES, MAX_SOURCES, source))?;
        }
        let value = endpoint_value(endpoint);
        self.endpoints
            .insert(EndpointKey { ifindex }, value, 0)
            .or_else(|error| refused(error, map_name::ENDPOINTS, self.sizes.max_endpoints, &ifindex))
    }

    pub(crate) fn remove_endpoint(&mut self, ifindex: u32) -> Result<bool, BpfError> {
        let removed = self.endpoints.remove(&EndpointKey { ifindex });
        let removed = was_there(removed).kernel(|| format!("removing endpoint {ifindex}"))?;
        for source in self.fetch_sources()?.remove(&ifindex).unwrap_or_default() {
            self.remove_source(ifindex, &source)?;
        }
        Ok(removed)
    }

    fn remove_source(&mut self, ifindex: u32, source: &Cidr) -> Result<(), BpfError> {
        let removed = self.sources.remove(&source_key(ifindex, source));
        was_there(removed).map(drop).kernel(|| format!("removing source {source} of endpoint {ifindex}"))
    }

    fn fetch_sources(&self) -> Result<BTreeMap<u32, BTreeSet<Cidr>>, BpfError> {
        let mut sources: BTreeMap<u32, BTreeSet<Cidr>> = BTreeMap::new();
        for entry in &self.sources {
            let (key, _) = entry.kernel(|| "reading the sources".to_owned())?;
            // Only keys that this crate wrote can be here; anything else is no source of anybody's.
            if let Some((ifindex, source)) = source_of(&key) {
                sources.entry(ifindex).or_default().insert(source);
            }
        }
        Ok(sources)
    }

    /// Sources count where the endpoint says that it has any: a crash may have come between the two. Those without an
    /// endpoint at all are shown as one that may send nothing else.
    pub(crate) fn fetch_endpoints(&self) -> Result<BTreeMap<u32, Endpoint>, BpfError> {
        let mut sources = self.fetch_sources()?;
        let entries = self.endpoints.iter().map(|entry| {
            entry.map(|(key, value)| {
                let found = sources.remove(&key.ifindex).unwrap_or_default();
                let counts = value.flags & layout::Endpoint::HAS_MORE_SOURCES != 0;
                let sources = if counts { found } else { BTreeSet::new() };
                (key.ifindex, Endpoint { sources, ..endpoint_of(value) })
            })
        });
        let mut endpoints: BTreeMap<u32, Endpoint> =
            entries.collect::<Result<_, _>>().kernel(|| "reading the endpoints".to_owned())?;
        let alone = sources
            .into_iter()
            .map(|(ifindex, sources)| (ifindex, Endpoint { sources, ..Endpoint::default() }));
        endpoints.extend(alone);
        Ok(endpoints)
    }

    pub(crate) fn set_pool(&mut self, cidr: Cidr, rule: PoolRule) -> Result<(), BpfError> {
        let key = TagKey { tag: u32::from(rule.tag.get()) };
        // The counters come first: from the first packet on the programs find them.
        if let Err(error) = self.stats.get(&key, 0) {
            if !matches!(error, MapError::KeyNotFound) {
                return Err(error).kernel(|| format!("reading the counters of tag {}", rule.tag));
            }
            self.reset_counters(key)?;
        }
        self.tags.insert(key, tag_entry(rule), 0).or_else(|error| {
            refused(error, map_name::TAGS, self.sizes.max_pools, &format!("tag {}", rule.tag))
        })?;
        let entry = pool_entry(rule);
        let prefix_len = u32::from(cidr.prefix_len());
        let (name, result) = match cidr.network() {
            IpAddr::V4(at) => {
                (map_name::POOLS_V4, self.pools_v4.insert(&Key::new(prefix_len, at.octets()), entry, 0))
            }
            IpAddr::V6(at) => {
                (map_name::POOLS_V6, self.pools_v6.insert(&Key::new(prefix_len, at.octets()), entry, 0))
            }
        };
        result.or_else(|error| refused(error, name, self.sizes.max_pools, &cidr))
    }

    pub(crate) fn remove_pool(&mut self, cidr: Cidr) -> Result<bool, BpfError> {
        let prefix_len = u32::from(cidr.prefix_len());
        let removed = match cidr.network() {
            IpAddr::V4(at) => self.pools_v4.remove(&Key::new(prefix_len, at.octets())),
            IpAddr::V6(at) => self.pools_v6.remove(&Key::new(prefix_len, at.octets())),
        };
        was_there(removed).kernel(|| format!("removing pool prefix {cidr}"))
    }

    pub(crate) fn fetch_pools(&self) -> Result<BTreeMap<Cidr, PoolRule>, BpfError> {
        let mut pools = BTreeMap::new();
        let v4 = self
            .pools_v4
            .iter()
            .map(|entry| entry.map(|(key, v)| (key.prefix_len(), IpAddr::from(key.data()), v)));
        let v6 = self
            .pools_v6
            .iter()
            .map(|entry| entry.map(|(key, v)| (key.prefix_len(), IpAddr::from(key.data()), v)));
        for entry in v4.chain(v6) {
            let (prefix_len, address, value) = entry.kernel(|| "reading the pool prefixes".to_owned())?;
            let cidr = u8::try_from(prefix_len).ok().and_then(|len| Cidr::containing(address, len));
            // Only values that this crate wrote can be here; anything else is no rule of ours.
            if let (Some(cidr), Some(rule)) = (cidr, pool_rule(value)) {
                pools.insert(cidr, rule);
            }
        }
        Ok(pools)
    }

    pub(crate) fn set_settings(&mut self, layout: MarkLayout) -> Result<(), BpfError> {
        self.settings.set(0, settings_of(layout), 0).kernel(|| "writing the mark settings".to_owned())
    }

    /// Whether nobody has written settings yet: a mask is never zero.
    pub(crate) fn settings_are_new(&self) -> Result<bool, BpfError> {
        Ok(self.fetch_settings()?.mark_mask == 0)
    }

    pub(crate) fn fetch_settings(&self) -> Result<Settings, BpfError> {
        self.settings.get(&0, 0).kernel(|| "reading the mark settings".to_owned())
    }

    pub(crate) fn fetch_counters(&self) -> Result<BTreeMap<TagId, PoolCounters>, BpfError> {
        let mut counters = BTreeMap::new();
        for entry in &self.stats {
            let (key, per_cpu) = entry.kernel(|| "reading the pool counters".to_owned())?;
            if let Some(tag) = u16::try_from(key.tag).ok().and_then(TagId::new) {
                counters.insert(tag, sum(&per_cpu));
            }
        }
        Ok(counters)
    }

    /// Removes the counters of a tag, or sets them to zero while a prefix still carries it.
    pub(crate) fn forget(&mut self, tag: TagId) -> Result<bool, BpfError> {
        let key = TagKey { tag: u32::from(tag.get()) };
        if self.fetch_pools()?.values().any(|rule| rule.tag == tag) {
            self.reset_counters(key)?;
            return Ok(true);
        }
        was_there(self.tags.remove(&key)).kernel(|| format!("removing the rule of tag {tag}"))?;
        was_there(self.stats.remove(&key)).kernel(|| format!("removing the counters of tag {tag}"))
    }

    pub(crate) fn fetch_drops(&self) -> Result<BTreeMap<&'static str, u64>, BpfError> {
        let mut drops = BTreeMap::new();
        for reason in DropReason::ALL {
            let per_cpu = self
                .drops
                .get(&reason.index(), 0)
                .kernel(|| format!("reading the drops by {}", reason.name()))?;
            drops.insert(reason.name(), per_cpu.iter().copied().fold(0, u64::wrapping_add));
        }
        Ok(drops)
    }

    fn reset_counters(&mut self, key: TagKey) -> Result<(), BpfError> {
        let zero = aya::util::nr_cpus()
            .map_err(|(_, error)| error)
            .and_then(|count| PerCpuValues::try_from(vec![PoolCounters::default(); count]))
            .kernel(|| "counting the CPUs".to_owned())?;
        self.stats.insert(key, zero, 0).or_else(|error| {
            refused(error, map_name::POOL_STATS, self.sizes.max_pools, &format!("tag {}", key.tag))
        })
    }
}

/// Turns "no room" into its own error.
pub(crate) fn refused(
    error: MapError,
    name: &'static str,
    max_entries: u32,
    key: &dyn std::fmt::Display,
) -> Result<(), BpfError> {
    let full = match &error {
        MapError::SyscallError(error) => {
            matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
        }
        _ => false,
    };
    if full {
        return Err(BpfError::MapFull { name, max_entries, key: key.to_string() });
    }
    Err(error).kernel(|| format!("writing {key} to map {name}"))
}

/// Whether a removal found something.
pub(crate) fn was_there(removed: Result<(), MapError>) -> Result<bool, MapError> {
    match removed {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(false),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn sum(per_cpu: &[PoolCounters]) -> PoolCounters {
    per_cpu.iter().fold(PoolCounters::default(), |sum, one| PoolCounters {
        tx_packets: sum.tx_packets.wrapping_add(one.tx_packets),
        tx_bytes: sum.tx_bytes.wrapping_add(one.tx_bytes),
        rx_packets: sum.rx_packets.wrapping_add(one.rx_packets),
        rx_bytes: sum.rx_bytes.wrapping_add(one.rx_bytes),
    })
}

pub(crate) fn settings_of(layout: MarkLayout) -> Settings {
    Settings { mark_mask: layout.mask(), mark_shift: layout.shift(), nat_bit: layout.nat_bit(), reserved: 0 }
}

fn source_key(ifindex: u32, source: &Cidr) -> Key<SourceKey> {
    let prefix_len = SourceKey::BITS_BEFORE + u32::from(source.prefix_len());
    match source.network() {
        IpAddr::V4(at) => Key::new(prefix_len, SourceKey::v4(ifindex, at.octets())),
        IpAddr::V6(at) => Key::new(prefix_len, SourceKey::v6(ifindex, at.octets())),
    }
}

fn source_of(key: &Key<SourceKey>) -> Option<(u32, Cidr)> {
    let data = key.data();
    let interface = u32::from_be_bytes(data.interface);
    let [a, b, c, d, ..] = data.address;
    let address = match interface & SourceKey::V4_BIT {
        0 => IpAddr::from(data.address),
        _ => IpAddr::from([a, b, c, d]),
    };
    let prefix_len = u8::try_from(key.prefix_len().checked_sub(SourceKey::BITS_BEFORE)?).ok()?;
    Some((interface & !SourceKey::V4_BIT, Cidr::containing(address, prefix_len)?))
}

fn endpoint_value(endpoint: &Endpoint) -> layout::Endpoint {
    let has_v4 = if endpoint.ipv4.is_some() { layout::Endpoint::HAS_V4 } else { 0 };
    let has_v6 = if endpoint.ipv6.is_some() { layout::Endpoint::HAS_V6 } else { 0 };
    let more = if endpoint.sources.is_empty() { 0 } else { layout::Endpoint::HAS_MORE_SOURCES };
    layout::Endpoint {
        ipv4: endpoint.ipv4.map(|address| address.octets()).unwrap_or_default(),
        ipv6: endpoint.ipv6.map(|address| address.octets()).unwrap_or_default(),
        flags: has_v4 | has_v6 | more,
    }
}

fn endpoint_of(value: layout::Endpoint) -> Endpoint {
    Endpoint {
        ipv4: (value.flags & layout::Endpoint::HAS_V4 != 0).then(|| value.ipv4.into()),
        ipv6: (value.flags & layout::Endpoint::HAS_V6 != 0).then(|| value.ipv6.into()),
        sources: BTreeSet::new(),
    }
}

fn pool_entry(rule: PoolRule) -> PoolEntry {
    let nat = if rule.nat_outgoing { PoolEntry::NAT_OUTGOING } else { 0 };
    let has_dscp = if rule.dscp.is_some() { PoolEntry::HAS_DSCP } else { 0 };
    PoolEntry {
        tag: u32::from(rule.tag.get()),
        flags: nat | has_dscp,
        dscp: rule.dscp.map_or(0, Dscp::get),
        reserved: [0; 2],
    }
}

/// A pool that gives its packets a code point gives it to their outer headers too.
fn tag_entry(rule: PoolRule) -> TagEntry {
    TagEntry { flags: if rule.dscp.is_some() { TagEntry::COPY_DSCP } else { 0 } }
}

fn pool_rule(entry: PoolEntry) -> Option<PoolRule> {
    let dscp = match entry.wanted_dscp() {
        Some(value) => Some(Dscp::new(u32::from(value)).ok()?),
        None => None,
    };
    let tag = u16::try_from(entry.tag).ok().and_then(TagId::new)?;
    Some(PoolRule { tag, nat_outgoing: entry.nat_outgoing(), dscp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_a_map_comes_back() {
        let v4 = Some(Ipv4Addr::new(10, 0, 0, 1));
        let v6 = Some("fd00::1".parse().unwrap());
        for endpoint in [
            Endpoint::default(),
            Endpoint { ipv4: v4, ..Endpoint::default() },
            Endpoint { ipv6: v6, ..Endpoint::default() },
            Endpoint { ipv4: v4, ipv6: v6, ..Endpoint::default() },
        ] {
            assert_eq!(endpoint_of(endpoint_value(&endpoint)), endpoint);
        }
        for nat_outgoing in [false, true] {
            for dscp in [None, Some(Dscp::new(0).unwrap()), Some(Dscp::new(63).unwrap())] {
                let rule = PoolRule { tag: TagId::new(7).unwrap(), nat_outgoing, dscp };
                assert_eq!(pool_rule(pool_entry(rule)), Some(rule));
            }
        }
    }

    #[test]
    fn a_source_comes_back_from_its_key_in_its_own_family() {
        for text in ["192.0.2.0/24", "192.0.2.1/32", "0.0.0.0/0", "2001:db8::/32", "::/0", "fd00::1/128"] {
            let source: Cidr = text.parse().unwrap();
            assert_eq!(source_of(&source_key(7, &source)), Some((7, source)), "{text}");
        }
    }

    #[test]
    fn the_default_mark_layout_is_told_to_the_programs_as_it_is() {
        let settings = settings_of(MarkLayout::DEFAULT);
        assert_eq!(
            (settings.mark_mask, settings.mark_shift, settings.nat_bit),
            (0x0fff_0000, 16, 0x0800_0000)
        );
    }
}
