//! Carries plans out: the one place from which operations go to the kernel.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use crate::kernel::{Failure, Kernel, KernelError, Place};
use crate::op::{Op, Outcome, Thing};
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

/// Failures of one group that are told one by one; that there are more is told as well.
const TOLD_MAX: usize = 16;

/// What operations failed to make: whatever needs it is left out from then on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lost(BTreeSet<Thing>);

impl Lost {
    pub(crate) fn hinders(&self, op: &Op) -> bool {
        !self.0.is_empty() && op.needs().any(|thing| self.0.contains(&thing))
    }

    /// Without what a run that looks at it again finds out anew.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&Thing) -> bool) {
        self.0.retain(keep);
    }
}

/// Carries out a plan, group by group: a failure ends its group only, and leaves out what needs what was not made.
pub(crate) fn apply(kernel: &dyn Kernel, groups: &[Group], lost: &mut Lost) -> Vec<KernelError> {
    let mut errors = Vec::new();
    for group in groups {
        let hindered = group.ops().iter().any(|op| lost.hinders(op));
        match group {
            Group::Chain(_) if hindered => {}
            Group::Chain(ops) => {
                if let Err(Failure { done, error }) = kernel.exec(Place::Node, None, ops) {
                    lost.0.extend(ops.iter().skip(done.len()).filter_map(Op::makes));
                    errors.push(error);
                }
            }
            Group::Each(ops) if hindered => {
                let free: Vec<Op> = ops.iter().filter(|op| !lost.hinders(op)).cloned().collect();
                apply_each(kernel, &free, lost, &mut errors);
            }
            Group::Each(ops) => apply_each(kernel, ops, lost, &mut errors),
        }
    }
    errors
}

fn apply_each(kernel: &dyn Kernel, ops: &[Op], lost: &mut Lost, errors: &mut Vec<KernelError>) {
    let mut failed_count: usize = 0;
    for (op, result) in ops.iter().zip(kernel.exec_each(ops)) {
        let Err(error) = result else { continue };
        lost.0.extend(op.makes());
        failed_count += 1;
        if failed_count <= TOLD_MAX {
            errors.push(error);
        }
    }
    if failed_count > TOLD_MAX {
        let more = format!("{} more operations like these", failed_count - TOLD_MAX);
        errors.push(KernelError::other(more, "they failed as well"));
    }
}
