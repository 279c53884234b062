//! What a node needs before its agent runs: the plugins where the runtime looks for them, and the mark by which the agent
//! knows the host's bpffs.
//!
//! The list of plugins (the conflist) is not among it: the agent writes that once pods can get addresses
//! ([`crate::conflist`]), so that no node is called ready before. Nothing here is ever taken away; that is
//! [`crate::cleanup`]'s work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::bpffs;
use crate::config::{Config, InstallArgs};
use crate::files::{self, Placed};

/// Permissions of a program.
const PROGRAM_MODE: u32 = 0o755;

/// Plugins of ours begin with this, and replace whatever is there.
pub const OUR_PLUGINS: &str = "poolward";

/// Names of the plugins that were put where there was none, a line for each: what a clean-up takes away again.
pub const FILLED_GAPS: &str = ".poolward-installed";

/// Does all of it, and says what it did, a line for each thing.
///
/// # Errors
/// A directory is missing, or something cannot be written; what is there already stays and works.
pub fn install(config: &Config, args: &InstallArgs, mut say: impl FnMut(String)) -> Result<()> {
    if let Some(mark) = &config.bpf_shared_mark {
        bpffs::leave_mark(mark)?;
        say(format!("{}: the bpffs is marked", mark.display()));
    }
    install_plugins(&args.from, &args.to, say)
}

fn install_plugins(from: &Path, to: &Path, mut say: impl FnMut(String)) -> Result<()> {
    ensure!(
        to.is_dir(),
        "{} is no directory: mount the runtime's directory of plugins there (bin_dir in containerd's configuration)",
        to.display()
    );
    let mut names = Vec::new();
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry.with_context(|| format!("read {}", from.display()))?;
        let metadata = entry.metadata().with_context(|| format!("look at {}", entry.path().display()))?;
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            names.push(entry.file_name());
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{} holds no programs", from.display());
    let mut filled = Vec::new();
    for name in names {
        let (source, target) = (from.join(&name), to.join(&name));
        let is_ours = name.to_string_lossy().starts_with(OUR_PLUGINS);
        if !is_ours && target.exists() {
            say(format!("{}: there is one, which stays", target.display()));
            continue;
        }
        let program = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
        let placed = files::place(&target, &program, PROGRAM_MODE)
            .with_context(|| format!("put {} in place", target.display()))?;
        if !is_ours {
            filled.push(name.to_string_lossy().into_owned());
        }
        let what = if placed == Placed::Written { "installed" } else { "up to date" };
        say(format!("{}: {what}", target.display()));
    }
    if !filled.is_empty() {
        remember(to, &filled)?;
    }
    Ok(())
}

/// Adds names to those that were remembered before.
fn remember(dir: &Path, names: &[String]) -> Result<()> {
    let record = dir.join(FILLED_GAPS);
    let mut text = match fs::read_to_string(&record) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", record.display())),
    };
    for name in names {
        if !text.lines().any(|line| line == name) {
            text.push_str(name);
            text.push('\n');
        }
    }
    files::place(&record, text.as_bytes(), 0o644).with_context(|| format!("write {}", record.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, name: &str, content: &str, mode: u32) {
        fs::write(dir.join(name), content).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn run(from: &Path, to: &Path) -> Result<Vec<String>> {
        let mut said = Vec::new();
        install_plugins(from, to, |line| said.push(line.rsplit('/').next().unwrap_or_default().to_owned()))?;
        Ok(said)
    }

    #[test]
    fn ours_replace_what_is_there_and_others_fill_gaps_only() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        program(from.path(), "poolward", "new", 0o755);
        program(from.path(), "loopback", "theirs", 0o755);
        program(from.path(), "portmap", "theirs", 0o755);
        program(from.path(), "README", "no program", 0o644);
        program(to.path(), "poolward", "old", 0o755);
        program(to.path(), "portmap", "the distribution's", 0o755);
        let first = run(from.path(), to.path()).unwrap();
        assert_eq!(
            first,
            ["loopback: installed", "poolward: installed", "portmap: there is one, which stays"]
        );
        let read = |name: &str| fs::read_to_string(to.path().join(name)).unwrap();
        assert_eq!(
            [read("poolward"), read("loopback"), read("portmap")],
            ["new", "theirs", "the distribution's"]
        );
        let again = run(from.path(), to.path()).unwrap();
        assert_eq!(again[1], "poolward: up to date");
        assert_eq!(read(FILLED_GAPS), "loopback\n");
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 4, "something else was written");
    }

    #[test]
    fn without_the_runtimes_directory_it_says_what_to_mount() {
        let from = tempfile::tempdir().unwrap();
        let error = run(from.path(), Path::new("/nowhere/bin")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/bin") && error.contains("bin_dir"), "{error}");
    }
}
