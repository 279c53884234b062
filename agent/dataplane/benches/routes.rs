//! What it takes to bring routes about, to keep them, and to bring them back. In network namespaces of its own; prints
//! JSON.
//!
//! * `routes_per_s_NxM`: M blocks of each of N nodes, from a kernel without any of our routes and nexthop objects: read
//!   the kernel, ask it for the way to every node, plan, install nexthops and routes. Median of samples, the shapes
//!   taking turns. `first_run_*`: the same as the first reconciliation of an agent does it, which also reads the
//!   programs' maps and starts `nft`; `first_run_encapsulated_*`: and writes every range and node to these maps.
//! * `ip_batch_classic_per_s_5000x4`: the same routes with a gateway each, by `ip -batch`, in the same turns.
//! * `repair_ms`: from starting `ip route del` on one of 20,000 routes until it is back; the repair that follows each has to find
//!   nothing more to do.
//! * `carrier_ms_NxM`: from starting `ip link set up` on the far end of the uplink, which had taken all routes with it, until
//!   all of them are back.
//! * `resync_ms`: a reconciliation that reads 20,000 routes and plans nothing; `resync_drift_ops`: operations that it
//!   plans when one of them has been altered.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot measure shall end")]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::{NetNs, Run};
use model::{Cidr, IpipMode};
use poolward_dataplane::{Dataplane, DesiredState, Event, Peer, RemoteRange, Settings};
use serde_json::json;

/// Rounds of all shapes.
const ROUNDS: usize = 5;
const REPAIRS: u32 = 41;
const RESYNCS: usize = 9;
const CARRIERS: usize = 11;

/// After this long without an event the kernel has told all.
const QUIET: Duration = Duration::from_millis(300);

/// All nodes are on the uplink's link.
const SUBNET: &str = "172.16.0.1/12";
const FIRST_NODE: u32 = 0xac10_1000;
const FIRST_BLOCK: u32 = 0x0a00_0000;

/// How many nodes, and how many blocks each has.
type Shape = (u32, u32);

/// One node under test.
struct Node {
    netns: NetNs,
    dataplane: Dataplane,
    desired: DesiredState,
    pin_dir: PathBuf,
}

impl Node {
    fn new(name: &str, (nodes, blocks): Shape, ipip_mode: IpipMode) -> Self {
        let netns = namespace(name);
        let pin_dir = Path::new("/sys/fs/bpf").join(format!("pwbench-{}-{name}", std::process::id()));
        let mut settings = Settings::new(pin_dir.clone());
        settings.uplink = Some("up0".into());
        let dataplane = netns.run(|| Dataplane::open(settings)).unwrap().unwrap();
        let peers = (0..nodes).map(|number| Peer {
            name: format!("node-{number}").parse().unwrap(),
            ipv4: Some(gateway(number)),
            ipv6: None,
            inner_ipv4: None,
        });
        let range = |at: u32| RemoteRange { cidr: block(at), peer: at / blocks, ipip_mode };
        let desired = DesiredState {
            since: dataplane.epoch(),
            sweep: true,
            pools: Vec::new(),
            own_blocks: Vec::new(),
            closed_ranges: Vec::new(),
            peers: peers.collect(),
            remote_ranges: (0..nodes * blocks).map(range).collect(),
            underlay_ipv4: Some(Ipv4Addr::new(172, 16, 0, 1)),
            inner_ipv4: None,
            pods: Vec::new(),
            forward_ipv4: true,
            forward_ipv6: false,
        };
        Self { netns, dataplane, desired, pin_dir }
    }

    fn call<T: Send>(&self, call: impl FnOnce(&Dataplane) -> T + Send) -> T {
        self.netns.run(|| call(&self.dataplane)).unwrap()
    }

    /// How many operations were planned.
    fn reconcile(&self, desired: &DesiredState) -> usize {
        let desired = DesiredState { since: self.dataplane.epoch(), ..desired.clone() };
        let report = self.call(|dataplane| dataplane.reconcile(&desired));
        assert!(report.errors.is_empty() && report.unrouted.is_empty(), "{report:?}");
        report.planned_count
    }

    fn routes_count(&self) -> u32 {
        u32::try_from(self.desired.remote_ranges.len()).unwrap()
    }

