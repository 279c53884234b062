//! The commands of a page of documentation, run as they are published, so that they cannot rot.
//!
//! What a block is for stands behind its ```` ``` ````:
//!
//! | | |
//! |---|---|
//! | `sh` | run where `kubectl` is, all of a page in one `bash`, in their order |
//! | `sh on=nodes` | run on every node, one after the other, each time in a `bash` of its own |
//! | `text said` | lines that the block of commands before it has printed, in this order and perhaps with others between them; \
//!   `…` stands for anything, and blanks for any number of them |
//! | anything else | for reading only |
//!
//! The first command that fails ends the page and is named by its line. A page is to leave the cluster as it found it,
//! unless whoever runs it says otherwise.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{NetNs, Run};

/// Where a block of commands is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Where `kubectl` is.
    Desk,
    /// On every node.
    Nodes,
}

/// Where a page's commands stand, and what they are said to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Line of its first command, from 1.
    pub line: usize,
    /// The commands.
    pub text: String,
    /// Where they are run.
    pub on: On,
    /// What they print, by the page: each line with its number.
    pub said: Vec<(usize, String)>,
}

/// A page with commands.
#[derive(Clone, Debug)]
pub struct Page {
    path: PathBuf,
    blocks: Vec<Block>,
}

/// A node as a person who is logged in there has it.
#[derive(Clone, Debug)]
pub struct NodeShell {
    /// Whose it is, for messages.
    pub name: String,
    /// The command behind which others run there.
    pub enter: Vec<String>,
    /// Where it begins.
    pub dir: PathBuf,
}

/// Where a page is run.
#[derive(Clone, Debug)]
pub struct Desk<'a> {
    /// The directory it begins in.
    pub dir: &'a Path,
    /// Set for all commands, on nodes as well.
    pub env: Vec<(&'a str, OsString)>,
    /// The network of whoever sits there.
    pub netns: Option<&'a NetNs>,
    /// What `on=nodes` means.
    pub nodes: Vec<NodeShell>,
    /// How long the whole page may take.
    pub limit: Duration,
}

/// Said on the last line by a page that got there.
const DONE: &str = "-- the page is done";

/// Said before each block, with its number and how long the page has taken until then.
const BLOCK: &str = "-- block";

/// Ends the commands for nodes.
const END_OF_COMMANDS: &str = "-- end of the commands for every node";

impl Page {
    /// Reads a page.
    ///
    /// # Errors
    /// It cannot be read, a block does not end or is of an unknown kind, or there is no command in it.
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

    /// Runs all of its commands; what they printed.
    ///
    /// # Errors
    /// One failed: which, and what all of them printed up to there; or they did not print what the page says, took too
    /// long, or there is no node for those that are for nodes.
    pub fn run(&self, desk: &Desk<'_>) -> Result<String> {
        let page = self.path.display();
        let is_for_nodes = self.blocks.iter().any(|block| block.on == On::Nodes);
        ensure!(
            !is_for_nodes || !desk.nodes.is_empty(),
            "{page}: has commands for nodes, and there are none"
        );
        let script = self.script(&desk.nodes);
        let mut run = Run::new("bash").args(["-c", &script]).current_dir(desk.dir).limit(desk.limit);
        for (key, value) in &desk.env {
            run = run.env(key, value);
        }
        let finished = match desk.netns {
            Some(netns) => run.finish_in(netns),
            None => run.finish(),
        };
        let finished = finished.with_context(|| format!("{page}: run its commands"))?;
        let printed = String::from_utf8_lossy(&finished.stdout);
        let said = format!("{printed}{}", String::from_utf8_lossy(&finished.stderr));
        if !finished.status.success() || !printed.contains(DONE) {
            bail!("{page}: {}:\n{said}", finished.status);
        }
        let printed = printed_by_block(&printed);
        for (number, block) in self.blocks.iter().enumerate() {
            let lines = printed.get(number).map(Vec::as_slice).unwrap_or_default();
            if let Err((line, expected)) = is_said(&block.said, lines) {
                bail!("{page}: line {line}: not printed, or not in this order: {expected:?}\n{said}");
            }
        }
        Ok(said)
    }

