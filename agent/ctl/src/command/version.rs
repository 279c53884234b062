//! `version`: of this command and of the agent.

use rpc::frame::PROTOCOL_VERSION;
use rpc::{Reply, Request, VersionReply};
use serde::Serialize;

use super::{Context, unexpected};
use crate::cli::VersionArgs;
use crate::exit::{Exit, Failure};
use crate::output::table::{Cell, facts};

/// Both sides, for programs.
#[derive(Debug, Serialize)]
struct Versions {
    client: ClientVersion,
    /// Absent when it was not asked or cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<VersionReply>,
}

/// This side.
#[derive(Debug, Serialize)]
struct ClientVersion {
    version: &'static str,
    protocol: u16,
}

/// Shows this side in any case; then what keeps the agent from answering is a failure.
pub(crate) fn run(context: &Context, args: &VersionArgs) -> Result<Exit, Failure> {
    let client = ClientVersion { version: env!("CARGO_PKG_VERSION"), protocol: PROTOCOL_VERSION };
    let answer = if args.client { Ok(None) } else { ask(context).map(Some) };
    let (agent, failure) = match answer {
        Ok(agent) => (agent, None),
        Err(failure) => (None, Some(failure)),
    };
    let versions = Versions { client, agent };
    context.output.show(&versions, |color| render(&versions, color))?;
    failure.map_or(Ok(Exit::Ok), Err)
}

fn ask(context: &Context) -> Result<VersionReply, Failure> {
    const OPERATION: &str = "ask the agent's version";
    match context.ask(OPERATION, &Request::Version)? {
        Reply::Version(version) => Ok(version),
        reply => Err(unexpected(OPERATION, &reply)),
    }
}

fn render(versions: &Versions, color: bool) -> String {
    let Versions { client, agent } = versions;
    let mut lines =
        vec![("poolwardctl", Cell::from(format!("{} (protocol {})", client.version, client.protocol)))];
    if let Some(VersionReply { version, protocol, schema }) = agent {
        lines.push(("agent", Cell::from(format!("{version} (protocol {protocol}, map schema {schema})"))));
    }
    facts(&lines, color)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_stand_in_one_column() {
        let client = ClientVersion { version: "0.1.0", protocol: 1 };
        let agent = VersionReply { version: "0.2.0".into(), protocol: 1, schema: 3 };
        assert_eq!(
            render(&Versions { client, agent: Some(agent) }, false),
            "poolwardctl:  0.1.0 (protocol 1)\nagent:        0.2.0 (protocol 1, map schema 3)\n"
        );
    }
}
