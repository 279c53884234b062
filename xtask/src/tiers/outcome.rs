//! Reads what a Rust test program prints.

/// Tests counted by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Passed.
    pub(super) passed: u64,
    /// Failed.
    pub(super) failed: u64,
    /// Not run because they are marked so.
    pub(super) ignored: u64,
    /// Whether the program got as far as its result line.
    pub(super) complete: bool,
}

impl Outcome {
    /// Sums up the `test result:` lines; without any, nothing is complete.
    pub(super) fn parse(text: &str) -> Self {
        let mut outcome = Self::default();
        for line in text.lines().filter_map(|line| line.strip_prefix("test result: ")) {
            let counts = line.split_once(". ").map_or("", |(_, counts)| counts);
            let count_of = |word: &str| -> u64 {
                let part = counts.split("; ").find_map(|part| part.strip_suffix(word)?.strip_suffix(' '));
                part.and_then(|number| number.parse().ok()).unwrap_or(0)
            };
            outcome.passed += count_of("passed");
            outcome.failed += count_of("failed");
            outcome.ignored += count_of("ignored");
            outcome.complete = true;
        }
        outcome
    }

    /// Reads the line `N passed, M failed` with which a program of ours ends; without it, nothing is complete.
    pub(super) fn parse_last_line(text: &str) -> Self {
        let counts = |line: &str| -> Option<(u64, u64)> {
            let (passed, failed) = line.split_once(", ")?;
            let passed = passed.strip_suffix(" passed")?.parse().ok()?;
            Some((passed, failed.strip_suffix(" failed")?.parse().ok()?))
        };
        match text.lines().last().and_then(counts) {
            Some((passed, failed)) => Self { passed, failed, ignored: 0, complete: true },
            None => Self::default(),
        }
    }

    /// Tests that were executed.
    pub(super) fn ran(&self) -> u64 {
        self.passed + self.failed
    }

    /// Adds the counts of another program.
    pub(super) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.complete = true;
    }
}

/// The output without the lines of tests that passed.
pub(super) fn failures(text: &str) -> String {
    let passed = |line: &&str| line.starts_with("test ") && line.ends_with(" ... ok");
    text.lines().filter(|line| !passed(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let check = |text: &str, passed, failed, ignored, complete| {
            assert_eq!(Outcome::parse(text), Outcome { passed, failed, ignored, complete }, "{text}");
        };
        check("", 0, 0, 0, false);
        check("test a ... ok\nthread 'main' overflowed its stack\n", 0, 0, 0, false);
        check(
            "running 3 tests\n\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in \
             0.01s\n",
            3,
            0,
            0,
            true,
        );
        check(
            "test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
            11,
            2,
            1,
            true,
        );
    }

    #[test]
    fn a_program_of_ours_says_its_counts_in_its_last_line() {
        let check = |text: &str, passed, failed, complete| {
            let expected = Outcome { passed, failed, ignored: 0, complete };
            assert_eq!(Outcome::parse_last_line(text), expected, "{text}");
        };
        check("seed 3: FAILED\n999 passed, 1 failed\n", 999, 1, true);
        check("999 passed, 1 failed\nthread 'main' panicked\n", 0, 0, false);
        check("", 0, 0, false);
    }

    #[test]
    fn failures_are_shown_without_what_passed() {
        let text = "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n---- b ----\npanicked\n";
        assert_eq!(failures(text), "running 2 tests\ntest b ... FAILED\n\nfailures:\n---- b ----\npanicked");
    }
}
