//! Operations and questions as rtnetlink messages, and rtnetlink messages as our objects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use model::{Cidr, Family};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoIpTunnel, InfoKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, State,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::netlink::Request;
use super::nexthop::Message;
use crate::object::{Hop, Link, LinkAddress, Mac, Neighbour, Route, RouteTarget, Tunnel};
use crate::op::{TunnelSpec, VethSpec};

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
        (RouteNetlinkMessage::NewLink(pair).into(), NLM_F_CREATE | NLM_F_EXCL),
        (RouteNetlinkMessage::SetLink(named.build()).into(), 0),
        get_link(&spec.host_ifname),
    ]
}

pub(crate) fn get_link(ifname: &str) -> Request {
    let message = LinkUnspec::new_with_name(ifname)
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    (RouteNetlinkMessage::GetLink(message).into(), 0)
}

pub(crate) fn all_links() -> Message {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    RouteNetlinkMessage::GetLink(message).into()
}

pub(crate) fn delete_link(ifindex: u32) -> Request {
    (RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(ifindex).build()).into(), 0)
}

/// By number; by name where the number is not known yet (0), because the interface is made in the same run.
pub(crate) fn set_link_up(ifname: &str, ifindex: u32) -> Request {
    let link =
        if ifindex == 0 { LinkUnspec::new_with_name(ifname) } else { LinkUnspec::new_with_index(ifindex) };
    (RouteNetlinkMessage::SetLink(link.up().build()).into(), 0)
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
    (RouteNetlinkMessage::NewAddress(message).into(), NLM_F_CREATE | NLM_F_EXCL)
}

pub(crate) fn add_route(route: &Route, exclusive: bool) -> Request {
    let flags = if exclusive || route.destination.family() == Family::V6 { NLM_F_EXCL } else { 0 };
    (RouteNetlinkMessage::NewRoute(route_message(route)).into(), NLM_F_CREATE | flags)
}

/// Puts a route in the place of the first one with its destination and metric.
pub(crate) fn replace_route(route: &Route) -> Request {
    (RouteNetlinkMessage::NewRoute(route_message(route)).into(), NLM_F_CREATE | NLM_F_REPLACE)
}

pub(crate) fn delete_route(route: &Route) -> Request {
    let mut message = route_message(route);
    // For a deletion this scope means "any" (`fib_table_delete`).
    message.header.scope = RouteScope::NoWhere;
    (RouteNetlinkMessage::DelRoute(message).into(), 0)
}

/// The label of our addresses on `lo`: what they are known again by.
const OWN_ADDRESS_LABEL: &str = "lo:poolward";

/// The number of `lo` in every namespace (`LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK_IFINDEX: u32 = 1;

/// Gives `lo` an address with our label: of scope host, so that nothing is sent from it that does not ask for it.
pub(crate) fn add_own_address(address: Ipv4Addr) -> Request {
    (RouteNetlinkMessage::NewAddress(own_address(address)).into(), NLM_F_CREATE | NLM_F_REPLACE)
}

pub(crate) fn delete_own_address(address: Ipv4Addr) -> Request {
    (RouteNetlinkMessage::DelAddress(own_address(address)).into(), 0)
}

fn own_address(address: Ipv4Addr) -> AddressMessage {
    let builder = AddressMessageBuilder::<Ipv4Addr>::new().index(LOOPBACK_IFINDEX).address(address, 32);
    let mut message = builder.build();
    message.header.scope = AddressScope::Host;
    message.attributes.push(AddressAttribute::Label(OWN_ADDRESS_LABEL.to_owned()));
    message
}

/// Asks how the kernel reaches an address.
pub(crate) fn route_to(address: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of(address));
    message.header.destination_prefix_length = Family::of(address).address_bits();
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
    (RouteNetlinkMessage::GetRoute(message).into(), 0)
}

/// A tunnel device that behaves as `tunl0`: any far end, TTL and DF of the inner packet.
pub(crate) fn set_tunnel(spec: &TunnelSpec, exists: bool) -> Request {
    let data = vec![
        InfoIpTunnel::Local(IpAddr::V4(spec.local)),
        InfoIpTunnel::Ttl(0),
        InfoIpTunnel::PMtuDisc(false),
    ];
    let link = LinkUnspec::new_with_name(&spec.ifname).mtu(spec.mtu_bytes);
    // Its number is not known before it is there, so it is born up.
    let mut message = if exists { link.build() } else { link.up().build() };
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::IpIp),
        LinkInfo::Data(InfoData::IpTunnel(data)),
    ]));
    let flags = if exists { 0 } else { NLM_F_CREATE | NLM_F_EXCL };
    (RouteNetlinkMessage::NewLink(message).into(), flags)
}

pub(crate) fn set_neighbour(neighbour: &Neighbour) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(neighbour.address));
    message.header.ifindex = neighbour.ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(neighbour.address)));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec()));
    (RouteNetlinkMessage::NewNeighbour(message).into(), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Routes of the main table that `protocol` installed (`None`: anybody), out of one interface or any.
pub(crate) fn routes(family: Family, protocol: Option<u8>, ifindex: Option<u32>) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
    message.attributes.extend(ifindex.map(RouteAttribute::Oif));
    RouteNetlinkMessage::GetRoute(message).into()
}

pub(crate) fn neighbours(family: Family, ifindex: Option<u32>) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(family);
    message.attributes.extend(ifindex.map(NeighbourAttribute::IfIndex));
    RouteNetlinkMessage::GetNeighbour(message).into()
}

