//! Operations and questions as rtnetlink messages, and rtnetlink messages as our objects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use model::{Cidr, Family};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, State,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::netlink::Request;
use crate::object::{Link, Mac, Neighbour, Route, RouteTarget};
use crate::op::VethSpec;

/// The pair in one message, then the host's end's alias, then the question what became of it. The kernel takes
/// all three before `send` returns, so no crash of ours leaves a pair without an alias.
///
/// The alias cannot be part of the first message: `rtnl_create_link` does not look at it.
pub(crate) fn create_veth(spec: &VethSpec, netns: RawFd, ipv6_exists: bool) -> Vec<Request> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(spec.pod_ifname.as_str())
        .mtu(spec.mtu_bytes)
        .address(spec.pod_mac.0.to_vec())
        .setns_by_fd(netns)
        .build();
    let pair = LinkVeth::new(&spec.host_ifname, &spec.pod_ifname)
        .mtu(spec.mtu_bytes)
        .address(spec.host_mac.0.to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    let mut named = LinkUnspec::new_with_name(&spec.host_ifname).alias(spec.alias.as_str());
    if ipv6_exists && !spec.ipv6 {
        // An end without IPv6 needs no link-local address, nor the multicast that comes with it.
        let mode = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
        named = named.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(mode)]));
    }
    vec![
        (RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL),
        (RouteNetlinkMessage::SetLink(named.build()), 0),
        get_link(&spec.host_ifname),
    ]
}

pub(crate) fn get_link(ifname: &str) -> Request {
    let message = LinkUnspec::new_with_name(ifname)
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    (RouteNetlinkMessage::GetLink(message), 0)
}

pub(crate) fn all_links() -> RouteNetlinkMessage {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    RouteNetlinkMessage::GetLink(message)
}

pub(crate) fn delete_link(ifindex: u32) -> Request {
    (RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(ifindex).build()), 0)
}

pub(crate) fn set_link_up(ifindex: u32) -> Request {
    (RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(ifindex).up().build()), 0)
}

pub(crate) fn add_address(ifindex: u32, address: IpAddr) -> Request {
    let message = match address {
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(ifindex).address(ip, 32).build(),
        IpAddr::V6(ip) => {
            let mut message =
                AddressMessageBuilder::<Ipv6Addr>::new().index(ifindex).address(ip, 128).build();
            // Nobody else is on the link: the address may be used at once.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    };
    (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

pub(crate) fn add_route(route: &Route, exclusive: bool) -> Request {
    let flags = if exclusive || route.destination.family() == Family::V6 { NLM_F_EXCL } else { 0 };
    (RouteNetlinkMessage::NewRoute(route_message(route)), NLM_F_CREATE | flags)
}

pub(crate) fn delete_route(route: &Route) -> Request {
    let mut message = route_message(route);
    // For a deletion this scope means "any" (`fib_table_delete`).
    message.header.scope = RouteScope::NoWhere;
    (RouteNetlinkMessage::DelRoute(message), 0)
}

pub(crate) fn set_neighbour(neighbour: &Neighbour) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(neighbour.address));
    message.header.ifindex = neighbour.ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(neighbour.address)));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec()));
    (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Routes of the main table that `protocol` installed (`None`: anybody), out of one interface or any.
pub(crate) fn routes(family: Family, protocol: Option<u8>, ifindex: Option<u32>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
    message.attributes.extend(ifindex.map(RouteAttribute::Oif));
    RouteNetlinkMessage::GetRoute(message)
}

pub(crate) fn neighbours(family: Family, ifindex: Option<u32>) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(family);
    message.attributes.extend(ifindex.map(NeighbourAttribute::IfIndex));
    RouteNetlinkMessage::GetNeighbour(message)
}

pub(crate) fn addresses(family: Family, ifindex: u32) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = address_family(family);
    message.header.index = ifindex;
    RouteNetlinkMessage::GetAddress(message)
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn route_message(route: &Route) -> RouteMessage {
    let length = route.destination.prefix_len();
    let mut message = match route.destination.network() {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, length).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, length).build(),
    };
    message.header.protocol = RouteProtocol::from(route.protocol);
    if route.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    match route.target {
        RouteTarget::Link { ifindex, gateway } => {
            message.attributes.push(RouteAttribute::Oif(ifindex));
            match gateway {
                Some(gateway) => {
                    message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
                }
                // IPv6 knows no scopes of routes and takes no notice.
                None => message.header.scope = RouteScope::Link,
            }
        }
        RouteTarget::Blackhole => message.header.kind = RouteType::BlackHole,
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteTarget::Other => message.header.kind = RouteType::Unspec,
    }
    message
}

/// What a link message says, or nothing if it is another kind of message.
pub(crate) fn parse_link(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        ifindex: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.ifname.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::OperState(state) => link.operational = *state == State::Up,
            LinkAttribute::Mtu(mtu_bytes) => link.mtu_bytes = *mtu_bytes,
            LinkAttribute::Link(peer) => link.peer_ifindex = Some(*peer),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    Some(link)
}

/// What a route message says, or nothing if it is of another kind, table or family.
pub(crate) fn parse_route(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let (mut destination, mut gateway, mut ifindex) = (None, None, None);
    let (mut metric, mut plain) = (0, true);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_) | RouteAttribute::Via(_) => plain = false,
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let target = match (message.header.kind, ifindex) {
        (RouteType::Unicast, Some(ifindex)) if plain => RouteTarget::Link { ifindex, gateway },
        (RouteType::BlackHole, _) => RouteTarget::Blackhole,
        (RouteType::Unreachable, _) => RouteTarget::Unreachable,
        _ => RouteTarget::Other,
    };
    Some(Route {
        destination: Cidr::containing(
            destination.unwrap_or(unspecified),
            message.header.destination_prefix_length,
        )?,
        target,
        metric,
        protocol: message.header.protocol.into(),
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// A permanent neighbour entry, or nothing if it is anything else.
pub(crate) fn parse_neighbour(message: &RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(Neighbour { ifindex: message.header.ifindex, address: address?, mac: mac? })
}

/// An address of an interface with its prefix length; IPv6 link-local ones, which the kernel makes, are left out.
pub(crate) fn parse_address(message: &RouteNetlinkMessage) -> Option<(IpAddr, u8)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    let link_local = matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
    (!link_local).then_some((address, message.header.prefix_len))
}
