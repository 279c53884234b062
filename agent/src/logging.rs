//! Structured logs on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{Config, LogFormat};

/// Starts logging as configured; `RUST_LOG`, if set, wins over the file.
///
/// # Errors
/// The level is not a filter that `tracing` understands.
pub fn start(config: &Config) -> Result<(), ParseError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(filter)?,
        // Every request that fails is told by whoever made it, with what it was for.
        _ => EnvFilter::try_new(&config.log_level)?.add_directive("kube_client=off".parse()?),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => logs.with_target(false).init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}
