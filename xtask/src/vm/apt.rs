//! Packages from Debian's archive without touching the machine: lists, downloads and the record of what is installed
//! are a directory's of our own. Hashes and signatures are apt's to check.
//!
//! The mirror, proxies and the like are those the machine is configured with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::Run;

use super::images::Scratch;

/// Where Debian keeps the keys of its archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How long apt may take over one thing.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(300);

/// Releases of Debian, seen as if nothing were installed.
pub(super) struct Apt {
    dir: PathBuf,
    config: PathBuf,
}

impl Apt {
    /// Fetches the lists of these suites.
    pub(super) fn open(scratch: &Scratch, suites: &[&str]) -> Result<Self> {
        let mirror = mirror()?;
        let dir = scratch.path().join(format!("apt-{}", suites.join("-")));
        for part in
            ["etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "lists/partial", "archives/partial"]
        {
            fs::create_dir_all(dir.join(part)).with_context(|| format!("create {}", dir.display()))?;
        }
        let apt = Self { config: dir.join("apt.conf"), dir };
        let sources: String = suites.iter().map(|suite| source_line(&mirror, suite)).collect();
        write(&apt.dir.join("etc/sources.list"), &sources)?;
        // Nothing is installed: dependencies come complete, whatever this machine has.
        write(&apt.dir.join("status"), "")?;
        write(&apt.config, &(acquire_settings()? + &apt.settings()))?;
        apt.run("apt-get", &["-qq", "update"]).with_context(|| format!("lists of {mirror}"))?;
        Ok(apt)
    }

    /// What a package without contents stands for: the first it depends on.
    pub(super) fn stands_for(&self, package: &str) -> Result<String> {
        let shown = self.run("apt-cache", &["show", "--no-all-versions", package])?;
        first_dependency(&shown).with_context(|| format!("package {package}: no dependency in\n{shown}"))
    }

    /// Downloads one package alone; returns the file.
    pub(super) fn download(&self, package: &str) -> Result<PathBuf> {
        let into = self.dir.join(format!("download-{package}"));
        fs::create_dir_all(&into).with_context(|| format!("create {}", into.display()))?;
        self.prepared("apt-get", &["-qq", "download", package]).current_dir(&into).ok()?;
        let mut files = files_in(&into)?;
        ensure!(files.len() == 1, "apt-get download {package}: got {files:?}");
        files.pop().context("one file")
    }

    /// Downloads packages with everything they depend on, preferring one of the suites; returns the files.
    pub(super) fn download_with_dependencies(&self, suite: &str, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let arguments =
            ["-qq", "--yes", "--no-install-recommends", "--download-only", "-t", suite, "install"];
        self.run("apt-get", &[&arguments[..], packages].concat())?;
        files_in(&self.dir.join("archives"))
    }

    fn settings(&self) -> String {
        let dir = self.dir.display();
        format!(
            "Dir::Etc \"{dir}/etc\";\nDir::State \"{dir}\";\nDir::State::lists \"{dir}/lists\";\n\
             Dir::State::status \"{dir}/status\";\nDir::Cache \"{dir}\";\nDir::Cache::archives \"{dir}/archives\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\nAcquire::Languages \"none\";\n\
             APT::Sandbox::User \"root\";\n"
        )
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.prepared(program, arguments).ok()
    }

    fn prepared(&self, program: &str, arguments: &[&str]) -> Run {
        let run = Run::new(program).args(arguments).limit(LIMIT);
        run.env("APT_CONFIG", &self.config).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8")
    }
}

/// The mirror that the machine gets Debian's main archive from.
fn mirror() -> Result<String> {
    let format = ["indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"];
    let targets = Run::new("apt-get").args(format).ok().context("this machine's apt sources")?;
    mirror_of(&targets).with_context(|| {
        format!(
            "no source of a Debian release with component main among this machine's apt sources:\n{targets}"
        )
    })
}

/// The first source of a release proper: security and updates may be served from elsewhere.
fn mirror_of(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (uri, codename, component) = (words.next()?, words.next()?, words.next()?);
        (["bookworm", "trixie"].contains(&codename) && component == "main").then(|| uri.to_owned())
    })
}

fn source_line(mirror: &str, suite: &str) -> String {
    format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")
}

/// How this machine fetches: proxies, certificates, retries. Asked for, because our configuration replaces its own.
fn acquire_settings() -> Result<String> {
    let dump = Run::new("apt-config").args(["dump", "--no-empty", "Acquire"]).ok()?;
    Ok(fetching_only(&dump))
}

/// Without what says where lists are and which there are.
fn fetching_only(dump: &str) -> String {
    let wanted = |line: &&str| line.starts_with("Acquire::") && !line.starts_with("Acquire::IndexTargets");
    dump.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

fn first_dependency(shown: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let name = depends.split([' ', ',']).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            files.push(path);
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "no package was downloaded into {}", dir.display());
    Ok(files)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_a_release_and_not_of_its_updates() {
        let targets = "http://a/security/ bookworm-security main\nhttp://b/debian/ bookworm-updates main\n\
                       http://c/debian/ bookworm contrib\nhttp://d/debian/ bookworm main\nhttp://e/ trixie main\n";
        assert_eq!(mirror_of(targets).as_deref(), Some("http://d/debian/"));
        assert_eq!(mirror_of("http://x/ubuntu noble main\n"), None);
    }

    #[test]
    fn a_kernel_is_what_its_metapackage_depends_on_first() {
        let check =
            |text: &str, name: Option<&str>| assert_eq!(first_dependency(text).as_deref(), name, "{text}");
        check(
            "Package: a\nDepends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)\n",
            Some("linux-image-6.1.0-50-cloud-amd64"),
        );
        check("Depends: one, two\n", Some("one"));
        check("Package: a\nPre-Depends: b\n", None);
    }

    #[test]
    fn proxies_of_the_machine_are_kept_and_its_lists_are_not() {
        let dump =
            "Acquire::http::Proxy \"http://p:1\";\nAcquire::IndexTargets::deb::Packages::Optional \"0\";\n";
        assert_eq!(fetching_only(dump), "Acquire::http::Proxy \"http://p:1\";\n");
    }
}
