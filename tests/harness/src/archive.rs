//! Archives (tar, in the format `ustar`) and digests, as images of containers are made of.
//!
//! Everything belongs to root and is of the same time, so that equal content makes equal images.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// An archive being written, in memory.
pub struct Archive(tar::Builder<Vec<u8>>);

impl Default for Archive {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Archive {
    /// A file.
    ///
    /// # Errors
    /// The path does not fit into a header.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).with_context(|| format!("pack {path}"))
    }

    /// A directory; its path ends with a slash.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, mode);
        self.0.append_data(&mut header, path, std::io::empty()).with_context(|| format!("pack {path}"))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As [`Archive::file`], and a target that does not.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        self.0.append_link(&mut header, path, target).with_context(|| format!("pack {path}"))
    }

    /// The bytes.
    ///
    /// # Errors
    /// None in memory; the library says there may be.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("end the archive")
    }
}

/// Of root, and always of the same time: equal content makes equal images.
fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The SHA-256 of some bytes, as hexadecimal digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Run;

    #[test]
    fn tar_itself_lists_what_was_written() {
        let mut archive = Archive::default();
        archive.directory("bin/", 0o755).unwrap();
        archive.file("bin/one", 0o755, b"content").unwrap();
        archive.link("bin/two", "one").unwrap();
        let bytes = archive.finish().unwrap();
        let listed = Run::new("tar").args(["--numeric-owner", "-tvf", "-"]).stdin(bytes).ok().unwrap();
        let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        let kinds: Vec<_> = lines.iter().map(|words| (words[0], words[1], words[2], words[5])).collect();
        assert_eq!(
            kinds,
            [
                ("drwxr-xr-x", "0/0", "0", "bin/"),
                ("-rwxr-xr-x", "0/0", "7", "bin/one"),
                ("lrwxrwxrwx", "0/0", "0", "bin/two"),
            ]
        );
    }

    #[test]
    fn a_digest_is_the_published_one() {
        let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), of_nothing);
    }
}
