//! One node: a machine with containerd, a kubelet and kube-proxy.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::POD_RANGE;
use super::images::PAUSE_IMAGE;
use crate::{Binaries, ControlPlane, Daemon, FabricNode, Kubernetes, Machine, Run};

/// Where pods ask for names: the address of a Service that somebody may make.
pub const DNS_ADDRESS: &str = "10.96.0.10";

/// What names of Services end with.
pub const DNS_DOMAIN: &str = "cluster.local";

const CONTAINERD: &str = "containerd";

/// How long containerd may take until it answers.
const CONTAINERD_LIMIT: Duration = Duration::from_secs(30);

/// The node whose kubelet reports its IPv4 address alone; the others' report both.
const IPV4_ONLY: u8 = 2;

/// Debian's plugins that a node's runtime may call.
const PLUGINS: [&str; 7] = ["bandwidth", "bridge", "host-local", "loopback", "macvlan", "portmap", "ptp"];
const PLUGINS_DIR: &str = "/usr/lib/cni";

/// What containerd says of the networks it has had made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NetworkAdds {
    /// How many.
    pub count: f64,
    /// How long all of them took together.
    pub seconds: f64,
}

/// One node. Switched off when the value goes, unless it was left running.
#[derive(Debug)]
pub struct Worker {
    /// The name of its Node object, and its host name.
    pub name: String,
    /// Its number in the fabric.
    pub number: u8,
    // Before the machine: what runs on it goes first.
    /// In the order in which they were started.
    daemons: Vec<Daemon>,
    /// The machine.
    pub machine: Machine,
    kubernetes: Kubernetes,
    images: PathBuf,
    /// What its kubelet is told of its addresses.
    addresses: String,
    both_families: bool,
}

/// Who the programs of a node are: kubeconfigs with everything in them, since the control plane's files may be where the
/// node has a directory of its own.
#[derive(Clone, Debug)]
pub(super) struct Identities {
    kubelet: String,
    kube_proxy: String,
    authority: PathBuf,
}

impl Identities {
    pub(super) fn create(control_plane: &ControlPlane, node: &str) -> Result<Self> {
        let create = |user: &str, groups: &[&str]| -> Result<String> {
            let kubeconfig = control_plane.add_identity(user, groups)?;
            control_plane.kubectl_as(&kubeconfig)?.run(&["config", "view", "--raw", "--flatten"])
        };
        Ok(Self {
            kubelet: create(&format!("system:node:{node}"), &["system:nodes"])?,
            kube_proxy: create("system:kube-proxy", &[])?,
            authority: control_plane.authority(),
        })
    }

    fn write(&self, dir: &Path) -> Result<()> {
        for (name, text) in [("kubelet", &self.kubelet), ("kube-proxy", &self.kube_proxy)] {
            let to = dir.join(format!("{name}.kubeconfig"));
            std::fs::write(&to, text).with_context(|| format!("write {}", to.display()))?;
        }
        let to = dir.join("ca.crt");
        std::fs::copy(&self.authority, &to)
            .with_context(|| format!("copy {} to {}", self.authority.display(), to.display()))
            .map(drop)
    }
}

impl Worker {
    /// Starts all of it; does not wait until the node is ready.
    ///
    /// # Errors
    /// The machine does not boot, or containerd does not answer.
    pub(super) fn start(
        node: &FabricNode,
        identities: &Identities,
        dir: &Path,
        group: &str,
        images: &Path,
    ) -> Result<Self> {
        let machine = Machine::boot(&node.name, node.netns.name(), dir, group)?;
        node.netns.set_sysctl("ipv4/ip_forward", "1")?;
        node.netns.set_sysctl("ipv6/conf/all/forwarding", "1")?;
        // As in many a cluster: one kubelet knows one address of its node.
        let both_families = node.number != IPV4_ONLY;
        let mut worker = Self {
            name: node.name.clone(),
            number: node.number,
            daemons: Vec::new(),
            machine,
            kubernetes: Kubernetes::find()?,
            images: images.to_owned(),
            addresses: if both_families {
                format!("{},{}", node.ipv4, node.ipv6)
            } else {
                node.ipv4.to_string()
            },
            both_families,
        };
        identities.write(worker.machine.dir())?;
        worker.write_configuration()?;
        worker.install_plugins()?;
        worker.start_programs(&[])?;
        Ok(worker)
    }

    fn install_plugins(&self) -> Result<()> {
        for plugin in PLUGINS {
            let (from, to) = (Path::new(PLUGINS_DIR).join(plugin), self.plugins().join(plugin));
            std::fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        }
        Ok(())
    }

    /// A power cut.
    ///
    /// # Errors
    /// It is off, or something does not end.
    pub fn switch_off(&mut self) -> Result<()> {
        self.machine.switch_off()?;
        // They have ended with it; this collects them.
        self.daemons.clear();
        Ok(())
    }

