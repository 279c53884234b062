//! `apply`: objects from manifests, all or none.
//!
//! What can be checked without the agent is checked first; then one request carries everything.

use rpc::{ApplyReply, ApplyRequest, Document, Reply, Request};
use serde::Serialize;

use super::{Context, unexpected};
use crate::cli::{ApplyArgs, Format};
use crate::exit::{Exit, Failure};
use crate::manifest;

/// The agent's reply, and whether it was only a rehearsal.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Applied {
    #[serde(flatten)]
    reply: ApplyReply,
    dry_run: bool,
}

/// Reads, checks, sends, and shows what became of each document.
pub(crate) fn run(context: &Context, args: &ApplyArgs) -> Result<Exit, Failure> {
    let operation = if args.dry_run { "check manifests" } else { "apply manifests" };
    let documents = manifest::read_all(&args.files, operation)?
        .documents
        .into_iter()
        .map(|document| Document { source: document.source, body: document.body })
        .collect();
    let request = Request::Apply(ApplyRequest { documents, dry_run: args.dry_run });
    let reply = match context.ask(operation, &request)? {
        Reply::Applied(reply) => reply,
        reply => return Err(unexpected(operation, &reply)),
    };
    let applied = Applied { reply, dry_run: args.dry_run };
    context.output.show(&applied, |_| render(&applied))?;
    if context.output.format == Format::Table {
        applied.reply.warnings.iter().for_each(|warning| context.output.warn(warning));
    }
    Ok(Exit::Ok)
}

fn render(applied: &Applied) -> String {
    let suffix = if applied.dry_run { " (dry run, nothing changed)" } else { "" };
    applied
        .reply
        .results
        .iter()
        .map(|result| format!("{}/{} {}{suffix}\n", result.kind, result.name, result.outcome))
        .collect()
}

#[cfg(test)]
mod tests {
    use rpc::ObjectResult;

    use super::*;

    #[test]
    fn every_document_is_one_line_and_a_rehearsal_says_so() {
        let result = |name: &str, outcome: &str| ObjectResult {
            kind: "ippool".into(),
            name: name.into(),
            outcome: outcome.into(),
        };
        let reply =
            ApplyReply { results: vec![result("a", "created"), result("b", "unchanged")], warnings: vec![] };
        let mut applied = Applied { reply, dry_run: false };
        assert_eq!(render(&applied), "ippool/a created\nippool/b unchanged\n");
        applied.dry_run = true;
        assert!(render(&applied).starts_with("ippool/a created (dry run, nothing changed)\n"));
        let value = serde_json::to_value(&applied).unwrap();
        assert_eq!(value["dryRun"], true);
        assert_eq!(value["results"][1]["outcome"], "unchanged");
    }
}
