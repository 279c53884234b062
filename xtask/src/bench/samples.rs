//! Durations measured many times.

use std::time::Duration;

/// Durations in the order they were measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub(super) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// The smallest duration that at least `percent` of all do not exceed (nearest rank), in milliseconds; 0 without
    /// any.
    pub(super) fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let check = |ms: &[u64], percent, expected: f64| {
            let samples = Samples(ms.iter().map(|ms| Duration::from_millis(*ms)).collect());
            assert!((samples.percentile_ms(percent) - expected).abs() < 1e-9, "{ms:?} {percent}");
        };
        let hundred: Vec<u64> = (1..=100).rev().collect();
        check(&hundred, 50, 50.0);
        check(&hundred, 99, 99.0);
        check(&hundred, 100, 100.0);
        check(&[7], 99, 7.0);
        check(&[3, 1, 2], 50, 2.0);
        check(&[], 50, 0.0);
    }
}
