//! Traffic between network namespaces that proves its own integrity: pings, checked TCP transfers, large datagrams.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use harness::{EchoServer, NetNs, Run, udp_echo};

/// Where echo servers and listeners of these tests are.
const PORT: u16 = 7001;

/// How long one transfer may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(15);

/// What `ping` said to one attempt.
pub(crate) struct Pinged {
    /// Whether an answer came.
    pub(crate) answered: bool,
    /// Everything it printed.
    pub(crate) said: String,
}

/// One ping with these many bytes of payload, and don't-fragment if asked.
pub(crate) fn ping_with(from: &NetNs, to: IpAddr, payload_bytes: usize, dont_fragment: bool) -> Pinged {
    let hint = if dont_fragment { "do" } else { "dont" };
    let size = payload_bytes.to_string();
    let run = Run::new("ping").args(["-n", "-c", "1", "-W", "2", "-s", &size, "-M", hint, &to.to_string()]);
    let finished = run.finish_in(from).unwrap();
    let said = String::from_utf8_lossy(&finished.stdout) + String::from_utf8_lossy(&finished.stderr);
    Pinged { answered: finished.status.success(), said: said.into_owned() }
}

/// Whether a ping is answered.
pub(crate) fn pings(from: &NetNs, to: IpAddr) -> bool {
    ping_with(from, to, 56, false).answered
}

/// Sends bytes over TCP to a listener in another namespace, which sends their checksum back; how long that took.
///
/// # Panics
/// It stands still for longer than [`STALL_LIMIT`], or what arrived is not what was sent.
pub(crate) fn transfer(from: &NetNs, to: &NetNs, address: IpAddr, bytes_count: usize) -> Duration {
    let started = Instant::now();
    let mut transfer = Transfer::start(from, to, address);
    let mut left = bytes_count;
    while left > 0 {
        left -= transfer.send(left);
    }
    transfer.end();
    started.elapsed()
}

/// A transfer under way.
pub(crate) struct Transfer {
    stream: TcpStream,
    receiver: std::thread::JoinHandle<()>,
    sum: crc32fast::Hasher,
    state: u64,
    sent: u64,
}

impl Transfer {
    pub(crate) fn start(from: &NetNs, to: &NetNs, address: IpAddr) -> Self {
        let listener = to.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))).unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = std::thread::spawn(move || receive(&listener));
        let to = SocketAddr::new(address, port);
        let stream = from.run(|| TcpStream::connect_timeout(&to, STALL_LIMIT)).unwrap();
        let stream = stream.unwrap_or_else(|error| panic!("TCP from {} to {to}: {error}", from.name()));
        stream.set_read_timeout(Some(STALL_LIMIT)).unwrap();
        stream.set_write_timeout(Some(STALL_LIMIT)).unwrap();
        Self { stream, receiver, sum: crc32fast::Hasher::new(), state: 1, sent: 0 }
    }

    /// Sends some more bytes, never twice the same, and at most so many; how many.
    pub(crate) fn send(&mut self, at_most: usize) -> usize {
        let mut chunk = [0_u8; 16 * 1024];
        for piece in chunk.chunks_exact_mut(8) {
            // Knuth's generator: any will do, as long as a swapped or repeated segment shows.
            self.state =
                self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            piece.copy_from_slice(&self.state.to_be_bytes());
        }
        let chunk = &chunk[..at_most.min(chunk.len())];
        self.stream.write_all(chunk).unwrap_or_else(|error| panic!("after {} bytes: {error}", self.sent));
        self.sum.update(chunk);
        self.sent += chunk.len() as u64;
        chunk.len()
    }

    /// Ends it and compares what arrived with what was sent; how many bytes.
    pub(crate) fn end(mut self) -> u64 {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = [0; 12];
        self.stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("no checksum came back: {error}"));
        self.receiver.join().unwrap();
        let (count, sum) = answer.split_at(8);
        assert_eq!(u64::from_be_bytes(count.try_into().unwrap()), self.sent, "bytes that arrived");
        assert_eq!(
            u32::from_be_bytes(sum.try_into().unwrap()),
            self.sum.finalize(),
            "checksum of what arrived"
        );
        self.sent
    }
}

fn receive(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(STALL_LIMIT)).unwrap();
    let (mut sum, mut count, mut buffer) = (crc32fast::Hasher::new(), 0_u64, vec![0; 64 * 1024]);
    loop {
        let length = stream.read(&mut buffer).unwrap();
        if length == 0 {
            break;
        }
        sum.update(&buffer[..length]);
        count += length as u64;
    }
    stream.write_all(&count.to_be_bytes()).unwrap();
    stream.write_all(&sum.finalize().to_be_bytes()).unwrap();
}

/// Whether a datagram of this size, in fragments where it does not fit, comes back as it was.
pub(crate) fn echoes(from: &NetNs, to: &NetNs, address: IpAddr, payload_bytes: usize) -> bool {
    let _server = EchoServer::start(to, [PORT]).unwrap();
    let payload: Vec<u8> = (0..payload_bytes).map(|i| (i * 7 % 251) as u8).collect();
    udp_echo(from, SocketAddr::new(address, PORT), &payload, Duration::from_secs(2)).unwrap().is_some()
}
