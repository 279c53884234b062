//! The journal's file: opening, appending, rewriting.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Lock, Record};

const FORMAT: &str = "poolward";
const VERSION: u32 = 2;

/// The greatest file that is read: a node has some thousands of pods at most, a record some hundred bytes,
/// and the file is rewritten long before.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Below this length a rewrite is not worth it.
const MIN_REWRITE_BYTES: u64 = 1 << 20;

/// Whose journal it is. A file of another node or another boot is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the node.
    pub node: String,
    /// The kernel's boot id.
    pub boot_id: String,
}

/// The first line of the file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header {
    journal: String,
    version: u32,
    node: String,
    boot_id: String,
}

/// The open journal. One for each agent, owned by the node's state; it dies with the agent, the file does not.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    owner: Owner,
    length_bytes: u64,
    /// Length after the last rewrite: the file is rewritten again when it has grown to twice that.
    rewritten_bytes: u64,
    /// Set when a failed append could not be taken back, or the file was damaged from the start: nothing more is
    /// appended until it is rewritten.
    poisoned: bool,
    _lock: Lock,
}

/// What was found when the journal was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded {
    /// No file: the first start since boot.
    Fresh,
    /// A file of an earlier boot, whose allocations are void.
    EarlierBoot,
    /// All records, and how many bytes of a last one that was cut short were dropped.
    Records {
        /// In the order they were written.
        records: Vec<Record>,
        /// 0 after a clean end.
        dropped_bytes: u64,
    },
    /// The file does not read or is another node's. Allocations must be rebuilt from the kernel, and nothing can be
    /// appended before the first [`Journal::rewrite`].
    Damaged {
        /// What is wrong with it.
        reason: String,
        /// Where it is kept for people.
        kept_as: PathBuf,
    },
}

/// What failed: operation, file, cause.
#[derive(Debug, thiserror::Error)]
#[error("{operation} journal {path}: {source}")]
pub struct JournalError {
    pub(super) operation: &'static str,
    pub(super) path: PathBuf,
    pub(super) source: std::io::Error,
}

