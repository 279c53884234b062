//! The exclusive lock that keeps a second agent of the same node out.
//!
//! It is an advisory lock (`flock`) on `journal.lock`, held from before the journal is read until the process
//! ends, so the kernel frees it whatever way that happens. The file itself is never removed: removing it would
//! let two agents hold locks on two files of the same name.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

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
        let path = dir.join("journal.lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut holder));
                let holder = match read {
                    Ok(_) if !holder.trim().is_empty() => holder.trim().to_owned(),
                    _ => "unknown".to_owned(),
                };
                Err(LockError::Held { path, holder })
            }
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::try_acquire(dir.path()).unwrap();
        let error = Lock::try_acquire(dir.path()).unwrap_err();
        assert!(
            matches!(&error, LockError::Held { holder, .. } if *holder == std::process::id().to_string())
        );
        assert!(error.to_string().contains("--on-locked wait"), "{error}");
        drop(first);
        Lock::try_acquire(dir.path()).unwrap();
    }
}
