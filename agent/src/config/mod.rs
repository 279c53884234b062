//! The agent's configuration: a YAML file, flags over it, and the checked result.
//!
//! `raw` is what may be written; this module turns it into [`Config`] and says for every mistake which key on
//! which line is wrong. It starts nothing.

mod cni_settings;
mod commands;
mod ipam_settings;
mod raw;
mod store_settings;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
pub use dataplane::EncapBackend;

use dataplane::AttachMode;
use model::{Cidr, Labels, MIN_MTU_BYTES, MarkLayout, NodeName};

pub use cni_settings::{AddressSource, CniConfig};
pub use commands::{CleanupArgs, Command, InstallArgs, Probe};
pub use ipam_settings::of_cluster as settings_of_cluster;
use raw::{Raw, Spanned};
pub use store_settings::StoreConfig;

/// The node agent of Poolward: allocates pod addresses from this node's blocks, wires pods, and keeps spoofed
/// packets off the network.
#[derive(Debug, Default, Parser)]
#[command(
    name = "poolward-agent",
    version,
    after_help = "The file's keys, all optional, with their defaults:\n\
        \n  nodeName: <host name>                     name of this node\
        \n  nodeLabels: {}                            labels that pools' nodeSelector sees; with type\
        \n                                            kubernetes those of the Node object\
        \n  socketPath: /run/poolward/agent.sock      where the CNI plugin and poolwardctl connect (mode 0600)\
        \n  stateDir: /run/poolward                   journal and its lock; a tmpfs, gone with a reboot\
        \n  store:                                    where pools, reservations and blocks are kept:\
        \n    type: embedded                            embedded (a file; one node) or kubernetes (custom resources)\
        \n    kubeconfig: <in-cluster>                  how the API server is reached; with type kubernetes\
        \n  storePath: /var/lib/poolward/store.redb   the file; with type embedded\
        \n  bpfPinDir: /sys/fs/bpf/poolward           programs, maps and links; on a bpffs of the host\
        \n  bpfSharedMark: <none>                     directory that `install` leaves on the host's bpffs; where it is\
        \n                                            missing, the bpffs is a container's own, and is refused\
        \n  sysctlDir: /proc/sys/net                  elsewhere in a container, whose own are read-only\
        \n  markMask: 0x0fff0000                      bits of skb->mark that are ours\
        \n  routeProtocol: 80                         protocol number of our routes (5 to 255)\
        \n  uplink: <interface of the default route>\
        \n  nodeIp: <the Node object's InternalIP>    IPv4 address by which other nodes reach this one\
        \n  encapBackend: auto                        auto, ebpf or device: who wraps packets in IPIP\
        \n  mtuBytes: <the uplink's, less encapsulation where a pool asks for it>\
        \n  attachMode: auto                          auto, tcx or clsact\
        \n  maxPods: 1024                             sizes of the kernel's maps, fixed when they are first made;\
        \n  maxPools: 1024                            to change one: stop the agent, --unload, start it again\
        \n  resyncSeconds: 60                         how often kernel state is compared without a cause\
        \n  publishSeconds: 10                        least time between writes of NodeAddresses\
        \n  podCIDRs: []                              ranges that host-local gives addresses from for `usePodCidr`; with\
        \n                                            type kubernetes those of the Node object\
        \n  leakGraceSeconds: 300                     addresses of a pod whose interface and namespace are gone are freed\
        \n                                            when they have been gone for this long\
        \n  allowSourcePrefixes: Disabled             Disabled or Any: whether pods may ask, by the annotation\
        \n                                            allowedSourcePrefixes, to send from other sources than their own\
        \n  onLocked: exit                            exit or wait while another agent of this node runs\
        \n  cni:                                      what the container runtime is told:\
        \n    conflistPath: <none>                      link to a list in stateDir, made once pods can get addresses\
        \n    conflist: <poolward, then portmap>        what it holds, as JSON\
        \n  ipam:                                     how addresses are given:\
        \n    strictAffinity: false                     never borrow addresses from other nodes' blocks, nor lend\
        \n    autoAllocateBlocks: true                  claim blocks when own ones have no room\
        \n    enforceSelectorsOnRequest: true           selectors hold for pools that a pod asks for by name, too\
        \n    maxBlocksPerNode: <no limit>              most blocks of one family this node may own\
        \n    atBlockLimit: Fail                        Fail or Borrow at that limit\
        \n    releaseAfterSeconds: 300                  an empty block that is not needed is given up after this\
        \n    returnAfterSeconds: 60                    a borrowed address that nobody holds, after this\
        \n    goneAfterSeconds: 600                     blocks of a node without Node object may be taken after this;\
        \n                                              such a node must be off or fenced by then\
        \n  log: { level: info, format: text }        level as in RUST_LOG; format text or json\n\
        \nExit codes: 0 stopped by a signal, 1 failed, 2 usage or configuration, 3 another agent holds the journal."
)]
pub struct Flags {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// YAML file to read.
    #[arg(long, global = true, value_name = "FILE", env = "POOLWARD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Name of this node (overrides nodeName).
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Unix socket to serve on (overrides socketPath).
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// What to do while another agent of this node holds the journal (overrides onLocked).
    #[arg(long, value_name = "WHAT")]
    pub on_locked: Option<OnLocked>,
    /// Log level, or a filter as in RUST_LOG (overrides log.level).
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Check the configuration, print it and exit.
    #[arg(long)]
    pub check: bool,
    /// Take all eBPF programs, maps and pins off and exit. Pods stay, but nothing checks or tags their packets until
    /// an agent starts again. Needed when the sizes of maps are to change.
    #[arg(long, conflicts_with = "check")]
    pub unload: bool,
}

