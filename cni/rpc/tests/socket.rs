//! The client and the descriptor over real sockets, with peers that behave in every bad way.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::fs::File;
use std::io::{IoSlice, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use poolward_rpc::client::{CONNECT_TIMEOUT, Client, ClientError};
use poolward_rpc::frame::{
    FrameError, HEADER_SIZE_BYTES, Kind, MAX_REQUEST_BYTES, decode_body, encode, version_refusal,
};
use poolward_rpc::socket::{HeaderReader, recv_header, send_some};
use poolward_rpc::{AddRequest, ApplyRequest, Document, GetReply, Reply, Request};
use rustix::io::fcntl_getfd;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

const PATIENCE: Duration = Duration::from_secs(20);

/// An agent that answers one connection with `answer`.
fn agent<T: Send + 'static>(
    path: &Path,
    answer: impl FnOnce(&mut UnixStream) -> T + Send + 'static,
) -> JoinHandle<T> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || answer(&mut listener.accept().unwrap().0))
}

/// Reads one request as the agent does.
fn read_request(stream: &mut UnixStream) -> Request {
    let (header, _) = recv_header(stream.as_fd()).unwrap().parse().unwrap();
    let mut body = vec![0; header.body_len_bytes as usize];
    stream.read_exact(&mut body).unwrap();
    decode_body(&body).unwrap()
}

fn call(path: &Path, timeout: Duration) -> Result<Reply, ClientError> {
    Client::connect(path, CONNECT_TIMEOUT).and_then(|client| client.call(&Request::CniStatus, None, timeout))
}

/// Runs one call against an agent that answers with these bytes and closes.
fn answered_with(bytes: Vec<u8>) -> Result<Reply, ClientError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let agent = agent(&path, move |stream| {
        read_request(stream);
        stream.write_all(&bytes).unwrap();
    });
    let reply = call(&path, PATIENCE);
    agent.join().unwrap();
    reply
}

fn send_with_fds(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
}

fn request_frame(has_fd: bool) -> Vec<u8> {
    encode(Kind::Request, has_fd, &Request::CniStatus).unwrap()
}

#[test]
fn a_call_carries_the_request_and_its_descriptor_and_brings_the_reply() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let agent = agent(&path, |stream| {
        let (header, fd) = recv_header(stream.as_fd()).unwrap().parse().unwrap();
        let mut body = vec![0; header.body_len_bytes as usize];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(&encode(Kind::Reply, false, &Reply::Done).unwrap()).unwrap();
        let fd = fd.unwrap();
        assert!(fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        (decode_body::<Request>(&body).unwrap(), text)
    });
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"namespace").unwrap();
    file.rewind().unwrap();
    let request = Request::CniAdd(AddRequest { netns_path: "/run/netns/a".into(), ..AddRequest::default() });
    let client = Client::connect(&path, CONNECT_TIMEOUT).unwrap();
    assert_eq!(client.call(&request, Some(file.as_fd()), PATIENCE).unwrap(), Reply::Done);
    assert_eq!(agent.join().unwrap(), (request, "namespace".to_owned()));
}

#[test]
fn large_messages_cross_in_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let big = || serde_json::Value::from("x".repeat(3 * 1024 * 1024));
    let agent = agent(&path, move |stream| {
        let Request::Apply(apply) = read_request(stream) else { panic!("another request") };
        let objects = vec![apply.documents[0].body.clone(); 5];
        stream
            .write_all(&encode(Kind::Reply, false, &Reply::Objects(GetReply { objects })).unwrap())
            .unwrap();
    });
    let documents = vec![Document { source: "a".into(), body: big() }];
    let request = Request::Apply(ApplyRequest { documents, dry_run: false });
    let reply = Client::connect(&path, CONNECT_TIMEOUT).unwrap().call(&request, None, PATIENCE).unwrap();
    agent.join().unwrap();
    assert_eq!(reply, Reply::Objects(GetReply { objects: vec![big(); 5] }));
}

