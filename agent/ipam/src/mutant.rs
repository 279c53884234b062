//! Known bugs of this field, seeded one by one, so that each check can be seen to catch its bug.
//!
//! With the feature `mutants` one of them can be switched on for the whole process; without it [`on`] is `false` at
//! compile time and nothing of this is left in the program. The places that ask are the places where the bug would be.

/// A bug that can be seeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mutant {
    /// GC frees an address whose pod the runtime had not listed yet.
    GcFreesUnlisted = 1,
    /// A release by address does not compare the holder.
    FreeWithoutHolder,
    /// A claim whose answer was lost counts as won.
    UnansweredClaimWins,
    /// Reclaim does not ask live whether the node is gone.
    ReclaimFromCache,
    /// A block is released although an address of it is lent.
    ReleaseWithLoan,
    /// A node takes blocks that carry its name, whatever the UID and nonce.
    InheritByName,
    /// The grant goes out before the ordinal is in the journal.
    GrantBeforeJournal,
    /// A freed address is handed out at once.
    NoCooldown,
    /// Two requests are granted the same address.
    GrantTwice,
    /// Rule 1: an unanswered release is settled by a read.
    ReleaseSettledByRead,
    /// Rule 2: a block is re-homed because the journal mentions it, whatever its nonce.
    RehomeWithoutNonce,
    /// Rule 3: a pool is admitted by what a stale copy of the registry says.
    AdmitFromStaleCopy,
    /// Rule 3: the claimer does not read the pool's entry again.
    ClaimWithoutReread,
    /// Rule 4: a second agent starts without the lock.
    SecondAgent,
    /// Rule 5: after a start a block serves because a list says it is ours.
    ServeFromList,
    /// Rule 6: a grant whose answer was lost counts as not made.
    UnansweredGrantVoid,
    /// Rule 6: a borrower that gave up forgets its request.
    GiveUpSilently,
    /// Rule 7: DEL does not wait for the ADD before it.
    DelOvertakesAdd,
    /// Rule 8: a pool is chosen by metadata that may be another pod's or old.
    StaleMetadata,
    /// Rule 9: the journal of an earlier boot counts.
    EarlierBoot,
    /// Rule 10: wall time is compared.
    WallClock,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::GcFreesUnlisted,
        Self::FreeWithoutHolder,
        Self::UnansweredClaimWins,
        Self::ReclaimFromCache,
        Self::ReleaseWithLoan,
        Self::InheritByName,
        Self::GrantBeforeJournal,
        Self::NoCooldown,
        Self::GrantTwice,
        Self::ReleaseSettledByRead,
        Self::RehomeWithoutNonce,
        Self::AdmitFromStaleCopy,
        Self::ClaimWithoutReread,
        Self::SecondAgent,
        Self::ServeFromList,
        Self::UnansweredGrantVoid,
        Self::GiveUpSilently,
        Self::DelOvertakesAdd,
        Self::StaleMetadata,
        Self::EarlierBoot,
        Self::WallClock,
    ];
}

#[cfg(feature = "mutants")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutant;

    static ACTIVE: AtomicU8 = AtomicU8::new(0);

    /// Switches a mutant on, or all off, for the whole process.
    pub fn activate(mutant: Option<Mutant>) {
        ACTIVE.store(mutant.map_or(0, |mutant| mutant as u8), Ordering::SeqCst);
    }

    /// Whether a mutant is on.
    #[must_use]
    pub fn on(mutant: Mutant) -> bool {
        ACTIVE.load(Ordering::Relaxed) == mutant as u8
    }
}

#[cfg(feature = "mutants")]
pub use switch::{activate, on};

/// Whether a mutant is on: never, in a build without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn on(_mutant: Mutant) -> bool {
    false
}
