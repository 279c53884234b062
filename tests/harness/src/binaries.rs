//! Where the programs under test are.

use std::path::PathBuf;

use anyhow::{Result, ensure};

/// The three programs, as `cargo xtask build` leaves them.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The node agent.
    pub agent: PathBuf,
    /// The command line for operators.
    pub ctl: PathBuf,
    /// The CNI plugin.
    pub plugin: PathBuf,
}

impl Binaries {
    /// Finds them in the target directory of this workspace.
    ///
    /// # Errors
    /// One of them has not been built.
    pub fn find() -> Result<Self> {
        let target = target_dir();
        let binaries = Self {
            agent: target.join("release/poolward-agent"),
            ctl: target.join("release/poolwardctl"),
            plugin: target.join("plugin/poolward"),
        };
        for path in [&binaries.agent, &binaries.ctl, &binaries.plugin] {
            ensure!(path.is_file(), "{} has not been built: run `cargo xtask build`", path.display());
        }
        Ok(binaries)
    }
}

/// The archive of a node's image, as `cargo xtask image` leaves it.
///
/// # Errors
/// It has not been built.
pub fn image_archive() -> Result<PathBuf> {
    let path = target_dir().join("image/poolward.tar");
    ensure!(path.is_file(), "{} has not been built: run `cargo xtask image`", path.display());
    Ok(path)
}

fn target_dir() -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}
