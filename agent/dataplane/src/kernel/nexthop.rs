//! Nexthop objects (`linux/nexthop.h`, since Linux 5.3) as netlink messages.
//!
//! The library has every rtnetlink message but these: header and attributes are written and read here. Only what we
//! install ourselves is understood; the rest is told apart by number and protocol alone.
//!
//! ```text
//! struct nhmsg:  family u8 | scope u8 | protocol u8 | reserved u8 | flags u32     then attributes
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_core::{
    DecodeError, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkDeserializable, NetlinkHeader,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::netlink::Request;
use crate::object::{FoundNexthop, Nexthop};

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

const NHA_ID: u16 = 1;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

/// Attributes that go with what we install: these, and nothing else.
const NHA_UNDERSTOOD: [u16; 3] = [NHA_ID, NHA_OIF, NHA_GATEWAY];

/// `RTNH_F_ONLINK`: the gateway is on the link whatever the routes say.
const ONLINK: u32 = 4;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const HEADER_BYTES: usize = 8;

/// What goes over an rtnetlink socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// What the library knows.
    Route(RouteNetlinkMessage),
    /// What it does not.
    Nexthop(NexthopMessage),
}

/// What a [`NexthopMessage`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    New,
    Delete,
    Get,
}

/// One message about a nexthop object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NexthopMessage {
    verb: Verb,
    family: u8,
    protocol: u8,
    flags: u32,
    id: Option<u32>,
    oif: Option<u32>,
    gateway: Option<IpAddr>,
    /// Whether it bears attributes that are not understood here (groups, encapsulation, blackholes).
    special: bool,
}

impl NexthopMessage {
    fn empty(verb: Verb) -> Self {
        Self {
            verb,
            family: AF_UNSPEC,
            protocol: 0,
            flags: 0,
            id: None,
            oif: None,
            gateway: None,
            special: false,
        }
    }

    /// The object it speaks of, unless it is a question.
    pub(crate) fn found(&self) -> Option<FoundNexthop> {
        let says = match (self.gateway, self.oif) {
            (Some(gateway), Some(ifindex)) if !self.special => {
                Some(Nexthop { gateway, ifindex, onlink: self.flags & ONLINK != 0 })
            }
            _ => None,
        };
        Some(FoundNexthop { id: self.id?, protocol: self.protocol, says })
    }

    fn gateway_bytes(&self) -> usize {
        self.gateway.map_or(0, |gateway| if gateway.is_ipv4() { 4 } else { 16 })
    }
}

/// Adds an object, or changes one that exists in place.
pub(crate) fn set(id: u32, nexthop: &Nexthop, protocol: u8, exists: bool) -> Request {
    let message = NexthopMessage {
        family: if nexthop.gateway.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol,
        flags: if nexthop.onlink { ONLINK } else { 0 },
        id: Some(id),
        oif: Some(nexthop.ifindex),
        gateway: Some(nexthop.gateway),
        ..NexthopMessage::empty(Verb::New)
    };
    (Message::Nexthop(message), if exists { NLM_F_REPLACE } else { NLM_F_CREATE | NLM_F_EXCL })
}

pub(crate) fn delete(id: u32) -> Request {
    (Message::Nexthop(NexthopMessage { id: Some(id), ..NexthopMessage::empty(Verb::Delete) }), 0)
}

pub(crate) fn all() -> Message {
    Message::Nexthop(NexthopMessage::empty(Verb::Get))
}

impl From<RouteNetlinkMessage> for Message {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Route(message)
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::Route(message) => message.message_type(),
            Self::Nexthop(message) => match message.verb {
                Verb::New => RTM_NEWNEXTHOP,
                Verb::Delete => RTM_DELNEXTHOP,
                Verb::Get => RTM_GETNEXTHOP,
            },
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Route(message) => message.buffer_len(),
            Self::Nexthop(message) => {
                let numbers = [message.id, message.oif].into_iter().flatten().count() * 8;
                let gateway = message.gateway.map_or(0, |_| 4 + message.gateway_bytes());
                HEADER_BYTES + numbers + gateway
            }
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let message = match self {
            Self::Route(message) => return message.serialize(buffer),
            Self::Nexthop(message) => message,
        };
        let mut bytes = Vec::with_capacity(buffer.len());
        bytes.extend([message.family, 0, message.protocol, 0]);
        bytes.extend(message.flags.to_ne_bytes());
        let mut attribute = |kind: u16, value: &[u8]| {
            // No value here needs padding: all are multiples of four bytes.
            let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
        };
        for (kind, number) in [(NHA_ID, message.id), (NHA_OIF, message.oif)] {
            if let Some(number) = number {
                attribute(kind, &number.to_ne_bytes());
            }
        }
        match message.gateway {
            Some(IpAddr::V4(ip)) => attribute(NHA_GATEWAY, &ip.octets()),
            Some(IpAddr::V6(ip)) => attribute(NHA_GATEWAY, &ip.octets()),
            None => {}
        }
        if let Some(place) = buffer.get_mut(..bytes.len()) {
            place.copy_from_slice(&bytes);
        }
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let verb = match header.message_type {
            RTM_NEWNEXTHOP => Verb::New,
            RTM_DELNEXTHOP => Verb::Delete,
            RTM_GETNEXTHOP => Verb::Get,
            _ => return RouteNetlinkMessage::deserialize(header, payload).map(Self::Route),
        };
        parse(verb, payload).map(Self::Nexthop)
    }
}

