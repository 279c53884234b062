//! The bytes of one message: a header of fixed size and a JSON body. Pure; reading and writing sockets is
//! [`crate::socket`]'s and [`crate::client`]'s.
//!
//! ```text
//! offset  size
//!      0     4  magic, "PWRD"
//!      4     2  protocol version, big endian
//!      6     1  kind: 1 request, 2 reply
//!      7     1  file descriptors that travel with the header's first byte: 0 or 1
//!      8     4  length of the body in bytes, big endian
//!     12     n  body: one JSON value
//! ```
//! Magic, version and the header's size never change; everything behind the version may, with another version.
//! So a header of another version is told apart from garbage, and is answered, in a frame of one's own version,
//! with [`version_refusal`].

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ErrorCode, RpcError};

/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"PWRD";

/// The protocol version this build speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// Size of the header.
pub const HEADER_SIZE_BYTES: usize = 12;

/// The largest body of a request. The largest real one is a manifest or the list of a GC.
pub const MAX_REQUEST_BYTES: u32 = 4 * 1024 * 1024;

/// The largest body of a reply. The largest real one lists all blocks of a cluster.
pub const MAX_REPLY_BYTES: u32 = 64 * 1024 * 1024;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To the agent; its body is a [`crate::Request`].
    Request,
    /// From the agent; its body is a [`crate::Reply`].
    Reply,
}

impl Kind {
    /// The largest body of this kind.
    #[must_use]
    pub fn max_body_bytes(self) -> u32 {
        match self {
            Self::Request => MAX_REQUEST_BYTES,
            Self::Reply => MAX_REPLY_BYTES,
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Reply => "reply",
        }
    }
}

/// A header that was read and found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which way it goes.
    pub kind: Kind,
    /// Whether one file descriptor travels with it.
    pub has_fd: bool,
    /// Length of the body that follows; within [`Kind::max_body_bytes`].
    pub body_len_bytes: u32,
}