#[test]
fn an_agent_that_is_not_there_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent.sock");
    assert!(matches!(call(&absent, PATIENCE), Err(ClientError::Absent { .. })));
    let dead = dir.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let error = call(&dead, PATIENCE).unwrap_err();
    assert!(matches!(error, ClientError::Absent { .. }));
    let text = error.to_string();
    assert!(text.contains("dead.sock") && text.contains("Connection refused"), "{text}");
    let long = dir.path().join("x".repeat(120));
    assert!(matches!(call(&long, PATIENCE), Err(ClientError::Io { .. })));
}

#[test]
fn an_agent_that_does_not_accept_times_out_on_connect() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    let listener =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None);
    let listener = listener.unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut kept = Vec::new();
    let start = Instant::now();
    let error = loop {
        match Client::connect(&path, Duration::from_millis(150)) {
            Ok(client) => kept.push(client),
            Err(error) => break error,
        }
        assert!(kept.len() < 10, "the backlog never fills");
    };
    assert!(matches!(error, ClientError::Timeout { after_ms: 150, .. }), "{error}");
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn an_agent_that_hangs_times_out_whether_it_is_silent_or_drips() {
    let drip = |pause: Duration| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let agent = agent(&path, move |stream| {
            let frame = encode(Kind::Reply, false, &Reply::Done).unwrap();
            for byte in frame {
                thread::sleep(pause);
                if stream.write_all(&[byte]).is_err() {
                    break;
                }
            }
        });
        let start = Instant::now();
        let error = call(&path, Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, ClientError::Timeout { after_ms: 200, .. }), "{error}");
        assert!((150..5000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        agent.join().unwrap();
    };
    drip(Duration::from_millis(60));
    drip(Duration::from_millis(700));
}

#[test]
fn an_agent_that_never_reads_times_out_while_sending() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let request = Request::CniAdd(AddRequest { netns_path: "x".repeat(3 << 20), ..AddRequest::default() });
    let client = Client::connect(&path, CONNECT_TIMEOUT).unwrap();
    let error = client.call(&request, None, Duration::from_millis(200)).unwrap_err();
    assert!(
        matches!(error, ClientError::Timeout { operation: "send request to the agent at", .. }),
        "{error}"
    );
    drop(listener);
}

#[test]
fn a_reply_cut_at_any_byte_is_a_lost_connection() {
    let frame = encode(Kind::Reply, false, &Reply::Done).unwrap();
    for cut in 0..frame.len() {
        let error = answered_with(frame[..cut].to_vec()).unwrap_err();
        assert!(matches!(error, ClientError::Lost { .. }), "cut at {cut}: {error}");
    }
    assert_eq!(answered_with(frame).unwrap(), Reply::Done);
}

