//! The commands of a page of documentation, run as they are published, so that they cannot rot.
//!
//! Blocks that begin with ```` ```sh ```` are run, all of a page in one `bash`, in their order; the first command that
//! fails ends it and is named by its line. Blocks of any other language are for reading only. A page is to leave the
//! cluster as it found it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{NetNs, Run};

/// Where a page's commands stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Line of its first command, from 1.
    pub line: usize,
    /// The commands.
    pub text: String,
}

/// A page with commands.
#[derive(Clone, Debug)]
pub struct Page {
    path: PathBuf,
    blocks: Vec<Block>,
}

/// Said on the last line by a page that got there.
const DONE: &str = "-- the page is done";

impl Page {
    /// Reads a page.
    ///
    /// # Errors
    /// It cannot be read, a block does not end, or there is no command in it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let blocks = blocks_of(&text).with_context(|| path.display().to_string())?;
        ensure!(!blocks.is_empty(), "{} has no block of commands (```sh)", path.display());
        Ok(Self { path: path.to_owned(), blocks })
    }

    /// Its blocks of commands, in order.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Runs all of its commands, below `dir` and in `netns`; what they printed.
    ///
    /// # Errors
    /// One failed: which, and what all of them printed up to there; or they took longer than `limit`.
    pub fn run(
        &self,
        dir: &Path,
        env: &[(&str, &OsStr)],
        netns: Option<&NetNs>,
        limit: Duration,
    ) -> Result<String> {
        let mut run = Run::new("bash").args(["-c", &self.script()]).current_dir(dir).limit(limit);
        for (key, value) in env {
            run = run.env(key, value);
        }
        let page = self.path.display();
        let finished = match netns {
            Some(netns) => run.finish_in(netns),
            None => run.finish(),
        };
        let finished = finished.with_context(|| format!("{page}: run its commands"))?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&finished.stdout),
            String::from_utf8_lossy(&finished.stderr)
        );
        if !finished.status.success() || !said.contains(DONE) {
            bail!("{page}: {}:\n{said}", finished.status);
        }
        Ok(said)
    }

    fn script(&self) -> String {
        let mut script = "set -Eeuo pipefail\n\
             trap 'code=$?; echo \"line $((at + LINENO - from)): ended with $code: $BASH_COMMAND\"' ERR\n"
            .to_owned();
        for block in &self.blocks {
            // The line after this one is the first of the block.
            let _ = write!(script, "at={} from=$((LINENO + 1))\n{}\n", block.line, block.text);
        }
        script.push_str("echo '");
        script.push_str(DONE);
        script.push_str("'\n");
        script
    }
}

fn blocks_of(text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, bool, Vec<&str>)> = None;
    for (line, content) in (1..).zip(text.lines()) {
        match (&mut open, content.strip_prefix("```")) {
            (None, Some(language)) => open = Some((line + 1, language.trim() == "sh", Vec::new())),
            (None, None) => {}
            (Some((line, is_run, lines)), Some("")) => {
                if *is_run {
                    blocks.push(Block { line: *line, text: lines.join("\n") });
                }
                open = None;
            }
            (Some((_, _, lines)), _) => lines.push(content),
        }
    }
    if let Some((line, ..)) = open {
        bail!("the block at line {} does not end", line - 1);
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page { path: "page.md".into(), blocks: blocks_of(text).unwrap() }
    }

    fn run(text: &str) -> Result<String> {
        page(text).run(Path::new("/"), &[("WHO", OsStr::new("me"))], None, Duration::from_secs(20))
    }

    #[test]
    fn blocks_of_commands_are_found_with_their_lines_and_others_are_not() {
        let text = "# Title\n\n```sh\na\nb\n```\n\n```yaml\nc: d\n```\n```console\n# e\n```\n```sh\nf\n```\n";
        let block = |line, text: &str| Block { line, text: text.to_owned() };
        assert_eq!(blocks_of(text).unwrap(), [block(4, "a\nb"), block(15, "f")]);
        assert_eq!(blocks_of("```sh\na\n").unwrap_err().to_string(), "the block at line 1 does not end");
    }

    #[test]
    fn blocks_share_one_shell_and_what_they_print_is_given_back() {
        let said =
            run("```sh\nx=1\ncat <<EOF\nhere $WHO\nEOF\n```\nwords\n```sh\necho \"x is $x\"\n```\n").unwrap();
        assert!(said.contains("here me\n") && said.contains("x is 1\n"), "{said}");
    }

    #[test]
    fn a_command_that_fails_ends_the_page_and_is_named() {
        let check = |text: &str, line: &str, command: &str| {
            let error = run(text).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(command), "{error}");
            assert!(!error.contains("not reached"), "{error}");
        };
        check("```sh\ntrue\nfalse\necho not reached\n```\n", "line 3:", "false");
        check("one\n\n```sh\nfalse | cat\n```\n```sh\necho not reached\n```\n", "line 4:", "cat");
        check("```sh\nexit 0\n```\n", "page.md", "exit");
    }
}
