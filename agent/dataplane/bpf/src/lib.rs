//! Loading, pinning and attaching of the eBPF programs, and access to their maps.
//!
//! [`Bpf`] is all there is. Everything it makes is pinned below one directory of a bpffs and goes on without
//! this process; the next one finds it again, checks it, and replaces programs atomically.
//!
//! Deliberately not here: which interface gets which endpoint and which pool which tag (the callers decide),
//! and what the programs do with it (`ebpf_common`, the `ebpf` crate).
//!
//! All calls are synchronous and take microseconds (loading: milliseconds). Interface indices mean those of
//! the calling thread's network namespace.
#![deny(unsafe_code)]

mod attach;
mod clsact;
mod error;
mod maps;
mod netlink;
mod pins;
#[expect(unsafe_code, reason = "bpf(2) has no safe binding for what is needed there")]
mod sys;
mod unload;
mod uplink_maps;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use model::{Cidr, MarkLayout, TagId};

pub use attach::{AttachMode, AttachOutcome, Attachment, UplinkAttachment};
pub use ebpf_common::{DropReason, PoolCounters, SCHEMA_VERSION, map_name};
pub use error::BpfError;
pub use maps::{Endpoint, MapSizes, PoolRule};
pub use pins::is_bpffs;
pub use uplink_maps::{PathMtu, PeerRule, RemoteRange, UplinkRule};

use crate::attach::{Attacher, Direction};
use crate::error::Context;
use crate::maps::Maps;
use crate::pins::PinDir;
use crate::uplink_maps::UplinkMaps;

/// The object with all programs, as the build script left it; empty if it was told to build none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/poolward-ebpf"));

/// What to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Directory of a bpffs that is ours alone, such as `/sys/fs/bpf/poolward`. Created if missing.
    pub pin_dir: PathBuf,
    /// How marks are laid out. Written when the maps are made; programs that run already keep theirs until
    /// [`Bpf::set_mark_layout`].
    pub mark_layout: MarkLayout,
    /// Sizes of the maps; those of existing pins must agree.
    pub sizes: MapSizes,
    /// How programs are attached.
    pub attach_mode: AttachMode,
}

impl OpenOptions {
    /// The directory given, the default mark layout, the default sizes, TCX where the kernel has it.
    #[must_use]
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            mark_layout: MarkLayout::DEFAULT,
            sizes: MapSizes::default(),
            attach_mode: AttachMode::Auto,
        }
    }
}

/// The programs and maps of this node, open for use.
///
/// There is one per node and pin directory, owned by the agent, which guards it against a second agent by
/// other means. Dropping it changes nothing in the kernel.
pub struct Bpf {
    attacher: Attacher,
    maps: Maps,
    uplink_maps: UplinkMaps,
    mark_layout: MarkLayout,
}

/// An uplink, as found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkState {
    /// What is done there; without it nothing is decapsulated, and what must be encapsulated is dropped.
    pub rule: Option<UplinkRule>,
    /// What is attached.
    pub attached: UplinkAttachment,
}

impl UplinkState {
    /// Whether there is a rule and both programs are attached and current.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rule.is_some() && self.attached.from_uplink_ok && self.attached.to_uplink_ok
    }
}

impl std::fmt::Debug for Bpf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bpf").field("mark_layout", &self.mark_layout).finish_non_exhaustive()
    }
}

impl Bpf {
    /// Creates or adopts the pinned maps, writes the mark layout into new ones, and loads the programs. Attaches
    /// nothing.
    ///
    /// # Errors
    /// [`BpfError::NotBpffs`], [`BpfError::MapMismatch`] (nothing was changed), [`BpfError::NoPrograms`], or
    /// what the kernel said.
    pub fn open(options: &OpenOptions) -> Result<Self, BpfError> {
        if OBJECT.is_empty() {
            return Err(BpfError::NoPrograms);
        }
        let pins = PinDir::create(&options.pin_dir)?;
        maps::check_pinned(&pins, options.sizes)?;
        let mut loader = EbpfLoader::new();
        for name in map_name::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        for (name, max_entries) in maps::configured_sizes(options.sizes) {
            loader.map_max_entries(name, max_entries);
        }
        let mut programs = loader
            .load(OBJECT)
            .kernel(|| format!("creating or opening the maps in {}", options.pin_dir.display()))?;
        let mut maps = Maps::take(&mut programs, options.sizes)?;
        let uplink_maps = UplinkMaps::take(&mut programs, options.sizes)?;
        // Programs that run already keep the layout they have: it changes together with what depends on it, by
        // [`Bpf::set_mark_layout`].
        if maps.settings_are_new()? {
            maps.set_settings(options.mark_layout)?;
        }
        let attacher = Attacher::load(programs, pins, options.attach_mode)?;
        Ok(Self { attacher, maps, uplink_maps, mark_layout: options.mark_layout })
    }

