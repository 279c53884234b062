//! What happened, line by line, with the simulated time at which it did.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::store::locked;

/// The lines of one run. Clones write to the same.
#[derive(Clone, Debug)]
pub struct Trace {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
    /// Whether lines are printed as they come.
    loud: bool,
}

impl Trace {
    /// An empty one that begins now.
    #[must_use]
    pub fn new(loud: bool) -> Self {
        Self { began: Instant::now(), lines: Arc::default(), loud }
    }

    /// Adds a line about a machine or something else.
    pub fn tell(&self, who: &str, what: fmt::Arguments<'_>) {
        let ms = self.began.elapsed().as_millis();
        let line = format!("{:>7}.{:03} {who}: {what}", ms / 1000, ms % 1000);
        if self.loud {
            println!("{line}");
        }
        locked(&self.lines).push(line);
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        locked(&self.lines).clone()
    }

    /// A number that two runs share if they went the same way.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        locked(&self.lines).hash(&mut hasher);
        hasher.finish()
    }
}
