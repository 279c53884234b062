//! An agent that says what it is told to say, a connection after the other. It proves nothing about the real one.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rpc::frame::{Kind, decode_body, encode};
use rpc::socket::recv_header;
use rpc::{ErrorCode, Reply, Request, RpcError};

/// What the fake agent does with a request.
pub(crate) enum Answer {
    /// Answers.
    Reply(Reply),
    /// Writes these bytes and closes.
    Bytes(Vec<u8>),
    /// Keeps the connection open and says nothing.
    Hang,
}

/// What the fake agent heard.
#[derive(Debug)]
pub(crate) struct Heard {
    /// The request.
    pub(crate) request: Request,
    /// The inode of the descriptor that came with it.
    pub(crate) fd_inode: Option<u64>,
}

/// An agent for so many requests.
pub(crate) struct FakeAgent {
    /// Its socket.
    pub(crate) path: PathBuf,
    heard: Receiver<Heard>,
    _dir: tempfile::TempDir,
}

impl FakeAgent {
    pub(crate) fn start(answer: Answer) -> Self {
        Self::start_with(vec![answer])
    }

    /// One answer for each request, in their order.
    pub(crate) fn start_with(answers: Vec<Answer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, heard) = channel();
        thread::spawn(move || answers.into_iter().for_each(|answer| serve(&listener, answer, &sender)));
        Self { path, heard, _dir: dir }
    }

    /// The next request, once it has come.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.recv_timeout(Duration::from_secs(10)).expect("the agent was not asked")
    }
}

fn serve(listener: &UnixListener, answer: Answer, heard: &Sender<Heard>) {
    let (mut stream, _) = listener.accept().unwrap();
    let (header, fd) = recv_header(stream.as_fd()).unwrap().parse().unwrap();
    header.expect_kind(Kind::Request).unwrap();
    let mut body = vec![0; header.body_len_bytes as usize];
    stream.read_exact(&mut body).unwrap();
    let fd_inode = fd.map(|fd| rustix::fs::fstat(fd).unwrap().st_ino);
    // The test may have ended without asking what was heard.
    let _ = heard.send(Heard { request: decode_body(&body).unwrap(), fd_inode });
    answer_to(&mut stream, answer);
}

fn answer_to(stream: &mut UnixStream, answer: Answer) {
    match answer {
        Answer::Reply(reply) => stream.write_all(&encode(Kind::Reply, false, &reply).unwrap()).unwrap(),
        Answer::Bytes(bytes) => stream.write_all(&bytes).unwrap(),
        // Until the plugin gives up and closes.
        Answer::Hang => drop(stream.read(&mut [0; 1])),
    }
}

/// A refusal with reasons.
pub(crate) fn refusal(code: ErrorCode) -> Reply {
    let details = vec!["external-pool: 0 of 64 free".to_owned(), "internal-pool: not asked".to_owned()];
    Reply::Error(RpcError { code, message: "no free address".into(), details })
}