/// What to do while another agent of this node holds the journal's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnLocked {
    /// Leave with exit code 3.
    Exit,
    /// Wait until it ends.
    Wait,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The checked configuration. Made once at start; parts of it are handed to those who need them.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node_name: NodeName,
    /// Labels of this node, where it has no Node object.
    pub node_labels: Labels,
    /// Unix socket to serve on.
    pub socket_path: PathBuf,
    /// Where the journal and its lock lie.
    pub state_dir: PathBuf,
    /// Where the cluster's objects are kept.
    pub store: StoreConfig,
    /// Where programs, maps and links are pinned.
    pub bpf_pin_dir: PathBuf,
    /// A directory on the host's bpffs, made by `install`, without which the agent does not start.
    pub bpf_shared_mark: Option<PathBuf>,
    /// Where the switches of `/proc/sys/net` are.
    pub sysctl_dir: PathBuf,
    /// What the container runtime is told, and where; `None`: not by us.
    pub cni: Option<CniConfig>,
    /// Which bits of `skb->mark` are ours.
    pub mark_layout: MarkLayout,
    /// Protocol number of our routes.
    pub route_protocol: u8,
    /// The interface towards the rest of the network; `None`: that of the default route.
    pub uplink: Option<String>,
    /// The IPv4 address by which other nodes reach this one; `None`: that of its Node object.
    pub node_ip: Option<Ipv4Addr>,
    /// Who wraps packets in IPIP.
    pub encap_backend: EncapBackend,
    /// MTU of pods in bytes; `None`: from the uplink.
    pub mtu_bytes: Option<u32>,
    /// How programs are attached.
    pub attach_mode: AttachMode,
    /// Most pods of this node that the kernel's maps have room for.
    pub max_pods: u32,
    /// Most pools of each family that they have room for.
    pub max_pools: u32,
    /// How often kernel state is compared without a cause.
    pub resync: Duration,
    /// The least time between writes of what this node has given out.
    pub publish_interval: Duration,
    /// Ranges of this node's own, where it has no Node object.
    pub pod_cidrs: Vec<Cidr>,
    /// How long a pod's interface and namespace must be gone before its addresses are.
    pub leak_grace: Duration,
    /// Whether pods may ask to send from other sources than their own.
    pub allow_source_prefixes: bool,
    /// What to do while another agent runs.
    pub on_locked: OnLocked,
    /// How addresses are given.
    pub ipam: ipam::Settings,
    /// Log filter.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// A mistake in the configuration: file, line and key where known, and what is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ConfigError {
    place: String,
    what: String,
}

