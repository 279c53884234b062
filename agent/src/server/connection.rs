//! One connection: one request, one reply.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rpc::frame::{self, FrameError, Kind};
use rpc::socket::HeaderReader;
use rpc::{ErrorCode, Reply, Request, RpcError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Service;

/// How long a client may take to send its request, or to take its reply.
const TRANSFER_LIMIT: Duration = Duration::from_secs(10);

/// How long a refused client may take to go away.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// What a client did wrong.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the request did not arrive within {} s", TRANSFER_LIMIT.as_secs())]
    Slow,
    #[error("closed without a request")]
    Silent,
}

/// Reads the request, has it answered, writes the reply. A client that hangs up meanwhile cancels it.
pub(super) async fn serve<S: Service>(mut stream: UnixStream, service: &S) {
    let received = tokio::time::timeout(TRANSFER_LIMIT, receive(&mut stream)).await;
    let (request, descriptor) = match received.unwrap_or(Err(Fault::Slow)) {
        Ok(received) => received,
        Err(Fault::Silent) => return,
        Err(fault) => {
            warn!(%fault, "a request could not be read");
            let error = match fault {
                Fault::Frame(FrameError::Version { theirs }) => frame::version_refusal(theirs),
                fault => RpcError { code: ErrorCode::Invalid, message: fault.to_string(), details: vec![] },
            };
            return refuse(stream, error).await;
        }
    };
    let cancel = CancellationToken::new();
    let (mut from_client, mut to_client) = stream.into_split();
    let mut answer = std::pin::pin!(service.answer(request, descriptor, cancel.clone()));
    let reply = tokio::select! {
        reply = &mut answer => reply,
        () = hung_up(&mut from_client) => {
            debug!("the client hung up");
            cancel.cancel();
            answer.await
        }
    };
    let bytes = encode(&reply);
    if !matches!(tokio::time::timeout(TRANSFER_LIMIT, to_client.write_all(&bytes)).await, Ok(Ok(()))) {
        debug!("the client did not take its reply");
    }
}

/// Header with descriptor, then body.
async fn receive(stream: &mut UnixStream) -> Result<(Request, Option<OwnedFd>), Fault> {
    let mut reader = HeaderReader::new();
    let read = stream.async_io(Interest::READABLE, || reader.read(stream.as_fd())).await;
    let received = match read {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !reader.has_begun() => {
            return Err(Fault::Silent);
        }
        Err(error) => return Err(error.into()),
    };
    let (header, descriptor) = received.parse()?;
    header.expect_kind(Kind::Request)?;
    let mut body = vec![0; header.body_len_bytes as usize];
    stream.read_exact(&mut body).await?;
    Ok((frame::decode_body(&body)?, descriptor))
}

/// Returns when the client has closed its side, or sends more than its one request.
async fn hung_up(from_client: &mut OwnedReadHalf) {
    let mut more = [0; 1];
    // Whatever it is, an end or a byte too many: nobody waits for this reply in good order.
    let _ = from_client.read(&mut more).await;
}

/// Sends a refusal, and reads on a little: closing with unread bytes would take the refusal from the peer
/// (unix_release_sock answers it with ECONNRESET).
async fn refuse(mut stream: UnixStream, error: RpcError) {
    let work = async {
        stream.write_all(&encode(&Reply::Error(error))).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(frame::MAX_REQUEST_BYTES.into()), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(REFUSAL_LIMIT, work).await;
}

/// The reply's frame, or that of an error that says why it has none.
fn encode(reply: &Reply) -> Vec<u8> {
    frame::encode(Kind::Reply, false, reply).unwrap_or_else(|error| {
        let error = RpcError {
            code: ErrorCode::Internal,
            message: format!("the reply cannot be sent: {error}"),
            details: vec!["ask for less at once, such as one object by name".to_owned()],
        };
        frame::encode(Kind::Reply, false, &Reply::Error(error)).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use rpc::client::Client;
    use rpc::{AddRequest, VersionReply};
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::server::Server;

    /// Says what it was asked; an ADD waits until it is cancelled.
    #[derive(Default)]
    struct Echo {
        cancelled: tokio::sync::Notify,
    }

    impl Service for Echo {
        async fn answer(
            &self,
            request: Request,
            descriptor: Option<OwnedFd>,
            cancel: CancellationToken,
        ) -> Reply {
            match request {
                Request::CniAdd(_) => {
                    cancel.cancelled().await;
                    self.cancelled.notify_one();
                    Reply::Done
                }
                Request::CniCheck(_) if descriptor.is_some() => Reply::Done,
                _ => Reply::Version(VersionReply::default()),
            }
        }
    }

    /// Runs `client` on a thread of its own beside a server.
    fn with_server(client: impl FnOnce(&Path) + Send + 'static, then: impl AsyncFnOnce(&Echo)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("agent.sock");
            let server = Server::bind(&path).unwrap();
            let (service, stop) = (Arc::new(Echo::default()), CancellationToken::new());
            let serving = tokio::spawn(server.serve(service.clone(), stop.clone()));
            let client_path = path.clone();
            tokio::task::spawn_blocking(move || client(&client_path)).await.unwrap();
            tokio::time::timeout(Duration::from_secs(5), then(&service)).await.unwrap();
            stop.cancel();
            tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
            assert!(!path.exists(), "the socket was left behind");
        });
    }

    fn call(path: &Path, request: &Request, descriptor: Option<std::os::fd::BorrowedFd<'_>>) -> Reply {
        let client = Client::connect(path, Duration::from_secs(2)).unwrap();
        client.call(request, descriptor, Duration::from_secs(2)).unwrap()
    }

    #[test]
    fn requests_are_answered_and_the_socket_is_for_its_owner_alone() {
        let client = |path: &Path| {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
            let reply = call(path, &Request::Version, None);
            assert_eq!(reply, Reply::Version(VersionReply::default()));
            let file = std::fs::File::open("/dev/null").unwrap();
            let reply = call(path, &Request::CniCheck(rpc::CheckRequest::default()), Some(file.as_fd()));
            assert_eq!(reply, Reply::Done);
        };
        with_server(client, async |_| {});
    }

    #[test]
    fn a_client_that_hangs_up_cancels_its_request() {
        let client = |path: &Path| {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            let add = Request::CniAdd(AddRequest::default());
            stream.write_all(&frame::encode(Kind::Request, false, &add).unwrap()).unwrap();
        };
        with_server(client, async |service| service.cancelled.notified().await);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason_and_the_server_goes_on() {
        let client = |path: &Path| {
            let refused = |bytes: &[u8], expected: &str| {
                let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                stream.write_all(bytes).unwrap();
                let mut reply = Vec::new();
                stream.read_to_end(&mut reply).unwrap();
                let text = String::from_utf8_lossy(&reply).into_owned();
                assert!(text.contains(expected), "{text}");
            };
            refused(b"GET / HTTP/1.1\r\n", "not Poolward");
            refused(b"PWRD\x00\x09\x01\x00\x00\x00\x00\x00", "protocol version 9");
            refused(b"PWRD\x00\x01\x01\x00\x00\x00\x00\x02{}", "missing field");
            drop(std::os::unix::net::UnixStream::connect(path).unwrap());
            call(path, &Request::Version, None);
        };
        with_server(client, async |_| {});
    }

    #[test]
    fn a_name_taken_by_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = Server::bind(&path).unwrap_err().to_string();
        assert!(error.contains("taken by something else"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
