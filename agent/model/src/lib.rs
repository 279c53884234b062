//! The words of the field as types: addresses, names, workloads, encapsulation, tags, time.
//!
//! Everything that enters Poolward becomes one of these types at the edge, so that the inside needs no
//! strings for things that have a type.
//!
//! This crate does no I/O, reads no clock and knows no serialisation; wire formats live in `store` and `rpc`
//! and convert.
#![forbid(unsafe_code)]

mod address;
mod encap;
mod labels;
mod mac;
mod name;
mod tag;
mod time;
mod workload;

pub use address::{BlockSize, BlockSizeError, Cidr, CidrError, Family};
pub use encap::{IPIP_OVERHEAD_BYTES, IpipMode, MIN_MTU_BYTES, workload_mtu_bytes};
pub use labels::Labels;
pub use mac::{Mac, MacError};
pub use name::{NameError, NodeName, PoolName};
pub use tag::{Dscp, DscpError, Mark, MarkLayout, MarkLayoutError, TagId};
pub use time::BootTime;
pub use workload::{
    Extras, Handle, HandleError, Identity, IdentityError, MAX_ALIAS_LEN, MAX_CONTAINER_ID_LEN,
    MAX_IFNAME_LEN, Workload,
};
