//! Compares a wired pod with what its wiring says (CNI CHECK): pure.

use std::fmt;
use std::net::IpAddr;

use model::Identity;

use crate::kernel::PodSide;
use crate::object::{Endpoint, Link, Neighbour, Programs, Route};
use crate::op::VethEnds;
use crate::wiring::{self, PodWiring};

/// Something about a pod is not as its wiring says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: an address, a route, an interface.
    pub object: String,
    /// What the wiring says.
    pub expected: String,
    /// What the kernel says.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.object, self.expected, self.found)
    }
}

/// What was read of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodState {
    /// The host's end.
    pub(crate) host: Option<Link>,
    /// Routes of our protocol out of it.
    pub(crate) host_routes: Vec<Route>,
    /// Permanent neighbours on it.
    pub(crate) host_neighbours: Vec<Neighbour>,
    /// Inside the pod.
    pub(crate) pod: PodSide,
    /// The programs and their maps.
    pub(crate) programs: Programs,
}

/// The first difference, in this order: pair, MTU, alias, addresses, routes and neighbours of the pod, routes and
/// neighbours of the node, program, map entry.
pub(crate) fn check(wiring: &PodWiring, state: &PodState, protocol: u8) -> Option<Difference> {
    let identity = &wiring.identity;
    let host_ifname = identity.handle.host_ifname();
    let pod_ifname = identity.handle.ifname();
    let differs = |object: String, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
        Some(Difference { object, expected: expected.to_string(), found: found.to_string() })
    };
    let Some(host) = &state.host else {
        return differs(format!("interface {host_ifname} of the node"), &"one", &"none");
    };
    let Some(pod) = &state.pod.link else {
        return differs(format!("interface {pod_ifname} in the pod"), &"one", &"none");
    };
    let ends = VethEnds { host_ifindex: host.ifindex, pod_ifindex: pod.ifindex };
    let peer = pod.peer_ifindex.unwrap_or(0);
    if !pod.veth || peer != host.ifindex {
        let expected = format!("veth with {host_ifname} ({}) as its other end", host.ifindex);
        let found = format!("{} with {peer}", if pod.veth { "veth" } else { "no veth" });
        return differs(format!("interface {pod_ifname} in the pod"), &expected, &found);
    }
    for (place, link) in [("of the node", host), ("in the pod", pod)] {
        let name = &link.ifname;
        if link.mtu_bytes != wiring.mtu_bytes {
            return differs(format!("MTU of {name} {place}"), &wiring.mtu_bytes, &link.mtu_bytes);
        }
        if !link.up {
            return differs(format!("interface {name} {place}"), &"up", &"down");
        }
    }
    check_macs(identity, host, pod)
        .or_else(|| check_alias(identity, host))
        .or_else(|| check_pod(identity, ends, &state.pod))
        .or_else(|| check_node(identity, ends, state, protocol))
        .or_else(|| check_programs(identity, host, &state.programs))
}

fn check_macs(identity: &Identity, host: &Link, pod: &Link) -> Option<Difference> {
    let expected = [(host, wiring::host_mac(&identity.handle)), (pod, wiring::pod_mac(identity))];
    expected.into_iter().find(|(link, mac)| link.mac != Some(*mac)).map(|(link, mac)| Difference {
        object: format!("hardware address of {}", link.ifname),
        expected: mac.to_string(),
        found: link.mac.map_or_else(|| "none".into(), |mac| mac.to_string()),
    })
}

/// The alias must say the same handle and addresses; the rest of it is for people.
fn check_alias(identity: &Identity, host: &Link) -> Option<Difference> {
    let key = |identity: &Identity| {
        (
            identity.handle.clone(),
            identity.ipv4,
            identity.ipv6,
            identity.extras.mac,
            identity.extras.delegated,
        )
    };
    let same = Identity::parse_alias(&host.alias).is_ok_and(|found| key(&found) == key(identity));
    (!same).then(|| Difference {
        object: format!("alias of {}", host.ifname),
        expected: identity.to_alias(),
        found: format!("{:?}", host.alias),
    })
}

