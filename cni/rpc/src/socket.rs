//! Frames and descriptors over a connected unix socket: the few system calls that both sides share.
//!
//! A descriptor travels as `SCM_RIGHTS` with the header's first byte. Everything received is close-on-exec from
//! its first moment, and what is refused is closed here.
//!
//! Nothing here waits by itself: on a non-blocking socket the functions return `WouldBlock` and keep what they
//! have, so that they fit into `tokio::net::UnixStream::try_io`; on a blocking one they block as long as the
//! socket's timeouts let them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::frame::{FrameError, HEADER_SIZE_BYTES, Header};

/// Room for more descriptors than are allowed, so that "too many" is seen as that and not as a truncation.
const RECEIVE_ROOM: usize = 4;

/// Collects one header and the descriptor that comes with it, over as many reads as that takes.
///
/// One per frame. Dropping it closes a descriptor that was received.
#[derive(Debug, Default)]
pub struct HeaderReader {
    bytes: [u8; HEADER_SIZE_BYTES],
    filled: usize,
    fd: Option<OwnedFd>,
}

/// A header as it came, not yet looked at.
#[derive(Debug)]
pub struct Received {
    /// Its bytes.
    pub bytes: [u8; HEADER_SIZE_BYTES],
    /// The descriptor that came with it.
    pub fd: Option<OwnedFd>,
}

impl Received {
    /// Looks at the header, and at whether the descriptor came that it announces.
    ///
    /// # Errors
    /// As [`Header::parse`]; [`FrameError::Descriptors`] when one is missing or not announced (it is closed).
    pub fn parse(self) -> Result<(Header, Option<OwnedFd>), FrameError> {
        let header = Header::parse(&self.bytes)?;
        match (header.has_fd, &self.fd) {
            (true, None) => Err(FrameError::Descriptors(
                "header announces a file descriptor, but none came with it".to_owned(),
            )),
            (false, Some(_)) => Err(FrameError::Descriptors(
                "a file descriptor came that the header does not announce".to_owned(),
            )),
            _ => Ok((header, self.fd)),
        }
    }
}

impl HeaderReader {
    /// A reader that has nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether any byte has come: a peer that goes away before that has simply asked nothing.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.filled > 0
    }

    /// One `recvmsg`: `None` while the header is not whole. It never reads past the header.
    ///
    /// # Errors
    /// `WouldBlock`: call again when the socket is readable (or a blocking socket's timeout has passed);
    /// `UnexpectedEof`: the peer closed first; `InvalidData` with a [`FrameError::Descriptors`] inside: more than
    /// one descriptor, or some that this process had no room for; else what the kernel says.
    pub fn read_some(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<Received>> {
        let rest = self.bytes.get_mut(self.filled..).unwrap_or_default();
        if !rest.is_empty() {
            let (count, fds, truncated) = receive(socket, rest)?;
            if truncated {
                return Err(refused("more file descriptors came than can be received".to_owned()));
            }
            let fd_count = fds.len() + usize::from(self.fd.is_some());
            if fd_count > 1 {
                return Err(refused(format!(
                    "{fd_count} file descriptors came; at most 1 can travel with a message"
                )));
            }
            self.fd = fds.into_iter().next().or_else(|| self.fd.take());
            if count == 0 {
                let text =
                    format!("connection closed after {} of {HEADER_SIZE_BYTES} header bytes", self.filled);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            self.filled += count;
        }
        let whole = self.filled >= HEADER_SIZE_BYTES;
        Ok(whole.then(|| Received { bytes: self.bytes, fd: self.fd.take() }))
    }

    /// Reads until the header is whole.
    ///
    /// # Errors
    /// As [`HeaderReader::read_some`]; what was read before a `WouldBlock` is kept.
    pub fn read(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received> {
        loop {
            if let Some(received) = self.read_some(socket)? {
                return Ok(received);
            }
        }
    }
}

/// [`HeaderReader::read`] for a blocking socket and for tests: one call, one header.
///
/// # Errors
/// As [`HeaderReader::read`]; what was read before an error is lost.
pub fn recv_header(socket: BorrowedFd<'_>) -> io::Result<Received> {
    HeaderReader::new().read(socket)
}

/// Sends the start of `bytes`, with `fd` if there is one, and returns how many bytes went. The descriptor goes
/// with the first byte: pass it only with the first call for a frame.
///
/// # Errors
/// `WouldBlock`, `BrokenPipe` (never as a signal), or what else the kernel says. Then nothing was sent.
pub fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds
        && !control.push(SendAncillaryMessage::ScmRights(fds))
    {
        return Err(io::Error::other("no room for the control message of one file descriptor"));
    }
    let sent = retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(sent)
}

/// One `recvmsg`: bytes read, descriptors, and whether control data was cut off.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>, bool), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RECEIVE_ROOM))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = retry_on_intr(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((message.bytes, fds, message.flags.contains(ReturnFlags::CTRUNC)))
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, FrameError::Descriptors(text))
}
