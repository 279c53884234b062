//! Takes everything away when its owner dies without doing so: killed, or ended with values in statics.
//!
//! A shell that waits for the end of its standard input, whose other end only the owner holds.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Told nothing, it kills what `$1/*.pid` and `$1/*/*.pid` name, as far as it works in that directory, removes trees of
/// nothing but directories, such as control groups, `$3` (one a line), deletes the directory, and the network namespaces
/// `$2` (one a line) after it. Told anything, it does nothing.
///
/// The first process of a machine has ended only when everything on the machine has, and has no directory before that.
const SCRIPT: &str = r#"
read -r word && exit 0
dir=$1
for file in "$dir"/*/*.pid "$dir"/*.pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    [ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$file")" ] || continue
    kill -KILL "$pid"
    for _ in $(seq 500); do
        grep -q '^State:.[^Z]' "/proc/$pid/status" || break
        sleep 0.02
    done
done
echo "$3" | while read -r tree; do
    [ -d "$tree" ] && find "$tree" -depth -type d -exec rmdir {} +
done
rm -rf "$dir"
echo "$2" | while read -r netns; do
    [ -z "$netns" ] || ip netns delete "$netns"
done
"#;

/// The shell. Dropped, it does its work, and that is waited for.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
}

impl Guard {
    /// Watches over a directory, and network namespaces and trees of directories without files that shall go with it.
    pub(crate) fn over(dir: &Path, namespaces: &[String], trees: &[PathBuf]) -> Result<Self> {
        let trees: Vec<_> = trees.iter().map(|tree| tree.to_string_lossy()).collect();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "poolward-guard"]).arg(dir);
        command.args([namespaces.join("\n"), trees.join("\n")]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // What ends the owner's group must not end it.
        command.process_group(0);
        Ok(Self { child: command.spawn().context("start a guard")? })
    }

    /// Everything stays.
    pub(crate) fn dismiss(mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Daemon;

    #[test]
    fn what_runs_in_the_directory_ends_and_nothing_is_left_of_it_and_of_its_trees() {
        let root = std::env::temp_dir().join(format!("poolward-guard-{}", std::process::id()));
        let (dir, tree) = (root.join("guarded"), root.join("tree"));
        let part = dir.join("part");
        std::fs::create_dir_all(&part).unwrap();
        std::fs::create_dir_all(tree.join("below")).unwrap();
        let mut sleeping = Daemon::new("sleep", Path::new("/bin/sleep"), &part.canonicalize().unwrap(), None);
        sleeping.set_args(["60"]);
        sleeping.start().unwrap();
        // Of somebody else, who works elsewhere: the number in the file is an old one.
        let mut other = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        std::fs::write(dir.join("other.pid"), other.id().to_string()).unwrap();

        drop(Guard::over(&dir.canonicalize().unwrap(), &[], std::slice::from_ref(&tree)).unwrap());
        assert!(sleeping.check().is_err(), "it was not ended");
        assert!(other.try_wait().unwrap().is_none(), "a process of somebody else was ended");
        assert!(!dir.exists() && !tree.exists());
        other.kill().unwrap();
        other.wait().unwrap();
        std::fs::remove_dir(&root).unwrap();
    }
}
