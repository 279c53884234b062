//! Packet sockets: captures what an interface sees, and sends frames as they are.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use crate::packet::Packet;
use crate::run::timespec;
use crate::{Link, NetNs};

/// How much of each frame a capture keeps.
pub const SNAP_BYTES: usize = 2048;

/// How many frames a capture keeps; later ones are only counted.
pub const MAX_PACKETS_COUNT: usize = 50_000;

/// How soon a capture notices that it shall stop.
const STOP_LATENCY: Duration = Duration::from_millis(20);

/// `ETH_P_ALL` of linux/if_ether.h: every protocol.
const ETH_P_ALL: u16 = 3;

/// Frames seen on one interface since [`Capture::start`]; both directions unless asked otherwise.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    caught: Mutex<Caught>,
}

#[derive(Debug, Default)]
struct Caught {
    packets: Vec<Packet>,
    overflow_count: u64,
    error: Option<String>,
}

/// Which frames of an interface a capture keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those that arrive.
    In,
    /// Those that leave: by the interface's own hardware address as source.
    Out,
    /// All.
    Both,
}

impl Capture {
    /// Captures on one interface; everything from the return of this call on is seen.
    ///
    /// # Errors
    /// No such interface, or no permission.
    pub fn start(netns: &NetNs, ifname: &str, direction: Direction) -> Result<Self> {
        let link = netns.link(ifname)?;
        let wire = open_wire(netns, link, ETH_P_ALL).with_context(|| format!("capture on {ifname}"))?;
        let shared = Arc::new(Shared::default());
        let reader = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                if let Err(error) = read_all(&wire, link.mac, direction, &shared) {
                    shared.caught.lock().unwrap_or_else(PoisonError::into_inner).error =
                        Some(format!("{error:#}"));
                }
            }
        });
        Ok(Self { shared, reader: Some(reader) })
    }

    /// What was caught so far, in order.
    #[must_use]
    pub fn packets(&self) -> Vec<Packet> {
        self.shared.caught.lock().unwrap_or_else(PoisonError::into_inner).packets.clone()
    }

    /// How many were caught that fit.
    #[must_use]
    pub fn count(&self, fits: impl Fn(&Packet) -> bool) -> usize {
        self.shared
            .caught
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .packets
            .iter()
            .filter(|packet| fits(packet))
            .count()
    }

    /// The first that fits, waiting up to `limit` for it.
    #[must_use]
    pub fn wait_for(&self, limit: Duration, fits: impl Fn(&Packet) -> bool) -> Option<Packet> {
        let deadline = Instant::now() + limit;
        loop {
            let found = {
                let caught = self.shared.caught.lock().unwrap_or_else(PoisonError::into_inner);
                caught.packets.iter().find(|packet| fits(packet)).cloned()
            };
            if found.is_some() || Instant::now() >= deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the capture and returns everything.
    ///
    /// # Errors
    /// It failed meanwhile, or more than [`MAX_PACKETS_COUNT`] frames came: then absence proves nothing.
    pub fn stop(mut self) -> Result<Vec<Packet>> {
        // What was sent before this call is in the socket's queue, and the reader empties that first.
        self.end();
        let mut caught = self.shared.caught.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = caught.error.take() {
            anyhow::bail!("capture: {error}");
        }
        ensure!(caught.overflow_count == 0, "capture: {} frames too many", caught.overflow_count);
        Ok(std::mem::take(&mut caught.packets))
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

fn read_all(wire: &OwnedFd, own_mac: [u8; 6], direction: Direction, shared: &Shared) -> Result<()> {
    let mut buffer = vec![0_u8; SNAP_BYTES];
    loop {
        let mut fds = [PollFd::from_borrowed_fd(wire.as_fd(), PollFlags::IN)];
        let stopping = shared.stop.load(Ordering::Acquire);
        let limit = if stopping { Duration::ZERO } else { STOP_LATENCY };
        let ready = match poll(&mut fds, Some(&timespec(limit))) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).context("poll"),
        };
        if ready == 0 {
            if stopping {
                return Ok(());
            }
            continue;
        }
        let (length, _) = match recv(wire, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).context("receive"),
        };
        let Some(packet) = Packet::parse(&buffer[..length.min(SNAP_BYTES)]) else { continue };
        let leaves = packet.source_mac == own_mac;
        let wanted = match direction {
            Direction::In => !leaves,
            Direction::Out => leaves,
            Direction::Both => true,
        };
        if wanted {
            let mut caught = shared.caught.lock().unwrap_or_else(PoisonError::into_inner);
            if caught.packets.len() < MAX_PACKETS_COUNT {
                caught.packets.push(packet);
            } else {
                caught.overflow_count += 1;
            }
        }
    }
}

/// Sends frames on one interface exactly as given.
#[derive(Debug)]
pub struct RawSender {
    wire: OwnedFd,
    link: Link,
}

impl RawSender {
    /// A sender on one interface.
    ///
    /// # Errors
    /// No such interface, or no permission.
    pub fn new(netns: &NetNs, ifname: &str) -> Result<Self> {
        let link = netns.link(ifname)?;
        // Protocol 0: receives nothing.
        let wire = open_wire(netns, link, 0).with_context(|| format!("send on {ifname}"))?;
        Ok(Self { wire, link })
    }

    /// The interface's own hardware address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.link.mac
    }

    /// Sends one frame, Ethernet header and all.
    ///
    /// # Errors
    /// The interface is down, or the frame longer than its MTU allows.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(&self.wire, frame, SendFlags::empty()).context("send a frame").map(drop)
    }
}

fn open_wire(netns: &NetNs, link: Link, protocol: u16) -> Result<OwnedFd> {
    // Made with protocol 0 and bound to protocol and interface at once, so that it never sees another interface.
    let wire =
        netns.run(|| socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None))??;
    bind(&wire, &LinkAddress::new(protocol, link.index)?).context("bind a packet socket")?;
    Ok(wire)
}

/// `struct sockaddr_ll` of packet(7), as far as bind(2) reads it.
#[repr(C)]
struct LinkAddress {
    family: u16,
    protocol_be: u16,
    ifindex: i32,
    hardware_type: u16,
    packet_type: u8,
    address_length: u8,
    address: [u8; 8],
}

impl LinkAddress {
    fn new(protocol: u16, ifindex: u32) -> Result<Self> {
        Ok(Self {
            family: AddressFamily::PACKET.as_raw(),
            protocol_be: protocol.to_be(),
            ifindex: i32::try_from(ifindex).context("interface index")?,
            hardware_type: 0,
            packet_type: 0,
            address_length: 0,
            address: [0; 8],
        })
    }
}

const _: () = assert!(size_of::<LinkAddress>() == 20);

// SAFETY: the pointer is to a live `LinkAddress`, the length is its size, and its layout (repr(C), no padding, size
// asserted above) is that of the kernel's `struct sockaddr_ll` with the family set to AF_PACKET.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(std::ptr::from_ref(self).cast(), 20)
    }
}
