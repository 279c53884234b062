//! Ctrl-C and SIGTERM: remembered, so that what was started can be taken down in order. A second one ends us at
//! once.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on the signals are remembered instead of ending the process.
pub(crate) fn install() {
    let asked = ASKED.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the first signal sets the flag, a second one finds it set. A failure to register leaves
        // the default, which ends the process: nothing to report.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(asked));
        let _ = signal_hook::flag::register(signal, Arc::clone(asked));
    }
}

/// Whether somebody asked us to stop.
pub(crate) fn asked() -> bool {
    ASKED.get().is_some_and(|asked| asked.load(Ordering::Relaxed))
}

/// An error once somebody asked us to stop: between two steps.
///
/// # Errors
/// Somebody did.
pub(crate) fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!asked(), "interrupted");
    Ok(())
}
