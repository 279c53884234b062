//! The real kernel: netlink, `/proc/sys`, nftables and the programs.

mod host;
mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bpf::PoolCounters;
use model::{Family, MIN_MTU_BYTES, TagId};
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::system::uname;
use rustix::time::{ClockId, clock_gettime};

use self::host::{in_namespace, is_at_least, write_sysctl};
use super::exec::{self, exec_netlink, exec_runs, netlink_requests, one_by_one};
use super::netlink::{Answer, Netlink, NetlinkError};
use super::nexthop::Message;
use super::programs::ProgramStore;
use super::{
    ErrorKind, Failure, Kernel, KernelError, Place, PodSide, RouteTable, message, nexthop, nft, nsid,
};
use crate::events::Events;
use crate::object::{
    FoundNexthop, FoundRoute, Hop, Link, LinkAddress, NatState, Neighbour, PathMtu, Programs, Route, Sysctl,
};
use crate::op::{Op, Outcome, TunnelSpec};
use crate::settings::Settings;

/// Sockets kept open between calls; more are opened when more calls run at once, and closed after.
const IDLE_SOCKETS_MAX: usize = 4;

/// Name of the interface that is made to see whether it can be.
const PROBE_IFNAME: &str = "poolward-probe";

/// The kernel under the node's agent. One per dataplane.
pub(crate) struct Linux {
    sockets: Mutex<Vec<Netlink>>,
    /// None where nothing but taking away is to be done.
    programs: Option<Arc<ProgramStore>>,
    nft_table: String,
    /// `/proc/sys/net`, or where it is mounted.
    sysctl_dir: PathBuf,
    ipv6_exists: bool,
    /// Interfaces whose deletion a thread waits for: what the programs still have of them is on its way out.
    deletions: Arc<Mutex<BTreeSet<u32>>>,
    /// Device and inode of the namespace in which this was opened.
    own_namespace: (u64, u64),
}

impl Linux {
    /// The kernel as seen from the calling thread's network namespace.
    pub(crate) fn open(programs: ProgramStore, settings: &Settings) -> Result<Self, KernelError> {
        Self::open_with(Some(Arc::new(programs)), settings)
    }

    /// The same for those who only take away: what concerns programs and maps fails.
    pub(crate) fn without_programs(settings: &Settings) -> Result<Self, KernelError> {
        Self::open_with(None, settings)
    }

    fn open_with(programs: Option<Arc<ProgramStore>>, settings: &Settings) -> Result<Self, KernelError> {
        let path = "/proc/thread-self/ns/net";
        let own = fs::File::open(path)
            .and_then(|file| fstat(&file).map_err(io::Error::from))
            .map_err(|cause| KernelError::io(format!("open {path}"), cause))?;
        let kernel = Self {
            sockets: Mutex::new(Vec::new()),
            programs,
            nft_table: settings.nft_table.clone(),
            ipv6_exists: fs::exists(settings.sysctl_dir.join("ipv6")).unwrap_or(false),
            sysctl_dir: settings.sysctl_dir.clone(),
            deletions: Arc::default(),
            own_namespace: (own.st_dev, own.st_ino),
        };
        // The first answer from the kernel now rather than in the first ADD.
        kernel.fetch_link("lo")?;
        Ok(kernel)
    }

    fn programs(&self) -> Result<&ProgramStore, KernelError> {
        let none = || KernelError::other("use the eBPF programs", "they are not loaded");
        self.programs.as_deref().ok_or_else(none)
    }

    /// Lends a socket of the node's namespace.
    fn with_socket<T>(&self, call: impl FnOnce(&mut Netlink) -> io::Result<T>) -> io::Result<T> {
        let idle = self.sockets().pop();
        let mut socket = match idle {
            Some(socket) => socket,
            None => Netlink::open()?,
        };
        // A socket whose call broke off is dropped: late answers would be mixed up with the next ones.
        let result = call(&mut socket)?;
        let mut sockets = self.sockets();
        if sockets.len() < IDLE_SOCKETS_MAX {
            sockets.push(socket);
        }
        Ok(result)
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<Netlink>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn families(&self) -> &'static [Family] {
        if self.ipv6_exists { &[Family::V4, Family::V6] } else { &[Family::V4] }
    }

