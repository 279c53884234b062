//! What it costs to carry a pod's packets from one node to another: by routing alone, by our programs with the tag and
//! the outer header, and by a vxlan device of the kernel. Prints JSON.
//!
//! Each way has two node namespaces joined by a veth pair and a pod on either; nodes track connections, as those of
//! Kubernetes do. Everything runs on one CPU, so that what is measured is work and not who happens to run where. The ways take short turns, many of them in each round, so
//! that whatever else the machine does hits all of them alike.
//!
//! * `tcp_bytes_per_s`: one TCP connection, segmentation left to the last device.
//! * `tcp_mtu_bytes_per_s`: the same with segmentation, aggregation and checksums switched off at every interface:
//!   every packet is MTU-sized, and summed up by the CPU.
//! * `tcp_rr_per_s`: requests and responses of one byte, one after the other.
//!
//! These with cubic, the kernel's own default, which sends what the CPU can. `tcp_own_bytes_per_s` and
//! `tcp_mtu_own_bytes_per_s` are the first two with the congestion control that this machine's sockets have by default,
//! named by `congestion_control`: where that paces by itself, the pacing is measured with them.
//!
//! Needs root, iproute2, nftables, ethtool and a bpffs. Its namespaces and pins are removed at the end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{NetNs, Run};
use model::TagId;
use poolward_bpf::{Bpf, Endpoint, OpenOptions, PeerRule, PoolRule, RemoteRange, UplinkRule};
use rustix::net::sockopt::set_tcp_congestion;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Map, Value, json};

const NAME: &str = "pwn2n";
const ROUNDS: usize = 5;
/// Turns of each way in each round.
const TURNS: usize = 12;
/// Of a turn: first what is not counted, then what is, then what is left in queues.
const WARM_UP: Duration = Duration::from_millis(20);
const MEASURED: Duration = Duration::from_millis(120);
const DRAINED: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(10);
/// No measure takes as long as that.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
const BUFFER_BYTES: usize = 128 << 10;
const UPLINK_MTU: u32 = 1500;

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By routes and nothing else.
    Routing,
    /// Tagged, guarded and encapsulated by our programs.
    Ipip,
    /// By a vxlan device, as flannel sets it up.
    Vxlan,
}

impl Way {
    const ALL: [Self; 3] = [Self::Routing, Self::Ipip, Self::Vxlan];

    fn name(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::Ipip => "ipip",
            Self::Vxlan => "vxlan",
        }
    }

    /// What a pod's packets may be long.
    fn mtu(self) -> u32 {
        match self {
            Self::Routing => UPLINK_MTU,
            Self::Ipip => UPLINK_MTU - 20,
            Self::Vxlan => UPLINK_MTU - 50,
        }
    }
}

fn main() -> Result<()> {
    let cpu = pin_to_one_cpu()?;
    let pin_dirs = [1, 2].map(|n| PathBuf::from(format!("/sys/fs/bpf/{NAME}-{}-{n}", std::process::id())));
    let measured = measure_all(&pin_dirs);
    for dir in &pin_dirs {
        Bpf::unload_all(dir).context("removing the pins")?;
    }
    let mut document = measured?;
    document.insert("cpu".to_owned(), Value::from(cpu));
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

/// Threads made later inherit it, and packets are worked on where they were sent.
fn pin_to_one_cpu() -> Result<usize> {
    let allowed = sched_getaffinity(None).context("reading the CPUs")?;
    // The last one: the first has most interrupts.
    let cpu = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)).context("no CPU")?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).context("pinning to one CPU")?;
    Ok(cpu)
}

