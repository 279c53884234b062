//! The way in: wiring and unwiring of pods, reconciliation, and what the agent wants to know.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use bpf::{AttachMode, PoolCounters};
use model::{Handle, Identity, IdentityError, MarkLayout, TagId};
use tokio::time::Instant;

use crate::activity::{Activity, Epoch};
use crate::check::{self, Difference, PodState};
use crate::desired::{DesiredState, Pool};
use crate::events::Events;
use crate::interpreter::{self, Transaction};
use crate::kernel::{ErrorKind, Kernel, KernelError, Linux, Place, ProgramStore};
use crate::object::{Link, Mac, Route, RouteTarget, Sysctl};
use crate::op::{Op, Outcome, VethEnds};
use crate::plan::{self, Actual, Constants};
use crate::wiring::{self, PodWiring, Wired};

/// What an uplink's MTU is taken to be when there is none: Ethernet's.
const DEFAULT_MTU_BYTES: u32 = 1500;

/// What a [`Dataplane`] is opened with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where programs, maps and links are pinned; on a bpffs that outlives the agent.
    pub pin_dir: PathBuf,
    /// How tag ids and the NAT bit lie in marks.
    pub marks: MarkLayout,
    /// Protocol number of our routes: 5 to 255, and nobody else's on this node.
    pub route_protocol: u8,
    /// The interface towards the other nodes and the world; `None`: the default route's.
    pub uplink: Option<String>,
    /// Name of our nftables table.
    pub nft_table: String,
    /// How programs are attached. [`AttachMode::Auto`]: by clsact filters at once and, where the kernel has TCX, by
    /// links in their place some seconds later, for an attachment by TCX takes 10 ms with every other change held up.
    pub attach_mode: AttachMode,
    /// Most pods on this node. Fixed when the maps are first made.
    pub max_pods: u32,
    /// Most pools of each family. Fixed when the maps are first made.
    pub max_pools: u32,
}

impl Settings {
    /// The defaults, with pins in `pin_dir`: mask 0x0fff0000, route protocol 80, the default route's uplink,
    /// table `poolward`, TCX where the kernel has it, 1,024 pods and pools.
    #[must_use]
    pub fn new(pin_dir: PathBuf) -> Self {
        Self {
            pin_dir,
            marks: MarkLayout::DEFAULT,
            route_protocol: 80,
            uplink: None,
            nft_table: "poolward".into(),
            attach_mode: AttachMode::Auto,
            max_pods: 1024,
            max_pools: 1024,
        }
    }
}

/// The interface by which the node reaches the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name; `None` if there is none.
    pub ifname: Option<String>,
    /// Its MTU in bytes; 1500 if there is none.
    pub mtu_bytes: u32,
    /// How it was found.
    pub source: UplinkSource,
}

/// How an [`Uplink`] was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkSource {
    /// It is configured.
    Configured,
    /// It has the IPv4 default route.
    DefaultRouteIpv4,
    /// It has the IPv6 default route, and there is no IPv4 one.
    DefaultRouteIpv6,
    /// There is no default route, or the configured interface does not exist.
    None,
}

/// An interface of ours, as found in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPod {
    /// Its name.
    pub host_ifname: String,
    /// Its number.
    pub host_ifindex: u32,
    /// Whose it is, or why that cannot be told although its alias begins with our word.
    pub identity: Result<Identity, IdentityError>,
    /// Its hardware address.
    pub host_mac: Option<Mac>,
    /// Hardware address that the pod's end was made with; known where the identity is.
    pub pod_mac: Option<Mac>,
    /// Its MTU in bytes, which the pod's end was made with as well.
    pub mtu_bytes: u32,
}

impl KernelPod {
    /// `None` for an interface of somebody else.
    pub(crate) fn of_link(link: Link) -> Option<Self> {
        let identity = match Identity::parse_alias(&link.alias) {
            Err(IdentityError::Foreign) => return None,
            identity => identity,
        };
        Some(Self {
            pod_mac: identity.as_ref().ok().map(|identity| wiring::pod_mac(&identity.handle)),
            identity,
            host_ifname: link.ifname,
            host_ifindex: link.ifindex,
            host_mac: link.mac,
            mtu_bytes: link.mtu_bytes,
        })
    }
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct Report {
    /// One text for each operation planned, in order. Empty: everything was as it should be.
    pub planned: Vec<String>,
    /// Pods that should be there but have no interface.
    pub missing: Vec<Handle>,
    /// What failed, and what stands in the way and is not ours to move.
    pub errors: Vec<DataplaneError>,
    /// Desired pools whose packets are tagged, and masqueraded where they ask for it, from here on; `None` if that
    /// could not be read.
    pub ready_pools: Option<Vec<Pool>>,
}

/// A part of the dataplane that could not be read or brought about.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The kernel would not.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Something foreign stands in the way; the text says what.
    #[error("{0}")]
    Conflict(String),
    /// The desired state is based on an epoch older than [`Epoch::MAX_AGE`].
    #[error("the desired state is too old to tell which pods were wired since")]
    Stale,
}

