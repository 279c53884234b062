//! The container image of a node's agent, without a container engine: an OCI image layout in one tar file.
//!
//! [`contents`] decides what is in it, [`layout`] turns that into bytes; the same files give the same bytes. Why it is as
//! it is: docs/adr/0010-image.md. `deploy/Containerfile` has the same files put into a directory ([`unpack`]), and a container
//! engine makes an image of it.

mod contents;
mod layout;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::build;
use crate::report::{bold, green, seconds};
use crate::setup::Toolbox;
use crate::workspace::Workspace;

/// What the image is called once it is imported.
pub(crate) const REFERENCE: &str = "localhost/poolward:dev";

/// Builds the programs and packs them; returns the archive: `target/image/poolward.tar` unless `out` names another.
///
/// # Errors
/// Something does not build, or a file that belongs into the image is not on this machine.
pub(crate) fn build(workspace: &Workspace, toolbox: &Toolbox, out: Option<&Path>) -> Result<PathBuf> {
    build::release(workspace, toolbox)?;
    let started = Instant::now();
    let path = out.map_or_else(|| workspace.target.join("image/poolward.tar"), Path::to_owned);
    let entries = contents::collect(workspace)?;
    let archive =
        layout::archive(&entries, &layout::Image { reference: REFERENCE, architecture: architecture() })?;
    write(&path, &archive)?;
    eprintln!(
        "{} {}, {} in {} MiB, {}",
        bold("image:"),
        green(REFERENCE),
        path.display(),
        archive.len() >> 20,
        seconds(started.elapsed())
    );
    Ok(path)
}

/// Builds the programs and puts the files of the image below a directory.
///
/// # Errors
/// As [`build`], or a file cannot be written.
pub(crate) fn unpack(workspace: &Workspace, toolbox: &Toolbox, dir: &Path) -> Result<()> {
    build::release(workspace, toolbox)?;
    contents::collect(workspace)?.unpack(dir)?;
    eprintln!("{} unpacked in {}", bold("image:"), dir.display());
    Ok(())
}

/// As a whole or not at all: somebody may be importing the one before.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let mut name = path.file_name().context("the archive's path names no file")?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = dir.join(name);
    std::fs::write(&beside, bytes).with_context(|| format!("write {}", beside.display()))?;
    std::fs::rename(&beside, path)
        .with_context(|| format!("rename {} to {}", beside.display(), path.display()))
}

/// This machine's, as Go and so all of OCI calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