    /// Switches it on after that, with containerd, kubelet and kube-proxy.
    ///
    /// # Errors
    /// It is on, or as starting it.
    pub fn switch_on(&mut self) -> Result<()> {
        self.machine.switch_on()?;
        self.start_programs(&[])
    }

    /// Switches on another machine in the place of one that is off: under its name and with its identity, and with an empty
    /// disk but for these image archives.
    ///
    /// # Errors
    /// It is on, its disk cannot be emptied, or as starting it.
    pub fn replace(&mut self, archives: &[&Path]) -> Result<()> {
        self.machine.replace_disk()?;
        self.machine.switch_on()?;
        self.install_plugins()?;
        self.start_programs(archives)
    }

    /// Kills one of its programs, `containerd`, `kubelet` or `kube-proxy`: what it started lives on.
    ///
    /// # Errors
    /// There is none of this name, or it does not run.
    pub fn kill(&mut self, program: &str) -> Result<()> {
        self.program(program)?.kill()
    }

    /// Starts it again after that.
    ///
    /// # Errors
    /// There is none of this name, it runs, or containerd does not answer.
    pub fn start_again(&mut self, program: &str) -> Result<()> {
        self.program(program)?.start()?;
        if program == CONTAINERD { self.await_containerd() } else { Ok(()) }
    }

    fn program(&mut self, name: &str) -> Result<&mut Daemon> {
        let found = self.daemons.iter_mut().find(|daemon| daemon.name() == name);
        found.with_context(|| format!("{} has no program {name:?}", self.name))
    }

    fn start_programs(&mut self, archives: &[&Path]) -> Result<()> {
        self.start_containerd()?;
        for archive in archives {
            self.import_images(archive)?;
        }
        self.start_kubelet()?;
        self.start_kube_proxy()
    }

