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
use poolward_agent::config::{Config, LogFormat, OnLocked};
use poolward_agent::journal::{Journal, Lock, LockError, Owner};
use poolward_agent::node::Node;
use poolward_agent::node::surroundings::{KernelWork, Surroundings};
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
use crate::trace::Trace;

/// How long until an agent that could not start is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// As long as the server waits for requests when it stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long kernel work takes, half of it before anything is done.
const KERNEL_WAIT: Duration = Duration::from_millis(3);

/// How often the tasks of a dead agent may be polled until they are gone.
const LAST_POLLS_MAX: usize = 1000;

/// Where descriptors of a namespace are to be had; each is another one. That they are of network namespaces is seen
/// by a kernel that enters them, and the fake one does not.
const NAMESPACES: [&str; 8] = ["net", "uts", "ipc", "mnt", "pid", "user", "cgroup", "time"];

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
    life: Option<Lifeline>,
    /// While it serves.
    service: Option<Arc<AgentService<FaultyStore>>>,
    requests: Vec<AbortHandle>,
    /// Kernel operations failed, or were cut short.
    kernel_trouble: bool,
    /// What nobody but this module can see.
    problems: Vec<String>,
}

impl Machine {
    /// A machine that has just booted; nothing runs on it.
    #[must_use]
    pub fn new(name: String, dir: PathBuf, cluster: &Arc<Cluster>, trace: &Trace, seed: u64) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            boot: now,
            boot_count: 1,
            start_count: 0,
            not_before: now,
            kill: CancellationToken::new(),
            stop: CancellationToken::new(),
            life: None,
            service: None,
            requests: Vec::new(),
            kernel_trouble: false,
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

    /// Starts the agent, and starts it again whenever it has ended. Never returns.
    pub async fn supervise(self: Arc<Self>) {
        loop {
            let due = locked(&self.state).not_before;
            sleep_until(due).await;
            if locked(&self.state).not_before > Instant::now() {
                continue;
            }
            let (kill, stop) = {
                let mut state = locked(&self.state);
                (state.kill, state.stop) = (CancellationToken::new(), CancellationToken::new());
                (state.kill.clone(), state.stop.clone())
            };
            let ended = kill.run_until_cancelled(self.live(&stop)).await;
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
            self.await_release().await;
        }
    }

    /// One life of the agent: what `poolward_agent::run` does, with other surroundings and without a socket.
    async fn live(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let lock = Lock::try_acquire(&self.dir)?;
        let (boot, boot_count, start_count) = {
            let mut state = locked(&self.state);
            state.start_count += 1;
            (state.boot, state.boot_count, state.start_count)
        };
        let owner = Owner { node: self.name.clone(), boot_id: format!("boot-{boot_count}") };
        let (journal, loaded) = Journal::open(lock, &self.dir, owner)?;
        let (dataplane, life) = self.kernel.open(Settings::new("/nonexistent".into()));
        locked(&self.state).life = Some(life);
        let seed = self.seed ^ start_count << 32;
        let store = FaultyStore::new(&self.cluster, &self.name, &self.faults, seed);
        let surroundings = Surroundings {
            clock: Clock::of_runtime(boot),
            random: Random::seeded(seed),
            kernel_work: KernelWork::InPlace { wait: KERNEL_WAIT },
        };
        let followers = CancellationToken::new();
        let _end_watches = followers.clone().drop_guard();
        let config = self.config()?;
        let node = Node::start(surroundings, config, store, Arc::new(dataplane), journal, loaded, &followers)
            .await?;
        let tending = AbortOnDropHandle::new(tokio::spawn(tend(node.clone(), stop.clone())));
        locked(&self.state).service = Some(Arc::new(AgentService::new(&node)));
        self.tell(format_args!("the agent serves (start {start_count}, boot {boot_count})"));
        stop.cancelled().await;
        locked(&self.state).service = None;
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

    fn config(&self) -> anyhow::Result<Config> {
        Ok(Config {
            ipam: ipam::Settings::default(),
            node_name: self.name.parse()?,
            node_labels: Labels::default(),
            socket_path: self.dir.join("agent.sock"),
            state_dir: self.dir.clone(),
            store_path: self.dir.join("store"),
            bpf_pin_dir: "/nonexistent".into(),
            mark_layout: MarkLayout::DEFAULT,
            route_protocol: 80,
            uplink: None,
            mtu_bytes: None,
            attach_mode: AttachMode::Auto,
            max_pods: 1024,
            max_pools: 1024,
            resync: Duration::from_secs(10),
            on_locked: OnLocked::Exit,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        })
    }

    /// Ends whatever is left of an agent.
    fn bury(&self, stop: &CancellationToken) {
        let mut state = locked(&self.state);
        state.service = None;
        state.life = None;
        for request in state.requests.drain(..) {
            request.abort();
        }
        drop(state);
        // Those who watch the kernel on its behalf.
        stop.cancel();
    }

    /// Returns when the last task of the dead agent is gone, and with it its lock.
    async fn await_release(&self) {
        for _ in 0..LAST_POLLS_MAX {
            if Lock::try_acquire(&self.dir).is_ok() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let problem = format!("{}: something of an agent that ended holds its lock", self.name);
        locked(&self.state).problems.push(problem);
    }

    /// The agent dies, at once or after so many more kernel operations, and is started again after a while.
    pub async fn crash(&self, after_ops: Option<u64>, down: Duration) {
        let life = locked(&self.state).life.clone();
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
        self.end(down);
        self.await_release().await;
        self.kernel.reboot();
        let mut state = locked(&self.state);
        state.boot_count += 1;
        state.boot = Instant::now() + down;
    }

    /// Somebody starts another agent of this node. Whether it was refused, as it must be while one runs.
    #[must_use]
    pub fn refuses_second_agent(&self) -> bool {
        let runs = locked(&self.state).service.is_some();
        !runs || matches!(Lock::try_acquire(&self.dir), Err(LockError::Held { .. }))
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
            (state.service.clone()?, state.life.clone()?)
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
