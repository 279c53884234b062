//! Makes a bare machine able to build, test and demonstrate: step by step, nothing repeated that is there.
//!
//! A step that fails says which one it was, what the tool said, and what to do. Nothing outside this machine's package
//! manager, rustup, the cache directory and `/sys/fs/bpf` is changed.

mod kernel;
mod kubernetes;
mod linker;
mod packages;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::report::{bold, seconds};
use crate::workspace::Workspace;

/// The longest any one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What set-up hands to builds.
#[derive(Debug)]
pub(crate) struct Toolbox {
    /// Where `bpf-linker` is; belongs on `PATH` of whatever builds the eBPF programs.
    pub(crate) linker_dir: PathBuf,
}

impl Toolbox {
    /// `PATH` with the BPF linker first.
    ///
    /// # Errors
    /// A directory on `PATH` contains a colon.
    pub(crate) fn path(&self) -> Result<std::ffi::OsString> {
        let old = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&old).any(|dir| dir == self.linker_dir) {
            // As it is: the programs are built again whenever PATH changes.
            return Ok(old);
        }
        let dirs = std::iter::once(self.linker_dir.clone()).chain(std::env::split_paths(&old));
        std::env::join_paths(dirs).context("compose PATH")
    }
}

/// How much set-up says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Every step with its time.
    Every,
    /// Steps that changed something, and one line at the end.
    Changes,
    /// Only failures.
    Nothing,
}

/// What is needed beyond building and testing one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// A real control plane: built here, some minutes once.
    pub(crate) kubernetes: bool,
    /// Nothing is run here: what is built is for another machine, and the kernel of this one does not count.
    pub(crate) nothing_runs: bool,
}

impl Needs {
    /// What building takes, also where nothing could be run: in the build of a container image.
    pub(crate) const BUILDING: Self = Self { kubernetes: false, nothing_runs: true };
}

/// What a step knows.
struct Machine<'a> {
    workspace: &'a Workspace,
    needs: Needs,
    rust: linker::Rust,
}

/// One thing that must be there.
struct Step {
    name: String,
    /// `Some(what)` when it is there, `None` when it has to be made.
    check: fn(&Machine<'_>) -> Result<Option<String>>,
    /// Makes it; returns what was done.
    make: fn(&Machine<'_>) -> Result<String>,
    /// What a person can do when it fails.
    remedy: &'static str,
}

/// Goes through all steps.
///
/// # Errors
/// The first step that fails, with its name, cause and remedy.
pub(crate) fn run(workspace: &Workspace, show: Show, needs: Needs) -> Result<Toolbox> {
    let started = Instant::now();
    machine_is_supported()?;
    let machine = Machine { workspace, needs, rust: linker::Rust::ask(workspace)? };
    let steps = steps(&machine);
    let count = steps.len();
    let width = steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
    let mut changed = false;
    for (number, step) in steps.iter().enumerate() {
        let number = number + 1;
        let step_started = Instant::now();
        let failed = |error: anyhow::Error| {
            anyhow!(
                "set-up step {number} of {count}, {}, failed: {error:#}\n  remedy: {}",
                step.name,
                step.remedy
            )
        };
        let found = (step.check)(&machine).map_err(failed)?;
        let made = found.is_none();
        let what = match found {
            Some(what) => what,
            None => {
                if show != Show::Nothing {
                    eprintln!("set-up {number}/{count}  {:<width$}  installing ...", step.name);
                }
                let what = (step.make)(&machine).map_err(failed)?;
                if (step.check)(&machine).map_err(failed)?.is_none() {
                    return Err(failed(anyhow!("it is still not there after {what}")));
                }
                what
            }
        };
        changed |= made;
        if show == Show::Every || (made && show == Show::Changes) {
            let took = seconds(step_started.elapsed());
            eprintln!("set-up {number}/{count}  {:<width$}  {took:>6}  {what}", step.name);
        }
        crate::interrupt::check()?;
    }
    if show != Show::Nothing {
        let state = if changed { "done" } else { "ready" };
        eprintln!("{} {state}, {}", bold("set-up:"), seconds(started.elapsed()));
    }
    Ok(Toolbox { linker_dir: linker::bin_dir(&machine) })
}

fn steps(machine: &Machine<'_>) -> Vec<Step> {
    let mut steps = vec![
        Step {
            name: "Debian packages".into(),
            check: packages::check,
            make: packages::install,
            remedy: "look at what apt-get said; with another distribution install these programs by its own means: \
                     ip, nft, tc, bpftool, ping, and the CNI reference plugins in /usr/lib/cni",
        },
        Step {
            name: "Rust components".into(),
            check: linker::check_components,
            make: linker::install_components,
            remedy: "`rustup component add rust-src rustfmt clippy` by hand; set-up needs a toolchain that rustup manages",
        },
        Step {
            name: format!("Rust {}", machine.rust.version),
            check: linker::check_rust_version,
            make: |_| bail!("`rustup update stable`"),
            remedy: "`rustup update stable`",
        },
        Step {
            name: format!("bpf-linker {}", linker::VERSION),
            check: linker::check_linker,
            make: linker::install_linker,
            remedy: "the crate registry must be reachable and a C++ compiler present; remove the directories named \
                     above in the cache to start afresh",
        },
    ];
    if !machine.needs.nothing_runs {
        steps.extend([
            Step {
                name: "BPF file system".into(),
                check: kernel::check_bpffs,
                make: kernel::mount_bpffs,
                remedy: "`mount -t bpf bpf /sys/fs/bpf` as root of the machine; in a container mount the host's /sys/fs/bpf",
            },
            Step {
                name: "kernel features".into(),
                check: kernel::check_features,
                make: |_| bail!("a kernel cannot be installed from here"),
                remedy: "run on a kernel of 5.15 or later with veth, network namespaces, nftables (inet, NAT) and BTF",
            },
        ]);
    }
    if machine.needs.kubernetes {
        steps.push(Step {
            name: format!("Kubernetes {}", harness::kubernetes::VERSION),
            check: kubernetes::check,
            make: kubernetes::build,
            remedy: "it is built from the source package of Debian bookworm, which apt-get must reach, and takes 3 GB \
                     in the cache while it is built; or name a directory with its programs in POOLWARD_KUBERNETES",
        });
    }
    steps
}

fn machine_is_supported() -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("set-up: Poolward is built and tested on Linux x86_64 only; this is another machine");
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "set-up: not root: network namespaces and eBPF programs need it\n  remedy: `sudo -E env PATH=\"$PATH\" \
             cargo xtask ...`, or a root shell"
        );
    }
    Ok(())
}
