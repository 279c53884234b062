//! The exclusive lock that keeps a second agent of the same node out.
//!
//! It is an advisory lock (`flock`) on `journal.lock`, held from before the journal is read until the process
//! ends, so the kernel frees it whatever way that happens. No agent removes the file itself: that would let two of them hold
//! locks on two files of the same name. It goes when the node is cleaned up, as the last of all.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Beside the journal.
const FILE_NAME: &str = "journal.lock";

/// Proof that this process is the only agent of its node. Whoever opens the journal must hold it.
#[derive(Debug)]
pub struct Lock {
    /// Held open for as long as the lock is to hold.
    _file: File,
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent holds it.
    #[error(
        "another agent of this node holds {path} (process {holder}): stop it first, or start this one with \
         --on-locked wait"
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Its process id as it wrote it, or "unknown".
        holder: String,
    },
    /// The file cannot be made, opened or locked.
    #[error("lock {path}: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Lock {
    /// Takes the lock in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`LockError::Held`] at once when another process holds it.
    pub fn try_acquire(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(FILE_NAME);
        let io = |source| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => Err(LockError::Held { holder: holder_in(&mut file), path }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// The process that holds the lock in `dir`, if any does. Unlike an attempt to take it this changes nothing.
    ///
    /// # Errors
    /// The file is there and cannot be opened or asked.
    pub fn holder(dir: &Path) -> Result<Option<String>, LockError> {
        let path = dir.join(FILE_NAME);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LockError::Io { path, source }),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(holder_in(&mut file))),
            Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
        }
    }
}

/// The process id that the holder wrote, or "unknown".
fn holder_in(file: &mut File) -> String {
    let mut holder = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut holder));
    match read {
        Ok(_) if !holder.trim().is_empty() => holder.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lock::holder(dir.path()).unwrap(), None);
        assert!(!dir.path().join(FILE_NAME).exists(), "asking has made it");
        let first = Lock::try_acquire(dir.path()).unwrap();
        assert_eq!(Lock::holder(dir.path()).unwrap(), Some(std::process::id().to_string()));
        let error = Lock::try_acquire(dir.path()).unwrap_err();
        assert!(
            matches!(&error, LockError::Held { holder, .. } if *holder == std::process::id().to_string())
        );
        assert!(error.to_string().contains("--on-locked wait"), "{error}");
        drop(first);
        assert_eq!(Lock::holder(dir.path()).unwrap(), None);
        Lock::try_acquire(dir.path()).unwrap();
    }
}
