//! A block between its wire type and the pure one.

use std::net::Ipv6Addr;

use ipam::protocol::{BlockObject, Loan, LoanRefusal, LoanState, NodeId, Nonce};

use crate::key::Key;
use crate::resource::{IpBlock, IpBlockSpec, Loan as WireLoan, Metadata};

/// Annotation of a block of IPv6: the address by which its owner is reached, for the routes of others. Not of the protocol,
/// which knows nothing of addresses of nodes; what the owner's Node object says goes before it.
const NODE_IPV6: &str = "poolward.io/node-ipv6-address";

const REQUESTED: &str = "Requested";
const GRANTED: &str = "Granted";
const REFUSED: &str = "Refused";

/// The pure block of a stored one.
///
/// # Errors
/// What is wrong with it. Agents write it, so this means that somebody else did.
pub fn block_of(object: &IpBlock) -> Result<BlockObject, String> {
    let spec = &object.spec;
    let at = |field: &str, error: &dyn std::fmt::Display| format!("spec.{field}: {error}");
    let cidr = spec.cidr.parse().map_err(|error| at("cidr", &error))?;
    if Key::of_block(cidr).as_str() != object.metadata.name {
        return Err(format!("its name does not fit its range {cidr}: expected {}", Key::of_block(cidr)));
    }
    let loans = spec
        .loans
        .iter()
        .enumerate()
        .map(|(index, loan)| loan_of(loan).map_err(|error| format!("spec.loans[{index}]: {error}")));
    Ok(BlockObject {
        cidr,
        pool: spec.pool.parse().map_err(|error| at("pool", &error))?,
        pool_uid: spec.pool_uid.clone(),
        owner: NodeId {
            name: spec.node.parse().map_err(|error| at("node", &error))?,
            uid: spec.node_uid.clone(),
        },
        nonce: spec.nonce.parse().map_err(|error| at("nonce", &error))?,
        loans: loans.collect::<Result<_, _>>()?,
    })
}

/// What is stored of a block. Labels, annotations and the uid are those of `before`, the object it replaces.
#[must_use]
pub fn block_resource(block: &BlockObject, before: Option<&IpBlock>) -> IpBlock {
    let fresh = || Metadata::named(Key::of_block(block.cidr).as_str());
    IpBlock {
        metadata: before.map_or_else(fresh, |before| before.metadata.clone()),
        spec: IpBlockSpec {
            cidr: block.cidr.to_string(),
            pool: block.pool.to_string(),
            pool_uid: block.pool_uid.clone(),
            node: block.owner.name.to_string(),
            node_uid: block.owner.uid.clone(),
            nonce: block.nonce.to_string(),
            loans: block.loans.iter().map(wire_loan).collect(),
        },
    }
}

/// By which IPv6 address a block's owner says it is reached, if it does.
#[must_use]
pub fn told_ipv6(object: &IpBlock) -> Option<Ipv6Addr> {
    object.metadata.annotations.get(NODE_IPV6)?.parse().ok()
}

/// Has a block say by which IPv6 address its owner is reached.
pub fn tell_ipv6(object: &mut IpBlock, address: Ipv6Addr) {
    object.metadata.annotations.insert(NODE_IPV6.to_owned(), address.to_string());
}

fn loan_of(wire: &WireLoan) -> Result<Loan, String> {
    let address = || wire.address.parse().map_err(|_| format!("address: {:?} is no address", wire.address));
    let state = match wire.phase.as_str() {
        REQUESTED => LoanState::Requested {
            address: if wire.address.is_empty() { None } else { Some(address()?) },
            whole_block_welcome: wire.whole_block_welcome,
        },
        GRANTED => LoanState::Granted { address: address()? },
        REFUSED => LoanState::Refused { reason: reason_of(&wire.reason)? },
        other => return Err(format!("phase: {other:?} is none of {REQUESTED}, {GRANTED}, {REFUSED}")),
    };
    let name = wire.node.parse().map_err(|error| format!("node: {error}"))?;
    Ok(Loan {
        borrower: NodeId { name, uid: wire.node_uid.clone() },
        nonce: wire.nonce.parse::<Nonce>().map_err(|error| format!("nonce: {error}"))?,
        state,
    })
}

