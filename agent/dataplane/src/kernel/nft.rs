//! Our nftables table: what it says as typed JSON, written in one transaction and read back.
//!
//! ```text
//! table inet poolward {
//!     set no_nat_v4 { type ipv4_addr; flags interval; elements = { … } }
//!     set no_nat_v6 { type ipv6_addr; flags interval; elements = { … } }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat;
//!         meta mark & NAT == NAT ip daddr != @no_nat_v4 masquerade
//!         meta mark & NAT == NAT ip6 daddr != @no_nat_v6 masquerade
//!     }
//!     set encapsulated_v4 { type ipv4_addr; flags interval; elements = { … } }      # these only where this node
//!     chain node_sources {                                                          # has an address of its own
//!         type nat hook postrouting priority srcnat - 1;
//!         ip daddr @encapsulated_v4 ip saddr != INNER oifname != "pw*" fib saddr type local snat ip to INNER
//!         ip daddr @encapsulated_v4 ip saddr != INNER oifname != "pw*" meta mark & 0x4000 == 0x4000 snat ip to INNER
//!     }
//! }
//! ```
//! The second chain comes just before kube-proxy's, which would give the uplink's address to what it has marked, and so
//! lets replies come back by no tunnel. One rule for each family, whatever the number of pools and pods. Postrouting comes after DNAT, so that a Service
//! whose backend is a pod is not masqueraded.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use model::{Cidr, Family};
use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload,
    PayloadField, Prefix,
};
use nftables::helper::{self, NftablesError};
use nftables::schema::{
    Chain, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use nftables::stmt::{Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::KernelError;
use crate::object::{InnerSource, NatState, NatTable};

const CHAIN: &str = "postrouting";

/// `srcnat`, as `nft` calls it.
const PRIORITY: i32 = 100;

/// What this node's own packets go through.
const NODE_CHAIN: &str = "node_sources";

/// Just before everybody's source NAT: the first that decides about a connection has decided.
const NODE_PRIORITY: i32 = PRIORITY - 1;

/// Ranges of encapsulated pools.
const INNER_SET: &str = "encapsulated_v4";

/// What kube-proxy marks packets with that it will masquerade (`--iptables-masquerade-bit`, 14).
const KUBE_PROXY_MARK: u32 = 0x4000;

/// Interfaces of pods on this node (`Handle::host_ifname`): what goes to them is not encapsulated.
const POD_INTERFACES: &str = "pw*";

/// Writes the table anew: `flush` would keep chains and sets of an older shape.
pub(super) fn replace(name: &str, table: &NatTable) -> Result<(), KernelError> {
    let mut batch = Batch::new();
    let this = || NfListObject::Table(table_object(name));
    // Deleting fails where there is none, so it is added first.
    batch.add(this());
    batch.delete(this());
    batch.add(this());
    for object in contents(name, table) {
        batch.add(object);
    }
    helper::apply_ruleset(&batch.to_nftables())
        .map_err(|error| explain(format!("write nftables table {name}"), error))
}

/// Deletes the table; none there is not an error.
pub(super) fn remove(name: &str) -> Result<(), KernelError> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table_object(name)));
    batch.delete(NfListObject::Table(table_object(name)));
    helper::apply_ruleset(&batch.to_nftables())
        .map_err(|error| explain(format!("delete nftables table {name}"), error))
}

/// Reads the table back.
pub(super) fn fetch(name: &str) -> Result<NatState, KernelError> {
    let operation = || format!("read nftables table {name}");
    match helper::get_current_ruleset_raw(helper::DEFAULT_NFT, ["list", "table", "inet", name]) {
        Ok(text) => Ok(compare(name, &text)),
        Err(NftablesError::NftFailed { stderr, .. }) if stderr.contains("No such file or directory") => {
            Ok(NatState::Absent)
        }
        Err(error) => Err(explain(operation(), error)),
    }
}

fn explain(operation: String, error: NftablesError) -> KernelError {
    match error {
        NftablesError::NftExecution { inner, .. } if inner.kind() == io::ErrorKind::NotFound => {
            KernelError::io(operation, inner)
                .with_text("the command nft is missing: install the package nftables")
        }
        NftablesError::NftFailed { ref stderr, .. } => {
            let text = stderr.trim().to_owned();
            KernelError::other(operation, error).with_text(text)
        }
        other => KernelError::other(operation, other),
    }
}

