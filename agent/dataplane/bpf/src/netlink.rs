//! What is asked of the kernel's lists of interfaces, qdiscs and filters: single dumps, nothing kept open.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkLayerType, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::error::{BpfError, Context};

/// Messages of one dump; a device with more filters than this is none of ours.
const DUMP_MAX: usize = 65_536;

/// Refuses an interface whose frames have no Ethernet header.
pub(crate) fn require_ethernet(ifindex: u32, operation: &'static str) -> Result<(), BpfError> {
    let replies = dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .kernel(|| format!("{operation}: listing the interfaces"))?;
    let kind = replies.into_iter().find_map(|reply| match reply {
        RouteNetlinkMessage::NewLink(link) if link.header.index == ifindex => {
            Some(link.header.link_layer_type)
        }
        _ => None,
    });
    match kind {
        Some(LinkLayerType::Ether) => Ok(()),
        Some(_) => Err(BpfError::NotEthernet { operation, ifindex }),
        None => Err(BpfError::NoInterface { operation, ifindex }),
    }
}

/// One dump over a socket of the calling thread's network namespace.
pub(crate) fn dump(request: RouteNetlinkMessage) -> std::io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = 1;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut replies = Vec::new();
    while replies.len() < DUMP_MAX {
        let (received, _) = socket.recv_from_full()?;
        let mut rest = received.as_slice();
        while !rest.is_empty() {
            let reply =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(std::io::Error::other)?;
            let length = (reply.header.length as usize).next_multiple_of(4);
            match reply.payload {
                NetlinkPayload::Done(_) => return Ok(replies),
                // A device without the qdisc, or no such device.
                NetlinkPayload::Error(error) => {
                    let error = error.to_io();
                    return match error.raw_os_error() {
                        None | Some(0 | libc::EINVAL | libc::ENODEV | libc::ENOENT) => Ok(replies),
                        Some(_) => Err(error),
                    };
                }
                NetlinkPayload::InnerMessage(inner) => replies.push(inner),
                _ => {}
            }
            rest = rest.get(length.max(16)..).unwrap_or_default();
        }
    }
    Err(std::io::Error::other(format!("more than {DUMP_MAX} messages in one dump")))
}
