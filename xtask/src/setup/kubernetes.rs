//! A real Kubernetes, built once a machine: only for what needs one.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::kubernetes::{self, RECIPE, VERSION};
use harness::{Kubernetes, Run};
use rustix::fs::{FlockOperation, flock};

use super::Machine;
use crate::logged;
use crate::report::seconds;

/// The longest a build may take: ten times what it takes on two idle cores.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Whether all of its programs are there and run.
pub(super) fn check(_: &Machine<'_>) -> Result<Option<String>> {
    let Ok(found) = Kubernetes::find() else { return Ok(None) };
    let server = found.program("kube-apiserver");
    let asked = Run::new(&server).args(["--version"]).finish();
    Ok(asked.is_ok_and(|run| run.status.success()).then(|| server.display().to_string()))
}

/// Builds it from Debian's source package, saying how far it is.
pub(super) fn build(machine: &Machine<'_>) -> Result<String> {
    if let Some(dir) = kubernetes::given_dir() {
        bail!("{}, which {} names, lacks programs that run", dir.display(), kubernetes::DIR_VARIABLE);
    }
    let cache = &machine.workspace.cache;
    std::fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
    let lock_path = cache.join("kubernetes.lock");
    let lock = File::create(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
    flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("lock {}", lock_path.display()))?;
    // Somebody else may have built it while we waited.
    if let Some(dir) = check(machine)? {
        return Ok(format!("found in {dir}"));
    }
    let dir = Kubernetes::dir_in(cache);
    // What is there does not run, or is half of one that was cut short; nobody else is at it.
    for entry in std::fs::read_dir(cache).with_context(|| format!("read {}", cache.display()))? {
        let path = entry.with_context(|| format!("read {}", cache.display()))?.path();
        if path == dir || path.to_string_lossy().contains(".building.") {
            std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    let recipe = cache.join("kubernetes-build.sh");
    std::fs::write(&recipe, RECIPE).with_context(|| format!("write {}", recipe.display()))?;
    let mut bash = Command::new("bash");
    bash.arg(&recipe).arg(&dir);
    let log = machine.workspace.log("kubernetes");
    let mut progress = Progress::new();
    let built = logged::ok_watched(bash, &log, BUILD_LIMIT, &mut || progress.look(&log));
    progress.end();
    built?;
    Ok(format!("Kubernetes {VERSION} built into {}", dir.display()))
}

/// Says which stage of the recipe has begun.
struct Progress {
    started: Instant,
    looked: Instant,
    stage: String,
}

impl Progress {
    fn new() -> Self {
        Self { started: Instant::now(), looked: Instant::now(), stage: String::new() }
    }

    fn look(&mut self, log: &Path) {
        if self.looked.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.looked = Instant::now();
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let stage = last_stage(&text).unwrap_or("start").to_owned();
        let line = format!("    Kubernetes: {stage}, {}", seconds(self.started.elapsed()));
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else if stage != self.stage {
            eprintln!("{line}");
        }
        self.stage = stage;
    }

    fn end(&self) {
        if std::io::stderr().is_terminal() && !self.stage.is_empty() {
            eprint!("\r\x1b[K");
        }
    }
}

fn last_stage(log: &str) -> Option<&str> {
    log.lines().rev().find_map(|line| line.strip_prefix("== "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_is_the_last_one_that_the_recipe_named() {
        assert_eq!(last_stage("== source\nunpacking\n== programs\nk8s.io/x\n"), Some("programs"));
        assert_eq!(last_stage("unpacking ==\n"), None);
        assert!(last_stage(&RECIPE.replace("echo \"== ", "== ")).is_some());
    }
}