/// Whether what `nft -j list table` prints is what [`contents`] writes, for some bit and some ranges.
fn compare(name: &str, json: &str) -> NatState {
    let listed: Nftables<'_> = match serde_json::from_str(json) {
        Ok(listed) => listed,
        Err(error) => return NatState::Tampered(format!("what nft prints of it cannot be read: {error}")),
    };
    let (mut ranges, mut inner_ranges) = (Vec::new(), Vec::new());
    let (mut nat_bit, mut inner_address) = (None, None);
    let mut found = Vec::new();
    for object in listed.objects.iter() {
        match object {
            NfObject::ListObject(NfListObject::MetainfoObject(_) | NfListObject::Table(_)) => {}
            NfObject::ListObject(object) => {
                match object {
                    NfListObject::Set(set) => {
                        let ranges = if set.name == INNER_SET { &mut inner_ranges } else { &mut ranges };
                        ranges.extend(set.elem.iter().flat_map(|e| e.iter()).filter_map(range));
                    }
                    NfListObject::Rule(rule) if rule.chain == NODE_CHAIN => {
                        inner_address = inner_address.or_else(|| rule.expr.last().and_then(snat_address));
                    }
                    NfListObject::Rule(rule) => {
                        nat_bit = nat_bit.or_else(|| rule.expr.first().and_then(matched_bit));
                    }
                    _ => {}
                }
                found.push(normal(object.clone()));
            }
            NfObject::CmdObject(_) => return NatState::Tampered("it holds a command".into()),
        }
    }
    let ranges_of = crate::plan::aggregate;
    let inner =
        inner_address.map(|address| InnerSource { address, ranges: ranges_of(inner_ranges.as_slice()) });
    let table = NatTable { nat_bit: nat_bit.unwrap_or(0), no_nat: ranges_of(&ranges), inner };
    let expected: Vec<NfListObject<'_>> = contents(name, &table).into_iter().map(normal).collect();
    // The kernel lists sets before chains and rules, as we write them, but sets in the order of their names.
    let missing = expected.iter().find(|object| !found.contains(object));
    let extra = found.iter().find(|object| !expected.contains(object));
    match (missing, extra) {
        (None, None) if found.len() == expected.len() => NatState::Intact(table),
        (_, Some(extra)) => NatState::Tampered(format!("not ours: {}", text(extra))),
        (Some(missing), None) => NatState::Tampered(format!("missing: {}", text(missing))),
        (None, None) => NatState::Tampered("something stands in it twice".into()),
    }
}

fn text(object: &NfListObject<'_>) -> String {
    serde_json::to_string(object).unwrap_or_else(|error| error.to_string())
}

/// Without what the kernel adds (handles), and with the elements of sets in a form that does not depend on how
/// they are written.
fn normal(object: NfListObject<'_>) -> NfListObject<'_> {
    match object {
        NfListObject::Chain(chain) => NfListObject::Chain(Chain { handle: None, ..chain }),
        NfListObject::Rule(rule) => NfListObject::Rule(Rule { handle: None, ..rule }),
        NfListObject::Set(mut set) => {
            set.handle = None;
            let readable = set.elem.iter().flat_map(|elements| elements.iter()).all(|e| range(e).is_some());
            if readable {
                let ranges: Vec<Cidr> =
                    set.elem.iter().flat_map(|elements| elements.iter()).filter_map(range).collect();
                let elements = crate::plan::aggregate(&ranges).into_iter().map(element).collect::<Vec<_>>();
                set.elem = (!elements.is_empty()).then(|| elements.into());
            }
            NfListObject::Set(set)
        }
        other => other,
    }
}

/// The table's sets, chain and rules, in an order in which they can be added.
fn contents(name: &str, table: &NatTable) -> Vec<NfListObject<'static>> {
    let families = [(Family::V4, "no_nat_v4"), (Family::V6, "no_nat_v6")];
    let mut objects = Vec::with_capacity(5);
    for (family, set_name) in families {
        let ranges: Vec<Cidr> = table.no_nat.iter().filter(|cidr| cidr.family() == family).copied().collect();
        objects.push(set(name, set_name, family, &ranges));
    }
    objects.push(chain(name, CHAIN, PRIORITY));
    for (family, set_name) in families {
        let protocol = if family == Family::V4 { "ip" } else { "ip6" };
        let expr = vec![
            match_bit(table.nat_bit),
            matches(field(protocol, "daddr"), Operator::NEQ, format!("@{set_name}")),
            Statement::Masquerade(None),
        ];
        objects.push(rule(name, CHAIN, expr));
    }
    if let Some(inner) = &table.inner {
        objects.push(set(name, INNER_SET, Family::V4, &inner.ranges));
        objects.push(chain(name, NODE_CHAIN, NODE_PRIORITY));
        let is_local = Expression::Named(NamedExpression::Fib(Fib {
            result: FibResult::Type,
            flags: HashSet::from([FibFlag::Saddr]),
        }));
        for whose in [matches(is_local, Operator::EQ, "local".into()), match_bit(KUBE_PROXY_MARK)] {
            let expr = vec![
                matches(field("ip", "daddr"), Operator::EQ, format!("@{INNER_SET}")),
                matches(field("ip", "saddr"), Operator::NEQ, inner.address.to_string()),
                matches(meta(MetaKey::Oifname), Operator::NEQ, POD_INTERFACES.into()),
                whose,
                Statement::SNAT(Some(NAT {
                    addr: Some(Expression::String(inner.address.to_string().into())),
                    family: Some(NATFamily::IP),
                    port: None,
                    flags: None,
                })),
            ];
            objects.push(rule(name, NODE_CHAIN, expr));
        }
    }
    objects
}

