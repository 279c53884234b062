//! A machine: a kernel, a directory for the journal, a way to the store, and somebody who starts its agent again.
//!
//! The agent is the real one, from the lock to the answer; only its socket is left out. It dies by being dropped at
//! whatever it is waiting for.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::fake::{FakeMachine, Lifeline};
use dataplane::{AttachMode, Settings};
use model::{Labels, MarkLayout};
use poolward_agent::clock::Clock;
use poolward_agent::config::{Config, EncapBackend, LogFormat, OnLocked, StoreConfig};
use poolward_agent::journal::{Journal, Lock, LockError, Owner};
use poolward_agent::node::Node;
use poolward_agent::node::environment::{Environment, KernelWork};
use poolward_agent::random::Random;
use poolward_agent::run::tend;
use poolward_agent::server::Service;
use poolward_agent::service::AgentService;
use rpc::{Reply, Request};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::store::{Cluster, Faults, FaultyStore, locked};
use crate::tally::Actor;
use crate::trace::Trace;

/// How long until an agent that could not start is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// How often a second agent tries to get the lock.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// As long as the server waits for requests when it stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long kernel work takes, half of it before anything is done.
const KERNEL_WAIT: Duration = Duration::from_millis(3);

/// How often the tasks of a dead agent may be polled until they are gone.
const LAST_POLLS_MAX: usize = 1000;

/// Where descriptors of a namespace are to be had; each is another one. That they are of network namespaces is seen
/// by a kernel that enters them, and the fake one does not.
const NAMESPACES: [&str; 8] = ["net", "uts", "ipc", "mnt", "pid", "user", "cgroup", "time"];

/// Says of each kernel operation whether it fails.
pub type Fails = Box<dyn FnMut(&dyn std::fmt::Display) -> bool + Send>;

/// See the module. There is one of each for the whole run.
#[derive(Debug)]
pub struct Machine {
    /// Its name, and its node's.
    pub name: String,
    /// Its kernel.
    pub kernel: FakeMachine,
    /// What happens on the way to the store.
    pub faults: Arc<Mutex<Faults>>,
    cluster: Arc<Cluster>,
    trace: Trace,
    seed: u64,
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    boot: Instant,
    boot_count: u32,
    start_count: u64,
    /// The agent is not started before.
    not_before: Instant,
    /// Ends the agent at once.
    kill: CancellationToken,
    /// Ends it in good order.
    stop: CancellationToken,
    lifeline: Option<Lifeline>,
    /// Whether an agent runs, at whatever it is.
    lives: bool,
    /// While it serves.
    service: Option<Arc<AgentService<FaultyStore>>>,
    /// The inside of that agent.
    node: Option<Arc<Node<FaultyStore>>>,
    /// The configuration of the next agent.
    settings: ipam::Settings,
    /// How many machines had this name before.
    life: u32,
    /// Node objects this name has had.
    uid_count: u32,
    /// Off, and never started again.
    removed: bool,
    requests: Vec<AbortHandle>,
    /// Kernel operations failed, or were cut short.
    kernel_trouble: bool,
    /// Kernel operations fail now and then.
    kernel_fails: bool,
    /// What nobody but this module can see.
    problems: Vec<String>,
}

