//! An agent that only talks: it answers each request from a function and remembers what it was asked.
//!
//! It cannot show that a real agent answers like this; that the messages are the real ones is given by `rpc`.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rpc::frame::{HEADER_SIZE_BYTES, Header, Kind, decode_body, encode};
use rpc::{Reply, Request};
use tempfile::TempDir;

/// What becomes of a connection once its request has been read.
pub(crate) enum Answer {
    /// A reply.
    Reply(Reply),
    /// These bytes, whatever they are.
    Bytes(Vec<u8>),
    /// The connection is closed.
    HangUp,
    /// Nothing, for so long.
    Silence(Duration),
}

/// One per test. Ends with its value.
pub(crate) struct FakeAgent {
    dir: TempDir,
    asked: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeAgent {
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("agent.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, ended) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                serve(stream.unwrap(), &answer, &log);
            }
        });
        Self { dir, asked, stop, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// A directory that lives as long as the agent.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Everything asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread from waiting for a connection.
        drop(UnixStream::connect(self.socket()));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the fake agent panicked");
        }
    }
}

fn serve(mut stream: UnixStream, answer: &impl Fn(&Request) -> Answer, asked: &Mutex<Vec<Request>>) {
    let mut header = [0; HEADER_SIZE_BYTES];
    stream.read_exact(&mut header).unwrap();
    let header = Header::parse(&header).unwrap();
    assert_eq!((header.kind, header.has_fd), (Kind::Request, false));
    let mut body = vec![0; header.body_len_bytes as usize];
    stream.read_exact(&mut body).unwrap();
    let request: Request = decode_body(&body).unwrap();
    let answer = answer(&request);
    asked.lock().unwrap().push(request);
    // The command may have gone away meanwhile, which is its right.
    let _ = match answer {
        Answer::Reply(reply) => stream.write_all(&encode(Kind::Reply, false, &reply).unwrap()),
        Answer::Bytes(bytes) => stream.write_all(&bytes),
        Answer::HangUp => Ok(()),
        Answer::Silence(time) => {
            std::thread::sleep(time);
            Ok(())
        }
    };
}
