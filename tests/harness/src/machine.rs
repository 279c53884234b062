//! A machine in namespaces: mounts, host name and processes of its own, on a network namespace that somebody else made.
//!
//! ```text
//!   unshare (the power switch)
//!    └─ init, process 1 of the machine: /etc, /var, /opt as overlays, own /run, /proc, /sys/fs/bpf, /opt/cni/bin
//!        ├─ containerd ─ shims ─ pods
//!        ├─ kubelet, kube-proxy, ...
//! ```
//! Everything on it ends with its first process, whatever else it started: that is what the kernel does. What it wrote
//! stays in its directory, so that it can be started again; `/run` and pins do not, as with a real one. Its kernel
//! settings are the machine's own only where the kernel has them per network namespace. Knows nothing of Kubernetes.

mod cgroup;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use self::cgroup::Cgroup;
use crate::{Daemon, NetNs, Run};

const BOOT: &str = include_str!("machine/boot.sh");
const INIT: &str = include_str!("machine/init.c");

/// How long making the file systems may take: milliseconds, unless the machine is busy with much else.
const BOOT_LIMIT: Duration = Duration::from_secs(30);

/// How long it may take until everything on it has ended.
const OFF_LIMIT: Duration = Duration::from_secs(30);

/// Directories that a machine covers with its own: its files cannot be below them.
const COVERED: [&str; 6] = ["/etc", "/var", "/opt", "/run", "/proc", "/sys"];

/// What a machine keeps of its own in its directory while it is off: upper layers, their work, what is bound into it, and
/// who it is.
const WRITTEN: [&str; 9] =
    ["etc", "etc.work", "var", "var.work", "opt", "opt.work", "own", "sysctl", "machine-id"];

/// One machine. Switched off on drop, unless it was left running; its directory stays.
#[derive(Debug)]
pub struct Machine {
    name: String,
    dir: PathBuf,
    cgroup: Cgroup,
    power: Daemon,
    /// Process 1 of the machine, as seen from outside; while it is on.
    init: Option<u32>,
}

impl Machine {
    /// Makes a machine and switches it on.
    ///
    /// `dir` is made unless it is there; `cgroup` names the control group of what it runs.
    ///
    /// # Errors
    /// The directory is below one that the machine has of its own, no permission, or what a step of the boot says.
    pub fn boot(name: &str, netns: &str, dir: &Path, cgroup: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("resolve {}", dir.display()))?;
        for covered in COVERED {
            ensure!(
                !dir.starts_with(covered),
                "{} cannot hold a machine, which has a {covered} of its own; name a cache directory elsewhere in \
                 POOLWARD_CACHE",
                dir.display()
            );
        }
        let init = dir.join("init");
        if !init.exists() {
            compile_init(&init)?;
        }
        let mut power = Daemon::new("machine", Path::new("unshare"), &dir, Some(NetNs::open(netns)?));
        let namespaces = ["--mount", "--uts", "--pid", "--fork", "--kill-child", "--propagation", "private"];
        let script = ["/bin/sh", "-c", BOOT, "boot"].map(OsString::from);
        let arguments = [dir.clone().into_os_string(), name.into()];
        power.set_args(namespaces.map(OsString::from).into_iter().chain(script).chain(arguments));
        let cgroup = Cgroup::new(cgroup);
        let mut machine = Self { name: name.to_owned(), dir, cgroup, power, init: None };
        machine.switch_on()?;
        Ok(machine)
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory, which programs on it see under the same name.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is at this path on the machine, seen from outside, as far as the machine has changed it: below `/etc`,
    /// `/var`, `/opt`.
    #[must_use]
    pub fn own(&self, path: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        let bound = self.dir.join("own").join(path);
        if bound.exists() { bound } else { self.dir.join(path) }
    }

