//! Attaching the two programs of a pod's interface, or the two of an uplink, finding them again, and replacing them.
//!
//! With TCX a link per program is pinned under the interface's index. What a pin says is believed only after
//! the kernel has confirmed that this very link is attached to this interface in this network namespace: a
//! link follows its device through renames and moves, and its pin outlives the device.
//!
//! Without TCX (kernels before 6.6) the programs are clsact filters at one fixed place ([`crate::clsact`]).
//! Both kinds on one device would both run; a `Bpf` uses one kind.
//!
//! A running program is current when its instructions (the kernel's tag of them) and its maps are those of the
//! program loaded now: the same code on maps whose pins were removed would guard nothing.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};

use crate::clsact;
use crate::error::{BpfError, Context};
use crate::pins::{self, PinDir};
use crate::sys::{self, TcxSide};

/// How often loading is tried while signals interrupt it.
const LOAD_ATTEMPTS: usize = 5;

/// How often attaching is tried while an old link of the same program is on its way out: 100 ms in all.
const ATTACH_ATTEMPTS: usize = 50;
const ATTACH_PAUSE: Duration = Duration::from_millis(2);

/// How programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// TCX where the kernel has it, else clsact.
    #[default]
    Auto,
    /// TCX links (kernel 6.6 and later), pinned.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// What [`Bpf::attach`](crate::Bpf::attach) did. Ordered: the greater of both programs' outcomes is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachOutcome {
    /// Both programs were there and current.
    Unchanged,
    /// At least one was there in another version and was replaced, with no packet in between unguarded.
    Replaced,
    /// At least one was not there.
    Attached,
}

/// What is attached to an interface, compared with what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Index of the interface.
    pub ifindex: u32,
    /// `from_pod` is attached and current.
    pub from_pod_ok: bool,
    /// `to_pod` is attached and current.
    pub to_pod_ok: bool,
}

/// What is attached to an uplink, compared with what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkAttachment {
    /// `from_uplink` is attached and current.
    pub from_uplink_ok: bool,
    /// `to_uplink` is attached and current.
    pub to_uplink_ok: bool,
}

/// Which of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    /// Ingress of the host's end.
    FromPod,
    /// Egress of the host's end.
    ToPod,
    /// Ingress of an uplink.
    FromUplink,
    /// Egress of an uplink.
    ToUplink,
}

impl Direction {
    pub(crate) const ALL: [Self; 4] = [Self::FromPod, Self::ToPod, Self::FromUplink, Self::ToUplink];

    /// What is attached to the host's end of a pod's veth pair.
    pub(crate) const POD: [Self; 2] = [Self::FromPod, Self::ToPod];

    /// What is attached to an uplink. Ingress first: what this node encapsulates is answered encapsulated.
    pub(crate) const UPLINK: [Self; 2] = [Self::FromUplink, Self::ToUplink];

    /// Name of the program in the object and in the kernel.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
            Self::ToUplink => "to_uplink",
        }
    }

    pub(crate) fn attach_type(self) -> TcAttachType {
        match self {
            Self::FromPod | Self::FromUplink => TcAttachType::Ingress,
            Self::ToPod | Self::ToUplink => TcAttachType::Egress,
        }
    }

    fn side(self) -> TcxSide {
        if self.is_ingress() { TcxSide::Ingress } else { TcxSide::Egress }
    }

    pub(crate) fn is_ingress(self) -> bool {
        matches!(self, Self::FromPod | Self::FromUplink)
    }
}

/// What makes a running program ours and current.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    tag: u64,
    /// Sorted.
    map_ids: Vec<u32>,
}

/// The loaded programs and where their links are pinned. One per [`Bpf`](crate::Bpf).
pub(crate) struct Attacher {
    programs: Ebpf,
    versions: [Version; 4],
    pins: PinDir,
    use_tcx: bool,
}

