//! The walkthrough over several nodes: a real Kubernetes API server, a router between the nodes that is also the
//! firewall, and two pods on each node.
//!
//! What is shown is what `ip` says of each node, what packet sockets and counters in the router's namespace saw, and what
//! the server itself counted. It fails when that is not what was promised.

mod observe;
mod outcome;
mod routes;
mod stage;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::{Agent, Kubernetes, Underlay};

use self::outcome::Outcome;
use self::stage::Stage;
use super::stage::NAME;
use super::{Options, finish, step};
use crate::many::ManyNodes;
use crate::report::bold;
use crate::workspace::Workspace;

/// Runs it; everything must be built, and nothing of an earlier demo standing.
pub(super) fn run(workspace: &Workspace, options: Options<'_>, started: Instant) -> Result<()> {
    let count = options.nodes_count;
    let all = step(&format!("{count} nodes behind a router, and a Kubernetes API server"), || {
        ManyNodes::build(workspace, NAME, Underlay::Routed, count)
    })?;
    step("the manifests, by kubectl", || stage::apply_manifests(workspace, &all))?;
    let mut agents = step("an agent on each node", || all.start_agents())?;
    let ranges = step("pools admitted and known everywhere", || stage::pool_ranges(&agents))?;
    step("the firewall's one rule, and counters on the nodes", || stage::write_rules(&all, &ranges))?;
    let before = all.management.control_plane.requests()?;
    let pods = step("two pods on each node, by the plugin", || stage::add_pods(&all))?;
    let requests = all.management.control_plane.requests()?.since(&before);
    let stage = Stage { all: &all, agents: &agents, pods: &pods };
    step("every node hears of every block", || routes::wait_until_known(&stage))?;
    let mesh = step("every pod pings every other", || observe::mesh(&stage))?;
    let seen = step("traffic from every pod to the server outside", || observe::outside(&stage))?;
    let routes = step("the routes of each node", || routes::read(&stage))?;
    let outcome = Outcome { pods: seen, mesh, routes, requests: outcome::counted(&requests) };
    print!("\n{}", outcome.render());
    if let Some(path) = options.json {
        outcome.write_json(path)?;
    }
    let broken = outcome.broken_promises(&ranges, &all.fabric);
    if options.keep {
        print!("\n{}", how_to_look_around(&stage, workspace)?);
        for pod in &pods {
            pod.netns.keep();
        }
        agents.iter_mut().for_each(Agent::leave_running);
        drop(agents);
        all.keep();
    } else {
        step("everything down again, by the plugin", || {
            stage::delete_pods(&all, &pods)?;
            for (agent, node) in agents.iter_mut().zip(&all.fabric.nodes) {
                let (status, _) = agent.stop()?;
                ensure!(status.success(), "the agent of {} stopped with {status}", node.name);
            }
            Ok(())
        })?;
    }
    finish(&broken, started)
}

fn how_to_look_around(stage: &Stage<'_>, workspace: &Workspace) -> Result<String> {
    let inside = |netns: &str, command: &str| format!("nsenter --net=/run/netns/{netns} {command}");
    let ctl = workspace.target.join("release/poolwardctl");
    let first = stage.all.fabric.nodes.first().context("no node")?;
    let pod = stage.pods.first().context("no pod")?;
    let last = stage.pods.last().context("no pod")?;
    let management = &stage.all.management;
    let kubectl = format!(
        "{} --kubeconfig {}",
        Kubernetes::find()?.program("kubectl").display(),
        management.control_plane.kubeconfig().display()
    );
    let kubectl = |what: &str| inside(management.netns().name(), &format!("{kubectl} {what}"));
    let lines = [
        ("who owns which block", kubectl("get ipblocks")),
        ("what each node has handed out", kubectl("get nodeaddresses -o yaml")),
        (
            "what an agent says",
            format!("{} --socket {} status", ctl.display(), first.files.socket().display()),
        ),
        ("a node's routes", inside(first.netns.name(), "ip route")),
        ("the nodes behind them", inside(first.netns.name(), "ip nexthop")),
        ("from pod to pod", inside(pod.netns.name(), &format!("ping -c 3 {}", last.address))),
        ("what crosses the router", inside(stage.all.fabric.router.name(), "nft list table netdev witness")),
        ("the firewall", inside(stage.all.fabric.router.name(), &format!("nft list table inet {NAME}"))),
        ("an agent's log", format!("less {}", first.files.log().display())),
        ("take it down", "cargo xtask demo --clean".to_owned()),
    ];
    let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let text: String = lines.iter().map(|(what, command)| format!("  {what:<width$}  {command}\n")).collect();
    Ok(format!("{}\n{text}", bold("It is left standing. Look around:")))
}
