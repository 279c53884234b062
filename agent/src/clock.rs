//! The agent's one clock, as a value: simulations hand in another one.

use model::BootTime;
use tokio::time::Instant;

/// Time since this machine's boot. Cheap to clone; all clones tell the same time.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// `CLOCK_BOOTTIME`.
    Kernel,
    /// tokio's clock, from the moment the machine booted: stands still where that one does.
    Runtime { boot: Instant },
}

impl Clock {
    /// The kernel's.
    #[must_use]
    pub fn system() -> Self {
        Self { source: Source::Kernel }
    }

    /// That of a machine which booted at `boot` by the runtime's clock.
    #[must_use]
    pub fn of_runtime(boot: Instant) -> Self {
        Self { source: Source::Runtime { boot } }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> BootTime {
        match self.source {
            Source::Kernel => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let ms = now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000;
                BootTime::from_millis(ms)
            }
            Source::Runtime { boot } => {
                BootTime::from_millis(u64::try_from(boot.elapsed().as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl Clock {
    /// The time of day as RFC 3339, for people; nothing compares it.
    #[must_use]
    pub fn wall_time_text(&self) -> String {
        match self.source {
            Source::Kernel => format!("{:.0}", jiff::Timestamp::now()),
            // Of a run that can be repeated: as if the machine had booted when all time began.
            Source::Runtime { .. } => {
                let ms = i64::try_from(self.now().as_millis()).unwrap_or(i64::MAX);
                jiff::Timestamp::from_millisecond(ms).map(|at| format!("{at:.0}")).unwrap_or_default()
            }
        }
    }
}

/// The kernel's random id of this boot; state of another boot is void.
///
/// # Errors
/// `/proc` is not mounted.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_systems_clock_goes_on() {
        let clock = Clock::system();
        let before = clock.now();
        assert!(before.as_millis() > 0 && clock.now() >= before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machines_clock_begins_with_its_boot_and_goes_as_the_runtimes() {
        let clock = Clock::of_runtime(Instant::now());
        assert_eq!(clock.now().as_millis(), 0);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(clock.now().as_millis(), 1500);
        assert_eq!(clock.wall_time_text(), "1970-01-01T00:00:01Z");
    }
}
