//! What wiring a pod takes, as operations: pure.
//!
//! ```text
//!  pod's namespace                                  node's namespace
//!  10.0.0.1/32  fd00::1/128                         10.0.0.1/32, fd00::1/128 dev pw…  (our protocol)
//!  169.254.1.1 dev eth0 scope link                  neighbour 10.0.0.1, fd00::1 -> pod's MAC
//!  default via 169.254.1.1                          program on pw…, endpoint {10.0.0.1, fd00::1}
//!  default via fe80::1                              IFALIAS poolward1;c=…
//!  neighbours 169.254.1.1, fe80::1 -> host's MAC
//!            eth0 ───────────────────────────────── pw3f0a…
//! ```
//! The order is: pair, endpoint, program, and only then the host's end goes up; then the pod's side. Before both ends
//! are up the pair has no carrier, so no packet passes unchecked. The end that went up first sends nothing until the
//! kernel has noticed the carrier, which it does in its own time (`linkwatch`); that is waited for, so that the first
//! packet after an ADD is not lost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::{Cidr, Family, Handle, Identity};

use crate::object::{Endpoint, Mac, Neighbour, Route, RouteTarget, Sysctl};
use crate::op::{Op, VethEnds, VethSpec};

/// The next hop of every pod. It exists nowhere: a permanent neighbour entry in the pod answers for it.
pub const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The same for IPv6.
pub const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Metric of a pod's IPv6 route: below the 1024 that the kernel gives to routes without one, so that a route
/// added by hand does not take its place. IPv4 routes have 0, the least there is.
const POD_METRIC_IPV6: u32 = 64;

/// Metric of the blackhole of a block: above a pod's, for a block of one address has the same destination.
const BLOCK_METRIC: u32 = 4096;

/// Metric of the unreachable route of a whole range: above a block's, for a pool of one block has the same
/// destination.
const RANGE_METRIC: u32 = 8192;

/// Metric of the IPv4 route of an address lent to another node: above a pod's, so that an address that has come back
/// can be given to a pod before its old route is gone. Longer ranges have 0, which nobody's route can be put before
/// without being noticed.
const LOAN_METRIC_IPV4: u32 = 32;

/// The same for IPv6, where all are below what the kernel gives to routes without one.
const LOAN_METRIC_IPV6: u32 = 96;

/// Name of the tunnel device.
pub(crate) const TUNNEL_IFNAME: &str = "poolward-ipip";

/// Protocol of routes inside pods: `RTPROT_STATIC`, as of an administrator.
const POD_ROUTE_PROTOCOL: u8 = 4;

/// Metric that the kernel gives to IPv6 routes without one (`IP6_RT_PRIO_USER`).
const KERNEL_METRIC_IPV6: u32 = 1024;

/// A pod to be wired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodWiring {
    /// Who it is, and its addresses.
    pub identity: Identity,
    /// MTU of both ends of its pair, in bytes.
    pub mtu_bytes: u32,
}

/// A pod that has been wired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wired {
    /// Name of the host's end.
    pub host_ifname: String,
    /// Its number.
    pub host_ifindex: u32,
    /// Its hardware address.
    pub host_mac: Mac,
    /// Hardware address of the pod's end.
    pub pod_mac: Mac,
}

/// Hardware address of the host's end, from the handle: the pod's neighbour entry can be written before the
/// interface exists, and an ADD that is repeated gives the same.
pub(crate) fn host_mac(handle: &Handle) -> Mac {
    mac(0x6e, handle)
}

/// Hardware address of the pod's end: the one that was asked for, or one from the handle.
pub(crate) fn pod_mac(identity: &Identity) -> Mac {
    identity.extras.mac.unwrap_or_else(|| mac(0x6a, &identity.handle))
}

/// `first` (locally administered, unicast) and 40 bits of the hash in the host's name. Only two stations are on
/// the link, so that the same address elsewhere does no harm.
fn mac(first: u8, handle: &Handle) -> Mac {
    let name = handle.host_ifname();
    let digits = name.get(2..).unwrap_or_default();
    let byte =
        |at: usize| digits.get(at..at + 2).and_then(|text| u8::from_str_radix(text, 16).ok()).unwrap_or(0);
    Mac([first, byte(0), byte(2), byte(4), byte(6), byte(8)])
}

/// The pair.
pub(crate) fn veth_spec(wiring: &PodWiring) -> VethSpec {
    let identity = &wiring.identity;
    VethSpec {
        handle: identity.handle.clone(),
        host_ifname: identity.handle.host_ifname(),
        alias: identity.to_alias(),
        host_mac: host_mac(&identity.handle),
        pod_ifname: identity.handle.ifname().to_owned(),
        pod_mac: pod_mac(identity),
        mtu_bytes: wiring.mtu_bytes,
        ipv6: identity.ipv6.is_some(),
    }
}

/// What is to be done inside the pod.
pub(crate) fn pod_ops(identity: &Identity, ends: VethEnds) -> Vec<Op> {
    let ifindex = ends.pod_ifindex;
    let ifname = identity.handle.ifname().to_owned();
    let mut ops = Vec::with_capacity(8);
    if identity.ipv6.is_some() {
        // Some runtimes switch IPv6 off in every namespace; a pod with an IPv6 address wants it on this interface.
        ops.push(Op::SetSysctl { sysctl: Sysctl::DisableIpv6(ifname.clone()), value: 0 });
    }
    ops.extend(identity.addresses().map(|address| Op::AddAddress { ifindex, address }));
    ops.push(Op::SetLinkUp { ifname, ifindex });
    ops.extend(pod_neighbours(identity, ends).into_iter().map(Op::SetNeighbour));
    ops.extend(pod_routes(identity, ends).into_iter().map(|route| Op::AddRoute { route, exclusive: true }));
    ops
}

