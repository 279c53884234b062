//! A second agent beside the one of the harness, with flags of its own. Killed when it goes.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use harness::{Binaries, Run};

use crate::site::Site;

pub(crate) struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// The agent, with the configuration that is there.
    pub(crate) fn agent(site: &Site, flags: &[&str]) -> Self {
        let log = site.files.dir().join("second.log");
        let out = File::create(&log).unwrap();
        let mut command = Command::new(Binaries::find().unwrap().agent);
        command
            .arg("--config")
            .arg(site.files.config())
            .args(flags)
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .process_group(0);
        let child = site.lab.node.run(|| command.spawn()).unwrap().unwrap();
        Self { child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(mut self, limit: Duration) -> ExitStatus {
        Run::new("kill").args(["-TERM", &self.pid().to_string()]).ok().unwrap();
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < limit, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