fn set(table: &str, name: &'static str, family: Family, ranges: &[Cidr]) -> NfListObject<'static> {
    let elements: Vec<_> = ranges.iter().map(|cidr| element(*cidr)).collect();
    let set_type = match family {
        Family::V4 => SetType::Ipv4Addr,
        Family::V6 => SetType::Ipv6Addr,
    };
    NfListObject::Set(Box::new(Set {
        family: NfFamily::INet,
        table: table.to_owned().into(),
        name: name.into(),
        set_type: SetTypeValue::Single(set_type),
        flags: Some(HashSet::from([SetFlag::Interval])),
        elem: (!elements.is_empty()).then(|| elements.into()),
        ..Set::default()
    }))
}

fn chain(table: &str, name: &'static str, priority: i32) -> NfListObject<'static> {
    NfListObject::Chain(Chain {
        family: NfFamily::INet,
        table: table.to_owned().into(),
        name: name.into(),
        _type: Some(NfChainType::NAT),
        hook: Some(NfHook::Postrouting),
        prio: Some(priority),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    })
}

fn rule(table: &str, chain: &'static str, expr: Vec<Statement<'static>>) -> NfListObject<'static> {
    NfListObject::Rule(Rule {
        family: NfFamily::INet,
        table: table.to_owned().into(),
        chain: chain.into(),
        expr: expr.into(),
        ..Rule::default()
    })
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn matches(left: Expression<'static>, op: Operator, right: String) -> Statement<'static> {
    Statement::Match(Match { left, right: Expression::String(right.into()), op })
}

fn snat_address(statement: &Statement<'_>) -> Option<Ipv4Addr> {
    match statement {
        Statement::SNAT(Some(NAT { addr: Some(Expression::String(text)), .. })) => text.parse().ok(),
        _ => None,
    }
}

fn table_object(name: &str) -> Table<'static> {
    Table { family: NfFamily::INet, name: name.to_owned().into(), handle: None }
}

fn match_bit(bit: u32) -> Statement<'static> {
    let mark = meta(MetaKey::Mark);
    Statement::Match(Match {
        left: Expression::BinaryOperation(Box::new(BinaryOperation::AND(mark, Expression::Number(bit)))),
        right: Expression::Number(bit),
        op: Operator::EQ,
    })
}

fn matched_bit(statement: &Statement<'_>) -> Option<u32> {
    match statement {
        Statement::Match(Match { right: Expression::Number(bit), .. }) => Some(*bit),
        _ => None,
    }
}

fn element(cidr: Cidr) -> Expression<'static> {
    let address = Expression::String(cidr.network().to_string().into());
    if cidr.prefix_len() == cidr.family().address_bits() {
        return address;
    }
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(address),
        len: cidr.prefix_len().into(),
    }))
}