impl Attacher {
    /// Loads all programs of an object whose maps exist, and resolves [`AttachMode::Auto`].
    pub(crate) fn load(mut programs: Ebpf, pins: PinDir, mode: AttachMode) -> Result<Self, BpfError> {
        let mut load = |direction: Direction| {
            let program = program_mut(&mut programs, direction)?;
            load_program(program).kernel(|| format!("loading program {}", direction.program()))?;
            let info = program.info().kernel(|| format!("reading program {}", direction.program()))?;
            version_of(&info)
        };
        let [from_pod, to_pod, from_uplink, to_uplink] = Direction::ALL;
        let versions = [load(from_pod)?, load(to_pod)?, load(from_uplink)?, load(to_uplink)?];
        let use_tcx = match mode {
            AttachMode::Tcx => true,
            AttachMode::Clsact => false,
            AttachMode::Auto => has_tcx(),
        };
        Ok(Self { programs, versions, pins, use_tcx })
    }

    /// Whether TCX links are used.
    pub(crate) fn uses_tcx(&self) -> bool {
        self.use_tcx
    }

    /// The program, for test runs.
    pub(crate) fn program(&self, direction: Direction) -> Result<&SchedClassifier, BpfError> {
        let program = self.programs.program(direction.program()).ok_or(BpfError::NoPrograms)?;
        program.try_into().kernel(|| format!("opening program {}", direction.program()))
    }

    pub(crate) fn attach(
        &mut self,
        ifindex: u32,
        directions: [Direction; 2],
    ) -> Result<AttachOutcome, BpfError> {
        let mut outcome = AttachOutcome::Unchanged;
        for direction in directions {
            let one = if self.use_tcx {
                self.attach_tcx(ifindex, direction)?
            } else {
                self.attach_clsact(ifindex, direction)?
            };
            outcome = outcome.max(one);
        }
        Ok(outcome)
    }

    fn attach_tcx(&mut self, ifindex: u32, direction: Direction) -> Result<AttachOutcome, BpfError> {
        let path = self.pins.link(ifindex, direction);
        let describe = || format!("attaching {} to interface {ifindex}", direction.program());
        let found = find_link(&self.pins, ifindex, direction)?;
        match found {
            Found::Attached { program_id } => {
                if self.is_current(direction, program_id)? {
                    return Ok(AttachOutcome::Unchanged);
                }
                let pinned = PinnedLink::from_pin(&path).kernel(describe)?;
                let link = SchedClassifierLink::try_from(FdLink::from(pinned)).kernel(describe)?;
                let program = program_mut(&mut self.programs, direction)?;
                let id = program.attach_to_link(link).kernel(describe)?;
                // The pin holds the link; here it only has to leave aya's list of what to detach.
                drop(program.take_link(id).kernel(describe)?);
                return Ok(AttachOutcome::Replaced);
            }
            Found::Stale => remove_link(&path)?,
            Found::Nothing => {}
        }
        let name = interface_name(ifindex, "attaching programs")?;
        let program = program_mut(&mut self.programs, direction)?;
        let id = attach_new_tcx(program, &name, direction).kernel(describe)?;
        let link = program.take_link(id).kernel(describe)?;
        let link = FdLink::try_from(link).kernel(describe)?;
        link.pin(&path).kernel(|| format!("pinning {}", path.display()))?;
        Ok(AttachOutcome::Attached)
    }

    fn attach_clsact(&mut self, ifindex: u32, direction: Direction) -> Result<AttachOutcome, BpfError> {
        let name = interface_name(ifindex, "attaching programs")?;
        let found = clsact::find_filter(ifindex, direction)?;
        if let Some(program_id) = found
            && self.is_current(direction, program_id)?
        {
            return Ok(AttachOutcome::Unchanged);
        }
        let program = program_mut(&mut self.programs, direction)?;
        clsact::attach(program, &name, direction, found.is_some())?;
        Ok(if found.is_some() { AttachOutcome::Replaced } else { AttachOutcome::Attached })
    }

    pub(crate) fn detach(&self, ifindex: u32, directions: [Direction; 2]) -> Result<(), BpfError> {
        for direction in directions {
            if self.use_tcx {
                remove_link(&self.pins.link(ifindex, direction))?;
            } else {
                clsact::detach(ifindex, direction)?;
            }
        }
        Ok(())
    }

