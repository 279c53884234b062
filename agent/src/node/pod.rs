//! A pod as this node knows it: who, where, with which addresses, wired or not yet.

use std::net::IpAddr;

use model::{BootTime, Cidr, Extras, Handle, Identity, Mac, PoolName, Workload};

use crate::journal::{AddressRecord, AssignRecord, NetnsId, WiredRecord};

/// One attachment of a pod. Made when its addresses are assigned, gone when they are freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Who it is, and its addresses.
    pub identity: Identity,
    /// Where each address is from, in the order of [`Identity::addresses`].
    pub pools: Vec<PoolName>,
    /// Its network namespace; `None` where it was rebuilt from the kernel.
    pub netns: Option<NetnsId>,
    /// When its addresses were assigned.
    pub since: BootTime,
    /// Its interface is another plugin's: only the addresses are ours.
    pub foreign_interface: bool,
    /// Its interface, once it is wired and the runtime may have been told.
    pub wired: Option<Wired>,
}

/// What an ADD answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wired {
    /// Hardware address of the host's end.
    pub host_mac: String,
    /// Hardware address of the pod's end.
    pub pod_mac: String,
    /// MTU of both ends.
    pub mtu_bytes: u32,
    /// Number of its network namespace, by which the end of that is known; `None` where it is not.
    pub nsid: Option<u32>,
    /// When it was committed.
    pub at: BootTime,
}

/// A record of the journal that does not make sense.
#[derive(Debug, thiserror::Error)]
#[error("record of {what}: {reason}")]
pub struct RecordError {
    what: String,
    reason: String,
}

impl RecordError {
    /// Names what the record speaks of, and what is wrong.
    pub fn new(what: impl std::fmt::Display, reason: impl std::fmt::Display) -> Self {
        Self { what: what.to_string(), reason: reason.to_string() }
    }
}

impl Pod {
    /// Its holder.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.identity.handle
    }

    /// Addresses with their pools.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &PoolName)> {
        self.identity.addresses().zip(&self.pools)
    }

    /// Takes an address away; `false` if it has none of this kind.
    pub fn remove_address(&mut self, address: IpAddr) -> bool {
        let Some(at) = self.identity.addresses().position(|own| own == address) else { return false };
        self.pools.remove(at);
        match address {
            IpAddr::V4(_) => self.identity.ipv4 = None,
            IpAddr::V6(_) => self.identity.ipv6 = None,
        }
        true
    }

    /// As the journal keeps the assignment.
    #[must_use]
    pub fn to_assign_record(&self) -> AssignRecord {
        let Workload { namespace, pod, uid } = self.identity.workload.clone();
        AssignRecord {
            handle: self.handle().into(),
            network: self.identity.network.clone(),
            netns: self.netns,
            namespace,
            pod,
            uid,
            mac: self.identity.extras.mac.map(|mac| mac.to_string()),
            sources: self.identity.extras.allowed_sources.iter().map(ToString::to_string).collect(),
            delegated: self.identity.extras.delegated,
            foreign_interface: self.foreign_interface,
            addresses: self
                .addresses()
                .map(|(address, pool)| AddressRecord { address, pool: pool.to_string() })
                .collect(),
            at_ms: self.since.as_millis(),
        }
    }

    /// As the journal keeps the wired interface.
    #[must_use]
    pub fn to_wired_record(&self) -> Option<WiredRecord> {
        self.wired.as_ref().map(|wired| WiredRecord {
            handle: self.handle().into(),
            host_mac: wired.host_mac.clone(),
            pod_mac: wired.pod_mac.clone(),
            mtu_bytes: wired.mtu_bytes,
            nsid: wired.nsid,
            at_ms: wired.at.as_millis(),
        })
    }

    /// From the journal's record of its assignment; not wired.
    ///
    /// # Errors
    /// A handle or pool that no checked request can have had, or two addresses of one family.
    pub fn from_record(record: &AssignRecord) -> Result<Self, RecordError> {
        let what = &record.handle.container_id;
        let handle = Handle::try_from(&record.handle).map_err(|error| RecordError::new(what, error))?;
        let (mut ipv4, mut ipv6) = (None, None);
        let mut of_family = [None, None];
        for AddressRecord { address, pool } in &record.addresses {
            let pool: PoolName = pool.parse().map_err(|error| RecordError::new(what, error))?;
            let taken = match address {
                IpAddr::V4(v4) => (ipv4.replace(*v4).is_some(), 0),
                IpAddr::V6(v6) => (ipv6.replace(*v6).is_some(), 1),
            };
            if taken.0 {
                return Err(RecordError::new(
                    what,
                    format_args!("a second address of one family, {address}"),
                ));
            }
            of_family[taken.1] = Some(pool);
        }
        let extras = extras_of(record).map_err(|reason| RecordError::new(what, reason))?;
        Ok(Self {
            identity: Identity {
                handle,
                ipv4,
                ipv6,
                network: record.network.clone(),
                workload: Workload {
                    namespace: record.namespace.clone(),
                    pod: record.pod.clone(),
                    uid: record.uid.clone(),
                },
                extras,
            },
            pools: of_family.into_iter().flatten().collect(),
            netns: record.netns,
            since: BootTime::from_millis(record.at_ms),
            foreign_interface: record.foreign_interface,
            wired: None,
        })
    }
}

