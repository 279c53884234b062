//! The witness is worth what it says only if it says so when something is wrong: with the program that encapsulates taken
//! off, it must count.

use std::path::{Path, PathBuf};

use harness::{Underlay, wait_until};

use crate::site::{Pod, SOON, Site};
use crate::traffic::pings;

#[test]
fn the_witness_counts_when_the_encapsulating_program_is_taken_off() {
    let site = Site::new(Underlay::Routed, 2);
    site.apply_pools(&[("pods", "10.244.0.0/22", "blockSize: 26, ipipMode: Always")]);
    site.seal(&["10.244.0.0/22"]);
    let mut nodes: Vec<_> = (1..=2).map(|number| site.start_with(number, "encapBackend: ebpf\n")).collect();
    let pods: Vec<Pod<'_>> = nodes.iter().map(|node| node.add(&["pods"])).collect();
    let reaches = || pings(&pods[0].netns, pods[1].address());
    wait_until(SOON, "the first ping", reaches);
    site.assert_sealed();

    // Nobody is there to put it back.
    nodes[0].agent.kill().unwrap();
    let pins = pins_of(nodes[0].at.files.pin_dir(), "-to_uplink");
    assert_eq!(pins.len(), 1, "{pins:?}");
    std::fs::remove_file(&pins[0]).unwrap();
    site.seal(&["10.244.0.0/22"]);
    assert!(!reaches());
    let seen = site.fabric.witnessed().unwrap();
    assert!(seen.plain > 0, "the witness saw nothing: {seen:?}");
    assert_eq!(seen.senders[0].key[..2], [pods[0].address().to_string(), pods[1].address().to_string()]);

    nodes[0].agent.start_again().unwrap();
    site.seal(&["10.244.0.0/22"]);
    wait_until(SOON, "the next agent puts it back", reaches);
    site.assert_sealed();
}

/// Pins below a directory whose names end so.
fn pins_of(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pins_of(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}
