//! What a node takes from outside besides store and kernel: time, randomness, and where synchronous kernel work runs.
//!
//! The agent takes the real ones; a simulation hands in its own, and with them a run follows from one seed.

use std::time::Duration;

use tokio::task::JoinError;

use crate::clock::Clock;
use crate::random::Random;

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Time since boot.
    pub clock: Clock,
    /// Nonces and uids.
    pub random: Random,
    /// Where kernel work runs.
    pub kernel_work: KernelWork,
}

impl Environment {
    /// The machine's own.
    #[must_use]
    pub fn real() -> Self {
        Self { clock: Clock::system(), random: Random::system(), kernel_work: KernelWork::Threads }
    }
}

/// Where kernel work runs, which is synchronous.
#[derive(Clone, Debug)]
pub enum KernelWork {
    /// On threads beside the asynchronous ones.
    Threads,
    /// In place, and the caller waits as long before it and after it as if it had taken time on a thread.
    InPlace {
        /// Each of the two waits.
        wait: Duration,
    },
}

impl KernelWork {
    /// Runs it.
    ///
    /// # Errors
    /// It panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work).await,
            Self::InPlace { wait } => {
                tokio::time::sleep(*wait).await;
                let done = work();
                tokio::time::sleep(*wait).await;
                Ok(done)
            }
        }
    }
}
