//! Tells when something changed that the dataplane depends on, so that a tampered route is repaired by its event
//! rather than by a timer.
//!
//! What changed is not looked at: the reconciliation that follows reads everything. An event of our own doing
//! leads to a run that plans nothing.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};
use rustix::io::Errno;

use crate::kernel::KernelError;
use crate::kernel::netlink::Messages;

/// What kind of thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// An interface.
    Link,
    /// An address of an interface.
    Address,
    /// A route.
    Route,
    /// More than the socket could hold: anything may have changed.
    Overflow,
}

/// A subscription to changes in one network namespace; ends when dropped.
pub struct Events {
    source: Source,
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

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
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
            Ok(Self { source: Source::Netlink(socket) })
        };
        subscribe()
            .map_err(|cause| KernelError::io("subscribe to changes of links, addresses and routes", cause))
    }

    /// Waits for the next change and takes everything that is there by then, as one event: the first kind seen, or
    /// [`Event::Overflow`]. Cancel safe.
    ///
    /// # Errors
    /// The socket broke; subscribe again.
    pub async fn next(&mut self) -> Result<Event, KernelError> {
        match &mut self.source {
            Source::Netlink(socket) => poll_fn(|context| poll_next(socket, context))
                .await
                .map_err(|cause| KernelError::io("wait for changes of links, addresses and routes", cause)),
            #[cfg(any(test, feature = "fake"))]
            Source::Fake(changed) => {
                changed.notified().await;
                Ok(Event::Link)
            }
        }
    }

    /// A subscription to a kernel in memory, which has one subscriber at a time.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn of_fake(changed: std::sync::Arc<tokio::sync::Notify>) -> Self {
        Self { source: Source::Fake(changed) }
    }
}

fn poll_next(socket: &mut TokioSocket, context: &mut Context<'_>) -> Poll<io::Result<Event>> {
    let mut first = None;
    let mut bytes: Vec<u8> = Vec::with_capacity(64 * 1024);
    for _ in 0..DRAIN_MAX {
        bytes.clear();
        match socket.poll_recv(context, &mut bytes) {
            Poll::Ready(Ok(())) => first = first.or_else(|| kind_of(&bytes)),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                first = Some(Event::Overflow);
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            // The waker is set, which does no harm if there is something to return now.
            Poll::Pending => return first.map_or(Poll::Pending, |event| Poll::Ready(Ok(event))),
        }
    }
    Poll::Ready(Ok(first.unwrap_or(Event::Overflow)))
}

/// Most datagrams taken at once, so that a storm of changes does not keep the caller from its work.
const DRAIN_MAX: usize = 4096;

/// The first kind of change in a datagram. One that cannot be parsed counts as an overflow.
fn kind_of(bytes: &[u8]) -> Option<Event> {
    Messages(bytes).find_map(|message| match message {
        Ok(Ok(message)) => match message.payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_),
            ) => Some(Event::Link),
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_),
            ) => Some(Event::Address),
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_),
            ) => Some(Event::Route),
            _ => None,
        },
        Ok(Err(_)) | Err(_) => Some(Event::Overflow),
    })
}
