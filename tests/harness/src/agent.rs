//! Starts, kills and stops the real agent, as a service manager would.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Binaries, Ctl, NetNs};

/// How long an agent may take until it answers.
pub const START_LIMIT: Duration = Duration::from_secs(20);

/// How long an agent may take to stop.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The files of one node: configuration, socket, state, store, log, and pins. Deleted on drop, unless kept.
#[derive(Debug)]
pub struct NodeFiles {
    dir: PathBuf,
    pin_dir: PathBuf,
    delete_on_drop: AtomicBool,
}

impl NodeFiles {
    /// Files of this very name: a directory on a tmpfs and a pin directory on the bpffs.
    ///
    /// # Errors
    /// The directory is there already.
    pub fn create(name: &str) -> Result<Self> {
        let files = Self::named(name);
        std::fs::create_dir(&files.dir).with_context(|| format!("create {}", files.dir.display()))?;
        // Only from here on are they ours to delete.
        files.delete_on_drop.store(true, Ordering::Relaxed);
        Ok(files)
    }

    /// As [`NodeFiles::create`], with a name that nobody else has.
    ///
    /// # Errors
    /// No permission.
    pub fn unique(prefix: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self::create(&format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Removes what [`NodeFiles::create`] of that name made, as far as it is there.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove(name: &str) -> Result<()> {
        Self::named(name).delete()
    }

    /// Whether files of this name are there.
    #[must_use]
    pub fn exist(name: &str) -> bool {
        Self::named(name).dir.exists()
    }

    /// Opens files that somebody else created and will remove.
    #[must_use]
    pub fn open(name: &str) -> Self {
        Self::named(name)
    }

    fn named(name: &str) -> Self {
        let pin_dir = Path::new("/sys/fs/bpf").join(name);
        Self { dir: tmpfs_dir().join(name), pin_dir, delete_on_drop: AtomicBool::new(false) }
    }

    /// The directory of everything but pins.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The agent's `bpfPinDir`.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// The agent's configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("agent.yaml")
    }

    /// What the agent says.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("agent.pid")
    }

    /// Leaves the files when this value goes.
    pub fn keep(&self) {
        self.delete_on_drop.store(false, Ordering::Relaxed);
    }

    fn delete(&self) -> Result<()> {
        for dir in [&self.dir, &self.pin_dir] {
            match std::fs::remove_dir_all(dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", dir.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for NodeFiles {
    fn drop(&mut self) {
        if self.delete_on_drop.load(Ordering::Relaxed) {
            // Nothing can be done about a failure here.
            let _ = self.delete();
        }
    }
}

/// Where files are in memory, if there is such a place.
pub(crate) fn tmpfs_dir() -> &'static Path {
    let on_tmpfs = |dir: &&str| rustix::fs::statfs(*dir).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
    Path::new(["/run", "/dev/shm"].into_iter().find(on_tmpfs).unwrap_or("/run"))
}

/// Stops the agent that was left running with these files: SIGTERM, then SIGKILL. `false` when there is none.
///
/// # Errors
/// It does not go, or the kernel refuses.
pub fn stop_left_running(files: &NodeFiles) -> Result<bool> {
    let Ok(text) = std::fs::read_to_string(files.pid_file()) else { return Ok(false) };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(false) };
    let config = files.config();
    // The number may have been given to another process since: only the one with our configuration is meant.
    let is_ours = || {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == config.as_os_str().as_encoded_bytes())
    };
    if !is_ours() {
        return Ok(false);
    }
    for signal in [Signal::TERM, Signal::KILL] {
        kill_process(pid, signal).context("stop the agent")?;
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if !is_ours() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    bail!("the agent, process {}, does not go", pid.as_raw_nonzero())
}

/// How an agent is configured beyond its files.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// `nodeName`.
    pub node_name: String,
    /// `uplink`.
    pub uplink: String,
    /// `resyncSeconds`.
    pub resync_seconds: u64,
    /// `store.kubeconfig`, with the store `kubernetes`; none: the embedded store, in a file.
    pub kubeconfig: Option<PathBuf>,
    /// More lines for the configuration file.
    pub more_yaml: String,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            node_name: "node-1".into(),
            uplink: crate::lab::NODE_UPLINK.into(),
            // Long: what a test sees shall come from events and requests, unless it asks for a short one.
            resync_seconds: 3600,
            kubeconfig: None,
            more_yaml: String::new(),
        }
    }
}

/// A running agent. Killed on drop, unless it was left running.
#[derive(Debug)]
pub struct Agent<'n> {
    netns: &'n NetNs,
    files: &'n NodeFiles,
    binaries: Binaries,
    child: Option<Child>,
}

