//! How many NetworkPolicies there are: a question about what nobody here enforces.
//!
//! It is no business of the store's, so neither a refusal nor silence says anything about whether the store answers.

use serde::Deserialize;

use super::KubernetesStore;
use super::transport::{self, Call};
use crate::interface::{NetworkPolicies, StoreError};
use crate::rules::LIST;

const PATH: &str = "/apis/networking.k8s.io/v1/networkpolicies";

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    remaining_item_count: Option<u64>,
}

impl KubernetesStore {
    /// Looks at one of them: the answer says how many more there are.
    pub(super) async fn look_for_policies(&self) -> Result<NetworkPolicies, StoreError> {
        let call = Call { operation: LIST, kind: "NetworkPolicy", key: transport::ALL };
        let (code, body) = self
            .transport
            .ask_aside(transport::get(PATH, &[("limit", "1")]))
            .await
            .map_err(|failure| call.failed(failure))?;
        read(code, &body).map_err(|reason| call.unavailable(reason))
    }
}

/// What the answer says.
fn read(code: http::StatusCode, body: &[u8]) -> Result<NetworkPolicies, String> {
    match code {
        http::StatusCode::FORBIDDEN => return Ok(NetworkPolicies::MayNotLook),
        http::StatusCode::NOT_FOUND => return Ok(NetworkPolicies::NotKept),
        code if code.is_success() => {}
        code => return Err(code.to_string()),
    }
    let page: Page =
        serde_json::from_slice(body).map_err(|error| format!("the answer cannot be read: {error}"))?;
    let shown = page.items.map_or(0, |items| items.len() as u64);
    Ok(NetworkPolicies::Count(shown + page.metadata.remaining_item_count.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_page_of_one_says_how_many_there_are_and_a_refusal_that_nobody_may_look() {
        let check = |code: StatusCode, body: &str, expected: Result<NetworkPolicies, &str>| {
            let found = read(code, body.as_bytes());
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected), "{body}"),
                Err(word) => assert!(found.as_ref().is_err_and(|error| error.contains(word)), "{found:?}"),
            }
        };
        use NetworkPolicies::{Count, MayNotLook, NotKept};
        check(StatusCode::OK, r#"{"metadata":{"resourceVersion":"7"},"items":[]}"#, Ok(Count(0)));
        check(StatusCode::OK, r#"{"metadata":{},"items":null}"#, Ok(Count(0)));
        check(StatusCode::OK, r#"{"metadata":{},"items":[{"spec":{}}]}"#, Ok(Count(1)));
        let many = r#"{"metadata":{"continue":"x","remainingItemCount":41},"items":[{}]}"#;
        check(StatusCode::OK, many, Ok(Count(42)));
        check(StatusCode::FORBIDDEN, r#"{"kind":"Status"}"#, Ok(MayNotLook));
        check(StatusCode::NOT_FOUND, "", Ok(NotKept));
        check(StatusCode::SERVICE_UNAVAILABLE, "", Err("503"));
        check(StatusCode::OK, "<html>", Err("cannot be read"));
    }
}
