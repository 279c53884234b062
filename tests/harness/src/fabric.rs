//! The network between several nodes: an underlay that switches or routes, a server outside, and a witness in between.
//!
//! ```text
//!   Lan                                          Routed
//!   node-1 up0 ─ port1 ┐                         node-1 up0 ─ port1 198.18.1.1/24 ┐
//!   node-2 up0 ─ port2 ┤ lan0  [fabric] out0     node-2 up0 ─ port2 198.18.2.1/24 ┤ [fabric] out0
//!   node-3 up0 ─ port3 ┘ 192.0.2.254/24   │      node-3 up0 ─ port3 198.18.3.1/24 ┘           │
//!   192.0.2.N/24                          │      198.18.N.2/24                                │
//!                         198.51.100.2 [outside]                            198.51.100.2 [outside]
//! ```
//! The witness stands where a node's packets enter the fabric, before anything else sees them. It knows nothing of
//! Poolward but the ranges it is told. Nodes forward nothing until somebody turns that on.

mod witness;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

pub use self::witness::{Leak, Witnessed};
use crate::lab::{NODE_UPLINK, OUTSIDE_IPV4, OUTSIDE_IPV6};
use crate::{NetNs, NodeFiles};

/// The fabric's interface towards the server outside.
pub const FABRIC_TO_OUTSIDE: &str = "out0";

/// How the nodes are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// All on one switch, in one subnet.
    Lan,
    /// Each in a subnet of its own behind one router.
    Routed,
}

/// Nodes, what joins them, and a server outside. They go when the value does.
#[derive(Debug)]
pub struct Fabric {
    /// The switch or router; it forwards to the outside in either case.
    pub router: NetNs,
    /// A server outside, behind the router.
    pub outside: NetNs,
    /// The nodes, in the order of their numbers, which begin with 1.
    pub nodes: Vec<FabricNode>,
    underlay: Underlay,
}

/// One machine: a network namespace whose uplink is [`NODE_UPLINK`], and files for its agent.
#[derive(Debug)]
pub struct FabricNode {
    /// `node-N`.
    pub name: String,
    /// N.
    pub number: u8,
    /// Its network namespace.
    pub netns: NetNs,
    /// Files for its agent.
    pub files: NodeFiles,
    /// Its address when the fabric was built.
    pub ipv4: Ipv4Addr,
    /// Its address when the fabric was built.
    pub ipv6: Ipv6Addr,
}

impl FabricNode {
    /// The fabric's interface towards it.
    #[must_use]
    pub fn port(&self) -> String {
        format!("port{}", self.number)
    }

    /// Empties it of what a reboot would take away and a namespace keeps: rules, routes that are not the fabric's, nexthop
    /// objects, and whatever `lo` was given.
    ///
    /// # Errors
    /// What a tool says.
    pub(crate) fn forget(&self) -> Result<()> {
        self.netns.nft("flush ruleset\n")?;
        // With them go the routes that lead through them.
        self.netns.ip("nexthop flush")?;
        for family in ["-4", "-6"] {
            for kind in ["blackhole", "unreachable"] {
                self.netns.ip(&format!("{family} route flush type {kind}"))?;
            }
        }
        self.netns.ip_batch(
            "addr flush dev lo\n\
             addr add 127.0.0.1/8 dev lo scope host\n\
             addr add ::1/128 dev lo scope host\n",
        )
    }

    /// Its addresses, as a kubelet would report them.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }
}

impl Fabric {
    /// Builds it in namespaces `PREFIX-fabric`, `PREFIX-out` and `PREFIX-nodeN`, with files of these names.
    ///
    /// # Errors
    /// One of them exists already, or no permission.
    pub fn build(prefix: &str, underlay: Underlay, nodes_count: u8) -> Result<Self> {
        let create = |role: &str| {
            let netns = NetNs::create(&format!("{prefix}-{role}"))?;
            prepare(&netns)?;
            Ok::<_, anyhow::Error>(netns)
        };
        let fabric = Self { router: create("fabric")?, outside: create("out")?, nodes: Vec::new(), underlay };
        fabric.build_router()?;
        let mut fabric = fabric;
        for number in 1..=nodes_count {
            let node = FabricNode {
                name: format!("node-{number}"),
                number,
                netns: create(&format!("node{number}"))?,
                files: NodeFiles::create(&Self::files_name(prefix, number))?,
                ipv4: underlay.node_ipv4(number, false),
                ipv6: underlay.node_ipv6(number, false),
            };
            fabric.join(&node).with_context(|| format!("join {}", node.name))?;
            fabric.nodes.push(node);
        }
        fabric.start_witness()?;
        Ok(fabric)
    }