fn range(element: &Expression<'_>) -> Option<Cidr> {
    match element {
        Expression::String(text) => text.parse::<IpAddr>().ok().map(Cidr::host),
        Expression::Named(NamedExpression::Prefix(prefix)) => match prefix.addr.as_ref() {
            Expression::String(text) => Cidr::containing(text.parse().ok()?, u8::try_from(prefix.len).ok()?),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by nft 1.0.6 for what [`contents`] writes.
    fn listed(elements_v4: &str, rule_v4: &str, more: &str) -> String {
        let rule = |handle: u32, field: &str, set: &str| {
            format!(
                r#"{{"rule": {{"family": "inet", "table": "poolward", "chain": "postrouting", "handle": {handle},
                "expr": [{{"match": {{"op": "==", "left": {{"&": [{{"meta": {{"key": "mark"}}}}, 134217728]}},
                "right": 134217728}}}}, {{"match": {{"op": "!=", "left": {{"payload": {{"protocol": "{field}",
                "field": "daddr"}}}}, "right": "@{set}"}}}}, {{"masquerade": null}}]}}}}"#
            )
        };
        let v4 = if rule_v4.is_empty() { rule(4, "ip", "no_nat_v4") } else { rule_v4.to_owned() };
        format!(
            r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6", "release_name": "x", "json_schema_version": 1}}}},
            {{"table": {{"family": "inet", "name": "poolward", "handle": 1}}}},
            {{"set": {{"family": "inet", "name": "no_nat_v4", "table": "poolward", "type": "ipv4_addr", "handle": 2,
            "flags": ["interval"] {elements_v4}}}}},
            {{"set": {{"family": "inet", "name": "no_nat_v6", "table": "poolward", "type": "ipv6_addr", "handle": 3,
            "flags": ["interval"]}}}},
            {{"chain": {{"family": "inet", "table": "poolward", "name": "postrouting", "handle": 1, "type": "nat",
            "hook": "postrouting", "prio": 100, "policy": "accept"}}}}, {v4}, {} {more}]}}"#,
            rule(5, "ip6", "no_nat_v6")
        )
    }

    #[test]
    fn what_nft_prints_is_compared_by_meaning() {
        let check = |json: &str, expected: Option<&[&str]>| match (compare("poolward", json), expected) {
            (NatState::Intact(table), Some(ranges)) => {
                assert_eq!(table.nat_bit, 0x0800_0000);
                let wanted: Vec<Cidr> = ranges.iter().map(|text| text.parse().unwrap()).collect();
                assert_eq!(table.no_nat, wanted);
            }
            (NatState::Tampered(_), None) => {}
            (found, expected) => panic!("{expected:?}: {found:?} of {json}"),
        };
        let elements = |list: &str| format!(r#", "elem": [{list}]"#);
        let prefix = |addr: &str, len: u8| format!(r#"{{"prefix": {{"addr": "{addr}", "len": {len}}}}}"#);
        check(&listed("", "", ""), Some(&[]));
        check(&listed(&elements(&prefix("10.0.0.0", 26)), "", ""), Some(&["10.0.0.0/26"]));
        check(&listed(&elements(r#""10.9.9.9""#), "", ""), Some(&["10.9.9.9/32"]));
        // Neighbours may be printed as one or as two.
        let two = format!("{}, {}", prefix("10.0.0.0", 26), prefix("10.0.0.64", 26));
        check(&listed(&elements(&two), "", ""), Some(&["10.0.0.0/25"]));
        check(&listed(&elements(r#"{"range": ["10.0.0.1", "10.0.0.2"]}"#), "", ""), None);
        let extra = r#", {"rule": {"family": "inet", "table": "poolward", "chain": "postrouting", "handle": 9,
            "expr": [{"counter": {"packets": 0, "bytes": 0}}]}}"#;
        check(&listed("", "", extra), None);
        let other = listed("", "", "").replacen("134217728", "1", 1);
        check(&other, None);
        check(&listed("", "", "").replace("\"prio\": 100", "\"prio\": 99"), None);
        check(&listed("", "", "").replace("\"accept\"", "\"drop\""), None);
        check("{}", None);
    }

    #[test]
    fn what_is_written_is_what_is_read_back() {
        let check = |inner: Option<InnerSource>| {
            let table =
                NatTable { nat_bit: 0x0800_0000, no_nat: vec!["10.0.0.0/26".parse().unwrap()], inner };
            let objects =
                contents("poolward", &table).into_iter().map(NfObject::ListObject).collect::<Vec<_>>();
            let json = serde_json::to_string(&Nftables { objects: objects.into() }).unwrap();
            assert_eq!(compare("poolward", &json), NatState::Intact(table));
        };
        check(None);
        let ranges = vec!["10.0.0.0/8".parse().unwrap(), "172.16.0.0/12".parse().unwrap()];
        check(Some(InnerSource { address: [10, 1, 2, 3].into(), ranges }));
    }

    #[test]
    fn a_missing_nft_is_named_with_its_package() {
        let inner = io::Error::from(io::ErrorKind::NotFound);
        let error = explain(
            "write nftables table poolward".into(),
            NftablesError::NftExecution { program: "nft".into(), inner },
        );
        let text = error.to_string();
        assert!(text.starts_with("write nftables table poolward: "), "{text}");
        assert!(text.ends_with("the command nft is missing: install the package nftables"), "{text}");
    }
}
