//! Network namespaces, captures and processes for the test tiers, the demo and the benchmarks.
//!
//! An oracle independent of what it tests: it looks at the kernel through iproute2, nft and packet sockets, and
//! shares no code with the agent, the plugin or the programs.

mod agent;
pub mod archive;
mod binaries;
pub mod cluster;
pub mod cni;
mod control_plane;
mod counters;
mod ctl;
mod daemon;
pub mod fabric;
mod kernel;
mod kubectl;
pub mod kubernetes;
pub mod lab;
mod machine;
mod management;
mod netns;
pub mod packet;
mod page;
mod run;
mod wait;
mod wire;

pub use agent::{Agent, AgentOptions, NodeFiles, START_LIMIT, STOP_LIMIT, stop_left_running};
pub use binaries::{Binaries, image_archive};
pub use cluster::{Cluster, ClusterOptions, Worker};
pub use cni::{Attachment, Cni};
pub use control_plane::{
    BoundPod, ControlPlane, ControlPlaneOptions, NODE_RANGE, READY_LIMIT, RequestKind, Requests,
    SERVICE_RANGE,
};
pub use counters::{CountedElement, counted_elements};
pub use ctl::Ctl;
pub use daemon::{Daemon, stop_daemon_left_running};
pub use fabric::{Fabric, FabricNode, Leak, Underlay, Witnessed};
pub use kernel::{has_tcx, kernel_version};
pub use kubectl::Kubectl;
pub use kubernetes::Kubernetes;
pub use lab::{EchoServer, Lab, udp_echo};
pub use machine::Machine;
pub use management::{Management, ManagementLink};
pub use netns::{Link, NetNs, parse_mac};
pub use packet::{IpHeader, Packet, UdpFrame};
pub use page::{Block, Desk, NodeShell, On, Page};
pub use run::{DEFAULT_LIMIT, Finished, Run};
pub use wait::wait_until;
pub use wire::{Capture, Direction, MAX_PACKETS_COUNT, RawSender, SNAP_BYTES};
