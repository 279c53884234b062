//! Answers that a healthy server does not give, by a server that says what it is told to. It speaks HTTP without TLS
//! and keeps nothing: it shows what the client makes of an answer, not that servers answer so.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use poolward_store::kubernetes::KubernetesStore;
use poolward_store::resource::{IpPool, Node};
use poolward_store::{Revision, Store, StoreError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::{SHORT, STEP, is_unavailable, key, open, pool};

/// An answer, with more headers than those that every one has.
#[derive(Clone, Debug)]
struct Answer {
    code: u16,
    headers: &'static str,
    body: String,
    /// More bytes are announced than come.
    cut: bool,
}

fn answer(code: u16, body: &impl ToString) -> Answer {
    Answer { code, headers: "", body: body.to_string(), cut: false }
}

fn status(code: u16, reason: &str, details: &Value) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code, "details": details,
    });
    answer(code, &body)
}

fn object(name: &str, revision: u64) -> Value {
    json!({
        "apiVersion": "poolward.io/v1", "kind": "IPPool",
        "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": revision.to_string()},
        "spec": {"cidr": "10.0.0.0/24"},
    })
}

fn page(items: &[Value], revision: u64, resume: &str) -> Answer {
    let metadata = json!({"resourceVersion": revision.to_string(), "continue": resume});
    answer(200, &json!({"kind": "IPPoolList", "metadata": metadata, "items": items}))
}