    /// Attaches both programs to the host's end of a pod's veth pair, adopting or replacing what is there.
    ///
    /// From then on `from_pod` drops whatever the interface's endpoint does not allow, and everything while it
    /// has none: write the endpoint first where traffic must not be interrupted.
    ///
    /// # Errors
    /// [`BpfError::NoInterface`], or what the kernel said.
    pub fn attach(&mut self, ifindex: u32) -> Result<AttachOutcome, BpfError> {
        self.attacher.attach(ifindex, Direction::POD)
    }

    /// Detaches both programs at once; fine if they or the interface are not there. The endpoint stays.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.attacher.detach(ifindex, Direction::POD)
    }

    /// What is attached, by interface index: with TCX every interface that has a pin, with clsact every
    /// interface of this network namespace that has one of our filters.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn fetch_attachments(&self) -> Result<Vec<Attachment>, BpfError> {
        self.attacher.fetch_attachments()
    }

    /// Whether TCX links are used, rather than clsact filters.
    #[must_use]
    pub fn uses_tcx(&self) -> bool {
        self.attacher.uses_tcx()
    }

    /// Forgets an interface that was deleted: its pins, its endpoint, its rule as an uplink. Indices are not reused soon, but they
    /// are: what is left behind would be another pod's.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn interface_gone(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.attacher.detach(ifindex, Direction::POD)?;
        self.attacher.detach(ifindex, Direction::UPLINK)?;
        self.uplink_maps.remove_uplink(ifindex)?;
        self.maps.remove_endpoint(ifindex).map(|_| ())
    }

    /// Does [`Bpf::interface_gone`] for every interface that vanished unseen: pins whose device exists nowhere
    /// any more, and endpoints and uplink rules whose interface is not in this network namespace. Returns the indices.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_gone(&mut self) -> Result<Vec<u32>, BpfError> {
        let mut gone = self.attacher.remove_gone()?;
        let uplinks = self.uplink_maps.fetch_uplinks()?.into_keys();
        for ifindex in self.maps.fetch_endpoints()?.into_keys().chain(uplinks) {
            match attach::interface_name(ifindex, "looking for gone interfaces") {
                Err(BpfError::NoInterface { .. }) => gone.push(ifindex),
                other => drop(other?),
            }
        }
        gone.sort_unstable();
        gone.dedup();
        for ifindex in &gone {
            self.interface_gone(*ifindex)?;
        }
        Ok(gone)
    }

    /// Attaches `from_uplink` and `to_uplink` to an interface that leads to other nodes, adopting or replacing what is
    /// there. Write the rule ([`Bpf::set_uplink`]), the peers and the ranges first: without a rule what must be
    /// encapsulated is dropped.
    ///
    /// # Errors
    /// [`BpfError::NoInterface`], [`BpfError::NotEthernet`], or what the kernel said.
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<AttachOutcome, BpfError> {
        netlink::require_ethernet(ifindex, "attaching programs to an uplink")?;
        self.attacher.attach(ifindex, Direction::UPLINK)
    }

    /// Detaches both programs from an uplink at once, and removes its rule afterwards; fine if they or the interface
    /// are not there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn detach_uplink(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.attacher.detach(ifindex, Direction::UPLINK)?;
        self.uplink_maps.remove_uplink(ifindex).map(drop)
    }

    /// Says what is done at an uplink, from the next packet on.
    ///
    /// # Errors
    /// [`BpfError::MapFull`], or what the kernel said.
    pub fn set_uplink(&mut self, ifindex: u32, rule: UplinkRule) -> Result<(), BpfError> {
        self.uplink_maps.set_uplink(ifindex, rule)
    }

    /// Every interface that has an uplink rule or a program of an uplink.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn uplinks(&self) -> Result<BTreeMap<u32, UplinkState>, BpfError> {
        let mut found: BTreeMap<u32, UplinkState> = BTreeMap::new();
        for (ifindex, attached) in self.attacher.fetch_uplinks()? {
            found.entry(ifindex).or_default().attached = attached;
        }
        for (ifindex, rule) in self.uplink_maps.fetch_uplinks()? {
            found.entry(ifindex).or_default().rule = Some(rule);
        }
        Ok(found)
    }

    /// Says which node serves a range of IPv4 addresses and whether packets there are encapsulated; the longest range
    /// wins. Write it before the route, remove it after the route.
    ///
    /// # Errors
    /// [`BpfError::NotIpv4`], [`BpfError::MapFull`], or what the kernel said.
    pub fn set_remote_range(&mut self, cidr: Cidr, range: RemoteRange) -> Result<(), BpfError> {
        self.uplink_maps.set_range(cidr, range)
    }

    /// Removes a range; says whether it was there.
    ///
    /// # Errors
    /// [`BpfError::NotIpv4`], or what the kernel said.
    pub fn remove_remote_range(&mut self, cidr: Cidr) -> Result<bool, BpfError> {
        self.uplink_maps.remove_range(cidr)
    }

    /// All ranges.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remote_ranges(&self) -> Result<BTreeMap<Cidr, RemoteRange>, BpfError> {
        self.uplink_maps.fetch_ranges()
    }

    /// Accepts encapsulated packets from a node, by its address on the underlay.
    ///
    /// # Errors
    /// [`BpfError::MapFull`], or what the kernel said.
    pub fn set_peer(&mut self, node: Ipv4Addr, rule: PeerRule) -> Result<(), BpfError> {
        self.uplink_maps.set_peer(node, rule)
    }

    /// Accepts nothing from a node any more, and forgets what its path carries; says whether it was there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_peer(&mut self, node: Ipv4Addr) -> Result<bool, BpfError> {
        self.uplink_maps.remove_peer(node)
    }

    /// All nodes that encapsulated packets are accepted from.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn peers(&self) -> Result<BTreeMap<Ipv4Addr, PeerRule>, BpfError> {
        self.uplink_maps.fetch_peers()
    }

    /// What the ways to nodes were said to carry by routers whose message could not be passed on to the sender:
    /// routes to these nodes need a lower MTU.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn path_mtus(&self) -> Result<BTreeMap<Ipv4Addr, PathMtu>, BpfError> {
        self.uplink_maps.fetch_path_mtus()
    }

    /// Forgets what the way to a node carries; says whether anything was known.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_path_mtu(&mut self, node: Ipv4Addr) -> Result<bool, BpfError> {
        self.uplink_maps.remove_path_mtu(node)
    }

    /// Lets an interface send from these addresses and sources, and no others.
    ///
    /// # Errors
    /// [`BpfError::MapFull`], or what the kernel said.
    #[expect(clippy::needless_pass_by_value, reason = "callers make it for this call")]
    pub fn set_endpoint(&mut self, ifindex: u32, endpoint: Endpoint) -> Result<(), BpfError> {
        self.maps.set_endpoint(ifindex, &endpoint)
    }

    /// Removes an endpoint; says whether it was there. While `from_pod` is attached it then drops everything.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_endpoint(&mut self, ifindex: u32) -> Result<bool, BpfError> {
        self.maps.remove_endpoint(ifindex)
    }

    /// All endpoints by interface index.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn fetch_endpoints(&self) -> Result<BTreeMap<u32, Endpoint>, BpfError> {
        self.maps.fetch_endpoints()
    }

    /// Says what is done to packets from (and counted to) a prefix; the longest prefix wins. Counters of a new
    /// tag start at zero.
    ///
    /// # Errors
    /// [`BpfError::TagTooWide`], [`BpfError::MapFull`], or what the kernel said.
    pub fn set_pool(&mut self, cidr: Cidr, rule: PoolRule) -> Result<(), BpfError> {
        let max = self.mark_layout.max_tag_id();
        if rule.tag.get() > max {
            return Err(BpfError::TagTooWide { tag: rule.tag.get(), max });
        }
        self.maps.set_pool(cidr, rule)
    }

    /// Removes a prefix; says whether it was there. Its counters stay until [`Bpf::forget`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_pool(&mut self, cidr: Cidr) -> Result<bool, BpfError> {
        self.maps.remove_pool(cidr)
    }

    /// All prefixes.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn fetch_pools(&self) -> Result<BTreeMap<Cidr, PoolRule>, BpfError> {
        self.maps.fetch_pools()
    }

    /// Changes the mark layout of the running programs, from the next packet on. Tags that are written already
    /// are not checked again.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_mark_layout(&mut self, layout: MarkLayout) -> Result<(), BpfError> {
        self.maps.set_settings(layout)?;
        self.mark_layout = layout;
        Ok(())
    }

    /// Whether the running programs use this layout.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn uses_mark_layout(&self, layout: MarkLayout) -> Result<bool, BpfError> {
        Ok(self.maps.fetch_settings()? == maps::settings_of(layout))
    }

    /// Packets and bytes by tag, summed over all CPUs, since the tag's first [`Bpf::set_pool`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn fetch_pool_counters(&self) -> Result<BTreeMap<TagId, PoolCounters>, BpfError> {
        self.maps.fetch_counters()
    }

    /// Dropped packets by the name of the reason ([`DropReason::name`]), summed over all CPUs, since the maps
    /// were made. `no_pool` counts packets that passed without a tag.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn fetch_drops(&self) -> Result<BTreeMap<&'static str, u64>, BpfError> {
        self.maps.fetch_drops()
    }

    /// Ends the counting of a tag, before its id means another pool; says whether it had counters. While a
    /// prefix still has the tag, its counters begin again at zero.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn forget(&mut self, tag: TagId) -> Result<bool, BpfError> {
        self.maps.forget(tag)
    }

    /// Removes what other schema versions have pinned: after an upgrade, once everything is attached anew.
    /// Returns the versions removed.
    ///
    /// # Errors
    /// [`BpfError::Teardown`] with everything that failed, after having tried everything.
    pub fn remove_other_versions(pin_dir: &Path) -> Result<Vec<u32>, BpfError> {
        unload::remove_other_versions(pin_dir)
    }

    /// Detaches every program of ours and removes everything pinned, of all schema versions: pods are
    /// unguarded and untagged afterwards. Nothing there is fine. Filters by clsact are removed from the
    /// interfaces of the calling thread's network namespace, if their programs use the maps pinned here.
    ///
    /// # Errors
    /// [`BpfError::Teardown`] with everything that failed, after having tried everything.
    pub fn unload_all(pin_dir: &Path) -> Result<(), BpfError> {
        unload::unload_all(pin_dir)
    }

    /// `from_pod`, for test runs.
    ///
    /// # Errors
    /// None in practice: an open `Bpf` has it.
    pub fn from_pod_program(&self) -> Result<&SchedClassifier, BpfError> {
        self.attacher.program(Direction::FromPod)
    }

    /// `to_pod`, for test runs.
    ///
    /// # Errors
    /// None in practice: an open `Bpf` has it.
    pub fn to_pod_program(&self) -> Result<&SchedClassifier, BpfError> {
        self.attacher.program(Direction::ToPod)
    }

    /// `from_uplink`, for test runs.
    ///
    /// # Errors
    /// None in practice: an open `Bpf` has it.
    pub fn from_uplink_program(&self) -> Result<&SchedClassifier, BpfError> {
        self.attacher.program(Direction::FromUplink)
    }

    /// `to_uplink`, for test runs.
    ///
    /// # Errors
    /// None in practice: an open `Bpf` has it.
    pub fn to_uplink_program(&self) -> Result<&SchedClassifier, BpfError> {
        self.attacher.program(Direction::ToUplink)
    }
}
