//! Which server, as whom, and how long a request may take.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use model::NodeName;

/// How a store is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The kubeconfig file; left out: the service account of the pod this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The context of that file; left out: its current one.
    pub context: Option<String>,
    /// The node whose Pods are listed and watched; left out: all of them.
    pub node_name: Option<NodeName>,
    /// How long things may take.
    pub timeouts: Timeouts,
}

/// How long things may take. Whatever is not over by then is given up; a write's outcome is then not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To be connected.
    pub connect: Duration,
    /// One request, its answer read.
    pub request: Duration,
    /// One page of a list.
    pub list: Duration,
    /// Silence on a watch after which its connection is taken for dead. The server sends a bookmark about once a
    /// minute.
    pub watch_silence: Duration,
    /// After this at the latest the server is asked to end a watch; it is gone on with at once, over a connection that
    /// may lead to another server.
    pub watch_length: Duration,
    /// The longest pause between tries to go on with a watch.
    pub watch_pause: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(10),
            list: Duration::from_secs(60),
            watch_silence: Duration::from_secs(150),
            watch_length: Duration::from_secs(600),
            watch_pause: Duration::from_secs(30),
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file does not say where the server is.
    #[error("kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// No file was named, and this is no pod.
    #[error("no kubeconfig is named, and the service account of a pod cannot be used: {0}")]
    InCluster(#[source] Box<kube::config::InClusterError>),
    /// Certificates or keys are of no use.
    #[error("connect to the Kubernetes API: {0}")]
    Client(#[source] Box<kube::Error>),
}

impl Options {
    /// Where the server is and who we are to it.
    pub(super) async fn config(&self) -> Result<Config, ConnectError> {
        let mut config = match &self.kubeconfig {
            Some(path) => self.load_file(path).await.map_err(|source| ConnectError::Kubeconfig {
                path: path.clone(),
                source: Box::new(source),
            })?,
            None => Config::incluster().map_err(|error| ConnectError::InCluster(Box::new(error)))?,
        };
        // It would send a write again whose outcome is not known.
        config.default_retry = false;
        config.connect_timeout = Some(self.timeouts.connect);
        let agent = concat!("poolward/", env!("CARGO_PKG_VERSION"));
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(agent)));
        Ok(config)
    }

    async fn load_file(&self, path: &PathBuf) -> Result<Config, kube::config::KubeconfigError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await
    }
}
