//! Arbitrary bytes: nothing panics, and what is accepted is what would have been sent.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use poolward_rpc::frame::{HEADER_SIZE_BYTES, Header, Kind, MAGIC, PROTOCOL_VERSION, decode_body, encode};
use poolward_rpc::socket::recv_header;
use poolward_rpc::{Attachment, DelRequest, ErrorCode, Reply, Request, RpcError};
use proptest::collection::vec;
use proptest::prelude::*;

/// Headers near the right one, so that every check is reached.
fn headers() -> impl Strategy<Value = [u8; HEADER_SIZE_BYTES]> {
    let magic = prop_oneof![4 => Just(MAGIC), 1 => any::<[u8; 4]>()];
    let version = prop_oneof![4 => Just(PROTOCOL_VERSION), 1 => any::<u16>()];
    (magic, version, 0_u8..4, 0_u8..3, any::<u32>(), 0_u32..33).prop_map(|(m, v, kind, fds, len, shift)| {
        let (v, len) = (v.to_be_bytes(), len.checked_shr(shift).unwrap_or(0).to_be_bytes());
        [m[0], m[1], m[2], m[3], v[0], v[1], kind, fds, len[0], len[1], len[2], len[3]]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_header_that_is_accepted_is_the_one_that_would_have_been_sent(bytes in headers()) {
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert_eq!(header.to_bytes(), bytes);
            prop_assert!(header.body_len_bytes <= header.kind.max_body_bytes());
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read_as_a_header(bytes in any::<[u8; HEADER_SIZE_BYTES]>()) {
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert_eq!(header.to_bytes(), bytes);
        }
    }

    #[test]
    fn any_body_is_refused_or_read(body in vec(any::<u8>(), 0..300)) {
        let _ = decode_body::<Request>(&body);
        let _ = decode_body::<Reply>(&body);
    }

    #[test]
    fn a_damaged_message_is_refused_or_read(at in 0_usize..90, byte in any::<u8>()) {
        let mut body = br#"{"op":"cniDel","attachment":{"containerId":"c0ffee","ifname":"eth0","network":"n"}}"#.to_vec();
        let at = at % body.len();
        body[at] = byte;
        if let Ok(request) = decode_body::<Request>(&body) {
            prop_assert!(encode(Kind::Request, false, &request).is_ok());
        }
    }

    #[test]
    fn any_text_survives_the_round_trip(id in ".{0,40}", ifname in any::<String>(), message in any::<String>()) {
        let attachment = Attachment { container_id: id, ifname, network: message.clone() };
        let request = Request::CniDel(DelRequest { attachment });
        let frame = encode(Kind::Request, false, &request).unwrap();
        prop_assert_eq!(decode_body::<Request>(&frame[HEADER_SIZE_BYTES..]).unwrap(), request);
        let reply = Reply::Error(RpcError {
            code: ErrorCode::Internal, message: message.clone(), details: vec![message],
        });
        let frame = encode(Kind::Reply, false, &reply).unwrap();
        prop_assert_eq!(decode_body::<Reply>(&frame[HEADER_SIZE_BYTES..]).unwrap(), reply);
    }

    #[test]
    fn any_bytes_from_a_peer_end_in_a_header_or_an_error(bytes in vec(any::<u8>(), 0..40)) {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        theirs.write_all(&bytes).unwrap();
        drop(theirs);
        match recv_header(ours.as_fd()) {
            Ok(received) => {
                prop_assert_eq!(&received.bytes[..], &bytes[..HEADER_SIZE_BYTES]);
                prop_assert!(received.fd.is_none());
                let _ = received.parse();
            }
            Err(error) => {
                prop_assert!(bytes.len() < HEADER_SIZE_BYTES);
                prop_assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
            }
        }
    }
}
