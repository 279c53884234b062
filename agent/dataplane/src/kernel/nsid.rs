//! Numbers by which the node's network namespace knows others (`RTM_GETNSID`, `RTM_NEWNSID`).
//!
//! The kernel gives a namespace a number as soon as a pair leads into it, and takes the number back when the namespace
//! is gone for good: whoever holds it by a process, a mount or a descriptor keeps it. So a number that is not listed any
//! more proves the end of its namespace, wherever the agent runs and whatever mounts and processes it can see. A number
//! that is taken back may be given to another namespace.

use std::os::fd::RawFd;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};

use super::netlink::Request;
use super::nexthop::Message;

/// `NETNSA_NSID_NOT_ASSIGNED` (linux/net_namespace.h); in a request: any.
const NOT_ASSIGNED: i32 = -1;

/// Asks for the number of the namespace that a descriptor shows.
pub(super) fn get(netns: RawFd) -> Request {
    (RouteNetlinkMessage::GetNsId(message(fd(netns))).into(), 0)
}

/// Gives it a number if it has none; refused if it has.
pub(super) fn assign(netns: RawFd) -> Request {
    let mut attributes = vec![NsidAttribute::Id(NOT_ASSIGNED)];
    attributes.extend(fd(netns));
    (RouteNetlinkMessage::NewNsId(message(attributes)).into(), 0)
}

/// All numbers.
pub(super) fn all() -> Message {
    RouteNetlinkMessage::GetNsId(message(Vec::new())).into()
}

/// The number that an answer says, if there is one.
pub(super) fn parse(message: &Message) -> Option<u32> {
    let Message::Route(RouteNetlinkMessage::NewNsId(message)) = message else { return None };
    message.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => u32::try_from(*id).ok(),
        _ => None,
    })
}

fn fd(netns: RawFd) -> Vec<NsidAttribute> {
    u32::try_from(netns).map(NsidAttribute::Fd).into_iter().collect()
}

fn message(attributes: Vec<NsidAttribute>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes = attributes;
    message
}