    pub(crate) fn fetch_attachments(&self) -> Result<Vec<Attachment>, BpfError> {
        let found = self.fetch_ok(Direction::POD)?.into_iter();
        Ok(found
            .map(|(ifindex, [from_pod_ok, to_pod_ok])| Attachment { ifindex, from_pod_ok, to_pod_ok })
            .collect())
    }

    pub(crate) fn fetch_uplinks(&self) -> Result<BTreeMap<u32, UplinkAttachment>, BpfError> {
        let found = self.fetch_ok(Direction::UPLINK)?.into_iter();
        Ok(found
            .map(|(ifindex, [from_uplink_ok, to_uplink_ok])| {
                (ifindex, UplinkAttachment { from_uplink_ok, to_uplink_ok })
            })
            .collect())
    }

    /// Of each interface that has either program: which of them is attached and current.
    fn fetch_ok(&self, directions: [Direction; 2]) -> Result<BTreeMap<u32, [bool; 2]>, BpfError> {
        let mut found: BTreeMap<u32, [bool; 2]> = BTreeMap::new();
        let mut known = HashMap::new();
        let place = |direction| directions.iter().position(|one| *one == direction);
        let mut note = |ifindex, at, ok| {
            if let Some(slot) = found.entry(ifindex).or_default().get_mut(at) {
                *slot = ok;
            }
        };
        if self.use_tcx {
            for pin in self.pins.list_links()? {
                let Some(at) = place(pin.direction) else { continue };
                let ok = match find_link(&self.pins, pin.ifindex, pin.direction)? {
                    Found::Attached { program_id } => {
                        self.is_current_cached(pin.direction, program_id, &mut known)?
                    }
                    Found::Stale | Found::Nothing => false,
                };
                note(pin.ifindex, at, ok);
            }
        } else {
            for ifindex in clsact::list_interfaces()? {
                for (at, direction) in directions.into_iter().enumerate() {
                    if let Some(program_id) = clsact::find_filter(ifindex, direction)? {
                        let ok = self.is_current_cached(direction, program_id, &mut known)?;
                        note(ifindex, at, ok);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Removes the pins of links whose device no longer exists anywhere; returns the indices.
    pub(crate) fn remove_gone(&self) -> Result<Vec<u32>, BpfError> {
        let mut gone = Vec::new();
        for pin in self.pins.list_links()? {
            let link = sys::open_pin(&pin.path).kernel(|| format!("opening {}", pin.path.display()))?;
            let Some(link) = link else { continue };
            let info = sys::tcx_link_info(&link).kernel(|| format!("reading {}", pin.path.display()))?;
            if info.ifindex == 0 {
                pins::remove_pin(&pin.path)?;
                gone.push(pin.ifindex);
            }
        }
        gone.dedup();
        Ok(gone)
    }

    fn is_current(&self, direction: Direction, program_id: u32) -> Result<bool, BpfError> {
        self.is_current_cached(direction, program_id, &mut HashMap::new())
    }

    /// Most interfaces run the same program: `known` remembers answers for the length of one look around.
    fn is_current_cached(
        &self,
        direction: Direction,
        program_id: u32,
        known: &mut HashMap<u32, bool>,
    ) -> Result<bool, BpfError> {
        if let Some(answer) = known.get(&program_id) {
            return Ok(*answer);
        }
        let running = find_program(program_id)?;
        let current = match running {
            Some(info) => version_of(&info)? == self.versions[direction as usize],
            None => false,
        };
        known.insert(program_id, current);
        Ok(current)
    }
}

fn program_mut(programs: &mut Ebpf, direction: Direction) -> Result<&mut SchedClassifier, BpfError> {
    let program = programs.program_mut(direction.program()).ok_or(BpfError::NoPrograms)?;
    program.try_into().kernel(|| format!("opening program {}", direction.program()))
}

/// The kernel detaches a little after the last reference to a link is gone (a pin that somebody removed), and
/// answers EEXIST while the same program is still attached.
fn attach_new_tcx(
    program: &mut SchedClassifier,
    interface: &str,
    direction: Direction,
) -> Result<SchedClassifierLinkId, ProgramError> {
    let mut attempt = 1;
    loop {
        // First in line on ingress: a program before ours could accept a packet that ours would drop.
        // Last on egress: those before ours see packets as they will be without an outer header.
        let order = if direction.is_ingress() { LinkOrder::first() } else { LinkOrder::last() };
        let options = TcAttachOptions::TcxOrder(order);
        match program.attach_with_options(interface, direction.attach_type(), options) {
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::AlreadyExists && attempt < ATTACH_ATTEMPTS =>
            {
                attempt += 1;
                std::thread::sleep(ATTACH_PAUSE);
            }
            other => return other,
        }
    }
}

/// The verifier gives up with EAGAIN when a signal comes in.
fn load_program(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    for _ in 1..LOAD_ATTEMPTS {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {
            }
            other => return other,
        }
    }
    program.load()
}

fn version_of(info: &ProgramInfo) -> Result<Version, BpfError> {
    let describe = || format!("reading the maps of program {}", info.id());
    let mut map_ids = info.map_ids().kernel(describe)?.unwrap_or_default();
    map_ids.sort_unstable();
    Ok(Version { tag: info.tag(), map_ids })
}

/// A loaded program by its id, if there is one.
pub(crate) fn find_program(program_id: u32) -> Result<Option<ProgramInfo>, BpfError> {
    for info in loaded_programs() {
        match info {
            Ok(info) if info.id() == program_id => return Ok(Some(info)),
            Ok(_) => {}
            // One that went away between being listed and being opened.
            Err(error) => tracing::debug!(%error, "a program in the list could not be read"),
        }
    }
    Ok(None)
}

/// What lies at the pin of an interface's program.
enum Found {
    Nothing,
    /// A link of a device that is gone, or of another one.
    Stale,
    Attached {
        program_id: u32,
    },
}

fn find_link(pins: &PinDir, ifindex: u32, direction: Direction) -> Result<Found, BpfError> {
    let path = pins.link(ifindex, direction);
    let link = sys::open_pin(&path).kernel(|| format!("opening {}", path.display()))?;
    let Some(link) = link else { return Ok(Found::Nothing) };
    let info = sys::tcx_link_info(&link).kernel(|| format!("reading {}", path.display()))?;
    let attached = match sys::query_tcx(ifindex, direction.side()) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
        other => other.kernel(|| format!("listing the TCX programs of interface {ifindex}"))?,
    };
    if info.ifindex == ifindex && attached.iter().any(|one| one.link_id == info.link_id) {
        Ok(Found::Attached { program_id: info.program_id })
    } else {
        Ok(Found::Stale)
    }
}

/// Detaches at once and removes the pin. Nothing there is fine.
pub(crate) fn remove_link(path: &std::path::Path) -> Result<(), BpfError> {
    let link = sys::open_pin(path).kernel(|| format!("opening {}", path.display()))?;
    if let Some(link) = link
        && let Err(error) = sys::detach_link(&link)
        // ENOLINK: the device went before, and took the attachment with it.
        && error.raw_os_error() != Some(libc::ENOLINK)
    {
        return Err(error).kernel(|| format!("detaching {}", path.display()));
    }
    pins::remove_pin(path)
}

/// The name of an interface in the calling thread's network namespace: aya wants names.
pub(crate) fn interface_name(ifindex: u32, operation: &'static str) -> Result<String, BpfError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None)
        .kernel(|| "opening a socket".to_owned())?;
    match rustix::net::netdevice::index_to_name(&socket, ifindex) {
        Ok(name) => Ok(name),
        Err(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => {
            Err(BpfError::NoInterface { operation, ifindex })
        }
        Err(error) => Err(error).kernel(|| format!("reading the name of interface {ifindex}")),
    }
}

/// Whether the kernel has TCX: the loopback device, number 1 everywhere, can be asked. EINVAL says no.
fn has_tcx() -> bool {
    match sys::query_tcx(1, TcxSide::Ingress) {
        Ok(_) => true,
        Err(error) => {
            let no = io::Error::from_raw_os_error(libc::EINVAL).kind() == error.kind();
            tracing::info!(%error, no, "no TCX in this kernel: attaching by clsact");
            false
        }
    }
}
