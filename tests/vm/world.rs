//! Two nodes with a pod each, each node of one of three kinds:
//!
//! ```text
//!  pod 10.244.1.2 --- [ node a ] up0 ---(router)--- up0 [ node b ] --- pod 10.244.2.2
//!                     192.0.2.1                         192.0.2.2, or 198.51.100.2 behind a router
//! ```
//! Ours is brought about by the dataplane as an agent would ask for it; the plain one by hand: `tunl0` and a route.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dataplane::{Dataplane, DesiredState, EncapBackend, Peer, Pool, RemoteRange, Settings};
use harness::{NetNs, Run};
use model::{IpipMode, TagId};

/// How long a packet or an answer may take, on an emulated CPU of a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// What the narrow link behind the router carries.
pub(crate) const NARROW_MTU: u32 = 1400;

/// How a node encapsulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours, by the programs.
    Ebpf,
    /// Ours, by a device of the kernel.
    Device,
    /// The kernel's `tunl0`, that knows nothing of us.
    Plain,
}

/// A node and its pod.
pub(crate) struct Side {
    pub(crate) node: NetNs,
    pub(crate) pod: NetNs,
    pub(crate) address: Ipv4Addr,
    pub(crate) pod_address: Ipv4Addr,
    number: u8,
    ours: Option<Ours>,
}

struct Ours {
    dataplane: Dataplane,
    pin_dir: PathBuf,
}

/// Both nodes.
pub(crate) struct World {
    pub(crate) a: Side,
    pub(crate) b: Side,
    _router: Option<NetNs>,
}

impl World {
    /// Both on one link.
    pub(crate) fn flat(a: Kind, b: Kind) -> Self {
        let (left, right) = (node(a), node(b));
        left.ip(&format!("link add up0 type veth peer name up0 netns {}", right.name())).unwrap();
        let [at_a, at_b] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
        left.ip(&format!("addr add {at_a}/24 dev up0")).unwrap();
        right.ip(&format!("addr add {at_b}/24 dev up0")).unwrap();
        Self::join(Side::new(left, at_a, 1), Side::new(right, at_b, 2), [a, b], None)
    }

    /// A router between them, whose link to node B carries [`NARROW_MTU`].
    pub(crate) fn routed(a: Kind, b: Kind) -> Self {
        let (left, right, router) = (node(a), node(b), namespace());
        for (node, name, net, mtu) in
            [(&left, "to-a", "192.0.2", 1500), (&right, "to-b", "198.51.100", NARROW_MTU)]
        {
            node.ip(&format!("link add up0 type veth peer name {name} netns {}", router.name())).unwrap();
            let number = if name == "to-a" { 1 } else { 2 };
            node.ip_batch(&format!(
                "addr add {net}.{number}/24 dev up0\nlink set up0 up\nroute add default via {net}.254\n"
            ))
            .unwrap();
            router
                .ip_batch(&format!("addr add {net}.254/24 dev {name}\nlink set {name} mtu {mtu} up"))
                .unwrap();
        }
        router.set_sysctl("ipv4/ip_forward", "1").unwrap();
        let [at_a, at_b] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2)];
        Self::join(Side::new(left, at_a, 1), Side::new(right, at_b, 2), [a, b], Some(router))
    }

    fn join(mut a: Side, mut b: Side, kinds: [Kind; 2], router: Option<NetNs>) -> Self {
        let (to_a, to_b) = (a.address, b.address);
        a.reaches(kinds[0], to_b, 2);
        b.reaches(kinds[1], to_a, 1);
        Self { a, b, _router: router }
    }
}

impl Side {
    fn new(node: NetNs, address: Ipv4Addr, number: u8) -> Self {
        let pod = namespace();
        let pod_address = Ipv4Addr::new(10, 244, number, 2);
        node.ip(&format!("link add host0 type veth peer name eth0 netns {}", pod.name())).unwrap();
        for (netns, ifname) in [(&node, "host0"), (&node, "up0"), (&pod, "eth0")] {
            // Nothing but what a test sends.
            netns.set_sysctl(&format!("ipv6/conf/{ifname}/disable_ipv6"), "1").unwrap();
        }
        node.ip_batch(&format!("link set up0 up\nlink set host0 up\nroute add {pod_address} dev host0\n"))
            .unwrap();
        let mac = mac_text(node.link("host0").unwrap().mac);
        pod.ip_batch(&format!(
            "link set eth0 up\naddr add {pod_address}/32 dev eth0\nroute add 169.254.1.1 dev eth0\n\
             neigh add 169.254.1.1 lladdr {mac} dev eth0 nud permanent\nroute add default via 169.254.1.1\n"
        ))
        .unwrap();
        let mac = mac_text(pod.link("eth0").unwrap().mac);
        node.ip(&format!("neigh add {pod_address} lladdr {mac} dev host0 nud permanent")).unwrap();
        node.set_sysctl("ipv4/ip_forward", "1").unwrap();
        Self { node, pod, address, pod_address, number, ours: None }
    }

