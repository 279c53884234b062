//! The journal, torn, damaged, another's, of an earlier boot, or gone: no address is lost, none is given twice.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::kernel::{agreed, traces};
use crate::manifest::pool;
use crate::site::{Node, Pod, Site, addresses_of};

fn node_with_a_pool(site: &Site) -> Node<'_> {
    let node = site.start();
    node.apply(&[pool("a", "10.73.0.0/28", "blockSize: 28"), pool("six", "fd73::/124", "blockSize: 124")]);
    node
}

/// Files kept beside the journal.
fn kept_aside(site: &Site) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(site.files.dir().join("state")).unwrap();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("journal.damaged"))
        .collect();
    found.sort();
    found
}

/// A line of the journal.
fn line(json: &str) -> String {
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

/// The header with one value changed, and its checksum right again.
fn with_header(text: &str, change: impl Fn(&mut serde_json::Value)) -> String {
    let (first, rest) = text.split_once('\n').unwrap();
    let (_, json) = first.split_once(' ').unwrap();
    let mut header: serde_json::Value = serde_json::from_str(json).unwrap();
    change(&mut header);
    line(&header.to_string()) + rest
}

/// Kills the agent once all is settled, has its journal changed, starts it again.
fn restart_with(node: &mut Node<'_>, change: impl FnOnce(&PathBuf)) {
    traces(node);
    node.agent.kill().unwrap();
    change(&node.site.journal());
    node.agent.start_again().unwrap();
}

/// Pods that lived through it keep what they have, whatever became of the journal: the same answer to an ADD, a CHECK
/// that is content, and nobody else gets their addresses though all others are asked for.
fn check_pods_are_kept(node: &Node<'_>, pods: &[Pod]) {
    let held = agreed(node);
    assert_eq!(held.len(), pods.len());
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    for pod in pods {
        assert_eq!(held[&pod.handle()], pod.addresses().into_iter().collect::<BTreeSet<_>>());
        assert_eq!(node.check(pod), None, "{}", node.agent.log_tail());
        let before = traces(node);
        assert_eq!(node.cni().add(&pod.attachment).unwrap().ok().unwrap(), pod.result, "the same ADD again");
        assert_eq!(traces(node), before);
        taken.extend(pod.addresses());
    }
    // As many as there are: every one of them is new.
    let mut more = Vec::new();
    for _ in 0..16 {
        let pod = Pod::container("more");
        let answer = node.cni().add(&pod.attachment).unwrap();
        if answer.code != 0 {
            assert_eq!(answer.error_code(), Some(11), "{}", answer.json);
            break;
        }
        for address in addresses_of(&answer.json) {
            assert!(taken.insert(address), "{address} was given twice");
        }
        more.push(pod);
    }
    assert_eq!(agreed(node).len(), pods.len() + more.len());
    for pod in pods.iter().chain(&more) {
        node.del(pod);
    }
    assert!(agreed(node).is_empty());
}

/// A journal that cannot be believed: rebuilt from the kernel, and the file is kept for people.
fn check_damage(what: &str, reason: &str, change: impl FnOnce(&PathBuf)) {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pods = [node.add_container("a"), node.add_container("b")];
    // An address that was freed and may still be in somebody's mind.
    node.del(&node.add_container("gone"));
    let before = traces(&node);
    let mut damaged = Vec::new();
    restart_with(&mut node, |path| {
        change(path);
        damaged = std::fs::read(path).unwrap();
    });
    assert_eq!(node.first_planned(), 0, "{what}: {}", node.agent.log_tail());
    assert_eq!(traces(&node), before, "{what}");
    let aside = kept_aside(&site);
    assert_eq!(aside.len(), 1, "{what}: {aside:?}");
    assert_eq!(std::fs::read(&aside[0]).unwrap(), damaged, "{what}: the file aside is another");
    let log = site.log();
    for word in [reason, "rebuil", &aside[0].display().to_string()] {
        assert!(log.contains(word), "{what}: {word:?} is not in the log:\n{log}");
    }
    // What nobody is known to hold is kept back for a while.
    assert_eq!(node.usage("a"), [2, 0, 14, 0], "{what}");
    check_pods_are_kept(&node, &pods);
    // The new journal is as good as any.
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert!(agreed(&node).is_empty());
    assert_eq!(kept_aside(&site).len(), 1, "{what}");
}

fn rewrite(path: &PathBuf, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, change(text)).unwrap();
}

#[test]
fn a_journal_damaged_in_the_middle_is_rebuilt_from_the_kernel() {
    check_damage("a flipped bit", "checksum", |path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x04;
        std::fs::write(path, bytes).unwrap();
    });
}

#[test]
fn a_journal_of_another_node_is_not_believed() {
    check_damage("another node's", "node-2", |path| {
        rewrite(path, |text| with_header(&text, |header| header["node"] = "node-2".into()));
    });
}

#[test]
fn something_else_in_the_journals_place_is_not_believed() {
    check_damage("a text", "line 1", |path| std::fs::write(path, "this is no journal\n").unwrap());
}

