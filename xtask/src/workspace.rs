//! Where things are: the sources, what is built from them, logs, and the cache of tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// The paths everything else starts from.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The root of the sources.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// Tools built once per machine and user: `${POOLWARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/poolward}`.
    pub(crate) cache: PathBuf,
}

impl Workspace {
    /// Finds the workspace this program was built from.
    ///
    /// # Errors
    /// The sources have moved since, or no home directory is known.
    pub(crate) fn find() -> Result<Self> {
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = manifest_dir.parent().unwrap_or(Path::new("/")).to_owned();
        if !root.join("Cargo.toml").is_file() {
            bail!("no Cargo.toml in {}: run it as `cargo xtask` inside the sources", root.display());
        }
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let cache = harness::kubernetes::cache_dir()?;
        Ok(Self { root, target, cache })
    }

    /// The cargo that runs us.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        // What `cargo run` says of xtask must not look like the caller's wish to the cargo below.
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("CARGO_PKG_")
                || ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"].contains(&&*name)
            {
                cargo.env_remove(&key);
            }
        }
        cargo
    }

    /// Where the output of a quiet program goes.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.target.join("xtask-logs").join(format!("{name}.log"))
    }
}
