//! Facts of the allocation protocol, as written. What they mean is said at [`ipam::protocol::Fact`].

use std::net::IpAddr;

use ipam::protocol::{Fact, NodeId, ObjectRevision};
use model::{BootTime, Cidr};
use serde::{Deserialize, Serialize};

/// A durable fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FactRecord {
    /// A claim may be under way.
    Claiming {
        /// The block.
        block: String,
        /// Its pool.
        pool: String,
        /// Uid of that pool.
        pool_uid: String,
        /// What tells this claim from any other.
        nonce: String,
    },
    /// The block is ours.
    Owned {
        /// The block.
        block: String,
    },
    /// A write that ends our ownership may be under way.
    Releasing {
        /// The block.
        block: String,
        /// The revision it expects.
        base: u64,
    },
    /// That write is void.
    Resumed {
        /// The block.
        block: String,
    },
    /// The block is not ours.
    Dropped {
        /// The block.
        block: String,
    },
    /// The block was taken from us.
    Lost {
        /// The block.
        block: String,
    },
    /// An address of the block is, or may be, another node's.
    Lent {
        /// The block.
        block: String,
        /// The borrower's nonce.
        loan: String,
        /// The address.
        address: IpAddr,
        /// The borrower.
        node: String,
        /// Uid of its Node object.
        node_uid: String,
    },
    /// It is ours again.
    LoanEnded {
        /// The block.
        block: String,
        /// The borrower's nonce.
        loan: String,
        /// When, in milliseconds of `CLOCK_BOOTTIME`.
        at_ms: u64,
        /// Until when the address cools, in milliseconds of `CLOCK_BOOTTIME`.
        cooling_until_ms: u64,
    },
    /// A request for a loan may be under way.
    Asking {
        /// The block.
        block: String,
        /// Its pool.
        pool: String,
        /// Our nonce.
        loan: String,
        /// Exactly this address; left out: any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
    },
    /// It was granted.
    Borrowed {
        /// Our nonce.
        loan: String,
        /// The address.
        address: IpAddr,
    },
    /// It is being given back or withdrawn.
    Returning {
        /// Our nonce.
        loan: String,
    },
    /// It is over.
    BorrowEnded {
        /// Our nonce.
        loan: String,
    },
    /// It was taken from us.
    BorrowLost {
        /// Our nonce.
        loan: String,
    },
}

/// What is written of a fact; nothing of one that need not last.
pub(crate) fn record_of(fact: &Fact) -> Option<FactRecord> {
    let text = |block: &Cidr| block.to_string();
    Some(match fact {
        Fact::Claiming { block, pool, pool_uid, nonce } => FactRecord::Claiming {
            block: text(block),
            pool: pool.to_string(),
            pool_uid: pool_uid.clone(),
            nonce: nonce.to_string(),
        },
        Fact::Owned { block } => FactRecord::Owned { block: text(block) },
        Fact::Releasing { block, base } => FactRecord::Releasing { block: text(block), base: base.0 },
        Fact::Resumed { block } => FactRecord::Resumed { block: text(block) },
        Fact::Dropped { block } => FactRecord::Dropped { block: text(block) },
        Fact::Lost { block } => FactRecord::Lost { block: text(block) },
        Fact::Lent { block, loan, address, borrower } => FactRecord::Lent {
            block: text(block),
            loan: loan.to_string(),
            address: *address,
            node: borrower.name.to_string(),
            node_uid: borrower.uid.clone(),
        },
        Fact::LoanEnded { block, loan, at, cooling_until } => FactRecord::LoanEnded {
            block: text(block),
            loan: loan.to_string(),
            at_ms: at.as_millis(),
            cooling_until_ms: cooling_until.as_millis(),
        },
        Fact::Asking { block, pool, loan, address } => FactRecord::Asking {
            block: text(block),
            pool: pool.to_string(),
            loan: loan.to_string(),
            address: *address,
        },
        Fact::Borrowed { loan, address } => {
            FactRecord::Borrowed { loan: loan.to_string(), address: *address }
        }
        Fact::Returning { loan } => FactRecord::Returning { loan: loan.to_string() },
        Fact::BorrowEnded { loan } => FactRecord::BorrowEnded { loan: loan.to_string() },
        Fact::BorrowLost { loan } => FactRecord::BorrowLost { loan: loan.to_string() },
        Fact::Confirmed { .. } | Fact::Avoid { .. } | Fact::Wanted { .. } | Fact::GaveUp { .. } => {
            return None;
        }
    })
}

