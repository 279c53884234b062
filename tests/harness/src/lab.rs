//! The smallest network in which Poolward's promise can be seen: a node, a firewall, and a server outside.
//!
//! ```text
//!   pods --- [ node ] up0 ------------ node0 [ firewall ] out0 ------------ eth0 [ outside ]
//!            192.0.2.2/24              192.0.2.1/24  198.51.100.1/24        198.51.100.2/24
//!            2001:db8:1::2/64       2001:db8:1::1/64  2001:db8:2::1/64      2001:db8:2::2/64
//! ```
//! All addresses are documentation ranges (RFC 5737, RFC 3849). The firewall forwards both families and has no
//! rules of its own; the node forwards nothing until somebody turns that on.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::NetNs;

/// The node's interface towards the firewall.
pub const NODE_UPLINK: &str = "up0";
/// The firewall's interface towards the node.
pub const FIREWALL_TO_NODE: &str = "node0";
/// The firewall's interface towards the outside.
pub const FIREWALL_TO_OUTSIDE: &str = "out0";
/// The node's own address.
pub const NODE_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The node's own IPv6 address.
pub const NODE_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// The server outside.
pub const OUTSIDE_IPV4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The server outside.
pub const OUTSIDE_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);

/// No UDP datagram is longer (RFC 768).
const MAX_DATAGRAM_BYTES: usize = 65_535;

/// A node, a firewall and an outside, wired. They go when the value does.
#[derive(Debug)]
pub struct Lab {
    /// The node; its uplink is [`NODE_UPLINK`].
    pub node: NetNs,
    /// The firewall.
    pub firewall: NetNs,
    /// A server that the firewall stands before.
    pub outside: NetNs,
}

impl Lab {
    /// Builds it in namespaces `PREFIX-node`, `PREFIX-fw` and `PREFIX-out`.
    ///
    /// # Errors
    /// One of them exists already, or no permission.
    pub fn one_node(prefix: &str) -> Result<Self> {
        let lab = Self {
            node: NetNs::create(&format!("{prefix}-node"))?,
            firewall: NetNs::create(&format!("{prefix}-fw"))?,
            outside: NetNs::create(&format!("{prefix}-out"))?,
        };
        let (firewall, outside) = (lab.firewall.name(), lab.outside.name());
        // New namespaces may copy the machine's settings (net.core.devconf_inherit_init_net): what the lab relies on
        // is set, before there are interfaces to copy it.
        for netns in [&lab.node, &lab.firewall, &lab.outside] {
            for key in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv4/ip_forward"] {
                netns.set_sysctl(key, "0")?;
            }
            // A router asks for neighbours from its link-local address, which duplicate address detection would keep
            // back for one to two seconds.
            for key in ["ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad"] {
                netns.set_sysctl(key, "0")?;
            }
        }
        lab.node.ip_batch(&format!(
            "link add {NODE_UPLINK} type veth peer name {FIREWALL_TO_NODE} netns {firewall}"
        ))?;
        lab.firewall
            .ip_batch(&format!("link add {FIREWALL_TO_OUTSIDE} type veth peer name eth0 netns {outside}"))?;
        lab.firewall.set_sysctl("ipv4/ip_forward", "1")?;
        lab.firewall.set_sysctl("ipv6/conf/all/forwarding", "1")?;
        lab.firewall.ip_batch(&format!(
            "link set {FIREWALL_TO_NODE} up\n\
             link set {FIREWALL_TO_OUTSIDE} up\n\
             addr add 192.0.2.1/24 dev {FIREWALL_TO_NODE}\n\
             addr add 2001:db8:1::1/64 dev {FIREWALL_TO_NODE} nodad\n\
             addr add 198.51.100.1/24 dev {FIREWALL_TO_OUTSIDE}\n\
             addr add 2001:db8:2::1/64 dev {FIREWALL_TO_OUTSIDE} nodad\n"
        ))?;
        lab.node.ip_batch(&format!(
            "link set {NODE_UPLINK} up\n\
             addr add {NODE_IPV4}/24 dev {NODE_UPLINK}\n\
             addr add {NODE_IPV6}/64 dev {NODE_UPLINK} nodad\n\
             route add default via 192.0.2.1\n\
             route add default via 2001:db8:1::1\n"
        ))?;
        lab.outside.ip_batch(&format!(
            "link set eth0 up\n\
             addr add {OUTSIDE_IPV4}/24 dev eth0\n\
             addr add {OUTSIDE_IPV6}/64 dev eth0 nodad\n\
             route add default via 198.51.100.1\n\
             route add default via 2001:db8:2::1\n"
        ))?;
        Ok(lab)
    }

    /// As [`Lab::one_node`], with a prefix that nobody else has.
    ///
    /// # Errors
    /// No permission.
    pub fn unique(prefix: &str) -> Result<Self> {
        use std::sync::atomic::AtomicU32;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self::one_node(&format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Tells the firewall that a range is behind the node.
    ///
    /// # Errors
    /// Not a range, or there is such a route already.
    pub fn route_to_node(&self, cidr: &str) -> Result<()> {
        let via = if cidr.contains(':') { NODE_IPV6.to_string() } else { NODE_IPV4.to_string() };
        self.firewall.ip(&format!("route add {cidr} via {via}")).map(drop)
    }

    /// Leaves everything standing when this value goes.
    pub fn keep(&self) {
        for netns in [&self.node, &self.firewall, &self.outside] {
            netns.keep();
        }
    }
}

/// Sends every UDP datagram back to where it came from, until it is dropped.
#[derive(Debug)]
pub struct EchoServer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl EchoServer {
    /// Answers on these ports, both families.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(netns: &NetNs, ports: impl IntoIterator<Item = u16>) -> Result<Self> {
        let mut server = Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        for port in ports {
            // Both families on one socket (RFC 3493 §3.7); Linux does so unless net.ipv6.bindv6only says otherwise.
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let socket = netns.run(|| UdpSocket::bind(any))?.with_context(|| format!("UDP port {port}"))?;
            socket.set_read_timeout(Some(Duration::from_millis(50))).context("receive timeout")?;
            let stop = Arc::clone(&server.stop);
            server.threads.push(std::thread::spawn(move || {
                let mut buffer = vec![0_u8; MAX_DATAGRAM_BYTES];
                while !stop.load(Ordering::Acquire) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        // A peer that is gone is the caller's to notice.
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                }
            }));
        }
        Ok(server)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Sends one UDP datagram from inside a namespace and waits for the echo; `None` when none came in time.
///
/// # Errors
/// The datagram cannot be sent at all: no route, or the interface is down.
pub fn udp_echo(netns: &NetNs, to: SocketAddr, payload: &[u8], limit: Duration) -> Result<Option<Duration>> {
    netns.run(|| {
        let any: SocketAddr =
            if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).context("UDP socket")?;
        socket.set_read_timeout(Some(limit)).context("receive timeout")?;
        socket.connect(to).with_context(|| format!("route to {to}"))?;
        let started = std::time::Instant::now();
        socket.send(payload).with_context(|| format!("send to {to}"))?;
        let mut buffer = vec![0_u8; MAX_DATAGRAM_BYTES];
        // An ICMP error (a firewall that rejects) is no echo either.
        let echoed = socket.recv(&mut buffer).is_ok_and(|length| buffer.get(..length) == Some(payload));
        Ok(echoed.then(|| started.elapsed()))
    })?
}