#[test]
fn a_journal_of_a_later_version_is_not_believed() {
    check_damage("version 3", "version 3", |path| {
        rewrite(path, |text| with_header(&text, |header| header["version"] = 3.into()));
    });
}

#[test]
fn a_last_line_cut_short_was_never_promised_and_is_dropped() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pods = [node.add_container("a"), node.add_container("b")];
    restart_with(&mut node, |path| rewrite(path, |text| text + "1234abcd {\"assign\":{\"contai"));
    assert!(kept_aside(&site).is_empty());
    assert_eq!(node.first_planned(), 0);
    assert_eq!(node.usage("a"), [2, 14, 0, 0]);
    check_pods_are_kept(&node, &pods);
}

#[test]
fn an_add_that_was_written_down_and_never_promised_is_taken_back() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pods = [node.add_container("a"), node.add_container("b")];
    // As if the agent had died between the wiring of b and its commit: the last line, which is the commit, is missing.
    restart_with(&mut node, |path| {
        rewrite(path, |text| {
            let end = text.trim_end().rfind('\n').unwrap() + 1;
            assert!(text[end..].contains("commit"), "{}", &text[end..]);
            text[..end].to_owned()
        });
    });
    assert_eq!(agreed(&node).into_keys().collect::<Vec<_>>(), [pods[0].handle()]);
    assert!(pods[1].netns.link("eth0").is_err());
    assert_eq!(node.check(&pods[0]), None);
    node.del(&pods[1]);
}

#[test]
fn a_journal_that_was_removed_while_pods_live_is_rebuilt_from_the_kernel() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pods = [node.add_container("a"), node.add_container("b")];
    let before = traces(&node);
    restart_with(&mut node, |path| std::fs::remove_file(path).unwrap());
    assert_eq!(node.first_planned(), 0, "{}", node.agent.log_tail());
    assert_eq!(traces(&node), before);
    check_pods_are_kept(&node, &pods);
}

#[test]
fn a_journal_that_knows_only_some_of_the_pods_is_not_believed_alone() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pods = [node.add_container("a"), node.add_container("b"), node.add_container("c")];
    restart_with(&mut node, |path| {
        rewrite(path, |text| {
            let lost = &pods[1].attachment.container_id;
            let (kept, gone): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| !line.contains(lost));
            assert!(gone.len() >= 2, "{text}");
            kept.join("\n") + "\n"
        });
    });
    check_pods_are_kept(&node, &pods);
}

#[test]
fn of_an_earlier_boot_every_allocation_is_gone() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pods = [node.add_container("a"), node.add_container("b")];
    restart_with(&mut node, |path| {
        // A reboot ends every interface as well.
        for pod in &pods {
            site.lab.node.ip(&format!("link del {}", pod.host_ifname())).unwrap();
        }
        rewrite(path, |text| with_header(&text, |header| header["bootId"] = "another-boot".into()));
    });
    assert!(agreed(&node).is_empty(), "{}", node.agent.log_tail());
    assert!(kept_aside(&site).is_empty());
    assert_eq!(node.usage("a"), [0, 16, 0, 0], "nothing is kept back after a boot");
    // DELs of pods of the last boot come late; they are fine.
    for pod in &pods {
        node.del(pod);
    }
    assert_eq!(node.add_container("c").addresses().len(), 2);
}

#[test]
fn interfaces_that_outlived_what_claims_to_be_a_reboot_are_believed_more_than_the_journal() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pods = [node.add_container("a"), node.add_container("b")];
    restart_with(&mut node, |path| {
        rewrite(path, |text| with_header(&text, |header| header["bootId"] = "another-boot".into()));
    });
    check_pods_are_kept(&node, &pods);
}

#[test]
fn a_long_life_leaves_a_short_journal() {
    let site = Site::new();
    let mut node = node_with_a_pool(&site);
    let pod = node.add_container("a");
    // Records of some kilobytes each, so that they are soon more than the MiB above which the journal is rewritten.
    let cni = node.cni().with_config(|config| config["name"] = "n".repeat(250).into());
    let rounds = |thread: usize| {
        let mut churned = Pod::container(&format!("{}-{thread}", "c".repeat(100)));
        churned.attachment.args = format!("{};K8S_POD_UID={}", churned.attachment.args, "u".repeat(250));
        for _ in 0..170 {
            cni.add(&churned.attachment).unwrap().ok().unwrap();
            cni.del(&churned.attachment).unwrap().ok().unwrap();
        }
    };
    let (mut longest, mut last, mut rewrites_count) = (0, 0, 0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|thread| scope.spawn(move || rounds(thread))).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            let now = std::fs::metadata(site.journal()).unwrap().len();
            rewrites_count += u32::from(now < last);
            (longest, last) = (longest.max(now), now);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(rewrites_count > 0 && longest < 3 << 19, "{rewrites_count} rewrites, {longest} bytes");
    node.agent.kill().unwrap();
    node.agent.start_again().unwrap();
    assert_eq!(agreed(&node).len(), 1);
    assert_eq!(node.check(&pod), None);
}