    /// Routes per second of the first reconciliation that wants any.
    fn first_run(&self) -> f64 {
        self.reconcile(&DesiredState {
            peers: Vec::new(),
            remote_ranges: Vec::new(),
            ..self.desired.clone()
        });
        let desired = DesiredState { since: self.dataplane.epoch(), ..self.desired.clone() };
        let (took, report) = self.call(|dataplane| {
            let started = Instant::now();
            let report = dataplane.reconcile(&desired);
            (started.elapsed(), report)
        });
        assert!(report.errors.is_empty(), "{report:?}");
        self.assert_complete();
        f64::from(self.routes_count()) / took.as_secs_f64()
    }

    /// Routes per second from nothing.
    fn rate_from_nothing(&self) -> f64 {
        // Routes first: an object that has any makes the kernel walk through all of the table.
        let lines = (0..self.routes_count()).map(|at| format!("route del {} proto 80\n", block(at)));
        self.netns.ip_batch(&lines.collect::<String>()).unwrap();
        self.netns.ip("nexthop flush proto 80").unwrap();
        assert_eq!(self.netns.ip("route show proto 80").unwrap(), "");
        let (took, report) = self.call(|dataplane| {
            let started = Instant::now();
            let report = dataplane.repair();
            (started.elapsed(), report)
        });
        assert!(report.errors.is_empty(), "{report:?}");
        assert_eq!(report.planned_count, self.desired.peers.len() + self.desired.remote_ranges.len());
        self.assert_complete();
        f64::from(self.routes_count()) / took.as_secs_f64()
    }

    fn assert_complete(&self) {
        let found = self.netns.ip("route show proto 80").unwrap().lines().count();
        assert_eq!(found, self.desired.remote_ranges.len());
    }

    /// Milliseconds from starting `ip route del` to the end of the run that brings the route back.
    fn repairs(&self) -> Vec<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let netns = &self.netns;
        let routes_count = self.routes_count();
        self.call(|dataplane| {
            runtime.block_on(async {
                let mut events = dataplane.events().unwrap();
                let mut took = Vec::new();
                for round in 0..REPAIRS {
                    let victim = block(round.wrapping_mul(7919) % routes_count);
                    let started = Instant::now();
                    netns.ip(&format!("route del {victim} proto 80")).unwrap();
                    // As the agent does: what was taken away first, then whatever else may be wrong.
                    loop {
                        let event = events.next().await.unwrap();
                        let gone = events.take_gone();
                        if event >= Event::Underlay && !dataplane.restore(&gone).is_empty() {
                            break;
                        }
                    }
                    took.push(started.elapsed().as_secs_f64() * 1e3);
                    let report = dataplane.repair();
                    assert!(report.errors.is_empty() && report.planned_count == 0, "{report:?}");
                    assert!(netns.ip(&format!("route show {victim}")).unwrap().contains("nhid"));
                }
                took
            })
        })
    }

    /// Milliseconds from starting to give the uplink its carrier back until all routes are back.
    fn carriers(&self) -> Vec<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let netns = &self.netns;
        let wanted = self.desired.remote_ranges.len();
        self.call(|dataplane| {
            runtime.block_on(async {
                let mut events = dataplane.events().unwrap();
                let mut took = Vec::new();
                for _ in 0..CARRIERS {
                    netns.ip("link set up1 down").unwrap();
                    while tokio::time::timeout(QUIET, events.next()).await.is_ok() {
                        dataplane.restore(&events.take_gone());
                        let _ = dataplane.repair();
                    }
                    assert_eq!(netns.ip("route show proto 80 dev up0").unwrap(), "");
                    let started = Instant::now();
                    netns.ip("link set up1 up").unwrap();
                    // As the agent does with every such event.
                    let mut done_count = 0;
                    while done_count < wanted {
                        let event = events.next().await.unwrap();
                        let gone = events.take_gone();
                        if event < Event::Underlay {
                            continue;
                        }
                        done_count += dataplane.restore(&gone).len();
                        done_count += dataplane.repair().planned_count;
                    }
                    took.push(started.elapsed().as_secs_f64() * 1e3);
                    self.assert_complete();
                }
                took
            })
        })
    }

    /// Milliseconds of reconciliations that plan nothing.
    fn resyncs(&self) -> Vec<f64> {
        let resync = |_| {
            let started = Instant::now();
            assert_eq!(self.reconcile(&self.desired), 0);
            started.elapsed().as_secs_f64() * 1e3
        };
        (0..RESYNCS).map(resync).collect()
    }

    /// Operations planned when one route of all has been altered.
    fn drift_ops(&self) -> usize {
        let victim = block(std::process::id().wrapping_mul(2_654_435_761) % self.routes_count());
        let line = format!("route change {victim} via {} dev up0 onlink proto 80", gateway(3));
        self.netns.ip(&line).unwrap();
        let planned = self.reconcile(&self.desired);
        assert!(self.netns.ip(&format!("route show {victim}")).unwrap().contains("nhid"));
        planned
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(errors) = self.netns.run(|| self.dataplane.remove_all()).unwrap() {
            eprintln!("{errors:?}");
        }
        if !std::thread::panicking() {
            assert!(!self.pin_dir.exists(), "{} is left", self.pin_dir.display());
        }
    }
}

