//! ADD and DEL as a runtime calls them, beside Debian's ptp and host-local, one call of each in turn; then what the
//! plugin and the agent cost by themselves.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Agent, AgentOptions, Attachment, Binaries, Cni, Lab, NetNs, NodeFiles, Run};
use serde_json::{Value, json};

use super::Numbers;
use super::samples::Samples;
use crate::report::{Table, bold};

/// Names of namespaces and files begin with this.
const NAME: &str = "pwbench";

/// Pairs of ADD and DEL of each plugin.
const PAIRS_COUNT: usize = 100;

/// Calls of VERSION of each plugin.
const STARTS_COUNT: usize = 200;

/// Pods that stay while the agent's memory is read.
const PODS_COUNT: usize = 100;

/// How long all of them may take to settle.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// Where Debian's containernetworking-plugins are.
const PEER_DIR: &str = "/usr/lib/cni";

/// A plugin and what it took.
struct Runner<'n> {
    name: &'static str,
    cni: Cni<'n>,
    took: Took,
}

/// What the calls took.
#[derive(Default)]
struct Took {
    add: Samples,
    del: Samples,
    start: Samples,
}

impl<'n> Runner<'n> {
    fn new(name: &'static str, cni: Cni<'n>) -> Self {
        Self { name, cni, took: Took::default() }
    }

    /// ADD and DEL of one pod with a namespace of its own.
    fn pair(&mut self, uid: &str, number: usize) -> Result<()> {
        let pod = NetNs::create(&format!("{NAME}-pod"))?;
        let attachment = attachment(&pod, uid, number);
        let add = self.cni.add(&attachment)?;
        self.took.add.push(add.took);
        add.ok().with_context(|| format!("{}: ADD {number}", self.name))?;
        let del = self.cni.del(&attachment)?;
        self.took.del.push(del.took);
        del.ok().with_context(|| format!("{}: DEL {number}", self.name)).map(drop)
    }

    fn version(&mut self) -> Result<()> {
        let version = self.cni.version()?;
        self.took.start.push(version.took);
        version.ok().with_context(|| format!("{}: VERSION", self.name)).map(drop)
    }
}

/// Measures and shows.
pub(super) fn run(numbers: &mut Numbers) -> Result<()> {
    ensure!(
        NetNs::list(&format!("{NAME}-"))?.is_empty() && !NodeFiles::exist(NAME),
        "a benchmark is running, or was cut short: `ip netns delete` what begins with {NAME}-, remove /run/{NAME}"
    );
    let binaries = Binaries::find()?;
    let lab = Lab::one_node(NAME)?;
    // The peer has a node of its own: it must not wade through our rules, nor we through its.
    let peer_node = NetNs::create(&format!("{NAME}-peer"))?;
    let files = NodeFiles::create(NAME)?;
    // Often enough that pods settle while one waits.
    let options = AgentOptions { resync_seconds: 2, ..AgentOptions::default() };
    let mut agent = Agent::start(&lab.node, &files, &options)?;
    agent.ctl().apply(&manifest())?;
    let uids = uids(&agent)?;
    let mut ours = Runner::new("poolward", Cni::poolward(&binaries.plugin, &lab.node, &files.socket()));
    let mut peer = Runner::new("ptp + host-local", peer(&peer_node, &files)?);
    eprintln!("{} {PAIRS_COUNT} pairs of ADD and DEL, in turn", bold("bench:"));
    for number in 0..PAIRS_COUNT {
        let uid = uids.get(number).context("fewer pods than pairs")?;
        // Who is first alternates: the second finds caches warm.
        if number % 2 == 0 {
            ours.pair(uid, number)?;
            peer.pair(uid, number)?;
        } else {
            peer.pair(uid, number)?;
            ours.pair(uid, number)?;
        }
        crate::interrupt::check()?;
    }
    eprintln!("{} {STARTS_COUNT} starts, in turn", bold("bench:"));
    for _ in 0..STARTS_COUNT {
        ours.version()?;
        peer.version()?;
        crate::interrupt::check()?;
    }
    eprintln!("{} memory with {PODS_COUNT} pods", bold("bench:"));
    let empty_kib = agent.resident_kib()?;
    let (full_kib, settled_del) = with_pods(&agent, &files, &ours.cni, &uids)?;
    let (status, _) = agent.stop()?;
    ensure!(status.success(), "the agent stopped with {status}");
    show(numbers, &ours, &peer, &settled_del);
    show_sizes(numbers, &binaries.plugin, empty_kib, full_kib)
}

fn attachment(pod: &NetNs, uid: &str, number: usize) -> Attachment {
    Attachment::of_pod(&format!("{NAME}-{number}"), pod, "bench", &format!("bench-{number}"), uid)
}

/// A pool with room for everything, and metadata of every pod.
fn manifest() -> String {
    let mut text = "apiVersion: poolward.io/v1\nkind: IPPool\nmetadata: {name: bench}\nspec: {cidr: 10.244.0.0/22, \
                    blockSize: 26, ipipMode: Always}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n"
        .to_owned();
    for number in 0..PODS_COUNT.max(PAIRS_COUNT) {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: bench-{number}, namespace: bench}}\n"
        );
    }
    text
}

/// UIDs of the pods, by number.
fn uids(agent: &Agent<'_>) -> Result<Vec<String>> {
    let listed = agent.ctl().json(&["get", "pods"])?;
    let items = listed.get("items").and_then(Value::as_array).context("get pods: no \"items\"")?;
    let uid_of = |number: usize| {
        let name = format!("bench-{number}");
        let pod =
            items.iter().find(|pod| pod.pointer("/metadata/name").and_then(Value::as_str) == Some(&name))?;
        Some(pod.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned())
    };
    (0..PODS_COUNT.max(PAIRS_COUNT))
        .map(|number| uid_of(number).with_context(|| format!("pod bench-{number}")))
        .collect()
}