/// Addresses of one interface or of all.
pub(crate) fn addresses(family: Family, ifindex: Option<u32>) -> Message {
    let mut message = AddressMessage::default();
    message.header.family = address_family(family);
    message.header.index = ifindex.unwrap_or(0);
    RouteNetlinkMessage::GetAddress(message).into()
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
        RouteTarget::Nexthop { id } => message.attributes.push(RouteAttribute::NhId(id)),
        RouteTarget::Blackhole => message.header.kind = RouteType::BlackHole,
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteTarget::Other => message.header.kind = RouteType::Unspec,
    }
    // Without metrics the kernel takes any route's by the same nexthop object for the same, whatever its metrics are,
    // and shares these (`fib_create_info` asks `fib_find_info_nh`). An empty list says that there are to be none.
    if route.mtu_bytes != 0 || matches!(route.target, RouteTarget::Nexthop { .. }) {
        let mtu = Some(RouteMetric::Mtu(route.mtu_bytes)).filter(|_| route.mtu_bytes != 0);
        message.attributes.push(RouteAttribute::Metrics(mtu.into_iter().collect()));
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
    }
    message
}

/// What a link message says, or nothing if it is another kind of message.
pub(crate) fn parse_link(message: &Message) -> Option<Link> {
    let Message::Route(RouteNetlinkMessage::NewLink(message)) = message else { return None };
    let mut link = Link {
        ifindex: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.ifname.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::OperState(state) => link.operational = *state == State::Up,
            LinkAttribute::Mtu(mtu_bytes) => link.mtu_bytes = *mtu_bytes,
            LinkAttribute::Link(peer) => link.peer_ifindex = Some(*peer),
            LinkAttribute::LinkNetNsId(id) => link.peer_nsid = u32::try_from(*id).ok(),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                let is_tunnel = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::IpIp)));
                link.tunnel = is_tunnel.then(|| tunnel_of(infos));
            }
            _ => {}
        }
    }
    Some(link)
}

fn tunnel_of(infos: &[LinkInfo]) -> Tunnel {
    let unspecified = |address: &IpAddr| address.is_unspecified();
    let mut tunnel = Tunnel { local: None, special: false };
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::IpTunnel(data)) => Some(data),
        _ => None,
    });
    for item in data.into_iter().flatten() {
        match item {
            InfoIpTunnel::Local(IpAddr::V4(local)) if !local.is_unspecified() => tunnel.local = Some(*local),
            InfoIpTunnel::Remote(remote) => tunnel.special |= !unspecified(remote),
            InfoIpTunnel::Ttl(ttl) => tunnel.special |= *ttl != 0,
            InfoIpTunnel::Tos(tos) => tunnel.special |= *tos != 0,
            InfoIpTunnel::PMtuDisc(sets_df) => tunnel.special |= sets_df,
            InfoIpTunnel::CollectMetadata => tunnel.special = true,
            _ => {}
        }
    }
    tunnel
}

/// What a message that a route is there says, or nothing if it is of another kind, table or family.
pub(crate) fn parse_route(message: &Message) -> Option<Route> {
    let Message::Route(RouteNetlinkMessage::NewRoute(message)) = message else { return None };
    route_of(message)
}

/// The route that a message says is gone.
pub(crate) fn parse_gone_route(message: &Message) -> Option<Route> {
    let Message::Route(RouteNetlinkMessage::DelRoute(message)) = message else { return None };
    route_of(message)
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let (mut destination, mut gateway, mut ifindex) = (None, None, None);
    let (mut metric, mut plain) = (0, true);
    let (mut nexthop, mut source, mut mtu_bytes) = (None, None, 0);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Table(value) => table = *value,
            // The kernel adds gateway and interface, for readers that know no nexthop objects.
            RouteAttribute::NhId(id) => nexthop = Some(*id),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Metrics(metrics) => {
                let mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) => Some(*bytes),
                    _ => None,
                });
                mtu_bytes = mtu.unwrap_or(0);
            }
            RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) => plain = false,
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
        (RouteType::Unicast, _) if nexthop.is_some() => RouteTarget::Nexthop { id: nexthop? },
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
        mtu_bytes,
        source,
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
pub(crate) fn parse_neighbour(message: &Message) -> Option<Neighbour> {
    let Message::Route(RouteNetlinkMessage::NewNeighbour(message)) = message else { return None };
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

/// An address of an interface.
pub(crate) fn parse_address(message: &Message) -> Option<LinkAddress> {
    let Message::Route(RouteNetlinkMessage::NewAddress(message)) = message else { return None };
    let (mut local, mut address, mut ours, mut lasting) = (None, None, false, true);
    // Of IPv6 the kernel calls temporary what of IPv4 it calls secondary.
    let passing = AddressFlags::Secondary
        | AddressFlags::Dadfailed
        | AddressFlags::Deprecated
        | AddressFlags::Tentative;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Label(label) => ours = label == OWN_ADDRESS_LABEL,
            AddressAttribute::Flags(flags) => lasting = !flags.intersects(passing),
            _ => {}
        }
    }
    let prefix_len = message.header.prefix_len;
    let (ifindex, address) = (message.header.index, local.or(address)?);
    Some(LinkAddress { ifindex, address, prefix_len, ours, lasting })
}

/// How the kernel reaches an address, from the answer to [`route_to`]; nothing if it is one of its own or leads nowhere.
pub(crate) fn parse_hop(message: &Message) -> Option<Hop> {
    let Message::Route(RouteNetlinkMessage::NewRoute(message)) = message else { return None };
    let (mut gateway, mut ifindex) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            _ => {}
        }
    }
    let unicast = message.header.kind == RouteType::Unicast;
    ifindex.filter(|_| unicast).map(|ifindex| Hop { ifindex, gateway })
}
