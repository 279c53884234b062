//! Removing what is pinned. Goes on after a failure and reports all of them.

use std::fs;
use std::path::Path;

use ebpf_common::SCHEMA_VERSION;

use crate::attach::{Direction, remove_link};
use crate::clsact;
use crate::error::{BpfError, Context};
use crate::pins;

/// Failures met on the way.
#[derive(Default)]
struct Failures(Vec<BpfError>);

impl Failures {
    fn note<T: Default>(&mut self, result: Result<T, BpfError>) -> T {
        result.unwrap_or_else(|error| {
            self.0.push(error);
            T::default()
        })
    }

    fn end<T>(self, value: T) -> Result<T, BpfError> {
        if self.0.is_empty() { Ok(value) } else { Err(BpfError::Teardown(self.0)) }
    }
}

pub(crate) fn unload_all(root: &Path) -> Result<(), BpfError> {
    let mut failures = Failures::default();
    for ifindex in failures.note(clsact::list_interfaces()) {
        for direction in Direction::ALL {
            failures.note(clsact::detach(ifindex, direction));
        }
    }
    for (_, dir) in failures.note(pins::list_versions(root)) {
        remove_version(&dir, &mut failures);
    }
    remove_dir(root, &mut failures);
    failures.end(())
}

pub(crate) fn remove_other_versions(root: &Path) -> Result<Vec<u32>, BpfError> {
    let mut failures = Failures::default();
    let mut removed = Vec::new();
    for (version, dir) in failures.note(pins::list_versions(root)) {
        if version != SCHEMA_VERSION {
            remove_version(&dir, &mut failures);
            removed.push(version);
        }
    }
    failures.end(removed)
}

/// Links first, then maps: a program never runs on without its guard being meant.
fn remove_version(dir: &Path, failures: &mut Failures) {
    let links = dir.join("links");
    for link in failures.note(pins::list(&links)) {
        failures.note(remove_link(&link));
    }
    remove_dir(&links, failures);
    for pin in failures.note(pins::list(dir)) {
        failures.note(pins::remove_pin(&pin));
    }
    remove_dir(dir, failures);
}

fn remove_dir(dir: &Path, failures: &mut Failures) {
    if dir.exists() {
        failures.note(fs::remove_dir(dir).kernel(|| format!("removing {}", dir.display())));
    }
}
