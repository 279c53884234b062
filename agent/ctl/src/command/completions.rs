//! `completions`: scripts for shells.

use clap::CommandFactory;
use clap_complete::aot;

use crate::cli::{Cli, CompletionsArgs, Shell};
use crate::exit::{Exit, Failure};
use crate::output::write_stdout;

/// Prints the script. It asks nobody.
pub(crate) fn run(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    let mut script = Vec::new();
    let shell = match args.shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    aot::generate(shell, &mut command, "poolwardctl", &mut script);
    write_stdout(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
