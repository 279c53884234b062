//! Runs programs quietly: what they say goes to a file, whose end is shown when they fail.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// How many lines of a log a failure shows.
const TAIL_LINES_COUNT: usize = 30;

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Runs to the end with both outputs in `log`, killed after `limit` with all it has started.
///
/// # Errors
/// The program cannot be started, or took too long.
pub(crate) fn finish(command: Command, log: &Path, limit: Duration) -> Result<ExitStatus> {
    finish_watched(command, log, limit, &mut || ())
}

/// As [`finish`], and `watch` is called all the while, often.
fn finish_watched(
    mut command: Command,
    log: &Path,
    limit: Duration,
    watch: &mut dyn FnMut(),
) -> Result<ExitStatus> {
    let shown = shown(&command);
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let err = out.try_clone().with_context(|| format!("duplicate {}", log.display()))?;
    // A group of its own, so that a program that hangs goes with its children.
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{shown}: cannot be started"))?;
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("{shown}: wait"))? {
            return Ok(status);
        }
        let stop = crate::interrupt::asked();
        if stop || started.elapsed() > limit {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
            if stop {
                bail!("{shown}: interrupted");
            }
            bail!("{shown}: killed after {} s\n{}", limit.as_secs(), tail(log));
        }
        watch();
        std::thread::sleep(POLL);
    }
}

/// As [`finish`], and a failure of the program is an error that shows the end of its log.
///
/// # Errors
/// As [`finish`], and any exit code but 0.
pub(crate) fn ok(command: Command, log: &Path, limit: Duration) -> Result<()> {
    ok_watched(command, log, limit, &mut || ())
}

/// As [`ok`], and `watch` is called all the while, often.
///
/// # Errors
/// As [`ok`].
pub(crate) fn ok_watched(
    command: Command,
    log: &Path,
    limit: Duration,
    watch: &mut dyn FnMut(),
) -> Result<()> {
    let shown = shown(&command);
    let status = finish_watched(command, log, limit, watch)?;
    if !status.success() {
        bail!("{shown}: {status}\n{}", tail(log));
    }
    Ok(())
}

/// The end of a log, and where the whole is.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(TAIL_LINES_COUNT);
    format!("{}\n(the whole: {})", lines[first..].join("\n"), log.display())
}

fn shown(command: &Command) -> String {
    let args = command.get_args().map(|arg| format!(" {}", arg.to_string_lossy()));
    command.get_program().to_string_lossy().into_owned() + &args.collect::<String>()
}
