//! Runs a program to its end: bounded in time, output captured, errors that say what was run and what it said.
//!
//! Not for programs that stay (see [`crate::Agent`]), and no shell anywhere.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::NetNs;

/// How long a program may take unless [`Run::limit`] says otherwise.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// How long output is awaited after the program itself has ended, for grandchildren that hold its pipes.
const GRACE_AFTER_EXIT: Duration = Duration::from_millis(300);

/// A program to run, its arguments, and where.
#[derive(Debug)]
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
    limit: Duration,
}

/// What a program that ended left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
    /// From before the fork to after the exit.
    pub took: Duration,
}

impl Run {
    /// A program by name or path, without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), stdin: Vec::new(), limit: DEFAULT_LIMIT }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets one variable of the environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Empties the environment except for `PATH`, as a container runtime starts plugins.
    #[must_use]
    pub fn clean_env(mut self) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.command.env_clear().env("PATH", path);
        self
    }

    /// Where the program runs; where we do unless set.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What the program reads from standard input; empty unless set.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// After how long the program is killed.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command as a person would type it, for messages.
    #[must_use]
    pub fn shown(&self) -> String {
        shown(&self.command)
    }

    /// Runs to the end, whatever the exit code.
    ///
    /// # Errors
    /// The program cannot be started, or was killed at its time limit.
    pub fn finish(mut self) -> Result<Finished> {
        let shown = self.shown();
        let stdin = if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("{shown}: cannot be started"))?;
        if let Some(mut pipe) = child.stdin.take() {
            let bytes = std::mem::take(&mut self.stdin);
            // In a thread of its own: more than a pipe holds would otherwise wait for a program that first writes.
            // A program that does not read its input is no error of ours, so the result does not count.
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("{shown}: pidfd"))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut exited_at: Option<Instant> = None;
        loop {
            let deadline = exited_at.map_or(started + self.limit, |at| at + GRACE_AFTER_EXIT);
            let left = deadline.saturating_duration_since(Instant::now());
            let pipes_closed = out.is_none() && err.is_none();
            if exited_at.is_some() && (pipes_closed || left.is_zero()) {
                break;
            }
            if left.is_zero() {
                // Ours by the handle, so nobody else can be hit.
                let _ = child.kill();
                let _ = child.wait();
                let said = String::from_utf8_lossy(&stderr);
                bail!("{shown}: killed after {:.0} s\n{said}", self.limit.as_secs_f64());
            }
            let exit = exited_at.is_none().then_some(pidfd.as_fd());
            let ready =
                wait_readable(out.as_ref().map(AsFd::as_fd), err.as_ref().map(AsFd::as_fd), exit, left)?;
            if ready.0 && !read_some(out.as_mut(), &mut stdout)? {
                out = None;
            }
            if ready.1 && !read_some(err.as_mut(), &mut stderr)? {
                err = None;
            }
            if ready.2 {
                exited_at = Some(Instant::now());
            }
        }
        let status = child.wait().with_context(|| format!("{shown}: wait"))?;
        let took = exited_at.map_or_else(|| started.elapsed(), |at| at - started);
        Ok(Finished { status, stdout, stderr, took })
    }

    /// Runs and returns standard output.
    ///
    /// # Errors
    /// As [`Run::finish`], and any exit code but 0, with what the program said.
    pub fn ok(self) -> Result<String> {
        let shown = self.shown();
        let finished = self.finish()?;
        finished.ok().with_context(|| shown)
    }

    /// As [`Run::finish`], inside a network namespace.
    ///
    /// # Errors
    /// As [`Run::finish`], and a namespace that cannot be entered.
    pub fn finish_in(self, netns: &NetNs) -> Result<Finished> {
        // A child belongs to the namespace of the thread that forks it; mounts, and so bpffs, stay as they are.
        netns.run(|| self.finish())?
    }

    /// As [`Run::ok`], inside a network namespace.
    ///
    /// # Errors
    /// As [`Run::ok`], and a namespace that cannot be entered.
    pub fn ok_in(self, netns: &NetNs) -> Result<String> {
        let shown = format!("[{}] {}", netns.name(), self.shown());
        self.finish_in(netns)?.ok().with_context(|| shown)
    }
}

impl Finished {
    /// Standard output as text.
    ///
    /// # Errors
    /// Any exit code but 0, with what the program said.
    pub fn ok(&self) -> Result<String> {
        let stdout = String::from_utf8_lossy(&self.stdout).into_owned();
        if self.status.success() {
            return Ok(stdout);
        }
        let stderr = String::from_utf8_lossy(&self.stderr);
        let said = if stderr.trim().is_empty() { stdout.trim() } else { stderr.trim() };
        bail!("{}: {said}", self.status)
    }
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        let plain =
            !arg.is_empty() && arg.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c));
        text += &if plain { format!(" {arg}") } else { format!(" '{arg}'") };
    }
    text
}

/// Which of the three have something to read, after at most `limit`.
fn wait_readable(
    out: Option<BorrowedFd<'_>>,
    err: Option<BorrowedFd<'_>>,
    exit: Option<BorrowedFd<'_>>,
    limit: Duration,
) -> Result<(bool, bool, bool)> {
    let present: Vec<_> =
        [out, err, exit].into_iter().enumerate().filter_map(|(i, fd)| Some((i, fd?))).collect();
    let mut fds: Vec<_> =
        present.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut fds, Some(&timespec(limit))) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error).context("poll on the pipes of a child"),
    }
    let mut ready = [false; 3];
    for ((place, _), fd) in present.iter().zip(&fds) {
        ready[*place] = !fd.revents().is_empty();
    }
    Ok((ready[0], ready[1], ready[2]))
}

/// A duration as the kernel wants it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Reads what is there; `false` at the end of the stream.
fn read_some(pipe: Option<&mut impl Read>, into: &mut Vec<u8>) -> Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    let mut buffer = [0_u8; 16 * 1024];
    let length = pipe.read(&mut buffer).context("read from a child")?;
    into.extend_from_slice(&buffer[..length]);
    Ok(length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_exit_code_are_kept_apart() {
        let finished = Run::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]).finish().unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!((finished.stdout.as_slice(), finished.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        let error = finished.ok().unwrap_err().to_string();
        assert!(error.contains("err"), "{error}");
    }

    #[test]
    fn more_input_than_a_pipe_holds_comes_back_whole() {
        let input = vec![b'x'; 300_000];
        let finished = Run::new("cat").stdin(input.clone()).finish().unwrap();
        assert_eq!(finished.stdout, input);
    }

    #[test]
    fn a_program_that_hangs_is_killed_at_its_limit() {
        let started = Instant::now();
        let error = Run::new("sleep").args(["30"]).limit(Duration::from_millis(200)).finish().unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(error.to_string().starts_with("sleep 30: killed"), "{error}");
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_does_not_hold_us_up() {
        let started = Instant::now();
        let finished = Run::new("sh").args(["-c", "sleep 5 & echo done"]).finish().unwrap();
        assert_eq!(finished.stdout, b"done\n");
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn arguments_with_blanks_are_shown_quoted() {
        assert_eq!(Run::new("nft").args(["list", "a b"]).shown(), "nft list 'a b'");
    }
}
