//! Calls `poolwardctl`, as a person or a script would.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Binaries, Finished, Run};

/// `poolwardctl` with the socket of one agent.
#[derive(Clone, Debug)]
pub struct Ctl {
    program: PathBuf,
    socket: PathBuf,
}

impl Ctl {
    /// For the agent that listens on this socket.
    #[must_use]
    pub fn new(binaries: &Binaries, socket: &Path) -> Self {
        Self { program: binaries.ctl.clone(), socket: socket.to_owned() }
    }

    /// Runs it to the end, whatever the exit code.
    ///
    /// # Errors
    /// It cannot be started or hangs.
    pub fn finish(&self, args: &[&str]) -> Result<Finished> {
        self.command(args).finish()
    }

    /// Runs it and returns what it prints.
    ///
    /// # Errors
    /// Any exit code but 0, with what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.command(args).ok()
    }

    /// As [`Ctl::run`] with `-o json`, parsed.
    ///
    /// # Errors
    /// As [`Ctl::run`], and output that is not JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let text = self.run(&args)?;
        serde_json::from_str(&text).with_context(|| format!("poolwardctl {}: not JSON", args.join(" ")))
    }

    /// `apply -f -` with this manifest.
    ///
    /// # Errors
    /// As [`Ctl::run`].
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.command(&["apply", "-f", "-"]).stdin(manifest).ok()
    }

    fn command(&self, args: &[&str]) -> Run {
        Run::new(&self.program).args(["--socket"]).args([&self.socket]).args(args)
    }
}
