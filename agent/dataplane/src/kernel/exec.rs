//! Runs of operations: those that are netlink messages travel together, others go one by one.

use std::io;
use std::os::fd::RawFd;

use super::linux::{is_missing, link_of, netlink_error};
use super::netlink::{Answer, NetlinkError, Request};
use super::{Failure, KernelError, message, nexthop};
use crate::op::{Op, Outcome, VethEnds};

/// Operations whose requests are made before the first of them is sent, at most: they take memory meanwhile.
const WINDOW_LEN: usize = 1024;

/// Runs of operations that travel together: consecutive netlink messages in one run, others one by one.
pub(super) fn exec_runs(
    ops: &[Op],
    mut exec: impl FnMut(&[Op]) -> Result<Vec<Outcome>, Failure>,
) -> Result<Vec<Outcome>, Failure> {
    let mut done = Vec::with_capacity(ops.len());
    for run in ops.chunk_by(|a, b| is_netlink(a) && is_netlink(b)) {
        match exec(run) {
            Ok(outcomes) => done.extend(outcomes),
            Err(failure) => {
                done.extend(failure.done);
                return Err(Failure { done, error: failure.error });
            }
        }
    }
    Ok(done)
}

pub(super) fn one_by_one(
    ops: &[Op],
    exec: impl Fn(&Op) -> Result<(), KernelError>,
) -> Result<Vec<Outcome>, Failure> {
    let mut done = Vec::with_capacity(ops.len());
    for op in ops {
        match exec(op) {
            Ok(()) => done.push(Outcome::Done),
            Err(error) => return Err(Failure { done, error }),
        }
    }
    Ok(done)
}

/// Operations that do not depend on each other: one result each, in order.
pub(super) fn exec_each(
    ops: &[Op],
    ipv6_exists: bool,
    mut send: impl FnMut(Vec<Request>) -> io::Result<Vec<Answer>>,
    other: impl Fn(&Op) -> Result<(), KernelError>,
) -> Vec<Result<(), KernelError>> {
    let mut results = Vec::with_capacity(ops.len());
    let windows = ops.chunk_by(|a, b| is_netlink(a) == is_netlink(b)).flat_map(|run| run.chunks(WINDOW_LEN));
    for window in windows {
        // Whatever needs the descriptor of a namespace is not among them.
        let Some(requests) = netlink_requests(window, None, ipv6_exists) else {
            results.extend(window.iter().map(&other));
            continue;
        };
        // Each of these is one request.
        match send(requests.into_iter().flatten().collect()) {
            Ok(answers) => {
                results.extend(window.iter().zip(answers).map(|(op, answer)| result_of(op, answer)));
            }
            Err(cause) => {
                let broken =
                    |op: &Op| io::Error::new(cause.kind(), format!("{op} went with others: {cause}"));
                results.extend(window.iter().map(|op| Err(KernelError::io(op.to_string(), broken(op)))));
            }
        }
    }
    results
}

fn result_of(op: &Op, answer: Answer) -> Result<(), KernelError> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) if takes_away(op) && is_away(&error) => Ok(()),
        Err(error) => Err(netlink_error(op.to_string(), error)),
    }
}

fn is_netlink(op: &Op) -> bool {
    matches!(
        op,
        Op::CreateVeth(_)
            | Op::SetLinkUp { .. }
            | Op::AddAddress { .. }
            | Op::AddRoute { .. }
            | Op::ReplaceRoute { .. }
            | Op::DeleteRoute(_)
            | Op::AddNexthop { .. }
            | Op::ReplaceNexthop { .. }
            | Op::DeleteNexthop { .. }
            | Op::AddOwnAddress(_)
            | Op::DeleteOwnAddress(_)
            | Op::SetTunnel { .. }
            | Op::SetNeighbour(_)
    )
}

