//! One rtnetlink socket, used synchronously: several requests go out in one message, their answers come back
//! in order.
//!
//! The kernel has queued every answer before `send` returns, so nothing here waits for anybody. What requests
//! mean is not known here.

use std::io;
use std::num::NonZeroI32;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NlasIterator,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::nexthop::Message;

/// Most requests in one message: the answers to them must fit into the socket's receive buffer, which they do even if
/// each is refused (an answer is charged with less than 1 KiB of the 208 KiB that are the kernel's default).
const MAX_BATCH_LEN: usize = 128;

/// Size of one reading; the kernel's dumps come in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;

/// How often a dump that the kernel calls inconsistent is begun anew.
const DUMP_ATTEMPTS: usize = 5;

/// `NLMSGERR_ATTR_MSG` (linux/netlink.h): the kernel's own words for an error.
const ERROR_TEXT_ATTRIBUTE: u16 = 1;

/// A message and its `NLM_F_*` flags, besides those that every request has.
pub(crate) type Request = (Message, u16);

/// What the kernel said to one request.
pub(crate) type Answer = Result<Vec<Message>, NetlinkError>;

/// The kernel's refusal.
#[derive(Debug)]
pub(crate) struct NetlinkError {
    /// The `errno`.
    pub(crate) cause: io::Error,
    /// What the kernel added in words, or nothing.
    pub(crate) text: String,
}

impl From<io::Error> for NetlinkError {
    fn from(cause: io::Error) -> Self {
        Self { cause, text: String::new() }
    }
}

/// A socket in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        // Since 4.20: the kernel filters dumps by what the request says instead of ignoring it.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends requests, pipelined, and returns the answer to each, in order. One that fails does not keep the
    /// kernel from carrying out those after it.
    ///
    /// # Errors
    /// When the socket itself fails; what was carried out is then unknown.
    pub(crate) fn execute(&mut self, requests: Vec<Request>) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        let mut bytes = Vec::with_capacity(32 * 1024);
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            bytes.clear();
            let mut batch = requests.by_ref().take(MAX_BATCH_LEN).peekable();
            while let Some((message, flags)) = batch.next() {
                self.sequence = self.sequence.wrapping_add(1);
                // Refusals are always told; that the last one has been carried out tells of all before it.
                let ack = if batch.peek().is_none() { NLM_F_ACK } else { 0 };
                append(&mut bytes, message, flags | NLM_F_REQUEST | ack, self.sequence);
            }
            self.send(&bytes)?;
            self.receive_answers(first, &mut answers)?;
        }
        Ok(answers)
    }

    /// Everything that matches `message`, as far as `keep` makes something of it, in the kernel's order. Elements that
    /// cannot be parsed are handed to `unparsed`.
    ///
    /// # Errors
    /// The kernel's refusal, or a list that changed under each of several attempts to read it.
    pub(crate) fn dump<T>(
        &mut self,
        message: &Message,
        mut unparsed: impl FnMut(String) -> io::Result<()>,
        mut keep: impl FnMut(&Message) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            let mut bytes = Vec::with_capacity(128);
            append(&mut bytes, message.clone(), NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
            self.send(&bytes)?;
            if let Some(found) = self.receive_dump(&mut unparsed, &mut keep)? {
                return Ok(found);
            }
        }
        let text = format!("the list changed under each of {DUMP_ATTEMPTS} attempts to read it");
        Err(NetlinkError { cause: io::Error::from(io::ErrorKind::Interrupted), text })
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self.socket.send(bytes, 0)? {
            sent if sent == bytes.len() => Ok(()),
            sent => {
                Err(io::Error::new(io::ErrorKind::WriteZero, format!("{sent} of {} bytes sent", bytes.len())))
            }
        }
    }

    /// Reads until the request numbered `self.sequence`, which asked for it, has been acknowledged. Those before it
    /// since `first` that nothing was said of have been carried out.
    fn receive_answers(&mut self, first: u32, answers: &mut Vec<Answer>) -> io::Result<()> {
        let start = answers.len();
        let count = usize::try_from(self.sequence.wrapping_sub(first)).unwrap_or(0) + 1;
        answers.extend(std::iter::repeat_with(|| Ok(Vec::new())).take(count));
        loop {
            let bytes = self.receive()?;
            for message in Messages(&bytes) {
                let (header, payload) = message?.map_err(io::Error::other)?.into_parts();
                let index = usize::try_from(header.sequence_number.wrapping_sub(first)).unwrap_or(count);
                // Outside: left over from a request that broke off.
                let Some(answer) = answers.get_mut(start + index).filter(|_| index < count) else { continue };
                match payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        if let Ok(messages) = answer {
                            messages.push(inner);
                        }
                    }
                    NetlinkPayload::Error(error) => {
                        if let Some(code) = error.code {
                            *answer = Err(refusal(code, &error.header));
                        }
                        if index + 1 == count {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Reads one dump to its end; `None` if the kernel calls it inconsistent.
    fn receive_dump<T>(
        &mut self,
        unparsed: &mut impl FnMut(String) -> io::Result<()>,
        keep: &mut impl FnMut(&Message) -> Option<T>,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        let mut found = Vec::new();
        let mut consistent = true;
        loop {
            let bytes = self.receive()?;
            for message in Messages(&bytes) {
                let message = match message? {
                    Ok(message) => message,
                    Err(reason) => {
                        unparsed(reason)?;
                        continue;
                    }
                };
                let (header, payload) = message.into_parts();
                if header.sequence_number != self.sequence {
                    continue;
                }
                consistent &= header.flags & NLM_F_DUMP_INTR == 0;
                match payload {
                    NetlinkPayload::InnerMessage(inner) => found.extend(keep(&inner)),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code).into());
                    }
                    NetlinkPayload::Done(_) => return Ok(consistent.then_some(found)),
                    NetlinkPayload::Error(error) => {
                        if let Some(code) = error.code {
                            return Err(refusal(code, &error.header));
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut bytes: Vec<u8> = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            match self.socket.recv(&mut bytes, 0) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(_) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Serialises one request, padded as netlink aligns messages.
fn append(bytes: &mut Vec<u8>, message: Message, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

/// The kernel's errno and, if it sent one, its text: the attributes follow the echoed header of 16 bytes.
fn refusal(code: NonZeroI32, echoed: &[u8]) -> NetlinkError {
    let attributes = echoed.get(16..).unwrap_or_default();
    let text = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == ERROR_TEXT_ATTRIBUTE)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
        .unwrap_or_default();
    NetlinkError { cause: io::Error::from_raw_os_error(code.get().abs()), text }
}

/// The messages of one datagram. A message that is cut short ends it with an error; one whose content cannot be
/// parsed is an `Err` inside.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl Iterator for Messages<'_> {
    type Item = io::Result<Result<NetlinkMessage<Message>, String>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let length = match NetlinkBuffer::new_checked(self.0) {
            Ok(buffer) => usize::try_from(buffer.length()).unwrap_or(usize::MAX),
            Err(error) => {
                self.0 = &[];
                return Some(Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())));
            }
        };
        let (message, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        Some(Ok(NetlinkMessage::deserialize(message).map_err(|error| error.to_string())))
    }
}
