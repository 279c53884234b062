//! One job: a program with a time limit.

use std::fmt;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// How often a running job is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A program to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) name: String,
    limit: Duration,
    dir: String,
    program: String,
    args: Vec<String>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Exit(i32),
    Signal(i32),
    Limit(Duration),
}

impl Job {
    /// Reads `name TAB seconds TAB directory TAB program TAB argument ...`.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = |what: &str| fields.next().with_context(|| format!("job {line:?}: no {what}"));
        let (name, limit, dir, program) =
            (next("name")?, next("limit")?, next("directory")?, next("program")?);
        let limit_s = limit.parse().with_context(|| format!("job {line:?}: limit"))?;
        Ok(Self { name, limit: Duration::from_secs(limit_s), dir, program, args: fields.collect() })
    }

    /// Runs it to its end or limit; all it prints goes to `out`.
    pub(crate) fn run(&self, out: &File) -> Result<Ended> {
        let copy = || out.try_clone().context("duplicate the results' port");
        std::fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir).env("CARGO_MANIFEST_DIR", &self.dir);
        // The kernel gives its first process next to nothing.
        command.env("PATH", "/usr/sbin:/usr/bin").env("HOME", "/root");
        command.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?);
        // A group of its own, so that what hangs goes with its children.
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| format!("job {}: start {}", self.name, self.program))?;
        self.wait(child)
    }

    fn wait(&self, mut child: Child) -> Result<Ended> {
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().with_context(|| format!("job {}: wait", self.name))? {
                return Ok(Ended::of(status));
            }
            if started.elapsed() > self.limit {
                let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                child.wait().with_context(|| format!("job {}: wait", self.name))?;
                return Ok(Ended::Limit(self.limit));
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Ended {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exit(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit={code}"),
            Self::Signal(signal) => write!(f, "signal={signal}"),
            Self::Limit(limit) => write!(f, "limit={}", limit.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> File {
        File::options().write(true).open("/dev/null").unwrap()
    }

    #[test]
    fn a_job_is_read_from_its_line() {
        let job = Job::parse("bpf\t60\t/tmp\t/tests/bpf\t--test-threads=1\ta b").unwrap();
        assert_eq!((job.name.as_str(), job.program.as_str()), ("bpf", "/tests/bpf"));
        assert_eq!(job.args, ["--test-threads=1", "a b"]);
        for wrong in ["", "bpf\t60\t/tmp", "bpf\tlong\t/tmp\t/tests/bpf"] {
            assert!(Job::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn how_a_job_ends_is_told() {
        let check = |script: &str, limit: &str, expected: &str| {
            let job = Job::parse(&format!("x\t{limit}\t/tmp\t/bin/sh\t-c\t{script}")).unwrap();
            assert_eq!(job.run(&null()).unwrap().to_string(), expected, "{script}");
        };
        check("exit 3", "10", "exit=3");
        check("kill -9 $$", "10", "signal=9");
        check("sleep 30", "0", "limit=0");
    }
}
