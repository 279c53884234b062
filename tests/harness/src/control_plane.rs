//! A real Kubernetes control plane: etcd and kube-apiserver with keys of their own, on free ports, in a directory of
//! their own, in any network namespace.
//!
//! Starts, stops, kills, pauses and restores both; makes identities; writes objects of Kubernetes itself. Knows nothing
//! of Poolward's resources but where manifests go. Controllers and scheduler only where they are asked for: without,
//! what those would write, tests write. No kubelet: see [`crate::cluster`].

mod controllers;
mod guard;
mod metrics;
mod nodes;
mod pki;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::controllers::Controllers;
pub use self::controllers::NODE_RANGE;
pub(crate) use self::guard::Guard;
pub use self::metrics::{RequestKind, Requests};
pub use self::nodes::BoundPod;
use self::pki::Pki;
use crate::agent::tmpfs_dir;
use crate::daemon::{Daemon, stop_daemon_left_running};
use crate::{Kubectl, Kubernetes, NetNs, Run};

/// How long the server may take until it is ready: some seconds, unless the machine is busy with much else.
pub const READY_LIMIT: Duration = Duration::from_secs(120);

/// How long each process may take to end.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How often a start is tried: somebody else may take a port between its choice and its use.
const START_ATTEMPTS_COUNT: u32 = 3;

/// Addresses of Services.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";

/// The one member of the etcd cluster.
const MEMBER: &str = "poolward";

/// Where and how a control plane runs.
#[derive(Debug)]
pub struct ControlPlaneOptions {
    /// The network namespace of both processes, and of `kubectl`; none: that of this process.
    pub netns: Option<String>,
    /// Delete that namespace with everything else.
    pub owns_netns: bool,
    /// The address the API server listens on. etcd is on the loopback.
    pub listen: IpAddr,
    /// A directory that does not exist; none: one with a name that nobody else has, in memory where there is such.
    pub dir: Option<PathBuf>,
    /// More flags of the API server; later ones win.
    pub api_args: Vec<String>,
    /// Also the controller-manager and the scheduler; pods then have service accounts and their tokens.
    pub controllers: bool,
}

impl Default for ControlPlaneOptions {
    fn default() -> Self {
        Self {
            netns: None,
            owns_netns: false,
            listen: Ipv4Addr::LOCALHOST.into(),
            dir: None,
            api_args: Vec::new(),
            controllers: false,
        }
    }
}

/// One control plane. Ended and deleted on drop and when this process dies, unless it was left running.
#[derive(Debug)]
pub struct ControlPlane {
    dir: PathBuf,
    kubernetes: Kubernetes,
    pki: Pki,
    netns: Option<String>,
    ports: Ports,
    etcd: Daemon,
    api: Daemon,
    controllers: Option<Controllers>,
    /// Whether there are to be [`Controllers`].
    is_whole: bool,
    /// Counts data directories of etcd: each restore has a new one.
    generation: u32,
    /// `None` once it was left running.
    guard: Option<Guard>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    api: SocketAddr,
    etcd: SocketAddr,
    etcd_peer: SocketAddr,
}