fn check_pod(identity: &Identity, ends: VethEnds, pod: &PodSide) -> Option<Difference> {
    let ifname = identity.handle.ifname();
    let expected: Vec<(IpAddr, u8)> =
        identity.addresses().map(|address| (address, if address.is_ipv4() { 32 } else { 128 })).collect();
    let absent = expected.iter().find(|address| !pod.addresses.contains(address));
    let extra = pod.addresses.iter().find(|address| !expected.contains(address));
    if absent.is_some() || extra.is_some() {
        return Some(Difference {
            object: format!("addresses of {ifname} in the pod"),
            expected: list(expected.iter().map(|(address, length)| format!("{address}/{length}"))),
            found: list(pod.addresses.iter().map(|(address, length)| format!("{address}/{length}"))),
        });
    }
    let same = |wanted: &Route, found: &Route| {
        (wanted.destination, wanted.target, wanted.metric) == (found.destination, found.target, found.metric)
    };
    for route in wiring::pod_routes(identity, ends) {
        if !pod.routes.iter().any(|found| same(&route, found)) {
            return Some(absent_route("in the pod", &route, &pod.routes));
        }
    }
    first_absent_neighbour("in the pod", &wiring::pod_neighbours(identity, ends), &pod.neighbours)
}

fn check_node(identity: &Identity, ends: VethEnds, state: &PodState, protocol: u8) -> Option<Difference> {
    for route in wiring::host_routes(identity, ends.host_ifindex, protocol) {
        if !state.host_routes.contains(&route) {
            return Some(absent_route("of the node", &route, &state.host_routes));
        }
    }
    let neighbours = wiring::host_neighbours(identity, ends.host_ifindex);
    first_absent_neighbour("of the node", &neighbours, &state.host_neighbours)
}

fn check_programs(identity: &Identity, host: &Link, programs: &Programs) -> Option<Difference> {
    let ifname = &host.ifname;
    if !programs.attached.contains(&host.ifindex) {
        return Some(Difference {
            object: format!("program on {ifname}"),
            expected: "attached".into(),
            found: "not attached".into(),
        });
    }
    let wanted = wiring::endpoint(identity);
    let found = programs.endpoints.get(&host.ifindex);
    if found != Some(&wanted) {
        return Some(Difference {
            object: format!("endpoint map entry of {ifname}"),
            expected: told(&wanted),
            found: found.map_or_else(|| "none".into(), told),
        });
    }
    (!programs.marks_ok).then(|| Difference {
        object: "mark layout of the programs".into(),
        expected: "as configured".into(),
        found: "another".into(),
    })
}

/// Addresses, and further sources.
fn told(endpoint: &Endpoint) -> String {
    let addresses = endpoint.ipv4.map(IpAddr::V4).into_iter().chain(endpoint.ipv6.map(IpAddr::V6));
    list(addresses.map(|a| a.to_string()).chain(endpoint.sources.iter().map(ToString::to_string)))
}

fn absent_route(place: &str, route: &Route, found: &[Route]) -> Difference {
    let others = found.iter().filter(|other| other.destination == route.destination);
    Difference { object: format!("route {place}"), expected: route.to_string(), found: list(others) }
}

fn first_absent_neighbour(place: &str, wanted: &[Neighbour], found: &[Neighbour]) -> Option<Difference> {
    let absent = wanted.iter().find(|neighbour| !found.contains(neighbour))?;
    let other = found.iter().find(|n| (n.ifindex, n.address) == (absent.ifindex, absent.address));
    Some(Difference {
        object: format!("permanent neighbour {} {place}", absent.address),
        expected: absent.mac.to_string(),
        found: other.map_or_else(|| "none".into(), |other| other.mac.to_string()),
    })
}

fn list(items: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}
