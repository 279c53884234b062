//! The demo: one node, six pods and a firewall outside, for real.
//!
//! Starts the real agent in a network namespace of its own, applies `deploy/examples/walkthrough.yaml`, calls the real
//! plugin for every pod as a container runtime would, and then believes nobody: marks are what an nft rule on the node
//! counted, DSCP and sources are what a packet socket at the firewall captured, verdicts are the firewall's own
//! counters. It fails when what it sees is not what was promised. With several nodes: [`nodes`].

mod nodes;
mod observe;
mod outcome;
mod spoof;
mod stage;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::{NodeFiles, stop_left_running};

use self::outcome::Outcome;
use self::stage::{NAME, Stage};
use crate::many;
use crate::report::{bold, green, red, seconds};
use crate::workspace::Workspace;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options<'a> {
    /// How many nodes; more than one share a real API server.
    pub(crate) nodes_count: u8,
    /// Leave everything standing.
    pub(crate) keep: bool,
    /// Where to write the result as JSON.
    pub(crate) json: Option<&'a Path>,
}

/// Runs the demo; everything must be built.
///
/// # Errors
/// Something could not be done, or was not as promised.
pub(crate) fn run(workspace: &Workspace, options: Options<'_>) -> Result<()> {
    let started = Instant::now();
    ensure!(
        standing(workspace)?.is_empty(),
        "a demo is standing already (or was cut short): look around, or take it down with `cargo xtask demo --clean`"
    );
    if options.nodes_count > 1 {
        return nodes::run(workspace, options, started);
    }
    let examples = workspace.root.join("deploy/examples");
    let network = step("network namespaces: a node, a firewall, a server outside", stage::build_network)?;
    let files = NodeFiles::create(NAME)?;
    let mut agent = step("the agent, in the node's namespace", || stage::start_agent(&network, &files))?;
    step("the manifests", || stage::apply_manifests(&agent.ctl(), &examples))?;
    let ranges = stage::pool_ranges(&agent.ctl())?;
    step("the firewall's one rule, and counters on the node", || stage::write_rules(&network, &ranges))?;
    let pods = step("the pods, by the plugin", || stage::add_pods(&network, &files, &agent.ctl(), &[]))?;
    let dual = step("two more with an address of each family", || {
        stage::add_dual_pods(&network, &files, &agent.ctl(), &examples, &pods)
    })?;
    let stage = Stage { network: &network, files: &files, ctl: agent.ctl(), pods: &pods, dual: &dual };
    let pods_seen = step("traffic from every pod to the server outside", || observe::pods(&stage))?;
    let spoof = step("a pod that claims another pod's address", || spoof::run(&stage, &agent))?;
    let outcome = Outcome { pods: pods_seen, spoof };
    print!("\n{}", outcome.render());
    let pool_map = stage::pool_map(&files)?;
    println!("\n{}", bold(&format!("bpftool map dump pinned {}", pool_map.display())));
    print!("{}", stage::dump_map(&pool_map)?);
    if let Some(path) = options.json {
        outcome.write_json(path)?;
    }
    let broken = outcome.broken_promises(&ranges);
    if options.keep {
        network.keep();
        files.keep();
        stage.all_pods().for_each(|pod| pod.netns.keep());
        agent.leave_running();
        print!("\n{}", how_to_look_around(&stage, workspace, &pool_map));
    } else {
        step("everything down again, by the plugin", || {
            stage::delete_pods(&stage)?;
            let (status, _) = agent.stop()?;
            ensure!(status.success(), "the agent stopped with {status}");
            Ok(())
        })?;
    }
    finish(&broken, started)
}

/// The last lines: what does not hold, or that all does.
fn finish(broken: &[String], started: Instant) -> Result<()> {
    println!();
    for promise in broken {
        println!("{} {promise}", red("not as promised:"));
    }
    ensure!(broken.is_empty(), "{} of the demo's promises do not hold", broken.len());
    println!("{} in {}", green("all as promised,"), seconds(started.elapsed()));
    Ok(())
}

/// Takes down what a demo left, whether kept on purpose or cut short.
///
/// # Errors
/// Something of it does not go.
pub(crate) fn clean(workspace: &Workspace) -> Result<()> {
    let found = standing(workspace)?;
    stop_left_running(&NodeFiles::open(NAME))?;
    many::take_down(workspace, NAME)?;
    NodeFiles::remove(NAME)?;
    println!(
        "{}",
        if found.is_empty() { "no demo is standing" } else { "the demo is down, its agents stopped" }
    );
    Ok(())
}

/// What is there of a demo.
fn standing(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found = many::standing(workspace, NAME)?;
    if NodeFiles::exist(NAME) {
        found.push(NAME.to_owned());
    }
    Ok(found)
}

/// Does one step, saying which and how long it took; nothing is begun once somebody wants to stop.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    crate::interrupt::check()?;
    eprint!("{} {what} ... ", bold("demo:"));
    let _ = std::io::stderr().flush();
    let started = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { seconds(started.elapsed()) } else { "failed".to_owned() };
    eprintln!("{outcome}");
    result.with_context(|| what.to_owned())
}

fn how_to_look_around(stage: &Stage<'_>, workspace: &Workspace, pool_map: &Path) -> String {
    let ctl = workspace.target.join("release/poolwardctl");
    let ctl = format!("{} --socket {}", ctl.display(), stage.files.socket().display());
    let pod = stage.pods.first().map_or_else(String::new, |pod| pod.netns.name().to_owned());
    let inside = |netns: &str, command: &str| format!("nsenter --net=/run/netns/{netns} {command}");
    let (node, firewall) = (stage.network.node.name(), stage.network.firewall.name());
    let lines = [
        ("what the agent says", format!("{ctl} status")),
        ("who has which address", format!("{ctl} ipam show --show-blocks --show-addresses")),
        ("ranges for a firewall", format!("{ctl} pools export --format nft")),
        ("a pod from inside", inside(&pod, "ip address")),
        ("its way out", inside(&pod, &format!("ping -c 3 {}", harness::lab::OUTSIDE_IPV4))),
        ("the node's routes", inside(node, "ip route")),
        ("marks, as counted (0: the control run)", inside(node, &format!("nft list table inet {NAME}"))),
        ("the one NAT rule", inside(node, "nft list ruleset")),
        ("the firewall", inside(firewall, &format!("nft list table inet {NAME}"))),
        ("programs and maps", format!("ls -R {}", stage.files.pin_dir().display())),
        ("pools in the kernel", format!("bpftool map dump pinned {}", pool_map.display())),
        ("the agent's log", format!("less {}", stage.files.log().display())),
        ("take it down", "cargo xtask demo --clean".to_owned()),
    ];
    let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let text: String = lines.iter().map(|(what, command)| format!("  {what:<width$}  {command}\n")).collect();
    format!("{}\n{text}", bold("It is left standing. Look around:"))
}
