//! The asking side of the socket, synchronous: connect, one request, one reply.
//!
//! Every step is bounded in time, by a deadline for the whole call and not per read, so that a peer that
//! drips bytes cannot hold the caller. Nothing is retried here: the caller knows whether that makes sense.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::frame::{self, FrameError, Kind, PROTOCOL_VERSION};
use crate::socket::{HeaderReader, send_some};
use crate::{ErrorCode, Reply, Request};

/// Where the agent listens unless it is told otherwise.
pub const DEFAULT_SOCKET_PATH: &str = "/run/poolward/agent.sock";

/// How long a connection may take. The kernel connects at once unless the agent's backlog is full.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a call may take. An ADD may wait for another request of the same handle.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Body bytes read at a time, so that memory grows with what came and not with what was announced.
const READ_SIZE_BYTES: usize = 64 * 1024;

/// Why there is no reply. [`RpcError`](crate::RpcError)s that the agent gives are replies, save one of another
/// protocol version.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there: the agent does not run, or uses another path.
    #[error("connect to the agent at {}: {source}: is the agent running?", path.display())]
    Absent {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The agent did not do it in time. It may still do it.
    #[error("{operation} {}: no answer within {after_ms} ms", path.display())]
    Timeout {
        /// What was being done.
        operation: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// How long was waited.
        after_ms: u128,
    },
    /// The agent went away before it answered. It may have done what was asked.
    #[error("{operation} {}: the agent closed the connection: {source}", path.display())]
    Lost {
        /// What was being done.
        operation: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The agent is of another release.
    #[error("agent at {}: {reason}", path.display())]
    Version {
        /// The socket's path.
        path: PathBuf,
        /// Both versions.
        reason: String,
    },
    /// What listens there breaks the protocol, or the request does not fit into it.
    #[error("{operation} {}: {source}", path.display())]
    Protocol {
        /// What was being done.
        operation: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// What is wrong.
        source: FrameError,
    },
    /// Anything else: no permission, path too long, out of descriptors.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

const CONNECT: &str = "connect to the agent at";
const SEND: &str = "send request to the agent at";
const RECEIVE: &str = "await reply of the agent at";

/// A connection that has not been used yet. Lives for one [`Client::call`].
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    path: PathBuf,
}

impl Client {
    /// Connects to the agent's socket. Waits at most `timeout`, and only while the agent's backlog is full.
    ///
    /// # Errors
    /// [`ClientError::Absent`], [`ClientError::Timeout`] or [`ClientError::Io`].
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let fail = |errno: Errno| match errno {
            Errno::NOENT | Errno::CONNREFUSED => {
                ClientError::Absent { path: path.to_owned(), source: errno.into() }
            }
            // A unix socket whose send timeout passes in connect says EAGAIN (unix_stream_connect).
            Errno::AGAIN => ClientError::Timeout {
                operation: CONNECT,
                path: path.to_owned(),
                after_ms: timeout.as_millis(),
            },
            _ => ClientError::Io { operation: CONNECT, path: path.to_owned(), source: errno.into() },
        };
        let address = SocketAddrUnix::new(path).map_err(fail)?;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(fail)?;
        set_socket_timeout(&socket, Timeout::Send, Some(at_least_a_millisecond(timeout))).map_err(fail)?;
        retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(fail)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Sends the request, with the descriptor if there is one, and waits for its reply, `timeout` for both.
    ///
    /// An answer of the agent that it cannot do it is `Ok(Reply::Error(..))`.
    ///
    /// # Errors
    /// All of [`ClientError`] but [`ClientError::Absent`].
    pub fn call(
        self,
        request: &Request,
        fd: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> Result<Reply, ClientError> {
        let deadline = Deadline { start: Instant::now(), timeout };
        let frame = frame::encode(Kind::Request, fd.is_some(), request)
            .map_err(|source| ClientError::Protocol { operation: SEND, path: self.path.clone(), source })?;
        let sent = self.send(&frame, fd, deadline).map_err(|error| self.io_error(SEND, error, timeout));
        match sent {
            // An agent that refuses a request by its header answers without reading on: its answer is worth more
            // than the broken pipe.
            Ok(()) | Err(ClientError::Lost { .. }) => {}
            Err(error) => return Err(error),
        }
        let reply = self.receive(deadline).map_err(|error| self.io_error(RECEIVE, error, timeout));
        match (sent, reply) {
            (_, Ok(Reply::Error(error))) if error.code == ErrorCode::Version => Err(ClientError::Version {
                path: self.path,
                reason: format!("{} (this side speaks {PROTOCOL_VERSION})", error.message),
            }),
            (_, Ok(reply)) => Ok(reply),
            (Err(lost), Err(ClientError::Lost { .. })) => Err(lost),
            (_, Err(error)) => Err(error),
        }
    }

    fn send(&self, frame: &[u8], mut fd: Option<BorrowedFd<'_>>, deadline: Deadline) -> io::Result<()> {
        let mut rest = frame;
        while !rest.is_empty() {
            set_socket_timeout(&self.socket, Timeout::Send, Some(deadline.left()?))?;
            let count = send_some(self.socket.as_fd(), rest, fd.take())?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    fn receive(&self, deadline: Deadline) -> io::Result<Reply> {
        let wait =
            || Ok::<_, io::Error>(set_socket_timeout(&self.socket, Timeout::Recv, Some(deadline.left()?))?);
        let invalid = |error: FrameError| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut reader = HeaderReader::new();
        let received = loop {
            wait()?;
            if let Some(received) = reader.read_some(self.socket.as_fd())? {
                break received;
            }
        };
        let (header, fd) = received.parse().map_err(invalid)?;
        header.expect_kind(Kind::Reply).map_err(invalid)?;
        // No reply carries a descriptor that means anything.
        drop(fd);
        let body_len = header.body_len_bytes as usize;
        let mut body = Vec::new();
        while body.len() < body_len {
            wait()?;
            let before = body.len();
            body.resize(body_len.min(before + READ_SIZE_BYTES), 0);
            let room = body.get_mut(before..).unwrap_or_default();
            let count = retry_on_intr(|| rustix::io::read(&self.socket, &mut *room))?;
            body.truncate(before + count);
            if count == 0 {
                let text = format!("reply ended after {before} of {body_len} body bytes");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
        frame::decode_body(&body).map_err(invalid)
    }

    fn io_error(&self, operation: &'static str, error: io::Error, timeout: Duration) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::Timeout { operation, path, after_ms: timeout.as_millis() }
            }
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                ClientError::Lost { operation, path, source: error }
            }
            _ => match error.downcast::<FrameError>() {
                Ok(error @ FrameError::Version { .. }) => {
                    ClientError::Version { path, reason: error.to_string() }
                }
                Ok(source) => ClientError::Protocol { operation, path, source },
                Err(source) => ClientError::Io { operation, path, source },
            },
        }
    }
}

/// Until when a call may go on. `Instant` is monotonic.
#[derive(Clone, Copy)]
struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    fn left(self) -> io::Result<Duration> {
        match self.timeout.checked_sub(self.start.elapsed()) {
            Some(left) if !left.is_zero() => Ok(at_least_a_millisecond(left)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// The kernel takes a timeout of zero for none.
fn at_least_a_millisecond(duration: Duration) -> Duration {
    duration.max(Duration::from_millis(1))
}