    /// One operation that is no netlink message.
    fn exec_other(&self, op: &Op) -> Result<(), KernelError> {
        match op {
            Op::DeleteLink { ifname, ifindex } => self.delete_link(ifname, *ifindex),
            Op::AwaitCarrier { ifname, .. } => self.await_carrier(ifname),
            Op::Attach { ifindex } => self.programs()?.attach(*ifindex),
            Op::Settle { ifindex } => self.programs()?.settle(*ifindex),
            Op::Detach { ifindex } => self.programs()?.detach(*ifindex),
            Op::SetEndpoint { ifindex, endpoint } => {
                self.programs()?.set_endpoint(*ifindex, endpoint.clone())
            }
            Op::RemoveEndpoint { ifindex } => self.programs()?.remove_endpoint(*ifindex),
            Op::SetPool { cidr, entry } => self.programs()?.set_pool(*cidr, *entry),
            Op::RemovePool { cidr } => self.programs()?.remove_pool(*cidr),
            Op::ForgetTag(tag) => self.programs()?.forget(*tag),
            Op::SetMarks(layout) => self.programs()?.set_marks(*layout),
            Op::SetRemoteRange { cidr, rule } => self.programs()?.set_remote_range(*cidr, *rule),
            Op::RemoveRemoteRange { cidr } => self.programs()?.remove_remote_range(*cidr),
            Op::SetPeer { address, inner } => self.programs()?.set_peer(*address, *inner),
            Op::RemovePeer { address } => self.programs()?.remove_peer(*address),
            Op::RemovePathMtu { node } => self.programs()?.remove_path_mtu(*node),
            Op::SetUplink { ifindex, rule } => self.programs()?.set_uplink(*ifindex, *rule),
            Op::AttachUplink { ifindex } => self.programs()?.attach_uplink(*ifindex),
            Op::DetachUplink { ifindex } => self.programs()?.detach_uplink(*ifindex),
            Op::ReplaceNat(table) => nft::replace(&self.nft_table, table),
            Op::RemoveNat => nft::remove(&self.nft_table),
            Op::SetSysctl { sysctl, value } => write_sysctl(&self.sysctl_dir, sysctl, *value),
            _ => Err(KernelError::other(op.to_string(), "no such operation outside netlink")),
        }
    }

    /// The node's elements of one kind, all families.
    fn dump<T>(
        &self,
        what: &str,
        request: impl Fn(Family) -> Message,
        mut keep: impl FnMut(&Message) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        let mut found = Vec::new();
        for family in self.families() {
            let operation = || format!("list {family} {what}");
            let of_family = self
                .with_socket(|socket| Ok(socket.dump(&request(*family), strict, &mut keep)))
                .map_err(|cause| KernelError::io(operation(), cause))?
                .map_err(|error| netlink_error(operation(), error))?;
            if found.is_empty() { found = of_family } else { found.extend(of_family) }
        }
        Ok(found)
    }
}

impl Kernel for Linux {
    fn exec(
        &self,
        place: Place<'_>,
        netns: Option<BorrowedFd<'_>>,
        ops: &[Op],
    ) -> Result<Vec<Outcome>, Failure> {
        match place {
            Place::Node => exec_runs(ops, |run| {
                match netlink_requests(run, netns.as_ref().map(AsRawFd::as_raw_fd), self.ipv6_exists) {
                    Some(requests) => exec_netlink(run, requests, |requests| {
                        self.with_socket(|socket| socket.execute(requests))
                    }),
                    None => one_by_one(run, |op| self.exec_other(op)),
                }
            }),
            Place::Pod(pod) => in_namespace(pod, || {
                let mut socket = Netlink::open().map_err(|cause| Failure {
                    done: Vec::new(),
                    error: KernelError::io("open a netlink socket in the pod", cause),
                })?;
                exec_runs(ops, |run| match netlink_requests(run, None, true) {
                    Some(requests) => exec_netlink(run, requests, |requests| socket.execute(requests)),
                    None => one_by_one(run, |op| self.exec_other(op)),
                })
            })
            .unwrap_or_else(|error| Err(Failure { done: Vec::new(), error })),
        }
    }

