//! Opening the namespace that `CNI_NETNS` names. The plugin does it because it runs where the runtime's mounts
//! are; the agent gets the descriptor and need not see the path.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::env::Env;
use crate::error::{CniError, Code, quote};

/// `NSFS_MAGIC` of the kernel's `magic.h`: the file system that namespaces are files of.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Opens it and makes sure that it is a namespace, and not the host's own.
///
/// That it is a *network* namespace is certain only when the agent enters it: a namespace mounted on a file does
/// not show its kind to a process that cannot use ioctls safely.
pub(crate) fn open(env: &Env) -> Result<OwnedFd, CniError> {
    let path = env.netns.as_str();
    let fail = |code: Code, why: String| {
        Err(CniError::new(code, format!("{}: CNI_NETNS={}: {why}", env.verb.as_str(), quote(path))))
    };
    if !Path::new(path).is_absolute() {
        return fail(Code::InvalidEnvironment, "expected an absolute path".to_owned());
    }
    // NONBLOCK, so that a FIFO in its place cannot hold the plugin.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL)) => {
            return fail(Code::InvalidEnvironment, format!("open: {errno}"));
        }
        Err(errno) => return fail(Code::Io, format!("open: {errno}")),
    };
    let magic = match rustix::fs::fstatfs(&fd) {
        Ok(stat) => u64::try_from(stat.f_type).unwrap_or_default(),
        Err(errno) => return fail(Code::Io, format!("fstatfs: {errno}")),
    };
    if magic != NSFS_MAGIC {
        return fail(
            Code::InvalidEnvironment,
            format!("not a network namespace (file system {magic:#x}, expected nsfs)"),
        );
    }
    // Seen through /proc/PID/ns a namespace shows its kind; mounted on a file it shows the file.
    if let Ok(link) = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
        let link = link.to_string_lossy();
        if link.contains(":[") && !link.starts_with('/') && !link.starts_with("net:[") {
            return fail(Code::InvalidEnvironment, format!("not a network namespace but {link}"));
        }
    }
    if !env.netns_override && is_own(&fd) {
        return fail(
            Code::InvalidEnvironment,
            "this is the plugin's own network namespace, not a container's".to_owned(),
        );
    }
    Ok(fd)
}

/// Whether it is the namespace of this process. Where /proc is missing, nobody can tell: then no.
fn is_own(fd: &OwnedFd) -> bool {
    match (rustix::fs::fstat(fd), rustix::fs::stat("/proc/self/ns/net")) {
        (Ok(theirs), Ok(own)) => (theirs.st_dev, theirs.st_ino) == (own.st_dev, own.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn env(netns: &str, netns_override: &str) -> Env {
        let vars = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", netns),
            ("CNI_NETNS_OVERRIDE", netns_override),
        ];
        Env::read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(*v)))
            .unwrap()
            .unwrap()
    }

    #[test]
    fn what_is_no_network_namespace_is_refused_and_the_path_named() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR).unwrap();
        let fifo = fifo.to_str().unwrap();
        let check = |path: &str, expected: &str| {
            let error = open(&env(path, "")).unwrap_err();
            let (code, line) = error.parts();
            assert_eq!(code, Code::InvalidEnvironment, "{line}");
            assert!(line.starts_with("ADD: CNI_NETNS=") && line.contains(expected), "{line}");
        };
        check("/nonexistent/netns", "\"/nonexistent/netns\": open: No such file or directory");
        check("/proc/self/status/x", "open: Not a directory");
        check("relative", "expected an absolute path");
        check("/proc/self/status", "not a network namespace (file system 0x9fa0, expected nsfs)");
        check("/", "not a network namespace");
        check(fifo, "not a network namespace");
        check("/proc/self/ns/mnt", "not a network namespace but mnt:[");
        check("/proc/self/ns/net", "the plugin's own network namespace");
    }

    #[test]
    fn the_own_namespace_passes_only_for_who_asks_for_it() {
        assert!(open(&env("/proc/self/ns/net", "1")).is_ok());
        assert!(open(&env("/proc/self/ns/net", "True")).is_ok());
        assert!(open(&env("/proc/self/ns/net", "0")).is_err());
    }
}