impl DataplaneError {
    /// Whether something foreign stands in the way, and nothing of ours was there to be touched.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }
}

/// Why a pod could not be wired. Nothing of the attempt is left unless the text says so.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The descriptor is of the agent's own namespace.
    #[error("the pod's network namespace is the node's own: a pod on the host network needs no wiring")]
    OwnNamespace,
    /// The descriptor is of something else.
    #[error("the descriptor given for the pod's network namespace is not one of a network namespace")]
    NotANamespace,
    /// The pod has an interface of that name.
    #[error("the pod already has an interface {ifname}: not touched")]
    PodInterfaceTaken {
        /// The name.
        ifname: String,
    },
    /// The node has an interface of the computed name that is not this handle's.
    #[error(
        "the node already has an interface {ifname} with alias {alias:?}, which is not this pod's: not touched"
    )]
    HostInterfaceTaken {
        /// The name.
        ifname: String,
        /// Its alias.
        alias: String,
    },
    /// The kernel would not.
    #[error("{source}{}", undo_text(undo))]
    Kernel {
        /// The operation that failed, and why.
        source: KernelError,
        /// What could not be taken back; empty if everything was.
        undo: Vec<KernelError>,
    },
}

fn undo_text(undo: &[KernelError]) -> String {
    if undo.is_empty() {
        return String::new();
    }
    let texts: Vec<String> = undo.iter().map(ToString::to_string).collect();
    format!("; what had been done could not be taken back: {}", texts.join("; "))
}

/// The kernel state of one node. There is one per agent; it lives as long as the agent, and what it made in the
/// kernel outlives it.
///
/// All calls but [`Events::next`] are synchronous: they take 1 to 50 ms and never wait for anything but the kernel
/// (and `nft`). They may run at once on different handles; calls on one handle have to follow each other.
/// Every call has to come from a thread of the node's network namespace.
pub struct Dataplane {
    kernel: Arc<dyn Kernel>,
    settings: Settings,
    activity: Activity,
}

