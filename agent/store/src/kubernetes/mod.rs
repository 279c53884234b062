//! The cluster store on a Kubernetes API server: our kinds as custom resources, Nodes, Pods and Namespaces read and
//! reduced.
//!
//! * [`transport`]: one request with a bounded time; what an answer means, and what no answer means.
//! * [`wire`]: objects, lists and events as the API writes them.
//! * [`delete`]: deletion and the finalizer, as one operation.
//! * [`follow`]: a watch that goes on over many connections.
//! * [`witness`]: whether the history it goes on in is the one it was in.
//! * [`policies`]: how many NetworkPolicies there are.
//! * [`crd`] and [`install`]: the definitions of our kinds, and bringing them to a server.
//!
//! Revisions are etcd's, read from `resourceVersion`. A write that was not answered is never settled by a read here:
//! it is reported as [`StoreError::Unavailable`], and only a later compare-and-swap settles it. It retries no write
//! and caches nothing. Why it is as it is: docs/adr/0008-kubernetes-store.md.

pub mod crd;
mod delete;
mod follow;
pub mod install;
mod options;
mod policies;
mod transport;
mod wire;
mod witness;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::NodeName;

pub use options::{ConnectError, Options, Timeouts};

use crate::event::Watch;
use crate::interface::{Contact, List, NetworkPolicies, Store, StoreError};
use crate::key::Key;
use crate::resource::{API_VERSION, PROTECT_FINALIZER, Pod, Resource};
use crate::rules::{CREATE, GET, LIST, REPLACE, internal, key_of};
use crate::versioned::{Revision, Versioned};
use transport::{Call, Failure, Transport};
use witness::{Listed, Witness};

/// What a replacement of a status is called in errors.
const REPLACE_STATUS: &str = "replace the status of";

/// How often a create is made again that lost to an object which was gone when it was looked at.
const MAX_CREATE_TRIES: u32 = 4;

/// Objects of one page of a list. Core objects are large (a Node holds its list of images), and a page is all that
/// is ever held of them unreduced.
const PAGE_LEN: u32 = 500;
const CORE_PAGE_LEN: u32 = 100;

/// Of a list: exactly at the revision that is named.
const LIST_MATCH_EXACT: &str = "Exact";

/// How often a list is begun anew because the server no longer kept its snapshot.
const MAX_LIST_TRIES: u32 = 5;

/// A store on an API server. Cheap to clone; clones share connections. Needs the tokio runtime it was made on.
#[derive(Clone)]
pub struct KubernetesStore {
    transport: Arc<Transport>,
    /// The node whose Pods are listed and watched; all of them without.
    node_name: Option<Arc<str>>,
    /// What the last list of each kind showed, for the watch that begins where it ended.
    listed: Arc<Mutex<BTreeMap<&'static str, Listed>>>,
}

impl std::fmt::Debug for KubernetesStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesStore").field("node_name", &self.node_name).finish_non_exhaustive()
    }
}

