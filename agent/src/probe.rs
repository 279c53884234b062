//! Answers for a kubelet's probes, from the agent's own socket: the agent needs no port for them.

use std::path::Path;
use std::time::Duration;

use rpc::client::{CONNECT_TIMEOUT, Client};
use rpc::{Reply, Request};

use crate::config::Probe;

/// Asks; the text says what is wrong.
///
/// # Errors
/// The agent does not answer, or is not what is asked for.
pub fn probe(socket: &Path, what: Probe, timeout: Duration) -> Result<(), String> {
    let request = match what {
        Probe::Live => Request::Version,
        Probe::Ready => Request::NodeStatus,
    };
    let reply = Client::connect(socket, timeout.min(CONNECT_TIMEOUT))
        .and_then(|client| client.call(&request, None, timeout))
        .map_err(|error| error.to_string())?;
    judge(what, &reply)
}

fn judge(what: Probe, reply: &Reply) -> Result<(), String> {
    match (what, reply) {
        (_, Reply::Error(error)) => Err(error.message.clone()),
        (Probe::Live, Reply::Version(_)) => Ok(()),
        (Probe::Ready, Reply::Node(status)) if status.ready => Ok(()),
        (Probe::Ready, Reply::Node(status)) => {
            Err(format!("not ready: {}", status.not_ready_reasons.join("; ")))
        }
        _ => Err("the agent answered something else".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rpc::NodeStatusReply;

    use super::*;

    #[test]
    fn a_node_is_ready_when_its_status_says_so_and_live_when_it_answers() {
        let status = |ready, reasons: &[&str]| {
            let not_ready_reasons = reasons.iter().map(|&reason| reason.to_owned()).collect();
            Reply::Node(Box::new(NodeStatusReply { ready, not_ready_reasons, ..NodeStatusReply::default() }))
        };
        assert_eq!(judge(Probe::Ready, &status(true, &[])), Ok(()));
        let error = judge(Probe::Ready, &status(false, &["no nft"])).unwrap_err();
        assert!(error.contains("no nft"), "{error}");
        judge(Probe::Live, &Reply::Done).unwrap_err();
    }

    #[test]
    fn nobody_there_is_not_live() {
        let error = probe(Path::new("/nowhere/agent.sock"), Probe::Live, Duration::from_secs(1)).unwrap_err();
        assert!(error.contains("/nowhere/agent.sock"), "{error}");
    }
}
