//! Where the programs of a real Kubernetes are: built once a machine from Debian's source package, kept outside the
//! tree.
//!
//! Says which recipe builds them and where they end up; `cargo xtask setup` runs it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Builds the programs into the directory given as its first argument. Debian's packages are all it needs.
pub const RECIPE: &str = include_str!("kubernetes/build.sh");

/// The release that [`RECIPE`] builds: what tests may rely on is the floor of what is supported.
pub const VERSION: &str = "1.20.2";

/// What [`RECIPE`] builds.
pub const PROGRAMS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "kube-proxy"];

/// Names a directory with [`PROGRAMS`] in it, for who has them already.
pub const DIR_VARIABLE: &str = "POOLWARD_KUBERNETES";

/// What [`DIR_VARIABLE`] says.
#[must_use]
pub fn given_dir() -> Option<PathBuf> {
    std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// The programs, in one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    dir: PathBuf,
}

impl Kubernetes {
    /// Finds them where [`DIR_VARIABLE`] says, else in the cache.
    ///
    /// # Errors
    /// They have not been built.
    pub fn find() -> Result<Self> {
        let dir = match given_dir() {
            Some(dir) => dir,
            None => Self::dir_in(&cache_dir()?),
        };
        let found = Self { dir };
        for program in PROGRAMS {
            let path = found.program(program);
            ensure!(
                path.is_file(),
                "{} has not been built: run `cargo xtask setup --kubernetes`",
                path.display()
            );
        }
        Ok(found)
    }

    /// Where [`RECIPE`] puts them below a cache directory: another recipe, another directory.
    #[must_use]
    pub fn dir_in(cache: &Path) -> PathBuf {
        cache.join(format!("kubernetes-{VERSION}-{:08x}", fnv1a(RECIPE.as_bytes())))
    }

    /// The path of one of [`PROGRAMS`].
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Tools built once per machine and user: `${POOLWARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/poolward}`.
///
/// # Errors
/// None of the three is set.
pub fn cache_dir() -> Result<PathBuf> {
    let from_env = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    from_env("POOLWARD_CACHE")
        .or_else(|| from_env("XDG_CACHE_HOME").map(|dir| dir.join("poolward")))
        .or_else(|| from_env("HOME").map(|dir| dir.join(".cache/poolward")))
        .context("no cache directory: none of POOLWARD_CACHE, XDG_CACHE_HOME and HOME is set")
}

/// FNV-1a, folded to 32 bits: tells recipes apart, and is no secret.
fn fnv1a(bytes: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    u32::from_le_bytes([a ^ e, b ^ f, c ^ g, d ^ h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_recipe_has_another_key() {
        assert_ne!(fnv1a(b"make"), fnv1a(b"make -j"));
        // The published value of "a", af63dc4c8601ec8c, folded.
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c ^ 0x8601_ec8c);
    }

    #[test]
    fn the_recipe_builds_what_is_looked_for() {
        for program in PROGRAMS {
            assert!(RECIPE.contains(program), "{program}");
        }
        assert!(RECIPE.contains(VERSION));
    }
}
