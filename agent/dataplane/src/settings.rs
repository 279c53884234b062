//! What a dataplane is opened with.

use std::path::PathBuf;

use bpf::AttachMode;
use model::MarkLayout;

/// Who encapsulates; on the wire both are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncapBackend {
    /// The programs, where the kernel's helpers can take outer headers off (since Linux 6.3); before that the device,
    /// where the kernel has it; else the programs.
    #[default]
    Auto,
    /// The programs on the uplink.
    Ebpf,
    /// A tunnel device of the kernel's module `ipip`.
    Device,
}

/// What a [`Dataplane`](crate::Dataplane) is opened with.
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
    /// Where the switches of `/proc/sys/net` are: elsewhere in a container, whose own are read-only.
    pub sysctl_dir: PathBuf,
    /// How programs are attached. [`AttachMode::Auto`]: by clsact filters at once and, where the kernel has TCX, by
    /// links in their place some seconds later, for an attachment by TCX takes 10 ms with every other change held up.
    pub attach_mode: AttachMode,
    /// Who puts packets between nodes into outer headers and takes them out.
    pub encap_backend: EncapBackend,
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
            sysctl_dir: "/proc/sys/net".into(),
            attach_mode: AttachMode::Auto,
            encap_backend: EncapBackend::Auto,
            max_pods: 1024,
            max_pools: 1024,
        }
    }
}
