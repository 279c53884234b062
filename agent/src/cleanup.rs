//! Leaving a node as it was found: everything that agents made and left on it is listed, and taken off.
//!
//! 1. While an agent runs nothing is taken off: it would make it again.
//! 2. The runtime's list of plugins goes first, so that no pod is started meanwhile.
//! 3. Then the kernel's state, then the plugins, then files and directories; the lock, which all of it happens under,
//!    last.
//! 4. What is there afterwards is an error.
//!
//! It needs neither the store nor an agent. Two things stay: switches under `/proc/sys/net`, which others may need by now,
//! and the file of the embedded store, which is not the node's but the user's.

use std::fs;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use dataplane::Leftovers;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{CleanupArgs, Config, StoreConfig};
use crate::install::{FILLED_GAPS, OUR_PLUGINS};
use crate::journal::{Lock, LockError};
use crate::run::settings_of;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is off, or listed.
    Done,
    /// The person did not want it.
    Declined,
}

/// Everything of ours on the node.
struct Found {
    kernel: Leftovers,
    /// The runtime's list of plugins.
    conflist: Vec<PathBuf>,
    /// Plugins and other files.
    files: Vec<PathBuf>,
    /// Directories, each with all that is in it.
    dirs: Vec<PathBuf>,
}

/// Lists, asks, takes off.
///
/// # Errors
/// An agent runs ([`LockError::Held`] is in the chain), nobody can be asked, or something stays.
pub fn run(config: &Config, args: &CleanupArgs) -> Result<Outcome> {
    let mut found = Found::look(config, args)?;
    let list = found.list();
    if list.is_empty() {
        println!("nothing of Poolward is on this node");
        return finish(args);
    }
    let verb = if args.dry_run { "would be removed" } else { "to be removed" };
    println!("{verb}:");
    for thing in &list {
        println!("  {thing}");
    }
    if let StoreConfig::Embedded { path } = &config.store
        && path.exists()
    {
        println!("kept: {}, the pools; delete it yourself if nobody needs them", path.display());
    }
    let pods_count = found.kernel.pods_count();
    if pods_count > 0 {
        println!("{pods_count} pods still have an interface, and lose their network: drain the node first");
    }
    if args.dry_run {
        if let Some(holder) = Lock::holder(&config.state_dir)? {
            println!("an agent runs (process {holder}): it has to be stopped first");
        }
        return Ok(Outcome::Done);
    }
    // Before anybody is asked: what cannot be done need not be decided.
    let lock = Lock::try_acquire(&config.state_dir).map_err(explain)?;
    if !args.yes && !is_wanted()? {
        return Ok(Outcome::Declined);
    }
    // The lock has made it, where there was none.
    found.dirs.retain(|dir| *dir != config.state_dir);
    found.dirs.push(config.state_dir.clone());
    found.remove()?;
    let left = Found::look(config, args)?.list();
    drop(lock);
    ensure!(left.is_empty(), "still there: {}", left.join(", "));
    println!("done: nothing of Poolward is left on this node");
    finish(args)
}

/// Stays, where that was asked for.
fn finish(args: &CleanupArgs) -> Result<Outcome> {
    if args.stay {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok::<_, io::Error>(())
        })?;
    }
    Ok(Outcome::Done)
}

fn explain(error: LockError) -> anyhow::Error {
    let held = matches!(error, LockError::Held { .. });
    let error = anyhow::Error::new(error);
    if held {
        error.context(
            "an agent runs on this node, and would make everything again. In a cluster, keep it off this node \
             (`kubectl -n poolward-system delete daemonset poolward-node`, or a label that its nodeSelector excludes); \
             elsewhere stop its process",
        )
    } else {
        error
    }
}

fn is_wanted() -> Result<bool> {
    ensure!(io::stdin().is_terminal(), "nobody is there to be asked: say --yes");
    print!("remove all of this? [y/N] ");
    io::stdout().flush().context("ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

impl Found {
    fn look(config: &Config, args: &CleanupArgs) -> Result<Self> {
        let there = |path: &Path| fs::symlink_metadata(path).is_ok();
        let conflist = config.cni.iter().map(|cni| cni.conflist_path.clone()).filter(|path| there(path));
        let mut files = plugins_in(&args.plugins)?;
        // Its directory goes with it, unless others have put something there.
        if config.socket_path.parent() != Some(&config.state_dir) && there(&config.socket_path) {
            files.push(config.socket_path.clone());
        }
        let mark = config.bpf_shared_mark.clone().filter(|path| there(path));
        let state = Some(config.state_dir.clone()).filter(|dir| holds_anything(dir));
        Ok(Self {
            kernel: Leftovers::find(&settings_of(config)).context("look at the kernel")?,
            conflist: conflist.collect(),
            files,
            dirs: mark.into_iter().chain(state).collect(),
        })
    }

    fn list(&self) -> Vec<String> {
        let paths = self.conflist.iter().chain(&self.files).map(|path| format!("file {}", path.display()));
        let dirs = self.dirs.iter().map(|dir| format!("directory {}", dir.display()));
        self.kernel.list().into_iter().chain(paths).chain(dirs).collect()
    }

    /// Goes on after a failure, and reports all.
    fn remove(self) -> Result<()> {
        let mut failures = Vec::new();
        let mut note = |result: Result<(), String>| failures.extend(result.err());
        for path in &self.conflist {
            note(remove_file(path));
        }
        for error in self.kernel.remove().err().into_iter().flatten() {
            note(Err(error.to_string()));
        }
        for path in &self.files {
            note(remove_file(path));
        }
        for dir in &self.dirs {
            note(remove_dir(dir));
        }
        if failures.is_empty() {
            return Ok(());
        }
        bail!("the rest is off, but: {}", failures.join("; "))
    }
}

/// Our plugins, and those that were put where there was none.
fn plugins_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let record = dir.join(FILLED_GAPS);
    let filled = match fs::read_to_string(&record) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", record.display())),
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", dir.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", dir.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(OUR_PLUGINS) || name == FILLED_GAPS || filled.lines().any(|line| line == name) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// An empty directory is what a mount of the pod's leaves when all is off.
fn holds_anything(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn remove_file(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// With all that is in it. Of a directory that is mounted here only what is in it.
fn remove_dir(dir: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("remove {}: {error}", dir.display());
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|error| format!("remove {}: {error}", path.display()))?;
    }
    match fs::remove_dir(dir) {
        // A mount cannot be removed; nor can anything from a container's own file system, which is read-only.
        Err(error) if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::ReadOnlyFilesystem) => {
            Ok(())
        }
        other => other.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_of_ours_and_filled_gaps_are_found_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["poolward", "poolward-ipam", "loopback", "portmap", "bridge"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::write(dir.path().join(FILLED_GAPS), "loopback\n").unwrap();
        let found = plugins_in(dir.path()).unwrap();
        let names: Vec<&str> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, [FILLED_GAPS, "loopback", "poolward", "poolward-ipam"]);
        assert_eq!(plugins_in(&dir.path().join("nowhere")).unwrap(), Vec::<PathBuf>::new());
    }
}
