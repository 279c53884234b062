//! Whose bpffs it is that the agent pins to.
//!
//! Pins on a bpffs that belongs to a container die with it, and every pod's programs with them. The kernel does not say to
//! whom a mount belongs: a container's own bpffs looks like the host's. But what one container leaves on the host's is
//! seen by the next one, and what it leaves on its own is not. So `poolward-agent install`, which runs in a container of
//! its own before the agent's, leaves an empty directory there (the mark), and an agent that is configured to ask for it
//! (`bpfSharedMark`) does not start where it is missing. On a host, without containers, nobody needs to ask.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dataplane::is_bpffs;

/// Why what is pinned would not last.
#[derive(Debug, thiserror::Error)]
pub enum NotShared {
    /// No bpffs at all.
    #[error(
        "{} is not on a bpffs: on the host, `mount -t bpf bpf /sys/fs/bpf`; in the pod, mount the host's /sys/fs/bpf at \
         the same place (a hostPath volume)",
        path.display()
    )]
    NoBpffs {
        /// The mark.
        path: PathBuf,
    },
    /// A bpffs without the mark.
    #[error(
        "the bpffs here is not the host's: {}, which `poolward-agent install` leaves there, is missing. What is pinned on a \
         container's own bpffs dies with it. Mount the host's /sys/fs/bpf at the same place (a hostPath volume), in the \
         container that installs and in this one, and let no container mount a bpffs",
        path.display()
    )]
    NoMark {
        /// The mark.
        path: PathBuf,
    },
    /// It cannot be looked at or made.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The mark.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Leaves the mark; one that is there stays.
///
/// # Errors
/// It would not be on a bpffs, or the kernel would not.
pub fn leave_mark(mark: &Path) -> Result<(), NotShared> {
    require_bpffs(mark)?;
    match fs::create_dir(mark) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", mark, error)),
        _ => Ok(()),
    }
}

/// Whether the mark is there.
///
/// # Errors
/// It is not, and what to do.
pub fn require_mark(mark: &Path) -> Result<(), NotShared> {
    require_bpffs(mark)?;
    match fs::symlink_metadata(mark) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(NotShared::NoMark { path: mark.to_owned() })
        }
        Err(error) => Err(failed("look at", mark, error)),
    }
}

fn require_bpffs(mark: &Path) -> Result<(), NotShared> {
    match is_bpffs(mark.parent().unwrap_or(mark)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(NotShared::NoBpffs { path: mark.to_owned() }),
        Err(error) => Err(failed("look at the directory of", mark, error)),
    }
}

fn failed(operation: &'static str, mark: &Path, source: io::Error) -> NotShared {
    NotShared::Io { operation, path: mark.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_elsewhere_is_no_bpffs_and_the_text_says_what_to_mount() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        for error in [leave_mark(&mark).unwrap_err(), require_mark(&mark).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("mount -t bpf") && text.contains("hostPath"), "{text}");
        }
        assert!(!mark.exists());
    }
}