fn measure_all(pin_dirs: &[PathBuf; 2]) -> Result<Map<String, Value>> {
    let tracks = Way::ALL.into_iter().map(|way| Track::new(way, pin_dirs)).collect::<Result<Vec<_>>>()?;
    let mut document = Map::new();
    let mut record = |what: &str, exchange: Exchange| -> Result<()> {
        for (track, samples) in tracks.iter().zip(take_turns(&tracks, exchange).context(what.to_owned())?) {
            let rounded: Vec<f64> = samples.iter().map(|value| value.round()).collect();
            document.insert(
                format!("{}_{what}", track.way.name()),
                json!({ "median": median(samples).round(), "samples": rounded }),
            );
        }
        Ok(())
    };
    record("tcp_bytes_per_s", Exchange::Stream(Control::Cubic))?;
    record("tcp_own_bytes_per_s", Exchange::Stream(Control::Own))?;
    record("tcp_rr_per_s", Exchange::Requests)?;
    for track in &tracks {
        track.switch_offloads_off()?;
    }
    record("tcp_mtu_bytes_per_s", Exchange::Stream(Control::Cubic))?;
    record("tcp_mtu_own_bytes_per_s", Exchange::Stream(Control::Own))?;
    let own = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    let own = own.context("reading the machine's congestion control")?;
    document.insert("congestion_control".to_owned(), Value::from(own.trim()));
    Ok(document)
}

/// What the pods do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    /// One sends as much as it can; bytes are counted.
    Stream(Control),
    /// One asks, the other answers; answers are counted.
    Requests,
}

/// Whose congestion control a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    /// The kernel's default, wherever this runs.
    Cubic,
    /// The machine's default.
    Own,
}

/// Lets all of them exchange, one at a time; what each did per second, by track and round.
fn take_turns(tracks: &[Track], exchange: Exchange) -> Result<Vec<Vec<f64>>> {
    let control = match exchange {
        Exchange::Stream(control) => control,
        Exchange::Requests => Control::Cubic,
    };
    let connections = tracks.iter().map(|track| track.connect(control)).collect::<Result<Vec<_>>>()?;
    let flows: Vec<Flow> = tracks.iter().map(|_| Flow::default()).collect();
    std::thread::scope(|scope| {
        for (flow, (client, server)) in flows.iter().zip(connections) {
            match exchange {
                Exchange::Stream(_) => {
                    scope.spawn(move || flow.send(client));
                    scope.spawn(move || flow.receive(server));
                }
                Exchange::Requests => {
                    scope.spawn(move || flow.ask(client));
                    scope.spawn(move || answer(server));
                }
            }
        }
        let measured = rounds(&flows, tracks);
        for flow in &flows {
            flow.set(Phase::Ended);
        }
        measured
    })
}

fn rounds(flows: &[Flow], tracks: &[Track]) -> Result<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::new(); flows.len()];
    for _ in 0..ROUNDS {
        let mut totals = vec![(0, Duration::ZERO); flows.len()];
        for turn in 0..TURNS {
            for step in 0..flows.len() {
                // Who comes first alternates.
                let at = (turn + step) % flows.len();
                let (count, took) = flows[at].turn();
                totals[at].0 += count;
                totals[at].1 += took;
            }
        }
        for ((samples, (count, took)), track) in samples.iter_mut().zip(totals).zip(tracks) {
            ensure!(count > 0, "nothing arrived by {} in {took:?}", track.way.name());
            samples.push(count as f64 / took.as_secs_f64());
        }
    }
    Ok(samples)
}

/// Whether a flow's turn is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Waiting,
    Running,
    Ended,
}

/// One connection's sender: waits for its turn without using the CPU.
#[derive(Default)]
struct Flow {
    phase: Mutex<Phase>,
    changed: Condvar,
    running: AtomicBool,
    count: AtomicU64,
}

