//! The controller-manager and the scheduler, for clusters whose pods nobody binds by hand.

use anyhow::Result;

use super::{ControlPlane, END_LIMIT, SERVICE_RANGE};
use crate::{Daemon, NetNs};

/// Out of which nodes get their `podCIDR`, a /24 each. Poolward does not look at them unless it is told to.
pub const NODE_RANGE: &str = "10.88.0.0/16";

/// Both, beside the API server and in its directory.
#[derive(Debug)]
pub(super) struct Controllers {
    daemons: Vec<Daemon>,
}

/// Names of the two, of their logs and process ids.
pub(super) const NAMES: [&str; 2] = ["controller-manager", "scheduler"];

impl Controllers {
    /// Starts both; they wait for the server by themselves.
    pub(super) fn start(of: &ControlPlane) -> Result<Self> {
        let file = |path: std::path::PathBuf| path.display().to_string();
        let shared = |user: &str, port: u16| -> Result<Vec<String>> {
            Ok(vec![
                format!("--kubeconfig={}", file(of.add_identity(user, &[])?)),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                "--port=0".to_owned(),
                format!("--secure-port={port}"),
                format!("--cert-dir={}", file(of.dir.join("cert-dir"))),
                "--profiling=false".to_owned(),
            ])
        };
        let manager = shared("system:kube-controller-manager", 10257)?.into_iter().chain([
            format!("--service-account-private-key-file={}", file(of.pki.key("sa"))),
            format!("--root-ca-file={}", file(of.pki.certificate("ca"))),
            "--use-service-account-credentials=true".to_owned(),
            "--allocate-node-cidrs=true".to_owned(),
            format!("--cluster-cidr={NODE_RANGE}"),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            // Nobody measures here.
            "--controllers=*,-horizontalpodautoscaling".to_owned(),
        ]);
        let scheduler = shared("system:kube-scheduler", 10259)?;
        let mut controllers = Self { daemons: Vec::new() };
        for (name, args) in NAMES.into_iter().zip([manager.collect(), scheduler]) {
            let netns = of.netns.as_deref().map(NetNs::open).transpose()?;
            let program = of.kubernetes.program(&format!("kube-{name}"));
            let mut daemon = Daemon::new(name, &program, &of.dir, netns);
            daemon.set_args(args);
            daemon.start()?;
            controllers.daemons.push(daemon);
        }
        Ok(controllers)
    }

    /// An error with the end of its log once one of them has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::check)
    }

    pub(super) fn leave_running(&mut self) {
        self.daemons.iter_mut().for_each(Daemon::leave_running);
    }

    pub(super) fn stop_left_running(dir: &std::path::Path) -> Result<()> {
        for name in NAMES {
            crate::stop_daemon_left_running(dir, name, END_LIMIT)?;
        }
        Ok(())
    }
}
