//! Interfaces: waiting for what the kernel does with them in its own time.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};

use super::{Linux, is_missing, lock, netlink_error};
use crate::kernel::netlink::Netlink;
use crate::kernel::{Kernel, KernelError, message};

/// Deletions whose thread has not returned yet, at most; beyond that they are waited for.
const DELETIONS_MAX: usize = 32;

/// How often a deletion under way is looked at.
const DELETION_POLL: Duration = Duration::from_micros(100);

/// How long a deletion may take until it is called failed.
const DELETION_LIMIT: Duration = Duration::from_secs(10);

/// How often it is asked whether the kernel has noticed a carrier, and how long at most.
const CARRIER_POLL: Duration = Duration::from_micros(500);
const CARRIER_LIMIT: Duration = Duration::from_secs(5);

impl Linux {
    /// Since 6.8 the question itself makes the kernel notice the carrier (`linkwatch_sync_dev` in `rtnl_getlink`);
    /// before, its own work does so within milliseconds.
    pub(super) fn await_carrier(&self, ifname: &str) -> Result<(), KernelError> {
        let deadline = Instant::now() + CARRIER_LIMIT;
        loop {
            let found = self.fetch_link(ifname)?;
            if found.as_ref().is_none_or(|link| link.operational) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let operation = format!("wait for the carrier of {ifname}");
                return Err(KernelError::io(operation, io::Error::from(io::ErrorKind::TimedOut)));
            }
            thread::sleep(CARRIER_POLL);
        }
    }

    /// Deletes an interface and returns when the kernel finds it no more under its name.
    ///
    /// The system call itself returns 15 to 40 ms later: it waits for readers of the programs' links, with the rtnl
    /// lock held, and then for those of the freed memory (`dev_tcx_uninstall`, `netdev_run_todo`; measured on 6.18:
    /// gone after 0.7 ms). Those waits, and letting go of the pins after them, are left to a thread. The question
    /// whether it is gone must not wait for that lock either: `SIOCGIFINDEX` does not, a netlink question does.
    pub(super) fn delete_link(&self, ifname: &str, ifindex: u32) -> Result<(), KernelError> {
        let operation = || format!("delete interface {ifname} ({ifindex})");
        let (sender, receiver) = mpsc::channel();
        let programs = self.programs.clone();
        let delete = move || {
            let answer = Netlink::open().and_then(|mut s| s.execute(vec![message::delete_link(ifindex)]));
            // Nobody listens any more if the interface was seen to be gone.
            let _ = sender.send(answer.map(|answers| answers.into_iter().next()));
            // Pins of an interface that is gone hold nothing but memory; a reconciliation would find them as well.
            if let Some(Err(error)) = programs.map(|programs| programs.detach(ifindex)) {
                tracing::debug!(ifindex, %error, "pins of a deleted interface are left to the next reconciliation");
            }
        };
        let lookup = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)
            .map_err(|cause| KernelError::io(operation(), cause.into()))?;
        let in_background = {
            let mut deletions = lock(&self.deletions);
            deletions.len() < DELETIONS_MAX && deletions.insert(ifindex)
        };
        if in_background {
            let deletions = Arc::clone(&self.deletions);
            let counted = move || {
                delete();
                lock(&deletions).remove(&ifindex);
            };
            let started = thread::Builder::new().name("delete-link".into()).spawn(counted);
            if let Err(cause) = started {
                lock(&self.deletions).remove(&ifindex);
                return Err(KernelError::io(operation(), cause));
            }
        } else {
            delete();
        }
        let deadline = Instant::now() + DELETION_LIMIT;
        while Instant::now() < deadline {
            match receiver.recv_timeout(DELETION_POLL) {
                Ok(Ok(Some(Ok(_)))) => return Ok(()),
                Ok(Ok(Some(Err(error)))) if is_missing(&error.cause) => return Ok(()),
                Ok(Ok(Some(Err(error)))) => return Err(netlink_error(operation(), error)),
                Ok(Ok(None)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(KernelError::other(operation(), "no answer"));
                }
                Ok(Err(cause)) => return Err(KernelError::io(operation(), cause)),
                Err(RecvTimeoutError::Timeout) => {
                    if name_to_index(&lookup, ifname) != Ok(ifindex) {
                        return Ok(());
                    }
                }
            }
        }
        Err(KernelError::io(operation(), io::Error::from(io::ErrorKind::TimedOut)))
    }
}