impl ControlPlane {
    /// Starts both and waits until the server is ready.
    ///
    /// # Errors
    /// The programs have not been built, or one of them did not start; with the end of its log.
    pub fn start(options: &ControlPlaneOptions) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::try_start(options) {
                Err(error)
                    if attempt < START_ATTEMPTS_COUNT
                        && format!("{error:#}").contains("address already in use") =>
                {
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn try_start(options: &ControlPlaneOptions) -> Result<Self> {
        let kubernetes = Kubernetes::find()?;
        let dir = create_dir(options.dir.as_deref())?;
        let owned = options.netns.iter().filter(|_| options.owns_netns).cloned().collect::<Vec<_>>();
        let guard = Some(Guard::over(&dir, &owned, &[])?);
        let open = || options.netns.as_deref().map(NetNs::open).transpose();
        let ports = Ports::free(open()?.as_ref(), options.listen)?;
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let pki =
            Pki::create(dir.join("pki"), &[options.listen, loopback, Ipv4Addr::new(10, 96, 0, 1).into()])?;
        let mut control_plane = Self {
            etcd: Daemon::new("etcd", Path::new("etcd"), &dir, open()?),
            api: Daemon::new("apiserver", &kubernetes.program("kube-apiserver"), &dir, open()?),
            netns: options.netns.clone(),
            dir,
            kubernetes,
            pki,
            ports,
            controllers: None,
            is_whole: options.controllers,
            generation: 0,
            guard,
        };
        control_plane.add_identity("admin", &["system:masters"])?;
        control_plane.etcd.set_args(control_plane.etcd_args());
        control_plane.set_api_args(&options.api_args);
        control_plane.etcd.start()?;
        control_plane.start_api()?;
        if options.controllers {
            control_plane.controllers = Some(Controllers::start(&control_plane)?);
        }
        Ok(control_plane)
    }

    /// An error with the end of its log once one of its processes has ended by itself.
    ///
    /// # Errors
    /// One has.
    pub fn check(&mut self) -> Result<()> {
        self.etcd.check()?;
        self.api.check()?;
        self.controllers.as_mut().map_or(Ok(()), Controllers::check)
    }

    /// The certificate of the authority that signed everybody's.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.pki.certificate("ca")
    }

    /// Its directory: logs, keys, kubeconfigs, data.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The server's URL.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{}", self.ports.api)
    }

    /// Where the API server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.ports.api
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// `kubectl` as administrator.
    ///
    /// # Errors
    /// The network namespace is gone.
    pub fn kubectl(&self) -> Result<Kubectl> {
        self.kubectl_as(&self.kubeconfig())
    }

    /// `kubectl` with this kubeconfig, beside the server.
    ///
    /// # Errors
    /// The network namespace is gone.
    pub fn kubectl_as(&self, kubeconfig: &Path) -> Result<Kubectl> {
        let netns = self.netns.as_deref().map(NetNs::open).transpose()?;
        Ok(Kubectl::new(&self.kubernetes, kubeconfig, netns))
    }

    /// A kubeconfig for a user of this name in these groups, who is known by a certificate. What the user may do is
    /// for manifests to say.
    ///
    /// # Errors
    /// A name that cannot be in a certificate.
    pub fn add_identity(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let client = self.pki.sign_client(user, groups)?;
        let path = self.dir.join(format!("{client}.kubeconfig"));
        self.pki.write_kubeconfig(&path, &client, &self.server())?;
        Ok(path)
    }

    /// Starts the API server after a kill or a stop, and waits until it is ready; how long that took.
    ///
    /// # Errors
    /// It is running, ended, or is not ready within [`READY_LIMIT`].
    pub fn start_api(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.api.start()?;
        self.wait_until_ready()?;
        Ok(started.elapsed())
    }

    /// Waits until the server says that it is ready.
    ///
    /// # Errors
    /// One of the two ended, or it is not ready within [`READY_LIMIT`].
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let kubectl = self.kubectl()?;
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            self.etcd.check()?;
            self.api.check()?;
            match kubectl.raw("/readyz") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let limit = READY_LIMIT.as_secs();
                    bail!("the API server is not ready after {limit} s: {error:#}\n{}", self.api.log_tail());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The API server's process.
    #[must_use]
    pub fn api(&self) -> &Daemon {
        &self.api
    }