fn extras_of(record: &AssignRecord) -> Result<Extras, String> {
    let mac = record.mac.as_deref().map(str::parse::<Mac>).transpose();
    let sources = record.sources.iter().map(|text| text.parse::<Cidr>()).collect::<Result<_, _>>();
    Ok(Extras {
        mac: mac.map_err(|error| error.to_string())?,
        delegated: record.delegated,
        allowed_sources: sources.map_err(|error| error.to_string())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_comes_back_from_its_record() {
        let pod = Pod {
            identity: Identity {
                handle: Handle::new("c1", "eth0").unwrap(),
                ipv4: Some([10, 0, 0, 1].into()),
                ipv6: Some("fd00::1".parse().unwrap()),
                network: "pods".into(),
                workload: Workload { namespace: "ns".into(), pod: "web".into(), uid: "u".into() },
                extras: Extras {
                    mac: Some("02:00:00:00:00:07".parse().unwrap()),
                    delegated: true,
                    allowed_sources: vec!["192.0.2.0/24".parse().unwrap()],
                },
            },
            pools: vec!["four".parse().unwrap(), "six".parse().unwrap()],
            netns: Some(NetnsId { dev: 4, ino: 5 }),
            since: BootTime::from_millis(7),
            foreign_interface: true,
            wired: None,
        };
        assert_eq!(Pod::from_record(&pod.to_assign_record()).unwrap(), pod);

        let mut shrunk = pod.clone();
        assert!(shrunk.remove_address([10, 0, 0, 1].into()));
        assert!(!shrunk.remove_address([10, 0, 0, 1].into()));
        let left: Vec<_> = shrunk.addresses().map(|(_, pool)| pool.as_str().to_owned()).collect();
        assert_eq!(left, ["six"]);
        assert_eq!(Pod::from_record(&shrunk.to_assign_record()).unwrap(), shrunk);
    }

    #[test]
    fn records_that_no_request_can_have_made_are_refused() {
        let record = |id: &str, addresses: &[&str]| AssignRecord {
            handle: crate::journal::HandleRecord { container_id: id.into(), ifname: "eth0".into() },
            network: String::new(),
            netns: None,
            namespace: String::new(),
            pod: String::new(),
            uid: String::new(),
            mac: None,
            sources: Vec::new(),
            delegated: false,
            foreign_interface: false,
            addresses: addresses
                .iter()
                .map(|a| AddressRecord { address: a.parse().unwrap(), pool: "p".into() })
                .collect(),
            at_ms: 0,
        };
        assert!(Pod::from_record(&record("c1", &["10.0.0.1"])).is_ok());
        assert!(Pod::from_record(&record("../c1", &["10.0.0.1"])).is_err());
        assert!(Pod::from_record(&record("c1", &["10.0.0.1", "10.0.0.2"])).is_err());
    }
}
