//! The eBPF programs and their maps, in this crate's terms and errors.
//!
//! Attaching by a TCX link waits for an RCU grace period with the rtnl lock held, once for each of the two
//! programs (`tcx_entry_sync`; measured on 6.18: 16 to 28 ms for a pod, in which no other pod can be wired). A clsact
//! filter takes 0.3 ms. So in [`AttachMode::Auto`], where the kernel has TCX, a new pod is guarded by filters at once,
//! and later, when it is idle, TCX links take their place ([`ProgramStore::settle`]). For the length of one such
//! change both run: what they do is idempotent, but a packet then counts twice.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bpf::{
    AttachMode, Attachment, Bpf, BpfError, MapSizes, OpenOptions, PeerRule, PoolCounters, PoolRule,
    RemoteRange, UplinkAttachment,
};
use model::{Cidr, MarkLayout, TagId};

use super::KernelError;
use crate::object::{Endpoint, FoundUplink, PathMtu, PoolEntry, Programs, RemoteRule, UplinkRule};
use crate::settings::Settings;

/// The programs of this node. One per dataplane; what it pins outlives it.
pub(crate) struct ProgramStore {
    bpf: Mutex<Bpf>,
    /// The same programs and maps, attached in the other way, where the kernel has it: what runs in that way is a new
    /// pod's quick guard, or left from an agent that was configured otherwise.
    other: Option<Mutex<Bpf>>,
    /// Whether new pods are guarded in the other way at first.
    quick_first: bool,
    pin_dir: PathBuf,
    marks: MarkLayout,
    uses_tcx: bool,
}

impl ProgramStore {
    /// Loads the programs; adopts or makes the pinned maps.
    pub(crate) fn open(settings: &Settings) -> Result<Self, KernelError> {
        let options = OpenOptions {
            mark_layout: settings.marks,
            sizes: MapSizes {
                max_endpoints: settings.max_pods,
                max_pools: settings.max_pools,
                ..MapSizes::default()
            },
            attach_mode: settings.attach_mode,
            ..OpenOptions::new(settings.pin_dir.clone())
        };
        let open = |options: &OpenOptions| {
            Bpf::open(options)
                .map_err(|e| explain(format!("open the eBPF programs in {}", settings.pin_dir.display()), e))
        };
        let bpf = open(&options)?;
        let uses_tcx = bpf.uses_tcx();
        let other_mode = if uses_tcx { AttachMode::Clsact } else { AttachMode::Tcx };
        let other = open(&OpenOptions { attach_mode: other_mode, ..options.clone() });
        let other = match other {
            Ok(other) => Some(Mutex::new(other)),
            // A kernel without TCX.
            Err(error) if other_mode == AttachMode::Tcx => {
                tracing::debug!(%error, "programs are attached by filters alone");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            bpf: Mutex::new(bpf),
            quick_first: settings.attach_mode == AttachMode::Auto && uses_tcx,
            other,
            pin_dir: settings.pin_dir.clone(),
            marks: settings.marks,
            uses_tcx,
        })
    }

