//! Writes an initial file system as the kernel unpacks it: the "newc" format of cpio
//! (`Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel).

use std::collections::BTreeSet;
use std::io::{Result, Write};

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

/// An archive in the making. Directories come by themselves.
pub(super) struct Archive<W> {
    out: W,
    /// Number of the last entry; the kernel takes entries of one number for links of one file.
    last: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, last: 0, directories: BTreeSet::new() }
    }

    /// An empty directory, and those above it.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(path)?;
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, b"")?;
        }
        Ok(())
    }

    /// A file, and the directories above it.
    pub(super) fn file(&mut self, path: &str, is_program: bool, bytes: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(path, if is_program { PROGRAM } else { REGULAR }, bytes)
    }

    /// A symbolic link, and the directories above it.
    pub(super) fn symlink(&mut self, path: &str, to: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK, to.as_bytes())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, b"")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        for at in slashes {
            let parent = &path[..at];
            if !parent.is_empty() && self.directories.insert(parent.to_owned()) {
                self.entry(parent, DIRECTORY, b"")?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.last += 1;
        let name = path.trim_start_matches('/');
        let too_big = |_| std::io::Error::other(format!("{path}: too big for the format"));
        let size = u32::try_from(bytes.len()).map_err(too_big)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_big)?;
        // inode, mode, uid, gid, links, mtime, size, device and its two numbers, length of the name, checksum (unused)
        let fields = [self.last, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        write!(self.out, "070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(padding(6 + 13 * 8 + name.len(), 1))?;
        self.out.write_all(bytes)?;
        self.out.write_all(padding(bytes.len(), 0))
    }
}

/// At least so many zeros, up to the next multiple of four.
fn padding(len: usize, at_least: usize) -> &'static [u8] {
    let end = (len + at_least).next_multiple_of(4);
    &[0; 4][..end - len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_cpio_reads() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/etc/name", false, b"12345").unwrap();
        archive.file("/etc/other", true, b"").unwrap();
        archive.symlink("/bin", "usr/bin").unwrap();
        archive.directory("/tmp").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        // An independent reading: fixed fields at fixed places.
        let mut at = 0;
        let mut found = Vec::new();
        while at < bytes.len() {
            let field = |number: usize| {
                let start = at + 6 + number * 8;
                usize::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_size - 1]).unwrap();
            assert_eq!(bytes[at + 110 + name_size - 1], 0, "{name}");
            let start = (at + 110 + name_size).next_multiple_of(4);
            found.push((name, mode, std::str::from_utf8(&bytes[start..start + size]).unwrap()));
            at = (start + size).next_multiple_of(4);
        }
        let expected = [
            ("etc", 0o040_755, ""),
            ("etc/name", 0o100_644, "12345"),
            ("etc/other", 0o100_755, ""),
            ("bin", 0o120_777, "usr/bin"),
            ("tmp", 0o040_755, ""),
            ("TRAILER!!!", 0, ""),
        ];
        assert_eq!(found, expected);
    }
}
