//! What can go wrong, in our own terms.

use std::error::Error;
use std::path::PathBuf;

/// Any cause; the operation and the object are in the text of the error that carries it.
type Cause = Box<dyn Error + Send + Sync>;

/// Why an operation on the programs or maps failed.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// Pins can only live on a bpffs.
    #[error(
        "{} is not on a bpffs of the host: run `mount -t bpf bpf /sys/fs/bpf` on the host and, in a container, \
         mount the host's /sys/fs/bpf at the same place",
        path.display()
    )]
    NotBpffs {
        /// The directory asked for.
        path: PathBuf,
    },
    /// A pinned map was made for other sizes. Nothing was changed.
    #[error(
        "map {name} pinned at {} has {what} {actual}, expected {expected}: configure what it was made with, or \
         drain the node and remove the pinned state (`poolward-agent --unload`) to have it made anew",
        path.display()
    )]
    MapMismatch {
        /// Name of the map.
        name: &'static str,
        /// Where it is pinned.
        path: PathBuf,
        /// What differs: type, key size, value size or entries.
        what: &'static str,
        /// As found.
        actual: u64,
        /// As wanted.
        expected: u64,
    },
    /// The interface does not exist in the calling thread's network namespace.
    #[error("{operation}: no interface has index {ifindex}")]
    NoInterface {
        /// What was attempted.
        operation: &'static str,
        /// The index.
        ifindex: u32,
    },
    /// A map has no room for another entry.
    #[error("map {name} is full at {max_entries} entries: adding {key}")]
    MapFull {
        /// Name of the map.
        name: &'static str,
        /// Its size.
        max_entries: u32,
        /// What was to be added.
        key: String,
    },
    /// The tag id does not fit into the configured mark mask.
    #[error("tag {tag} does not fit the mark mask, whose greatest tag is {max}")]
    TagTooWide {
        /// The tag id.
        tag: u16,
        /// The greatest that fits.
        max: u16,
    },
    /// The programs of an uplink read and write behind an Ethernet header.
    #[error("{operation}: interface {ifindex} is no Ethernet: use the backend `device` there")]
    NotEthernet {
        /// What was attempted.
        operation: &'static str,
        /// The index.
        ifindex: u32,
    },
    /// Ranges of other nodes are looked up for IPv4 only.
    #[error("{cidr} is not an IPv4 range: only those are encapsulated")]
    NotIpv4 {
        /// The range.
        cidr: model::Cidr,
    },
    /// The crate was built with `AYA_BUILD_SKIP=1`.
    #[error("this binary was built without the eBPF programs (AYA_BUILD_SKIP was set)")]
    NoPrograms,
    /// The kernel refused.
    #[error("{operation}")]
    Kernel {
        /// Operation and object.
        operation: String,
        /// What the kernel or the library said.
        source: Cause,
    },
    /// A teardown went on to its end, but parts of it failed.
    #[error("{} parts of a teardown failed, the first: {}", .0.len(), first_text(.0))]
    Teardown(Vec<BpfError>),
}

fn first_text(errors: &[BpfError]) -> String {
    errors.first().map(|first| with_causes(first)).unwrap_or_default()
}

/// The text of an error with all its causes, for messages that keep only text.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Adds operation and object to an error of the kernel or the library.
pub(crate) trait Context<T> {
    /// `operation` is evaluated on failure only.
    fn kernel(self, operation: impl FnOnce() -> String) -> Result<T, BpfError>;
}

impl<T, E: Into<Cause>> Context<T> for Result<T, E> {
    fn kernel(self, operation: impl FnOnce() -> String) -> Result<T, BpfError> {
        self.map_err(|cause| BpfError::Kernel { operation: operation(), source: cause.into() })
    }
}
