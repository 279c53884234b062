//! A pod that speaks all the time, and counters of nft that watch it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use harness::{NetNs, counted_elements};

use crate::site::{Node, Pod};

/// How long the last echoes may take.
const LAST_ECHOES: Duration = Duration::from_millis(500);

/// Numbered datagrams, one every millisecond, and their echoes.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Counts>,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    /// Different numbers that came back.
    pub(crate) echoed: u64,
}

impl Stream {
    /// From inside this pod to an echo server.
    pub(crate) fn start(pod: &Pod, to: SocketAddr) -> Self {
        let socket = pod
            .netns
            .run(|| {
                let any: SocketAddr =
                    if to.is_ipv4() { "0.0.0.0:0".parse().unwrap() } else { "[::]:0".parse().unwrap() };
                let socket = UdpSocket::bind(any).unwrap();
                socket.connect(to).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || run(&socket, &stop)
        });
        Self { stop, thread }
    }

    /// Ends it, waiting for the last echoes.
    pub(crate) fn stop(self) -> Counts {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

fn run(socket: &UdpSocket, stop: &AtomicBool) -> Counts {
    let mut seen = std::collections::HashSet::new();
    let mut sent = 0_u64;
    let mut buffer = [0; 64];
    let mut take = |seen: &mut std::collections::HashSet<u64>| {
        while let Ok(length) = socket.recv(&mut buffer) {
            seen.insert(u64::from_be_bytes(buffer[..length].try_into().unwrap()));
        }
    };
    let mut next = Instant::now();
    while !stop.load(Ordering::Acquire) {
        // A full buffer of the sender is no loss of the network's.
        if socket.send(&sent.to_be_bytes()).is_ok() {
            sent += 1;
        }
        take(&mut seen);
        next += Duration::from_millis(1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let deadline = Instant::now() + LAST_ECHOES;
    while (seen.len() as u64) < sent && Instant::now() < deadline {
        take(&mut seen);
        std::thread::sleep(Duration::from_millis(1));
    }
    Counts { sent, echoed: seen.len() as u64 }
}

/// Counts what enters the node from pods by source and mark, in an nft table of the test's own.
pub(crate) fn count_marks(netns: &NetNs) {
    netns
        .nft(&format!(
            "table inet pwnet_watch {{
                set seen {{ typeof ip saddr . meta mark; flags dynamic; size 4096; }}
                set seen6 {{ typeof ip6 saddr . meta mark; flags dynamic; size 4096; }}
                chain prerouting {{
                    type filter hook prerouting priority mangle; policy accept;
                    iifname != \"{}\" update @seen {{ ip saddr . meta mark counter }}
                    iifname != \"{}\" update @seen6 {{ ip6 saddr . meta mark counter }}
                }}
            }}",
            harness::lab::NODE_UPLINK,
            harness::lab::NODE_UPLINK,
        ))
        .unwrap();
}

/// Marks of a pod's packets and how many had each, since [`count_marks`]; by its first address.
pub(crate) fn marks_of(node: &Node<'_>, pod: &Pod) -> Vec<(u32, u64)> {
    let address = pod.address();
    let set = if address.is_ipv4() { "seen" } else { "seen6" };
    let listed = node.netns().nft_list(&format!("set inet pwnet_watch {set}")).unwrap();
    let address = address.to_string();
    let elements = counted_elements(&listed).unwrap().into_iter();
    let of_pod = elements.filter(|element| element.key[0] == address);
    of_pod.map(|element| (element.key[1].parse().unwrap(), element.packets)).collect()
}

/// The mark that packets of a pool shall have, by `pools export`.
pub(crate) fn mark_of_pool(node: &Node<'_>, pool: &str) -> u32 {
    let exported = node.ctl().json(&["pools", "export", "--include-nat", "--pool", pool]).unwrap();
    u32::try_from(exported["pools"][0]["mark"].as_u64().unwrap_or_else(|| panic!("no mark in {exported}")))
        .unwrap()
}
