//! The maps, and the few ways the programs use them.
//!
//! Sizes here are defaults; the agent sets those of the endpoint and pool maps when it creates them. BTF
//! definitions, so that `bpftool map dump` prints the names of fields.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::btf_map;
use ebpf_common::{
    DropReason, Endpoint, EndpointKey, MAX_SOURCES, MAX_UPLINKS, PathMtu, PeerEntry, PeerKey, PoolCounters,
    PoolEntry, RemoteEntry, Settings, Source, SourceKey, Tables, TagEntry, TagKey, UplinkEntry, mark,
};

use crate::skb::Skb;

#[btf_map(name = "pw_endpoints")]
static ENDPOINTS: HashMap<EndpointKey, Endpoint, 1024> = HashMap::new();

#[btf_map(name = "pw_sources")]
static SOURCES: LpmTrie<SourceKey, u32, { MAX_SOURCES as usize }> = LpmTrie::new();

#[btf_map(name = "pw_pools_v4")]
static POOLS_V4: LpmTrie<[u8; 4], PoolEntry, 1024> = LpmTrie::new();

#[btf_map(name = "pw_pools_v6")]
static POOLS_V6: LpmTrie<[u8; 16], PoolEntry, 1024> = LpmTrie::new();

#[btf_map(name = "pw_pool_stats")]
static POOL_STATS: PerCpuHashMap<TagKey, PoolCounters, 1024> = PerCpuHashMap::new();

#[btf_map(name = "pw_drops")]
static DROPS: PerCpuArray<u64, { DropReason::COUNT as usize }> = PerCpuArray::new();

#[btf_map(name = "pw_settings")]
static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map(name = "pw_tags")]
static TAGS: HashMap<TagKey, TagEntry, 1024> = HashMap::new();

#[btf_map(name = "pw_uplinks")]
static UPLINKS: Array<UplinkEntry, { MAX_UPLINKS as usize }> = Array::new();

#[btf_map(name = "pw_remote")]
static REMOTE: LpmTrie<[u8; 4], RemoteEntry, 65536> = LpmTrie::new();

#[btf_map(name = "pw_peers")]
static PEERS: HashMap<PeerKey, PeerEntry, 8192, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map(name = "pw_path_mtus")]
static PATH_MTUS: HashMap<PeerKey, PathMtu, 8192, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// The maps, for the verdicts at an uplink.
pub(crate) struct Kernel<'a>(pub(crate) &'a Skb<'a>);

impl Tables for Kernel<'_> {
    #[inline(always)]
    fn uplink(&self) -> Option<UplinkEntry> {
        let ifindex = self.0.ifindex();
        let mut at = 0;
        while at < MAX_UPLINKS {
            let entry = UPLINKS.get(at)?;
            if entry.ifindex == ifindex {
                return Some(*entry);
            }
            at += 1;
        }
        None
    }

    #[inline(always)]
    fn range_of(&self, address: [u8; 4]) -> Option<RemoteEntry> {
        REMOTE.get(&Key::new(32, address)).copied()
    }

    #[inline(always)]
    fn block_of(&self, address: [u8; 4]) -> Option<RemoteEntry> {
        REMOTE.get(&Key::new(31, address)).copied()
    }

    #[inline(always)]
    fn peer(&self, address: [u8; 4]) -> Option<PeerEntry> {
        // SAFETY: copied at once; a slot reused meanwhile is of another node, and so for one packet at most.
        unsafe { PEERS.get(PeerKey { address }) }.copied()
    }

    #[inline(always)]
    fn in_pool(&self, address: [u8; 4]) -> bool {
        pool_of_v4(address).is_some()
    }

    #[inline(always)]
    fn copies_dscp(&self) -> bool {
        let Some(settings) = settings() else { return false };
        let tag = mark::tag_of(self.0.mark(), settings);
        // SAFETY: one word, read at once.
        unsafe { TAGS.get(TagKey { tag }) }.is_some_and(TagEntry::copies_dscp)
    }

    #[inline(always)]
    fn new_id(&self) -> u16 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() as u16 }
    }
}

/// Remembers what the way to a node carries; says whether there was room.
#[inline(always)]
pub(crate) fn keep_path_mtu(node: [u8; 4], mtu_bytes: u32) -> bool {
    // SAFETY: no arguments.
    let at_boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    PATH_MTUS.insert(PeerKey { address: node }, PathMtu { mtu_bytes, reserved: 0, at_boot_ns }, 0).is_ok()
}

/// What may be sent through this interface. A copy: the slot may be given to another pod at any time.
#[inline(always)]
pub(crate) fn endpoint(ifindex: u32) -> Option<Endpoint> {
    // SAFETY: copied at once; a slot reused meanwhile gives another pod's addresses to one packet at most of
    // an interface that is being removed.
    unsafe { ENDPOINTS.get(EndpointKey { ifindex }) }.copied()
}

/// Whether a source that is not the pod's own may be sent from through this interface. One that lies in a pool never may:
/// it is, or will be, another pod's.
#[inline(always)]
pub(crate) fn allows_source(ifindex: u32, source: Source) -> bool {
    let (key, prefix_len, in_pool) = match source {
        Source::Untagged => return false,
        Source::V4(address) => (SourceKey::v4(ifindex, address), 32, pool_of_v4(address).is_some()),
        Source::V6(address) => (SourceKey::v6(ifindex, address), 128, pool_of_v6(address).is_some()),
    };
    let prefix_len = SourceKey::BITS_BEFORE + prefix_len;
    !in_pool && SOURCES.get(&Key::new(prefix_len, key)).is_some()
}

/// The pool of an address.
#[inline(always)]
pub(crate) fn pool_of_v4(address: [u8; 4]) -> Option<&'static PoolEntry> {
    POOLS_V4.get(&Key::new(32, address))
}

/// The pool of an address.
#[inline(always)]
pub(crate) fn pool_of_v6(address: [u8; 16]) -> Option<&'static PoolEntry> {
    POOLS_V6.get(&Key::new(128, address))
}

/// How marks are laid out; `None` cannot happen: an array has all its elements.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

#[inline(always)]
pub(crate) fn count_reason(reason: DropReason) {
    if let Some(counter) = DROPS.get_ptr_mut(reason.index()) {
        // SAFETY: this CPU's own slot, valid for the length of the program.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

#[inline(always)]
pub(crate) fn count_sent(tag: u32, packets: u64, bytes: u64) {
    if let Some(counters) = POOL_STATS.get_ptr_mut(TagKey { tag }) {
        // SAFETY: this CPU's own slot, valid for the length of the program.
        unsafe {
            (*counters).tx_packets = (*counters).tx_packets.wrapping_add(packets);
            (*counters).tx_bytes = (*counters).tx_bytes.wrapping_add(bytes);
        }
    }
}

#[inline(always)]
pub(crate) fn count_received(tag: u32, packets: u64, bytes: u64) {
    if let Some(counters) = POOL_STATS.get_ptr_mut(TagKey { tag }) {
        // SAFETY: this CPU's own slot, valid for the length of the program.
        unsafe {
            (*counters).rx_packets = (*counters).rx_packets.wrapping_add(packets);
            (*counters).rx_bytes = (*counters).rx_bytes.wrapping_add(bytes);
        }
    }
}