    fn exec_each(&self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        exec::exec_each(
            ops,
            self.ipv6_exists,
            |requests| self.with_socket(|socket| socket.execute(requests)),
            |op| self.exec_other(op),
        )
    }

    fn fetch_links(&self) -> Result<Vec<Link>, KernelError> {
        // A foreign interface that cannot be parsed is none of ours, and no reason to stop.
        let skip = |reason: String| {
            tracing::warn!(reason, "an interface could not be read and is passed over");
            Ok(())
        };
        let messages = self
            .with_socket(|socket| Ok(socket.dump(&message::all_links(), skip, message::parse_link)))
            .map_err(|cause| KernelError::io("list interfaces", cause))?;
        messages.map_err(|error| netlink_error("list interfaces".into(), error))
    }

    fn fetch_link(&self, ifname: &str) -> Result<Option<Link>, KernelError> {
        let operation = || format!("look up interface {ifname}");
        let answers = self
            .with_socket(|socket| socket.execute(vec![message::get_link(ifname)]))
            .map_err(|cause| KernelError::io(operation(), cause))?;
        link_of(answers.into_iter().next(), operation())
    }

    fn fetch_routes(&self, protocol: u8, ifindex: u32) -> Result<Vec<Route>, KernelError> {
        let request = |family| message::routes(family, Some(protocol), Some(ifindex));
        self.dump("routes", request, message::parse_route)
    }

    fn fetch_table(&self, protocol: u8) -> Result<RouteTable, KernelError> {
        let mut defaults = Vec::new();
        let mut before = None;
        let keep = |message: &Message| {
            let route = message::parse_route(message)?;
            // Routes with one key stand side by side, the one that counts first.
            let shadowed = before.replace(route.key()) == Some(route.key());
            if route.destination.prefix_len() == 0 {
                defaults.push(route);
            }
            (route.protocol == protocol).then_some(FoundRoute { route, shadowed })
        };
        let ours = self.dump("routes", |family| message::routes(family, None, None), keep)?;
        Ok(RouteTable { ours, defaults })
    }

    fn fetch_nexthops(&self) -> Result<Vec<FoundNexthop>, KernelError> {
        let operation = || "list nexthop objects".to_owned();
        let found = |message: &Message| match message {
            Message::Nexthop(message) => message.found(),
            Message::Route(_) => None,
        };
        self.with_socket(|socket| Ok(socket.dump(&nexthop::all(), strict, found)))
            .map_err(|cause| KernelError::io(operation(), cause))?
            .map_err(|error| netlink_error(operation(), error))
    }