#[test]
fn a_reply_that_breaks_the_protocol_is_told_apart() {
    let protocol = |bytes: &[u8], expected: &str| {
        let error = answered_with(bytes.to_vec()).unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    protocol(b"HTTP/1.1 400 Bad Request\r\n", "the peer is not Poolward's");
    protocol(&request_frame(false), "frame is a request, expected a reply");
    protocol(
        b"PWRD\x00\x01\x02\x00\xff\xff\xff\xff",
        "reply of 4294967295 bytes; the limit is 67108864 bytes",
    );
    protocol(b"PWRD\x00\x01\x02\x00\x00\x00\x00\x02{}", "body of 2 bytes: missing field `reply`");
    protocol(b"PWRD\x00\x01\x02\x01\x00\x00\x00\x02{}", "announces a file descriptor, but none came");
}

#[test]
fn another_release_is_told_apart_on_either_side() {
    let check = |bytes: Vec<u8>, expected: &str| {
        let error = answered_with(bytes).unwrap_err();
        assert!(matches!(error, ClientError::Version { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        b"PWRD\x00\x07\x02\x00\x00\x00\x00\x02{}".to_vec(),
        "speaks protocol version 7, this side speaks 1",
    );
    let refusal = Reply::Error(version_refusal(9));
    check(encode(Kind::Reply, false, &refusal).unwrap(), "version 9 of the request is not spoken");
}

#[test]
fn an_agent_that_refuses_early_is_heard_although_the_request_was_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let agent = agent(&path, |stream| {
        recv_header(stream.as_fd()).unwrap();
        stream.write_all(&encode(Kind::Reply, false, &Reply::Error(version_refusal(1))).unwrap()).unwrap();
    });
    let request = Request::CniAdd(AddRequest { netns_path: "x".repeat(3 << 20), ..AddRequest::default() });
    let error = Client::connect(&path, CONNECT_TIMEOUT).unwrap().call(&request, None, PATIENCE).unwrap_err();
    agent.join().unwrap();
    assert!(matches!(error, ClientError::Version { .. }), "{error}");
}

#[test]
fn an_oversize_request_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let agent = agent(&path, |stream| stream.read(&mut [0; 1]).unwrap());
    let netns_path = "x".repeat(MAX_REQUEST_BYTES as usize);
    let request = Request::CniAdd(AddRequest { netns_path, ..AddRequest::default() });
    let error = Client::connect(&path, CONNECT_TIMEOUT).unwrap().call(&request, None, PATIENCE).unwrap_err();
    assert!(matches!(error, ClientError::Protocol { source: FrameError::TooLong { .. }, .. }), "{error}");
    assert_eq!(agent.join().unwrap(), 0);
}

#[test]
fn a_header_arrives_in_pieces_over_a_socket_that_does_not_block() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let file = tempfile::tempfile().unwrap();
    let frame = request_frame(true);
    let mut reader = HeaderReader::new();
    assert!(!reader.has_begun());
    for (i, byte) in frame[..HEADER_SIZE_BYTES].iter().enumerate() {
        assert_eq!(reader.read(ours.as_fd()).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let fd = (i == 0).then(|| file.as_fd());
        assert_eq!(send_some(theirs.as_fd(), &[*byte], fd).unwrap(), 1);
    }
    // The body must stay where it is.
    (&theirs).write_all(&frame[HEADER_SIZE_BYTES..]).unwrap();
    let (header, fd) = reader.read(ours.as_fd()).unwrap().parse().unwrap();
    assert!(reader.has_begun() && header.has_fd && fd.is_some());
    let mut body = vec![0; header.body_len_bytes as usize];
    (&ours).read_exact(&mut body).unwrap();
    assert_eq!(decode_body::<Request>(&body).unwrap(), Request::CniStatus);
}

#[test]
fn a_header_cut_at_any_byte_is_an_end_and_closes_the_descriptor() {
    for cut in 0..HEADER_SIZE_BYTES {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (probe, passed) = UnixStream::pair().unwrap();
        if cut > 0 {
            send_with_fds(&theirs, &request_frame(true)[..cut], &[passed.as_fd()]);
        }
        drop((theirs, passed));
        let error = recv_header(ours.as_fd()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), format!("connection closed after {cut} of 12 header bytes"));
        assert_all_closed(&probe);
    }
}

#[test]
fn unwelcome_descriptors_are_refused_and_closed() {
    let check = |frame: &[u8], fd_count: usize, expected: &str| {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (probe, passed) = UnixStream::pair().unwrap();
        send_with_fds(&theirs, frame, &vec![passed.as_fd(); fd_count]);
        drop(passed);
        let error = match recv_header(ours.as_fd()) {
            Ok(received) => received.parse().unwrap_err().to_string(),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                error.to_string()
            }
        };
        assert!(error.contains(expected), "{error}");
        assert_all_closed(&probe);
    };
    check(&request_frame(true), 2, "2 file descriptors came; at most 1");
    check(&request_frame(true), 4, "4 file descriptors came; at most 1");
    check(&request_frame(true), 16, "more file descriptors came than can be received");
    check(&request_frame(false), 1, "a file descriptor came that the header does not announce");
}

#[test]
fn a_second_descriptor_with_a_later_piece_is_refused() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let (probe, passed) = UnixStream::pair().unwrap();
    let frame = request_frame(true);
    send_with_fds(&theirs, &frame[..5], &[passed.as_fd()]);
    send_with_fds(&theirs, &frame[5..], &[passed.as_fd()]);
    drop(passed);
    let error = recv_header(ours.as_fd()).unwrap_err();
    assert!(error.to_string().contains("2 file descriptors came"), "{error}");
    assert_all_closed(&probe);
}

/// The other end of `probe` is open nowhere: reading it ends.
fn assert_all_closed(probe: &UnixStream) {
    probe.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!((&*probe).read(&mut [0; 1]).expect("a descriptor stayed open"), 0);
}
