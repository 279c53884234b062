//! Removing what is pinned. Goes on after a failure and reports all of them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use aya::maps::MapInfo;
use ebpf_common::{SCHEMA_VERSION, map_name};

use crate::attach::{Direction, find_program, remove_link};
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
    let versions = failures.note(pins::list_versions(root));
    let map_ids: HashSet<u32> =
        versions.iter().flat_map(|(_, dir)| pinned_map_ids(dir, &mut failures)).collect();
    for ifindex in failures.note(clsact::list_interfaces()) {
        for direction in Direction::ALL {
            failures.note(detach_filter(ifindex, direction, &map_ids));
        }
    }
    for (_, dir) in versions {
        remove_version(&dir, &mut failures);
    }
    remove_dir(root, &mut failures);
    failures.end(())
}

/// A filter is of this pin directory if its program uses one of the maps pinned there: another directory's
/// filters look the same otherwise.
fn detach_filter(ifindex: u32, direction: Direction, map_ids: &HashSet<u32>) -> Result<(), BpfError> {
    let Some(program_id) = clsact::find_filter(ifindex, direction)? else { return Ok(()) };
    let Some(info) = find_program(program_id)? else { return Ok(()) };
    let used =
        info.map_ids().kernel(|| format!("reading the maps of program {program_id}"))?.unwrap_or_default();
    if used.iter().any(|id| map_ids.contains(id)) { clsact::detach(ifindex, direction) } else { Ok(()) }
}

fn pinned_map_ids(dir: &Path, failures: &mut Failures) -> Vec<u32> {
    let mut ids = Vec::new();
    for name in map_name::ALL {
        let path = dir.join(name);
        if path.exists() {
            let info = MapInfo::from_pin(&path).kernel(|| format!("opening map {}", path.display()));
            ids.extend(failures.note(info.map(|info| Some(info.id()))));
        }
    }
    ids
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