    fn script(&self, nodes: &[NodeShell]) -> String {
        let mut script = "set -Eeuo pipefail\n\
             trap 'code=$?; echo \"line $((at + LINENO - from)): ended with $code: $BASH_COMMAND\"' ERR\n"
            .to_owned();
        script.push_str(&on_nodes(nodes));
        for (number, block) in self.blocks.iter().enumerate() {
            let _ = writeln!(script, "echo \"{BLOCK} {number}, after $SECONDS s\"");
            // The line after this one is the first of the block.
            let at = format!("at={} from=$((LINENO + 1))", block.line);
            let _ = match block.on {
                On::Desk => write!(script, "{at}\n{}\n", block.text),
                On::Nodes => {
                    write!(
                        script,
                        "{at}\non_nodes <<'{END_OF_COMMANDS}'\n{}\n{END_OF_COMMANDS}\n",
                        block.text
                    )
                }
            };
        }
        let _ = writeln!(script, "echo '{DONE}'");
        script
    }
}

/// A function that runs what it reads on every node. Which command fails there is said there.
fn on_nodes(nodes: &[NodeShell]) -> String {
    let trap = r#"code=$?; echo "line $((at + LINENO - from - 1)) on $0: ended with $code: $BASH_COMMAND""#;
    let mut function = "on_nodes() {\n    local commands\n    commands=$(cat)\n".to_owned();
    for NodeShell { name, enter, dir } in nodes {
        let enter: Vec<String> = enter.iter().map(|word| quoted(word)).collect();
        let dir = quoted(&dir.display().to_string());
        // In one line, so that the first command is in the next one.
        let preamble =
            format!("set -Eeuo pipefail; at=$1; trap {} ERR; cd {dir}; from=$LINENO", quoted(trap));
        let _ = writeln!(
            function,
            "    {} bash -c {}$'\\n'\"$commands\" {} \"$at\" < /dev/null || return",
            enter.join(" "),
            quoted(&preamble),
            quoted(name)
        );
    }
    function.push_str("}\n");
    function
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What was printed by each block, line by line.
fn printed_by_block(printed: &str) -> Vec<Vec<&str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in printed.lines() {
        match blocks.last_mut() {
            _ if line.starts_with(BLOCK) => blocks.push(Vec::new()),
            Some(block) => block.push(line),
            None => {}
        }
    }
    blocks
}

/// Whether lines like these were printed in this order; else the first that was not.
fn is_said(expected: &[(usize, String)], printed: &[&str]) -> Result<(), (usize, String)> {
    let mut printed = printed.iter();
    for (number, line) in expected {
        if !printed.any(|candidate| is_like(candidate, line)) {
            return Err((*number, line.clone()));
        }
    }
    Ok(())
}

/// Whether a line is what another one says, in which `…` stands for anything.
fn is_like(line: &str, pattern: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, pattern) = (plain(line), plain(pattern));
    let mut parts = pattern.split('…').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// What a block is for.
enum Kind {
    Commands(On),
    Said,
    Reading,
}

impl Kind {
    fn of(info: &str) -> Result<Self> {
        let words: Vec<&str> = info.split_whitespace().collect();
        match words.as_slice() {
            ["sh"] => Ok(Self::Commands(On::Desk)),
            ["sh", "on=nodes"] => Ok(Self::Commands(On::Nodes)),
            ["text", "said"] => Ok(Self::Said),
            ["sh" | "text", ..] if words.len() > 1 => bail!("a block of an unknown kind: {info:?}"),
            _ => Ok(Self::Reading),
        }
    }
}