    fn fetch_hops(&self, addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, Hop>, KernelError> {
        let requests = addresses.iter().map(|address| message::route_to(*address)).collect();
        let answers = self
            .with_socket(|socket| socket.execute(requests))
            .map_err(|cause| KernelError::io("ask how the other nodes are reached", cause))?;
        // A refusal says that there is no way.
        let hop = |answer: Answer| answer.ok()?.iter().find_map(message::parse_hop);
        let found = addresses.iter().zip(answers).filter_map(|(to, answer)| Some((*to, hop(answer)?)));
        Ok(found.collect())
    }

    fn fetch_addresses(&self) -> Result<Vec<LinkAddress>, KernelError> {
        self.dump("addresses", |family| message::addresses(family, None), message::parse_address)
    }

    fn fetch_neighbours(&self, ifindex: Option<u32>) -> Result<Vec<Neighbour>, KernelError> {
        self.dump("neighbours", |family| message::neighbours(family, ifindex), message::parse_neighbour)
    }

    fn fetch_programs(&self) -> Result<Programs, KernelError> {
        // Asked first: what has left by the time of the reading is not there to be found.
        let leaving = lock(&self.deletions).clone();
        let mut programs = self.programs()?.fetch()?;
        programs.attached.retain(|ifindex| !leaving.contains(ifindex));
        programs.pinned.retain(|ifindex| !leaving.contains(ifindex));
        programs.unsettled.retain(|ifindex| !leaving.contains(ifindex));
        Ok(programs)
    }

    fn fetch_nat(&self) -> Result<NatState, KernelError> {
        nft::fetch(&self.nft_table)
    }

    fn fetch_sysctl(&self, sysctl: &Sysctl) -> Result<Option<u8>, KernelError> {
        let path = sysctl.path(&self.sysctl_dir);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(KernelError::io(format!("read {}", path.display()), error)),
        }
    }

    fn fetch_pod_side(&self, netns: BorrowedFd<'_>, ifname: &str) -> Result<PodSide, KernelError> {
        let read = || -> Result<PodSide, NetlinkError> {
            let mut socket = Netlink::open()?;
            let answer = socket.execute(vec![message::get_link(ifname)])?.into_iter().next();
            let link = match answer {
                Some(Ok(messages)) => messages.iter().find_map(message::parse_link),
                Some(Err(error)) if is_missing(&error.cause) => None,
                Some(Err(error)) => return Err(error),
                None => None,
            };
            let Some(found) = &link else { return Ok(PodSide::default()) };
            let mut side = PodSide { link: link.clone(), ..PodSide::default() };
            for family in self.families() {
                let addresses = message::addresses(*family, Some(found.ifindex));
                let addresses = socket.dump(&addresses, strict, message::parse_address)?;
                let made_by_kernel =
                    |address: IpAddr| matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
                let given = addresses.into_iter().filter(|found| !made_by_kernel(found.address));
                side.addresses.extend(given.map(|found| (found.address, found.prefix_len)));
                let routes = message::routes(*family, None, Some(found.ifindex));
                side.routes.extend(socket.dump(&routes, strict, message::parse_route)?);
                let neighbours = message::neighbours(*family, Some(found.ifindex));
                side.neighbours.extend(socket.dump(&neighbours, strict, message::parse_neighbour)?);
            }
            Ok(side)
        };
        in_namespace(netns, read)?
            .map_err(|e| netlink_error(format!("read interface {ifname} in the pod"), e))
    }

    fn is_own_namespace(&self, netns: BorrowedFd<'_>) -> Result<bool, KernelError> {
        let found =
            fstat(netns).map_err(|cause| KernelError::io("look at the pod's namespace", cause.into()))?;
        Ok((found.st_dev, found.st_ino) == self.own_namespace)
    }

    fn name_namespace(&self, netns: BorrowedFd<'_>) -> Result<Option<u32>, KernelError> {
        let failed = |cause| KernelError::io("ask for the number of the pod's namespace", cause);
        let ask = || -> Result<Option<u32>, KernelError> {
            let request = vec![nsid::get(netns.as_raw_fd())];
            let answers = self.with_socket(|socket| socket.execute(request)).map_err(failed)?;
            let answer = answers.into_iter().next().unwrap_or(Ok(Vec::new()));
            let messages = answer.map_err(|error| failed(error.cause).with_text(error.text))?;
            Ok(messages.iter().find_map(nsid::parse))
        };
        if let Some(id) = ask()? {
            return Ok(Some(id));
        }
        // Refused if somebody else was faster; what counts is what it has then.
        let request = vec![nsid::assign(netns.as_raw_fd())];
        self.with_socket(|socket| socket.execute(request)).map_err(failed)?;
        ask()
    }