fn reason_of(word: &str) -> Result<LoanRefusal, String> {
    let known = LoanRefusal::ALL.into_iter().find(|reason| reason.word() == word);
    known.ok_or_else(|| format!("reason: {word:?} is not known"))
}

fn wire_loan(loan: &Loan) -> WireLoan {
    let mut wire = WireLoan {
        node: loan.borrower.name.to_string(),
        node_uid: loan.borrower.uid.clone(),
        nonce: loan.nonce.to_string(),
        ..WireLoan::default()
    };
    match loan.state {
        LoanState::Requested { address, whole_block_welcome } => {
            REQUESTED.clone_into(&mut wire.phase);
            wire.address = address.map(|address| address.to_string()).unwrap_or_default();
            wire.whole_block_welcome = whole_block_welcome;
        }
        LoanState::Granted { address } => {
            GRANTED.clone_into(&mut wire.phase);
            wire.address = address.to_string();
        }
        LoanState::Refused { reason } => {
            REFUSED.clone_into(&mut wire.phase);
            reason.word().clone_into(&mut wire.reason);
        }
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId { name: name.parse().unwrap(), uid: format!("uid-of-{name}") }
    }

    fn block() -> BlockObject {
        let address = || "10.0.0.65".parse().unwrap();
        let states = [
            LoanState::Requested { address: None, whole_block_welcome: true },
            LoanState::Requested { address: Some(address()), whole_block_welcome: false },
            LoanState::Granted { address: address() },
            LoanState::Refused { reason: LoanRefusal::Draining },
        ];
        let loans =
            (1..).zip(states).map(|(nonce, state)| Loan { borrower: node("b"), nonce: Nonce(nonce), state });
        BlockObject {
            cidr: "10.0.0.64/26".parse().unwrap(),
            pool: "p".parse().unwrap(),
            pool_uid: "u".to_owned(),
            owner: node("a"),
            nonce: Nonce(u128::MAX - 1),
            loans: loans.collect(),
        }
    }

    #[test]
    fn a_block_comes_back_as_it_was_stored() {
        let object = block_resource(&block(), None);
        assert_eq!(object.metadata.name, "10-0-0-64-26");
        let json = serde_json::to_string(&object).unwrap();
        let read: IpBlock = serde_json::from_str(&json).unwrap();
        assert_eq!(block_of(&read).unwrap(), block());
        let mut labelled = object;
        assert_eq!(told_ipv6(&labelled), None);
        tell_ipv6(&mut labelled, "fd00::1".parse().unwrap());
        assert_eq!(told_ipv6(&block_resource(&block(), Some(&labelled))), Some("fd00::1".parse().unwrap()));
        labelled.metadata.uid = "x".to_owned();
        assert_eq!(block_resource(&block(), Some(&labelled)).metadata.uid, "x");
    }

    #[test]
    fn a_block_that_cannot_be_names_its_field() {
        let check = |change: fn(&mut IpBlock), expected: &str| {
            let mut object = block_resource(&block(), None);
            change(&mut object);
            let error = block_of(&object).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        };
        check(|object| object.spec.cidr = "10.0.0.65/26".to_owned(), "spec.cidr: ");
        check(|object| object.spec.cidr = "10.0.0.0/26".to_owned(), "its name does not fit its range");
        check(|object| object.spec.node = "A".to_owned(), "spec.node: ");
        check(|object| object.spec.nonce = "x".to_owned(), "spec.nonce: ");
        check(|object| object.spec.loans[0].phase = "Lost".to_owned(), "spec.loans[0]: phase: \"Lost\"");
        check(|object| object.spec.loans[1].address = "x".to_owned(), "spec.loans[1]: address: ");
        check(|object| object.spec.loans[2].address.clear(), "spec.loans[2]: address: ");
        check(|object| object.spec.loans[3].reason.clear(), "spec.loans[3]: reason: ");
    }
}
