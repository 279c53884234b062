//! One boot of a guest: the emulator as it must be called, what the guest prints as it prints it, and how it ended.
//!
//! A guest that ran all its jobs says so twice, by a line and by the emulator's exit code; anything else is a guest that
//! died. Only one that died before it said anything is booted again, once: emulated machines sometimes do.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use super::images::{Images, Kernel};

/// What the emulator makes of the code by which the first process says that all jobs were run (`tests/guest`).
const ALL_RAN_EXIT_CODE: i32 = 0x10 * 2 + 1;

/// Until when a guest must have said something. It takes three seconds on an idle machine.
const FIRST_LINE_LIMIT: Duration = Duration::from_secs(60);

/// How often the guest's output is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Lines of the console that a death shows.
const CONSOLE_LINES_COUNT: usize = 40;

/// Ends at the first oops, because what comes after one proves nothing. Namespaces get no `tunl0` unless a test wants it:
/// most want to see nothing but what they made. Without what guards real machines from real CPUs, and with grace periods
/// as short as they can be, everything takes a fraction of the time on an emulated one.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 oops=panic random.trust_cpu=on fb_tunnels=none mitigations=off \
                            rcupdate.rcu_expedited=1";

/// Megabytes of memory; the initial file system is in it twice while it is unpacked.
const MEMORY_MIB: u32 = 1024;

/// A guest to boot.
pub(crate) struct Guest<'a> {
    /// Which kernel.
    pub(crate) kernel: Kernel,
    /// Its file system.
    pub(crate) initramfs: &'a Path,
    /// Where what jobs print is kept.
    pub(crate) results: &'a Path,
    /// Where what the kernel prints is kept.
    pub(crate) console: &'a Path,
    /// How long it may take in all.
    pub(crate) limit: Duration,
}

/// What became of a guest.
#[derive(Debug)]
pub(crate) struct GuestRun {
    /// Its kernel's release; empty when it did not get as far.
    pub(crate) release: String,
    /// Jobs that were begun, in order.
    pub(crate) jobs: Vec<JobRun>,
    /// Why not all is well with the guest itself, with the end of its console; `None` when it ran all jobs.
    pub(crate) died: Option<String>,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobRun {
    /// Its name.
    pub(crate) name: String,
    /// All it printed.
    pub(crate) output: String,
    /// How it ended; `None` when the guest died in it.
    pub(crate) ended: Option<Ended>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with code 0.
    Well,
    /// With another code, by a signal, or at its limit: in the words of the guest.
    Badly(String),
}

/// Boots a guest and waits for its end; `see` gets every line that jobs print, as it comes.
///
/// # Errors
/// The emulator cannot be started, or we were asked to stop. Whatever the guest does is no error.
pub(crate) fn boot(images: &Images, guest: &Guest<'_>, mut see: impl FnMut(&str)) -> Result<GuestRun> {
    let (mut text, mut how) = boot_once(images, guest, &mut see)?;
    if text.trim().is_empty() {
        see(&format!("the guest died before its first line ({how}): once more"));
        (text, how) = boot_once(images, guest, &mut see)?;
    }
    let (release, jobs, done) = read_results(&text);
    let died = (!(done && how.is_good())).then(|| {
        let said = if done { "it said that it was done, but" } else { "it did not say that it was done;" };
        let broken = text.lines().find_map(|line| line.strip_prefix("@@guest broken: "));
        let broken = broken.map_or_else(String::new, |why| format!(" {why};"));
        format!("{said}{broken} {how}\n{}", console_tail(guest.console))
    });
    Ok(GuestRun { release, jobs, died })
}

/// How the emulator ended.
enum HowEnded {
    Itself(ExitStatus),
    KilledAfter(Duration),
}

impl HowEnded {
    fn is_good(&self) -> bool {
        matches!(self, Self::Itself(status) if status.code() == Some(ALL_RAN_EXIT_CODE))
    }
}

impl std::fmt::Display for HowEnded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Itself(status) => write!(f, "the emulator ended with {status}"),
            Self::KilledAfter(limit) => write!(f, "the emulator was killed after {} s", limit.as_secs()),
        }
    }
}

