//! Where the agent's random numbers come from: the operating system, or a seed where a run has to be repeatable.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

/// A source of random names. Clones share one sequence.
#[derive(Clone, Debug, Default)]
pub struct Random {
    /// `None`: the operating system's.
    seeded: Option<Arc<Mutex<fastrand::Rng>>>,
}

impl Random {
    /// The operating system's.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// The sequence that follows from a seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { seeded: Some(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)))) }
    }

    /// 128 fresh bits.
    #[must_use]
    pub fn bits(&self) -> u128 {
        match &self.seeded {
            None => Uuid::new_v4().as_u128(),
            Some(rng) => rng.lock().unwrap_or_else(PoisonError::into_inner).u128(..),
        }
    }

    /// A fresh UUID (version 4), as text.
    #[must_use]
    pub fn uuid(&self) -> String {
        let uuid = match &self.seeded {
            None => Uuid::new_v4(),
            Some(rng) => {
                let bits = rng.lock().unwrap_or_else(PoisonError::into_inner).u128(..);
                uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
            }
        };
        uuid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_names_again_and_the_system_never() {
        let (first, again) = (Random::seeded(7), Random::seeded(7));
        let name = first.uuid();
        assert_eq!(name, again.uuid());
        assert_ne!(name, first.uuid());
        assert_eq!(name.len(), 36);
        assert_ne!(Random::system().uuid(), Random::system().uuid());
    }
}
