//! One request to the API server: bounded in time, made once, its answer told apart from silence.
//!
//! What counts as an answer is decided by [`judge`] alone. Everything that leaves open whether a write was made,
//! or that a server says while it starts or is overloaded, is [`Failure::Unanswered`].

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use kube::config::Config;
use kube::core::Status;
use tokio::time::Instant;

use super::options::{ConnectError, Timeouts};
use crate::interface::{Contact, StoreError};
use crate::key::Key;
use crate::resource::Resource;

/// Stands in errors where an operation is about all objects of a kind.
pub(super) const ALL: &str = "(all)";

/// The longest pause a server may ask for; it is only a wish.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The client and its patience. One for each store; its clones share it.
pub(super) struct Transport {
    client: kube::Client,
    pub(super) timeouts: Timeouts,
    /// Since when there are no answers, and what came instead of the last one; `None`: there are.
    lost: Mutex<Option<(Instant, String)>>,
}

/// Why a request brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refused: nothing was changed, and the same again would be refused again.
    Refused(Box<Status>),
    /// There is no answer that says what became of it.
    Unanswered {
        /// What was met instead.
        reason: String,
        /// What the server asked to wait for.
        retry_after: Option<Duration>,
    },
    /// It succeeded, and the answer cannot be read.
    Unreadable(serde_json::Error),
}

impl Failure {
    fn unanswered(reason: impl Into<String>) -> Self {
        Self::Unanswered { reason: reason.into(), retry_after: None }
    }
}

impl Transport {
    pub(super) fn new(config: Config, timeouts: Timeouts) -> Result<Self, ConnectError> {
        let client = kube::Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
        Ok(Self { client, timeouts, lost: Mutex::default() })
    }

    /// Makes a request and reads the whole answer.
    pub(super) async fn ask(&self, request: Request<Vec<u8>>) -> Result<Vec<u8>, Failure> {
        self.ask_within(request, self.timeouts.request).await
    }

    /// The same for a page of a list, which takes longer.
    pub(super) async fn ask_list(&self, request: Request<Vec<u8>>) -> Result<Vec<u8>, Failure> {
        self.ask_within(request, self.timeouts.list).await
    }

    async fn ask_within(&self, request: Request<Vec<u8>>, limit: Duration) -> Result<Vec<u8>, Failure> {
        let whole = async {
            let response = self.client.send(request.map(Body::from)).await.map_err(|e| broken(&e))?;
            let (head, body) = response.into_parts();
            let retry_after = retry_after(&head.headers);
            let body = body.collect_bytes().await.map_err(|error| broken(&error))?;
            judge(head.status, retry_after, &body)?;
            Ok(body.to_vec())
        };
        let answer = match tokio::time::timeout(limit, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::unanswered(format!("no answer within {} s", limit.as_secs_f32()))),
        };
        self.note(answer.as_ref().err());
        answer
    }

    /// Makes a request of which it does not matter whether it may be made: nothing follows from it for
    /// [`Transport::contact`]. The answer's code and body.
    pub(super) async fn ask_aside(
        &self,
        request: Request<Vec<u8>>,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let whole = async {
            let response = self.client.send(request.map(Body::from)).await.map_err(|e| broken(&e))?;
            let (head, body) = response.into_parts();
            let body = body.collect_bytes().await.map_err(|error| broken(&error))?;
            Ok((head.status, body.to_vec()))
        };
        match tokio::time::timeout(self.timeouts.request, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::unanswered("no answer in time")),
        }
    }

    /// Whether the server answers, by the requests that were made.
    pub(super) fn contact(&self) -> Contact {
        match &*self.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Contact::Answers,
            Some((since, reason)) => Contact::Lost { elapsed: since.elapsed(), reason: reason.clone() },
        }
    }

    fn note(&self, failure: Option<&Failure>) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            Some(Failure::Unanswered { reason, .. }) => {
                let since = lost.take().map_or_else(Instant::now, |(since, _)| since);
                *lost = Some((since, reason.clone()));
            }
            Some(Failure::Refused(_) | Failure::Unreadable(_)) | None => *lost = None,
        }
    }

    /// Opens a stream. Only its beginning is bounded here.
    pub(super) async fn open(&self, request: Request<Vec<u8>>) -> Result<Response<Body>, Failure> {
        let opening = async {
            let response = self.client.send(request.map(Body::from)).await.map_err(|e| broken(&e))?;
            if response.status().is_success() {
                return Ok(response);
            }
            let (head, body) = response.into_parts();
            let retry_after = retry_after(&head.headers);
            let body = body.collect_bytes().await.map_err(|error| broken(&error))?;
            judge(head.status, retry_after, &body)?;
            Err(Failure::unanswered(format!("an answer of {} to a watch", head.status)))
        };
        match tokio::time::timeout(self.timeouts.request, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::unanswered(format!(
                "no answer within {} s",
                self.timeouts.request.as_secs_f32()
            ))),
        }
    }
}