impl Config {
    /// Reads the file the flags name, if any, and lays the flags over it.
    ///
    /// # Errors
    /// An unreadable file, a key that is unknown, or a value that does not fit its key.
    pub fn load(flags: &Flags, host_name: &str) -> Result<Self, ConfigError> {
        let (name, text) = match &flags.config {
            None => ("flags".to_owned(), String::new()),
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
                    place: format!("configuration {name}"),
                    what: format!("cannot be read: {error}"),
                })?;
                (name, text)
            }
        };
        Self::resolve(&Raw::parse(&name, &text)?, &name, flags, host_name)
    }

    fn resolve(raw: &Raw, file: &str, flags: &Flags, host_name: &str) -> Result<Self, ConfigError> {
        let at = |key: &'static str| Key { file, key };
        let node_name = match (&flags.node_name, &raw.node_name) {
            (Some(flag), _) => flag.parse().map_err(|error| flag_error("--node-name", error))?,
            (None, Some(value)) => value.value.parse().map_err(|error| at("nodeName").error(value, error))?,
            (None, None) => host_name.parse().map_err(|error| ConfigError {
                place: "host name".into(),
                what: format!("{error}; set nodeName"),
            })?,
        };
        let mark_layout = at("markMask").read(raw.mark_mask.as_ref(), MarkLayout::DEFAULT, |text| {
            let mask = parse_mask(text).ok_or("expected a number such as 0x0fff0000")?;
            MarkLayout::new(mask).map_err(|error| error.to_string())
        })?;
        let route_protocol = at("routeProtocol").read(raw.route_protocol.as_ref(), 80, |number| {
            u8::try_from(*number)
                .ok()
                .filter(|number| *number > 4)
                .ok_or("expected 5 to 255: up to 4 belongs to the kernel (rtnetlink(7))".to_owned())
        })?;
        let mtu_bytes =
            at("mtuBytes").read(raw.mtu_bytes.as_ref(), None, |number| match u32::try_from(*number) {
                Ok(mtu) if (MIN_MTU_BYTES..=65_535).contains(&mtu) => Ok(Some(mtu)),
                _ => Err(format!("expected {MIN_MTU_BYTES} to 65535 bytes")),
            })?;
        let resync =
            at("resyncSeconds").read(raw.resync_seconds.as_ref(), Duration::from_secs(60), |number| {
                match *number {
                    1..=86_400 => Ok(Duration::from_secs(*number)),
                    _ => Err("expected 1 to 86400 seconds".to_owned()),
                }
            })?;
        let publish_interval =
            at("publishSeconds").read(raw.publish_seconds.as_ref(), Duration::from_secs(10), |number| {
                match *number {
                    1..=3_600 => Ok(Duration::from_secs(*number)),
                    _ => Err("expected 1 to 3600 seconds".to_owned()),
                }
            })?;
        let pod_cidrs = at("podCIDRs").read(raw.pod_cidrs.as_ref(), Vec::new(), |texts| {
            let cidr = |text: &String| text.parse::<Cidr>().map_err(|error| format!("{text:?}: {error}"));
            texts.iter().map(cidr).collect()
        })?;
        let leak_grace = at("leakGraceSeconds").read(
            raw.leak_grace_seconds.as_ref(),
            Duration::from_secs(300),
            |number| match *number {
                1..=86_400 => Ok(Duration::from_secs(*number)),
                _ => Err("expected 1 to 86400 seconds".to_owned()),
            },
        )?;
        let allow_source_prefixes = at("allowSourcePrefixes")
            .choice(raw.allow_source_prefixes.as_ref(), &[("Disabled", false), ("Any", true)])?;
        let map_size = |key: &'static str, value: Option<&Spanned<u64>>| {
            at(key).read(value, 1024, |number| match u32::try_from(*number) {
                Ok(size) if (1..=65_536).contains(&size) => Ok(size),
                _ => Err("expected 1 to 65536".to_owned()),
            })
        };
        let attach_mode = at("attachMode").choice(
            raw.attach_mode.as_ref(),
            &[("auto", AttachMode::Auto), ("tcx", AttachMode::Tcx), ("clsact", AttachMode::Clsact)],
        )?;
        let encap_backend = at("encapBackend").choice(
            raw.encap_backend.as_ref(),
            &[("auto", EncapBackend::Auto), ("ebpf", EncapBackend::Ebpf), ("device", EncapBackend::Device)],
        )?;
        let node_ip = at("nodeIp").read(raw.node_ip.as_ref(), None, |text| {
            text.parse().map(Some).map_err(|_| "expected an IPv4 address".to_owned())
        })?;
        let on_locked = at("onLocked")
            .choice(raw.on_locked.as_ref(), &[("exit", OnLocked::Exit), ("wait", OnLocked::Wait)])?;
        let log = raw.log.as_ref();
        let log_format = at("log.format").choice(
            log.and_then(|log| log.format.as_ref()),
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
        )?;
        let path = |key: &'static str, value: Option<&Spanned<PathBuf>>, default: &str| {
            at(key).read(value, PathBuf::from(default), |path| {
                if path.is_absolute() {
                    Ok(path.clone())
                } else {
                    Err("expected an absolute path".to_owned())
                }
            })
        };
        let uplink = at("uplink").read(raw.uplink.as_ref(), None, |name| {
            if (1..=model::MAX_IFNAME_LEN).contains(&name.len()) && !name.contains(['/', ' ']) {
                Ok(Some(name.clone()))
            } else {
                Err(format!(
                    "{name:?} is not an interface name: expected 1 to {} bytes",
                    model::MAX_IFNAME_LEN
                ))
            }
        })?;
        let socket_path = match &flags.socket {
            Some(path) => path.clone(),
            None => path("socketPath", raw.socket_path.as_ref(), "/run/poolward/agent.sock")?,
        };
        let bpf_shared_mark = match &raw.bpf_shared_mark {
            None => None,
            value => Some(path("bpfSharedMark", value.as_ref(), "")?),
        };
        Ok(Self {
            node_name,
            node_labels: raw.node_labels.clone(),
            cni: cni_settings::resolve(raw.cni.as_ref(), &socket_path, file)?,
            socket_path,
            state_dir: path("stateDir", raw.state_dir.as_ref(), "/run/poolward")?,
            store: store_settings::resolve(raw, file)?,
            bpf_pin_dir: path("bpfPinDir", raw.bpf_pin_dir.as_ref(), "/sys/fs/bpf/poolward")?,
            bpf_shared_mark,
            sysctl_dir: path("sysctlDir", raw.sysctl_dir.as_ref(), "/proc/sys/net")?,
            mark_layout,
            route_protocol,
            uplink,
            node_ip,
            encap_backend,
            mtu_bytes,
            attach_mode,
            max_pods: map_size("maxPods", raw.max_pods.as_ref())?,
            max_pools: map_size("maxPools", raw.max_pools.as_ref())?,
            resync,
            publish_interval,
            pod_cidrs,
            leak_grace,
            allow_source_prefixes,
            ipam: ipam_settings::resolve(raw.ipam.as_ref(), file)?,
            on_locked: flags.on_locked.unwrap_or(on_locked),
            log_level: flags
                .log_level
                .clone()
                .or_else(|| log.and_then(|log| log.level.clone()))
                .unwrap_or_else(|| "info".to_owned()),
            log_format,
        })
    }
}

