//! What the journal remembers, as written.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::FactRecord;

/// One fact. Facts are applied in the order they were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Record {
    /// A fact of the allocation protocol: claims, loans, releases.
    Protocol(FactRecord),
    /// Addresses were given to a handle. Nothing is promised to the runtime yet.
    Assign(AssignRecord),
    /// The handle is wired; from here on the runtime may have been told.
    Commit(WiredRecord),
    /// All addresses of the handle were freed.
    Free {
        /// Whose.
        #[serde(flatten)]
        handle: HandleRecord,
        /// When, in milliseconds of `CLOCK_BOOTTIME`.
        at_ms: u64,
        /// Addresses that cool, and until when.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cooling: Vec<(IpAddr, u64)>,
    },
    /// One address of the handle was freed.
    FreeAddress {
        /// Whose.
        #[serde(flatten)]
        handle: HandleRecord,
        /// Which.
        address: IpAddr,
        /// When, in milliseconds of `CLOCK_BOOTTIME`.
        at_ms: u64,
        /// The same address and until when it cools; empty if it does not.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cooling: Vec<(IpAddr, u64)>,
    },
    /// The addresses of a block that were freed, in the order they will be handed out, and those that cool with
    /// the time that ends. Written when the journal is rewritten, instead of the frees that led there.
    Queue {
        /// The block.
        block: String,
        /// Next first.
        freed: Vec<IpAddr>,
        /// Addresses and milliseconds of `CLOCK_BOOTTIME`, soonest first.
        cooling: Vec<(IpAddr, u64)>,
    },
}

/// A handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleRecord {
    /// The container's id.
    pub container_id: String,
    /// The interface inside the container.
    pub ifname: String,
}

impl From<&model::Handle> for HandleRecord {
    fn from(handle: &model::Handle) -> Self {
        Self { container_id: handle.container_id().to_owned(), ifname: handle.ifname().to_owned() }
    }
}

impl TryFrom<&HandleRecord> for model::Handle {
    type Error = model::HandleError;

    fn try_from(record: &HandleRecord) -> Result<Self, model::HandleError> {
        Self::new(&record.container_id, &record.ifname)
    }
}

/// An allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignRecord {
    /// The holder.
    #[serde(flatten)]
    pub handle: HandleRecord,
    /// Name of the CNI network.
    pub network: String,
    /// The pod's network namespace; `None` where it was rebuilt from the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<NetnsId>,
    /// Namespace of the pod, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name of the pod, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// UID of the pod, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The hardware address that was asked for, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What it may send from besides its own addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// The addresses are another plugin's to give and to take back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub delegated: bool,
    /// The interface is another plugin's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub foreign_interface: bool,
    /// What was given.
    pub addresses: Vec<AddressRecord>,
    /// When, in milliseconds of `CLOCK_BOOTTIME`.
    pub at_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// An address and where it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// The address.
    pub address: IpAddr,
    /// The pool.
    pub pool: String,
}

/// Which network namespace a descriptor shows: device and inode of its nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// The wired interface, enough to answer a repeated ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WiredRecord {
    /// The holder.
    #[serde(flatten)]
    pub handle: HandleRecord,
    /// Hardware address of the host's end.
    pub host_mac: String,
    /// Hardware address of the pod's end.
    pub pod_mac: String,
    /// MTU of both ends in bytes.
    pub mtu_bytes: u32,
    /// Number of its network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<u32>,
    /// When, in milliseconds of `CLOCK_BOOTTIME`.
    #[serde(default)]
    pub at_ms: u64,
}