fn parse(verb: Verb, payload: &[u8]) -> Result<NexthopMessage, DecodeError> {
    let Some(([family, _, protocol, _, flags @ ..], attributes)) =
        payload.split_first_chunk::<HEADER_BYTES>()
    else {
        return Err(DecodeError::from(format!("a nexthop message of {} bytes", payload.len())));
    };
    let mut message = NexthopMessage {
        family: *family,
        protocol: *protocol,
        flags: u32::from_ne_bytes(*flags),
        ..NexthopMessage::empty(verb)
    };
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            NHA_ID => message.id = number(value),
            NHA_OIF => message.oif = number(value),
            NHA_GATEWAY => message.gateway = address(value),
            _ => {}
        }
        message.special |= !NHA_UNDERSTOOD.contains(&attribute.kind());
    }
    Ok(message)
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)));
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(message: &Message) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn read(kind: u16, bytes: &[u8]) -> Result<Message, DecodeError> {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        Message::deserialize(&header, bytes)
    }

    #[test]
    fn what_is_written_is_laid_out_as_the_kernel_reads_it() {
        let nexthop = Nexthop { gateway: [192, 0, 2, 7].into(), ifindex: 5, onlink: true };
        let (message, flags) = set(0x5000_0001, &nexthop, 80, false);
        assert_eq!((message.message_type(), flags), (104, NLM_F_CREATE | NLM_F_EXCL));
        let mut expected = vec![2, 0, 80, 0];
        expected.extend(4u32.to_ne_bytes());
        for (kind, value) in
            [(1u16, 0x5000_0001_u32.to_ne_bytes()), (5, 5u32.to_ne_bytes()), (6, [192, 0, 2, 7])]
        {
            expected.extend(8u16.to_ne_bytes());
            expected.extend(kind.to_ne_bytes());
            expected.extend(value);
        }
        assert_eq!(bytes_of(&message), expected);
        assert_eq!(bytes_of(&all()), [0; 8]);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let check = |gateway: &str, onlink: bool| {
            let nexthop = Nexthop { gateway: gateway.parse().unwrap(), ifindex: 9, onlink };
            let (message, _) = set(7, &nexthop, 80, true);
            let read = read(RTM_NEWNEXTHOP, &bytes_of(&message)).unwrap();
            assert_eq!(read, message);
            let Message::Nexthop(read) = read else { panic!("{read:?}") };
            assert_eq!(read.found(), Some(FoundNexthop { id: 7, protocol: 80, says: Some(nexthop) }));
        };
        check("192.0.2.1", true);
        check("192.0.2.1", false);
        check("fe80::1", true);
    }

    #[test]
    fn what_we_never_install_is_told_by_its_number_alone() {
        let (message, _) = set(7, &Nexthop { gateway: [1; 4].into(), ifindex: 9, onlink: true }, 80, true);
        let mut bytes = bytes_of(&message);
        // NHA_BLACKHOLE, a flag.
        bytes.extend(4u16.to_ne_bytes());
        bytes.extend(4u16.to_ne_bytes());
        let Message::Nexthop(read) = read(RTM_NEWNEXTHOP, &bytes).unwrap() else { panic!() };
        assert_eq!(read.found(), Some(FoundNexthop { id: 7, protocol: 80, says: None }));
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        let (message, _) = set(7, &Nexthop { gateway: [1; 4].into(), ifindex: 9, onlink: true }, 80, true);
        let bytes = bytes_of(&message);
        assert!(read(RTM_NEWNEXTHOP, &bytes[..7]).is_err());
        assert!(read(RTM_NEWNEXTHOP, &bytes[..bytes.len() - 1]).is_err());
    }
}
