//! Packs a guest's whole file system: its first process, jobs and the programs they call with all their libraries,
//! modules in the order they are to be loaded.
//!
//! Programs are the machine's own, so that a guest differs from the machine in its kernel and nothing else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::Run;

use super::cpio::Archive;
use super::images::{Images, Kernel};
use super::modules;

/// What tests call, by the name they call it; all are found on `PATH`.
const PROGRAMS: &[&str] =
    &["bpftool", "cat", "ethtool", "ip", "mount", "nft", "ping", "sh", "sleep", "tc", "umount"];

/// Names of numbers, as those programs read and print them; what is not there is not needed.
const DATA: &[&str] = &["/etc/iproute2", "/usr/share/iproute2", "/etc/protocols", "/etc/services"];

/// Directories that are links on every Debian since 12.
const LINKS: &[(&str, &str)] =
    &[("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")];

/// A program that a guest runs.
pub(crate) struct Job {
    /// What its output goes under.
    pub(crate) name: String,
    /// Which file of the machine.
    pub(crate) executable: PathBuf,
    /// Where in the guest.
    pub(crate) dir: PathBuf,
    /// With which arguments.
    pub(crate) args: Vec<String>,
    /// For how long.
    pub(crate) limit: Duration,
}

/// What a guest is packed with.
pub(crate) struct Contents<'a> {
    /// The first process.
    pub(crate) init: &'a Path,
    /// What it runs, in this order.
    pub(crate) jobs: &'a [Job],
}

/// Writes the file system of a guest.
///
/// # Errors
/// A file that belongs in it is not there, or cannot be read.
pub(crate) fn write(images: &Images, kernel: Kernel, contents: &Contents<'_>, into: &Path) -> Result<()> {
    let writing = || format!("write {}", into.display());
    let scratch = into.with_extension("stripped");
    let file = File::create(into).with_context(writing)?;
    let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, file));
    for (link, to) in LINKS {
        archive.symlink(link, to).with_context(writing)?;
    }
    for dir in ["/proc", "/sys", "/dev", "/run", "/tmp", "/root"] {
        archive.directory(dir).with_context(writing)?;
    }
    archive.file("/etc/passwd", false, b"root:x:0:0:root:/root:/bin/sh\n").with_context(writing)?;
    for path in DATA {
        add_data(&mut archive, Path::new(path))?;
    }

    let mut programs = PROGRAMS.iter().map(|name| find_program(name)).collect::<Result<Vec<_>>>()?;
    for program in &programs {
        add(&mut archive, program, &guest_path(program)?, true)?;
    }
    archive.file("/init", true, &without_debug_info(contents.init, &scratch)?).with_context(writing)?;
    let mut lines = String::new();
    for (number, job) in contents.jobs.iter().enumerate() {
        let path = format!("/guest/{number}-{}", file_name(&job.executable));
        archive.file(&path, true, &without_debug_info(&job.executable, &scratch)?).with_context(writing)?;
        lines += &job_line(job, &path)?;
    }
    archive.file("/guest/jobs", false, lines.as_bytes()).with_context(writing)?;

    programs.push(contents.init.to_owned());
    programs.extend(contents.jobs.iter().map(|job| job.executable.clone()));
    for library in libraries(&programs)? {
        add(&mut archive, &library, &guest_path(&library)?, true)?;
    }
    for (number, module) in modules::in_order(&images.modules(kernel))?.iter().enumerate() {
        add(&mut archive, module, &format!("/guest/modules/{number:03}-{}", file_name(module)), false)?;
    }
    archive.finish().and_then(|mut out| out.flush()).with_context(writing)
}

/// A job as the first process reads it.
fn job_line(job: &Job, path: &str) -> Result<String> {
    let limit = job.limit.as_secs().to_string();
    let dir = job.dir.display().to_string();
    let fields = [job.name.as_str(), &limit, &dir, path];
    let line = fields.into_iter().chain(job.args.iter().map(String::as_str)).collect::<Vec<_>>();
    ensure!(!line.iter().any(|field| field.contains(['\t', '\n'])), "job {}: a tab in {line:?}", job.name);
    Ok(line.join("\t") + "\n")
}

fn add<W: Write>(archive: &mut Archive<W>, from: &Path, to: &str, is_program: bool) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    archive.file(to, is_program, &bytes).with_context(|| format!("pack {}", from.display()))
}

fn add_data<W: Write>(archive: &mut Archive<W>, path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
            add_data(archive, &entry.with_context(|| format!("read {}", path.display()))?.path())?;
        }
    } else if path.is_file() {
        add(archive, path, &guest_path(path)?, false)?;
    }
    Ok(())
}

/// Where a file of the machine is in the guest: where it is here, without links on the way to it.
fn guest_path(path: &Path) -> Result<String> {
    let parent = path.parent().context("a file in no directory")?;
    let parent = fs::canonicalize(parent).with_context(|| format!("find {}", parent.display()))?;
    let path = parent.join(file_name(path));
    path.to_str().map(str::to_owned).with_context(|| format!("{}: not text", path.display()))
}

fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Daemons' directories are not on everybody's path.
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no {name} on PATH: `cargo xtask setup`"))
}

/// All shared libraries of some programs, the dynamic loader among them.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let listed = Run::new("ldd").args(programs).ok()?;
    libraries_in(&listed)
}

/// Reads `ldd`: `libc.so.6 => /lib/.../libc.so.6 (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn libraries_in(listed: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in listed.lines().filter(|line| line.starts_with(char::is_whitespace)) {
        ensure!(!line.contains("not found"), "ldd: {}", line.trim());
        let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        if path.starts_with('/') {
            found.insert(PathBuf::from(path.split(' ').next().unwrap_or(path)));
        }
    }
    Ok(found)
}

/// A program as it runs: what only debuggers read would be most of the guest's memory.
fn without_debug_info(program: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let paths = [program.as_os_str(), scratch.as_os_str()];
    Run::new("objcopy").args(["--strip-debug"]).args(paths).ok()?;
    let bytes = fs::read(scratch).with_context(|| format!("read {}", scratch.display()));
    let _ = fs::remove_file(scratch);
    bytes
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let listed = "/usr/bin/ip:\n\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\
                      /t/tests:\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7e)\n\t/lib64/ld-linux-x86-64.so.2 (0x7d)\n";
        let found: Vec<_> = libraries_in(listed).unwrap().into_iter().collect();
        assert_eq!(found, ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
        let error = libraries_in("\tlibelf.so.1 => not found\n").unwrap_err().to_string();
        assert_eq!(error, "ldd: libelf.so.1 => not found");
    }

    #[test]
    fn a_job_is_one_line() {
        let job = |arg: &str| Job {
            name: "bpf".into(),
            executable: "/t/bpf-1".into(),
            dir: "/src/tests".into(),
            args: vec!["--exact".into(), arg.into()],
            limit: Duration::from_secs(60),
        };
        let line = job_line(&job("a name"), "/guest/0-bpf-1").unwrap();
        assert_eq!(line, "bpf\t60\t/src/tests\t/guest/0-bpf-1\t--exact\ta name\n");
        assert!(job_line(&job("a\tname"), "/guest/0-bpf-1").is_err());
    }
}