    fn reaches(&mut self, kind: Kind, other: Ipv4Addr, other_number: u8) {
        let block = format!("10.244.{other_number}.0/24");
        let encap_backend = match kind {
            Kind::Ebpf => EncapBackend::Ebpf,
            Kind::Device => EncapBackend::Device,
            Kind::Plain => {
                self.node
                    .ip_batch(&format!("link set tunl0 up\nroute add {block} via {other} dev tunl0 onlink\n"))
                    .unwrap();
                return;
            }
        };
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pwvm-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let pin_dir = Path::new("/sys/fs/bpf").join(name);
        let settings =
            Settings { uplink: Some("up0".into()), encap_backend, ..Settings::new(pin_dir.clone()) };
        let dataplane = self.node.run(|| Dataplane::open(settings)).unwrap().unwrap();
        let desired = self.desired(&dataplane, other, other_number);
        self.ours = Some(Ours { dataplane, pin_dir });
        self.reconcile(&desired);
        assert_eq!(self.reconcile(&desired), [""; 0], "{kind:?}: a second run plans nothing");
    }

    /// What an agent would want that knows one other node, in a pool that is always encapsulated.
    fn desired(&self, dataplane: &Dataplane, other: Ipv4Addr, other_number: u8) -> DesiredState {
        let pool = "10.244.0.0/16".parse().unwrap();
        DesiredState {
            since: dataplane.epoch(),
            sweep: true,
            pools: vec![Pool { cidr: pool, tag: TagId::new(7).unwrap(), nat_outgoing: false, dscp: None }],
            own_blocks: vec![format!("10.244.{}.0/24", self.number).parse().unwrap()],
            closed_ranges: vec![pool],
            peers: vec![Peer {
                name: "other".parse().unwrap(),
                ipv4: Some(other),
                ipv6: None,
                inner_ipv4: Some(Ipv4Addr::new(10, 244, other_number, 1)),
            }],
            remote_ranges: vec![RemoteRange {
                cidr: format!("10.244.{other_number}.0/24").parse().unwrap(),
                peer: 0,
                ipip_mode: IpipMode::Always,
            }],
            underlay_ipv4: Some(self.address),
            inner_ipv4: Some(Ipv4Addr::new(10, 244, self.number, 1)),
            pods: Vec::new(),
            forward_ipv4: true,
            forward_ipv6: false,
        }
    }

    /// Brings it about; fails on any error; returns what was planned.
    fn reconcile(&self, desired: &DesiredState) -> Vec<String> {
        let dataplane = self.dataplane();
        let desired = DesiredState { since: dataplane.epoch(), ..desired.clone() };
        let report = self.node.run(|| dataplane.reconcile(&desired)).unwrap();
        assert!(report.errors.is_empty(), "{:?} after {:#?}", report.errors, report.planned);
        report.planned
    }

    /// Ours.
    pub(crate) fn dataplane(&self) -> &Dataplane {
        &self.ours.as_ref().expect("a node of ours").dataplane
    }

    /// What was dropped or is worth a look; nothing on a node that is not ours.
    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        let Some(ours) = &self.ours else { return Vec::new() };
        let drops = self.node.run(|| ours.dataplane.drops()).unwrap().unwrap();
        drops.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// One echo request from the pod, or the node; says whether it was answered.
    pub(crate) fn ping(from: &NetNs, to: Ipv4Addr, payload_len: usize, df: bool) -> bool {
        let (df, len) = (if df { "do" } else { "dont" }, payload_len.to_string());
        let args = ["-n", "-q", "-c", "1", "-W", "5", "-M", df, "-s", &len, &to.to_string()];
        Run::new("ping").args(args).finish_in(from).unwrap().status.success()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let Some(ours) = self.ours.take() else { return };
        let removed = self.node.run(|| ours.dataplane.remove_all());
        if !std::thread::panicking() {
            removed.unwrap().unwrap();
            assert!(!ours.pin_dir.exists(), "{} is left", ours.pin_dir.display());
        }
    }
}

fn namespace() -> NetNs {
    let netns = NetNs::unique("pwvm").expect("these tests need root and iproute2");
    for key in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
        netns.set_sysctl(key, "0").unwrap();
    }
    netns
}

/// A namespace for a node; with a `tunl0` if it is a plain one.
fn node(kind: Kind) -> NetNs {
    const WITHOUT_TUNNELS: &str = "/proc/sys/net/core/fb_tunnels_only_for_init_net";
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if kind != Kind::Plain {
        return namespace();
    }
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = fs::read_to_string(WITHOUT_TUNNELS).unwrap();
    fs::write(WITHOUT_TUNNELS, "0").unwrap();
    let netns = namespace();
    fs::write(WITHOUT_TUNNELS, before.trim()).unwrap();
    netns.ip("link show tunl0").expect("these tests need a kernel with ipip: `cargo xtask test vm`");
    netns
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
