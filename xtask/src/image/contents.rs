//! What is in the image: our three programs, static; `nft` with the libraries it needs; the standard plugins that nodes may
//! lack; and the licences of all of it.
//!
//! What is not ours is taken from this machine's Debian packages, as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use harness::Run;

use super::layout::{Entries, Entry};
use crate::workspace::Workspace;

/// Where our own programs lie; on the image's `PATH`.
const PROGRAMS_DIR: &str = "usr/bin";

/// Where `poolward-agent install` finds the plugins.
const PLUGINS_DIR: &str = "opt/poolward/cni";

/// Debian's: what a runtime needs beside ours (`loopback`, before containerd 2), and what our list of plugins names for
/// host ports.
const STANDARD_PLUGINS: &[&str] = &["loopback", "portmap"];

/// Where Debian puts plugins.
const DEBIAN_PLUGINS_DIR: &str = "/usr/lib/cni";

/// What the agent calls to write its nftables table.
const NFT: &str = "/usr/sbin/nft";

/// Everything, by its path in the image.
///
/// # Errors
/// Something is not there, or belongs to no package.
pub(super) fn collect(workspace: &Workspace) -> Result<Entries> {
    let mut entries = Entries::default();
    for program in ["poolward-agent", "poolwardctl"] {
        let path = workspace.target.join("release").join(program);
        require_static(&path)?;
        entries.add(&format!("{PROGRAMS_DIR}/{program}"), program_at(&path)?);
    }
    let plugin = workspace.target.join("plugin/poolward");
    require_static(&plugin)?;
    // One program: under the second name it gives addresses to another main plugin.
    for name in ["poolward", "poolward-ipam"] {
        entries.add(&format!("{PLUGINS_DIR}/{name}"), program_at(&plugin)?);
    }
    let license = workspace.root.join("LICENSE");
    entries.add("usr/share/doc/poolward/LICENSE", file_at(&license)?);
    let mut foreign = BTreeSet::new();
    for name in STANDARD_PLUGINS {
        let path = Path::new(DEBIAN_PLUGINS_DIR).join(name);
        entries.add(&format!("{PLUGINS_DIR}/{name}"), program_at(&path)?);
        foreign.insert(path);
    }
    for path in with_libraries(Path::new(NFT))? {
        let inside = path.to_str().context("a library's path is no text")?.trim_start_matches('/').to_owned();
        entries.add(&inside, program_at(&path)?);
        foreign.insert(path);
    }
    add_licences(&mut entries, &foreign)?;
    Ok(entries)
}

fn program_at(path: &Path) -> Result<Entry> {
    Ok(Entry { mode: 0o755, bytes: read(path)? })
}

fn file_at(path: &Path) -> Result<Entry> {
    Ok(Entry { mode: 0o644, bytes: read(path)? })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// A program that names a loader would look for the libraries of the machine that built it.
fn require_static(path: &Path) -> Result<()> {
    let finished = Run::new("ldd").args([path]).finish()?;
    let said = [finished.stdout, finished.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(
        said.contains("statically linked") || said.contains("not a dynamic executable"),
        "{} is not linked statically: {}",
        path.display(),
        said.trim()
    );
    Ok(())
}

/// A program and all it is linked to, the loader among them.
fn with_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = Run::new("ldd")
        .args([program])
        .ok()
        .context("nftables is missing: `cargo xtask setup` installs it")?;
    let mut paths = parse_ldd(&said)?;
    paths.insert(0, program.to_owned());
    Ok(paths)
}

/// The files that `ldd` lists. Its lines are `name => path (address)`, `path (address)` for the loader, and the kernel's
/// own `linux-vdso`, which is no file.
fn parse_ldd(listed: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in listed.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let name = line.split(" (").next().unwrap_or(line);
        let path = name.split(" => ").last().unwrap_or(name);
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        } else if !path.starts_with("linux-vdso") {
            bail!("ldd: a library that is not there: {line}");
        }
    }
    Ok(paths)
}

/// Of every package that a file was taken from: its copyright file, and its version, by which its source can be had.
fn add_licences(entries: &mut Entries, files: &BTreeSet<PathBuf>) -> Result<()> {
    let mut versions = BTreeMap::new();
    for file in files {
        let package = package_of(file)?;
        let source = Run::new("dpkg-query")
            .args(["-W", "-f", "${source:Package} ${source:Version}", &package])
            .ok()?;
        let name = package.split(':').next().unwrap_or(&package);
        let copyright = PathBuf::from(format!("/usr/share/doc/{name}/copyright"));
        entries.add(&format!("usr/share/doc/{name}/copyright"), file_at(&copyright)?);
        versions.insert(name.to_owned(), source);
    }
    let lines: String =
        versions.iter().map(|(name, source)| format!("{name}: Debian source {source}\n")).collect();
    entries.add("usr/share/doc/poolward/packages", Entry { mode: 0o644, bytes: lines.into_bytes() });
    Ok(())
}

/// The package a file belongs to. Debian knows files by their path of before or after `/lib` became `/usr/lib`.
fn package_of(file: &Path) -> Result<String> {
    let text = file.to_string_lossy().into_owned();
    let other = text.strip_prefix("/usr").map_or_else(|| format!("/usr{text}"), str::to_owned);
    for path in [&text, &other] {
        let said = Run::new("dpkg-query").args(["-S", path]).finish()?;
        if said.status.success() {
            let listed = String::from_utf8_lossy(&said.stdout).into_owned();
            let package = listed.lines().find_map(|line| line.split_once(": ")).map(|(package, _)| package);
            return Ok(package.context("dpkg-query -S said nothing")?.to_owned());
        }
    }
    bail!("{text} belongs to no package: its licence is not known")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_is_linked_to_is_read_from_what_ldd_says() {
        let listed = "\tlinux-vdso.so.1 (0x00007f1143b13000)\n\
            \tlibnftables.so.1 => /lib/x86_64-linux-gnu/libnftables.so.1 (0x00007f1143a20000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f1143b15000)\n";
        let expected: Vec<PathBuf> =
            ["/lib/x86_64-linux-gnu/libnftables.so.1", "/lib64/ld-linux-x86-64.so.2"]
                .map(Into::into)
                .to_vec();
        assert_eq!(parse_ldd(listed).unwrap(), expected);
    }

    #[test]
    fn a_library_that_is_missing_is_an_error() {
        let error = parse_ldd("\tlibmnl.so.0 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libmnl.so.0"), "{error}");
    }
}
