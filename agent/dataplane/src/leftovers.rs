//! What agents have left in a node's kernel: found without changing anything, and taken off without loading programs.
//!
//! For nodes that are to be as they were before. Switches under `/proc/sys/net` stay as they are: nobody knows who else
//! needs forwarding by now.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::dataplane::{KernelPod, unload_programs};
use crate::interpreter;
use crate::kernel::{Kernel, KernelError, Linux, RouteTable};
use crate::object::NatState;
use crate::op::Op;
use crate::plan::Ground;
use crate::report::DataplaneError;
use crate::settings::Settings;
use crate::wiring::TUNNEL_IFNAME;

/// A look at the kernel of the calling thread's network namespace.
#[derive(Debug)]
pub struct Leftovers {
    pods: Vec<KernelPod>,
    routing: Vec<Op>,
    has_table: bool,
    /// The directory of pins, if it is there.
    pins: Option<PathBuf>,
    settings: Settings,
}

impl Leftovers {
    /// Looks.
    ///
    /// # Errors
    /// The kernel would not say.
    pub fn find(settings: &Settings) -> Result<Self, DataplaneError> {
        let kernel = Linux::without_programs(settings)?;
        let links = kernel.fetch_links()?;
        Ok(Self {
            pods: links.into_iter().filter_map(KernelPod::of_link).collect(),
            routing: fetch_removal(&kernel, settings.route_protocol)?,
            has_table: kernel.fetch_nat()? != NatState::Absent,
            pins: pins_in(&settings.pin_dir)?,
            settings: settings.clone(),
        })
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// How many pods still have an interface.
    #[must_use]
    pub fn pods_count(&self) -> usize {
        self.pods.len()
    }

    /// Everything, as a person would call it.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let pods = self.pods.iter().map(|pod| match &pod.identity {
            Ok(identity) if identity.workload.pod.is_empty() => {
                format!("interface {} of container {}", pod.host_ifname, identity.handle)
            }
            Ok(identity) => format!("interface {} of pod {}", pod.host_ifname, identity.workload),
            Err(_) => format!("interface {}", pod.host_ifname),
        });
        let routing = self.routing.iter().map(|op| {
            let text = op.to_string();
            text.strip_prefix("delete ").map_or(text.clone(), str::to_owned)
        });
        let table = self.has_table.then(|| format!("nftables table inet {}", self.settings.nft_table));
        let pins =
            self.pins.iter().map(|dir| format!("eBPF programs, maps and links below {}", dir.display()));
        pods.chain(routing).chain(table).chain(pins).collect()
    }

    /// Takes all of it off: pods' interfaces first, then routes and what they lead by, then the rest.
    ///
    /// # Errors
    /// Everything that failed; the rest is off.
    pub fn remove(self) -> Result<(), Vec<DataplaneError>> {
        let kernel = match Linux::without_programs(&self.settings) {
            Ok(kernel) => kernel,
            Err(error) => return Err(vec![error.into()]),
        };
        let links = self.pods.into_iter();
        let links: Vec<Op> =
            links.map(|pod| Op::DeleteLink { ifname: pod.host_ifname, ifindex: pod.host_ifindex }).collect();
        let mut errors = interpreter::teardown(&kernel, &links);
        // Anew: routes of pods went with their interfaces.
        match fetch_removal(&kernel, self.settings.route_protocol) {
            Ok(ops) => errors.extend(interpreter::teardown(&kernel, &ops)),
            Err(error) => errors.push(error),
        }
        if self.has_table {
            errors.extend(interpreter::teardown(&kernel, &[Op::RemoveNat]));
        }
        let mut errors: Vec<DataplaneError> = errors.into_iter().map(DataplaneError::from).collect();
        if self.pins.is_some() {
            errors.extend(unload_programs(&self.settings.pin_dir).err());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// What takes off every route of ours, and what these stand on: routes first, then what they lead by and from.
pub(crate) fn fetch_removal(kernel: &dyn Kernel, protocol: u8) -> Result<Vec<Op>, KernelError> {
    let RouteTable { ours, .. } = kernel.fetch_table(protocol)?;
    let nexthops = kernel.fetch_nexthops()?;
    let addresses = kernel.fetch_addresses()?;
    let ground =
        Ground::new(kernel.fetch_links()?, &ours, &nexthops, Default::default(), addresses, protocol);
    let mut ops: Vec<Op> = ground.routes.iter().map(|route| Op::DeleteRoute(*route)).collect();
    ops.extend(ground.nexthops.keys().map(|id| Op::DeleteNexthop { id: *id }));
    let own = ground.addresses.iter().filter(|found| found.ours);
    ops.extend(own.filter_map(|found| match found.address {
        IpAddr::V4(address) => Some(Op::DeleteOwnAddress(address)),
        IpAddr::V6(_) => None,
    }));
    let tunnel = ground.links.get(TUNNEL_IFNAME).filter(|link| link.tunnel.is_some());
    ops.extend(tunnel.map(|link| Op::DeleteLink { ifname: link.ifname.clone(), ifindex: link.ifindex }));
    Ok(ops)
}

/// The directory, if it is there.
fn pins_in(dir: &Path) -> Result<Option<PathBuf>, KernelError> {
    match fs::symlink_metadata(dir) {
        Ok(_) => Ok(Some(dir.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KernelError::io(format!("look at {}", dir.display()), error)),
    }
}