impl Machine {
    /// A machine that has just booted; nothing runs on it.
    #[must_use]
    pub fn new(
        name: String,
        dir: PathBuf,
        cluster: &Arc<Cluster>,
        trace: &Trace,
        seed: u64,
        settings: ipam::Settings,
    ) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            boot: now,
            boot_count: 1,
            start_count: 0,
            not_before: now,
            kill: CancellationToken::new(),
            stop: CancellationToken::new(),
            lifeline: None,
            lives: false,
            service: None,
            node: None,
            settings,
            life: 0,
            uid_count: 0,
            removed: false,
            requests: Vec::new(),
            kernel_trouble: false,
            kernel_fails: false,
            problems: Vec::new(),
        };
        Arc::new(Self {
            name,
            kernel: FakeMachine::new(),
            faults: Arc::default(),
            cluster: cluster.clone(),
            trace: trace.clone(),
            seed,
            dir,
            state: Mutex::new(state),
        })
    }

    /// Starts the agent, and starts it again whenever it has ended, until the machine is removed.
    pub async fn supervise(self: Arc<Self>) {
        let mut refused = false;
        loop {
            let due = locked(&self.state).not_before;
            sleep_until(due).await;
            if locked(&self.state).removed {
                return;
            }
            if locked(&self.state).not_before > Instant::now() {
                continue;
            }
            let lived = self.try_live().await;
            if !lived {
                // A second agent was quicker; said once.
                if !std::mem::replace(&mut refused, true) {
                    self.tell(format_args!("the agent is refused: another one runs"));
                }
                sleep(RESTART_DELAY).await;
            }
            refused &= !lived;
        }
    }

    /// Somebody starts another agent of this node, which waits for the lock until it gives up (`OnLocked::Wait`) or the
    /// machine goes down. When the first one ends meanwhile, it is the node's agent until it ends itself.
    pub async fn second_agent(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let boot_count = locked(&self.state).boot_count;
        while Instant::now() < until && locked(&self.state).boot_count == boot_count {
            if self.try_live().await {
                self.tell(format_args!("that was the second agent"));
                return;
            }
            sleep(LOCK_POLL).await;
        }
    }

    /// A whole life of an agent, to its end. `false`: another one runs.
    async fn try_live(&self) -> bool {
        let lock = match Lock::try_acquire(&self.dir) {
            Ok(lock) => lock,
            Err(LockError::Held { .. }) => return false,
            Err(error) => {
                locked(&self.state).problems.push(format!("{}: {error}", self.name));
                return false;
            }
        };
        let (kill, stop, start_count) = {
            let mut state = locked(&self.state);
            if state.removed {
                return true;
            }
            if state.lives {
                let problem = format!("{}: two agents at once", self.name);
                state.problems.push(problem);
            }
            (state.kill, state.stop) = (CancellationToken::new(), CancellationToken::new());
            state.lives = true;
            state.start_count += 1;
            (state.kill.clone(), state.stop.clone(), state.start_count)
        };
        let ended = kill.run_until_cancelled(self.live(lock, start_count, &stop)).await;
        self.bury(&stop);
        match ended {
            None => self.tell(format_args!("the agent died")),
            Some(Ok(())) => self.tell(format_args!("the agent stopped")),
            Some(Err(error)) => {
                self.tell(format_args!("the agent could not start: {error:#}"));
                let next = Instant::now() + RESTART_DELAY;
                let mut state = locked(&self.state);
                state.not_before = state.not_before.max(next);
            }
        }
        self.await_release(start_count).await;
        true
    }

    /// One life of the agent: what `poolward_agent::run` does, with other environment and without a socket.
    async fn live(&self, lock: Lock, start_count: u64, stop: &CancellationToken) -> anyhow::Result<()> {
        let (boot, boot_count, life) = {
            let state = locked(&self.state);
            (state.boot, state.boot_count, state.life)
        };
        let owner = Owner { node: self.name.clone(), boot_id: format!("boot-{boot_count}") };
        let (journal, loaded) = Journal::open(lock, &self.dir, owner)?;
        let (dataplane, lifeline) = self.kernel.open(Settings::new("/nonexistent".into()));
        locked(&self.state).lifeline = Some(lifeline);
        let seed = self.seed ^ start_count << 32;
        let actor = Actor { name: self.name.clone(), life };
        let store = FaultyStore::new(&self.cluster, actor, &self.faults, seed);
        let environment = Environment {
            clock: Clock::of_runtime(boot),
            random: Random::seeded(seed),
            kernel_work: KernelWork::InPlace { wait: KERNEL_WAIT },
        };
        let followers = CancellationToken::new();
        let _end_watches = followers.clone().drop_guard();
        let config = self.config()?;
        let node =
            Node::start(environment, config, store, Arc::new(dataplane), journal, loaded, &followers).await?;
        self.check_started(&node);
        let tending = AbortOnDropHandle::new(tokio::spawn(tend(node.clone(), stop.clone())));
        {
            let mut state = locked(&self.state);
            state.service = Some(Arc::new(AgentService::new(&node)));
            state.node = Some(node);
        }
        self.tell(format_args!("the agent serves (start {start_count}, boot {boot_count})"));
        stop.cancelled().await;
        {
            let mut state = locked(&self.state);
            (state.service, state.node) = (None, None);
        }
        let drained = async {
            while locked(&self.state).requests.iter().any(|request| !request.is_finished()) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(DRAIN_LIMIT, drained).await.is_err() {
            self.tell(format_args!("requests did not end in time"));
        }
        tending.await?;
        Ok(())
    }

    /// What a crash cut short is finished before anything is served, unless the kernel stands in the way.
    fn check_started(&self, node: &Node<FaultyStore>) {
        let ledger = node.ledger();
        let half = ledger.pods().filter(|pod| pod.wired.is_none()).map(|pod| pod.handle().to_string());
        let half: Vec<String> = half.collect();
        if !half.is_empty() && !locked(&self.state).kernel_fails {
            let problem = format!("{}: serves with ADDs that were cut short: {half:?}", self.name);
            locked(&self.state).problems.push(problem);
        }
    }

    /// With Node objects, what comes of a store that is shared: other nodes, and starts without it.
    fn store_config(&self) -> StoreConfig {
        if locked(&self.state).uid_count > 0 {
            StoreConfig::Kubernetes { kubeconfig: None }
        } else {
            StoreConfig::Embedded { path: self.dir.join("store") }
        }
    }

    fn config(&self) -> anyhow::Result<Config> {
        let store = self.store_config();
        Ok(Config {
            ipam: locked(&self.state).settings,
            node_name: self.name.parse()?,
            node_labels: Labels::default(),
            socket_path: self.dir.join("agent.sock"),
            state_dir: self.dir.clone(),
            store,
            bpf_pin_dir: "/nonexistent".into(),
            bpf_shared_mark: None,
            sysctl_dir: "/nonexistent".into(),
            cni: None,
            mark_layout: MarkLayout::DEFAULT,
            route_protocol: 80,
            uplink: None,
            node_ip: None,
            encap_backend: EncapBackend::Auto,
            mtu_bytes: None,
            attach_mode: AttachMode::Auto,
            max_pods: 1024,
            max_pools: 1024,
            resync: Duration::from_secs(10),
            publish_interval: Duration::from_secs(5),
            pod_cidrs: Vec::new(),
            leak_grace: Duration::from_secs(300),
            allow_source_prefixes: false,
            on_locked: OnLocked::Exit,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        })
    }

    /// Ends whatever is left of an agent.
    fn bury(&self, stop: &CancellationToken) {
        let mut state = locked(&self.state);
        state.lives = false;
        (state.service, state.node) = (None, None);
        state.lifeline = None;
        for request in state.requests.drain(..) {
            request.abort();
        }
        drop(state);
        // Those who watch the kernel on its behalf.
        stop.cancel();
    }

    /// Returns when the last task of the dead agent is gone, and with it its lock.
    async fn await_release(&self, start_count: u64) {
        for _ in 0..LAST_POLLS_MAX {
            // Or when another one has it.
            if Lock::try_acquire(&self.dir).is_ok() || locked(&self.state).start_count != start_count {
                return;
            }
            tokio::task::yield_now().await;
        }
        let problem = format!("{}: something of an agent that ended holds its lock", self.name);
        locked(&self.state).problems.push(problem);
    }

    /// The agent dies, at once or after so many more kernel operations, and is started again after a while.
    pub async fn crash(&self, after_ops: Option<u64>, down: Duration) {
        let life = locked(&self.state).lifeline.clone();
        if let (Some(count), Some(life)) = (after_ops, life) {
            self.note_kernel_trouble();
            life.cut_after(count);
            let cut = async {
                while !life.is_cut() {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            let _ = timeout(Duration::from_secs(3), cut).await;
        }
        self.end(down);
    }

    fn end(&self, down: Duration) {
        let mut state = locked(&self.state);
        state.not_before = state.not_before.max(Instant::now() + down);
        state.kill.cancel();
    }

    /// The agent is stopped in good order, and started again after a while.
    pub fn stop(&self, down: Duration) {
        let mut state = locked(&self.state);
        state.not_before = Instant::now() + down;
        state.stop.cancel();
    }

    /// The machine goes down, and boots: kernel and journal know nothing of before.
    pub async fn reboot(&self, down: Duration) {
        self.power_off(down).await;
    }

    /// The machine goes down for good.
    pub async fn remove(&self) {
        locked(&self.state).removed = true;
        self.power_off(Duration::ZERO).await;
        self.tell(format_args!("removed for good"));
    }

    /// The machine goes down, and another one of the same name boots in its place, with nothing of it.
    pub async fn replace(&self, down: Duration) {
        self.power_off(down).await;
        let wiped = std::fs::remove_dir_all(&self.dir);
        let mut state = locked(&self.state);
        state.life += 1;
        if let Err(error) = wiped {
            let problem = format!("{}: {error}", self.name);
            state.problems.push(problem);
        }
    }

    async fn power_off(&self, down: Duration) {
        let start_count = {
            let mut state = locked(&self.state);
            // A second agent that waits ends with the boot.
            state.boot_count += 1;
            state.start_count
        };
        self.end(down);
        self.await_release(start_count).await;
        self.kernel.reboot();
        locked(&self.state).boot = Instant::now() + down;
    }

    /// The agent is stopped in good order, and started again with other settings.
    pub fn reconfigure(&self, settings: ipam::Settings, down: Duration) {
        locked(&self.state).settings = settings;
        self.stop(down);
    }

    /// Which settings its next agent has.
    #[must_use]
    pub fn settings(&self) -> ipam::Settings {
        locked(&self.state).settings
    }

    /// Gives the node a Node object with a UID of its own.
    pub async fn register(&self) {
        let (uid, life) = {
            let mut state = locked(&self.state);
            state.uid_count += 1;
            (format!("node-uid-{}-{}", self.name, state.uid_count), state.life)
        };
        self.cluster.put_node(&self.name, &uid, life).await;
    }

    /// The inside of its agent, while that serves.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node<FaultyStore>>> {
        locked(&self.state).node.clone()
    }

    /// Whether it is off for good.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        locked(&self.state).removed
    }

    /// Whether the agent answers.
    #[must_use]
    pub fn serves(&self) -> bool {
        locked(&self.state).service.is_some()
    }

    /// Milliseconds since boot.
    #[must_use]
    pub fn boot_ms(&self) -> u64 {
        Clock::of_runtime(locked(&self.state).boot).now().as_millis()
    }

    /// Makes kernel operations fail now and then, or not any more.
    pub fn set_kernel_faults(&self, fails: Option<Fails>) {
        let mut state = locked(&self.state);
        state.kernel_fails = fails.is_some();
        state.kernel_trouble |= fails.is_some();
        drop(state);
        self.kernel.set_faults(fails);
    }

    /// From now on, what the kernel shows may be half of something.
    pub fn note_kernel_trouble(&self) {
        locked(&self.state).kernel_trouble = true;
    }

    /// Whether the kernel ever failed or was left in the middle of something.
    #[must_use]
    pub fn had_kernel_trouble(&self) -> bool {
        locked(&self.state).kernel_trouble
    }

    /// What went wrong with the agent's life itself.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        locked(&self.state).problems.clone()
    }

    /// Asks the agent. `None`: no agent, it died meanwhile, or the client hung up.
    pub async fn request(
        &self,
        request: Request,
        netns: Option<OwnedFd>,
        hang_up: Option<Duration>,
    ) -> Option<Reply> {
        let (service, life) = {
            let state = locked(&self.state);
            (state.service.clone()?, state.lifeline.clone()?)
        };
        let cancel = CancellationToken::new();
        let cancelled = cancel.clone();
        let mut task = tokio::spawn(async move { service.answer(request, netns, cancelled).await });
        {
            let mut state = locked(&self.state);
            state.requests.retain(|request| !request.is_finished());
            state.requests.push(task.abort_handle());
        }
        let reply = match hang_up {
            None => task.await.ok()?,
            Some(after) => {
                let Ok(answered) = timeout(after, &mut task).await else {
                    // The agent goes on with it by itself.
                    cancel.cancel();
                    return None;
                };
                answered.ok()?
            }
        };
        (!life.is_cut()).then_some(reply)
    }

    fn tell(&self, what: std::fmt::Arguments<'_>) {
        self.trace.tell(&self.name, what);
    }
}

/// A descriptor of one of the runtime's namespaces.
#[must_use]
pub fn namespace(number: usize) -> Option<OwnedFd> {
    let name = NAMESPACES[number % NAMESPACES.len()];
    File::open(format!("/proc/self/ns/{name}")).ok().map(OwnedFd::from)
}