/// A server with these answers, in order; the last one is given again and again. Requests are written down.
struct Script {
    store: KubernetesStore,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Script {
    async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answers, shared) = (Arc::new(answers), requests.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, answers.clone(), shared.clone()));
            }
        });
        Self { store: connect(address).await, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn connect(address: SocketAddr) -> KubernetesStore {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(file.path(), config.to_string()).unwrap();
    open(file.path(), SHORT).await
}

/// One request a connection.
async fn serve(mut client: TcpStream, answers: Arc<Vec<Answer>>, requests: Arc<Mutex<Vec<String>>>) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let Ok(len @ 1..) = client.read(&mut buffer).await else { return };
        text.push_str(&String::from_utf8_lossy(&buffer[..len]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            break;
        }
    }
    let answer = {
        let mut requests = requests.lock().unwrap();
        requests.push(text.lines().next().unwrap_or_default().to_owned());
        answers[(requests.len() - 1).min(answers.len() - 1)].clone()
    };
    let Answer { code, headers, body, cut } = answer;
    let length = body.len() + usize::from(cut) * 10;
    let head = format!("HTTP/1.1 {code} x\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
    let _ = client.write_all(head.as_bytes()).await;
    let _ = client.write_all(body.as_bytes()).await;
}

#[tokio::test]
async fn only_an_answer_about_the_object_settles_what_became_of_a_request() {
    let named = json!({"name": "a", "kind": "ippools"});
    let unavailable: Vec<Answer> = vec![
        answer(429, &"Too many requests, please try again later."),
        status(429, "TooManyRequests", &json!({"retryAfterSeconds": 1})),
        status(500, "InternalError", &json!({})),
        status(503, "ServiceUnavailable", &json!({})),
        status(504, "Timeout", &json!({})),
        // Who we are, or what we may do, is not known to a server that has just started.
        status(401, "Unauthorized", &json!({})),
        status(403, "Forbidden", &named),
        // The kind is not served (yet): that says nothing of the object.
        answer(404, &"404 page not found"),
        status(404, "NotFound", &json!({})),
        answer(200, &"{\"kind\":\"IPPool\",\"metadata\":{\"na"),
        Answer { cut: true, ..answer(200, &object("a", 5)) },
        Answer { cut: true, ..status(404, "NotFound", &named) },
    ];
    for answer in unavailable {
        let script = Script::start(vec![answer.clone()]).await;
        let store = &script.store;
        let get = store.get::<IpPool>(&key("a")).await;
        assert!(is_unavailable(&get), "{answer:?}: {get:?}");
        let create = store.create(pool("a", 1)).await;
        assert!(is_unavailable(&create), "{answer:?}: {create:?}");
        let swap = store.compare_and_swap(Revision::new(5), pool("a", 1)).await;
        assert!(is_unavailable(&swap), "{answer:?}: {swap:?}");
        let delete = store.compare_and_delete::<IpPool>(&key("a"), Revision::new(5)).await;
        assert!(is_unavailable(&delete), "{answer:?}: {delete:?}");
        // Nothing is tried again behind the caller's back.
        let methods: Vec<String> =
            script.requests().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(methods, ["GET", "POST", "PUT", "GET"], "{answer:?}");
    }
    let script = Script::start(vec![status(404, "NotFound", &named)]).await;
    assert_eq!(script.store.get::<IpPool>(&key("a")).await, Ok(None));
    let script = Script::start(vec![status(422, "Invalid", &json!({"name": "a"}))]).await;
    let refused = script.store.create(pool("a", 1)).await;
    assert!(matches!(refused, Err(StoreError::Internal { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_list_whose_snapshot_is_gone_is_begun_anew() {
    let script = Script::start(vec![
        page(&[object("a", 3), object("b", 4)], 10, "token/1+="),
        status(410, "Expired", &json!({})),
        page(&[object("a", 3)], 20, "token-2"),
        page(&[object("c", 12)], 20, ""),
    ])
    .await;
    let list = script.store.list::<IpPool>().await.unwrap();
    let names: Vec<&str> = list.items.iter().map(|pool| pool.value.metadata.name.as_str()).collect();
    assert_eq!((names, list.revision), (vec!["a", "c"], Revision::new(20)));
    let path = "GET /apis/poolward.io/v1/ippools?limit=500";
    let expected = ["", "&continue=token%2F1%2B%3D", "", "&continue=token-2"]
        .map(|more| format!("{path}{more} HTTP/1.1"));
    assert_eq!(script.requests(), expected);

    let hopeless = Script::start(vec![status(410, "Expired", &json!({}))]).await;
    hopeless.store.list::<IpPool>().await.unwrap_err();
    assert_eq!(hopeless.requests().len(), 6, "tries are bounded");
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_read_and_large_nodes_are_reduced() {
    let mut newer = object("a", 3);
    newer["spec"]["shape"] = json!({"of": "things to come"});
    newer["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let script = Script::start(vec![answer(200, &newer)]).await;
    let read = script.store.get::<IpPool>(&key("a")).await.unwrap().unwrap();
    assert_eq!((read.value.spec.cidr.as_str(), read.revision), ("10.0.0.0/24", Revision::new(3)));

    let image = json!({"names": ["registry.example/image@sha256:0123456789abcdef"], "sizeBytes": 12_345_678});
    let addresses = json!([
        {"type": "Hostname", "address": "node-1"},
        {"type": "InternalIP", "address": "192.0.2.1"},
        {"type": "ExternalIP", "address": "198.51.100.1"},
        {"type": "InternalIP", "address": "2001:db8::1"},
    ]);
    let node = json!({
        "metadata": {"name": "node-1", "uid": "u", "resourceVersion": "7", "annotations": {"large": "x".repeat(1000)}},
        "spec": {"podCIDR": "10.1.0.0/24"},
        "status": {"addresses": addresses, "images": vec![image; 50]},
    });
    let list = json!({"metadata": {"resourceVersion": "9"}, "items": [node]});
    let script = Script::start(vec![answer(200, &list)]).await;
    let nodes = script.store.list::<Node>().await.unwrap();
    assert_eq!(nodes.items[0].value.addresses, ["192.0.2.1", "2001:db8::1"]);
    assert!(nodes.items[0].value.metadata.annotations.is_empty());
}

/// A watch whose lines are these; the server hangs up behind them.
fn lines(lines: &[Value]) -> Answer {
    answer(200, &lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

#[tokio::test]
async fn a_watch_goes_on_behind_bookmarks_and_waits_as_long_as_it_is_asked_to() {
    let overloaded = Answer { headers: "retry-after: 2\r\n", ..answer(429, &"later") };
    let gone =
        json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
    let script = Script::start(vec![
        page(&[], 10, ""),
        lines(&[event("ADDED", &object("a", 11)), event("BOOKMARK", &object("", 40))]),
        overloaded,
        page(&[], 50, ""),
        // As it was when the server was there the last time.
        page(&[object("a", 11)], 40, ""),
        // Seen already, then news.
        lines(&[event("MODIFIED", &object("a", 39)), event("DELETED", &object("a", 45))]),
        page(&[], 50, ""),
        lines(&[event("ERROR", &gone)]),
    ])
    .await;
    let started = Instant::now();
    let watch = script.store.watch::<IpPool>(Revision::new(10)).await.unwrap();
    let seen: Vec<_> = tokio::time::timeout(STEP, watch.collect()).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(2), "the server asked for two seconds");
    let revisions: Vec<u64> = seen.iter().flatten().map(|event| event.revision().get()).collect();
    assert_eq!(revisions, [11, 45]);
    assert!(matches!(seen.last(), Some(Err(StoreError::Expired { .. }))), "{seen:?}");
    let watches: Vec<String> =
        script.requests().into_iter().filter(|line| line.contains("watch=true")).collect();
    let from = |revision: u64| format!("resourceVersion={revision}&allowWatchBookmarks=true");
    assert!(
        watches[0].contains(&from(10)) && watches[1].contains(&from(40)) && watches[2].contains(&from(45))
    );
}

#[tokio::test]
async fn a_watch_ends_when_what_it_saw_last_is_not_in_the_servers_history() {
    let hangs_up = || answer(503, &"starting");
    let added = || lines(&[event("ADDED", &object("a", 11)), event("BOOKMARK", &object("", 40))]);
    let deleted = || lines(&[event("DELETED", &object("a", 11)), event("BOOKMARK", &object("", 40))]);
    let check = async |seen: Answer, at_40: &[Value], is_another: bool| {
        let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
        let script = Script::start(vec![
            page(&[], 10, ""),
            seen,
            hangs_up(),
            page(&[], 50, ""),
            page(at_40, 40, ""),
            lines(&[event("ERROR", &gone)]),
        ])
        .await;
        let watch = script.store.watch::<IpPool>(Revision::new(10)).await.unwrap();
        let seen: Vec<_> = tokio::time::timeout(STEP, watch.collect()).await.unwrap();
        assert!(matches!(seen.last(), Some(Err(StoreError::Expired { .. }))), "{seen:?}");
        let requests = script.requests();
        let watches = requests.iter().filter(|line| line.contains("watch=true")).count();
        assert_eq!(watches, if is_another { 1 } else { 2 }, "{at_40:?}: {requests:?}");
        let asked = requests.iter().find(|line| line.contains("resourceVersionMatch=Exact")).unwrap();
        assert!(asked.contains("resourceVersion=40") && asked.contains("metadata.name"), "{asked}");
    };
    check(added(), &[object("a", 11)], false).await;
    // As it was before; or made again since; or never made.
    check(added(), &[object("a", 9)], true).await;
    check(added(), &[object("a", 30)], true).await;
    check(added(), &[], true).await;
    check(deleted(), &[], false).await;
    check(deleted(), &[object("a", 9)], true).await;
}