fn blocks_of(text: &str) -> Result<Vec<Block>> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<(usize, Kind, Vec<&str>)> = None;
    for (line, content) in (1..).zip(text.lines()) {
        match (&mut open, content.strip_prefix("```")) {
            (None, Some(info)) => {
                let kind = Kind::of(info).with_context(|| format!("line {line}"))?;
                open = Some((line + 1, kind, Vec::new()));
            }
            (None, None) => {}
            (Some((line, kind, lines)), Some("")) => {
                match kind {
                    Kind::Commands(on) => {
                        let text = lines.join("\n");
                        blocks.push(Block { line: *line, text, on: *on, said: Vec::new() });
                    }
                    Kind::Said => {
                        let block = blocks.last_mut();
                        let block = block.with_context(|| format!("line {line}: nothing was run before"))?;
                        let lines = (*line..).zip(lines.iter().map(|line| (*line).to_owned()));
                        block.said.extend(lines.filter(|(_, line)| !line.trim().is_empty()));
                    }
                    Kind::Reading => {}
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
        // A "node" here is only another shell.
        let node =
            |name: &str| NodeShell { name: name.into(), enter: vec!["env".into()], dir: "/usr".into() };
        page(text).run(&Desk {
            dir: Path::new("/"),
            env: vec![("WHO", "me".into())],
            netns: None,
            nodes: vec![node("node-1"), node("node-2")],
            limit: Duration::from_secs(20),
        })
    }

    #[test]
    fn blocks_of_commands_are_found_with_their_lines_and_others_are_not() {
        let text = "# Title\n\n```sh\na\nb\n```\n\n```yaml\nc: d\n```\n```console\n# e\n```\n\
            ```sh on=nodes\nf\n```\n```text said\ng …\n\n h\n```\n";
        let block = |line, text: &str, on, said: &[(usize, &str)]| {
            let said = said.iter().map(|(line, text)| (*line, (*text).to_owned())).collect();
            Block { line, text: text.to_owned(), on, said }
        };
        let expected =
            [block(4, "a\nb", On::Desk, &[]), block(15, "f", On::Nodes, &[(18, "g …"), (20, " h")])];
        assert_eq!(blocks_of(text).unwrap(), expected);
        let refuse = |text: &str, part: &str| {
            let error = format!("{:#}", blocks_of(text).unwrap_err());
            assert!(error.contains(part), "{error}");
        };
        refuse("```sh\na\n", "the block at line 1 does not end");
        refuse("```sh on=moon\na\n```\n", "on=moon");
        refuse("```text said\na\n```\n", "nothing was run before");
    }

    #[test]
    fn blocks_share_one_shell_and_what_they_print_is_given_back() {
        let said =
            run("```sh\nx=1\ncat <<EOF\nhere $WHO\nEOF\n```\nwords\n```sh\necho \"x is $x\"\n```\n").unwrap();
        assert!(said.contains("here me\n") && said.contains("x is 1\n"), "{said}");
    }

    #[test]
    fn blocks_for_nodes_run_on_each_of_them_where_they_begin() {
        let said = run("```sh on=nodes\necho \"it's $0 in $PWD for $WHO\"\n```\n").unwrap();
        for name in ["node-1", "node-2"] {
            assert!(said.contains(&format!("it's {name} in /usr for me\n")), "{said}");
        }
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
        check(
            "```sh on=nodes\ntrue\nfalse\n```\n```sh\necho not reached\n```\n",
            "line 3 on node-1:",
            "false",
        );
    }

    #[test]
    fn what_the_page_says_is_printed_has_to_be() {
        let commands =
            "```sh\necho first; echo 'a   1  c'; echo between; echo last one\n```\n```sh\necho a\n```\n";
        let with = |said: &str| commands.replacen("```\n", &format!("```\n```text said\n{said}\n```\n"), 1);
        for said in ["first\n\na … c\nlast one", "…tween", "la…", "…", "a 1 c", "fi … s … t"] {
            run(&with(said)).unwrap_or_else(|error| panic!("{said}: {error}"));
        }
        for said in ["last one\nfirst", "firs", "irst", "a … b", "second", "b … b …n", "first\nfirst"] {
            let error = run(&with(said)).unwrap_err().to_string();
            let line = if said.contains('\n') { "line 6" } else { "line 5" };
            assert!(error.contains("not printed") && error.contains(line), "{said}: {error}");
        }
    }
}
