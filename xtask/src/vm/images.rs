//! What guests are booted from, fetched once and kept in the cache:
//!
//! ```text
//! vm-RECIPE/
//!   emulator -> qemu-system-x86_VERSION_HASH     what is used
//!   6.1      -> linux-image-..._VERSION_HASH
//!   qemu-system-x86_VERSION_HASH/                usr/bin/qemu-system-x86_64, its libraries, its C library
//!   linux-image-..._VERSION_HASH/                vmlinux, kernel/*/*.ko
//! ```
//!
//! Directories are named by what is in them and made under another name first, so that one that is there is whole. The
//! archive drops old point releases, so versions are looked up when fetching and never after; remove a link to have
//! the newest fetched again. Nothing is installed, and the emulator uses nothing of the machine's but its kernel.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::Run;

use super::apt::Apt;
use super::bzimage;

/// Goes up when what is made of the packages changes.
const RECIPE: u32 = 1;

/// How long unpacking may take.
const UNPACK_LIMIT: Duration = Duration::from_secs(120);

/// QEMU 10 is not in bookworm itself, whose 7.2 makes one in ten guests of 6.12 oops.
const EMULATOR_SUITES: &[&str] = &["bookworm", "bookworm-backports"];

/// Besides QEMU what unpacks kernels and their modules.
const EMULATOR_PACKAGES: &[&str] = &["qemu-system-x86", "lz4", "xz-utils", "zstd"];

/// A metapackage that names the newest kernel of a release, without drivers for real hardware.
const KERNEL_METAPACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel that guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12: no TCX, no flags for decapsulation
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// As people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Whether it has links of TCX.
    pub(crate) fn has_tcx(self) -> bool {
        self == Self::V6_12
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
        }
    }
}

/// Everything that is needed to boot.
pub(crate) struct Images {
    dir: PathBuf,
}

impl Images {
    /// The emulator, without arguments but where its own files are.
    pub(super) fn emulator(&self) -> Result<Command> {
        let (program, arguments) = self.tool("qemu-system-x86_64")?;
        let share = self.dir.join("emulator/usr/share");
        let mut command = Command::new(program);
        command.args(arguments).arg("-L").arg(share.join("qemu")).arg("-L").arg(share.join("seabios"));
        Ok(command)
    }

    /// The kernel, as it can be booted.
    pub(super) fn vmlinux(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("vmlinux")
    }

    /// The directory with the kernel's modules.
    pub(super) fn modules(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("kernel")
    }

    /// A program of the emulator's directory: what to start, and its first arguments.
    fn tool(&self, name: &str) -> Result<(PathBuf, Vec<OsString>)> {
        tool_in(&self.dir.join("emulator"), name)
    }

    fn has(&self, name: &str) -> bool {
        // Follows the link.
        self.dir.join(name).is_dir()
    }
}

/// Fetches what is not in the cache yet, and says what.
///
/// # Errors
/// The archive cannot be reached, or has not what is needed.
pub(crate) fn fetch(cache: &Path, say: impl Fn(&str)) -> Result<Images> {
    let images = Images { dir: cache.join(format!("vm-{RECIPE}")) };
    let missing: Vec<Kernel> = Kernel::ALL.into_iter().filter(|kernel| !images.has(kernel.name())).collect();
    if images.has("emulator") && missing.is_empty() {
        return Ok(images);
    }
    let scratch = Scratch::new(&images.dir)?;
    if !images.has("emulator") {
        say("fetching the emulator");
        fetch_emulator(&images, &scratch).context("fetch the emulator of the guests")?;
    }
    for kernel in missing {
        say(&format!("fetching kernel {}", kernel.name()));
        fetch_kernel(&images, &scratch, kernel)
            .with_context(|| format!("fetch kernel {} for the guests", kernel.name()))?;
        crate::interrupt::check()?;
    }
    Ok(images)
}

fn fetch_emulator(images: &Images, scratch: &Scratch) -> Result<()> {
    let apt = Apt::open(scratch, EMULATOR_SUITES)?;
    let packages = apt.download_with_dependencies("bookworm-backports", EMULATOR_PACKAGES)?;
    let root = scratch.path().join("emulator");
    for package in &packages {
        unpack(package, &root)?;
    }
    // Whether all of it is there shows here and not in the first boot.
    let (program, arguments) = tool_in(&root, "qemu-system-x86_64")?;
    Run::new(program).args(arguments).args(["--version"]).ok()?;
    let of_name = |file: &&PathBuf| file_name(file).starts_with("qemu-system-x86_");
    let main = packages.iter().find(of_name).context("apt-get downloaded no qemu-system-x86")?;
    images.keep("emulator", &root, &content_name(main, &packages)?)
}

