//! Which allocations a runtime's list of its attachments shows to be leaked.
//!
//! How the list is got, and removing what leaked, is not done here.

use model::BootTime;

use crate::mutant::{self, Mutant};

/// Whether an allocation that was last confirmed at `since` is leaked: the runtime does not list it, and it is older
/// than the call that brought the list. A pod that is being added while the list is made is in no list yet and is
/// alive all the same.
///
/// `called_at` is when the runtime began to make its list, or later by no more than the call took to arrive.
#[must_use]
pub fn is_leaked(since: BootTime, listed: bool, called_at: BootTime) -> bool {
    !listed && (since < called_at || mutant::on(Mutant::GcFreesUnlisted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_older_than_the_call_and_not_listed_is_leaked() {
        let check = |since_ms: u64, listed: bool, expected: bool| {
            let leaked = is_leaked(BootTime::from_millis(since_ms), listed, BootTime::from_millis(10));
            assert_eq!(leaked, expected, "{since_ms} {listed}");
        };
        check(9, false, true);
        check(9, true, false);
        check(10, false, false);
        check(11, false, false);
    }
}
