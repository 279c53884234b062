//! Where things are pinned.
//!
//! ```text
//! <pin_dir>/                  such as /sys/fs/bpf/poolward
//!   v3/                       SCHEMA_VERSION
//!     pw_endpoints …          the maps, by name
//!     links/
//!       17-from_pod           TCX links, by interface index and program
//!       17-to_pod
//!       2-from_uplink
//!       2-to_uplink
//! ```

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ebpf_common::SCHEMA_VERSION;

use crate::attach::Direction;
use crate::error::{BpfError, Context};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The paths of one schema version.
#[derive(Clone, Debug)]
pub(crate) struct PinDir {
    version_dir: PathBuf,
}

/// A link's pin, as read from its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkPin {
    pub(crate) ifindex: u32,
    pub(crate) direction: Direction,
    pub(crate) path: PathBuf,
}

impl PinDir {
    /// Checks that `root` is on a bpffs and creates what is missing below.
    pub(crate) fn create(root: &Path) -> Result<Self, BpfError> {
        require_bpffs(root)?;
        let dir = Self { version_dir: root.join(format!("v{SCHEMA_VERSION}")) };
        let links = dir.links();
        fs::create_dir_all(&links).kernel(|| format!("creating {}", links.display()))?;
        Ok(dir)
    }

    fn links(&self) -> PathBuf {
        self.version_dir.join("links")
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.version_dir.join(name)
    }

    pub(crate) fn link(&self, ifindex: u32, direction: Direction) -> PathBuf {
        self.links().join(format!("{ifindex}-{}", direction.program()))
    }

    /// All link pins of this version. Names that are not ours are passed over.
    pub(crate) fn list_links(&self) -> Result<Vec<LinkPin>, BpfError> {
        let mut found: Vec<LinkPin> = list(&self.links())?.into_iter().filter_map(parse_link).collect();
        found.sort_by_key(|pin| (pin.ifindex, pin.direction));
        Ok(found)
    }
}

/// The versions below `root`, with their directories.
pub(crate) fn list_versions(root: &Path) -> Result<Vec<(u32, PathBuf)>, BpfError> {
    let versions = list(root)?.into_iter().filter_map(|path| {
        let number = path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()?;
        Some((number, path))
    });
    Ok(versions.collect())
}

/// The entries of a directory; none if it does not exist.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).kernel(|| format!("reading {}", dir.display())),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()).kernel(|| format!("reading {}", dir.display())))
        .collect()
}

/// Removes a pin; one that is not there is fine.
pub(crate) fn remove_pin(path: &Path) -> Result<(), BpfError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).kernel(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn parse_link(path: PathBuf) -> Option<LinkPin> {
    let (ifindex, program) = path.file_name()?.to_str()?.split_once('-')?;
    let ifindex = ifindex.parse().ok()?;
    let direction = Direction::ALL.into_iter().find(|direction| direction.program() == program)?;
    Some(LinkPin { ifindex, direction, path })
}

/// The nearest ancestor that exists must be on a bpffs: below it, directories can be made.
fn require_bpffs(dir: &Path) -> Result<(), BpfError> {
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(dir);
    if is_bpffs(existing).kernel(|| format!("statfs of {}", existing.display()))? {
        Ok(())
    } else {
        Err(BpfError::NotBpffs { path: dir.to_owned() })
    }
}

/// Whether a path is on a bpffs, whosever that is.
///
/// # Errors
/// What the kernel says, if it is not there above all.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statfs(path)?;
    // `f_type` is signed and of different widths on different machines.
    Ok(stat.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_ours_by_its_name() {
        let check = |name: &str, expected: Option<(u32, Direction)>| {
            let parsed = parse_link(Path::new("/x/links").join(name));
            assert_eq!(parsed.map(|pin| (pin.ifindex, pin.direction)), expected, "{name}");
        };
        check("17-from_pod", Some((17, Direction::FromPod)));
        check("4294967295-to_pod", Some((u32::MAX, Direction::ToPod)));
        check("2-from_uplink", Some((2, Direction::FromUplink)));
        check("2-to_uplink", Some((2, Direction::ToUplink)));
        for foreign in ["17", "17-", "from_pod", "-from_pod", "17-other", "4294967296-to_pod", "x-to_pod"] {
            check(foreign, None);
        }
    }

    #[test]
    fn a_directory_elsewhere_is_refused_with_what_to_mount() {
        let error = require_bpffs(Path::new("/proc/poolward")).unwrap_err();
        assert!(matches!(error, BpfError::NotBpffs { .. }));
        let text = error.to_string();
        assert!(text.contains("/proc/poolward") && text.contains("mount -t bpf bpf /sys/fs/bpf"), "{text}");
    }
}
