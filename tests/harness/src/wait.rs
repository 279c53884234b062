//! Waiting for what somebody else brings about.

use std::time::{Duration, Instant};

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until it holds, up to `limit`; how long that took.
///
/// # Panics
/// It does not hold by then; the text names what was waited for.
pub fn wait_until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < limit, "not within {} ms: {what}", limit.as_millis());
        std::thread::sleep(POLL);
    }
    started.elapsed()
}
