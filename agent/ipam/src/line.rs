//! The line of one handle: which of its requests may run, and which are cancelled (rule 7).
//!
//! A runtime may send DEL while its ADD is still under way, or ADD again after it gave up on the first one. Requests of
//! one handle run one at a time in the order in which they came, and a DEL cancels every ADD before it: so no address
//! is wired after its DEL was answered. Waiting, and telling those who are cancelled, is the caller's business.

use std::collections::VecDeque;

use crate::mutant::{self, Mutant};

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visit {
    /// To add.
    Add,
    /// To delete.
    Del,
    /// Only to look, or to collect what nobody asks for any more.
    Look,
}

/// The requests of one handle that run or wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Line {
    visitors: VecDeque<Visitor>,
    /// Number of the next one.
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Visitor {
    number: u64,
    visit: Visit,
    cancelled: bool,
}

impl Line {
    /// Takes the last place; gives its number. A DEL cancels the ADDs before it.
    pub fn arrive(&mut self, visit: Visit) -> u64 {
        let number = self.next;
        self.next += 1;
        if visit == Visit::Del && !mutant::on(Mutant::DelOvertakesAdd) {
            for before in self.visitors.iter_mut().filter(|before| before.visit == Visit::Add) {
                before.cancelled = true;
            }
        }
        self.visitors.push_back(Visitor { number, visit, cancelled: false });
        number
    }

    /// Whether a request may run: it is the first.
    #[must_use]
    pub fn has_turn(&self, number: u64) -> bool {
        let overtakes = |visitor: &Visitor| visitor.number == number && visitor.visit == Visit::Del;
        self.visitors.front().is_some_and(|first| first.number == number)
            || mutant::on(Mutant::DelOvertakesAdd) && self.visitors.iter().any(overtakes)
    }

    /// Whether a request was cancelled by one behind it; it must take back whatever it has done.
    #[must_use]
    pub fn is_cancelled(&self, number: u64) -> bool {
        self.visitors.iter().any(|visitor| visitor.number == number && visitor.cancelled)
    }

    /// Whether a request is still here.
    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        self.visitors.iter().any(|visitor| visitor.number == number)
    }

    /// Gives a place up, before, during or after its turn.
    pub fn leave(&mut self, number: u64) {
        self.visitors.retain(|visitor| visitor.number != number);
    }

    /// Whether nobody is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.visitors.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_run_one_at_a_time_in_the_order_they_came() {
        let mut line = Line::default();
        let visits = [Visit::Add, Visit::Look, Visit::Del, Visit::Add];
        let numbers = visits.map(|visit| line.arrive(visit));
        for (first, number) in numbers.iter().enumerate() {
            let may_run: Vec<bool> = numbers.iter().map(|number| line.has_turn(*number)).collect();
            assert_eq!(may_run.iter().position(|may| *may), Some(first));
            assert_eq!(may_run.iter().filter(|may| **may).count(), 1);
            line.leave(*number);
        }
        assert!(line.is_empty());
    }

    #[test]
    fn a_del_cancels_the_adds_before_it_and_no_other() {
        let mut line = Line::default();
        let [running, looking, waiting, del, later] =
            [Visit::Add, Visit::Look, Visit::Add, Visit::Del, Visit::Add].map(|visit| line.arrive(visit));
        let cancelled = [running, looking, waiting, del, later].map(|number| line.is_cancelled(number));
        assert_eq!(cancelled, [true, false, true, false, false]);
        line.leave(waiting);
        assert!(!line.has(waiting) && line.has_turn(running) && !line.has_turn(del));
    }
}
