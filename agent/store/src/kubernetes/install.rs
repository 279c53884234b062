//! Bringing the definitions of our kinds to a server.

use std::time::Duration;

use serde_json::Value;

use super::crd::{self, Definition};
use super::transport::{self, Failure};
use super::{KubernetesStore, wire};
use crate::interface::StoreError;
use crate::resource::{IpBlock, IpPool, IpPoolRegistry, IpReservation, IpamConfig, NodeAddresses, Resource};

const KIND: &str = "CustomResourceDefinition";
const INSTALL: &str = "install";
const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Pause between looks at whether the server serves a kind already.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// What became of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// It was not there.
    Created,
    /// It was another one.
    Updated,
    /// It was there like this.
    Unchanged,
}

impl KubernetesStore {
    /// Creates or updates the definitions of all our kinds, and waits until the server serves them. Doing it twice, or
    /// from two places at once, does no harm.
    ///
    /// # Errors
    /// The server refuses a definition, does not answer, or does not serve the kinds within `limit`.
    pub async fn install_definitions(&self, limit: Duration) -> Result<Vec<(String, Installed)>, StoreError> {
        let mut done = Vec::new();
        for definition in crd::definitions() {
            done.push((definition.name.clone(), self.install(&definition).await?));
        }
        let served = async {
            self.wait_served::<IpPool>().await;
            self.wait_served::<IpReservation>().await;
            self.wait_served::<IpBlock>().await;
            self.wait_served::<IpPoolRegistry>().await;
            self.wait_served::<NodeAddresses>().await;
            self.wait_served::<IpamConfig>().await;
        };
        match tokio::time::timeout(limit, served).await {
            Ok(()) => Ok(done),
            Err(_) => Err(unavailable("(all)", format!("not served within {} s", limit.as_secs_f32()))),
        }
    }

    async fn install(&self, definition: &Definition) -> Result<Installed, StoreError> {
        let name = definition.name.as_str();
        let path = format!("{PATH}/{name}");
        // Somebody else may install at the same time: a lost race is looked at again.
        for _ in 0..8 {
            let answer = match self.transport.ask(transport::get(&path, &[])).await {
                Err(Failure::Refused(status)) if status.code == 404 => self
                    .transport
                    .ask(transport::post(PATH, to_bytes(&definition.body)))
                    .await
                    .map(|_| Installed::Created),
                Ok(there) => {
                    let there: Value = serde_json::from_slice(&there)
                        .map_err(|error| unavailable(name, error.to_string()))?;
                    if holds(&there["spec"], &definition.body["spec"]) {
                        return Ok(Installed::Unchanged);
                    }
                    let mut body = definition.body.clone();
                    body["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"].clone();
                    self.transport
                        .ask(transport::put(&path, to_bytes(&body)))
                        .await
                        .map(|_| Installed::Updated)
                }
                Err(failure) => Err(failure),
            };
            match answer {
                Ok(installed) => return Ok(installed),
                Err(Failure::Refused(status)) if status.code == 409 => {}
                Err(Failure::Refused(status)) => {
                    let reason = format!("{}: {}", status.code, status.message);
                    return Err(StoreError::Internal {
                        operation: INSTALL,
                        kind: KIND,
                        key: name.to_owned(),
                        reason,
                    });
                }
                Err(Failure::Unanswered { reason, .. }) => return Err(unavailable(name, reason)),
                Err(Failure::Unreadable(error)) => return Err(unavailable(name, error.to_string())),
            }
        }
        Err(unavailable(name, "others change it all the time".to_owned()))
    }

    /// Established is not yet served; a list that works is.
    async fn wait_served<R: Resource>(&self) {
        let request = || transport::get(&wire::list_path::<R>(), &[("limit", "1")]);
        while self.transport.ask(request()).await.is_err() {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

/// Whether the server's object says everything that ours says. Servers add defaults, and drop what they do not know:
/// a rule (CEL) that an old server dropped is not missed.
fn holds(there: &Value, ours: &Value) -> bool {
    match (there, ours) {
        (Value::Object(there), Value::Object(ours)) => {
            ours.iter().all(|(name, ours)| match there.get(name) {
                Some(there) => holds(there, ours),
                None => name == "x-kubernetes-validations",
            })
        }
        (Value::Array(there), Value::Array(ours)) => {
            there.len() == ours.len() && there.iter().zip(ours).all(|(there, ours)| holds(there, ours))
        }
        (there, ours) => there == ours,
    }
}

fn to_bytes(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

fn unavailable(name: &str, reason: String) -> StoreError {
    StoreError::Unavailable { operation: INSTALL, kind: KIND, key: name.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_is_updated_only_when_the_server_lacks_something_of_it() {
        let check =
            |there: Value, ours: Value, expected| assert_eq!(holds(&there, &ours), expected, "{there}");
        check(json!({"a": 1, "b": {"c": [1, 2]}}), json!({"a": 1, "b": {"c": [1, 2]}}), true);
        check(json!({"a": 1, "added by the server": true}), json!({"a": 1}), true);
        check(json!({"a": 1}), json!({"a": 1, "x-kubernetes-validations": []}), true);
        check(json!({"a": 1}), json!({"a": 1, "b": 2}), false);
        check(json!({"a": 2}), json!({"a": 1}), false);
        check(json!({"a": [1]}), json!({"a": [1, 2]}), false);
        check(
            json!({"a": 1, "x-kubernetes-validations": [{"rule": "old"}]}),
            json!({"a": 1, "x-kubernetes-validations": [{"rule": "new"}]}),
            false,
        );
    }
}
