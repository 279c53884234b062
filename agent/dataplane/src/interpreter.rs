//! Carries plans out: the one place from which operations go to the kernel.

use std::os::fd::BorrowedFd;

use crate::kernel::{Failure, Kernel, KernelError, Place};
use crate::op::{Op, Outcome};
use crate::plan::Group;

/// Operations that belong together: all of them, or none.
///
/// One per wiring; dies with it. What was done is taken back by [`Transaction::undo`].
pub(crate) struct Transaction<'a> {
    kernel: &'a dyn Kernel,
    netns: Option<BorrowedFd<'a>>,
    /// How to take back what was done, in the order in which it was done.
    inverses: Vec<Op>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(kernel: &'a dyn Kernel, netns: Option<BorrowedFd<'a>>) -> Self {
        Self { kernel, netns, inverses: Vec::new() }
    }

    /// Carries operations out in order.
    ///
    /// # Errors
    /// The first failure; what was done before it is remembered for [`Transaction::undo`].
    pub(crate) fn exec(&mut self, place: Place<'_>, ops: &[Op]) -> Result<Vec<Outcome>, KernelError> {
        match self.kernel.exec(place, self.netns, ops) {
            Ok(outcomes) => {
                self.remember(place, ops, &outcomes);
                Ok(outcomes)
            }
            Err(Failure { done, error }) => {
                self.remember(place, ops, &done);
                Err(error)
            }
        }
    }

    fn remember(&mut self, place: Place<'_>, ops: &[Op], outcomes: &[Outcome]) {
        // What was done inside a pod goes with the pair.
        if matches!(place, Place::Node) {
            self.inverses.extend(ops.iter().zip(outcomes).filter_map(|(op, outcome)| op.inverse(*outcome)));
        }
    }

    /// Takes everything back, last first, and goes on whatever fails.
    pub(crate) fn undo(mut self) -> Vec<KernelError> {
        self.inverses.reverse();
        teardown(self.kernel, &self.inverses)
    }
}

/// Carries out operations that take things away; a failure does not keep the rest from being tried.
pub(crate) fn teardown(kernel: &dyn Kernel, ops: &[Op]) -> Vec<KernelError> {
    let results = ops.iter().map(|op| kernel.exec(Place::Node, None, std::slice::from_ref(op)));
    results.filter_map(Result::err).map(|failure| failure.error).collect()
}

/// Carries out a plan, group by group: a failure ends its group only.
pub(crate) fn apply(kernel: &dyn Kernel, groups: &[Group]) -> Vec<KernelError> {
    groups.iter().filter_map(|group| kernel.exec(Place::Node, None, group).err()).map(|f| f.error).collect()
}
