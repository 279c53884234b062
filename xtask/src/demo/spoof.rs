//! A pod that claims other pods' addresses, by frames that no socket of its own would send.
//!
//! 1. The frames go out of the pod's own interface to the node, IPv4 and IPv6.
//! 2. The node's drop counters before and after are compared; the firewall captures.
//! 3. Control: the agent is held still so that it repairs nothing, the programs are taken off the pod's interface,
//!    nothing else changes, and the same frames go out again. Now the firewall must capture them, or the first
//!    capture has proved nothing.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::lab::{FIREWALL_TO_NODE, OUTSIDE_IPV4, OUTSIDE_IPV6};
use harness::{Agent, Capture, Direction, RawSender, Run, UdpFrame};
use serde_json::Value;

use super::outcome::SpoofSeen;
use super::stage::{ACCEPTED_NAMESPACE, Pod, Stage};

/// Frames of each family.
const FRAMES_COUNT: usize = 10;

/// Where the frames claim to go.
const PORT: u16 = 7999;

/// Reasons for drops that count here, as `poolwardctl status` names them.
const REASONS: [&str; 2] = ["ipv4_source", "ipv6_source"];

/// How long the counters may take.
const SETTLE: Duration = Duration::from_secs(2);

/// How long frames may take to the firewall once they are sent.
const CROSSING: Duration = Duration::from_millis(200);

/// Tries, and tries again without the programs.
pub(super) fn run(stage: &Stage<'_>, agent: &Agent<'_>) -> Result<SpoofSeen> {
    let scene = Scene::choose(stage)?;
    let attacker = scene.attacker;
    // Nothing but the programs may stand between the pod and the firewall, in both runs alike.
    stage.network.node.set_sysctl(&format!("ipv4/conf/{}/rp_filter", attacker.host_ifname), "0")?;
    let frames = scene.frames(stage)?;
    let before = drops(stage)?;
    let captured = attempt(stage, attacker, &frames, b"with program")?;
    let expected = before + frames.len() as u64;
    let deadline = Instant::now() + SETTLE;
    let mut after = drops(stage)?;
    while after < expected && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        after = drops(stage)?;
    }
    agent.pause()?;
    let control =
        detach(stage, attacker).and_then(|()| attempt(stage, attacker, &frames, b"without program"));
    agent.resume()?;
    Ok(SpoofSeen {
        attempted: frames.len() as u64,
        dropped: after.saturating_sub(before),
        captured,
        captured_without_program: control?,
        story: scene.story(),
    })
}

/// Who claims what.
struct Scene<'s> {
    attacker: &'s Pod,
    victims: [(&'s Pod, IpAddr); 2],
}

impl<'s> Scene<'s> {
    /// A pod of a pool that the firewall does not accept claims the address of one that it does, and the IPv6 address
    /// of its neighbour.
    fn choose(stage: &Stage<'s>) -> Result<Self> {
        let accepted = stage.pods.iter().find(|pod| pod.namespace == ACCEPTED_NAMESPACE);
        let accepted = accepted.with_context(|| format!("no pod in {ACCEPTED_NAMESPACE}"))?;
        let [neighbour, attacker] = stage.dual else { anyhow::bail!("not two pods with both families") };
        let ipv6 = neighbour.ipv6.with_context(|| format!("{} has no IPv6 address", neighbour.name))?;
        let own = [Some(attacker.address), attacker.ipv6];
        ensure!(
            !own.contains(&Some(accepted.address)) && !own.contains(&Some(ipv6)),
            "two pods share an address"
        );
        Ok(Self { attacker, victims: [(accepted, accepted.address), (neighbour, ipv6)] })
    }

    /// The frames, without what tells the two runs apart.
    fn frames(&self, stage: &Stage<'_>) -> Result<Vec<UdpFrame>> {
        let source_mac = self.attacker.netns.link(&self.attacker.attachment.ifname)?.mac;
        let destination_mac = stage.network.node.link(&self.attacker.host_ifname)?.mac;
        let frame = |(_, source): (&Pod, IpAddr)| UdpFrame {
            source_mac,
            destination_mac,
            source,
            destination: if source.is_ipv4() { OUTSIDE_IPV4.into() } else { OUTSIDE_IPV6.into() },
            source_port: PORT,
            destination_port: PORT,
            tos: 0,
            payload: Vec::new(),
        };
        Ok(self
            .victims
            .into_iter()
            .map(frame)
            .flat_map(|frame| std::iter::repeat_n(frame, FRAMES_COUNT))
            .collect())
    }

    fn story(&self) -> String {
        let [(first, ipv4), (second, ipv6)] = self.victims;
        format!("{} claims to be {ipv4} ({}) and {ipv6} ({})", self.attacker.name, first.name, second.name)
    }
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

/// Takes the programs off one pod's interface, whichever way they are attached: a TCX link goes with its last pin, a
/// filter with its qdisc.
fn detach(stage: &Stage<'_>, pod: &Pod) -> Result<()> {
    let index = stage.network.node.link(&pod.host_ifname)?.index;
    let links = links_dir(stage)?;
    let mut removed_count = 0;
    let entries = fs::read_dir(&links).with_context(|| links.display().to_string())?;
    for entry in entries {
        let path = entry.with_context(|| links.display().to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&format!("{index}-")) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            removed_count += 1;
        }
    }
    let on_node = || Run::new("tc").args(["-n", stage.network.node.name(), "qdisc"]);
    if on_node().args(["show", "dev", &pod.host_ifname]).ok()?.contains("clsact") {
        on_node().args(["del", "dev", &pod.host_ifname, "clsact"]).ok()?;
        removed_count += 1;
    }
    ensure!(removed_count > 0, "no program is attached to {}", pod.host_ifname);
    Ok(())
}

fn links_dir(stage: &Stage<'_>) -> Result<PathBuf> {
    let map = super::stage::pool_map(stage.files)?;
    Ok(map.parent().context("a map without a directory")?.join("links"))
}