fn fetch_kernel(images: &Images, scratch: &Scratch, kernel: Kernel) -> Result<()> {
    let apt = Apt::open(scratch, &[kernel.suite()])?;
    let package = apt.download(&apt.stands_for(KERNEL_METAPACKAGE)?)?;
    let unpacked = scratch.path().join(format!("{}-package", kernel.name()));
    unpack(&package, &unpacked)?;
    let root = scratch.path().join(kernel.name());
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;

    let image = only_entry(&unpacked.join("boot"), "vmlinuz-")?;
    let bytes = fs::read(&image).with_context(|| format!("read {}", image.display()))?;
    let payload = bzimage::payload(&bytes).with_context(|| format!("{}", image.display()))?;
    let (program, arguments) = images.tool(payload.compression.program())?;
    let unpacker = Run::new(program).args(arguments).args(["-d", "-c"]).stdin(payload.bytes);
    let vmlinux = unpacker.limit(UNPACK_LIMIT).finish()?;
    vmlinux.ok().with_context(|| format!("unpack {}", image.display()))?;
    ensure!(vmlinux.stdout.starts_with(b"\x7fELF"), "{}: its payload is no vmlinux", image.display());
    let path = root.join("vmlinux");
    fs::write(&path, vmlinux.stdout).with_context(|| format!("write {}", path.display()))?;

    // Where Debian 12 and Debian 13 keep modules.
    let libs = [unpacked.join("usr/lib/modules"), unpacked.join("lib/modules")];
    let modules = libs.iter().find(|dir| dir.is_dir()).context("the package has no modules")?;
    let modules = only_entry(modules, "")?.join("kernel");
    let (unxz, unxz_arguments) = images.tool("xz")?;
    let packed = files_with_extension(&modules, "xz")?;
    for some in packed.chunks(200) {
        Run::new(&unxz).args(&unxz_arguments).args(["-d"]).args(some).limit(UNPACK_LIMIT).ok()?;
    }
    rename(&modules, &root.join("kernel"))?;
    images.keep(kernel.name(), &root, &content_name(&package, std::slice::from_ref(&package))?)
}

impl Images {
    /// Makes a finished directory the one that is used under a name.
    fn keep(&self, name: &str, made: &Path, content: &str) -> Result<()> {
        let place = self.dir.join(content);
        // There when only the link was removed, or when somebody else fetched the same meanwhile.
        if !place.is_dir() {
            rename(made, &place)?;
        }
        let link = self.dir.join(name);
        let new = self.dir.join(format!(".{name}-{}", std::process::id()));
        symlink(content, &new).with_context(|| format!("link {}", new.display()))?;
        rename(&new, &link)
    }
}

/// A program in an unpacked directory, run by the C library unpacked with it.
fn tool_in(root: &Path, name: &str) -> Result<(PathBuf, Vec<OsString>)> {
    let library_dirs = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|dir| root.join(dir));
    let loader =
        library_dirs.iter().map(|dir| dir.join("ld-linux-x86-64.so.2")).find(|loader| loader.exists());
    let loader = loader.with_context(|| format!("no dynamic loader in {}", root.display()))?;
    let program =
        ["usr/bin", "bin"].map(|dir| root.join(dir).join(name)).into_iter().find(|path| path.exists());
    let program = program.with_context(|| format!("no {name} in {}", root.display()))?;
    let path = std::env::join_paths(&library_dirs).context("path of the emulator's libraries")?;
    Ok((loader, vec!["--library-path".into(), path, program.into()]))
}

fn unpack(package: &Path, root: &Path) -> Result<()> {
    Run::new("dpkg-deb")
        .args(["-x".as_ref(), package.as_os_str(), root.as_os_str()])
        .limit(UNPACK_LIMIT)
        .ok()
        .map(drop)
}

/// Name and version of a package, and a hash of all that came with it.
fn content_name(main: &Path, all: &[PathBuf]) -> Result<String> {
    let sums = Run::new("sha256sum").args(all).limit(UNPACK_LIMIT).ok()?;
    // Names and hashes, wherever they were downloaded to.
    let sums = sums.lines().filter_map(|line| Some((line.split(' ').next()?, line.rsplit('/').next()?)));
    let sums: String = sums.map(|(sum, name)| format!("{sum} {name}\n")).collect();
    let all = Run::new("sha256sum").stdin(sums).ok()?;
    let hash = all.get(..16).context("sha256sum printed no hash")?.to_owned();
    let name = file_name(main);
    let mut parts = name.split('_');
    let (package, version) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    ensure!(!package.is_empty() && !version.is_empty(), "{name}: not named as packages are");
    Ok(format!("{package}_{}_{hash}", version.replace("%3a", ":")))
}

fn only_entry(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| file_name(path).starts_with(prefix))
        .collect();
    let [path] = paths.as_slice() else {
        anyhow::bail!("{}: expected one entry beginning with {prefix:?}, found {paths:?}", dir.display());
    };
    Ok(path.clone())
}

/// All such files below a directory.
pub(super) fn files_with_extension(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut dirs = vec![dir.to_owned()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            let entry = entry.with_context(|| format!("read {}", dir.display()))?;
            let kind = entry.file_type().with_context(|| format!("read {}", dir.display()))?;
            let path = entry.path();
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("rename {} to {}", from.display(), to.display()))
}

/// A directory in the cache that is gone afterwards. In the cache, because what is made there stays there.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".fetch-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