/// A namespace with an uplink on which every node is.
fn namespace(name: &str) -> NetNs {
    let netns = NetNs::unique(&format!("pwbench-{name}")).unwrap();
    let lines = format!(
        "link add up0 type veth peer name up1\nlink set up1 up\nlink set up0 up\naddr add {SUBNET} dev up0\n"
    );
    netns.ip_batch(&lines).unwrap();
    netns
}

fn gateway(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_NODE + number)
}

fn block(at: u32) -> Cidr {
    Cidr::containing(Ipv4Addr::from(FIRST_BLOCK + at * 64).into(), 26).unwrap()
}

/// Routes per second of `ip -batch` with a gateway each.
fn ip_batch_classic((nodes, blocks): Shape) -> f64 {
    let netns = namespace("classic");
    let line = |at: u32| format!("route add {} via {} dev up0 proto 80\n", block(at), gateway(at / blocks));
    let lines: String = (0..nodes * blocks).map(line).collect();
    let started = Instant::now();
    netns.ip_batch(&lines).unwrap();
    let took = started.elapsed();
    let found = netns.ip("route show proto 80").unwrap().lines().count();
    assert_eq!(found, usize::try_from(nodes * blocks).unwrap());
    f64::from(nodes * blocks) / took.as_secs_f64()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The share of samples below which a value lies.
fn percentile(mut samples: Vec<f64>, percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() * percent / 100]
}

fn mount_bpffs() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        Run::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).ok().unwrap();
    }
}

fn main() {
    mount_bpffs();
    let small = Node::new("1000x1", (1_000, 1), IpipMode::Never);
    let large = Node::new("10000x1", (10_000, 1), IpipMode::Never);
    let full = Node::new("5000x4", (5_000, 4), IpipMode::Never);
    let first = [small.first_run(), large.first_run(), full.first_run()];
    let encapsulated = Node::new("encap", (5_000, 4), IpipMode::Always).first_run();
    let mut samples = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        samples[0].push(small.rate_from_nothing());
        samples[1].push(large.rate_from_nothing());
        samples[2].push(full.rate_from_nothing());
        samples[3].push(ip_batch_classic((5_000, 4)));
    }
    let [small_rate, large_rate, full_rate, classic] = samples.map(median);
    let repairs = full.repairs();
    let carriers_full = full.carriers();
    let carriers_medium = {
        let medium = Node::new("1000x4", (1_000, 4), IpipMode::Never);
        medium.first_run();
        medium.carriers()
    };
    let resyncs = full.resyncs();
    let drift_ops = full.drift_ops();
    let numbers = json!({
        "routes_per_s_5000x4": full_rate,
        "routes_per_s_1000x1": small_rate,
        "routes_per_s_10000x1": large_rate,
        "first_run_routes_per_s_5000x4": first[2],
        "first_run_routes_per_s_1000x1": first[0],
        "first_run_routes_per_s_10000x1": first[1],
        "first_run_encapsulated_routes_per_s_5000x4": encapsulated,
        "ip_batch_classic_per_s_5000x4": classic,
        "repair_ms_p50": percentile(repairs.clone(), 50),
        "repair_ms_p90": percentile(repairs, 90),
        "carrier_ms_p50_1000x4": percentile(carriers_medium.clone(), 50),
        "carrier_ms_p90_1000x4": percentile(carriers_medium, 90),
        "carrier_ms_p50_5000x4": percentile(carriers_full, 50),
        "resync_ms_p50": percentile(resyncs, 50),
        "resync_drift_ops": drift_ops,
    });
    println!("{numbers}");
}