impl Flow {
    fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.running.store(phase == Phase::Running, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Whether to go on.
    fn await_turn(&self) -> bool {
        if self.running.load(Ordering::Relaxed) {
            return true;
        }
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = self
            .changed
            .wait_while(phase, |phase| *phase == Phase::Waiting)
            .unwrap_or_else(PoisonError::into_inner);
        *phase == Phase::Running
    }

    /// How much happened in one turn, and in how long.
    fn turn(&self) -> (u64, Duration) {
        self.set(Phase::Running);
        std::thread::sleep(WARM_UP);
        let (started, before) = (Instant::now(), self.count.load(Ordering::Relaxed));
        std::thread::sleep(MEASURED);
        let count = self.count.load(Ordering::Relaxed) - before;
        let took = started.elapsed();
        self.set(Phase::Waiting);
        std::thread::sleep(DRAINED);
        (count, took)
    }

    fn send(&self, mut client: TcpStream) {
        let buffer = vec![0u8; BUFFER_BYTES];
        while self.await_turn() && client.write_all(&buffer).is_ok() {}
    }

    fn receive(&self, mut server: TcpStream) {
        let mut buffer = vec![0u8; BUFFER_BYTES];
        while let Ok(count @ 1..) = server.read(&mut buffer) {
            self.count.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    fn ask(&self, mut client: TcpStream) {
        let mut byte = [0u8];
        while self.await_turn() && client.write_all(&byte).is_ok() && client.read_exact(&mut byte).is_ok() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn answer(mut server: TcpStream) {
    let mut byte = [0u8];
    while server.read_exact(&mut byte).is_ok() && server.write_all(&byte).is_ok() {}
}

/// Two nodes with a pod each, joined in one way.
struct Track {
    way: Way,
    nodes: [NetNs; 2],
    pods: [NetNs; 2],
    /// Open as long as it runs.
    _programs: Vec<Bpf>,
}

fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

fn pod_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, number, 2)
}

impl Track {
    fn new(way: Way, pin_dirs: &[PathBuf; 2]) -> Result<Self> {
        let netns = |what: &str| NetNs::unique(&format!("{NAME}-{}-{what}", way.name()));
        let nodes = [netns("node")?, netns("node")?];
        let pods = [netns("pod")?, netns("pod")?];
        nodes[0].ip(&format!("link add up0 type veth peer name up0 netns {}", nodes[1].name()))?;
        let mut path = Self { way, nodes, pods, _programs: Vec::new() };
        for (at, number) in [(0, 1), (1, 2)] {
            path.set_up_node(at, number)?;
        }
        for (at, number, other) in [(0, 1, 2), (1, 2, 1)] {
            let programs = path.join_to(at, number, other, &pin_dirs[at])?;
            path._programs.extend(programs);
        }
        Ok(path)
    }

    fn set_up_node(&self, at: usize, number: u8) -> Result<()> {
        let (node, pod) = (&self.nodes[at], &self.pods[at]);
        let (address, mtu) = (pod_address(number), self.way.mtu());
        node.ip(&format!(
            "link add host0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
            pod.name()
        ))?;
        let mac = node.link("host0")?.mac.map(|byte| format!("{byte:02x}")).join(":");
        node.ip_batch(&format!(
            "link set up0 mtu {UPLINK_MTU} up\naddr add {}/24 dev up0\nlink set host0 up\n\
             route add {address} dev host0\n",
            node_address(number)
        ))?;
        pod.ip_batch(&format!(
            "link set eth0 up\naddr add {address}/32 dev eth0\nroute add 169.254.1.1 dev eth0\n\
             neigh add 169.254.1.1 lladdr {mac} dev eth0\nroute add default via 169.254.1.1\n"
        ))?;
        // As on every node with Services: connections are tracked, and looked up for NAT.
        let chain = "add chain ip nat postrouting { type nat hook postrouting priority srcnat; }";
        Run::new("nft").args([&format!("add table ip nat; {chain}")]).ok_in(node)?;
        // After a pause between turns a connection goes on as fast as before.
        pod.set_sysctl("ipv4/tcp_slow_start_after_idle", "0")?;
        node.set_sysctl("ipv4/ip_forward", "1")
    }

    /// Routes to the other node's pods, and what carries them.
    fn join_to(&self, at: usize, number: u8, other: u8, pin_dir: &Path) -> Result<Option<Bpf>> {
        let node = &self.nodes[at];
        let block = format!("10.244.{other}.0/24");
        let via = node_address(other);
        match self.way {
            Way::Routing => node.ip(&format!("route add {block} via {via} dev up0"))?,
            Way::Ipip => {
                let programs = self.attach(at, number, other, pin_dir)?;
                node.ip(&format!("route add {block} via {via} dev up0 mtu {}", self.way.mtu()))?;
                return Ok(Some(programs));
            }
            Way::Vxlan => {
                let mac = |number: u8| format!("02:00:00:00:01:{number:02x}");
                node.ip_batch(&format!(
                    "link add vx0 address {} mtu {} type vxlan id 1 local {} dev up0 dstport 4789 nolearning\n\
                     link set vx0 up\naddr add 10.244.{number}.0/32 dev vx0\n\
                     neigh add 10.244.{other}.0 lladdr {} dev vx0\n\
                     route add {block} via 10.244.{other}.0 dev vx0 onlink\n",
                    mac(number),
                    self.way.mtu(),
                    node_address(number),
                    mac(other),
                ))?;
                let fdb = ["fdb", "append", &mac(other), "dev", "vx0", "dst", &via.to_string()];
                Run::new("bridge").args(fdb).ok_in(node)?
            }
        };
        Ok(None)
    }

    /// All that a node of ours has: programs at the pod and at the uplink.
    fn attach(&self, at: usize, number: u8, other: u8, pin_dir: &Path) -> Result<Bpf> {
        let node = &self.nodes[at];
        let mut bpf = Bpf::open(&OpenOptions::new(pin_dir))?;
        let tag = TagId::new(7).context("a tag")?;
        bpf.set_pool("10.244.0.0/16".parse()?, PoolRule { tag, nat_outgoing: true, dscp: None })?;
        let (host, uplink) = (node.link("host0")?.index, node.link("up0")?.index);
        bpf.set_endpoint(
            host,
            Endpoint { ipv4: Some(pod_address(number)), ipv6: None, ..Endpoint::default() },
        )?;
        bpf.set_uplink(uplink, UplinkRule { local: node_address(number), decapsulate: true })?;
        bpf.set_peer(node_address(other), PeerRule { inner: Some(Ipv4Addr::new(10, 244, other, 1)) })?;
        for (served, encapsulate) in [(number, false), (other, true)] {
            let range = RemoteRange { node: node_address(served), encapsulate };
            bpf.set_remote_range(format!("10.244.{served}.0/24").parse()?, range)?;
        }
        node.run(|| -> Result<()> {
            bpf.attach(host)?;
            bpf.attach_uplink(uplink)?;
            Ok(())
        })??;
        Ok(bpf)
    }

    fn switch_offloads_off(&self) -> Result<()> {
        let off = |netns: &NetNs, name: &str| {
            let args = ["-K", name, "tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off"];
            Run::new("ethtool").args(args).ok_in(netns).map(drop)
        };
        for (node, pod) in self.nodes.iter().zip(&self.pods) {
            off(pod, "eth0")?;
            off(node, "host0")?;
            off(node, "up0")?;
        }
        Ok(())
    }

    /// A connection from the first pod to the second.
    fn connect(&self, control: Control) -> Result<(TcpStream, TcpStream)> {
        let listener = self.pods[1].run(|| TcpListener::bind((pod_address(2), 0)))?.context("listening")?;
        let target = listener.local_addr()?;
        let client =
            self.pods[0].run(|| TcpStream::connect_timeout(&target, LIMIT))?.context("connecting")?;
        let (server, _) = listener.accept().context("accepting")?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            if control == Control::Cubic {
                set_tcp_congestion(stream, "cubic").context("choosing cubic")?;
            }
            // Others have their turns meanwhile.
            stream.set_read_timeout(Some(IDLE_LIMIT))?;
            stream.set_write_timeout(Some(IDLE_LIMIT))?;
        }
        Ok((client, server))
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}
