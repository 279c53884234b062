//! Takes everything away when its owner dies without doing so: killed, or ended with values in statics.
//!
//! A shell that waits for the end of its standard input, whose other end only the owner holds.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Told nothing, it kills what `$1/*.pid` names, as far as it works in that directory, deletes the directory and the
/// network namespaces after it. Told anything, it does nothing.
const SCRIPT: &str = r#"
read -r word && exit 0
dir=$1
shift
for file in "$dir"/*.pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    [ "$(readlink "/proc/$pid/cwd")" = "$dir" ] || continue
    kill -KILL "$pid"
    for _ in $(seq 200); do
        [ -e "/proc/$pid/cwd" ] || break
        sleep 0.02
    done
done
rm -rf "$dir"
for netns in "$@"; do
    ip netns delete "$netns"
done
"#;

/// The shell. Dropped, it does its work, and that is waited for.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
}

impl Guard {
    /// Watches over a directory and network namespaces that shall go with it.
    pub(super) fn over(dir: &Path, namespaces: &[String]) -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "poolward-guard"]).arg(dir).args(namespaces);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // What ends the owner's group must not end it.
        command.process_group(0);
        Ok(Self { child: command.spawn().context("start the guard of a control plane")? })
    }

    /// Everything stays.
    pub(super) fn dismiss(mut self) {
        if let Some(stdin) = &mut self.child.stdin {
            // It is gone already when this fails.
            let _ = stdin.write_all(b"stay\n");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