    /// The name of its control group.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        self.cgroup.name()
    }

    /// Switches it on.
    ///
    /// # Errors
    /// It is on, or what a step of the boot says.
    pub fn switch_on(&mut self) -> Result<()> {
        let booted = self.dir.join("booted");
        if booted.exists() {
            std::fs::remove_file(&booted).with_context(|| format!("remove {}", booted.display()))?;
        }
        self.cgroup.create()?;
        self.power.start()?;
        let deadline = Instant::now() + BOOT_LIMIT;
        while !booted.exists() {
            self.power.check().with_context(|| format!("boot {}", self.name))?;
            if Instant::now() > deadline {
                bail!(
                    "{} has not booted after {} s\n{}",
                    self.name,
                    BOOT_LIMIT.as_secs(),
                    self.power.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let power = self.power.pid().with_context(|| format!("{} is off", self.name))?;
        let init = child_of(power)?;
        // For whoever takes down what was left running.
        let file = self.dir.join("init.pid");
        std::fs::write(&file, init.to_string()).with_context(|| format!("write {}", file.display()))?;
        self.init = Some(init);
        Ok(())
    }

    /// Switches it off, as a power cut would: everything on it is gone when this returns.
    ///
    /// # Errors
    /// It is off, or something on it does not end.
    pub fn switch_off(&mut self) -> Result<()> {
        let init = self.init.take().with_context(|| format!("{} is off", self.name))?;
        self.power.kill()?;
        wait_for_end(init).with_context(|| format!("switch {} off", self.name))?;
        self.cgroup.remove()
    }

    /// Puts an empty disk into it while it is off: nothing it ever wrote is there any more, and from the next boot on it is
    /// another machine under its name. Logs and what others have put into its directory stay.
    ///
    /// # Errors
    /// It is on, or something cannot be removed.
    pub fn replace_disk(&self) -> Result<()> {
        ensure!(self.init.is_none(), "{} is on", self.name);
        for written in WRITTEN {
            let path = self.dir.join(written);
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Its first process, as seen from outside.
    ///
    /// # Errors
    /// It is off.
    pub fn init(&self) -> Result<u32> {
        self.init.with_context(|| format!("{} is off", self.name))
    }

    /// A program on it, to run to its end.
    ///
    /// # Errors
    /// It is off.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Result<Run> {
        Ok(Run::new("nsenter").args(self.enter()?).args([program.as_ref()]))
    }

    /// A program on it that stays, with its log in the machine's directory; not started yet. It does not outlive the
    /// machine, and has to be made anew for the next boot.
    ///
    /// # Errors
    /// It is off.
    pub fn daemon<A: Into<OsString>>(
        &self,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Daemon> {
        let mut daemon = Daemon::new(name, Path::new("nsenter"), &self.dir, None);
        // What is started is nsenter's child: it has to go with it.
        let with_parent = ["setpriv", "--pdeathsig", "KILL"].map(OsString::from);
        let enter = self.enter()?.into_iter().map(OsString::from).chain(with_parent);
        daemon.set_args(enter.chain([program.into()]).chain(args.into_iter().map(Into::into)));
        Ok(daemon)
    }

    fn enter(&self) -> Result<Vec<String>> {
        let words = ["--mount", "--uts", "--net", "--pid", "--"].map(str::to_owned);
        Ok(["--target".to_owned(), self.init()?.to_string()].into_iter().chain(words).collect())
    }

    /// Leaves it on when this value goes.
    pub fn leave_running(&mut self) {
        self.init = None;
        self.power.leave_running();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.init.is_some() {
            // Nothing can be done about a failure here.
            let _ = self.switch_off();
        }
    }
}

/// Waits until a first process has ended, and with it all others of its machine. As a zombie it has: the kernel waits for
/// the others first.
pub(crate) fn wait_for_end(init: u32) -> Result<()> {
    let deadline = Instant::now() + OFF_LIMIT;
    let runs = || {
        let status = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    };
    while runs() {
        if Instant::now() > deadline {
            bail!("process {init} has not ended after {} s", OFF_LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn child_of(parent: u32) -> Result<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let first = text.split_whitespace().next().with_context(|| format!("{path}: no child"))?;
    first.parse().with_context(|| format!("{path}: {first:?}"))
}

/// Compiles the first process of machines and pods.
pub(crate) fn compile_init(to: &Path) -> Result<()> {
    compile(INIT, to).context("compile the first process of machines")
}

/// Compiles a program in C: static, so that it runs in an image that holds nothing else.
pub(crate) fn compile(source: &str, to: &Path) -> Result<()> {
    Run::new("cc")
        .args(["-static", "-Os", "-s", "-x", "c", "-", "-o"])
        .args([to])
        .stdin(source)
        .ok()
        .map(drop)
}
