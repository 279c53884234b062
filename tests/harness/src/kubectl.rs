//! Calls `kubectl`, as a person or a script would: one identity, one server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Finished, Kubernetes, NetNs, Run};

/// How long the controller-manager may take to see a namespace.
const SERVICE_ACCOUNT_LIMIT: Duration = Duration::from_secs(60);

/// `kubectl` with one kubeconfig, in one network namespace.
#[derive(Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
    netns: Option<NetNs>,
}

impl Kubectl {
    /// For this kubeconfig; what `kubectl` learns of the server it keeps beside it.
    #[must_use]
    pub fn new(kubernetes: &Kubernetes, kubeconfig: &Path, netns: Option<NetNs>) -> Self {
        let dir = kubeconfig.parent().unwrap_or(Path::new("/"));
        Self {
            program: kubernetes.program("kubectl"),
            kubeconfig: kubeconfig.to_owned(),
            cache: dir.join("kubectl-cache"),
            netns,
        }
    }

    /// The kubeconfig it uses.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Removes all pods of a namespace from the API server, as if their nodes were lost; kubelets take them down later.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn delete_pods_at_once(&self, namespace: &str) -> Result<()> {
        let now = [
            "delete",
            "pod",
            "--all",
            "--grace-period=0",
            "--force",
            "--wait=false",
            "--namespace",
            namespace,
        ];
        self.run(&now).map(drop)
    }

    /// Waits until pods can be created in a namespace: until the controller-manager has seen it.
    ///
    /// # Errors
    /// It has not within a minute.
    pub fn wait_for_service_account(&self, namespace: &str) -> Result<()> {
        let started = Instant::now();
        while let Err(error) = self.run(&["get", "serviceaccount", "default", "--namespace", namespace]) {
            if started.elapsed() > SERVICE_ACCOUNT_LIMIT {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Runs it to the end, whatever the exit code.
    ///
    /// # Errors
    /// It cannot be started or hangs.
    pub fn finish(&self, args: &[&str], stdin: &str) -> Result<Finished> {
        let run = self.command(args).stdin(stdin);
        match &self.netns {
            Some(netns) => run.finish_in(netns),
            None => run.finish(),
        }
    }

    /// Runs it and returns what it prints.
    ///
    /// # Errors
    /// Any exit code but 0, with what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.run_with(args, "")
    }

    /// As [`Kubectl::run`], with standard input.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn run_with(&self, args: &[&str], stdin: &str) -> Result<String> {
        self.finish(args, stdin)?.ok().with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// As [`Kubectl::run`], for a command that itself waits, up to `limit`.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn long(&self, args: &[&str], limit: Duration) -> Result<String> {
        let run = self.command(args).limit(limit + Duration::from_secs(10));
        let finished = match &self.netns {
            Some(netns) => run.finish_in(netns),
            None => run.finish(),
        };
        finished?.ok().with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// As [`Kubectl::run`] with `-o json`, parsed.
    ///
    /// # Errors
    /// As [`Kubectl::run`], and output that is not JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let text = self.run(&args)?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {}: not JSON", args.join(" ")))
    }

    /// `get --raw` of a path of the server.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn raw(&self, path: &str) -> Result<String> {
        self.run(&["get", "--raw", path])
    }

    /// `apply -f -` with these manifests.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.run_with(&["apply", "-f", "-"], manifests)
    }

    /// As [`Kubectl::apply`], with nothing checked before the server does: what kubectl itself finds depends on whether
    /// the server has published its schemas by then.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn apply_unchecked(&self, manifests: &str) -> Result<String> {
        self.run_with(&["apply", "--validate=false", "-f", "-"], manifests)
    }

    /// POST of one object to a path of the server, as it is: status included where the server takes it.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn create_raw(&self, path: &str, object: &Value) -> Result<String> {
        self.run_with(&["create", "--raw", path, "-f", "-"], &object.to_string())
    }

    /// PUT of one object to a path of the server, such as a status.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn replace_raw(&self, path: &str, object: &Value) -> Result<String> {
        self.run_with(&["replace", "--raw", path, "-f", "-"], &object.to_string())
    }

    fn command(&self, args: &[&str]) -> Run {
        Run::new(&self.program)
            .args(["--kubeconfig"])
            .args([&self.kubeconfig])
            .args(["--cache-dir"])
            .args([&self.cache])
            .args(args)
            .limit(Duration::from_secs(60))
    }
}
