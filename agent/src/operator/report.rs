//! `pools export`, `status`, `version`.

use dataplane::{AttachMode, UplinkSource};
use rpc::{
    DropCount, NodeStatusReply, PoolRange, PoolTraffic, PoolsExportReply, ReconcileStatus, VersionReply,
};
use store::{Contact, Store};

use super::Operator;
use crate::answer::{Answer, internal};
use crate::config::{EncapBackend, StoreConfig};

/// Version of this agent.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl<S: Store> Operator<S> {
    /// Serves a `pools export`: the ranges of all pools, admitted or not.
    #[must_use]
    pub fn pools_export(&self) -> PoolsExportReply {
        let view = self.node.world.view();
        let marks = self.node.config.mark_layout;
        let range = |pool: &ipam::Pool| {
            let tag =
                view.registry.entry(&pool.name).filter(|entry| entry.uid == pool.uid).map(|entry| entry.tag);
            PoolRange {
                name: pool.name.to_string(),
                cidr: pool.cidr.to_string(),
                tag: tag.map_or(0, model::TagId::get),
                mark: tag.map_or(0, |tag| marks.mark(tag, pool.nat_outgoing).value),
                mark_mask: marks.mask(),
                dscp: pool.dscp.map(model::Dscp::get),
                nat_outgoing: pool.nat_outgoing,
                disabled: pool.disabled,
            }
        };
        let mut pools: Vec<PoolRange> = view.pools.iter().map(range).collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        PoolsExportReply { pools }
    }

    /// Serves a `status`.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn node_status(&self) -> Answer<NodeStatusReply> {
        let dataplane = self.node.dataplane.clone();
        let read = self.node.blocking(move || {
            Ok::<_, dataplane::DataplaneError>((
                dataplane.uplink()?,
                dataplane.drops()?,
                dataplane.pool_counters()?,
            ))
        });
        let (uplink, drops, counters) = read.await.map_err(internal)?.map_err(internal)?;
        let summary = self.node.reconciler.summary();
        let view = self.node.world.view();
        let (peers, remote_ranges) = self.others();
        let store = self.store_text();
        let inner_trouble = self.node.inner_trouble();
        let ledger = self.node.ledger();
        let inner_address = match (ledger.inner_ipv4(), inner_trouble.text()) {
            (Some(address), _) => address.to_string(),
            (None, trouble) => trouble.unwrap_or_default().to_owned(),
        };
        let count = |count: usize| count as u64;
        let uplink_text = match (&uplink.ifname, uplink.source) {
            (Some(name), UplinkSource::Configured) => {
                format!("{name}, MTU {} (configured)", uplink.mtu_bytes)
            }
            (Some(name), _) => format!("{name}, MTU {} (default route)", uplink.mtu_bytes),
            (None, _) => format!("none, MTU {} assumed", uplink.mtu_bytes),
        };
        let traffic = counters.iter().map(|(tag, counters)| PoolTraffic {
            pool: view.pool_of_tag(*tag).map_or_else(|| format!("tag {tag}"), |pool| pool.name.to_string()),
            tx_packets: counters.tx_packets,
            tx_bytes: counters.tx_bytes,
            rx_packets: counters.rx_packets,
            rx_bytes: counters.rx_bytes,
        });
        Ok(NodeStatusReply {
            node: self.node.config.node_name.to_string(),
            ready: summary.run_count > 0 && summary.last_errors.is_empty(),
            not_ready_reasons: summary.last_errors.clone(),
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            pods: count(ledger.pods().count()),
            addresses: count(ledger.ipam().allocations().map(|allocation| allocation.addresses.len()).sum()),
            blocks: count(ledger.ipam().blocks().count()),
            uplink: uplink_text,
            store,
            encap_backend: self.encap_text(),
            peers,
            remote_ranges,
            inner_address,
            leaks: self.node.leaks(),
            warnings: self.node.policy_warning().into_iter().chain(summary.unrouted).collect(),
            attach_mode: attach_mode_word(self.node.dataplane.attach_mode()).to_owned(),
            pin_path: self.node.config.bpf_pin_dir.display().to_string(),
            reconcile: ReconcileStatus {
                runs: summary.run_count,
                first_planned: count(summary.first_planned_count),
                last_planned: count(summary.last_planned_count),
                last_errors: summary.last_errors,
            },
            drops: drops
                .into_iter()
                .map(|(reason, packets)| DropCount { reason: reason.to_owned(), packets })
                .collect(),
            traffic: traffic.collect(),
        })
    }

    /// How many other nodes there are, and how many ranges they serve.
    fn others(&self) -> (u64, u64) {
        let world = &self.node.world;
        if !self.node.config.store.is_shared() {
            return (0, 0);
        }
        let me = &self.node.config.node_name;
        let nodes = world.nodes.kept().read().rows.keys().filter(|name| *name != me).count();
        let ranges = world.blocks.kept().ranges();
        let is_other = |place: u32| {
            let node = usize::try_from(place).ok().and_then(|place| ranges.nodes.get(place));
            node.is_some_and(|node| node.name != *me)
        };
        (nodes as u64, ranges.served.iter().filter(|served| is_other(served.node)).count() as u64)
    }

    fn store_text(&self) -> String {
        let which = match &self.node.config.store {
            StoreConfig::Embedded { path } => format!("embedded, {}", path.display()),
            StoreConfig::Kubernetes { kubeconfig: Some(path) } => format!("kubernetes, {}", path.display()),
            StoreConfig::Kubernetes { kubeconfig: None } => "kubernetes, in cluster".to_owned(),
        };
        match (self.node.store.contact(), self.node.world.is_complete()) {
            (Contact::Answers, true) => which,
            (Contact::Answers, false) => format!("{which}; not read yet: going on from the snapshot"),
            (Contact::Lost { elapsed, reason }, _) => {
                format!("{which}; it has not answered for {} s: {reason}", elapsed.as_secs())
            }
        }
    }

    fn encap_text(&self) -> String {
        if !self.node.config.store.is_shared() {
            return String::new();
        }
        match self.node.dataplane.encap_backend() {
            EncapBackend::Auto => "auto",
            EncapBackend::Ebpf => "ebpf",
            EncapBackend::Device => "device",
        }
        .to_owned()
    }

    /// Serves a `version`.
    #[must_use]
    pub fn version(&self) -> VersionReply {
        VersionReply {
            version: VERSION.to_owned(),
            protocol: rpc::frame::PROTOCOL_VERSION,
            schema: dataplane::MAP_SCHEMA_VERSION,
        }
    }
}

fn attach_mode_word(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Tcx => "tcx",
        AttachMode::Clsact => "clsact",
        AttachMode::Auto => "auto",
    }
}