    fn bpf(&self) -> MutexGuard<'_, Bpf> {
        // The state that counts is the kernel's.
        self.bpf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn other(&self) -> Option<MutexGuard<'_, Bpf>> {
        self.other.as_ref().map(|other| other.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn uses_tcx(&self) -> bool {
        self.uses_tcx
    }

    pub(super) fn attach(&self, ifindex: u32) -> Result<(), KernelError> {
        let quick = if self.quick_first { self.other() } else { None };
        let result = quick.unwrap_or_else(|| self.bpf()).attach(ifindex).map(drop);
        result.map_err(|e| explain(format!("attach the program to interface {ifindex}"), e))
    }

    /// Attaches in the way that is configured in the place of the other one; never unguarded in between.
    pub(super) fn settle(&self, ifindex: u32) -> Result<(), KernelError> {
        let linked = self.bpf().attach(ifindex).map(drop);
        let result = linked.and_then(|()| self.other().map_or(Ok(()), |mut other| other.detach(ifindex)));
        result
            .map_err(|e| explain(format!("attach the program to interface {ifindex} in its lasting way"), e))
    }

    pub(super) fn detach(&self, ifindex: u32) -> Result<(), KernelError> {
        let filters = self.other().map_or(Ok(()), |mut other| other.detach(ifindex));
        let result = self.bpf().detach(ifindex).and(filters);
        result.map_err(|e| explain(format!("detach the program from interface {ifindex}"), e))
    }

    pub(super) fn set_endpoint(&self, ifindex: u32, endpoint: Endpoint) -> Result<(), KernelError> {
        let Endpoint { ipv4, ipv6, sources } = endpoint;
        let value = bpf::Endpoint { ipv4, ipv6, sources };
        let result = self.bpf().set_endpoint(ifindex, value);
        result.map_err(|e| explain(format!("set endpoint of interface {ifindex}"), e))
    }

    pub(super) fn remove_endpoint(&self, ifindex: u32) -> Result<(), KernelError> {
        let result = self.bpf().remove_endpoint(ifindex).map(drop);
        result.map_err(|e| explain(format!("remove endpoint of interface {ifindex}"), e))
    }

    pub(super) fn set_pool(&self, cidr: Cidr, entry: PoolEntry) -> Result<(), KernelError> {
        let rule = PoolRule { tag: entry.tag, nat_outgoing: entry.nat_outgoing, dscp: entry.dscp };
        self.bpf().set_pool(cidr, rule).map_err(|e| explain(format!("set pool {cidr}"), e))
    }

    pub(super) fn remove_pool(&self, cidr: Cidr) -> Result<(), KernelError> {
        self.bpf().remove_pool(cidr).map(drop).map_err(|e| explain(format!("remove pool {cidr}"), e))
    }

    pub(super) fn forget(&self, tag: TagId) -> Result<(), KernelError> {
        self.bpf().forget(tag).map(drop).map_err(|e| explain(format!("forget the counters of tag {tag}"), e))
    }

    pub(super) fn set_marks(&self, layout: MarkLayout) -> Result<(), KernelError> {
        self.bpf().set_mark_layout(layout).map_err(|e| explain("set the mark layout".into(), e))
    }

    pub(super) fn set_remote_range(&self, cidr: Cidr, rule: RemoteRule) -> Result<(), KernelError> {
        let range = RemoteRange { node: rule.node, encapsulate: rule.encapsulate };
        let result = self.bpf().set_remote_range(cidr, range);
        result.map_err(|e| explain(format!("set range {cidr} to node {}", rule.node), e))
    }

    pub(super) fn remove_remote_range(&self, cidr: Cidr) -> Result<(), KernelError> {
        let result = self.bpf().remove_remote_range(cidr).map(drop);
        result.map_err(|e| explain(format!("remove range {cidr}"), e))
    }

    pub(super) fn set_peer(&self, address: Ipv4Addr, inner: Option<Ipv4Addr>) -> Result<(), KernelError> {
        let result = self.bpf().set_peer(address, PeerRule { inner });
        result.map_err(|e| explain(format!("set node {address}"), e))
    }

    pub(super) fn remove_peer(&self, address: Ipv4Addr) -> Result<(), KernelError> {
        let result = self.bpf().remove_peer(address).map(drop);
        result.map_err(|e| explain(format!("remove node {address}"), e))
    }

    pub(super) fn remove_path_mtu(&self, node: Ipv4Addr) -> Result<(), KernelError> {
        let result = self.bpf().remove_path_mtu(node).map(drop);
        result.map_err(|e| explain(format!("forget what the way to {node} carries"), e))
    }

    pub(super) fn set_uplink(&self, ifindex: u32, rule: UplinkRule) -> Result<(), KernelError> {
        let rule = bpf::UplinkRule { local: rule.local, decapsulate: rule.decapsulate };
        let result = self.bpf().set_uplink(ifindex, rule);
        result.map_err(|e| explain(format!("set uplink {ifindex}"), e))
    }

    /// Attaches in the way that is configured, and takes away what runs there in the other one. For the length of the
    /// change both run: what the first has encapsulated or decapsulated is none of the second's.
    pub(super) fn attach_uplink(&self, ifindex: u32) -> Result<(), KernelError> {
        let attach = || -> Result<(), BpfError> {
            let mut bpf = self.bpf();
            bpf.attach_uplink(ifindex)?;
            let Some(mut other) = self.other() else { return Ok(()) };
            let in_other_way = other.uplinks()?.get(&ifindex).is_some_and(|found| runs(found.attached));
            let rule = bpf.uplinks()?.get(&ifindex).and_then(|found| found.rule);
            if in_other_way {
                other.detach_uplink(ifindex)?;
                // It went with the programs; what came in between was dropped rather than sent as it is.
                rule.map_or(Ok(()), |rule| bpf.set_uplink(ifindex, rule))?;
            }
            Ok(())
        };
        attach().map_err(|e| explain(format!("attach the programs to uplink {ifindex}"), e))
    }

    pub(super) fn detach_uplink(&self, ifindex: u32) -> Result<(), KernelError> {
        let filters = self.other().map_or(Ok(()), |mut other| other.detach_uplink(ifindex));
        let result = self.bpf().detach_uplink(ifindex).and(filters);
        result.map_err(|e| explain(format!("detach the programs from uplink {ifindex}"), e))
    }

    pub(super) fn fetch_path_mtus(&self) -> Result<BTreeMap<Ipv4Addr, PathMtu>, KernelError> {
        let found = self.bpf().path_mtus();
        let found = found.map_err(|e| explain("read what the ways to other nodes carry".into(), e))?;
        Ok(found
            .into_iter()
            .map(|(node, p)| (node, PathMtu { mtu_bytes: p.mtu_bytes, at: p.at_boot }))
            .collect())
    }

    pub(super) fn fetch(&self) -> Result<Programs, KernelError> {
        let bpf = self.bpf();
        let other = self.other();
        let read = || -> Result<Programs, BpfError> {
            let lasting = bpf.fetch_attachments()?;
            let elsewise = other.as_ref().map_or(Ok(Vec::new()), |other| other.fetch_attachments())?;
            let current = |attachment: &&Attachment| attachment.from_pod_ok && attachment.to_pod_ok;
            let pools = bpf.fetch_pools()?.into_iter().map(|(cidr, rule)| {
                (cidr, PoolEntry { tag: rule.tag, nat_outgoing: rule.nat_outgoing, dscp: rule.dscp })
            });
            let endpoints = bpf.fetch_endpoints()?.into_iter();
            let ranges = bpf
                .remote_ranges()?
                .into_iter()
                .map(|(cidr, range)| (cidr, RemoteRule { node: range.node, encapsulate: range.encapsulate }));
            let elsewise_uplinks = other.as_ref().map_or(Ok(BTreeMap::new()), |other| other.uplinks())?;
            let mut found = bpf.uplinks()?;
            // An interface with programs in the other way alone has no rule where there is none of ours either.
            for ifindex in elsewise_uplinks.keys() {
                found.entry(*ifindex).or_default();
            }
            let uplinks = found.into_iter().map(|(ifindex, state)| {
                let attached = state.attached.from_uplink_ok && state.attached.to_uplink_ok;
                let otherwise = elsewise_uplinks.get(&ifindex).is_some_and(|found| runs(found.attached));
                let rule = state.rule.map(|r| UplinkRule { local: r.local, decapsulate: r.decapsulate });
                (ifindex, FoundUplink { rule, attached: attached && !otherwise })
            });
            Ok(Programs {
                marks_ok: bpf.uses_mark_layout(self.marks)?,
                pools: pools.collect(),
                counted: bpf.fetch_pool_counters()?.into_keys().collect(),
                endpoints: endpoints
                    .map(|(i, e)| (i, Endpoint { ipv4: e.ipv4, ipv6: e.ipv6, sources: e.sources }))
                    .collect(),
                attached: lasting.iter().chain(&elsewise).filter(current).map(|a| a.ifindex).collect(),
                pinned: lasting.iter().chain(&elsewise).map(|a| a.ifindex).collect(),
                unsettled: elsewise.iter().map(|a| a.ifindex).collect(),
                remote_ranges: ranges.collect(),
                peers: bpf.peers()?.into_iter().map(|(node, rule)| (node, rule.inner)).collect(),
                uplinks: uplinks.collect(),
            })
        };
        read().map_err(|e| explain("read the programs' maps and attachments".into(), e))
    }

    pub(super) fn fetch_drops(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        self.bpf().fetch_drops().map_err(|e| explain("read the drop counters".into(), e))
    }

    pub(super) fn fetch_pool_counters(&self) -> Result<BTreeMap<TagId, PoolCounters>, KernelError> {
        self.bpf().fetch_pool_counters().map_err(|e| explain("read the pool counters".into(), e))
    }

    pub(super) fn remove_all(&self) -> Result<(), KernelError> {
        let _exclusive = self.bpf();
        Bpf::unload_all(&self.pin_dir)
            .map_err(|e| explain(format!("remove the eBPF programs in {}", self.pin_dir.display()), e))
    }
}

/// Whether anything of an uplink's programs runs.
fn runs(attached: UplinkAttachment) -> bool {
    attached.from_uplink_ok || attached.to_uplink_ok
}

/// An interface that is gone is what its deletion leads to; the rest is nothing that a caller acts on.
fn explain(operation: String, error: BpfError) -> KernelError {
    let missing = matches!(error, BpfError::NoInterface { .. });
    let error = KernelError::other(operation, error);
    if missing { error.with_kind(super::ErrorKind::Missing) } else { error }
}
