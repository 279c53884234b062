//! `node cleanup`: handed to the agent's program, which knows what agents make.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::CleanupArgs;
use crate::exit::{Exit, Failure};

/// The program that does it.
const AGENT: &str = "poolward-agent";

/// Becomes the agent's program; returns only when that is not possible.
pub(crate) fn cleanup(args: &CleanupArgs) -> Result<Exit, Failure> {
    let own = std::env::current_exe().ok();
    let program = find_agent(own.as_deref());
    let error = Command::new(&program).args(agent_args(args)).exec();
    let message = format!("node cleanup: start {}: {error}", program.display());
    Err(Failure::new(Exit::Failed, message)
        .with_next("it needs the program poolward-agent of the same release beside this one, or on PATH"))
}

/// Beside this program, else wherever PATH leads.
fn find_agent(own: Option<&Path>) -> PathBuf {
    let beside = own.map(|own| own.with_file_name(AGENT)).filter(|path| path.is_file());
    beside.unwrap_or_else(|| AGENT.into())
}

fn agent_args(args: &CleanupArgs) -> Vec<OsString> {
    let flags = [(args.dry_run, "--dry-run"), (args.yes, "--yes"), (args.stay, "--stay")];
    let paths = [("--config", &args.config), ("--plugins", &args.plugins)];
    let mut all = vec![OsString::from("cleanup")];
    all.extend(flags.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag.into()));
    for (flag, path) in paths {
        if let Some(path) = path {
            all.extend([flag.into(), path.clone().into_os_string()]);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_was_said_is_handed_on() {
        let args = CleanupArgs {
            dry_run: true,
            yes: false,
            stay: false,
            config: Some("/etc/a.yaml".into()),
            plugins: Some("/p".into()),
        };
        assert_eq!(agent_args(&args), ["cleanup", "--dry-run", "--config", "/etc/a.yaml", "--plugins", "/p"]);
    }

    #[test]
    fn the_agent_beside_this_program_comes_before_that_of_path() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("poolwardctl");
        assert_eq!(find_agent(Some(&own)), Path::new(AGENT));
        std::fs::write(dir.path().join(AGENT), "").unwrap();
        assert_eq!(find_agent(Some(&own)), dir.path().join(AGENT));
        assert_eq!(find_agent(None), Path::new(AGENT));
    }
}
