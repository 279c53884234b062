//! The agent's one clock.

use model::BootTime;

/// Now, by `CLOCK_BOOTTIME`.
pub fn now() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000;
    BootTime::from_millis(ms)
}

/// The kernel's random id of this boot; state of another boot is void.
///
/// # Errors
/// `/proc` is not mounted.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
