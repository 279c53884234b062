//! The way in: wiring and unwiring of pods, reconciliation, and what the agent wants to know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use bpf::{AttachMode, PoolCounters};
use model::{Handle, Identity, IdentityError, TagId};

use crate::activity::{Activity, Epoch};
use crate::check::{self, Difference, PodState};
use crate::events::Events;
use crate::interpreter::{self, Transaction};
use crate::kernel::{ErrorKind, Kernel, KernelError, Linux, Place, ProgramStore};
use crate::leftovers;
use crate::object::{Link, Mac};
use crate::op::{Op, Outcome, VethEnds};
use crate::plan::{self, Backend};
use crate::reconcile::Remembered;
use crate::report::DataplaneError;
use crate::settings::{EncapBackend, Settings};
use crate::wiring::{self, PodWiring, Wired};

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
    /// Number of the network namespace that its other end is in, if it has one.
    pub nsid: Option<u32>,
}

impl KernelPod {
    /// `None` for an interface of somebody else.
    pub(crate) fn of_link(link: Link) -> Option<Self> {
        let identity = match Identity::parse_alias(&link.alias) {
            Err(IdentityError::Foreign) => return None,
            identity => identity,
        };
        Some(Self {
            pod_mac: identity.as_ref().ok().map(wiring::pod_mac),
            identity,
            host_ifname: link.ifname,
            host_ifindex: link.ifindex,
            host_mac: link.mac,
            mtu_bytes: link.mtu_bytes,
            nsid: link.peer_nsid,
        })
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
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) settings: Settings,
    pub(crate) activity: Activity,
    pub(crate) backend: Backend,
    /// Held through a run: one at a time.
    pub(crate) remembered: Mutex<Option<Remembered>>,
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
        let kernel = Linux::open(programs, &settings)?;
        let backend = match settings.encap_backend {
            EncapBackend::Ebpf => Backend::Ebpf,
            EncapBackend::Device => Backend::Device,
            EncapBackend::Auto if kernel.decapsulates_well() => Backend::Ebpf,
            EncapBackend::Auto if kernel.has_tunnels()? => Backend::Device,
            EncapBackend::Auto => Backend::Ebpf,
        };
        Ok(Self::with_backend(Arc::new(kernel), settings, backend))
    }

    /// With what is configured, or the programs.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn with_kernel(kernel: Arc<dyn Kernel>, settings: Settings) -> Self {
        let backend = match settings.encap_backend {
            EncapBackend::Auto | EncapBackend::Ebpf => Backend::Ebpf,
            EncapBackend::Device => Backend::Device,
        };
        Self::with_backend(kernel, settings, backend)
    }

    fn with_backend(kernel: Arc<dyn Kernel>, settings: Settings, backend: Backend) -> Self {
        Self { kernel, settings, activity: Activity::default(), backend, remembered: Mutex::default() }
    }

    /// Who encapsulates: [`EncapBackend::Ebpf`] or [`EncapBackend::Device`].
    #[must_use]
    pub fn encap_backend(&self) -> EncapBackend {
        match self.backend {
            Backend::Ebpf => EncapBackend::Ebpf,
            Backend::Device => EncapBackend::Device,
        }
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
            state.host_routes = self.kernel.fetch_routes(protocol, host.ifindex)?;
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

    /// A moment to compute a [`DesiredState`](crate::DesiredState) from: take it before looking at anything.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.activity.epoch()
    }

    /// Whether there is an interface under the name of a handle's, whatever its alias says.
    ///
    /// # Errors
    /// Interfaces cannot be read.
    pub fn has_interface(&self, handle: &Handle) -> Result<bool, DataplaneError> {
        Ok(self.kernel.fetch_link(&handle.host_ifname())?.is_some())
    }

    /// The number by which the node's network namespace knows another; `None` where namespaces have no numbers. It
    /// stays until that namespace is gone for good.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn name_namespace(&self, netns: BorrowedFd<'_>) -> Result<Option<u32>, DataplaneError> {
        Ok(self.kernel.name_namespace(netns)?)
    }

    /// Numbers of all namespaces that there are, of those that have been given one.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn fetch_namespaces(&self) -> Result<BTreeSet<u32>, DataplaneError> {
        Ok(self.kernel.fetch_namespaces()?)
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

    /// Subscribes to changes of interfaces, addresses, routes and nexthop objects. Needs a tokio runtime.
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

    /// Takes everything of ours off this namespace: pods' interfaces, routes, nexthop objects, addresses, the tunnel,
    /// the nftables table, programs, maps and pins. Switches stay as they are.
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
        // Routes first, then what they lead by and from.
        match leftovers::fetch_removal(kernel, self.settings.route_protocol) {
            Ok(ops) => {
                errors.extend(interpreter::teardown(kernel, &ops).into_iter().map(DataplaneError::from));
            }
            Err(error) => errors.push(error.into()),
        }
        errors.extend(interpreter::teardown(kernel, &[Op::RemoveNat]).into_iter().map(DataplaneError::from));
        errors.extend(kernel.remove_programs().err().map(DataplaneError::from));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

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

/// Whether an interface is this handle's, by its alias.
fn is_of(handle: &Handle, link: &Link) -> bool {
    Identity::parse_alias(&link.alias).is_ok_and(|found| found.handle == *handle)
}