impl KubernetesStore {
    /// Reads where the server is and who we are to it. Asks the server nothing, so that this works while it is away.
    ///
    /// # Errors
    /// There is no such configuration, or it is of no use.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let config = options.config().await?;
        let transport = Transport::new(config, options.timeouts)?;
        let node_name = options.node_name.map(|name| Arc::from(name.as_str()));
        Ok(Self { transport: Arc::new(transport), node_name, listed: Arc::default() })
    }

    async fn read<R: Resource>(
        &self,
        operation: &'static str,
        key: &Key,
    ) -> Result<Option<Versioned<R>>, StoreError> {
        let call = Call::of::<R>(operation, key.as_str());
        let request = transport::get(&wire::object_path::<R>(key), &[]);
        match self.transport.ask(request).await {
            Ok(answer) => wire::read_object::<R>(&answer).map(Some).map_err(|error| call.unreadable(&error)),
            Err(Failure::Refused(status)) if transport::is_absence(&status, key) => Ok(None),
            Err(failure) => Err(call.failed(failure)),
        }
    }

    /// The revision of what is there, for a refusal that was already certain.
    async fn revision_there<R: Resource>(
        &self,
        operation: &'static str,
        key: &Key,
    ) -> Result<Option<Revision>, StoreError> {
        Ok(self.read::<R>(operation, key).await?.map(|there| there.revision))
    }

    /// Puts a value at a path: the object's, or its status'.
    async fn put<R: Resource>(
        &self,
        operation: &'static str,
        key: &Key,
        path: &str,
        expected: Revision,
        value: &R,
    ) -> Result<Versioned<R>, StoreError> {
        let call = Call::of::<R>(operation, key.as_str());
        // A resourceVersion of 0 would mean "whatever there is".
        if expected == Revision::ZERO {
            let actual = self.revision_there::<R>(operation, key).await?;
            return Err(conflict::<R>(operation, key, expected, actual));
        }
        let body = wire::body_of(operation, key, value, Some(expected))?;
        match self.transport.ask(transport::put(path, body)).await {
            Ok(answer) => wire::read_object::<R>(&answer).map_err(|error| call.unreadable_write(&error)),
            Err(Failure::Refused(status)) if transport::is_absence(&status, key) => {
                Err(conflict::<R>(operation, key, expected, None))
            }
            Err(Failure::Refused(status)) if status.code == 409 => {
                let there = self.read::<R>(operation, key).await?;
                if let Some(there) = &there
                    && there.revision == expected
                    && !value.metadata().uid.is_empty()
                {
                    let reason = format!(
                        "its uid is {} and cannot become {}: delete and create it",
                        there.uid,
                        value.metadata().uid
                    );
                    return Err(internal::<R>(operation, key.as_str(), reason));
                }
                Err(conflict::<R>(operation, key, expected, there.map(|there| there.revision)))
            }
            Err(failure) => Err(call.failed(failure)),
        }
    }

    /// One page of a list.
    async fn page<R: Resource>(
        &self,
        selector: Option<&str>,
        resume: &str,
    ) -> Result<wire::Page<R>, Failure> {
        let len = if is_own::<R>() { PAGE_LEN } else { CORE_PAGE_LEN };
        let len = len.to_string();
        let mut query = vec![("limit", len.as_str())];
        if let Some(selector) = selector {
            query.push(("fieldSelector", selector));
        }
        if !resume.is_empty() {
            query.push(("continue", resume));
        }
        let answer = self.transport.ask_list(transport::get(&wire::list_path::<R>(), &query)).await?;
        wire::read_page(&answer).map_err(Failure::Unreadable)
    }

    /// All pages of one consistent snapshot.
    async fn pages<R: Resource>(
        &self,
        selector: Option<String>,
        mut take: impl FnMut(Vec<Versioned<R>>) + Send,
    ) -> Result<Revision, StoreError> {
        let call = Call::of::<R>(LIST, transport::ALL);
        let mut resume = String::new();
        let mut newest: Option<Witness> = None;
        loop {
            match self.page::<R>(selector.as_deref(), &resume).await {
                Ok(page) => {
                    let of_page = page.items.iter().max_by_key(|object| object.revision);
                    let of_page = of_page.map(Witness::of_put);
                    newest = match (newest, of_page) {
                        (Some(newest), Some(of_page)) => Some(newest.newer(of_page)),
                        (newest, of_page) => newest.or(of_page),
                    };
                    take(page.items);
                    if page.resume.is_empty() {
                        let listed = Listed { revision: page.revision, newest };
                        self.listed.lock().unwrap_or_else(PoisonError::into_inner).insert(R::KIND, listed);
                        return Ok(page.revision);
                    }
                    resume = page.resume;
                }
                Err(Failure::Refused(status)) if status.code == 410 => {
                    let (from, zero) = (Revision::ZERO, Revision::ZERO);
                    return Err(StoreError::Expired { kind: R::KIND, from, oldest: zero, newest: zero });
                }
                Err(failure) => return Err(call.failed(failure)),
            }
        }
    }

    /// The newest object that a list showed which ended at this revision.
    fn newest_listed<R: Resource>(&self, revision: Revision) -> Option<Witness> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.get(R::KIND).filter(|listed| listed.revision == revision)?.newest.clone()
    }

    /// Which of a kind's objects are of interest: Pods may be those of one node.
    fn field_selector<R: Resource>(&self) -> Option<String> {
        let node_name = self.node_name.as_ref()?;
        R::NAMESPACED.then(|| format!("spec.nodeName={node_name}"))
    }
}

impl Store for KubernetesStore {
    /// 1. A create that was answered with "there is one" is certain not to have been made; what is there is then read
    ///    for its revision.
    /// 2. If nothing is there any more, the create is made again: a few times, because each loss was certain.
    async fn create<R: Resource>(&self, mut value: R) -> Result<Versioned<R>, StoreError> {
        let key = key_of(CREATE, &value)?;
        refuse_core::<R>(CREATE, &key)?;
        let call = Call::of::<R>(CREATE, key.as_str());
        protect(&mut value);
        let body = wire::body_of(CREATE, &key, &value, None)?;
        for _ in 0..MAX_CREATE_TRIES {
            let request = transport::post(&wire::collection_path::<R>(&key), body.clone());
            match self.transport.ask(request).await {
                Ok(answer) => {
                    return wire::read_object::<R>(&answer).map_err(|error| call.unreadable_write(&error));
                }
                Err(Failure::Refused(status)) if status.code == 409 => {
                    if let Some(actual) = self.revision_there::<R>(CREATE, &key).await? {
                        return Err(StoreError::AlreadyExists { kind: R::KIND, key, actual });
                    }
                }
                Err(failure) => return Err(call.failed(failure)),
            }
        }
        Err(call.unavailable("others create and delete it all the time".to_owned()))
    }