    /// An error with the end of its log once one of its programs has ended by itself.
    ///
    /// # Errors
    /// One has.
    pub fn check(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::check).with_context(|| self.name.clone())
    }

    /// A program on the node, to run to its end.
    ///
    /// # Errors
    /// The node is off.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<Run> {
        Ok(self.machine.run(program)?.args(args))
    }

    /// `ctr` for what kubelets start.
    ///
    /// # Errors
    /// What it says.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        self.run("ctr", &["--namespace", "k8s.io"])?.args(args).limit(Duration::from_secs(120)).ok()
    }

    /// Imports an image archive.
    ///
    /// # Errors
    /// What `ctr` says.
    pub fn import_images(&self, archive: &Path) -> Result<()> {
        let archive = archive.to_str().context("the archive's path is no text")?;
        self.ctr(&["images", "import", archive]).map(drop)
    }

    /// How long containerd has waited for networks of sandboxes since it started, by its own measure.
    ///
    /// # Errors
    /// It does not answer, or has no such measure.
    pub fn network_adds(&self) -> Result<NetworkAdds> {
        let url = format!("http://{METRICS}/v1/metrics");
        let text = self.run("/bin/busybox", &["wget", "-q", "-O", "-", &url])?.ok()?;
        let value = |name: &str| -> Result<f64> {
            let name = format!("containerd_cri_sandbox_create_network_seconds_{name} ");
            let found = text.lines().find_map(|line| line.strip_prefix(&name));
            let found = found.with_context(|| format!("containerd of {} does not tell {name}", self.name))?;
            found.parse().with_context(|| format!("{name}: {found:?}"))
        };
        Ok(NetworkAdds { count: value("count")?, seconds: value("sum")? })
    }

    /// How many sandboxes have a network of this name: what the runtime keeps of an ADD until its DEL has ended well.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn networks_count(&self, network: &str) -> Result<usize> {
        let dir = self.machine.own("/var/lib/cni/results");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error).with_context(|| format!("read {}", dir.display())),
        };
        let mut count = 0;
        for entry in entries {
            let name = entry.with_context(|| format!("read {}", dir.display()))?.file_name();
            count += usize::from(name.to_string_lossy().starts_with(&format!("{network}-")));
        }
        Ok(count)
    }

    /// Where the node's runtime looks for plugins, seen from outside.
    #[must_use]
    pub fn plugins(&self) -> PathBuf {
        self.machine.own("/opt/cni/bin")
    }

    /// Makes this the network of the node's pods: a list of plugins, in a file of this name.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_network(&self, file: &str, list: &Value) -> Result<()> {
        let dir = self.machine.own("/etc/cni/net.d");
        // Under another name first: the runtime may look at any time.
        let (new, to) = (dir.join(format!("{file}.new")), dir.join(file));
        std::fs::write(&new, list.to_string()).with_context(|| format!("write {}", new.display()))?;
        std::fs::rename(&new, &to).with_context(|| format!("rename to {}", to.display()))
    }

    /// Takes a network away.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn remove_network(&self, file: &str) -> Result<()> {
        let path = self.machine.own("/etc/cni/net.d").join(file);
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// Places a manifest where the kubelet looks for pods of its own.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add_static_pod(&self, name: &str, manifest: &str) -> Result<()> {
        let path = self.static_pod(name);
        std::fs::write(&path, manifest).with_context(|| format!("write {}", path.display()))
    }

    /// Takes it away.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_static_pod(&self, name: &str) -> Result<()> {
        let path = self.static_pod(name);
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    fn static_pod(&self, name: &str) -> PathBuf {
        self.machine.own("/etc/kubernetes/manifests").join(format!("{name}.yaml"))
    }

    /// `poolwardctl` on the node.
    ///
    /// # Errors
    /// What it says.
    pub fn poolwardctl(&self, args: &[&str]) -> Result<String> {
        self.machine.run(Binaries::find()?.ctl)?.args(args).ok()
    }

    fn start_containerd(&mut self) -> Result<()> {
        let config = self.file("containerd.toml");
        self.start_daemon(CONTAINERD, Path::new(CONTAINERD), &["--config".to_owned(), config])?;
        self.await_containerd()?;
        self.import_images(&self.images)
    }

    fn await_containerd(&mut self) -> Result<()> {
        let deadline = Instant::now() + CONTAINERD_LIMIT;
        while let Err(error) = self.ctr(&["version"]) {
            self.program(CONTAINERD)?.check()?;
            if Instant::now() > deadline {
                bail!("containerd of {} does not answer: {error:#}", self.name);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn start_kubelet(&mut self) -> Result<()> {
        let args = [
            format!("--config={}", self.file("kubelet.yaml")),
            format!("--kubeconfig={}", self.file("kubelet.kubeconfig")),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.addresses),
            // Of this release a kubelet reports two addresses only if asked for both families.
            format!("--feature-gates=IPv6DualStack={}", self.both_families),
            "--container-runtime=remote".to_owned(),
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock".to_owned(),
            "--root-dir=/var/lib/kubelet".to_owned(),
            "--cert-dir=/var/lib/kubelet/pki".to_owned(),
            "--v=2".to_owned(),
        ];
        let program = self.kubernetes.program("kubelet");
        self.start_daemon("kubelet", &program, &args)
    }

    fn start_kube_proxy(&mut self) -> Result<()> {
        let args = [
            format!("--kubeconfig={}", self.file("kube-proxy.kubeconfig")),
            format!("--hostname-override={}", self.name),
            "--proxy-mode=iptables".to_owned(),
            format!("--cluster-cidr={POD_RANGE}"),
            // The table of connections is the kernel's, and so the machine's.
            "--conntrack-max-per-core=0".to_owned(),
            "--healthz-bind-address=127.0.0.1:10256".to_owned(),
            "--v=2".to_owned(),
        ];
        let program = self.kubernetes.program("kube-proxy");
        self.start_daemon("kube-proxy", &program, &args)
    }

    fn start_daemon(&mut self, name: &str, program: &Path, args: &[String]) -> Result<()> {
        let mut daemon = self.machine.daemon(name, program, args)?;
        daemon.start()?;
        self.daemons.push(daemon);
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.machine.dir().join(name).display().to_string()
    }

    fn write_configuration(&self) -> Result<()> {
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": false},
                "x509": {"clientCAFile": self.file("ca.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.machine.cgroup()),
            "staticPodPath": "/etc/kubernetes/manifests",
            // Static pods are looked for that often.
            "fileCheckFrequency": "1s",
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": DNS_DOMAIN,
            "failSwapOn": false,
            "resolvConf": "",
            // The disk is the machine's: no pod of the lab is thrown out because it is full.
            "evictionHard": {
                "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%",
                "nodefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            // Nodes of the lab say at once what they have become; unchanged they say it rarely.
            "nodeStatusUpdateFrequency": "1s",
            "nodeStatusReportFrequency": "30s",
            "syncFrequency": "5s",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        });
        let containerd = format!(
            r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[metrics]
  address = "{METRICS}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE, as in a container, nobody may make themselves less likely to be killed.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#
        );
        for (name, text) in [("kubelet.yaml", kubelet.to_string()), ("containerd.toml", containerd)] {
            let to = self.file(name);
            std::fs::write(&to, text).with_context(|| format!("write {to}"))?;
        }
        Ok(())
    }

    /// Leaves it on when this value goes.
    pub(super) fn leave_running(&mut self) {
        self.machine.leave_running();
        self.daemons.iter_mut().for_each(Daemon::leave_running);
    }
}

/// Where containerd tells its metrics, on the node.
const METRICS: &str = "127.0.0.1:1338";