impl fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataplane").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Dataplane {
    /// Opens the kernel in the calling thread's network namespace: loads the programs, adopts or makes the pinned
    /// maps. Nothing is attached, and nothing else is changed.
    ///
    /// # Errors
    /// `pin_dir` is not on a bpffs, existing pins do not fit, or the kernel would not; the text says what to do.
    pub fn open(settings: Settings) -> Result<Self, DataplaneError> {
        let programs = ProgramStore::open(&settings)?;
        let kernel = Linux::open(programs, &settings.nft_table)?;
        Ok(Self::with_kernel(Arc::new(kernel), settings))
    }

    pub(crate) fn with_kernel(kernel: Arc<dyn Kernel>, settings: Settings) -> Self {
        Self { kernel, settings, activity: Activity::default() }
    }

    /// The interface towards the world and its MTU: the configured one, or that of the IPv4 default route, or that
    /// of the IPv6 one. Where several default routes exist, the one with the least metric.
    ///
    /// # Errors
    /// Interfaces or routes cannot be read.
    pub fn uplink(&self) -> Result<Uplink, DataplaneError> {
        let links = self.kernel.fetch_links()?;
        let (ifname, source) = match &self.settings.uplink {
            Some(ifname) => (Some(ifname.clone()), UplinkSource::Configured),
            None => self.default_route_link(&links)?,
        };
        let found = ifname.and_then(|name| links.into_iter().find(|link| link.ifname == name));
        Ok(match found {
            Some(link) => Uplink { ifname: Some(link.ifname), mtu_bytes: link.mtu_bytes, source },
            None => Uplink { ifname: None, mtu_bytes: DEFAULT_MTU_BYTES, source: UplinkSource::None },
        })
    }

    fn default_route_link(&self, links: &[Link]) -> Result<(Option<String>, UplinkSource), DataplaneError> {
        let mut routes = self.kernel.fetch_routes(None, None)?;
        routes.retain(|route| route.destination.prefix_len() == 0);
        routes.sort_by_key(|route| (route.destination, route.metric));
        let name = |route: &Route| match route.target {
            RouteTarget::Link { ifindex, .. } => links.iter().find(|link| link.ifindex == ifindex),
            RouteTarget::Blackhole | RouteTarget::Unreachable | RouteTarget::Other => None,
        };
        let found = routes.iter().find_map(|route| name(route).map(|link| (link.ifname.clone(), route)));
        Ok(match found {
            Some((ifname, route)) if route.destination.network().is_ipv4() => {
                (Some(ifname), UplinkSource::DefaultRouteIpv4)
            }
            Some((ifname, _)) => (Some(ifname), UplinkSource::DefaultRouteIpv6),
            None => (None, UplinkSource::None),
        })
    }

    /// Wires a pod: pair, addresses, routes, neighbours, endpoint, program. When this returns, packets flow and are
    /// tagged and checked. Pools must have been reconciled before.
    ///
    /// An interface that an interrupted earlier attempt for the same handle left behind is removed first.
    ///
    /// # Errors
    /// See [`WireError`]. What was done is taken back.
    pub fn wire(&self, wiring: &PodWiring, netns: BorrowedFd<'_>) -> Result<Wired, WireError> {
        let kernel = self.kernel.as_ref();
        let failed = |source| WireError::Kernel { source, undo: Vec::new() };
        let host_ifname = wiring.identity.handle.host_ifname();
        let _active = self.activity.begin(&host_ifname);
        if kernel.is_own_namespace(netns).map_err(failed)? {
            return Err(WireError::OwnNamespace);
        }
        if let Some(link) = kernel.fetch_link(&host_ifname).map_err(failed)? {
            self.remove_leftover(&wiring.identity.handle, &link)?;
        }
        let mut transaction = Transaction::new(kernel, Some(netns));
        self.try_wire(wiring, netns, &mut transaction).map_err(|error| {
            let undo = transaction.undo();
            self.explain(wiring, netns, error, undo)
        })
    }

    fn try_wire(
        &self,
        wiring: &PodWiring,
        netns: BorrowedFd<'_>,
        transaction: &mut Transaction<'_>,
    ) -> Result<Wired, KernelError> {
        let identity = &wiring.identity;
        let spec = wiring::veth_spec(wiring);
        let wired = |ends: VethEnds| Wired {
            host_ifname: spec.host_ifname.clone(),
            host_ifindex: ends.host_ifindex,
            host_mac: spec.host_mac,
            pod_mac: spec.pod_mac,
        };
        let create = Op::CreateVeth(Box::new(spec.clone()));
        let outcomes = transaction.exec(Place::Node, std::slice::from_ref(&create))?;
        let Some(Outcome::Created(ends)) = outcomes.first().copied() else {
            return Err(KernelError::other(create.to_string(), "the kernel did not say what it created"));
        };
        transaction.exec(Place::Node, &wiring::guard_ops(identity, ends.host_ifindex))?;
        transaction.exec(Place::Pod(netns), &wiring::pod_ops(identity, ends))?;
        let protocol = self.settings.route_protocol;
        transaction.exec(Place::Node, &wiring::open_ops(identity, ends.host_ifindex, protocol))?;
        Ok(wired(ends))
    }

    /// Removes what an earlier attempt for the same handle left; refuses anything else.
    fn remove_leftover(&self, handle: &Handle, link: &Link) -> Result<(), WireError> {
        if !is_of(handle, link) {
            return Err(WireError::HostInterfaceTaken {
                ifname: link.ifname.clone(),
                alias: link.alias.clone(),
            });
        }
        tracing::info!(%handle, ifname = link.ifname, "an interface left by an interrupted attempt is removed");
        let mut undo =
            interpreter::teardown(self.kernel.as_ref(), &plan::plan_unwire(link.ifindex, &link.ifname));
        if undo.is_empty() {
            return Ok(());
        }
        Err(WireError::Kernel { source: undo.remove(0), undo })
    }

    /// Names the obstacle, where the kernel only says that something exists.
    fn explain(
        &self,
        wiring: &PodWiring,
        netns: BorrowedFd<'_>,
        source: KernelError,
        undo: Vec<KernelError>,
    ) -> WireError {
        let ifname = wiring.identity.handle.ifname();
        match self.kernel.fetch_pod_side(netns, ifname) {
            Err(error) if error.kind() == ErrorKind::NotANamespace => WireError::NotANamespace,
            // After the undo: an interface that is still there is not ours.
            Ok(side) if source.kind() == ErrorKind::Exists && undo.is_empty() && side.link.is_some() => {
                WireError::PodInterfaceTaken { ifname: ifname.to_owned() }
            }
            _ => WireError::Kernel { source, undo },
        }
    }

    /// Takes a pod off. `false` if there was nothing to take off.
    ///
    /// Once the endpoint is gone, which comes first, the pod can send nothing.
    ///
    /// # Errors
    /// The interface of the handle's name is another's, or the kernel would not; everything that could be taken off
    /// is off.
    pub fn unwire(&self, handle: &Handle) -> Result<bool, Vec<DataplaneError>> {
        let host_ifname = handle.host_ifname();
        let _active = self.activity.begin(&host_ifname);
        let link = match self.kernel.fetch_link(&host_ifname) {
            Ok(Some(link)) => link,
            Ok(None) => return Ok(false),
            Err(error) => return Err(vec![error.into()]),
        };
        if !is_of(handle, &link) {
            return Err(vec![DataplaneError::Conflict(format!(
                "interface {host_ifname} has alias {:?}, which is not {handle}'s: not touched",
                link.alias
            ))]);
        }
        let errors =
            interpreter::teardown(self.kernel.as_ref(), &plan::plan_unwire(link.ifindex, &host_ifname));
        if errors.is_empty() { Ok(true) } else { Err(errors.into_iter().map(DataplaneError::from).collect()) }
    }

    /// Compares a pod with what its wiring says and names the first difference.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn check(
        &self,
        wiring: &PodWiring,
        netns: BorrowedFd<'_>,
    ) -> Result<Option<Difference>, DataplaneError> {
        let identity = &wiring.identity;
        let protocol = self.settings.route_protocol;
        let mut state = PodState {
            host: self.kernel.fetch_link(&identity.handle.host_ifname())?,
            pod: self.kernel.fetch_pod_side(netns, identity.handle.ifname())?,
            programs: self.kernel.fetch_programs()?,
            ..PodState::default()
        };
        if let Some(host) = &state.host {
            state.host_routes = self.kernel.fetch_routes(Some(protocol), Some(host.ifindex))?;
            state.host_neighbours = self.kernel.fetch_neighbours(Some(host.ifindex))?;
        }
        Ok(check::check(wiring, &state, protocol))
    }

    /// All interfaces of the node whose alias is ours: what allocations can be rebuilt from.
    ///
    /// # Errors
    /// Interfaces cannot be read.
    pub fn fetch_pods(&self) -> Result<Vec<KernelPod>, DataplaneError> {
        Ok(self.kernel.fetch_links()?.into_iter().filter_map(KernelPod::of_link).collect())
    }

    /// A moment to compute a [`DesiredState`] from: take it before looking at anything.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.activity.epoch()
    }

    /// Reads everything, compares, and brings about the difference. Runs beside wirings and unwirings; runs of
    /// itself have to follow each other.
    #[must_use]
    pub fn reconcile(&self, desired: &DesiredState) -> Report {
        let actual = match self.fetch_actual() {
            Ok(actual) => actual,
            Err(error) => return Report { errors: vec![error], ..Report::default() },
        };
        // After the reading: what began meanwhile is among them.
        let Some(busy) = self.activity.since(desired.since) else {
            return Report { errors: vec![DataplaneError::Stale], ..Report::default() };
        };
        let constants =
            Constants { marks: self.settings.marks, route_protocol: self.settings.route_protocol };
        let plan = plan::plan(desired, &actual, &busy, constants);
        let mut errors = interpreter::apply(self.kernel.as_ref(), &plan.groups);
        // A pod that was taken off since the reading: there is nothing left to bring in step.
        errors.retain(|error| error.kind() != ErrorKind::Missing);
        let ready_pools = if errors.is_empty() {
            Some(desired.pools.clone())
        } else {
            let again = self.fetch_actual().map(|actual| plan::plan(desired, &actual, &busy, constants));
            again.ok().map(|left| plan::ready_pools(&desired.pools, &left))
        };
        Report {
            ready_pools,
            planned: plan.groups.iter().flatten().map(ToString::to_string).collect(),
            missing: plan.missing,
            errors: plan
                .conflicts
                .into_iter()
                .map(DataplaneError::Conflict)
                .chain(errors.into_iter().map(DataplaneError::from))
                .collect(),
        }
    }

    /// The maps come before the interfaces: an entry whose interface is not found is then stale, not young.
    fn fetch_actual(&self) -> Result<Actual, DataplaneError> {
        let kernel = self.kernel.as_ref();
        let programs = kernel.fetch_programs()?;
        let routes = kernel.fetch_routes(Some(self.settings.route_protocol), None)?.into_iter().collect();
        let neighbours = kernel.fetch_neighbours(None)?;
        let links: BTreeMap<String, Link> =
            kernel.fetch_links()?.into_iter().map(|link| (link.ifname.clone(), link)).collect();
        let uplink_accept_ra = match self.uplink()?.ifname {
            Some(ifname) => {
                kernel.fetch_sysctl(&Sysctl::AcceptRa(ifname.clone()))?.map(|value| (ifname, value))
            }
            None => None,
        };
        let now = Instant::now();
        let idle =
            links.values().filter(|link| self.activity.is_idle(&link.ifname, now)).map(|link| link.ifindex);
        Ok(Actual {
            idle: idle.collect(),
            links,
            routes,
            neighbours: neighbours
                .into_iter()
                .map(|n| ((n.ifindex, n.address), n.mac))
                .collect::<BTreeMap<(u32, IpAddr), _>>(),
            programs,
            nat: kernel.fetch_nat()?,
            forward_ipv4: kernel.fetch_sysctl(&Sysctl::ForwardIpv4)?,
            forward_ipv6: kernel.fetch_sysctl(&Sysctl::ForwardIpv6)?,
            uplink_accept_ra,
        })
    }

    /// Packets dropped by the programs, by the name of the reason, since the maps were made. `no_pool` counts packets
    /// that passed without a tag.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn drops(&self) -> Result<BTreeMap<&'static str, u64>, DataplaneError> {
        Ok(self.kernel.fetch_drops()?)
    }

    /// Packets and bytes of each pool's pods, by tag.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn pool_counters(&self) -> Result<BTreeMap<TagId, PoolCounters>, DataplaneError> {
        Ok(self.kernel.fetch_pool_counters()?)
    }

    /// How programs are attached: [`AttachMode::Tcx`] or [`AttachMode::Clsact`].
    #[must_use]
    pub fn attach_mode(&self) -> AttachMode {
        if self.kernel.uses_tcx() { AttachMode::Tcx } else { AttachMode::Clsact }
    }

    /// Subscribes to changes of interfaces, addresses and routes. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel would not.
    pub fn events(&self) -> Result<Events, DataplaneError> {
        Ok(self.kernel.open_events()?)
    }

    /// Removes what agents of other map layouts have pinned, once a reconciliation has attached everything anew.
    /// Gives back the versions removed.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove_other_versions(&self) -> Result<Vec<u32>, DataplaneError> {
        bpf::Bpf::remove_other_versions(&self.settings.pin_dir).map_err(|error| {
            DataplaneError::Kernel(KernelError::other("remove pins of other versions".to_owned(), error))
        })
    }

    /// Takes everything of ours off this namespace: pods' interfaces, routes, the nftables table, programs, maps
    /// and pins. Switches stay as they are.
    ///
    /// # Errors
    /// Everything that failed; the rest is off.
    pub fn remove_all(&self) -> Result<(), Vec<DataplaneError>> {
        let kernel = self.kernel.as_ref();
        let mut errors = Vec::new();
        match self.fetch_pods() {
            Ok(pods) => {
                let ops: Vec<Op> = pods
                    .into_iter()
                    .flat_map(|p| plan::plan_unwire(p.host_ifindex, &p.host_ifname))
                    .collect();
                errors.extend(interpreter::teardown(kernel, &ops).into_iter().map(DataplaneError::from));
            }
            Err(error) => errors.push(error),
        }
        match kernel.fetch_routes(Some(self.settings.route_protocol), None) {
            Ok(routes) => {
                let ops: Vec<Op> = routes.into_iter().map(Op::DeleteRoute).collect();
                errors.extend(interpreter::teardown(kernel, &ops).into_iter().map(DataplaneError::from));
            }
            Err(error) => errors.push(error.into()),
        }
        errors.extend(interpreter::teardown(kernel, &[Op::RemoveNat]).into_iter().map(DataplaneError::from));
        errors.extend(kernel.remove_programs().err().map(DataplaneError::from));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// Whether an interface is this handle's, by its alias.
/// Takes all programs, maps, links and pins of ours off, whoever made them in `pin_dir`. Pods keep interfaces and
/// addresses, but nothing checks or tags their packets until an agent starts again.
///
/// # Errors
/// Everything that could not be taken off; the rest is.
pub fn unload_programs(pin_dir: &std::path::Path) -> Result<(), DataplaneError> {
    bpf::Bpf::unload_all(pin_dir).map_err(|error| {
        DataplaneError::Kernel(KernelError::other(
            format!("unload the eBPF programs in {}", pin_dir.display()),
            error,
        ))
    })
}

fn is_of(handle: &Handle, link: &Link) -> bool {
    Identity::parse_alias(&link.alias).is_ok_and(|found| found.handle == *handle)
}