fn flag_error(flag: &str, error: impl std::fmt::Display) -> ConfigError {
    ConfigError { place: flag.to_owned(), what: error.to_string() }
}

/// A hexadecimal (0x..) or decimal number of 32 bits.
fn parse_mask(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A key of the file, for messages.
struct Key<'a> {
    file: &'a str,
    key: &'static str,
}

impl Key<'_> {
    fn error<T>(&self, value: &Spanned<T>, what: impl std::fmt::Display) -> ConfigError {
        let line = value.referenced.line();
        ConfigError {
            place: format!("configuration {}, line {line}, key {}", self.file, self.key),
            what: what.to_string(),
        }
    }

    fn read<T, U>(
        &self,
        value: Option<&Spanned<T>>,
        default: U,
        convert: impl Fn(&T) -> Result<U, String>,
    ) -> Result<U, ConfigError> {
        match value {
            None => Ok(default),
            Some(value) => convert(&value.value).map_err(|what| self.error(value, what)),
        }
    }

    /// One of a list of words; the first is the default.
    fn choice<T: Copy>(
        &self,
        value: Option<&Spanned<String>>,
        words: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        self.read(value, words[0].1, |text| {
            words.iter().find(|(word, _)| word == text).map(|(_, choice)| *choice).ok_or_else(|| {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                format!("{text:?} is none of {}", words.join(", "))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let raw = Raw::parse("a.yaml", text).map_err(|error| error.to_string())?;
        Config::resolve(&raw, "a.yaml", &Flags::default(), "node-1").map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let config = load("").unwrap();
        assert_eq!(config.node_name.as_str(), "node-1");
        assert_eq!(config.socket_path, Path::new("/run/poolward/agent.sock"));
        assert_eq!((config.route_protocol, config.mark_layout.mask()), (80, 0x0fff_0000));
        assert_eq!((config.on_locked, config.log_format), (OnLocked::Exit, LogFormat::Text));
    }

    #[test]
    fn every_key_is_read() {
        let config = load(
            "nodeName: n2\nnodeLabels: {zone: a}\nsocketPath: /x/s\nstateDir: /x\nstorePath: /x/r\n\
             bpfPinDir: /b\nmarkMask: 0xff0000\nrouteProtocol: 90\nuplink: up0\nmtuBytes: 1400\n\
             bpfSharedMark: /b_mark\nsysctlDir: /host/net\ncni: {conflistPath: /n/1.conflist}\n\
             store: {type: embedded}\nnodeIp: 192.0.2.7\nencapBackend: device\npublishSeconds: 3\n\
             podCIDRs: [10.244.1.0/24]\nleakGraceSeconds: 7\nallowSourcePrefixes: Any\n\
             attachMode: clsact\nmaxPods: 200\nmaxPools: 9\nresyncSeconds: 5\nonLocked: wait\nlog:\n  level: debug\n  format: json\n",
        )
        .unwrap();
        assert_eq!((config.max_pods, config.max_pools), (200, 9));
        assert_eq!(config.store, StoreConfig::Embedded { path: "/x/r".into() });
        assert_eq!(config.bpf_shared_mark.as_deref(), Some(Path::new("/b_mark")));
        assert_eq!(config.sysctl_dir, Path::new("/host/net"));
        let cni = config.cni.unwrap();
        assert_eq!(cni.conflist_path, Path::new("/n/1.conflist"));
        assert!(cni.conflist.contains("/x/s"), "{}", cni.conflist);
        assert_eq!(config.node_ip, Some(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(config.encap_backend, EncapBackend::Device);
        assert_eq!(config.publish_interval, Duration::from_secs(3));
        assert_eq!(config.pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
        assert_eq!((config.leak_grace, config.allow_source_prefixes), (Duration::from_secs(7), true));
        assert_eq!(config.node_labels.get("zone").map(String::as_str), Some("a"));
        assert_eq!((config.mark_layout.mask(), config.mtu_bytes), (0xff_0000, Some(1400)));
        assert_eq!((config.attach_mode, config.on_locked), (AttachMode::Clsact, OnLocked::Wait));
        assert_eq!((config.log_level.as_str(), config.log_format), ("debug", LogFormat::Json));
    }

    #[test]
    fn the_store_is_a_file_unless_it_is_an_api_server() {
        let check = |text: &str, expected: StoreConfig| assert_eq!(load(text).unwrap().store, expected);
        check("", StoreConfig::Embedded { path: "/var/lib/poolward/store.redb".into() });
        check("storePath: /x\n", StoreConfig::Embedded { path: "/x".into() });
        check("store: {type: kubernetes}\n", StoreConfig::Kubernetes { kubeconfig: None });
        let kubeconfig = Some("/etc/k".into());
        check("store: {type: kubernetes, kubeconfig: /etc/k}\n", StoreConfig::Kubernetes { kubeconfig });
    }

    #[test]
    fn each_mistake_names_file_line_and_key() {
        let check = |text: &str, parts: &[&str]| {
            let error = load(text).unwrap_err();
            for part in ["a.yaml"].iter().chain(parts) {
                assert!(error.contains(part), "{error:?} lacks {part:?}");
            }
        };
        check("nodeName: n1\nmarkmask: 1\n", &["line 2", "markmask"]);
        check("\n\nmarkMask: 0xf000\n", &["line 3", "markMask", "0xe000"]);
        check("markMask: seven\n", &["line 1", "markMask", "0x0fff0000"]);
        check("routeProtocol: 2\n", &["line 1", "routeProtocol", "5 to 255"]);
        check("mtuBytes: 100\n", &["line 1", "mtuBytes", "1280"]);
        check("store: {type: etcd}\n", &["line 1", "store.type", "embedded, kubernetes"]);
        check("store:\n  kubeconfig: /k\n", &["line 2", "store.kubeconfig", "type kubernetes"]);
        check("store: {type: kubernetes}\nstorePath: /x\n", &["line 2", "storePath", "type embedded"]);
        check("store: {type: kubernetes, kubeconfig: k}\n", &["line 1", "store.kubeconfig", "absolute"]);
        check("nodeIp: fd00::1\n", &["line 1", "nodeIp", "IPv4"]);
        check("encapBackend: vxlan\n", &["line 1", "encapBackend", "auto, ebpf, device"]);
        check("publishSeconds: 0\n", &["line 1", "publishSeconds"]);
        check("podCIDRs: [10.244.1.1/24]\n", &["line 1", "podCIDRs", "10.244.1.0/24"]);
        check("leakGraceSeconds: 0\n", &["line 1", "leakGraceSeconds", "86400"]);
        check("allowSourcePrefixes: any\n", &["line 1", "allowSourcePrefixes", "Disabled, Any"]);
        check("maxPods: 0\n", &["line 1", "maxPods", "65536"]);
        check("resyncSeconds: 0\n", &["line 1", "resyncSeconds"]);
        check("nodeName: Bad_Name\n", &["line 1", "nodeName", "Bad_Name"]);
        check("stateDir: run\n", &["line 1", "stateDir", "absolute"]);
        check("cni:\n  conflistPath: /n/1.conf\n", &["line 2", "cni.conflistPath", ".conflist"]);
        check("cni: {conflist: x}\n", &["line 1", "cni.conflist", "not JSON"]);
        check("bpfSharedMark: x\n", &["line 1", "bpfSharedMark", "absolute"]);
        check("log:\n  format: xml\n", &["line 2", "log.format", "xml", "text, json"]);
        check("log:\n  colour: red\n", &["line 2", "colour"]);
        check("nodeName: [1\n", &["line"]);
        check("uplink: this-name-is-too-long\n", &["line 1", "uplink"]);
        check("nodeLabels: 7\n", &["line 1"]);
    }
}