    /// SIGKILL to the API server.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill_api(&mut self) -> Result<()> {
        self.api.kill()
    }

    /// SIGTERM to the API server, and waits for its end.
    ///
    /// # Errors
    /// It is not running, or does not go.
    pub fn stop_api(&mut self) -> Result<()> {
        self.api.stop(END_LIMIT).map(drop)
    }

    /// Flags of the API server beyond its own from its next start on; later ones win.
    pub fn set_api_args(&mut self, more: &[String]) {
        let args = self.api_args().into_iter().chain(more.iter().cloned());
        self.api.set_args(args.collect::<Vec<_>>());
    }

    /// etcd's process.
    #[must_use]
    pub fn etcd(&self) -> &Daemon {
        &self.etcd
    }

    /// SIGKILL to etcd.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill_etcd(&mut self) -> Result<()> {
        self.etcd.kill()
    }

    /// Starts etcd again, with what it had written, and waits until the server is ready again.
    ///
    /// # Errors
    /// As [`ControlPlane::start_api`].
    pub fn start_etcd(&mut self) -> Result<()> {
        self.etcd.start()?;
        self.wait_until_ready()
    }

    /// Applies the resource definitions in a directory, and waits until the server serves them; how many.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn apply_definitions(&self, dir: &Path) -> Result<usize> {
        let path = dir.to_str().context("the path of the resource definitions is no text")?;
        let kubectl = self.kubectl()?;
        // This kubectl knows nothing of rules that later servers enforce; the server leaves out what it does not know.
        let applied = kubectl.run(&["apply", "--validate=false", "-f", path])?;
        kubectl.run(&["wait", "--for=condition=established", "--timeout=60s", "-f", path])?;
        Ok(applied.lines().count())
    }

    /// `etcdctl` with these arguments.
    ///
    /// # Errors
    /// What it says.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        self.etcdctl_with(args, "")
    }

    /// As [`ControlPlane::etcdctl`], with standard input.
    ///
    /// # Errors
    /// As [`ControlPlane::etcdctl`].
    pub fn etcdctl_with(&self, args: &[&str], stdin: &str) -> Result<String> {
        let run = Run::new("etcdctl").env("ETCDCTL_API", "3").stdin(stdin);
        let run = run.args([format!("--endpoints=http://{}", self.ports.etcd)]).args(args);
        match &self.netns {
            Some(netns) => run.ok_in(&NetNs::open(netns)?),
            None => run.ok(),
        }
    }

    /// Deletes every object below a key's prefix (such as `/registry/pods/`) in etcd itself, finalizers or not; the
    /// server sees them go.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn wipe(&self, prefix: &str) -> Result<()> {
        self.etcdctl(&["del", "--prefix", prefix]).map(drop)
    }

    /// Saves all of etcd under a name; the file.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn snapshot(&self, name: &str) -> Result<PathBuf> {
        let file = self.dir.join(format!("{name}.snapshot"));
        let path = file.to_str().context("the directory's name is no text")?;
        self.etcdctl(&["snapshot", "save", path])?;
        Ok(file)
    }

    /// Ends both and starts them with a snapshot's data, as after a disaster: revisions go backwards.
    ///
    /// # Errors
    /// What `etcdctl` says, and as [`ControlPlane::start_api`].
    pub fn restore(&mut self, snapshot: &Path) -> Result<()> {
        // Either may have been killed by the test already.
        if self.api.pid().is_some() {
            self.api.kill()?;
        }
        if self.etcd.pid().is_some() {
            self.etcd.kill()?;
        }
        let old = self.data_dir();
        self.generation += 1;
        let Ports { etcd_peer, .. } = self.ports;
        Run::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore", "--name", MEMBER, "--initial-cluster"])
            .args([format!("{MEMBER}=http://{etcd_peer}")])
            .args(["--initial-advertise-peer-urls".to_owned(), format!("http://{etcd_peer}")])
            .args(["--data-dir".as_ref(), self.data_dir().as_os_str(), snapshot.as_os_str()])
            .ok()?;
        std::fs::remove_dir_all(&old).with_context(|| format!("remove {}", old.display()))?;
        self.etcd.set_args(self.etcd_args());
        self.etcd.start()?;
        self.start_api().map(drop)
    }

    /// Leaves everything running when this value goes; [`ControlPlane::stop_left_running`] ends it.
    pub fn leave_running(mut self) {
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        self.api.leave_running();
        self.etcd.leave_running();
        if let Some(controllers) = &mut self.controllers {
            controllers.leave_running();
        }
    }

    /// Ends what was left running with this directory, and deletes the directory. `false` when there is none.
    ///
    /// # Errors
    /// A process does not go.
    pub fn stop_left_running(dir: &Path) -> Result<bool> {
        let Ok(dir) = dir.canonicalize() else { return Ok(false) };
        Controllers::stop_left_running(&dir)?;
        for name in ["apiserver", "etcd"] {
            stop_daemon_left_running(&dir, name, END_LIMIT)?;
        }
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        Ok(true)
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join(format!("etcd-{}", self.generation))
    }

    fn etcd_args(&self) -> Vec<String> {
        let Ports { etcd, etcd_peer, .. } = self.ports;
        vec![
            format!("--name={MEMBER}"),
            format!("--data-dir={}", self.data_dir().display()),
            format!("--listen-client-urls=http://{etcd}"),
            format!("--advertise-client-urls=http://{etcd}"),
            format!("--listen-peer-urls=http://{etcd_peer}"),
            format!("--initial-advertise-peer-urls=http://{etcd_peer}"),
            format!("--initial-cluster={MEMBER}=http://{etcd_peer}"),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
        ]
    }

    fn api_args(&self) -> Vec<String> {
        let Ports { api, etcd, .. } = self.ports;
        let file = |path: PathBuf| path.display().to_string();
        let pki = &self.pki;
        let service_accounts = if self.is_whole {
            // The Service `kubernetes` leads to this server.
            ["--enable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=lease"]
        } else {
            // Nobody makes service accounts' tokens, and pods shall be accepted all the same. With a reconciler the
            // server would write its own address into the Service `kubernetes`, and wait for that when it ends.
            ["--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"]
        };
        let mut args = vec![
            format!("--etcd-servers=http://{etcd}"),
            format!("--bind-address={}", api.ip()),
            format!("--advertise-address={}", api.ip()),
            format!("--secure-port={}", api.port()),
            format!("--cert-dir={}", file(self.dir.join("cert-dir"))),
            format!("--tls-cert-file={}", file(pki.certificate("apiserver"))),
            format!("--tls-private-key-file={}", file(pki.key("apiserver"))),
            format!("--client-ca-file={}", file(pki.certificate("ca"))),
            format!("--service-account-key-file={}", file(pki.service_account_public_key())),
            format!("--service-account-signing-key-file={}", file(pki.key("sa"))),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            format!("--kubelet-client-certificate={}", file(pki.certificate("apiserver-kubelet"))),
            format!("--kubelet-client-key={}", file(pki.key("apiserver-kubelet"))),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--profiling=false".to_owned(),
        ];
        args.extend(service_accounts.map(str::to_owned));
        args
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if self.guard.is_some() {
            self.controllers = None;
            // First the client, so that its log does not end in complaints; then the guard deletes the directory.
            for daemon in [&mut self.api, &mut self.etcd] {
                if daemon.pid().is_some() {
                    let _ = daemon.kill();
                }
            }
        }
    }
}

impl Ports {
    /// Three that nobody listens on right now.
    fn free(netns: Option<&NetNs>, listen: IpAddr) -> Result<Self> {
        let choose = || -> Result<Self> {
            // All are held until the last is chosen, so that they differ.
            let held = [listen, Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()].map(|address| {
                TcpListener::bind((address, 0)).with_context(|| format!("a free port on {address}"))
            });
            let [api, etcd, etcd_peer] = held.map(|listener| -> Result<SocketAddr> {
                listener?.local_addr().context("the address of a socket")
            });
            Ok(Self { api: api?, etcd: etcd?, etcd_peer: etcd_peer? })
        };
        match netns {
            Some(netns) => netns.run(choose)?,
            None => choose(),
        }
    }
}

/// The directory, without links in its name: processes are recognised by it.
fn create_dir(asked: Option<&Path>) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let unique = || {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        tmpfs_dir().join(format!("poolward-control-plane-{}-{count}", std::process::id()))
    };
    let dir = asked.map_or_else(unique, Path::to_owned);
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    std::fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    dir.canonicalize().with_context(|| format!("resolve {}", dir.display()))
}