    /// As [`Fabric::build`], with names that nobody else has.
    ///
    /// # Errors
    /// As [`Fabric::build`].
    pub fn unique(prefix: &str, underlay: Underlay, nodes_count: u8) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::build(&format!("{prefix}-{}-{count}", std::process::id()), underlay, nodes_count)
    }

    /// The name of a node's files and pins in a fabric of this prefix.
    #[must_use]
    pub fn files_name(prefix: &str, number: u8) -> String {
        format!("{prefix}-node{number}")
    }

    fn build_router(&self) -> Result<()> {
        let outside = self.outside.name();
        self.router.set_sysctl("ipv4/ip_forward", "1")?;
        self.router.set_sysctl("ipv6/conf/all/forwarding", "1")?;
        // Else an interface that was down for a moment comes back without its IPv6 address.
        for key in ["ipv6/conf/all/keep_addr_on_down", "ipv6/conf/default/keep_addr_on_down"] {
            self.router.set_sysctl(key, "1")?;
        }
        self.router.ip_batch(&format!(
            "link add {FABRIC_TO_OUTSIDE} type veth peer name eth0 netns {outside}\n\
             link set {FABRIC_TO_OUTSIDE} up\n\
             addr add 198.51.100.1/24 dev {FABRIC_TO_OUTSIDE}\n\
             addr add 2001:db8:2::1/64 dev {FABRIC_TO_OUTSIDE} nodad\n"
        ))?;
        self.outside.ip_batch(&format!(
            "link set eth0 up\n\
             addr add {OUTSIDE_IPV4}/24 dev eth0\n\
             addr add {OUTSIDE_IPV6}/64 dev eth0 nodad\n\
             route add default via 198.51.100.1\n\
             route add default via 2001:db8:2::1\n"
        ))?;
        if self.underlay == Underlay::Lan {
            make_plain_switch(&self.router)?;
            self.router.ip_batch(
                "link add lan0 type bridge mcast_snooping 0 forward_delay 0\n\
                 link set lan0 up\n\
                 addr add 192.0.2.254/24 dev lan0\n\
                 addr add 2001:db8:1::fe/64 dev lan0 nodad\n",
            )?;
        }
        Ok(())
    }

    fn join(&self, node: &FabricNode) -> Result<()> {
        let (port, netns) = (node.port(), node.netns.name());
        self.router
            .ip_batch(&format!("link add {port} type veth peer name {NODE_UPLINK} netns {netns}\n"))?;
        match self.underlay {
            Underlay::Lan => self.router.ip_batch(&format!("link set {port} master lan0 up\n"))?,
            Underlay::Routed => self.router.ip_batch(&format!(
                "link set {port} up\n\
                 addr add {}/24 dev {port}\n\
                 addr add {}/64 dev {port} nodad\n",
                self.underlay.gateway_ipv4(node.number),
                self.underlay.gateway_ipv6(node.number),
            ))?,
        }
        node.netns.ip_batch(&format!(
            "link set {NODE_UPLINK} up\n\
             addr add {}/24 dev {NODE_UPLINK}\n\
             addr add {}/64 dev {NODE_UPLINK} nodad\n\
             route add default via {}\n\
             route add default via {}\n",
            node.ipv4,
            node.ipv6,
            self.underlay.gateway_ipv4(node.number),
            self.underlay.gateway_ipv6(node.number),
        ))
    }

    /// How the nodes are joined.
    #[must_use]
    pub fn underlay(&self) -> Underlay {
        self.underlay
    }

    /// Pulls the cable of a node's uplink: it loses its carrier.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn cut(&self, node: &FabricNode) -> Result<()> {
        self.router.ip(&format!("link set {} down", node.port())).map(drop)
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn mend(&self, node: &FabricNode) -> Result<()> {
        self.router.ip(&format!("link set {} up", node.port())).map(drop)
    }

    /// What fits through the fabric towards a node; the router says so to whoever sends more (a switch says nothing).
    ///
    /// # Errors
    /// What `ip` says.
    pub fn set_mtu_towards(&self, node: &FabricNode, mtu_bytes: u32) -> Result<()> {
        self.router.ip(&format!("link set {} mtu {mtu_bytes}", node.port())).map(drop)
    }

    /// Gives a node another address in its subnet and takes the first one away; the new one. The node's object is
    /// somebody else's to change.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn readdress(&self, node: &FabricNode) -> Result<Ipv4Addr> {
        let new = self.underlay.node_ipv4(node.number, true);
        node.netns.ip_batch(&format!(
            "addr add {new}/24 dev {NODE_UPLINK}\n\
             addr del {}/24 dev {NODE_UPLINK}\n\
             route replace default via {}\n",
            node.ipv4,
            self.underlay.gateway_ipv4(node.number),
        ))?;
        Ok(new)
    }

    /// Tells the router where a range of pods is, for answers from outside.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn route_from_outside(&self, range: &str, node: &FabricNode) -> Result<()> {
        let via = if range.contains(':') { IpAddr::from(node.ipv6) } else { node.ipv4.into() };
        self.router.ip(&format!("route replace {range} via {via}")).map(drop)
    }

    /// Leaves everything standing when this value goes.
    pub fn keep(&self) {
        for netns in [&self.router, &self.outside] {
            netns.keep();
        }
        for node in &self.nodes {
            node.netns.keep();
            node.files.keep();
        }
    }
}

