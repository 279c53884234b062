//! The network by which nodes reach the API server, apart from the one their pods use: either can be cut alone.
//!
//! ```text
//!   node-1 mgmt0 ─ mN ┐
//!   node-2 mgmt0 ─ mN ┤ mgmt0 100.64.0.1/16 [control plane]
//!   node-3 mgmt0 ─ mN ┘
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Result;

use crate::fabric::make_plain_switch;
use crate::{ControlPlane, ControlPlaneOptions, FabricNode, NetNs};

/// Where the API server listens.
const LISTEN: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

/// Who every agent is: the service account of the manifests, here known by a certificate.
const AGENTS_USER: &str = "system:serviceaccount:poolward-system:poolward-node";

/// The manifests that say who agents are and what they may do: those that are shipped.
const AGENTS_MANIFESTS: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/base/namespace.yaml"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/base/rbac.yaml"),
];

/// A control plane in a namespace of its own, and links to it. All of it goes when the value does, or this process.
#[derive(Debug)]
pub struct Management {
    /// etcd and the API server.
    pub control_plane: ControlPlane,
    netns: NetNs,
}

/// A node's link to the API server.
#[derive(Debug)]
pub struct ManagementLink {
    /// The control plane's end.
    ifname: String,
    /// The node's address on this network.
    pub address: IpAddr,
    /// The kubeconfig of the node's agent.
    pub kubeconfig: PathBuf,
}

impl Management {
    /// Starts a control plane in a namespace `PREFIX-api`, with what is asked of it but its namespace and address. With a
    /// directory of resource definitions these are applied, and what agents may do; without one there is nothing of
    /// Poolward.
    ///
    /// # Errors
    /// The namespace exists already, or as [`ControlPlane::start`].
    pub fn start(prefix: &str, definitions: Option<&Path>, options: ControlPlaneOptions) -> Result<Self> {
        let name = format!("{prefix}-api");
        let netns = NetNs::create(&name)?;
        make_plain_switch(&netns)?;
        netns.ip_batch(&format!(
            "link add mgmt0 type bridge mcast_snooping 0 forward_delay 0\n\
             addr add {LISTEN}/16 dev mgmt0\n\
             link set mgmt0 up\n"
        ))?;
        let options =
            ControlPlaneOptions { netns: Some(name), owns_netns: true, listen: LISTEN.into(), ..options };
        let control_plane = ControlPlane::start(&options)?;
        // From here on it goes with the control plane, also when this process is killed.
        netns.keep();
        let management = Self { control_plane, netns };
        if let Some(definitions) = definitions {
            management.control_plane.apply_definitions(definitions)?;
            for manifest in AGENTS_MANIFESTS {
                management.control_plane.kubectl()?.run(&["apply", "-f", manifest])?;
            }
        }
        Ok(management)
    }

    /// Joins a node, and makes an identity for its agent.
    ///
    /// # Errors
    /// What `ip` or `openssl` says.
    pub fn join(&self, node: &FabricNode) -> Result<ManagementLink> {
        // Nobody has ever had this name or address here: a namespace that was deleted lingers a while.
        static COUNT: AtomicU16 = AtomicU16::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let [high, low] = count.to_be_bytes();
        let address = IpAddr::from(Ipv4Addr::new(100, 64, high + 1, low));
        let ifname = format!("m{count}");
        self.netns.ip_batch(&format!(
            "link add {ifname} type veth peer name mgmt0 netns {}\n\
             link set {ifname} master mgmt0 up\n",
            node.netns.name()
        ))?;
        node.netns.ip_batch(&format!("link set mgmt0 up\naddr add {address}/16 dev mgmt0\n"))?;
        let kubeconfig = self.control_plane.add_identity(AGENTS_USER, &[])?;
        Ok(ManagementLink { ifname, address, kubeconfig })
    }

    /// Leaves everything standing when this value goes.
    pub fn leave_running(self) {
        self.control_plane.leave_running();
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Pulls the cable between a node and the API server.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn cut(&self, link: &ManagementLink) -> Result<()> {
        self.netns.ip(&format!("link set {} down", link.ifname)).map(drop)
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn mend(&self, link: &ManagementLink) -> Result<()> {
        self.netns.ip(&format!("link set {} up", link.ifname)).map(drop)
    }
}