    fn fetch_namespaces(&self) -> Result<BTreeSet<u32>, KernelError> {
        let failed = |error: NetlinkError| {
            KernelError::io("read the numbers of namespaces", error.cause).with_text(error.text)
        };
        let unparsed = |reason| Err(io::Error::other(reason));
        let found = self
            .with_socket(|socket| Ok(socket.dump(&nsid::all(), unparsed, nsid::parse)))
            .map_err(|cause| KernelError::io("read the numbers of namespaces", cause))?;
        Ok(found.map_err(failed)?.into_iter().collect())
    }

    fn fetch_drops(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        self.programs()?.fetch_drops()
    }

    fn fetch_pool_counters(&self) -> Result<BTreeMap<TagId, PoolCounters>, KernelError> {
        self.programs()?.fetch_pool_counters()
    }

    fn uses_tcx(&self) -> bool {
        self.programs.as_ref().is_some_and(|programs| programs.uses_tcx())
    }

    fn has_tunnels(&self) -> Result<bool, KernelError> {
        let operation = || format!("try whether the kernel has ipip devices, by {PROBE_IFNAME}");
        let spec = TunnelSpec {
            ifname: PROBE_IFNAME.into(),
            // Nobody's: a tunnel of one local address and any far end can be had once.
            local: Ipv4Addr::new(127, 255, 255, 254),
            mtu_bytes: MIN_MTU_BYTES,
        };
        let requests = vec![message::set_tunnel(&spec, false), message::get_link(PROBE_IFNAME)];
        let answers = self.with_socket(|socket| socket.execute(requests));
        let mut answers = answers.map_err(|cause| KernelError::io(operation(), cause))?.into_iter();
        match answers.next() {
            Some(Err(error)) if error.cause.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                return Ok(false);
            }
            Some(Err(error)) => return Err(netlink_error(operation(), error)),
            Some(Ok(_)) => {}
            None => return Err(KernelError::other(operation(), "no answer")),
        }
        if let Some(link) = link_of(answers.next(), operation())? {
            let delete = vec![message::delete_link(link.ifindex)];
            let deleted = self.with_socket(|socket| socket.execute(delete));
            deleted.map_err(|cause| KernelError::io(operation(), cause))?;
        }
        Ok(true)
    }

    fn decapsulates_well(&self) -> bool {
        let release = uname();
        release.release().to_str().is_ok_and(|release| is_at_least(release, DECAPSULATION_SINCE))
    }

    fn fetch_path_mtus(&self) -> Result<BTreeMap<Ipv4Addr, PathMtu>, KernelError> {
        self.programs()?.fetch_path_mtus()
    }

    fn fetch_uptime(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
    }

    fn open_events(&self) -> Result<Events, KernelError> {
        Events::open()
    }

    fn remove_programs(&self) -> Result<(), KernelError> {
        self.programs()?.remove_all()
    }
}

/// The kernel whose helper knows how to take an outer header off (`BPF_F_ADJ_ROOM_DECAP_L3_IPV4`, d219df60a70e).
const DECAPSULATION_SINCE: (u32, u32) = (6, 3);

/// What is under the lock is whole whatever its last holder came to.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn link_of(answer: Option<Answer>, operation: String) -> Result<Option<Link>, KernelError> {
    match answer {
        Some(Ok(messages)) => Ok(messages.iter().find_map(message::parse_link)),
        Some(Err(error)) if is_missing(&error.cause) => Ok(None),
        Some(Err(error)) => Err(netlink_error(operation, error)),
        None => Err(KernelError::other(operation, "no answer")),
    }
}

/// What ours are must be read in full.
fn strict(reason: String) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::InvalidData, reason))
}

pub(super) fn is_missing(cause: &io::Error) -> bool {
    KernelError::io("", io::Error::from_raw_os_error(cause.raw_os_error().unwrap_or(0))).kind()
        == ErrorKind::Missing
}

pub(super) fn netlink_error(operation: String, error: NetlinkError) -> KernelError {
    KernelError::io(operation, error.cause).with_text(error.text)
}