/// Routes inside the pod.
pub(crate) fn pod_routes(identity: &Identity, ends: VethEnds) -> Vec<Route> {
    let route = |destination, gateway, metric| {
        let target = RouteTarget::Link { ifindex: ends.pod_ifindex, gateway };
        Route::new(destination, target, metric, POD_ROUTE_PROTOCOL)
    };
    let mut routes = Vec::with_capacity(3);
    if identity.ipv4.is_some() {
        routes.push(route(Cidr::host(GATEWAY_IPV4.into()), None, 0));
        routes.extend(
            Cidr::containing(Ipv4Addr::UNSPECIFIED.into(), 0)
                .map(|all| route(all, Some(GATEWAY_IPV4.into()), 0)),
        );
    }
    if identity.ipv6.is_some() {
        routes.extend(
            Cidr::containing(Ipv6Addr::UNSPECIFIED.into(), 0)
                .map(|all| route(all, Some(GATEWAY_IPV6.into()), KERNEL_METRIC_IPV6)),
        );
    }
    routes
}

/// Neighbours inside the pod.
pub(crate) fn pod_neighbours(identity: &Identity, ends: VethEnds) -> Vec<Neighbour> {
    let gateway = |address: IpAddr| match address {
        IpAddr::V4(_) => IpAddr::V4(GATEWAY_IPV4),
        IpAddr::V6(_) => IpAddr::V6(GATEWAY_IPV6),
    };
    let mac = host_mac(&identity.handle);
    identity.addresses().map(|a| Neighbour { ifindex: ends.pod_ifindex, address: gateway(a), mac }).collect()
}

/// What must hold before the host's end may go up, and that.
pub(crate) fn guard_ops(identity: &Identity, host_ifindex: u32) -> Vec<Op> {
    vec![
        // A host that forwards no IPv6 takes router advertisements from every interface, a pod's as well.
        Op::SetSysctl { sysctl: Sysctl::AcceptRa(identity.handle.host_ifname()), value: 0 },
        Op::SetEndpoint { ifindex: host_ifindex, endpoint: endpoint(identity) },
        Op::Attach { ifindex: host_ifindex },
        Op::SetLinkUp { ifname: identity.handle.host_ifname(), ifindex: host_ifindex },
    ]
}

/// What opens the way: only after [`guard_ops`] and [`pod_ops`].
pub(crate) fn open_ops(identity: &Identity, host_ifindex: u32, protocol: u8) -> Vec<Op> {
    let mut ops = vec![Op::AwaitCarrier { ifname: identity.handle.host_ifname(), ifindex: host_ifindex }];
    ops.extend(host_neighbours(identity, host_ifindex).into_iter().map(Op::SetNeighbour));
    let routes = host_routes(identity, host_ifindex, protocol);
    ops.extend(routes.into_iter().map(|route| Op::AddRoute { route, exclusive: true }));
    ops
}

/// What the programs are told.
pub(crate) fn endpoint(identity: &Identity) -> Endpoint {
    let sources = identity.extras.allowed_sources.iter().copied().collect();
    Endpoint { ipv4: identity.ipv4, ipv6: identity.ipv6, sources }
}

/// Neighbours on the host's end: the pod is reached at once, and cannot fill the node's neighbour table.
pub(crate) fn host_neighbours(identity: &Identity, host_ifindex: u32) -> Vec<Neighbour> {
    let mac = pod_mac(identity);
    identity.addresses().map(|address| Neighbour { ifindex: host_ifindex, address, mac }).collect()
}

/// Routes to the pod.
pub(crate) fn host_routes(identity: &Identity, host_ifindex: u32, protocol: u8) -> Vec<Route> {
    let route = |address: IpAddr| {
        let target = RouteTarget::Link { ifindex: host_ifindex, gateway: None };
        let metric = if address.is_ipv4() { 0 } else { POD_METRIC_IPV6 };
        Route::new(Cidr::host(address), target, metric, protocol)
    };
    identity.addresses().map(route).collect()
}

/// The route of a range that nobody else serves, for addresses that no block covers: without it they would follow the
/// default route, and come back.
pub(crate) fn range_route(range: Cidr, protocol: u8) -> Route {
    Route::new(range, RouteTarget::Unreachable, RANGE_METRIC, protocol)
}

/// The route of a range that another node serves.
pub(crate) fn remote_route(range: Cidr, nexthop: u32, protocol: u8) -> Route {
    let is_host = range.prefix_len() == range.family().address_bits();
    let metric = match (range.family(), is_host) {
        (Family::V4, false) => 0,
        (Family::V4, true) => LOAN_METRIC_IPV4,
        (Family::V6, false) => POD_METRIC_IPV6,
        (Family::V6, true) => LOAN_METRIC_IPV6,
    };
    Route::new(range, RouteTarget::Nexthop { id: nexthop }, metric, protocol)
}

/// The route of one of this node's blocks, for addresses that no pod has.
pub(crate) fn block_route(block: Cidr, protocol: u8) -> Route {
    Route::new(block, RouteTarget::Blackhole, BLOCK_METRIC, protocol)
}