/// The requests of each operation; `None` if the run is no netlink run.
pub(super) fn netlink_requests(
    run: &[Op],
    netns: Option<RawFd>,
    ipv6_exists: bool,
) -> Option<Vec<Vec<Request>>> {
    run.iter()
        .map(|op| match op {
            Op::CreateVeth(spec) => Some(message::create_veth(spec, netns?, ipv6_exists)),
            Op::SetLinkUp { ifname, ifindex } => Some(vec![message::set_link_up(ifname, *ifindex)]),
            Op::AddAddress { ifindex, address } => Some(vec![message::add_address(*ifindex, *address)]),
            Op::AddRoute { route, exclusive } => Some(vec![message::add_route(route, *exclusive)]),
            Op::ReplaceRoute { new, .. } => Some(vec![message::replace_route(new)]),
            Op::DeleteRoute(route) => Some(vec![message::delete_route(route)]),
            Op::AddNexthop { id, nexthop, protocol } => {
                Some(vec![nexthop::set(*id, nexthop, *protocol, false)])
            }
            Op::ReplaceNexthop { id, nexthop, protocol } => {
                Some(vec![nexthop::set(*id, nexthop, *protocol, true)])
            }
            Op::DeleteNexthop { id } => Some(vec![nexthop::delete(*id)]),
            Op::AddOwnAddress(address) => Some(vec![message::add_own_address(*address)]),
            Op::DeleteOwnAddress(address) => Some(vec![message::delete_own_address(*address)]),
            Op::SetTunnel { spec, exists } => Some(vec![message::set_tunnel(spec, *exists)]),
            Op::SetNeighbour(neighbour) => Some(vec![message::set_neighbour(neighbour)]),
            _ => None,
        })
        .collect()
}

/// Sends all requests of a run at once and makes one outcome of the answers to each operation.
pub(super) fn exec_netlink(
    run: &[Op],
    requests: Vec<Vec<Request>>,
    mut send: impl FnMut(Vec<Request>) -> io::Result<Vec<Answer>>,
) -> Result<Vec<Outcome>, Failure> {
    let lengths: Vec<usize> = requests.iter().map(Vec::len).collect();
    let mut done = Vec::with_capacity(run.len());
    let mut answers = match send(requests.into_iter().flatten().collect()) {
        Ok(answers) => answers.into_iter(),
        Err(cause) => {
            let what = run.first().map(ToString::to_string).unwrap_or_default();
            return Err(Failure { done, error: KernelError::io(what, cause) });
        }
    };
    for (op, length) in run.iter().zip(lengths) {
        let answers: Vec<Answer> = answers.by_ref().take(length).collect();
        let result = match op {
            Op::CreateVeth(spec) => created(op, answers).map_err(|(error, orphan)| {
                if let Some(ifindex) = orphan {
                    // Born, but not marked as ours: it must not stay.
                    if let Err(cause) = send(vec![message::delete_link(ifindex)]) {
                        tracing::warn!(ifname = spec.host_ifname, %cause, "a half-made interface stays behind");
                    }
                }
                error
            }),
            _ => {
                let results = answers.into_iter().map(|answer| result_of(op, answer));
                results.collect::<Result<(), KernelError>>().map(|()| Outcome::Done)
            }
        };
        match result {
            Ok(outcome) => done.push(outcome),
            Err(error) => return Err(Failure { done, error }),
        }
    }
    Ok(done)
}

fn takes_away(op: &Op) -> bool {
    matches!(op, Op::DeleteRoute(_) | Op::DeleteNexthop { .. } | Op::DeleteOwnAddress(_))
}

/// What the kernel says, with `EINVAL`, to the deletion of a route by a nexthop object that is not there any more
/// (`inet_rtm_delroute`, `inet6_rtm_delroute`). The route went with the object.
const WITHOUT_NEXTHOP: &str = "Nexthop id does not exist";

/// Whether the kernel refused to take away what is not there, or not any more.
fn is_away(error: &NetlinkError) -> bool {
    is_missing(&error.cause) || error.text == WITHOUT_NEXTHOP
}

/// The ends of a new pair, from the answers to [`message::create_veth`]; or why not, and the number of the host's
/// end if the pair was created all the same.
fn created(op: &Op, answers: Vec<Answer>) -> Result<Outcome, (KernelError, Option<u32>)> {
    let mut answers = answers.into_iter();
    let (creation, naming, found) = (answers.next(), answers.next(), answers.next());
    match creation {
        Some(Ok(_)) => {}
        Some(Err(error)) => return Err((netlink_error(op.to_string(), error), None)),
        None => return Err((KernelError::other(op.to_string(), "no answer"), None)),
    }
    let link = link_of(found, op.to_string()).ok().flatten();
    let ifindex = link.as_ref().map(|link| link.ifindex);
    if let Some(Err(error)) = naming {
        return Err((netlink_error(op.to_string(), error), ifindex));
    }
    match link.and_then(|link| link.peer_ifindex.map(|peer| (link.ifindex, peer))) {
        Some((host_ifindex, pod_ifindex)) => Ok(Outcome::Created(VethEnds { host_ifindex, pod_ifindex })),
        None => Err((KernelError::other(op.to_string(), "the new interface cannot be read back"), ifindex)),
    }
}
