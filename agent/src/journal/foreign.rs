//! A mark beside the journal: in this boot addresses were given to pods of other main plugins.
//!
//! A journal that is lost is rebuilt from the interfaces in the kernel, but such a pod has none of ours. Without the mark
//! its address would be handed out again once nobody is known to hold it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "other-plugins";

/// The mark, set or not. It is taken away after a reboot, when those pods are gone.
#[derive(Debug)]
pub struct ForeignMark {
    path: PathBuf,
}

impl ForeignMark {
    /// The mark in a state directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE_NAME) }
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.path.exists()
    }

    /// Takes it away: those pods are gone.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io::Error::new(error.kind(), format!("remove {}: {error}", self.path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Sets it, for the rest of the boot.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn set(&self) -> io::Result<()> {
        if self.is_set() {
            return Ok(());
        }
        let failed =
            |error: io::Error| io::Error::new(error.kind(), format!("make {}: {error}", self.path.display()));
        fs::write(&self.path, "addresses were given to pods of other main plugins\n").map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stays_once_it_is_set_and_what_cannot_be_set_is_told_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let mark = ForeignMark::new(dir.path());
        assert!(!mark.is_set());
        mark.set().unwrap();
        mark.set().unwrap();
        assert!(ForeignMark::new(dir.path()).is_set());
        mark.clear().unwrap();
        mark.clear().unwrap();
        assert!(!mark.is_set());
        let nowhere = ForeignMark::new(&dir.path().join("none"));
        let error = nowhere.set().unwrap_err().to_string();
        assert!(error.contains("none/other-plugins"), "{error}");
    }
}