/// The fact that was written.
///
/// # Errors
/// What does not read.
pub(crate) fn fact_of(record: &FactRecord) -> Result<Fact, String> {
    fn read<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
        text.parse().map_err(|error: T::Err| format!("{text:?}: {error}"))
    }
    Ok(match record {
        FactRecord::Claiming { block, pool, pool_uid, nonce } => Fact::Claiming {
            block: read(block)?,
            pool: read(pool)?,
            pool_uid: pool_uid.clone(),
            nonce: read(nonce)?,
        },
        FactRecord::Owned { block } => Fact::Owned { block: read(block)? },
        FactRecord::Releasing { block, base } => {
            Fact::Releasing { block: read(block)?, base: ObjectRevision(*base) }
        }
        FactRecord::Resumed { block } => Fact::Resumed { block: read(block)? },
        FactRecord::Dropped { block } => Fact::Dropped { block: read(block)? },
        FactRecord::Lost { block } => Fact::Lost { block: read(block)? },
        FactRecord::Lent { block, loan, address, node, node_uid } => Fact::Lent {
            block: read(block)?,
            loan: read(loan)?,
            address: *address,
            borrower: NodeId { name: read(node)?, uid: node_uid.clone() },
        },
        FactRecord::LoanEnded { block, loan, at_ms, cooling_until_ms } => Fact::LoanEnded {
            block: read(block)?,
            loan: read(loan)?,
            at: BootTime::from_millis(*at_ms),
            cooling_until: BootTime::from_millis(*cooling_until_ms),
        },
        FactRecord::Asking { block, pool, loan, address } => {
            Fact::Asking { block: read(block)?, pool: read(pool)?, loan: read(loan)?, address: *address }
        }
        FactRecord::Borrowed { loan, address } => Fact::Borrowed { loan: read(loan)?, address: *address },
        FactRecord::Returning { loan } => Fact::Returning { loan: read(loan)? },
        FactRecord::BorrowEnded { loan } => Fact::BorrowEnded { loan: read(loan)? },
        FactRecord::BorrowLost { loan } => Fact::BorrowLost { loan: read(loan)? },
    })
}

#[cfg(test)]
mod tests {
    use ipam::protocol::Nonce;
    use model::Handle;

    use super::*;

    #[test]
    fn every_durable_fact_comes_back_from_its_record_and_no_other_is_written() {
        let block: Cidr = "10.0.0.64/26".parse().unwrap();
        let address: IpAddr = "10.0.0.65".parse().unwrap();
        let loan = Nonce(7);
        let pool = || "p".parse().unwrap();
        let borrower = NodeId { name: "b".parse().unwrap(), uid: "u".to_owned() };
        let (at, until) = (BootTime::from_millis(5), BootTime::from_millis(9));
        let facts = [
            Fact::Claiming { block, pool: pool(), pool_uid: "u".to_owned(), nonce: Nonce(1 << 127) },
            Fact::Owned { block },
            Fact::Releasing { block, base: ObjectRevision(3) },
            Fact::Resumed { block },
            Fact::Dropped { block },
            Fact::Lost { block },
            Fact::Lent { block, loan, address, borrower },
            Fact::LoanEnded { block, loan, at, cooling_until: until },
            Fact::Asking { block, pool: pool(), loan, address: None },
            Fact::Asking { block, pool: pool(), loan, address: Some(address) },
            Fact::Borrowed { loan, address },
            Fact::Returning { loan },
            Fact::BorrowEnded { loan },
            Fact::BorrowLost { loan },
            Fact::Confirmed { block },
            Fact::Avoid { block, until },
            Fact::Wanted { loan, handle: Handle::new("c", "eth0").unwrap() },
            Fact::GaveUp { handle: Handle::new("c", "eth0").unwrap() },
        ];
        for fact in facts {
            let record = record_of(&fact);
            assert_eq!(record.is_some(), fact.is_durable(), "{fact:?}");
            let Some(record) = record else { continue };
            let json = serde_json::to_string(&record).unwrap();
            let read: FactRecord = serde_json::from_str(&json).unwrap();
            assert_eq!(fact_of(&read).as_ref(), Ok(&fact), "{json}");
        }
    }

    #[test]
    fn a_record_that_no_fact_made_says_what_does_not_read() {
        let error = fact_of(&FactRecord::Owned { block: "10.0.0.65/26".to_owned() }).unwrap_err();
        assert!(error.starts_with("\"10.0.0.65/26\": "), "{error}");
    }
}
