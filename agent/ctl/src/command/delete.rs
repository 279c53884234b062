//! `delete`: objects by name, or what manifests list.
//!
//! Each object is a request of its own and succeeds or fails by itself.

use rpc::{ApplyReply, DeleteRequest, ObjectResult, Reply, Request};
use store::manifest::Kind;

use super::get::object_name;
use super::{Context, unexpected};
use crate::cli::DeleteArgs;
use crate::exit::{Exit, Failure};
use crate::manifest;
use crate::output::table::count;

/// One object to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    kind: Kind,
    /// As the agent knows it.
    name: String,
}

/// Deletes one after the other and shows what became of each.
pub(crate) fn run(context: &Context, args: &DeleteArgs) -> Result<Exit, Failure> {
    let targets = match args.kind {
        Some(kind) => args
            .names
            .iter()
            .map(|name| named(kind, name, args.namespace.as_deref()))
            .collect::<Result<_, _>>()?,
        None => listed(manifest::read_all(&args.files, "delete")?),
    };
    let total = targets.len();
    let mut results = Vec::new();
    let mut failures = Vec::new();
    for target in targets {
        match delete(context, &target, args.ignore_not_found) {
            Ok(mut reply) => results.append(&mut reply.results),
            Err(failure) => {
                let stop = matches!(failure.exit, Exit::Unreachable | Exit::TryAgain);
                failures.push(failure);
                if stop {
                    break;
                }
            }
        }
    }
    let reply = ApplyReply { results, warnings: Vec::new() };
    if !reply.results.is_empty() {
        context.output.show(&reply, |_| render(&reply))?;
    }
    summarise(failures, reply.results.len(), total).map_or(Ok(Exit::Ok), Err)
}

fn named(kind: Kind, name: &str, namespace: Option<&str>) -> Result<Target, Failure> {
    let usage = |message: String, next: &str| Err(Failure::new(Exit::Usage, message).with_next(next));
    match (kind, namespace) {
        (Kind::IpBlock, _) => usage(
            format!("delete ipblock {name}: blocks cannot be deleted"),
            "a block belongs to its node's agent, which releases it when it is empty; disable or delete its pool to \
             empty it",
        ),
        (Kind::NodeAddresses, _) => usage(
            format!("delete nodeaddresses {name}: they are their node's to write, and go with it"),
            "nothing needs to be done",
        ),
        (Kind::IpPool | Kind::IpReservation | Kind::IpamConfig | Kind::Namespace, Some(_)) => {
            usage(format!("delete {kind} {name}: a {kind} has no namespace"), "leave --namespace out")
        }
        _ => Ok(Target { kind, name: object_name(kind, name, namespace) }),
    }
}

/// In the opposite order, so that what stands on something goes before it.
fn listed(manifests: manifest::Checked) -> Vec<Target> {
    manifests.objects.into_iter().rev().map(|(kind, name)| Target { kind, name }).collect()
}

fn delete(context: &Context, target: &Target, ignore_not_found: bool) -> Result<ApplyReply, Failure> {
    let Target { kind, name } = target;
    let operation = format!("delete {kind} {name}");
    let request = Request::Delete(DeleteRequest { kind: kind.word().to_owned(), name: name.clone() });
    match context.ask(&operation, &request) {
        Ok(Reply::Applied(reply)) => Ok(reply),
        Ok(reply) => Err(unexpected(&operation, &reply)),
        Err(failure) if failure.exit == Exit::NotFound && ignore_not_found => {
            let result =
                ObjectResult { kind: kind.word().to_owned(), name: name.clone(), outcome: ABSENT.to_owned() };
            Ok(ApplyReply { results: vec![result], warnings: Vec::new() })
        }
        Err(failure) => Err(failure),
    }
}

/// Our own outcome beside those of the agent, with `--ignore-not-found`.
const ABSENT: &str = "absent";

fn render(reply: &ApplyReply) -> String {
    let line = |result: &ObjectResult| {
        let outcome = match result.outcome.as_str() {
            "terminating" => {
                "terminating: it hands out nothing new, and goes when its last block is released"
            }
            ABSENT => "not there",
            outcome => outcome,
        };
        format!("{}/{} {outcome}\n", result.kind, result.name)
    };
    reply.results.iter().map(line).collect()
}

/// One failure is told as it is; several become one with the messages below it.
fn summarise(mut failures: Vec<Failure>, done: usize, total: usize) -> Option<Failure> {
    let first = failures.first()?.clone();
    if total == 1 {
        return failures.pop();
    }
    let exit =
        if failures.iter().all(|failure| failure.exit == first.exit) { first.exit } else { Exit::Failed };
    let left = total - done;
    let details = failures
        .iter()
        .flat_map(|failure| {
            std::iter::once(failure.message.clone())
                .chain(failure.details.iter().map(|detail| format!("  {detail}")))
        })
        .collect();
    let message = format!("delete: {} of {} not deleted", left, count(total, "object", "objects"));
    Some(Failure { exit, message, details, next: first.next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_one_line_each() {
        let result = |name: &str, outcome: &str| ObjectResult {
            kind: "ippool".into(),
            name: name.into(),
            outcome: outcome.into(),
        };
        let results = vec![result("a", "deleted"), result("b", "terminating"), result("c", ABSENT)];
        assert_eq!(
            render(&ApplyReply { results, warnings: vec![] }),
            "ippool/a deleted\n\
             ippool/b terminating: it hands out nothing new, and goes when its last block is released\n\
             ippool/c not there\n"
        );
    }

    #[test]
    fn blocks_and_namespaces_of_what_has_none_are_refused() {
        assert_eq!(named(Kind::IpBlock, "b", None).unwrap_err().exit, Exit::Usage);
        assert_eq!(named(Kind::IpPool, "a", Some("ns")).unwrap_err().exit, Exit::Usage);
        assert_eq!(
            named(Kind::Pod, "web", Some("ns")).unwrap(),
            Target { kind: Kind::Pod, name: "ns/web".into() }
        );
    }

    #[test]
    fn several_failures_become_one() {
        let not_found =
            |name: &str| Failure::new(Exit::NotFound, format!("delete ippool {name}: no such pool"));
        let conflict =
            Failure::new(Exit::Failed, "delete ippool c: changed").with_details(vec!["by b".into()]);
        assert_eq!(summarise(vec![], 3, 3), None);
        assert_eq!(summarise(vec![not_found("a")], 0, 1), Some(not_found("a")));
        let both = summarise(vec![not_found("a"), not_found("b")], 1, 3).unwrap();
        assert_eq!(
            (both.exit, both.message.as_str()),
            (Exit::NotFound, "delete: 2 of 3 objects not deleted")
        );
        let mixed = summarise(vec![not_found("a"), conflict], 0, 2).unwrap();
        assert_eq!(mixed.exit, Exit::Failed);
        assert_eq!(mixed.details, ["delete ippool a: no such pool", "delete ippool c: changed", "  by b"]);
    }
}
