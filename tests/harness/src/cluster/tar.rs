//! Writes archives in the format `ustar` (POSIX.1-1988): what containerd reads, and no more.

use anyhow::{Context, Result, ensure};

const BLOCK_BYTES: usize = 512;

/// An archive being written, in memory.
#[derive(Debug, Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    File,
    Directory,
    Link(&'a str),
}

impl Tar {
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, mode, content, Kind::File)
    }

    pub(super) fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.entry(path, mode, &[], Kind::Directory)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, 0o777, &[], Kind::Link(target))
    }

    /// The archive: two empty blocks end it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 2 * BLOCK_BYTES]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], kind: Kind<'_>) -> Result<()> {
        let mut header = [0_u8; BLOCK_BYTES];
        put(&mut header, 0, 100, path)?;
        put(&mut header, 100, 8, &format!("{mode:07o}"))?;
        // Owner and group: root.
        put(&mut header, 108, 8, "0000000")?;
        put(&mut header, 116, 8, "0000000")?;
        put(&mut header, 124, 12, &format!("{:011o}", content.len()))?;
        // Always the same time: equal content makes equal images.
        put(&mut header, 136, 12, "00000000000")?;
        // The checksum counts itself as blanks.
        put(&mut header, 148, 8, "        ")?;
        let (flag, target) = match kind {
            Kind::File => ("0", ""),
            Kind::Directory => ("5", ""),
            Kind::Link(target) => ("2", target),
        };
        put(&mut header, 156, 1, flag)?;
        put(&mut header, 157, 100, target)?;
        put(&mut header, 257, 8, "ustar\u{0}00")?;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, 8, &format!("{sum:06o}\u{0} "))?;
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        let filled = self.bytes.len().next_multiple_of(BLOCK_BYTES);
        self.bytes.resize(filled, 0);
        Ok(())
    }
}

fn put(header: &mut [u8; BLOCK_BYTES], at: usize, room: usize, text: &str) -> Result<()> {
    ensure!(text.len() <= room, "{text:?} does not fit into an archive's header");
    let field = header.get_mut(at..at + text.len()).context("a field outside of the header")?;
    field.copy_from_slice(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Run;

    #[test]
    fn tar_itself_lists_what_was_written() {
        let mut tar = Tar::default();
        tar.directory("bin/", 0o755).unwrap();
        tar.file("bin/one", 0o755, b"content").unwrap();
        tar.link("bin/two", "one").unwrap();
        let listed = Run::new("tar").args(["--numeric-owner", "-tvf", "-"]).stdin(tar.finish()).ok().unwrap();
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
    fn a_path_that_does_not_fit_is_an_error() {
        assert!(Tar::default().file(&"x".repeat(101), 0o644, b"").is_err());
    }
}
