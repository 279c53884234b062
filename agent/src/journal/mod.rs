//! The journal: every allocation of this node, durable against a crash of the agent, gone with a reboot.
//!
//! It lies on a tmpfs: a reboot ends every pod and so every allocation, a crash of the agent ends none. A
//! record is written before its effect is promised to anybody. The file is text, a line a record, so that
//! people can read it:
//!
//! ```text
//! 1c291ca3 {"journal":"poolward","version":2,"node":"node-1","bootId":"…"}
//! 6b1e0f42 {"assign":{"containerId":"…","ifname":"eth0",…}}
//! ^        ^
//! |        the record as JSON, without line breaks
//! CRC-32 (IEEE) of the JSON, eight hexadecimal digits
//! ```
//! A last line without its line break was cut short by a crash: nobody was promised it, so it is dropped.
//! Anything else that does not read is damage: the file is kept under another name and the caller rebuilds from the
//! kernel.
//!
//! Beside it lies the snapshot ([`Snapshot`]): what this node last knew of the cluster, so that a start needs no store.
//!
//! It decides nothing: what records mean is the node's business.

mod fact;
mod file;
mod foreign;
mod lock;
mod record;
mod snapshot;

pub use fact::FactRecord;
pub(crate) use fact::{fact_of, record_of};
pub use file::{Journal, JournalError, Loaded, Owner};
pub use foreign::ForeignMark;
pub use lock::{Lock, LockError};
pub use record::{AddressRecord, AssignRecord, HandleRecord, NetnsId, Record, WiredRecord};
pub use snapshot::{FreshRecord, ObjectRecord, Snapshot, SnapshotError, SnapshotFile};
