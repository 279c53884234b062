//! The desk of an operator: `kubectl` and `poolwardctl` as administrator, a login on every node, and the pages to go by.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Cluster;
use crate::{Binaries, Desk, Kubernetes, NodeShell, Page, image_archive};

/// How long a page may take on a machine that is busy with much else: some seconds each, else.
const PAGE_LIMIT: Duration = Duration::from_secs(400);

/// The root of the sources.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

impl Cluster {
    /// Runs the commands of a page of docs/operate; what they printed. With `env` for what a reader fills in.
    ///
    /// The desk is in the root of the sources, and on nodes in the directory of the image's archive.
    ///
    /// # Errors
    /// The page cannot be read, a program that it takes is not there, or what [`Page::run`] refuses.
    pub fn run_page(&self, name: &str, env: &[(&str, &str)]) -> Result<String> {
        let root = Path::new(ROOT);
        let page = Page::read(&root.join("docs/operate").join(name))?;
        let dir_of =
            |program: &Path| program.parent().map(Path::to_owned).context("a program without directory");
        let programs = [dir_of(&Kubernetes::find()?.program("kubectl"))?, dir_of(&Binaries::find()?.ctl)?];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&path)))?;
        let kubeconfig = self.management.control_plane.kubeconfig().as_os_str().to_owned();
        let mut all: Vec<(&str, OsString)> = vec![("KUBECONFIG", kubeconfig), ("PATH", path)];
        all.extend(env.iter().map(|(key, value)| (*key, OsString::from(value))));
        let archive = image_archive()?;
        let archive = archive.canonicalize().with_context(|| format!("find {}", archive.display()))?;
        let dir = archive.parent().context("an archive without directory")?;
        let nodes = self.workers.iter().map(|worker| {
            let enter = worker.machine.shell()?;
            Ok(NodeShell { name: worker.name.clone(), enter, dir: dir.to_owned() })
        });
        let desk = Desk {
            dir: root,
            env: all,
            netns: Some(self.management.netns()),
            nodes: nodes.collect::<Result<_>>()?,
            limit: PAGE_LIMIT,
        };
        let started = Instant::now();
        let said = page.run(&desk)?;
        eprintln!("{name}: {:.1?}", started.elapsed());
        Ok(said)
    }
}
