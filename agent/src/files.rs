//! Files that others read at any moment: put in place as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It was there like this, and was not touched.
    Unchanged,
    /// It is there now.
    Written,
}

/// Puts a file in place: written beside it, brought to the disk, renamed. One that is there with the same content and
/// permissions is left alone, so that nobody who watches it is woken.
///
/// # Errors
/// The kernel would not; nothing is left beside it.
pub fn place(path: &Path, content: &[u8], mode: u32) -> io::Result<Placed> {
    if is_there(path, content, mode)? {
        return Ok(Placed::Unchanged);
    }
    let beside = beside(path)?;
    replace(&beside, path, write(&beside, content, mode))
}

/// Puts a symbolic link in place, by rename: whoever watches the directory is woken. One that points there already stays, unless
/// `anew`: then it is made again, for a watcher that does not see the file behind it.
///
/// # Errors
/// The kernel would not; nothing is left beside it.
pub fn place_link(path: &Path, target: &Path, anew: bool) -> io::Result<Placed> {
    if !anew && fs::read_link(path).is_ok_and(|there| there == target) {
        return Ok(Placed::Unchanged);
    }
    let beside = beside(path)?;
    // Of a process of the same number that did not come to its end.
    let _ = fs::remove_file(&beside);
    replace(&beside, path, symlink(target, &beside))
}

/// Makes what was written beside a path the path's own.
fn replace(beside: &Path, path: &Path, written: io::Result<()>) -> io::Result<Placed> {
    let placed = written.and_then(|()| fs::rename(beside, path));
    if placed.is_err() {
        // The first error is what counts.
        let _ = fs::remove_file(beside);
    }
    placed?;
    File::open(dir_of(path)?)?.sync_all()?;
    Ok(Placed::Written)
}

/// Neither a plugin nor a list of plugins to any runtime: a dot in front, and an ending nobody reads.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    Ok(dir_of(path)?.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id())))
}

fn dir_of(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::other("the path has no directory"))
}

fn is_there(path: &Path, content: &[u8], mode: u32) -> io::Result<bool> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let may_be = metadata.is_file()
        && metadata.len() == content.len() as u64
        && metadata.permissions().mode() & 0o7777 == mode;
    Ok(may_be && fs::read(path)? == content)
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(path)?;
    // Whatever the umask is, and whoever left a file of this name.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_left_alone_when_it_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(place(&path, b"one", 0o755).unwrap(), Placed::Written);
        let inode = || fs::metadata(&path).unwrap().ino();
        let first = inode();
        assert_eq!(place(&path, b"one", 0o755).unwrap(), Placed::Unchanged);
        assert_eq!(inode(), first);
        let reader = fs::read(&path).unwrap();
        assert_eq!(place(&path, b"two", 0o755).unwrap(), Placed::Written);
        assert_eq!((reader.as_slice(), fs::read(&path).unwrap().as_slice()), (&b"one"[..], &b"two"[..]));
        assert_eq!(place(&path, b"two", 0o644).unwrap(), Placed::Written);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left beside it");
    }

    #[test]
    fn a_link_takes_the_place_of_whatever_was_there_and_is_made_again_only_if_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("l"), dir.path().join("nowhere"));
        fs::write(&path, "a file of before").unwrap();
        let inode = || fs::symlink_metadata(&path).unwrap().ino();
        assert_eq!(place_link(&path, &target, false).unwrap(), Placed::Written);
        assert_eq!(fs::read_link(&path).unwrap(), target);
        let first = inode();
        assert_eq!(place_link(&path, &target, false).unwrap(), Placed::Unchanged);
        assert_eq!(inode(), first);
        assert_eq!(place_link(&path, &target, true).unwrap(), Placed::Written);
        assert_ne!(inode(), first);
        assert_eq!(place_link(&path, dir.path(), false).unwrap(), Placed::Written);
        assert_eq!(fs::read_link(&path).unwrap(), dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left beside it");
        // And a file takes the place of a link, rather than of what that points at.
        assert_eq!(place(&path, b"one", 0o644).unwrap(), Placed::Written);
        assert!(fs::symlink_metadata(&path).unwrap().is_file() && dir.path().is_dir());
    }

    #[test]
    fn what_cannot_be_put_in_place_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("d");
        fs::create_dir(&taken).unwrap();
        place(&taken, b"one", 0o644).unwrap_err();
        place_link(&taken, dir.path(), false).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