    async fn get<R: Resource>(&self, key: &Key) -> Result<Option<Versioned<R>>, StoreError> {
        self.read(GET, key).await
    }

    async fn compare_and_swap<R: Resource>(
        &self,
        expected: Revision,
        mut value: R,
    ) -> Result<Versioned<R>, StoreError> {
        let key = key_of(REPLACE, &value)?;
        refuse_core::<R>(REPLACE, &key)?;
        protect(&mut value);
        let path = wire::object_path::<R>(&key);
        let swapped = self.put(REPLACE, &key, &path, expected, &value).await?;
        if swapped.revision != expected {
            return Ok(swapped);
        }
        // The server makes no change of a replacement by the same, so that a write which was sent before and is still
        // on its way could be made after it. Whoever swaps must be able to rely on having voided those.
        value.metadata_mut().annotations.insert(wire::TOUCHED.to_owned(), expected.to_string());
        self.put(REPLACE, &key, &path, expected, &value).await
    }

    async fn compare_and_swap_status<R: Resource>(
        &self,
        expected: Revision,
        value: R,
    ) -> Result<Versioned<R>, StoreError> {
        let key = key_of(REPLACE_STATUS, &value)?;
        refuse_core::<R>(REPLACE_STATUS, &key)?;
        let path = format!("{}/status", wire::object_path::<R>(&key));
        self.put(REPLACE_STATUS, &key, &path, expected, &value).await
    }

    async fn compare_and_delete<R: Resource>(
        &self,
        key: &Key,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        refuse_core::<R>(crate::rules::DELETE, key)?;
        delete::exec::<R>(self, key, expected).await
    }

    /// Page after page of one consistent snapshot. When the server keeps it no longer (it was compacted meanwhile),
    /// from the start again.
    async fn list<R: Resource>(&self) -> Result<List<R>, StoreError> {
        let mut tries = 0;
        loop {
            let mut items: Vec<Versioned<R>> = Vec::new();
            match self.pages::<R>(self.field_selector::<R>(), |mut page| items.append(&mut page)).await {
                Ok(revision) => {
                    items.sort_by(|a, b| order_of(&a.value).cmp(&order_of(&b.value)));
                    items.shrink_to_fit();
                    return Ok(List { items, revision });
                }
                Err(StoreError::Expired { .. }) if tries < MAX_LIST_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// One snapshot only: when the server keeps it no longer, that is an error.
    async fn list_pages<R: Resource>(
        &self,
        take: impl FnMut(Vec<Versioned<R>>) + Send,
    ) -> Result<Revision, StoreError> {
        self.pages::<R>(self.field_selector::<R>(), take).await
    }

    async fn list_pods_on(&self, node: &NodeName) -> Result<Vec<Versioned<Pod>>, StoreError> {
        let mut pods = Vec::new();
        let selector = format!("spec.nodeName={node}");
        self.pages::<Pod>(Some(selector), |mut page| pods.append(&mut page)).await?;
        Ok(pods)
    }

    async fn count_network_policies(&self) -> Result<NetworkPolicies, StoreError> {
        self.look_for_policies().await
    }

    fn contact(&self) -> Contact {
        self.transport.contact()
    }

    async fn watch<R: Resource>(&self, from: Revision) -> Result<Watch<R>, StoreError> {
        follow::start(self.clone(), from).await
    }
}

/// As keys are ordered, without making them.
fn order_of<R: Resource>(value: &R) -> (&str, &str) {
    let metadata = value.metadata();
    (&metadata.namespace, &metadata.name)
}

/// Whether objects of the kind are ours to write.
fn is_own<R: Resource>() -> bool {
    R::API_VERSION == API_VERSION
}

fn refuse_core<R: Resource>(operation: &'static str, key: &Key) -> Result<(), StoreError> {
    if is_own::<R>() {
        return Ok(());
    }
    let reason = "objects of this kind belong to Kubernetes: change them there".to_owned();
    Err(internal::<R>(operation, key.as_str(), reason))
}

/// Objects of protected kinds carry the finalizer from their first moment, and get it (back) with every write; not
/// those that are being deleted, which the API would refuse.
fn protect<R: Resource>(value: &mut R) {
    let metadata = value.metadata_mut();
    if R::PROTECTED && !metadata.is_protected() && !metadata.is_being_deleted() {
        metadata.finalizers.push(PROTECT_FINALIZER.to_owned());
    }
}

fn conflict<R: Resource>(
    operation: &'static str,
    key: &Key,
    expected: Revision,
    actual: Option<Revision>,
) -> StoreError {
    StoreError::Conflict { operation, kind: R::KIND, key: key.clone(), expected, actual }
}