impl Journal {
    /// Opens the journal in `dir` under the lock, and reads it.
    ///
    /// # Errors
    /// The directory or file cannot be read or written. Damage is not an error: see [`Loaded::Damaged`].
    pub fn open(lock: Lock, dir: &Path, owner: Owner) -> Result<(Self, Loaded), JournalError> {
        let path = dir.join("journal");
        let failed = |operation| {
            let path = path.clone();
            move |source| JournalError { operation, path, source }
        };
        let found = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read")(error)),
            Ok(meta) if meta.len() > MAX_FILE_BYTES => Some(Err(format!(
                "{} bytes are more than the {MAX_FILE_BYTES} a journal may have",
                meta.len()
            ))),
            Ok(_) => Some(Ok(std::fs::read(&path).map_err(failed("read"))?)),
        };
        let mut keep = 0;
        let loaded = match found.map(|bytes| bytes.and_then(|bytes| parse(&bytes, &owner))) {
            None => Loaded::Fresh,
            Some(Ok(Parsed { this_boot: false, .. })) => Loaded::EarlierBoot,
            Some(Ok(parsed)) => {
                keep = parsed.valid_bytes;
                Loaded::Records { records: parsed.records, dropped_bytes: parsed.dropped_bytes }
            }
            Some(Err(reason)) => {
                let kept_as = keep_aside(dir, &path).map_err(failed("keep a copy of the damaged"))?;
                Loaded::Damaged { reason, kept_as }
            }
        };
        let damaged = matches!(loaded, Loaded::Damaged { .. });
        let mut file =
            File::options().write(true).create(true).truncate(false).open(&path).map_err(failed("open"))?;
        if !damaged {
            file.set_len(keep).map_err(failed("truncate"))?;
            file.seek(SeekFrom::End(0)).map_err(failed("seek in"))?;
        }
        let mut journal = Self {
            file,
            path,
            owner,
            length_bytes: keep,
            rewritten_bytes: keep,
            // A damaged file stays in its place, so that a start that fails finds it again, until it is rewritten.
            poisoned: damaged,
            _lock: lock,
        };
        if keep == 0 && !damaged {
            let header = line(&journal.header())?;
            journal.write(header.as_bytes())?;
        }
        Ok((journal, loaded))
    }

    /// Appends records with one write. When it returns, they survive a crash of the agent.
    ///
    /// # Errors
    /// The file system is full or gone. Nothing of the records remains then; if even that cannot be assured,
    /// every later append fails.
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let mut text = String::new();
        for record in records {
            text += &line(record)?;
        }
        self.write(text.as_bytes())
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether the file has grown enough to be worth rewriting.
    #[must_use]
    pub fn wants_rewrite(&self) -> bool {
        self.length_bytes > MIN_REWRITE_BYTES && self.length_bytes > 2 * self.rewritten_bytes
    }

    /// Replaces the whole content, atomically.
    ///
    /// # Errors
    /// The new file cannot be written; the old one stays in force.
    pub fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let mut text = line(&self.header())?;
        for record in records {
            text += &line(record)?;
        }
        let next = self.path.with_extension("next");
        let failed = |source| JournalError { operation: "rewrite", path: self.path.clone(), source };
        let mut file = File::create(&next).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        std::fs::rename(&next, &self.path).map_err(failed)?;
        self.file = file;
        self.length_bytes = text.len() as u64;
        self.rewritten_bytes = self.length_bytes;
        self.poisoned = false;
        Ok(())
    }

    /// Writes go to this file from here on, so that a test can see what happens when they fail.
    #[cfg(test)]
    pub(crate) fn break_for_test(&mut self, file: File) {
        self.file = file;
    }

    fn header(&self) -> Header {
        Header {
            journal: FORMAT.to_owned(),
            version: VERSION,
            node: self.owner.node.clone(),
            boot_id: self.owner.boot_id.clone(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let failed = |source| JournalError { operation: "append to", path: self.path.clone(), source };
        if self.poisoned {
            return Err(failed(std::io::Error::other(
                "it was damaged, or an earlier write failed half-way, and it was not rewritten since",
            )));
        }
        if let Err(error) = self.file.write_all(bytes) {
            let undone = self
                .file
                .set_len(self.length_bytes)
                .and_then(|()| self.file.seek(SeekFrom::Start(self.length_bytes)));
            self.poisoned = undone.is_err();
            return Err(failed(error));
        }
        self.length_bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Gives the file a second name beside the journal, which stays when the journal is rewritten.
fn keep_aside(dir: &Path, path: &Path) -> std::io::Result<PathBuf> {
    let inode = std::fs::metadata(path)?.ino();
    for number in 1..1000 {
        let aside = dir.join(format!("journal.damaged-{number}"));
        match std::fs::hard_link(path, &aside) {
            Ok(()) => return Ok(aside),
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            // An earlier start that failed has kept this very file.
            Err(_) if std::fs::metadata(&aside)?.ino() == inode => return Ok(aside),
            Err(_) => {}
        }
    }
    Err(std::io::Error::other("there are 999 damaged journals already: remove some"))
}

pub(super) fn line(value: &impl Serialize) -> Result<String, JournalError> {
    let json = serde_json::to_string(value).map_err(|error| JournalError {
        operation: "encode a record of",
        path: PathBuf::new(),
        source: error.into(),
    })?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

struct Parsed {
    this_boot: bool,
    records: Vec<Record>,
    valid_bytes: u64,
    dropped_bytes: u64,
}

/// Pure: bytes to records, or what is wrong with them.
fn parse(bytes: &[u8], owner: &Owner) -> Result<Parsed, String> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let dropped_bytes = (bytes.len() - end) as u64;
    let mut lines = bytes[..end].split_inclusive(|byte| *byte == b'\n').enumerate();
    let Some((_, first)) = lines.next() else {
        // Not even the header was whole: nothing can have been promised.
        return Ok(Parsed { this_boot: true, records: Vec::new(), valid_bytes: 0, dropped_bytes });
    };
    let header: Header = decode(first).map_err(|what| format!("line 1: {what}"))?;
    if header.journal != FORMAT || header.version != VERSION {
        return Err(format!("it is a {:?} journal of version {}", header.journal, header.version));
    }
    if header.node != owner.node {
        return Err(format!("it belongs to node {:?}, this is {:?}", header.node, owner.node));
    }
    if header.boot_id != owner.boot_id {
        return Ok(Parsed { this_boot: false, records: Vec::new(), valid_bytes: 0, dropped_bytes });
    }
    let mut records = Vec::new();
    for (index, text) in lines {
        records.push(decode(text).map_err(|what| format!("line {}: {what}", index + 1))?);
    }
    Ok(Parsed { this_boot: true, records, valid_bytes: end as u64, dropped_bytes })
}

pub(super) fn decode<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?.trim_end_matches('\n');
    let (digits, json) = text.split_once(' ').ok_or("no checksum")?;
    let expected = u32::from_str_radix(digits, 16).map_err(|_| format!("{digits:?} is not a checksum"))?;
    let actual = crc32fast::hash(json.as_bytes());
    if expected != actual {
        return Err(format!("checksum {expected:08x} does not fit, the line has {actual:08x}"));
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::HandleRecord;

    fn owner() -> Owner {
        Owner { node: "node-1".into(), boot_id: "boot-1".into() }
    }

    fn open(dir: &Path, owner: Owner) -> (Journal, Loaded) {
        Journal::open(Lock::try_acquire(dir).unwrap(), dir, owner).unwrap()
    }

    fn records(count: u64) -> Vec<Record> {
        let free = |at_ms| Record::Free {
            handle: HandleRecord { container_id: format!("c{at_ms}"), ifname: "eth0".into() },
            at_ms,
            cooling: Vec::new(),
        };
        (0..count).map(free).collect()
    }

    /// Writes `count` records, lets `damage` change the file, and opens it again.
    fn check(count: u64, damage: impl Fn(&Path), reopened_by: Owner) -> Loaded {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, loaded) = open(dir.path(), owner());
        assert_eq!(loaded, Loaded::Fresh);
        journal.append(&records(count)).unwrap();
        drop(journal);
        damage(&dir.path().join("journal"));
        let (mut journal, loaded) = open(dir.path(), reopened_by.clone());
        if matches!(loaded, Loaded::Damaged { .. }) {
            journal.append(&records(1)).unwrap_err();
            drop(journal);
            let (again, loaded_again) = open(dir.path(), reopened_by.clone());
            assert_eq!(loaded_again, loaded, "a start that fails leaves the damage to be found again");
            journal = again;
            journal.rewrite(&[]).unwrap();
        }
        // Whatever was found, the journal serves again.
        journal.append(&records(1)).unwrap();
        drop(journal);
        assert!(matches!(open(dir.path(), reopened_by).1, Loaded::Records { dropped_bytes: 0, .. }));
        loaded
    }

    fn cut(bytes_off: u64) -> impl Fn(&Path) {
        move |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() - bytes_off).unwrap();
        }
    }

    #[test]
    fn records_come_back_in_their_order() {
        assert_eq!(check(3, |_| {}, owner()), Loaded::Records { records: records(3), dropped_bytes: 0 });
    }

    #[test]
    fn a_record_cut_short_at_any_byte_is_dropped_and_the_others_stay() {
        let length = line(&records(3)[2]).unwrap().len() as u64;
        for bytes_off in 1..length {
            let expected = Loaded::Records { records: records(2), dropped_bytes: length - bytes_off };
            assert_eq!(check(3, cut(bytes_off), owner()), expected, "{bytes_off} bytes off");
        }
    }

    #[test]
    fn a_header_cut_short_is_a_fresh_start() {
        let truncate = |path: &Path| File::options().write(true).open(path).unwrap().set_len(5).unwrap();
        assert_eq!(check(3, truncate, owner()), Loaded::Records { records: vec![], dropped_bytes: 5 });
    }

    #[test]
    fn a_flipped_bit_anywhere_is_damage_and_the_file_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path(), owner());
        journal.append(&records(2)).unwrap();
        let length = journal.length_bytes;
        drop(journal);
        for at in 0..length - 1 {
            let flip = |path: &Path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes[usize::try_from(at).unwrap()] ^= 0x04;
                std::fs::write(path, bytes).unwrap();
            };
            match check(2, flip, owner()) {
                Loaded::Damaged { kept_as, .. } => assert!(kept_as.ends_with("journal.damaged-1")),
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }

    #[test]
    fn foreign_files_are_named_for_what_they_are() {
        let reason = |damage: fn(&Path), by: Owner| match check(1, damage, by) {
            Loaded::Damaged { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let other_node = Owner { node: "node-2".into(), ..owner() };
        assert_eq!(reason(|_| {}, other_node), "it belongs to node \"node-1\", this is \"node-2\"");
        assert!(
            reason(|path| std::fs::write(path, "hello\nworld\n").unwrap(), owner()).starts_with("line 1")
        );
        assert!(reason(|path| std::fs::write(path, [0xff, b'\n']).unwrap(), owner()).contains("UTF-8"));
    }

    #[test]
    fn an_earlier_boot_is_void() {
        let rebooted = Owner { boot_id: "boot-2".into(), ..owner() };
        assert_eq!(check(3, |_| {}, rebooted), Loaded::EarlierBoot);
    }

    #[test]
    fn a_rewrite_replaces_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path(), owner());
        journal.append(&records(50)).unwrap();
        journal.rewrite(&records(2)).unwrap();
        journal.append(&records(1)).unwrap();
        drop(journal);
        let expected: Vec<Record> = records(2).into_iter().chain(records(1)).collect();
        assert_eq!(open(dir.path(), owner()).1, Loaded::Records { records: expected, dropped_bytes: 0 });
    }
}