/// Why bytes are not a frame of ours.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not our protocol at all.
    #[error("frame begins with {found:02x?} instead of {MAGIC:02x?} (\"PWRD\"): the peer is not Poolward's")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Our protocol in another version: to be answered with [`version_refusal`].
    #[error(
        "the peer speaks protocol version {theirs}, this side speaks {PROTOCOL_VERSION}: \
         use a plugin, agent and poolwardctl of the same release"
    )]
    Version {
        /// The peer's version.
        theirs: u16,
    },
    /// A kind that does not exist.
    #[error("frame of kind {found}; kinds are 1 (request) and 2 (reply)")]
    Kind {
        /// The kind byte.
        found: u8,
    },
    /// A request where a reply is due, or the other way round.
    #[error("frame is a {}, expected a {}", found.noun(), expected.noun())]
    WrongWay {
        /// What came.
        found: Kind,
        /// What was due.
        expected: Kind,
    },
    /// More descriptors than any message has, or another number than the header says.
    #[error("{0}")]
    Descriptors(String),
    /// A body over the limit of its kind.
    #[error("{} of {len_bytes} bytes; the limit is {} bytes", kind.noun(), kind.max_body_bytes())]
    TooLong {
        /// Of which kind.
        kind: Kind,
        /// The length, as far as it is known.
        len_bytes: u64,
    },
    /// A body that is not JSON, or not the message that is due.
    #[error("body of {len_bytes} bytes: {source}")]
    Body {
        /// How long the body was.
        len_bytes: usize,
        /// What the decoder says, with line and column.
        source: serde_json::Error,
    },
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError::Magic`], then [`FrameError::Version`], then what is wrong behind these: the order in which
    /// the bytes can be relied on.
    pub fn parse(bytes: &[u8; HEADER_SIZE_BYTES]) -> Result<Self, FrameError> {
        let [m0, m1, m2, m3, v0, v1, kind, fds, l0, l1, l2, l3] = *bytes;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let theirs = u16::from_be_bytes([v0, v1]);
        if theirs != PROTOCOL_VERSION {
            return Err(FrameError::Version { theirs });
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Reply,
            found => return Err(FrameError::Kind { found }),
        };
        let has_fd = match fds {
            0 => false,
            1 => true,
            found => {
                return Err(FrameError::Descriptors(format!(
                    "header announces {found} file descriptors; at most 1 can travel with a message"
                )));
            }
        };
        let body_len_bytes = u32::from_be_bytes([l0, l1, l2, l3]);
        if body_len_bytes > kind.max_body_bytes() {
            return Err(FrameError::TooLong { kind, len_bytes: body_len_bytes.into() });
        }
        Ok(Self { kind, has_fd, body_len_bytes })
    }

    /// Refuses a frame that goes the wrong way.
    ///
    /// # Errors
    /// [`FrameError::WrongWay`].
    pub fn expect_kind(&self, expected: Kind) -> Result<(), FrameError> {
        if self.kind == expected { Ok(()) } else { Err(FrameError::WrongWay { found: self.kind, expected }) }
    }

    /// The header as it goes over the socket.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE_BYTES] {
        let [m0, m1, m2, m3] = MAGIC;
        let [v0, v1] = PROTOCOL_VERSION.to_be_bytes();
        let [l0, l1, l2, l3] = self.body_len_bytes.to_be_bytes();
        [m0, m1, m2, m3, v0, v1, self.kind.to_wire(), self.has_fd.into(), l0, l1, l2, l3]
    }
}

/// A whole frame: header and body. `has_fd` says that the caller sends a descriptor with its first byte.
///
/// # Errors
/// [`FrameError::TooLong`] when the body is over the limit of its kind; [`FrameError::Body`] when the message
/// cannot be written as JSON.
pub fn encode<T: Serialize>(kind: Kind, has_fd: bool, message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER_SIZE_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(|source| FrameError::Body { len_bytes: 0, source })?;
    let len = frame.len() - HEADER_SIZE_BYTES;
    let body_len_bytes = u32::try_from(len)
        .ok()
        .filter(|len_bytes| *len_bytes <= kind.max_body_bytes())
        .ok_or(FrameError::TooLong { kind, len_bytes: len as u64 })?;
    let header = Header { kind, has_fd, body_len_bytes }.to_bytes();
    if let Some(start) = frame.first_chunk_mut::<HEADER_SIZE_BYTES>() {
        *start = header;
    }
    Ok(frame)
}

/// The message of a body; nothing may follow it.
///
/// # Errors
/// [`FrameError::Body`].
pub fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(|source| FrameError::Body { len_bytes: body.len(), source })
}

/// What a peer of another protocol version is told, in a frame of our own version.
#[must_use]
pub fn version_refusal(theirs: u16) -> RpcError {
    RpcError {
        code: ErrorCode::Version,
        message: format!(
            "protocol version {theirs} of the request is not spoken here: the agent speaks {PROTOCOL_VERSION}"
        ),
        details: vec!["use a plugin, agent and poolwardctl of the same release".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddRequest, Reply, Request};

    fn header_of(bytes: &[u8]) -> Result<Header, FrameError> {
        Header::parse(bytes.first_chunk().unwrap())
    }

    #[test]
    fn the_layout_is_as_documented() {
        let frame = encode(Kind::Request, true, &Request::CniStatus).unwrap();
        let body = br#"{"op":"cniStatus"}"#;
        assert_eq!(&frame[..12], b"PWRD\x00\x01\x01\x01\x00\x00\x00\x12");
        assert_eq!(&frame[12..], body);
        let reply = encode(Kind::Reply, false, &Reply::Done).unwrap();
        assert_eq!(&reply[..12], b"PWRD\x00\x01\x02\x00\x00\x00\x00\x10");
        assert_eq!(
            header_of(&reply).unwrap(),
            Header { kind: Kind::Reply, has_fd: false, body_len_bytes: 16 }
        );
    }

    #[test]
    fn wrong_headers_are_refused_and_the_reason_is_named() {
        let check = |bytes: &[u8; 12], expected: &str| {
            let error = Header::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{bytes:02x?}: {error}");
        };
        check(b"GET / HTTP/1", "the peer is not Poolward's");
        check(b"PWRE\x00\x01\x01\x00\x00\x00\x00\x00", "[50, 57, 52, 45]");
        check(b"PWRD\x00\x02\xff\xff\xff\xff\xff\xff", "speaks protocol version 2, this side speaks 1");
        check(b"PWRD\x00\x01\x00\x00\x00\x00\x00\x00", "kind 0");
        check(b"PWRD\x00\x01\x03\x00\x00\x00\x00\x00", "kind 3");
        check(b"PWRD\x00\x01\x01\x02\x00\x00\x00\x00", "2 file descriptors");
        check(b"PWRD\x00\x01\x01\x00\x00\x40\x00\x01", "request of 4194305 bytes; the limit is 4194304");
        check(b"PWRD\x00\x01\x02\x00\x04\x00\x00\x01", "reply of 67108865 bytes; the limit is 67108864");
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        for (bytes, expected) in [
            (b"PWRD\x00\x01\x01\x00\x00\x40\x00\x00", MAX_REQUEST_BYTES),
            (b"PWRD\x00\x01\x02\x00\x04\x00\x00\x00", MAX_REPLY_BYTES),
            (b"PWRD\x00\x01\x01\x00\x00\x00\x00\x00", 0),
        ] {
            assert_eq!(Header::parse(bytes).unwrap().body_len_bytes, expected);
        }
    }

    #[test]
    fn every_other_version_is_told_apart_from_garbage_and_answered_with_both_versions() {
        for theirs in [0_u16, 2, 255, 256, u16::MAX] {
            let [v0, v1] = theirs.to_be_bytes();
            let bytes = [b'P', b'W', b'R', b'D', v0, v1, 9, 9, 9, 9, 9, 9];
            assert!(matches!(Header::parse(&bytes), Err(FrameError::Version { theirs: t }) if t == theirs));
            let refusal = version_refusal(theirs);
            assert_eq!(refusal.code, ErrorCode::Version);
            assert!(refusal.message.contains(&theirs.to_string()) && refusal.message.contains("speaks 1"));
        }
    }

    #[test]
    fn an_oversize_request_is_not_encoded() {
        let netns_path = "x".repeat(MAX_REQUEST_BYTES as usize);
        let request = Request::CniAdd(AddRequest { netns_path, ..AddRequest::default() });
        assert!(matches!(
            encode(Kind::Request, false, &request),
            Err(FrameError::TooLong { kind: Kind::Request, len_bytes }) if len_bytes > MAX_REQUEST_BYTES.into()
        ));
    }

    #[test]
    fn a_body_is_one_whole_message() {
        let whole = br#"{"op":"cniDel","attachment":{"containerId":"c","ifname":"eth0","network":"n"}}"#;
        assert!(decode_body::<Request>(whole).is_ok());
        for cut in 0..whole.len() {
            let error = decode_body::<Request>(&whole[..cut]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("body of {cut} bytes: ")), "{error}");
        }
        for bad in [&br#"{"op":"cniStatus"} x"#[..], br#"{"op":"format"}"#, br#"{}"#, b"\xff\xfe"] {
            assert!(decode_body::<Request>(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_frame_goes_one_way() {
        let header = Header { kind: Kind::Request, has_fd: false, body_len_bytes: 2 };
        assert!(header.expect_kind(Kind::Request).is_ok());
        let error = header.expect_kind(Kind::Reply).unwrap_err().to_string();
        assert_eq!(error, "frame is a request, expected a reply");
    }
}
