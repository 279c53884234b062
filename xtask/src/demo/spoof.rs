//! A pod that claims another pod's address, by frames that no socket of its own would send.
//!
//! 1. The frames go out of the pod's own interface to the node, IPv4 and IPv6.
//! 2. The node's drop counters before and after are compared; the firewall captures.
//! 3. Control: the programs are taken off the pod's interface by removing their pins, nothing else changes, and the
//!    same frames go out again. Now the firewall must capture them, or the first capture has proved nothing.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::lab::{FIREWALL_TO_NODE, OUTSIDE_IPV4, OUTSIDE_IPV6};
use harness::{Capture, Direction, RawSender, Run, UdpFrame};
use serde_json::Value;

use super::outcome::SpoofSeen;
use super::stage::{ACCEPTED_POOL, Pod, Stage};

/// Frames of each family.
const FRAMES_COUNT: usize = 10;

/// Where the frames claim to go.
const PORT: u16 = 7999;

/// An address of [`super::stage::CLAIMED_IPV6_RANGE`], which is not the pod's.
const CLAIMED_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x244, 0, 0, 0, 0, 0x1);

/// Reasons for drops that count here, as `poolwardctl status` names them.
const REASONS: [&str; 2] = ["ipv4_source", "ipv6_source"];

/// How long the counters may take.
const SETTLE: Duration = Duration::from_secs(2);

/// How long frames may take to the firewall once they are sent.
const CROSSING: Duration = Duration::from_millis(200);

/// Tries, and tries again without the programs.
pub(super) fn run(stage: &Stage<'_>) -> Result<SpoofSeen> {
    let victim = pod_of(stage, |pool| pool == ACCEPTED_POOL)?;
    let attacker = pod_of(stage, |pool| pool != ACCEPTED_POOL)?;
    open_the_way(stage, attacker)?;
    let frames = frames(stage, attacker, victim)?;
    let before = drops(stage)?;
    let captured = attempt(stage, attacker, &frames, b"with program")?;
    let expected = before + frames.len() as u64;
    let deadline = Instant::now() + SETTLE;
    let mut after = drops(stage)?;
    while after < expected && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        after = drops(stage)?;
    }
    detach(stage, attacker)?;
    let captured_without_program = attempt(stage, attacker, &frames, b"without program")?;
    Ok(SpoofSeen {
        attempted: frames.len() as u64,
        dropped: after.saturating_sub(before),
        captured,
        captured_without_program,
    })
}

/// Nothing but the programs may stand between the pod and the firewall, in both runs alike: no reverse path filter, and
/// IPv6 on the interface of a pod that has none.
fn open_the_way(stage: &Stage<'_>, attacker: &Pod) -> Result<()> {
    let node = &stage.network.node;
    node.set_sysctl(&format!("ipv4/conf/{}/rp_filter", attacker.host_ifname), "0")?;
    node.set_sysctl(&format!("ipv6/conf/{}/disable_ipv6", attacker.host_ifname), "0")
}

fn pod_of<'s>(stage: &Stage<'s>, wanted: impl Fn(&str) -> bool) -> Result<&'s Pod> {
    for pod in stage.pods {
        let shown = stage.ctl.json(&["ipam", "show", "--ip", &pod.address.to_string()])?;
        if shown.pointer("/addresses/0/pool").and_then(Value::as_str).is_some_and(&wanted) {
            return Ok(pod);
        }
    }
    anyhow::bail!("no pod in such a pool")
}

/// The frames, without what tells the two runs apart.
fn frames(stage: &Stage<'_>, attacker: &Pod, victim: &Pod) -> Result<Vec<UdpFrame>> {
    let source_mac = attacker.netns.link(&attacker.attachment.ifname)?.mac;
    let destination_mac = stage.network.node.link(&attacker.host_ifname)?.mac;
    ensure!(attacker.address != victim.address, "two pods have {}", victim.address);
    let claims: [(IpAddr, IpAddr); 2] =
        [(victim.address, OUTSIDE_IPV4.into()), (CLAIMED_IPV6.into(), OUTSIDE_IPV6.into())];
    let frame = |(source, destination)| UdpFrame {
        source_mac,
        destination_mac,
        source,
        destination,
        source_port: PORT,
        destination_port: PORT,
        tos: 0,
        payload: Vec::new(),
    };
    Ok(claims.into_iter().map(frame).flat_map(|frame| std::iter::repeat_n(frame, FRAMES_COUNT)).collect())
}

/// Sends the frames from inside the pod; returns how many of them the firewall captured.
fn attempt(stage: &Stage<'_>, attacker: &Pod, frames: &[UdpFrame], tell_apart: &[u8]) -> Result<u64> {
    let capture = Capture::start(&stage.network.firewall, FIREWALL_TO_NODE, Direction::In)?;
    let sender = RawSender::new(&attacker.netns, &attacker.attachment.ifname)?;
    for frame in frames {
        let frame = UdpFrame { payload: tell_apart.to_vec(), ..frame.clone() };
        sender.send(&frame.build().context("a frame of two families")?)?;
    }
    // Waits for all of them where they come, and the whole time where none may.
    let is_ours =
        |packet: &harness::Packet| packet.payload == tell_apart && packet.ports == Some((PORT, PORT));
    let deadline = Instant::now() + CROSSING;
    while capture.count(is_ours) < frames.len() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let packets = capture.stop()?;
    Ok(packets.iter().filter(|packet| is_ours(packet)).count() as u64)
}

/// Packets dropped on the node for a source that is not the pod's.
fn drops(stage: &Stage<'_>) -> Result<u64> {
    let status = stage.ctl.json(&["status"])?;
    let drops = status.get("drops").and_then(Value::as_array).context("status: no \"drops\"")?;
    let of_reason = |reason: &&str| {
        let found = drops.iter().find(|drop| drop.get("reason").and_then(Value::as_str) == Some(*reason));
        found.and_then(|drop| drop.get("packets")?.as_u64()).unwrap_or(0)
    };
    Ok(REASONS.iter().map(of_reason).sum())
}

/// Takes the programs off one pod's interface. A TCX link goes with its last pin.
fn detach(stage: &Stage<'_>, pod: &Pod) -> Result<()> {
    let index = stage.network.node.link(&pod.host_ifname)?.index;
    let links = links_dir(stage)?;
    let mut removed = 0;
    let entries = fs::read_dir(&links).with_context(|| links.display().to_string())?;
    for entry in entries {
        let path = entry.with_context(|| links.display().to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&format!("{index}-")) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            removed += 1;
        }
    }
    if removed == 0 {
        // Before TCX: filters of a clsact qdisc, which are not pinned.
        let netns = stage.network.node.name();
        Run::new("tc").args(["-n", netns, "qdisc", "del", "dev", &pod.host_ifname, "clsact"]).ok()?;
    }
    Ok(())
}

fn links_dir(stage: &Stage<'_>) -> Result<PathBuf> {
    let map = super::stage::pool_map(stage.files)?;
    Ok(map.parent().context("a map without a directory")?.join("links"))
}
