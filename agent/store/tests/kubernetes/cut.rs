//! Connections cut in the middle of a write. The way to the server leads over a proxy that passes bytes on, and, when
//! it is told to, loses the next request or the next answer and hangs up. It cannot read what it passes on (that is
//! TLS), and need not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use poolward_store::kubernetes::KubernetesStore;
use poolward_store::resource::IpPool;
use poolward_store::{Store, StoreError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::cluster::{Cluster, SHORT, is_unavailable, key, pool, read};

/// How long the server's bytes are lost before the proxy hangs up.
const LOSING: Duration = Duration::from_secs(1);

/// What the proxy loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The request does not arrive.
    Request,
    /// The request arrives, its answer does not.
    Answer,
}

/// A fault that waits for the request of this number, counted from 0 over all connections.
#[derive(Debug)]
struct Armed {
    fault: Fault,
    number: u32,
}

struct Proxy {
    address: SocketAddr,
    armed: Arc<Mutex<Option<Armed>>>,
}

impl Proxy {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let armed = Arc::new(Mutex::new(None));
        let shared = armed.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, shared.clone()));
            }
        });
        Self { address, armed }
    }

    /// Lets a connection be made and used, then arms the fault: it strikes a request, not a handshake, also not that
    /// of a second connection which the client may have begun beside the first.
    async fn arm(&self, store: &KubernetesStore, fault: Fault, number: u32) {
        read::<IpPool>(store, "a").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        *self.armed.lock().unwrap() = Some(Armed { fault, number });
    }

    fn has_struck(&self) -> bool {
        self.armed.lock().unwrap().is_none()
    }
}

/// Passes on until either side ends or the fault strikes; then hangs up on both. A request is what the client sends
/// after the server has spoken.
async fn pass(mut client: TcpStream, server: SocketAddr, armed: Arc<Mutex<Option<Armed>>>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    // An answer is lost by passing on nothing for a while, not by hanging up at the first byte from the server: that may
    // belong to the handshake.
    let (mut server_spoke, mut hang_up) = (false, None::<Instant>);
    // The fault that strikes the request which begins now.
    let strike = || {
        let mut armed = armed.lock().unwrap();
        match armed.as_mut() {
            Some(Armed { number: 0, .. }) => armed.take().map(|armed| armed.fault),
            Some(waiting) => {
                waiting.number -= 1;
                None
            }
            None => None,
        }
    };
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(len @ 1..) = read else { return };
                if std::mem::take(&mut server_spoke) {
                    match strike() {
                        Some(Fault::Request) => return,
                        Some(Fault::Answer) => hang_up = Some(Instant::now() + LOSING),
                        None => {}
                    }
                }
                if server.write_all(&up[..len]).await.is_err() { return }
            },
            read = server.read(&mut down) => {
                let Ok(len @ 1..) = read else { return };
                server_spoke = true;
                if hang_up.is_none() && client.write_all(&down[..len]).await.is_err() { return }
            },
            () = tokio::time::sleep_until(hang_up.unwrap_or_else(Instant::now)), if hang_up.is_some() => return,
        }
    }
}

/// What a write without an answer may have done, by what is there afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_an_answer_is_reported_as_such_and_settled_by_a_later_one() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::before(cluster.control_plane.address()).await;
    let (sure, shaky) = (&cluster.store, cluster.over(proxy.address, SHORT).await);
    for (fault, landed) in [(Fault::Request, false), (Fault::Answer, true)] {
        proxy.arm(&shaky, fault, 0).await;
        let created = shaky.create(pool("a", 1)).await;
        assert!(is_unavailable(&created) && proxy.has_struck(), "{fault:?}: {created:?}");
        assert_eq!(read::<IpPool>(sure, "a").await.is_some(), landed, "{fault:?}");
        // The same again tells which it was, and is what settles it.
        let again = shaky.create(pool("a", 1)).await;
        assert_eq!(matches!(again, Err(StoreError::AlreadyExists { .. })), landed, "{fault:?}: {again:?}");

        let before = read::<IpPool>(&shaky, "a").await.unwrap();
        proxy.arm(&shaky, fault, 0).await;
        let swapped = shaky.compare_and_swap(before.revision, pool("a", 2)).await;
        assert!(is_unavailable(&swapped) && proxy.has_struck(), "{fault:?}: {swapped:?}");
        let again = shaky.compare_and_swap(before.revision, pool("a", 2)).await;
        assert_eq!(matches!(again, Err(StoreError::Conflict { .. })), landed, "{fault:?}: {again:?}");
        let settled = read::<IpPool>(sure, "a").await.unwrap();
        assert_eq!(settled.value.spec.priority, 2);
        sure.compare_and_delete::<IpPool>(&key("a"), settled.revision).await.unwrap();
    }
}

/// A deletion reads (0), takes the finalizer off (1), deletes (2) and asks for the revision of that (3): whichever of
/// them is lost, another try completes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_is_cut_anywhere_is_completed_by_another() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::before(cluster.control_plane.address()).await;
    let (sure, shaky) = (&cluster.store, cluster.over(proxy.address, SHORT).await);
    for (fault, landed) in [(Fault::Request, false), (Fault::Answer, true)] {
        for lost in 0..4 {
            let case = format!("{fault:?} of request {lost}");
            let made = sure.create(pool("a", 1)).await.unwrap();
            proxy.arm(&shaky, fault, lost).await;
            let deleted = shaky.compare_and_delete::<IpPool>(&key("a"), made.revision).await;
            assert!(proxy.has_struck(), "{case}");
            // The last one only asks: the deletion is known to have happened.
            assert_eq!(is_unavailable(&deleted), lost < 3, "{case}: {deleted:?}");
            let left = read::<IpPool>(sure, "a").await;
            assert_eq!(left.is_none(), lost == 3 || (lost == 2 && landed), "{case}: {left:?}");
            if let Some(left) = left {
                let bare = lost == 2 || (lost == 1 && landed);
                assert_eq!(left.value.metadata.is_protected(), !bare, "{case}");
                shaky.compare_and_delete::<IpPool>(&key("a"), left.revision).await.unwrap();
                assert_eq!(read::<IpPool>(sure, "a").await, None, "{case}");
            }
        }
    }
}
