//! What pods' packets look like: between the nodes by the witness, towards the outside by captures where they enter the
//! router, its counters, and an nft rule on each node.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use harness::lab::OUTSIDE_IPV4;
use harness::packet::PROTOCOL_UDP;
use harness::{Capture, CountedElement, Direction, EchoServer, IpHeader, Run, udp_echo};
use serde_json::Value;

use super::outcome::{MeshSeen, PodSeen};
use super::stage::{Pod, Stage};
use crate::demo::observe::{DATAGRAMS_COUNT, ECHO_LIMIT, FIRST_PORT, counted, only, verdict};

/// Every pod pings every other once; what the witness counted meanwhile.
pub(super) fn mesh(stage: &Stage<'_>) -> Result<MeshSeen> {
    let mut seen = MeshSeen { pings: 0, answered: 0, encapsulated: 0, plain: 0 };
    for from in stage.pods {
        for to in stage.pods.iter().filter(|to| to.name != from.name) {
            let address = to.address.to_string();
            let finished =
                Run::new("ping").args(["-n", "-c", "1", "-W", "2", &address]).finish_in(&from.netns)?;
            seen.pings += 1;
            seen.answered += u64::from(finished.status.success());
        }
        crate::interrupt::check()?;
    }
    let witnessed = stage.all.fabric.witnessed()?;
    Ok(MeshSeen { encapsulated: witnessed.encapsulated, plain: witnessed.plain, ..seen })
}

/// Lets every pod speak to the server outside, and looks.
pub(super) fn outside(stage: &Stage<'_>) -> Result<Vec<PodSeen>> {
    let ports = (FIRST_PORT..).take(stage.pods.len());
    let fabric = &stage.all.fabric;
    let _server = EchoServer::start(&fabric.outside, ports.clone())?;
    let mut spoken = Vec::new();
    for (pod, port) in stage.pods.iter().zip(ports) {
        let capture = Capture::start(&fabric.router, &pod.node.port(), Direction::In)?;
        let mut echoed_count = 0;
        for _ in 0..DATAGRAMS_COUNT {
            let to = SocketAddr::from((OUTSIDE_IPV4, port));
            let echo = udp_echo(&pod.netns, to, pod.name.as_bytes(), ECHO_LIMIT)?;
            echoed_count += usize::from(echo.is_some());
        }
        let packets = capture.stop()?;
        let headers: Vec<IpHeader> = packets
            .iter()
            .filter(|packet| packet.ports.is_some_and(|(_, to)| to == port))
            .filter_map(|packet| packet.ip.filter(|ip| ip.protocol == PROTOCOL_UDP))
            .collect();
        spoken.push((pod, port, headers, echoed_count));
        crate::interrupt::check()?;
    }
    let (accepted, dropped) = (counted(&fabric.router, "accepted")?, counted(&fabric.router, "dropped")?);
    spoken
        .into_iter()
        .map(|(pod, port, headers, echoed_count)| {
            let what = || format!("{} on {}", pod.name, pod.node.name);
            ensure!(
                headers.len() == DATAGRAMS_COUNT,
                "{}: {} packets at the firewall",
                what(),
                headers.len()
            );
            let (pool, block) = pool_and_block(stage, pod).with_context(what)?;
            Ok(PodSeen {
                pod: pod.name.clone(),
                node: pod.node.name.clone(),
                pool,
                block,
                address: pod.address,
                mark: mark_of(pod, &counted(&pod.node.netns, "seen")?).with_context(what)?,
                dscp: only(headers.iter().map(IpHeader::dscp)).with_context(what)?,
                firewall_saw: only(headers.iter().map(|ip| ip.source)).with_context(what)?,
                firewall_verdict: verdict(port, &accepted, &dropped, echoed_count).with_context(what)?,
            })
        })
        .collect()
}

/// The one mark that nft counted for the pod's packets.
fn mark_of(pod: &Pod<'_>, marks: &[CountedElement]) -> Result<u32> {
    let address = pod.address.to_string();
    let of_pod = marks.iter().filter(|element| element.key.first() == Some(&address));
    let parsed = of_pod
        .map(|element| element.key.get(1).context("an element without a mark")?.parse().context("a mark"))
        .collect::<Result<Vec<u32>>>()?;
    only(parsed.into_iter()).with_context(|| format!("marks of {address}"))
}

fn pool_and_block(stage: &Stage<'_>, pod: &Pod<'_>) -> Result<(String, String)> {
    let nodes = stage.all.fabric.nodes.iter().zip(stage.agents);
    let agent = nodes.filter(|(node, _)| node.name == pod.node.name).map(|(_, agent)| agent).next();
    let ctl = agent.context("no agent")?.ctl();
    let shown = ctl.json(&["ipam", "show", "--ip", &pod.address.to_string()])?;
    let text = |key: &str| {
        let found = shown.pointer(&format!("/addresses/0/{key}")).and_then(Value::as_str);
        found.map(str::to_owned).with_context(|| format!("ipam show: no {key} in {shown}"))
    };
    Ok((text("pool")?, text("block")?))
}
