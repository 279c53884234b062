//! What is neither netlink nor eBPF: network namespaces, switches below `/proc/sys/net`, the kernel's version.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::thread;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::kernel::{ErrorKind, KernelError};
use crate::object::Sysctl;

/// What to do where switches cannot be written.
const READ_ONLY: &str =
    "read-only, as in a container: mount the host's /proc/sys/net and name it in sysctlDir";

/// Runs `call` on a thread of its own inside a namespace: the calling thread stays where it is, and no thread
/// that others use is ever in the wrong one.
pub(super) fn in_namespace<T: Send>(
    netns: BorrowedFd<'_>,
    call: impl FnOnce() -> T + Send,
) -> Result<T, KernelError> {
    let enter = || move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map(|()| call());
    let result = thread::scope(|scope| {
        let worker = thread::Builder::new().name("pod-netns".into()).spawn_scoped(scope, enter);
        worker.map(thread::ScopedJoinHandle::join)
    });
    match result {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(cause))) => {
            let error = KernelError::io("enter the pod's network namespace", cause.into());
            let wrong_kind = cause == Errno::INVAL;
            Err(if wrong_kind { error.with_kind(ErrorKind::NotANamespace) } else { error })
        }
        Ok(Err(_)) => Err(KernelError::other("work in the pod's network namespace", "the thread panicked")),
        Err(cause) => Err(KernelError::io("start a thread for the pod's network namespace", cause)),
    }
}

/// Writes a switch. `accept_ra` of an interface without IPv6 does not exist, and need not.
pub(super) fn write_sysctl(sysctl_dir: &Path, sysctl: &Sysctl, value: u8) -> Result<(), KernelError> {
    let path = sysctl.path(sysctl_dir);
    match fs::write(&path, value.to_string()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && matches!(sysctl, Sysctl::AcceptRa(_)) => {
            Ok(())
        }
        // Where /proc/sys is read-only, what is right already may stay.
        Err(_) if fs::read_to_string(&path).is_ok_and(|text| text.trim() == value.to_string()) => Ok(()),
        Err(error) => {
            let read_only = error.kind() == io::ErrorKind::ReadOnlyFilesystem;
            let error = KernelError::io(format!("write {value} to {}", path.display()), error);
            Err(if read_only { error.with_text(READ_ONLY) } else { error })
        }
    }
}

/// Whether a kernel's release is of this version or a later one.
pub(super) fn is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= version,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        let check =
            |release: &str, expected: bool| assert_eq!(is_at_least(release, (6, 3)), expected, "{release}");
        check("6.1.0-28-cloud-amd64", false);
        check("6.3.0", true);
        check("6.12.57+deb13-amd64", true);
        check("5.15.0", false);
        check("10.0", true);
        check("6", false);
        check("", false);
    }
}