impl<'n> Agent<'n> {
    /// Writes the configuration, starts the agent in a namespace and waits until it answers.
    ///
    /// # Errors
    /// It ended, or did not answer within [`START_LIMIT`]; with the end of its log.
    pub fn start(netns: &'n NetNs, files: &'n NodeFiles, options: &AgentOptions) -> Result<Self> {
        let config = configuration(files, options);
        std::fs::write(files.config(), config)
            .with_context(|| format!("write {}", files.config().display()))?;
        let mut agent = Self { netns, files, binaries: Binaries::find()?, child: None };
        agent.start_again()?;
        Ok(agent)
    }

    /// Starts it with the configuration that is there, after a kill or a stop, and waits until it answers; returns how
    /// long that took.
    ///
    /// # Errors
    /// As [`Agent::start`], and when it is running.
    pub fn start_again(&mut self) -> Result<Duration> {
        ensure!(self.child.is_none(), "the agent is running already");
        let started = Instant::now();
        self.spawn()?;
        self.wait_until_answering()?;
        Ok(started.elapsed())
    }

    fn spawn(&mut self) -> Result<()> {
        let log = self.open_log()?;
        let both = log.try_clone().context("duplicate the agent's log")?;
        let mut command = Command::new(&self.binaries.agent);
        command.arg("--config").arg(self.files.config()).stdin(Stdio::null()).stdout(log).stderr(both);
        // Ctrl-C of whoever runs us is ours to handle.
        command.process_group(0);
        let child =
            self.netns.run(|| command.spawn())?.with_context(|| self.binaries.agent.display().to_string())?;
        let pid_file = self.files.pid_file();
        std::fs::write(&pid_file, child.id().to_string())
            .with_context(|| format!("write {}", pid_file.display()))?;
        self.child = Some(child);
        Ok(())
    }

    fn open_log(&self) -> Result<File> {
        let path = self.files.log();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))
    }

    fn wait_until_answering(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.exited()? {
                self.child = None;
                bail!("the agent ended: {status}\n{}", self.log_tail());
            }
            if self.files.socket().exists() && self.ctl().run(&["status"]).is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the agent does not answer after {} s\n{}", START_LIMIT.as_secs(), self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its exit status, if it has ended by itself.
    ///
    /// # Errors
    /// The kernel refuses to say.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        child.try_wait().context("wait for the agent")
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL, as a crash would.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the agent is not running")?;
        child.kill().context("kill the agent")?;
        child.wait().context("wait for the agent").map(drop)
    }

    /// SIGSTOP: it runs no further, and the kernel goes on without it.
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT after [`Agent::pause`].
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the agent is not running")?;
        kill_process(Pid::from_child(child), signal).with_context(|| format!("{signal:?} to the agent"))
    }

    /// SIGTERM, and waits for its end; returns how it ended and how long it took.
    ///
    /// # Errors
    /// It is not running, or still there after [`STOP_LIMIT`]; then it is killed.
    pub fn stop(&mut self) -> Result<(ExitStatus, Duration)> {
        let mut child = self.child.take().context("the agent is not running")?;
        let started = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM).context("SIGTERM to the agent")?;
        loop {
            if let Some(status) = child.try_wait().context("wait for the agent")? {
                return Ok((status, started.elapsed()));
            }
            if started.elapsed() > STOP_LIMIT {
                child.kill().context("kill the agent")?;
                child.wait().context("wait for the agent")?;
                bail!(
                    "the agent had not stopped {} s after SIGTERM\n{}",
                    STOP_LIMIT.as_secs(),
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it run on when this value goes.
    pub fn leave_running(&mut self) {
        self.child = None;
    }

    /// Memory it holds, `VmRSS` in KiB.
    ///
    /// # Errors
    /// It is not running.
    pub fn resident_kib(&self) -> Result<u64> {
        let pid = self.pid().context("the agent is not running")?;
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .with_context(|| format!("{path}: VmRSS"))?;
        line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{path}: VmRSS: {line:?}"))
    }

    /// `poolwardctl` for this agent.
    #[must_use]
    pub fn ctl(&self) -> Ctl {
        Ctl::new(&self.binaries, &self.files.socket())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.files.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        format!("the end of the agent's log:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill();
        }
    }
}

fn configuration(files: &NodeFiles, options: &AgentOptions) -> String {
    let store = match &options.kubeconfig {
        None => format!("storePath: {}\n", files.dir().join("store.redb").display()),
        Some(path) => format!("store: {{type: kubernetes, kubeconfig: {}}}\n", path.display()),
    };
    format!(
        "nodeName: {}\nsocketPath: {}\nstateDir: {}\nbpfPinDir: {}\nuplink: {}\nresyncSeconds: {}\n{store}{}",
        options.node_name,
        files.socket().display(),
        files.dir().join("state").display(),
        files.pin_dir().display(),
        options.uplink,
        options.resync_seconds,
        options.more_yaml,
    )
}
