//! NetworkPolicies: Poolward enforces none, and says so while there are any.
//!
//! It is looked now and then rather than watched: nothing is done about them, and whoever relies on one that has no
//! effect wants to know it within minutes, not at once.

use std::sync::PoisonError;
use std::time::Duration;

use store::{NetworkPolicies, Store};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Node;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(180);

impl<S: Store> Node<S> {
    /// Looks now and then, until `stop` fires. Says what has changed.
    pub async fn follow_policies(&self, stop: &CancellationToken) {
        loop {
            match stop.run_until_cancelled(self.store.count_network_policies()).await {
                None => return,
                Some(Ok(found)) => self.note_policies(found),
                // That it does not answer others say.
                Some(Err(error)) => debug!(%error, "whether there are NetworkPolicies is not known"),
            }
            // Thousands of nodes that start together do not ask together.
            let jitter = Duration::from_millis(
                u64::try_from(self.environment.random.bits() % 30_000).unwrap_or_default(),
            );
            if stop.run_until_cancelled(tokio::time::sleep(INTERVAL + jitter)).await.is_none() {
                return;
            }
        }
    }

    fn note_policies(&self, found: NetworkPolicies) {
        let mut known = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.replace(found);
        drop(known);
        match (warning(found), before.and_then(warning)) {
            (Some(told), None) => warn!("{told}"),
            (None, Some(_)) => info!("there is no NetworkPolicy any more"),
            _ => {}
        }
        if found == NetworkPolicies::MayNotLook && before != Some(found) {
            info!("this agent may not look whether there are NetworkPolicies; Poolward enforces none");
        }
    }

    /// What is to be known of NetworkPolicies, for people; nothing while there are none.
    pub fn policy_warning(&self) -> Option<String> {
        let known = *self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        known.and_then(warning)
    }
}

fn warning(found: NetworkPolicies) -> Option<String> {
    match found {
        NetworkPolicies::Count(0) | NetworkPolicies::MayNotLook | NetworkPolicies::NotKept => None,
        NetworkPolicies::Count(1) => Some("1 NetworkPolicy exists; Poolward enforces none".to_owned()),
        NetworkPolicies::Count(count) => {
            Some(format!("{count} NetworkPolicies exist; Poolward enforces none"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_policies_that_exist_are_warned_of() {
        let check = |found: NetworkPolicies, expected: Option<&str>| {
            assert_eq!(warning(found).as_deref(), expected, "{found:?}");
        };
        check(NetworkPolicies::Count(0), None);
        check(NetworkPolicies::MayNotLook, None);
        check(NetworkPolicies::NotKept, None);
        check(NetworkPolicies::Count(1), Some("1 NetworkPolicy exists; Poolward enforces none"));
        check(NetworkPolicies::Count(7), Some("7 NetworkPolicies exist; Poolward enforces none"));
    }
}
