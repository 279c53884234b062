//! The network namespace that came with a request.

use std::os::fd::{AsFd, OwnedFd};

use crate::journal::NetnsId;

/// Magic of nsfs (linux/magic.h, `NSFS_MAGIC`).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A descriptor that is known to show a namespace of the kernel's nsfs. That it is a network namespace is seen
/// when it is entered.
#[derive(Debug)]
pub(super) struct Netns {
    descriptor: OwnedFd,
    id: NetnsId,
}

impl Netns {
    /// Looks at the descriptor; `path` is for messages only.
    ///
    /// # Errors
    /// One line: it is no namespace, or the kernel does not say.
    pub(super) fn check(descriptor: OwnedFd, path: &str) -> Result<Self, String> {
        let failed = |error: rustix::io::Errno| format!("network namespace {path}: {error}");
        let magic = rustix::fs::fstatfs(&descriptor).map_err(failed)?.f_type;
        if u64::try_from(magic) != Ok(NSFS_MAGIC) {
            return Err(format!("network namespace {path}: it is a file, not a namespace"));
        }
        let stat = rustix::fs::fstat(&descriptor).map_err(failed)?;
        Ok(Self { descriptor, id: NetnsId { dev: stat.st_dev, ino: stat.st_ino } })
    }

    /// Which one it is.
    #[must_use]
    pub(super) fn id(&self) -> NetnsId {
        self.id
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_file_system() {
        let own = || Netns::check(File::open("/proc/self/ns/net").unwrap().into(), "own").unwrap();
        assert_eq!(own().id(), own().id());
        let error = Netns::check(File::open("/dev/null").unwrap().into(), "/dev/null").unwrap_err();
        assert_eq!(error, "network namespace /dev/null: it is a file, not a namespace");
    }
}
