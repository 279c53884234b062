//! What a kernel needs to be a machine: file systems, modules, and a way to end.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};
use rustix::system::finit_module;

/// Mounted in this order.
const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// The port of QEMU's `isa-debug-exit`.
const EXIT_PORT: u16 = 0xf4;

/// What udev would make: nft reads its rules from `/dev/stdin`.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Mounts what programs expect.
pub(crate) fn mount_all() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("create {place}"))?;
        let no_data: Option<&CStr> = None;
        mount(*kind, *place, *kind, MountFlags::empty(), no_data)
            .with_context(|| format!("mount {kind} on {place}"))?;
    }
    for (link, to) in DEVICE_LINKS {
        symlink(to, link).with_context(|| format!("link {link}"))?;
    }
    Ok(())
}

/// Loads all modules of a directory in the order of their names; one that does not load is an error.
pub(crate) fn load_modules(dir: &str) -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {dir}"))? {
        paths.push(entry.with_context(|| format!("read {dir}"))?.path());
    }
    paths.sort();
    for path in paths {
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        finit_module(&file, c"", 0).with_context(|| format!("load module {}", path.display()))?;
        drop(file);
        // Its memory is worth more than its file.
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Waits until a serial port has sent everything.
pub(crate) fn wait_until_sent(port: &File) -> Result<()> {
    // SAFETY: the descriptor is open for as long as `port` is borrowed; tcdrain(3) takes nothing else.
    let drained = unsafe { libc::tcdrain(port.as_raw_fd()) };
    ensure!(drained == 0, "wait for the results' port: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Ends the machine with a code for the emulator.
pub(crate) fn power_off(code: u32) -> ! {
    // SAFETY: asks for permission for this one port, which only a guest of ours has.
    let permitted = unsafe { libc::ioperm(EXIT_PORT.into(), 4, 1) } == 0;
    if permitted {
        // SAFETY: the kernel has just allowed the instruction for this port; it touches no memory.
        unsafe {
            std::arch::asm!("out dx, eax", in("dx") EXIT_PORT, in("eax") code, options(nomem, nostack));
        }
    } else {
        eprintln!("guest: no permission for port {EXIT_PORT:#x}: {}", std::io::Error::last_os_error());
    }
    // There is no such port: the end of the first process ends the kernel, and that the emulator, with another code.
    std::process::abort()
}