/// A request that met no HTTP answer, with every cause that is known.
fn broken(error: &dyn std::error::Error) -> Failure {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = cause.source();
    }
    Failure::unanswered(reason)
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// What an HTTP answer means.
///
/// 1. Success.
/// 2. Who we are or may do is not settled yet, the server is overloaded, failing or starting: no answer. So is a 404
///    that is about no object: the kind is not (yet) served.
/// 3. Everything else is a refusal.
pub(super) fn judge(code: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Result<(), Failure> {
    if code.is_success() {
        return Ok(());
    }
    let status = serde_json::from_slice::<Status>(body).unwrap_or_else(|_| {
        let text: String = String::from_utf8_lossy(body).trim().chars().take(300).collect();
        Status::failure(&text, "")
    });
    let status = Status { code: code.as_u16(), ..status };
    let about_object = status.details.as_ref().is_some_and(|details| !details.name.is_empty());
    let unanswered = match code {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::NOT_FOUND => !about_object,
        code => !code.is_client_error(),
    };
    if !unanswered {
        return Err(Failure::Refused(Box::new(status)));
    }
    let asked = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|s| *s > 0);
    let asked = asked.map(|seconds| Duration::from_secs(seconds.into()).min(MAX_RETRY_AFTER));
    let mut reason = format!("{code}: {}", status.message);
    if code == StatusCode::NOT_FOUND {
        reason.push_str(" (are Poolward's custom resource definitions installed?)");
    }
    Err(Failure::Unanswered { reason, retry_after: retry_after.or(asked) })
}

/// Whether a refusal says that this object does not exist.
pub(super) fn is_absence(status: &Status, key: &Key) -> bool {
    status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == key.name())
}

/// What a request was for, in errors.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) operation: &'static str,
    pub(super) kind: &'static str,
    pub(super) key: &'a str,
}

impl<'a> Call<'a> {
    pub(super) fn of<R: Resource>(operation: &'static str, key: &'a str) -> Self {
        Self { operation, kind: R::KIND, key }
    }

    pub(super) fn unavailable(self, reason: String) -> StoreError {
        let Self { operation, kind, key } = self;
        StoreError::Unavailable { operation, kind, key: key.to_owned(), reason }
    }

    fn internal(self, reason: String) -> StoreError {
        let Self { operation, kind, key } = self;
        StoreError::Internal { operation, kind, key: key.to_owned(), reason }
    }

    pub(super) fn failed(self, failure: Failure) -> StoreError {
        match failure {
            Failure::Refused(status) => self.internal(format!("{}: {}", status.code, status.message)),
            Failure::Unanswered { reason, .. } => self.unavailable(reason),
            Failure::Unreadable(error) => self.unreadable(&error),
        }
    }

    /// An answer to a read: one that ends too early was cut, another is an object we cannot read.
    pub(super) fn unreadable(self, error: &serde_json::Error) -> StoreError {
        if error.is_eof() {
            return self.unavailable(format!("the answer was cut: {error}"));
        }
        self.internal(format!("the answer cannot be read: {error}"))
    }

    /// An answer to a write: it was made, but nobody can say at which revision.
    pub(super) fn unreadable_write(self, error: &serde_json::Error) -> StoreError {
        self.unavailable(format!("the answer cannot be read: {error}"))
    }
}

pub(super) fn get(path: &str, query: &[(&str, &str)]) -> Request<Vec<u8>> {
    let mut uri = path.to_owned();
    for (i, (name, value)) in query.iter().enumerate() {
        uri.push(if i == 0 { '?' } else { '&' });
        uri.push_str(name);
        uri.push('=');
        push_encoded(&mut uri, value);
    }
    request(Method::GET, &uri, Vec::new())
}

pub(super) fn put(path: &str, body: Vec<u8>) -> Request<Vec<u8>> {
    request(Method::PUT, path, body)
}

pub(super) fn post(path: &str, body: Vec<u8>) -> Request<Vec<u8>> {
    request(Method::POST, path, body)
}

pub(super) fn delete(path: &str, body: Vec<u8>) -> Request<Vec<u8>> {
    request(Method::DELETE, path, body)
}

fn request(method: Method, uri: &str, body: Vec<u8>) -> Request<Vec<u8>> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    // Paths are made of names that are checked, and the rest is encoded: this cannot fail, and if it did, the server
    // would refuse the request for its root.
    *request.uri_mut() = uri.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("application/json"));
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    request
}

/// Percent-encodes everything but what a query value may hold plainly (RFC 3986, unreserved).
fn push_encoded(uri: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(byte.into());
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            uri.push('%');
            uri.push(HEX[usize::from(byte >> 4)].into());
            uri.push(HEX[usize::from(byte & 15)].into());
        }
    }
}
