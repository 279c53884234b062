//! Builds the eBPF programs for the BPF target, so that a plain `cargo build` is all there is.
//!
//! Uses the active toolchain (`RUSTC_BOOTSTRAP` lets a stable one build `core` for the target) and the
//! `bpf-linker` in `PATH` or where `cargo xtask setup` puts it. With `AYA_BUILD_SKIP=1` nothing is built and
//! the crate holds an empty object, which is enough for clippy and documentation.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

const PROGRAMS: &str = "poolward-ebpf";
const PROGRAMS_DIR: &str = "../../../ebpf";

fn main() -> Result<()> {
    for variable in ["PATH", "POOLWARD_CACHE", "XDG_CACHE_HOME", "RUSTUP_TOOLCHAIN"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let manifest_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR not set")?);
    let programs_dir = manifest_dir.join(PROGRAMS_DIR);
    for part in ["Cargo.toml", "src", "common/Cargo.toml", "common/src"] {
        println!("cargo:rerun-if-changed={}", programs_dir.join(part).display());
    }
    if skipped() {
        println!("cargo:rerun-if-env-changed=AYA_BUILD_SKIP");
        let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR not set")?);
        fs::write(out_dir.join(PROGRAMS), []).context("writing an empty object")?;
        return Ok(());
    }
    let mut path = env::var_os("PATH").unwrap_or_default();
    if !in_path(&path) {
        let dir = cached_linker_dir().context(
            "bpf-linker is neither in PATH nor in the cache: run `cargo xtask setup`, which builds it \
             (AYA_BUILD_SKIP=1 builds without the eBPF programs)",
        )?;
        let old = env::split_paths(&path).collect::<Vec<_>>();
        path = env::join_paths(std::iter::once(dir).chain(old)).context("PATH")?;
    }
    // SAFETY: a build script has one thread here.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", "1");
        env::set_var("PATH", path);
        // What the inner cargo says while all goes well would come out as warnings of this one.
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    let root_dir = programs_dir.to_str().context("the source directory is not UTF-8")?.to_owned() + "/src";
    aya_build::build_ebpf(
        [Package { name: PROGRAMS, root_dir: &root_dir, ..Package::default() }],
        Toolchain::Custom(&toolchain),
    )
    .context("building the eBPF programs (`cargo xtask setup` installs what this needs)")
}

fn skipped() -> bool {
    env::var_os("AYA_BUILD_SKIP").is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}

fn in_path(path: &OsString) -> bool {
    env::split_paths(path).any(|dir| dir.join("bpf-linker").is_file())
}

/// `<cache>/bpf-linker-<its version>-<rustc's version>/bin`: the linker must have this compiler's LLVM.
fn cached_linker_dir() -> Result<PathBuf> {
    let cache = if let Some(dir) = env::var_os("POOLWARD_CACHE") {
        PathBuf::from(dir)
    } else if let Some(dir) = env::var_os("XDG_CACHE_HOME") {
        Path::new(&dir).join("poolward")
    } else {
        Path::new(&env::var_os("HOME").context("HOME not set")?).join(".cache/poolward")
    };
    let suffix = format!("-{}", rustc_version()?);
    let entries = fs::read_dir(&cache).with_context(|| format!("reading {}", cache.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let bin = entry.path().join("bin");
            let ours = name.starts_with("bpf-linker-") && name.ends_with(&suffix);
            (ours && bin.join("bpf-linker").is_file()).then_some(bin)
        })
        .collect();
    found.sort();
    match found.pop() {
        Some(dir) => Ok(dir),
        None => bail!("no bpf-linker-*{suffix} in {}", cache.display()),
    }
}

/// Such as `1.95.0`.
fn rustc_version() -> Result<String> {
    let rustc = env::var_os("RUSTC").context("RUSTC not set")?;
    let output = Command::new(rustc).arg("--version").output().context("running rustc --version")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(1).context("rustc --version said nothing")?;
    Ok(version.to_owned())
}
