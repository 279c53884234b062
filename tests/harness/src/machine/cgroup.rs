//! The control group below which a machine's pods are: in every hierarchy of version 1, or in the one of version 2.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Where hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// How long a group may stay busy after its last process has ended.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

/// A group of this name at the top of every hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    name: String,
}

impl Cgroup {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes it where it is not there.
    pub(crate) fn create(&self) -> Result<()> {
        for hierarchy in hierarchies()?.into_iter().filter(has_controllers) {
            let group = hierarchy.join(&self.name);
            std::fs::create_dir_all(&group).with_context(|| format!("create {}", group.display()))?;
            // Version 1 lets nobody into a group without processors and memory nodes, and does not inherit them.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let (from, to) = (hierarchy.join(file), group.join(file));
                if from.exists() && to.exists() {
                    let inherited =
                        std::fs::read(&from).with_context(|| format!("read {}", from.display()))?;
                    std::fs::write(&to, inherited).with_context(|| format!("write {}", to.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Removes it with all groups below. Nothing runs in them any more.
    pub(crate) fn remove(&self) -> Result<()> {
        for hierarchy in hierarchies()? {
            remove_tree(&hierarchy.join(&self.name))?;
        }
        Ok(())
    }

    /// The directories it is, for whoever has to remove them without this code.
    pub(crate) fn directories(&self) -> Result<Vec<PathBuf>> {
        Ok(hierarchies()?.into_iter().map(|hierarchy| hierarchy.join(&self.name)).collect())
    }
}

/// All hierarchies: those of version 1, the one of version 2, or both.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).context(ROOT)? {
        let entry = entry.context(ROOT)?;
        let path = entry.path();
        // Links are second names.
        let is_link = entry.file_type().with_context(|| path.display().to_string())?.is_symlink();
        if !is_link && path.join("cgroup.procs").exists() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether kubelets look for their group here. Beside version 1, version 2 has no controllers, and only runtimes use it.
fn has_controllers(hierarchy: &PathBuf) -> bool {
    !hierarchy.join("cgroup.controllers").exists() || hierarchy == Path::new(ROOT)
}

fn remove_tree(group: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(group) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("read {}", group.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", group.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let deadline = Instant::now() + REMOVE_LIMIT;
    loop {
        match std::fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // The kernel takes a moment to forget processes that have ended.
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error).with_context(|| format!("remove {}", group.display())),
        }
    }
}