fn boot_once(images: &Images, guest: &Guest<'_>, see: &mut impl FnMut(&str)) -> Result<(String, HowEnded)> {
    let create = |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
    let results = create(guest.results)?;
    create(guest.console)?;
    let mut command = images.emulator()?;
    // The second port is the emulator's standard output, the first one a file.
    command
        .args(["-machine", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2", "-m"])
        .arg(MEMORY_MIB.to_string())
        .args(["-nodefaults", "-nographic", "-no-reboot", "-serial"])
        .arg(format!("file:{}", guest.console.display()))
        .args(["-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-kernel"])
        .arg(images.vmlinux(guest.kernel))
        .arg("-initrd")
        .arg(guest.initramfs)
        .args(["-append", COMMAND_LINE])
        .stdin(Stdio::null())
        .stdout(results)
        .stderr(File::options().append(true).open(guest.console).context("open the console's log")?)
        .process_group(0);
    let mut child = command.spawn().context("the emulator cannot be started")?;
    let mut follow = Follow::open(guest.results)?;
    let started = Instant::now();
    let how = loop {
        let ended = child.try_wait().context("wait for the emulator")?;
        for line in follow.new_lines()? {
            see(&line);
        }
        if let Some(status) = ended {
            break HowEnded::Itself(status);
        }
        let limit = if follow.text.is_empty() { guest.limit.min(FIRST_LINE_LIMIT) } else { guest.limit };
        if started.elapsed() > limit {
            end(&mut child);
            break HowEnded::KilledAfter(limit);
        }
        if crate::interrupt::asked() {
            end(&mut child);
            crate::interrupt::check()?;
        }
        std::thread::sleep(POLL);
    };
    Ok((follow.text, how))
}

fn end(child: &mut Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
}

/// A file that grows, line by line.
struct Follow {
    file: File,
    path: PathBuf,
    /// Without the carriage returns that a terminal puts there.
    text: String,
    seen: usize,
}

impl Follow {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { file, path: path.to_owned(), text: String::new(), seen: 0 })
    }

    fn new_lines(&mut self) -> Result<Vec<String>> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).with_context(|| format!("read {}", self.path.display()))?;
        self.text.extend(String::from_utf8_lossy(&bytes).chars().filter(|c| *c != '\r'));
        let mut lines = Vec::new();
        while let Some(length) = self.text[self.seen..].find('\n') {
            lines.push(self.text[self.seen..self.seen + length].to_owned());
            self.seen += length + 1;
        }
        Ok(lines)
    }
}

/// The kernel's release, what jobs printed, and whether the guest says that all of them were run.
fn read_results(text: &str) -> (String, Vec<JobRun>, bool) {
    let (mut release, mut jobs, mut done) = (String::new(), Vec::<JobRun>::new(), false);
    for line in text.lines() {
        let Some(marker) = line.strip_prefix("@@guest ") else {
            if let Some(job) = jobs.last_mut().filter(|job| job.ended.is_none()) {
                job.output += line;
                job.output.push('\n');
            }
            continue;
        };
        let (word, rest) = marker.split_once(' ').unwrap_or((marker, ""));
        match word {
            "kernel" => rest.clone_into(&mut release),
            "begin" => jobs.push(JobRun { name: rest.to_owned(), output: String::new(), ended: None }),
            "end" => {
                let (name, how) = rest.rsplit_once(' ').unwrap_or((rest, ""));
                if let Some(job) = jobs.last_mut().filter(|job| job.name == name) {
                    let well = how == "exit=0";
                    job.ended = Some(if well { Ended::Well } else { Ended::Badly(how.to_owned()) });
                }
            }
            "done" => done = true,
            _ => {}
        }
    }
    (release, jobs, done)
}

fn console_tail(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(CONSOLE_LINES_COUNT);
    format!("{}\n(the guest's whole console: {})", lines[first..].join("\n"), console.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_prints_is_sorted_by_job() {
        let text = "\n@@guest kernel 6.1.0-50-cloud-amd64\n\n@@guest begin bpf\nrunning 1 test\nunfinished\n\
                    @@guest end bpf exit=101\n\n@@guest begin a b\nx\n@@guest end a b exit=0\nstray\n\n@@guest done\n";
        let (release, jobs, done) = read_results(text);
        assert_eq!((release.as_str(), done), ("6.1.0-50-cloud-amd64", true));
        let job = |name: &str, output: &str, ended| JobRun {
            name: name.into(),
            output: output.into(),
            ended: Some(ended),
        };
        let badly = Ended::Badly("exit=101".into());
        assert_eq!(jobs, [job("bpf", "running 1 test\nunfinished\n", badly), job("a b", "x\n", Ended::Well)]);
    }

    #[test]
    fn a_guest_that_died_in_a_job_has_not_ended_it() {
        let (_, jobs, done) = read_results("@@guest begin bpf\ntest a ... ");
        assert_eq!((jobs[0].ended.clone(), jobs[0].output.as_str(), done), (None, "test a ... \n", false));
        let (_, jobs, done) =
            read_results("@@guest begin bpf\n@@guest end bpf limit=60\n@@guest broken: no port\n");
        assert_eq!((jobs[0].ended.clone(), done), (Some(Ended::Badly("limit=60".into())), false));
    }
}
