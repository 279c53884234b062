//! Tells when something changed that the dataplane depends on, so that a tampered route is repaired by its event
//! rather than by a timer.
//!
//! Of what changed only that is looked at which says how soon to act; the run that follows reads for itself. An event
//! of our own doing leads to a run that plans nothing.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};

use model::{Cidr, Identity};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};
use rustix::io::Errno;

use crate::kernel::netlink::Messages;
use crate::kernel::nexthop::Message;
use crate::kernel::{KernelError, message};

/// What changed, the least urgent first: of several at once the most urgent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// An interface of a pod.
    Link,
    /// A route that nothing else hangs on.
    Route,
    /// Something that routes to other nodes stand on, or one of these: an interface that is no pod's, an address, a
    /// route, a nexthop object. [`Dataplane::repair`](crate::Dataplane::repair) brings back what went with it.
    Underlay,
    /// More than the socket could hold: anything may have changed.
    Overflow,
}

/// A subscription to changes in one network namespace; ends when dropped.
pub struct Events {
    source: Source,
    /// Where routes led that were told to be gone, as far as they have not been taken.
    gone: Vec<Cidr>,
}

enum Source {
    /// The kernel tells.
    Netlink(TokioSocket),
    /// A kernel in memory tells.
    #[cfg(any(test, feature = "fake"))]
    Fake(std::sync::Arc<tokio::sync::Notify>),
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Nexthop,
];

/// Bytes of receive buffer asked for; the kernel may give less (`net.core.rmem_max`).
const RECEIVE_BYTES: usize = 1 << 20;

impl Events {
    /// Subscribes in the calling thread's network namespace. Needs a tokio runtime.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let subscribe = || -> io::Result<Self> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            let groups = GROUPS.iter().fold(0, |bits, group| bits | 1 << (*group as u32 - 1));
            socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
            if let Err(error) = socket.socket_ref().set_rx_buf_sz(RECEIVE_BYTES) {
                tracing::debug!(%error, "the event socket keeps its default receive buffer");
            }
            Ok(Self { source: Source::Netlink(socket), gone: Vec::new() })
        };
        subscribe().map_err(|cause| {
            KernelError::io("subscribe to changes of links, addresses, routes and nexthops", cause)
        })
    }

    /// Waits for the next change and takes everything that is there by then, as one event: the most urgent one.
    /// Cancel safe.
    ///
    /// # Errors
    /// The socket broke; subscribe again.
    pub async fn next(&mut self) -> Result<Event, KernelError> {
        match &mut self.source {
            Source::Netlink(socket) => {
                let gone = &mut self.gone;
                poll_fn(|context| poll_next(socket, gone, context)).await.map_err(|cause| {
                    KernelError::io("wait for changes of links, addresses, routes and nexthops", cause)
                })
            }
            #[cfg(any(test, feature = "fake"))]
            Source::Fake(changed) => {
                changed.notified().await;
                Ok(Event::Link)
            }
        }
    }

    /// Where the routes of the main table led that were told to be gone since this was asked last, whosever they were:
    /// for [`Dataplane::restore`](crate::Dataplane::restore). At most 256; what is not told here, the run that
    /// the event asks for finds.
    pub fn take_gone(&mut self) -> Vec<Cidr> {
        std::mem::take(&mut self.gone)
    }

    /// A subscription to a kernel in memory, which has one subscriber at a time.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn of_fake(changed: std::sync::Arc<tokio::sync::Notify>) -> Self {
        Self { source: Source::Fake(changed), gone: Vec::new() }
    }
}

fn poll_next(
    socket: &mut TokioSocket,
    gone: &mut Vec<Cidr>,
    context: &mut Context<'_>,
) -> Poll<io::Result<Event>> {
    let mut worst = None;
    let mut bytes: Vec<u8> = Vec::with_capacity(64 * 1024);
    for _ in 0..DRAIN_MAX {
        bytes.clear();
        match socket.poll_recv(context, &mut bytes) {
            Poll::Ready(Ok(())) => worst = worst.max(event_of(&bytes, gone)),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                worst = Some(Event::Overflow);
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            // The waker is set, which does no harm if there is something to return now.
            Poll::Pending => return worst.map_or(Poll::Pending, |event| Poll::Ready(Ok(event))),
        }
    }
    Poll::Ready(Ok(worst.unwrap_or(Event::Overflow)))
}

/// Most routes that are remembered as gone until they are asked for.
pub(crate) const GONE_MAX: usize = 256;

/// Most datagrams taken at once, so that a storm of changes does not keep the caller from its work.
const DRAIN_MAX: usize = 4096;

/// The most urgent change in a datagram. One that cannot be parsed counts as an overflow.
fn event_of(bytes: &[u8], gone: &mut Vec<Cidr>) -> Option<Event> {
    let event = |message| match message {
        Ok(Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. })) => {
            let route = message::parse_gone_route(&message).filter(|_| gone.len() < GONE_MAX);
            gone.extend(route.map(|route| route.destination));
            classify(&message)
        }
        Ok(Ok(_)) => None,
        Ok(Err(_)) | Err(_) => Some(Event::Overflow),
    };
    Messages(bytes).filter_map(event).max()
}

fn classify(message: &Message) -> Option<Event> {
    let message = match message {
        Message::Nexthop(_) => return Some(Event::Underlay),
        Message::Route(message) => message,
    };
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            let alias = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfAlias(alias) => Some(alias.as_str()),
                _ => None,
            });
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.as_str()),
                _ => None,
            });
            // A pair is announced before it has its alias.
            let is_pod = alias.is_some_and(|alias| Identity::parse_alias(alias).is_ok())
                || alias.is_none() && name.is_some_and(is_host_ifname);
            Some(if is_pod { Event::Link } else { Event::Underlay })
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            // Every interface has one of these, a pod's as well, and nothing is reached by it.
            let is_link_local = address.attributes.iter().any(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V6(ip)) => ip.is_unicast_link_local(),
                _ => false,
            });
            Some(if is_link_local { Event::Link } else { Event::Underlay })
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            Some(classify_route(route))
        }
        _ => None,
    }
}

/// Whether an interface may be a pod's by its name (`Handle::host_ifname`).
fn is_host_ifname(name: &str) -> bool {
    let digits = name.strip_prefix("pw").unwrap_or_default();
    digits.len() == 13 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Pods' routes come and go with every ADD and DEL; what else changes in the main table may be the way to a node, or
/// stand in the place of one of ours.
fn classify_route(route: &RouteMessage) -> Event {
    let leads_on = |attribute: &RouteAttribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::NhId(_) | RouteAttribute::MultiPath(_)
        )
    };
    let is_pods = route.header.kind == RouteType::Unicast
        && is_host_route(route)
        && !route.attributes.iter().any(leads_on);
    let elsewhere = route.header.table != RouteHeader::RT_TABLE_MAIN;
    // What the kernel adds by itself comes with an address or an interface, which is told as well.
    let by_kernel = route.header.protocol == RouteProtocol::Kernel;
    if is_pods || elsewhere || by_kernel { Event::Route } else { Event::Underlay }
}

fn is_host_route(route: &RouteMessage) -> bool {
    let bits = match route.header.address_family {
        AddressFamily::Inet6 => 128,
        _ => 32,
    };
    route.header.destination_prefix_length == bits
}