impl Underlay {
    fn node_ipv4(self, number: u8, moved: bool) -> Ipv4Addr {
        match self {
            Self::Lan => Ipv4Addr::new(192, 0, 2, number + if moved { 100 } else { 0 }),
            Self::Routed => Ipv4Addr::new(198, 18, number, if moved { 3 } else { 2 }),
        }
    }

    fn node_ipv6(self, number: u8, moved: bool) -> Ipv6Addr {
        let number = u16::from(number);
        match self {
            Self::Lan => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, number + if moved { 0x100 } else { 0 }),
            Self::Routed => Ipv6Addr::new(0x2001, 0xdb8, 1, number, 0, 0, 0, if moved { 3 } else { 2 }),
        }
    }

    fn gateway_ipv4(self, number: u8) -> Ipv4Addr {
        match self {
            Self::Lan => Ipv4Addr::new(192, 0, 2, 254),
            Self::Routed => Ipv4Addr::new(198, 18, number, 1),
        }
    }

    fn gateway_ipv6(self, number: u8) -> Ipv6Addr {
        match self {
            Self::Lan => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe),
            Self::Routed => Ipv6Addr::new(0x2001, 0xdb8, 1, number.into(), 0, 0, 0, 1),
        }
    }
}

/// Bridges of this namespace take frames as they are: netfilter neither judges nor reassembles what they carry.
pub(crate) fn make_plain_switch(netns: &NetNs) -> Result<()> {
    for key in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"] {
        let key = format!("bridge/{key}");
        // A kernel without netfilter for bridges has no such setting.
        if netns.sysctl(&key).is_ok() {
            netns.set_sysctl(&key, "0")?;
        }
    }
    Ok(())
}

/// Settings that the lab relies on, before there are interfaces to copy them: new namespaces may copy the machine's
/// (net.core.devconf_inherit_init_net).
fn prepare(netns: &NetNs) -> Result<()> {
    for key in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv4/ip_forward"] {
        netns.set_sysctl(key, "0")?;
    }
    // A second address in a subnet stays when the first one goes.
    for key in ["ipv4/conf/all/promote_secondaries", "ipv4/conf/default/promote_secondaries"] {
        netns.set_sysctl(key, "1")?;
    }
    // Routers ask for neighbours from link-local addresses, which duplicate address detection would keep back for a
    // second or two.
    for key in ["ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad"] {
        netns.set_sysctl(key, "0")?;
    }
    Ok(())
}
