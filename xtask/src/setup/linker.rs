//! The Rust side: rustup's components, and bpf-linker built against the LLVM that rustc itself uses, so that no LLVM
//! package is needed and both always understand each other's bitcode.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use harness::Run;

use super::{Machine, STEP_LIMIT};
use crate::logged;
use crate::workspace::Workspace;

/// The version of bpf-linker that is built and looked for.
pub(super) const VERSION: &str = "0.13.0";

/// The oldest rustc that builds the workspace (`rust-version` in Cargo.toml).
const OLDEST_RUST: (u32, u32) = (1, 95);

const COMPONENTS: &[&str] = &["rust-src", "rustfmt", "clippy"];

/// The compiler in use.
pub(super) struct Rust {
    /// Such as `1.95.0`.
    pub(super) version: String,
    sysroot: PathBuf,
}

impl Rust {
    /// Asks rustc.
    pub(super) fn ask(workspace: &Workspace) -> Result<Self> {
        let ask = |args: &[&str]| -> Result<String> {
            let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
            let output =
                rustc.args(args).current_dir(&workspace.root).output().context("rustc cannot be started")?;
            ensure!(output.status.success(), "rustc: {}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let line = ask(&["--version"])?;
        let version = line.split(' ').nth(1).with_context(|| format!("rustc --version says {line:?}"))?;
        Ok(Self { version: version.to_owned(), sysroot: ask(&["--print", "sysroot"])?.into() })
    }
}

/// Whether the compiler is new enough.
pub(super) fn check_rust_version(machine: &Machine<'_>) -> Result<Option<String>> {
    let version = &machine.rust.version;
    let found = parse_version(version).with_context(|| format!("rustc's version {version:?}"))?;
    let (major, minor) = OLDEST_RUST;
    ensure!(found >= OLDEST_RUST, "rustc {version} is older than {major}.{minor}");
    Ok(Some(machine.rust.sysroot.display().to_string()))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether what the components install is in the toolchain.
pub(super) fn check_components(machine: &Machine<'_>) -> Result<Option<String>> {
    let sysroot = &machine.rust.sysroot;
    let parts = ["lib/rustlib/src/rust/library/core/src/lib.rs", "bin/rustfmt", "bin/cargo-clippy"];
    Ok(parts.iter().all(|part| sysroot.join(part).exists()).then(|| COMPONENTS.join(", ")))
}

/// Adds the components to the toolchain in use.
pub(super) fn install_components(machine: &Machine<'_>) -> Result<String> {
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add"]).args(COMPONENTS).current_dir(&machine.workspace.root);
    logged::ok(rustup, &machine.workspace.log("rustup"), STEP_LIMIT)?;
    Ok(format!("added {}", COMPONENTS.join(", ")))
}

fn install_root(machine: &Machine<'_>) -> PathBuf {
    machine.workspace.cache.join(format!("bpf-linker-{VERSION}-{}", machine.rust.version))
}

/// The directory with `bpf-linker` in it.
pub(super) fn bin_dir(machine: &Machine<'_>) -> PathBuf {
    install_root(machine).join("bin")
}

/// The directory that stands in for an installed LLVM. It must stay: the linker finds its library through it.
fn llvm_prefix(machine: &Machine<'_>) -> PathBuf {
    machine.workspace.cache.join(format!("llvm-{}", machine.rust.version))
}

/// Whether the linker is there and runs, which also proves that its LLVM is still found.
pub(super) fn check_linker(machine: &Machine<'_>) -> Result<Option<String>> {
    let linker = bin_dir(machine).join("bpf-linker");
    if !linker.exists() {
        return Ok(None);
    }
    let runs = Run::new(&linker).args(["--version"]).finish().is_ok_and(|run| run.status.success());
    Ok(runs.then(|| linker.display().to_string()))
}

/// Builds the linker into the cache.
pub(super) fn install_linker(machine: &Machine<'_>) -> Result<String> {
    let prefix = llvm_prefix(machine);
    let major = link_llvm(&machine.rust.sysroot.join("lib"), &prefix)?;
    let mut cargo = machine.workspace.cargo();
    cargo
        .args(["install", "--locked", "--force", &format!("bpf-linker@{VERSION}"), "--no-default-features"])
        .args(["--features", &format!("llvm-{major}"), "--root"])
        .arg(install_root(machine))
        .env("LLVM_PREFIX", &prefix)
        // Neither this workspace's target directory nor flags meant for it.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .current_dir("/");
    logged::ok(cargo, &machine.workspace.log("bpf-linker"), STEP_LIMIT)?;
    Ok(format!("built against rustc's LLVM {major} into {}", install_root(machine).display()))
}

/// Links rustc's LLVM under `prefix/lib` by the names that the linker's build and its run time look for; returns
/// LLVM's major version.
fn link_llvm(sysroot_lib: &Path, prefix: &Path) -> Result<u32> {
    let entries =
        std::fs::read_dir(sysroot_lib).with_context(|| format!("read {}", sysroot_lib.display()))?;
    let library = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| llvm_major(name).is_some())
        .with_context(|| {
            format!("no libLLVM.so.* in {}: not a toolchain of rustup's", sysroot_lib.display())
        })?;
    let Some(major) = llvm_major(&library) else { bail!("{library}: no version in its name") };
    let lib = prefix.join("lib");
    std::fs::create_dir_all(&lib).with_context(|| format!("create {}", lib.display()))?;
    for name in ["libLLVM.so", &library] {
        let link = lib.join(name);
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("replace {}", link.display()));
            }
            _ => {}
        }
        symlink(sysroot_lib.join(&library), &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(major)
}

/// `libLLVM.so.22.1-rust-1.95.0-stable` is LLVM 22.
fn llvm_major(file_name: &str) -> Option<u32> {
    file_name.strip_prefix("libLLVM.so.")?.split(['.', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_llvm_is_read_from_the_file_name() {
        assert_eq!(llvm_major("libLLVM.so.22.1-rust-1.95.0-stable"), Some(22));
        for other in ["libLLVM.so", "libLLVM-22.so", "libLLVM.so.x", "librustc_driver-1.so"] {
            assert_eq!(llvm_major(other), None, "{other}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(parse_version("1.100.2-nightly").unwrap() > parse_version("1.95.0").unwrap());
        assert_eq!(parse_version("unknown"), None);
    }
}
