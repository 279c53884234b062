//! A program that stays: started in a network namespace with its output in a file, signalled, and gone with its owner.
//!
//! Not for the agent, which says by itself when it is ready: see [`crate::Agent`].

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::NetNs;

/// How many lines of a log an error shows.
const TAIL_LINES_COUNT: usize = 30;

/// One program that can be started again and again. Killed on drop, unless it was left running.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    netns: Option<NetNs>,
    dir: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// A program that is not running yet. Its log and the file with its process id are `DIR/NAME.log` and
    /// `DIR/NAME.pid`.
    #[must_use]
    pub fn new(name: &str, program: &Path, dir: &Path, netns: Option<NetNs>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args: Vec::new(),
            netns,
            dir: dir.to_owned(),
            child: None,
        }
    }

    /// What it is started with from the next start on.
    pub fn set_args(&mut self, args: impl IntoIterator<Item = impl Into<OsString>>) {
        self.args = args.into_iter().map(Into::into).collect();
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it says.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    /// Its process id, while it is thought to run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it; does not wait for more than the fork.
    ///
    /// # Errors
    /// It is running, or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} is running already", self.name);
        let log = self.log();
        let out = OpenOptions::new().create(true).append(true).open(&log);
        let out = out.with_context(|| format!("open {}", log.display()))?;
        let err = out.try_clone().with_context(|| format!("duplicate {}", log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(out).stderr(err).current_dir(&self.dir);
        // Ctrl-C of whoever runs us is ours to handle.
        command.process_group(0);
        let child = match &self.netns {
            Some(netns) => netns.run(|| command.spawn())?,
            None => command.spawn(),
        };
        let child = child.with_context(|| format!("{}: cannot be started", self.program.display()))?;
        let pid_file = pid_file(&self.dir, &self.name);
        let written = std::fs::write(&pid_file, child.id().to_string());
        self.child = Some(child);
        written.with_context(|| format!("write {}", pid_file.display()))
    }

    /// An error, with the end of its log, once it has ended by itself.
    ///
    /// # Errors
    /// It has.
    pub fn check(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { bail!("{} is not running", self.name) };
        if let Some(status) = child.try_wait().with_context(|| format!("wait for {}", self.name))? {
            self.child = None;
            bail!("{} ended: {status}\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// SIGKILL, as a crash would.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} is not running", self.name))?;
        child.kill().with_context(|| format!("kill {}", self.name))?;
        child.wait().with_context(|| format!("wait for {}", self.name)).map(drop)
    }

    /// SIGTERM, and waits for its end; SIGKILL after `limit`, which is an error.
    ///
    /// # Errors
    /// It is not running, or did not go by itself.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let mut child = self.child.take().with_context(|| format!("{} is not running", self.name))?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().with_context(|| format!("wait for {}", self.name))? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                child.kill().with_context(|| format!("kill {}", self.name))?;
                child.wait().with_context(|| format!("wait for {}", self.name))?;
                bail!(
                    "{} had not stopped {:.0} s after SIGTERM\n{}",
                    self.name,
                    limit.as_secs_f64(),
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGSTOP: connections to it stay open, and nothing is answered.
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT after [`Daemon::pause`].
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} is not running", self.name))?;
        kill_process(Pid::from_child(child), signal).with_context(|| format!("{signal:?} to {}", self.name))
    }

    /// Lets it run on when this value goes.
    pub fn leave_running(&mut self) {
        self.child = None;
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(TAIL_LINES_COUNT);
        format!("the end of {}:\n{}", self.log().display(), lines[first..].join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill();
        }
    }
}

fn pid_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pid"))
}

/// Ends a program that was left running with this directory: SIGTERM, then SIGKILL after `limit`. `false` when there is
/// none.
///
/// # Errors
/// It does not go.
pub fn stop_daemon_left_running(dir: &Path, name: &str, limit: Duration) -> Result<bool> {
    let Ok(text) = std::fs::read_to_string(pid_file(dir, name)) else { return Ok(false) };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(false) };
    // The number may have been given to another process since: only one that works in this directory is meant.
    let link = format!("/proc/{}/cwd", pid.as_raw_nonzero());
    let is_ours = || std::fs::read_link(&link).is_ok_and(|cwd| cwd == dir);
    if !is_ours() {
        return Ok(false);
    }
    for signal in [Signal::TERM, Signal::KILL] {
        kill_process(pid, signal).with_context(|| format!("{signal:?} to {name}"))?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if !is_ours() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    bail!("{name}, process {}, does not go", pid.as_raw_nonzero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeping(dir: &Path) -> Daemon {
        let mut daemon = Daemon::new("sleep", Path::new("/bin/sleep"), dir, None);
        daemon.set_args(["60"]);
        daemon
    }

    fn with_dir(name: &str, work: impl FnOnce(&Path)) {
        let dir = std::env::temp_dir().join(format!("poolward-daemon-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        work(&dir.canonicalize().unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn it_can_be_stopped_and_started_again() {
        with_dir("again", |dir| {
            let mut daemon = sleeping(dir);
            daemon.start().unwrap();
            daemon.check().unwrap();
            let first = daemon.pid().unwrap();
            assert!(!daemon.stop(Duration::from_secs(10)).unwrap().success());
            assert!(daemon.check().is_err());
            daemon.start().unwrap();
            assert_ne!(daemon.pid().unwrap(), first);
            daemon.kill().unwrap();
        });
    }

    #[test]
    fn one_that_was_left_running_is_found_by_its_directory() {
        with_dir("left", |dir| {
            let mut daemon = sleeping(dir);
            daemon.start().unwrap();
            let pid = daemon.pid().unwrap();
            let mut child = daemon.child.take().unwrap();
            let reaper = std::thread::spawn(move || child.wait());
            assert!(stop_daemon_left_running(dir, "sleep", Duration::from_secs(10)).unwrap(), "{pid}");
            reaper.join().unwrap().unwrap();
            assert!(!stop_daemon_left_running(dir, "sleep", Duration::from_secs(10)).unwrap());
        });
    }
}