fn peer<'n>(node: &'n NetNs, files: &NodeFiles) -> Result<Cni<'n>> {
    let plugin = Path::new(PEER_DIR).join("ptp");
    ensure!(plugin.exists(), "{} is not there", plugin.display());
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "bench-ptp",
        "type": "ptp",
        "ipMasq": false,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.245.0.0/22"}]],
            "dataDir": files.dir().join("host-local").display().to_string(),
        },
    });
    Ok(Cni::new(&plugin, node, config))
}

/// The agent's memory while pods are there, and what DELs of pods take whose programs run by their lasting links: new
/// pods are guarded by filters first, so the pairs above do not show it.
fn with_pods(agent: &Agent<'_>, files: &NodeFiles, cni: &Cni<'_>, uids: &[String]) -> Result<(u64, Samples)> {
    let mut pods = Vec::new();
    for (number, uid) in uids.iter().enumerate().take(PODS_COUNT) {
        let netns = NetNs::create(&format!("{NAME}-pod-{number}"))?;
        let attachment = attachment(&netns, uid, number);
        cni.add(&attachment)?.ok().with_context(|| format!("ADD of pod {number}"))?;
        pods.push((netns, attachment));
        crate::interrupt::check()?;
    }
    let resident = agent.resident_kib()?;
    eprintln!("{} DEL of {PODS_COUNT} pods that have settled", bold("bench:"));
    let deadline = Instant::now() + SETTLE_LIMIT;
    while pinned_links_count(files)? < 2 * PODS_COUNT {
        ensure!(
            Instant::now() < deadline,
            "after {} s pods are still guarded by filters",
            SETTLE_LIMIT.as_secs()
        );
        crate::interrupt::check()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut settled_del = Samples::default();
    for (_, attachment) in &pods {
        let del = cni.del(attachment)?;
        settled_del.push(del.took);
        del.ok().with_context(|| format!("DEL of {}", attachment.container_id))?;
    }
    Ok((resident, settled_del))
}

/// Links that are pinned, two a pod.
fn pinned_links_count(files: &NodeFiles) -> Result<usize> {
    let mut count = 0;
    for version in std::fs::read_dir(files.pin_dir())? {
        let links = version?.path().join("links");
        if links.is_dir() {
            count += std::fs::read_dir(links)?.count();
        }
    }
    Ok(count)
}

fn show(numbers: &mut Numbers, ours: &Runner<'_>, peer: &Runner<'_>, settled_del: &Samples) {
    let mut table = Table::new(&["ms", ours.name, peer.name, "ratio"]);
    let rows = [
        ("add", &ours.took.add, &peer.took.add),
        ("del", &ours.took.del, &peer.took.del),
        ("del_settled", settled_del, &peer.took.del),
        ("start", &ours.took.start, &peer.took.start),
    ];
    for (what, ours, peer) in rows {
        for percent in [50, 99] {
            let (own, other) = (ours.percentile_ms(percent), peer.percentile_ms(percent));
            numbers.set(&format!("cni.{what}.poolward.p{percent}_ms"), own);
            if what != "del_settled" {
                numbers.set(&format!("cni.{what}.ptp.p{percent}_ms"), other);
            }
            let label = match what {
                "start" => "VERSION",
                "del_settled" => "DEL, settled pod",
                "del" => "DEL",
                _ => "ADD",
            };
            table.row([
                format!("{label} p{percent}"),
                format!("{own:.2}"),
                format!("{other:.2}"),
                format!("{:.2}", own / other),
            ]);
        }
    }
    println!("\n{}", bold(&format!("the plugin by hand, {PAIRS_COUNT} pairs, {STARTS_COUNT} starts")));
    println!("{}", table.render());
}

fn show_sizes(numbers: &mut Numbers, plugin: &Path, empty_kib: u64, full_kib: u64) -> Result<()> {
    let kib = |path: &Path| -> Result<f64> {
        Ok(std::fs::metadata(path).with_context(|| path.display().to_string())?.len() as f64 / 1024.0)
    };
    let (own, ptp) = (kib(plugin)?, kib(&Path::new(PEER_DIR).join("ptp"))?);
    let linkage = Run::new("ldd").args([plugin]).finish()?;
    let is_static =
        !linkage.status.success() || String::from_utf8_lossy(&linkage.stdout).contains("statically linked");
    numbers.set("cni.plugin.poolward.size_kib", own);
    numbers.set("cni.plugin.ptp.size_kib", ptp);
    numbers.set("agent.rss_0_pods_kib", empty_kib as f64);
    numbers.set(&format!("agent.rss_{PODS_COUNT}_pods_kib"), full_kib as f64);
    let mut table = Table::new(&["KiB", "poolward", "ptp"]);
    let plugin_label = if is_static { "plugin, static" } else { "plugin, dynamic" };
    table.row([plugin_label.to_owned(), format!("{own:.0}"), format!("{ptp:.0}")]);
    table.row([format!("agent after {PAIRS_COUNT} pairs"), empty_kib.to_string(), "-".to_owned()]);
    table.row([format!("agent with {PODS_COUNT} pods"), full_kib.to_string(), "-".to_owned()]);
    println!("{}\n{}", bold("size and memory"), table.render());
    Ok(())
}
